"""Runs the pure hub on the event loop, between it and the transports: schedules writes and timers.

A transport passes each stream's requests to the dispatcher and polls for responses; the dispatcher notifies a stream's
``Sink`` when there may be something to poll. A large fan-out runs in slices, so that requests that arrive meanwhile are
answered in between.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Set
from time import monotonic, thread_time
from typing import Protocol

from xds.address import Address
from xds.model.changeset import Applied
from xds.model.identity import ANONYMOUS, Peer
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.hub import Hub, is_sparse
from xds.protocol.policy import Variant
from xds.protocol.responses import Part
from xds.protocol.sessions import Stream
from xds.protocol.status import Event, Overdue, Refused
from xds.transport.admission import StreamAdmission
from xds.transport.newcomers import Newcomers

ADMITTED_AT_ONCE = 16
ADMITTING_S = 0.002
"""Maximum first answers to new clients, and seconds of work for them, per turn of the event loop.

One answer may take milliseconds if it has thousands of resources.
"""
AGING_S = 5.0
"""How often the hub drops cached data that has not been used since."""
SLICE = 32
"""Streams notified of a change per turn of the event loop: about a millisecond of work, 5 on grpcio.

A slice lasts as long as the loop worked on other things since the slice before, so that a change takes at most twice as
long whatever else clients ask of the server.
"""
RECENT_S = 1.0
"""Changes go out regularly if the last one was so long ago."""
EXAMINED_AT_ONCE = 8
EXAMINING_S = 0.002
"""Resources searched at a time, and seconds of work per turn of the event loop, after a large response was rejected."""
PAUSE, PAUSE_WHILE_SPREADING = 1, 10
"""How long large requests pause after one while changes go out regularly, and while one is on its way to streams.

The unit is the time that the request took: they take at most half of the event loop's time, and an eleventh, so that
a change waits for one of them and then spreads.
"""
REGROUPED_AT_ONCE = 8
REGROUPING_S = 0.002
"""Seconds of work per turn of the event loop, after a change of the rules, to find the new groups of open streams."""


class Sink(Protocol):
    """The transport's side of one stream."""

    @property
    def peer_address(self) -> str:
        """Where the client connects from, "" if that is not known."""
        ...

    def ready(self) -> None:
        """Called when there may be something to poll. Must not block; poll once the stream can take a message."""
        ...

    def send_cohort(self, hub: Hub) -> bool:
        """Send what ``hub.poll_cohort`` returns if the stream can take a message; return False if that is None."""
        ...

    def end(self, status: Status, message: str) -> None:
        """Finish the stream with this status, without waiting for what was written."""
        ...

    def probe(self, within_s: float, why: str) -> None:
        """Close the connection for a reason unless its client shows within ``within_s`` that it is there.

        Where the transport can't ping, its keepalive alone does that.
        """
        ...


class Transport(Protocol):
    """A server of xDS streams: start, drain, stop, reload."""

    async def start(self) -> Address:
        """Listen, and return the address that was bound. Raises BindError."""
        ...

    async def drain(self, window_s: float) -> None:
        """Accept no new streams, and end the open ones one by one over ``window_s`` seconds."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Close everything within ``grace_s`` seconds."""
        ...

    def reload_certificates(self) -> bool:
        """Reload the TLS files; return whether TLS is configured and they can be used."""
        ...

    def move(self, share: float, over_s: float) -> int:
        """End a share of the connections, each at some time within ``over_s``; return how many will be."""
        ...


class Dispatcher:
    """Runs the hub on the event loop.

    ``on_event`` is called with events for operators, ``on_fault`` with a bug of ours that ended a stream.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        on_event: Callable[[Event], None],
        on_fault: Callable[[Exception], None],
        admission: StreamAdmission | None = None,
    ) -> None:
        self.hub = hub
        self.admission = admission or StreamAdmission()
        self.report_fault = on_fault
        self._stopped = False
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        """Returns the time on the hub's clock."""
        self._sinks: dict[Stream, Sink] = {}
        self._backlog: deque[Stream] = deque()
        self._urgent: deque[Stream] = deque()
        self._cold = Newcomers()
        self._admitting: asyncio.Handle | None = None
        self._examining: asyncio.Handle | None = None
        self._serving = False
        self._slice: asyncio.Handle | None = None
        self._sliced_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._changed_at = float("-inf")
        self._aging = self._loop.call_later(AGING_S, self._age)

    def _age(self) -> None:
        self.hub.evict_idle()
        if is_sparse(self._sinks):
            self._sinks = dict(self._sinks)
        self._aging = self._loop.call_later(AGING_S, self._age)

    def open(
        self, variant: Variant, sink: Sink, *, type_url: str = "", connection: str = "", peer: Peer = ANONYMOUS
    ) -> Stream:
        """Register a new stream of a client. Raises StreamRefusedError (UNAVAILABLE) if there is no room for it now."""
        self._shed_past_capacity(len(self._sinks), peer, sink)
        stream = self.hub.open(variant, type_url=type_url, connection=connection, peer=peer)
        self._sinks[stream] = stream.owner = sink
        return stream

    def _shed_past_capacity(self, others: int, peer: Peer, sink: Sink) -> None:
        waited_s = self._loop.time() - self._cold.since if self._cold else 0.0
        try:
            self.admission.check(others, len(self._cold), waited_s)
        except StreamRefusedError as shed:
            self.admission.hits.add(shed.limit)
            status, identity, address = shed.status.name, peer.identity, sink.peer_address
            event = Refused(node_id="", status=status, message=shed.message, identity=identity, address=address)
            self._on_event(event)
            raise

    def receive(self, stream: Stream, data: bytes) -> int:
        """Pass a request to the hub; return how many names it examined for a subscription change.

        Raises StreamRefusedError if the stream must end for it.

        New clients wait for their turn for the first answer, a few at a time: in a reconnect storm they do not delay
        returning clients, which need little, or requests on open streams.
        """
        hub = self.hub
        new = stream.session is None
        if new and self._cold:  # many may have been opened before the first of them asked
            self._shed_past_capacity(len(self._sinks) - 1, stream.peer, self._sinks[stream])
        try:
            return hub.receive(stream, data, self._loop.time())
        except StreamRefusedError as refusal:
            self.admission.hits.add(refusal.limit)
            raise
        finally:
            if new and stream.session is not None and not stream.warm:
                self._await_turn(stream)
            if hub.has_work or hub.next_tick_at < self._timer_at:
                self._serve_now()
            if hub.is_examining and self._examining is None:
                self._examining = self._loop.call_soon(self._examine)

    def _examine(self) -> None:
        """Search some resources of rejected responses for secrets, so that the NACKs can be noted."""
        hub, began = self.hub, monotonic()
        while hub.examine_some(EXAMINED_AT_ONCE) and monotonic() - began < EXAMINING_S:
            pass
        self._pass_on_events()
        pause_s = self.pause_after(monotonic() - began)
        self._examining = self._loop.call_later(pause_s, self._examine) if hub.is_examining else None

    def _await_turn(self, stream: Stream) -> None:
        if not self._cold and self._admitting is None:
            self._admitting = self._loop.call_soon(self._admit)
        self._cold.add(stream, self._loop.time())

    def _admit(self) -> None:
        """Answer the new streams whose turn it is; the others after the event loop had its turn.

        While memory is short, one at a time, with a pause after it.
        """
        pause_s = self.admission.pause_s
        until = monotonic() + ADMITTING_S
        left = 1 if pause_s else ADMITTED_AT_ONCE
        while self._cold and left:
            left -= 1
            self._tell(self._cold.take())
            if monotonic() > until:
                break
        if pause_s:  # also if none waits: the next one must not come at once
            self._admitting = self._loop.call_later(pause_s, self._admit_next)
        else:
            self._admit_next()

    def _admit_next(self) -> None:
        self._admitting = self._loop.call_soon(self._admit) if self._cold else None

    def poll(self, stream: Stream) -> Part | None:
        """Return the stream's next message, or None until its sink is notified again.

        Raises StreamRefusedError if the stream must end.
        """
        try:
            part = self.hub.poll(stream, self._loop.time())
        except StreamRefusedError as refusal:
            self.admission.hits.add(refusal.limit)
            raise
        if self.hub.has_work or self.hub.next_tick_at < self._timer_at:
            self._serve_now()
        return part

    def close(self, stream: Stream, why: str) -> None:
        """Remove a stream that has ended; ``why`` is for operators."""
        self._sinks.pop(stream, None)
        stream.owner = None
        self._cold.discard(stream)
        self.hub.close(stream, why)
        self._serve_now()

    def stood_still(self) -> None:
        """Have timeouts wait for what is to be read: the event loop has just stood still."""
        self.hub.stood_still(self._loop.time())

    def probe(self, sessions: Set[int], within_s: float, why: str) -> None:
        """Close the connections of sessions, given by the ids of their objects, whose clients do not answer."""
        found = {id(each.session): each.owner for each in self._sinks if id(each.session) in sessions}
        for sink in found.values():
            sink.probe(within_s, why)

    def publish(self, applied: Applied) -> None:
        """Bring every affected stream up to date."""
        self._changed_at = self._loop.time()
        self.hub.publish(applied, regroup=False)
        self._share_out()

    def pause_after(self, took_s: float) -> float:
        """Return how long others are to have the event loop after a large request that took so many seconds."""
        if self._backlog:
            return PAUSE_WHILE_SPREADING * took_s
        return PAUSE * took_s if self._loop.time() - self._changed_at < RECENT_S else 0.0

    @property
    def sinks(self) -> list[Sink]:
        """Every open stream's sink, oldest first."""
        return list(self._sinks.values())

    def stop(self) -> None:
        """Cancel everything scheduled, for good."""
        self._stopped = True
        for handle in (self._slice, self._timer, self._aging, self._admitting, self._examining):
            if handle is not None:
                handle.cancel()
        self._slice = self._timer = None
        self._cold.clear()
        self._timer_at = float("inf")

    def _serve_now(self) -> None:
        """Notify the few streams that a request made ready, without waiting for a fan-out under way."""
        hub = self.hub
        if self._stopped:
            return
        if hub.has_work:
            self._urgent.extend(stream for stream in hub.take_ready() if stream not in self._cold)
            self._pass_on_events()
        if self._urgent and not self._serving:
            self._serving = True
            try:
                while self._urgent:
                    self._tell(self._urgent.popleft())
            finally:
                self._serving = False
        if hub.next_tick_at < self._timer_at:
            self._set_timer()

    def _share_out(self) -> None:
        """Notify the many streams that a change made ready: one slice now, the others in later turns."""
        if self._stopped:
            return
        ready = self.hub.take_ready()
        if self._cold:  # they get the newest state in their turn
            ready = [stream for stream in ready if stream not in self._cold]
        self._backlog.extend(ready)
        self._pass_on_events()
        if self._slice is None:
            self._run_slice()
        self._set_timer()

    def _run_slice(self) -> None:
        backlog = self._backlog
        self._regroup()
        if backlog or self.hub.is_regrouping:
            # First, since a sink may poll at once, and polling may lead here again.
            self._slice = self._loop.call_soon(self._run_slice)
        else:
            self._slice = None
        hub = self.hub
        hub.advance_clock(self._loop.time())
        began = thread_time()  # time spent by other processes does not count
        due = began if self._sliced_at is None else 2 * began - self._sliced_at
        while backlog:
            for _ in range(min(SLICE, len(backlog))):
                sink: Sink | None = backlog.popleft().owner
                if sink is not None and not sink.send_cohort(hub):
                    sink.ready()
            if thread_time() >= due:
                break
        self._sliced_at = thread_time() if backlog else None

    def _regroup(self) -> None:
        """Move some sessions to their new groups, if the rules have changed."""
        hub = self.hub
        if not hub.is_regrouping:
            return
        until = thread_time() + REGROUPING_S
        while hub.regroup_some(REGROUPED_AT_ONCE) and thread_time() < until:
            pass
        self._backlog.extend(hub.take_ready())
        self._pass_on_events()

    def _tell(self, stream: Stream) -> None:
        sink: Sink | None = stream.owner
        if sink is not None:
            sink.ready()

    def _pass_on_events(self) -> None:
        for event in self.hub.take_events():
            if isinstance(event, Overdue):
                self.admission.hits.add("hold_timeout")
            self._on_event(event)

    def _set_timer(self) -> None:
        at = self.hub.next_tick_at
        if self._timer is not None:
            if self._timer_at <= at:
                return  # at worst there is nothing to do, and it is set again
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at != float("inf"):
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.hub.tick(self._loop.time())
        self._share_out()
