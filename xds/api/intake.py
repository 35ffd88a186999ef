"""Bounds the bytes of request bodies in memory: a body beyond the limit waits for room, or is refused.

A body costs several times its size until its change is stored: as received, parsed, as resources, in the store. So its
room is held until its request is answered.
"""

import asyncio
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
    """The room that one body holds in an intake, until ``give_back``.

    Until the body has arrived, it counts for ``caller``.
    """

    def __init__(self, intake: "Intake", size_bytes: int, caller: str = "") -> None:
        self._intake = intake
        self._size_bytes = size_bytes
        self._caller = caller

    def arrived(self) -> None:
        """Note that the body has arrived, so that it no longer keeps its caller from sending others."""
        caller, self._caller = self._caller, ""
        self._intake.note_arrival(caller, self._size_bytes)

    def shrink(self, size_bytes: int) -> None:
        """Note that the body has arrived, and release the room beyond ``size_bytes``, which it did not need."""
        assert size_bytes <= self._size_bytes
        self.arrived()
        freed, self._size_bytes = self._size_bytes - size_bytes, size_bytes
        self._intake.free(freed)

    def give_back(self) -> None:
        """Release all of the room."""
        self.arrived()
        size_bytes, self._size_bytes = self._size_bytes, 0
        self._intake.done_with(size_bytes)


class Intake:
    """Shares ``bytes_max`` between the bodies of all requests.

    Callers have their turns one after the other, each with its bodies in the order of their arrival. Bodies that have
    not arrived yet may take half of the room for each caller, or one body all of it: who sends slowly, or nothing at
    all, does not keep others out. ``on_empty`` is called in the event loop, soon after the last body was released, if
    one was large.
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
        self._arriving: dict[str, int] = {}
        """The bytes held for bodies that have not arrived, by caller."""
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}
        """Who waits for how much, by caller; the caller whose turn is next comes first."""
        self._was_large = False

    @asynccontextmanager
    async def room(self, size_bytes: int, caller: str = "") -> AsyncIterator[BodyRoom]:
        """Hold room for a body of at most ``size_bytes``. Raises BusyError if there is none in time."""
        room = await self.take(size_bytes, caller)
        try:
            yield room
        finally:
            room.give_back()

    async def take(self, size_bytes: int, caller: str = "") -> BodyRoom:
        """Return room for a body, which its user gives back. Raises BusyError if there is none in time.

        ``caller`` is who sends a body that has not arrived; "" if it has.
        """
        assert size_bytes <= self._bytes_max
        if (
            not self._waiting
            and self._may_take(size_bytes, caller)
            and self._held_bytes + size_bytes <= self._bytes_max
        ):
            self._hold(size_bytes, caller)
        else:
            await self._turn(size_bytes, caller)
        return BodyRoom(self, size_bytes, caller)

    def _may_take(self, size_bytes: int, caller: str) -> bool:
        """Say whether a caller may send one more body now, if there is room."""
        arriving = self._arriving.get(caller, 0)
        return not arriving or 2 * (arriving + size_bytes) <= self._bytes_max

    def _hold(self, size_bytes: int, caller: str) -> None:
        self._held_bytes += size_bytes
        if caller:
            self._arriving[caller] = self._arriving.get(caller, 0) + size_bytes

    async def _turn(self, size_bytes: int, caller: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, {})[turn] = size_bytes
        self._share_out()
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except TimeoutError:
            self._give_up(turn, size_bytes, caller)
            self.hits.add("intake")
            what = f"requests of {self._bytes_max:,} bytes are being taken in, as many as may be at once"
            raise BusyError(f"{what} (api.intake_bytes_max); nothing was changed, try again") from None
        except asyncio.CancelledError:
            self._give_up(turn, size_bytes, caller)
            raise

    def _give_up(self, turn: "asyncio.Future[None]", size_bytes: int, caller: str) -> None:
        if turn.done() and not turn.cancelled():
            self.note_arrival(caller, size_bytes)
            self.free(size_bytes)
            return
        self._leave(turn, caller)
        self._share_out()

    def _leave(self, turn: "asyncio.Future[None]", caller: str) -> None:
        turns = self._waiting.get(caller, {})
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(caller, None)

    def done_with(self, size_bytes: int) -> None:
        """Release the room of a body that held ``size_bytes``."""
        self._was_large |= size_bytes > LARGE_BYTES
        self.free(size_bytes)
        if self._held_bytes == 0 and self._was_large:
            self._was_large = False
            asyncio.get_running_loop().call_soon(self._on_empty)

    def note_arrival(self, caller: str, size_bytes: int) -> None:
        """Note that a body of a caller has arrived, so that its next one may come."""
        if not caller:
            return
        if (left := self._arriving.pop(caller, 0) - size_bytes) > 0:
            self._arriving[caller] = left
        self._share_out()

    def free(self, size_bytes: int) -> None:
        """Release room, and grant it to waiting bodies."""
        self._held_bytes -= size_bytes
        self._share_out()

    def _share_out(self) -> None:
        """Grant the room that is free. Who is next and finds too little keeps the others waiting."""
        was_granted = True
        while was_granted:
            was_granted = False
            for caller in list(self._waiting):
                turns = self._waiting[caller]
                turn, size_bytes = next(iter(turns.items()))
                if turn.done():
                    self._leave(turn, caller)
                    was_granted = True
                    continue
                if not self._may_take(size_bytes, caller):
                    continue
                if self._held_bytes + size_bytes > self._bytes_max:
                    return
                self._leave(turn, caller)
                if turns:
                    self._waiting[caller] = self._waiting.pop(caller)
                self._hold(size_bytes, caller)
                turn.set_result(None)
                was_granted = True
