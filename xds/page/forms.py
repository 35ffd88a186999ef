"""Reads the forms that browsers post: how large they may be, how long they may take, and how many of unknown callers.

Everyone may post a sign-in, so sign-ins that do not arrive must not take the places of other requests.
"""

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from xds.page.visit import WrongRequestError

FORM_BYTES_MAX = 64 * 1024
"""The largest form that is read."""
TIMEOUT_S = 5.0
SIGN_INS_MAX = 16


class LateFormError(Exception):
    """A form did not arrive in time."""


class Forms:
    """The forms that are arriving: each has ``timeout_s``; at most ``sign_ins_max`` are of unknown callers.

    Beyond that, the oldest of these gives way: the form of a browser arrives at once. ``on_limit`` is called with the
    label of a limit that is reached.
    """

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        sign_ins_max: int = SIGN_INS_MAX,
        on_limit: Callable[[str], None] = lambda _limit: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._sign_ins_max = sign_ins_max
        self._on_limit = on_limit
        self._sign_ins: dict[asyncio.Timeout, None] = {}

    async def read(self, request: Request) -> dict[str, str]:
        """Return the fields of a form. Raises WrongRequestError and LateFormError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _form_of(request)
        except TimeoutError:
            self._on_limit("message_timeout")
            raise self._late() from None
        except ClientDisconnect:
            raise LateFormError("the client left before its form had arrived") from None

    async def read_sign_in(self, request: Request) -> dict[str, str]:
        """The same, of an unknown caller."""
        if len(self._sign_ins) >= self._sign_ins_max:
            oldest = next(iter(self._sign_ins))
            del self._sign_ins[oldest]
            self._on_limit("sign_ins")
            oldest.reschedule(asyncio.get_running_loop().time())
        gives_way = asyncio.timeout(None)
        try:
            async with gives_way:
                self._sign_ins[gives_way] = None
                return await self.read(request)
        except TimeoutError:
            raise self._late() from None
        finally:
            self._sign_ins.pop(gives_way, None)

    def _late(self) -> LateFormError:
        return LateFormError(f"the form did not arrive within {self._timeout_s:g} s; try again")


async def _form_of(request: Request) -> dict[str, str]:
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise WrongRequestError("this is not a form of the page")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > FORM_BYTES_MAX:
            raise WrongRequestError(f"the form has more than {FORM_BYTES_MAX:,} bytes")
        parts.append(part)
    try:
        return dict(parse_qsl(b"".join(parts).decode(), keep_blank_values=True, max_num_fields=100))
    except ValueError:
        raise WrongRequestError("the form can't be read") from None
