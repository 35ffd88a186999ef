"""The stream of events that keeps an open page up to date.

An event says that something the caller may see has changed; the page then reads itself again. So a page shows the same
live as when it is loaded, and the rights are checked in one place.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable

from xds.access.errors import UnauthenticatedError
from xds.api.admission import Admission, Call, until_lapsed
from xds.api.answers import EXPECTED
from xds.api.permitted import Permitted

STREAMS_MAX = 64
"""Pages that are live at once; others are read again every now and then."""
ASK_EVERY_S = 1.0
"""How often a stream looks whether anything has changed."""
BEAT_S = 5.0
"""After so long without a change, an event says that the server is there."""


class TooManyError(Exception):
    """As many pages are live as may be."""


class Live:
    """The streams of events of one server."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._open = 0

    def events(self, call: Call, operations: Permitted, lasts: Callable[[], bool]) -> AsyncIterator[str]:
        """Return the events for one page, which end soon after ``lasts`` returns false. Raises TooManyError."""
        if self._open >= STREAMS_MAX:
            raise TooManyError
        return self._events(call, operations, lasts)

    async def _events(self, call: Call, operations: Permitted, lasts: Callable[[], bool]) -> AsyncIterator[str]:
        if self._open >= STREAMS_MAX:
            yield "event: full\ndata: {}\n\n"
            return
        self._open += 1
        try:
            with self._admission.lapse_of(call) as lapse:
                async for stamp in until_lapsed(_stamps(operations, lasts), lapse):
                    yield f"event: {'beat' if stamp is None else 'stamp'}\ndata: {json.dumps(stamp)}\n\n"
        except EXPECTED as error:
            yield f"event: end\ndata: {json.dumps(type(error).__name__)}\n\n"
        finally:
            self._open -= 1


async def _stamps(operations: Permitted, lasts: Callable[[], bool]) -> AsyncIterator[str | None]:
    """Yield a digest of what the caller sees of the fleet, at once and whenever it changes; None as a beat.

    Raises UnauthenticatedError once ``lasts`` returns false.
    """
    last, since_s = "", 0.0
    while True:
        if not lasts():
            raise UnauthenticatedError("the sign-in has ended", reason="no credentials")
        stamp = await stamp_of(operations)
        if stamp != last:
            yield stamp
            last, since_s = stamp, 0.0
        elif since_s >= BEAT_S:
            yield None
            since_s = 0.0
        await asyncio.sleep(ASK_EVERY_S)
        since_s += ASK_EVERY_S


async def stamp_of(operations: Permitted) -> str:
    """Return a digest of what the caller sees of the fleet."""
    found = await operations.debts()
    groups = sorted((group, sorted(counts.items())) for group, counts in found.by_group.items())
    gone = sorted(found.gone.items()), sorted(operations.gone_changes.items())
    missing = (found.missing_workers, found.missing_replicas)
    seen = (operations.revision, operations.epoch, operations.stale_because, missing, groups, gone)
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
