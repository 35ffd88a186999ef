"""Questions that are answered by another process, by number. It does not know what is asked."""

import asyncio
from collections.abc import Callable

from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.status import NodesQuery
from xds.serving.feed import Answer, Ask

ANSWER_S = 3.0
"""How long a worker may take to answer. The answers of the others are given without it then."""


class UnansweredError(StreamRefusedError):
    """A process did not answer in time."""

    def __init__(self) -> None:
        super().__init__(Status.UNAVAILABLE, "a process of this server did not answer in time")


class Questions:
    """What was asked and is not answered yet."""

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, asyncio.Future[bytes]] = {}

    async def ask(
        self,
        send: Callable[[Ask], None],
        message: bytes | None,
        within_s: float = ANSWER_S,
        *,
        nodes: NodesQuery | None = None,
    ) -> bytes:
        """Send a question and return its answer.

        Raises StreamRefusedError with the error that it was answered with, and UnansweredError.
        """
        self._last += 1
        number = self._last
        future = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            send(Ask(number, message, nodes))
            async with asyncio.timeout(within_s):
                answer: bytes = await future
                return answer
        except TimeoutError:
            raise UnansweredError from None
        finally:
            del self._open[number]

    def give_up(self) -> None:
        """Answer all that is open with nothing: whoever was asked is gone."""
        for future in self._open.values():
            if not future.done():
                future.set_result(b"")

    def take(self, answer: Answer) -> None:
        """Give an answer to whoever waits for it."""
        future = self._open.get(answer.number)
        if future is None or future.done():
            return
        if answer.refusal is None:
            future.set_result(answer.message)
        else:
            status, text = answer.refusal
            future.set_exception(StreamRefusedError(Status[status], text))
