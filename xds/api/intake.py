"""Bounds the bytes of request bodies in memory: a body beyond the limit waits for room, or is refused.

A body costs several times its size until its change is stored: as received, parsed, as resources, in the store. So its
room is held until its request is answered.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from xds.limits import LimitHits

WAIT_S = 30.0
"""The longest that a body waits for room."""
LARGE_BYTES = 1024 * 1024
"""After a body larger than this, ``on_empty`` is called, to return freed memory to the system."""


class BusyError(Exception):
    """Other requests' bodies hold all the room."""


class TooSlowError(Exception):
    """A body did not arrive in time."""


class BodyRoom:
    """The room that one body holds in an intake, until ``give_back``."""

    def __init__(self, intake: "Intake", size_bytes: int) -> None:
        self._intake = intake
        self._size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Release the room beyond ``size_bytes``, which the body turned out not to need."""
        assert size_bytes <= self._size_bytes
        freed, self._size_bytes = self._size_bytes - size_bytes, size_bytes
        self._intake.free(freed)

    def give_back(self) -> None:
        """Release all of the room."""
        size_bytes, self._size_bytes = self._size_bytes, 0
        self._intake.done_with(size_bytes)


class Intake:
    """Shares ``bytes_max`` between the bodies of all requests, in the order of their arrival.

    ``on_empty`` is called in the event loop, soon after the last body was released, if one was large.
    """

    def __init__(
        self,
        bytes_max: int,
        *,
        wait_s: float = WAIT_S,
        on_empty: Callable[[], None] = lambda: None,
        hits: LimitHits | None = None,
    ) -> None:
        self.hits = hits or LimitHits()
        """Counts the bodies that were refused for a limit."""
        self._bytes_max = bytes_max
        self._wait_s = wait_s
        self._on_empty = on_empty
        self._held_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._was_large = False

    @asynccontextmanager
    async def room(self, size_bytes: int) -> AsyncIterator[BodyRoom]:
        """Hold room for a body of at most ``size_bytes``. Raises BusyError if there is none in time."""
        room = await self.take(size_bytes)
        try:
            yield room
        finally:
            room.give_back()

    async def take(self, size_bytes: int) -> BodyRoom:
        """Return room for a body, which the caller gives back. Raises BusyError if there is none in time."""
        assert size_bytes <= self._bytes_max
        if not self._waiting and self._held_bytes + size_bytes <= self._bytes_max:
            self._held_bytes += size_bytes
        else:
            await self._turn(size_bytes)
        return BodyRoom(self, size_bytes)

    async def _turn(self, size_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except TimeoutError:
            self._give_up(size_bytes, turn)
            self.hits.add("intake")
            what = f"requests of {self._bytes_max:,} bytes are being taken in, as many as may be at once"
            raise BusyError(f"{what} (api.intake_bytes_max); nothing was changed, try again") from None
        except asyncio.CancelledError:
            self._give_up(size_bytes, turn)
            raise

    def _give_up(self, size_bytes: int, turn: "asyncio.Future[None]") -> None:
        if turn.done() and not turn.cancelled():
            self.free(size_bytes)
            return
        self._waiting = deque(each for each in self._waiting if each[1] is not turn)
        self.free(0)

    def done_with(self, size_bytes: int) -> None:
        """Release the room of a body that held ``size_bytes``."""
        self._was_large |= size_bytes > LARGE_BYTES
        self.free(size_bytes)
        if self._held_bytes == 0 and self._was_large:
            self._was_large = False
            asyncio.get_running_loop().call_soon(self._on_empty)

    def free(self, size_bytes: int) -> None:
        """Release room, and grant it to waiting bodies, the longest wait first."""
        self._held_bytes -= size_bytes
        while self._waiting:
            wanted, turn = self._waiting[0]
            if self._held_bytes + wanted > self._bytes_max:
                return
            self._waiting.popleft()
            if not turn.done():
                self._held_bytes += wanted
                turn.set_result(None)
