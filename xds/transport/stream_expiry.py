"""Ends streams at given times: with those of the same second, by one timer."""

import asyncio
import heapq
from collections.abc import Callable
from math import ceil

from xds.protocol.errors import Status
from xds.transport.dispatcher import Sink

EXPIRED = "the token of this stream has expired; connect again with a new one"


class StreamExpiry:
    """The streams that must end, by the second. Times are on the event loop's clock. ``on_end`` is called for each.

    They end with UNAVAILABLE, as a server that goes away ends them: the client has done nothing wrong, and Envoy logs
    other statuses as warnings (docs/envoy-behaviour.md#tokens).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, on_end: Callable[[], None] = lambda: None) -> None:
        self._loop = loop
        self._on_end = on_end
        self._sinks: dict[int, dict[Sink, None]] = {}
        self._seconds: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sink: Sink, at: float) -> None:
        """End a stream at ``at``, or up to a second later."""
        second = ceil(at)
        sinks = self._sinks.get(second)
        if sinks is None:
            sinks = self._sinks[second] = {}
            heapq.heappush(self._seconds, second)
            if self._seconds[0] == second:
                self._set_timer()
        sinks[sink] = None

    def discard(self, sink: Sink, at: float) -> None:
        """Forget a stream that has ended by itself."""
        sinks = self._sinks.get(ceil(at))
        if sinks is not None:
            sinks.pop(sink, None)

    def stop(self) -> None:
        """End no more streams."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sinks.clear()
        self._seconds.clear()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._seconds[0], self._end) if self._seconds else None

    def _end(self) -> None:
        self._timer = None
        try:
            while self._seconds and self._seconds[0] <= self._loop.time():
                for sink in self._sinks.pop(heapq.heappop(self._seconds)):
                    self._on_end()
                    sink.end(Status.UNAVAILABLE, EXPIRED)
        finally:
            if self._timer is None:
                self._set_timer()
