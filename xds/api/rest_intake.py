"""Limits HTTP request bodies: their size, their total in memory, and the time they take to arrive."""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xds.api.admission import Call
from xds.api.answers import BodyTooLargeError, error_answer
from xds.api.guard import CALL, TOLD
from xds.api.intake import BusyError, Intake, TooSlowError
from xds.api.json_answer import JsonAnswer

SMALL_BYTES = 64 * 1024
"""Bodies up to this size need no room: HTTP's own buffers take as much for every connection."""


class TakingIn:
    """Serves ``app``, passing each request on once there is room for its body."""

    def __init__(self, app: ASGIApp, intake: Intake, *, body_bytes_max: int, body_timeout_s: float) -> None:
        self.app = app
        self._intake = intake
        self._body_bytes_max = body_bytes_max
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        size_bytes = self._announced_bytes(Headers(scope=scope))
        if size_bytes <= SMALL_BYTES:
            await self.app(scope, self._timely(receive), send)
            return
        call: Call | None = scope.get(CALL)
        try:
            if size_bytes > self._body_bytes_max:
                self._intake.hits.add("body")
                raise BodyTooLargeError(f"the body has more than the {self._body_bytes_max:,} bytes allowed")
            room = await self._intake.take(size_bytes, "" if call is None else call.source)
        except (BodyTooLargeError, BusyError) as error:
            answer = error_answer(error)
            scope[TOLD].why = answer.message
            headers = {"connection": "close"} | ({"retry-after": "1"} if isinstance(error, BusyError) else {})
            await JsonAnswer(answer.body, answer.http, headers)(scope, receive, send)
            return
        try:
            await self.app(scope, self._timely(receive, room.arrived), send)
        finally:
            room.give_back()

    def _announced_bytes(self, headers: Headers) -> int:
        """Return the body's size by its headers, or the largest allowed if they do not state it."""
        if "transfer-encoding" in headers:
            return self._body_bytes_max
        return int(headers.get("content-length", 0))

    def _timely(self, receive: Receive, on_whole: Callable[[], None] = lambda: None) -> Receive:
        """Wrap ``receive`` with a deadline for the whole body. ``on_whole`` is called when it has arrived."""
        deadline = asyncio.get_running_loop().time() + self._body_timeout_s
        is_whole = False

        async def timely() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                self._intake.hits.add("body_timeout")
                what = f"the body took more than {self._body_timeout_s:g} s to arrive; nothing was changed"
                raise TooSlowError(what) from None
            if not message.get("more_body", False):
                is_whole = True
                on_whole()
            return message

        return timely
