"""Between the pure hub and the transports, on the event loop: who may write next, and when to look again.

It does not know gRPC or HTTP/2. A transport gives it each stream's requests and polls for responses; it tells a
stream's ``Sink`` when there may be something to poll. A big fan-out is shared out in slices, so that requests which
arrive meanwhile are answered in between.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import monotonic, thread_time
from typing import Protocol

from xds.address import Address
from xds.model.changeset import Applied
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.hub import Hub, is_sparse
from xds.protocol.policy import Variant
from xds.protocol.responses import Part
from xds.protocol.sessions import Stream
from xds.protocol.status import Event

ADMITTED_AT_ONCE = 16
ADMITTING_S = 0.002
"""New clients that are given their first answer before the event loop gets a turn: so many, within so long.

The answer to one may take milliseconds, if it has thousands of resources.
"""
AGING_S = 5.0
"""How often the hub is to forget what nobody has asked for since."""
SLICE = 32
"""Streams told of a change before the event loop gets a turn: about a millisecond of work, on grpcio 5.

A slice goes on for as long as the loop had worked on other things since the one before, so that a change takes at most
twice as long whatever clients ask of the server meanwhile.
"""


class Sink(Protocol):
    """A transport's end of one stream."""

    def ready(self) -> None:
        """There may be something to poll. Must not block; once the stream can take a message, poll for it."""
        ...

    def send_cohort(self, hub: Hub) -> bool:
        """Send what ``hub.poll_cohort`` returns if the stream can take a message; return False if that is None."""
        ...

    def end(self, status: Status, message: str) -> None:
        """Finish the stream with this status, without waiting for what was written."""
        ...


class Transport(Protocol):
    """A server of xDS streams, with its four verbs."""

    async def start(self) -> Address:
        """Listen, and return the address that was bound. Raises BindError."""
        ...

    async def drain(self, window_s: float) -> None:
        """Take no new streams, and end the open ones one by one over a window of so many seconds."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Close everything, at the latest after ``grace_s``."""
        ...

    def reload_certificates(self) -> bool:
        """Read the TLS files again; say whether there are any, and they can be used."""
        ...


class Dispatcher:
    """Runs the hub on the event loop.

    ``on_event`` is told what operators may have to know, ``on_fault`` of a bug of ours that ended a stream.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        on_event: Callable[[Event], None],
        on_fault: Callable[[Exception], None],
        streams_max: int = 100_000,
    ) -> None:
        self.hub = hub
        self.report_fault = on_fault
        self._stopped = False
        self._on_event = on_event
        self._streams_max = streams_max
        self._loop = asyncio.get_running_loop()
        self._sinks: dict[Stream, Sink] = {}
        self._backlog: deque[Stream] = deque()
        self._urgent: deque[Stream] = deque()
        self._cold: dict[Stream, None] = {}
        self._serving = False
        self._slice: asyncio.Handle | None = None
        self._sliced_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._aging = self._loop.call_later(AGING_S, self._age)

    def _age(self) -> None:
        self.hub.grow_old()
        if is_sparse(self._sinks):
            self._sinks = dict(self._sinks)
        self._aging = self._loop.call_later(AGING_S, self._age)

    def open(self, variant: Variant, sink: Sink, *, type_url: str = "", connection: str = "") -> Stream:
        """Take in a new stream; raises StreamRefusedError when there are too many."""
        if len(self._sinks) >= self._streams_max:
            raise StreamRefusedError(
                Status.RESOURCE_EXHAUSTED, f"this server takes {self._streams_max} streams (transport.streams_max)"
            )
        stream = self.hub.open(variant, type_url=type_url, connection=connection)
        self._sinks[stream] = stream.owner = sink
        return stream

    def receive(self, stream: Stream, data: bytes) -> int:
        """Hand a request to the hub, and return how many names that had to look through for a change of a subscription.

        Raises StreamRefusedError when the stream has to end for it.

        Streams of clients that have nothing yet wait their turn for the first answer, a few at a time: in a storm,
        those who come back, to whom little is to be sent, and what is asked on open streams, are not held up by them.
        """
        hub = self.hub
        new = stream.session is None
        try:
            return hub.receive(stream, data, self._loop.time())
        finally:
            if new and stream.session is not None and not stream.warm:
                if not self._cold:
                    self._loop.call_soon(self._admit)
                self._cold[stream] = None
            if hub.restless or hub.next_tick < self._timer_at:
                self._serve_now()

    def _admit(self) -> None:
        """Serve the streams that wait their turn longest; the others after the event loop had its own."""
        until = monotonic() + ADMITTING_S
        for stream in list(islice(self._cold, ADMITTED_AT_ONCE)):
            del self._cold[stream]
            self._tell(stream)
            if monotonic() > until:
                break
        if self._cold:
            self._loop.call_soon(self._admit)

    def poll(self, stream: Stream) -> Part | None:
        """Return the stream's next message, or None until its sink is told to be ready again."""
        part = self.hub.poll(stream, self._loop.time())
        if self.hub.restless or self.hub.next_tick < self._timer_at:
            self._serve_now()
        return part

    def close(self, stream: Stream) -> None:
        """Forget a stream that ended."""
        self._sinks.pop(stream, None)
        stream.owner = None
        self._cold.pop(stream, None)
        self.hub.close(stream)
        self._serve_now()

    def publish(self, applied: Applied) -> None:
        """Bring every stream up to date that the change concerns."""
        self.hub.publish(applied)
        self._share_out()

    @property
    def sinks(self) -> list[Sink]:
        """Every open stream's sink, oldest first."""
        return list(self._sinks.values())

    def stop(self) -> None:
        """Cancel what is scheduled, for good."""
        self._stopped = True
        for handle in (self._slice, self._timer, self._aging):
            if handle is not None:
                handle.cancel()
        self._slice = self._timer = None
        self._cold.clear()
        self._timer_at = float("inf")

    def _serve_now(self) -> None:
        """Tell the sinks of the few streams that a client's doing made ready, whatever the fan-out under way."""
        hub = self.hub
        if self._stopped:
            return
        if hub.restless:
            self._urgent.extend(stream for stream in hub.take_ready() if stream not in self._cold)
            self._pass_on_events()
        if self._urgent and not self._serving:
            self._serving = True
            try:
                while self._urgent:
                    self._tell(self._urgent.popleft())
            finally:
                self._serving = False
        if hub.next_tick < self._timer_at:
            self._set_timer()

    def _share_out(self) -> None:
        """Tell the sinks of the many streams that a change made ready: a slice at once, the rest by and by."""
        if self._stopped:
            return
        self._backlog.extend(self.hub.take_ready())
        self._pass_on_events()
        if self._slice is None:
            self._run_slice()
        self._set_timer()

    def _run_slice(self) -> None:
        backlog = self._backlog
        if backlog:
            # First, since a sink may poll at once, and polling lead here again.
            self._slice = self._loop.call_soon(self._run_slice)
        else:
            self._slice = None
        hub = self.hub
        hub.tell_time(self._loop.time())
        began = thread_time()  # what other processes do meanwhile does not count
        due = began if self._sliced_at is None else 2 * began - self._sliced_at
        while backlog:
            for _ in range(min(SLICE, len(backlog))):
                sink: Sink | None = backlog.popleft().owner
                if sink is not None and not sink.send_cohort(hub):
                    sink.ready()
            if thread_time() >= due:
                break
        self._sliced_at = thread_time() if backlog else None

    def _tell(self, stream: Stream) -> None:
        sink: Sink | None = stream.owner
        if sink is not None:
            sink.ready()

    def _pass_on_events(self) -> None:
        for event in self.hub.take_events():
            self._on_event(event)

    def _set_timer(self) -> None:
        at = self.hub.next_tick
        if self._timer is not None:
            if self._timer_at <= at:
                return  # at worst it finds nothing to do, and is set anew
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at != float("inf"):
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.hub.tick(self._loop.time())
        self._share_out()
