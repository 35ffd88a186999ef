"""Requests to another process, matched with their answers by number."""

import asyncio
from collections.abc import Callable

from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.holders import HoldersQuery
from xds.protocol.inspection import InspectQuery
from xds.protocol.status import NodesQuery
from xds.serving.feed import Answer, Ask, DebtsQuery, Move

ANSWER_S = 3.0
"""How long to wait for a worker's answer. After that, the answers of the other workers are returned without it."""


class UnansweredError(StreamRefusedError):
    """A process did not answer in time."""

    def __init__(self) -> None:
        super().__init__(Status.UNAVAILABLE, "a process of this server did not answer in time")


class Questions:
    """The requests to one process that are not answered yet."""

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, asyncio.Future[bytes]] = {}

    async def ask(
        self,
        send: Callable[[Ask], None],
        what: bytes | NodesQuery | InspectQuery | HoldersQuery | Move | DebtsQuery | None,
        within_s: float = ANSWER_S,
    ) -> bytes:
        """Send a request and return its answer.

        Raises StreamRefusedError if the answer is an error, and UnansweredError after ``within_s``.
        """
        self._last += 1
        number = self._last
        future = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            send(Ask(number, what))
            async with asyncio.timeout(within_s):
                answer: bytes = await future
                return answer
        except TimeoutError:
            raise UnansweredError from None
        finally:
            del self._open[number]

    def give_up(self) -> None:
        """Answer all open requests with b"", as the process has ended."""
        for future in self._open.values():
            if not future.done():
                future.set_result(b"")

    def take(self, answer: Answer) -> None:
        """Pass an answer to the ``ask`` that waits for it; ignore it if none does."""
        future = self._open.get(answer.number)
        if future is None or future.done():
            return
        if answer.refusal is None:
            future.set_result(answer.message)
        else:
            status, text = answer.refusal
            future.set_exception(StreamRefusedError(Status[status], text))
