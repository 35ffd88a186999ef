"""All connections of a process: a change is published, and goes to those whom it concerns, some at a time."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from bench.ladder.program.connection import Connection, Opening
from bench.ladder.program.content import TYPES, Group, Resource
from bench.ladder.program.steps import advance, heartbeat
from bench.ladder.program.values import Interest, Memory, Step, Value
from bench.ladder.program.wire import Nodes
from bench.ladder.switches import (
    CLOCK,
    CLOCK_EACH,
    COUNT_EACH,
    COUNTERS,
    CREDIT,
    CREDIT_TWICE,
    EVENTS,
    IDLE,
    LIFETIME,
    LIFETIME_COUNTED,
    NODE,
    ORDER,
    PAUSE_BY_FLAG,
    SERIAL_EACH,
    SLICES,
    SLICES_OF_8,
    SLICES_OF_128,
    TTL,
)

SLICE = 8 if SLICES_OF_8 else 128 if SLICES_OF_128 else 32 if SLICES else 1 << 30
OPENINGS_MAX = 64
TICK_S = 1.0
NACKS_MAX = 1_000

Change = tuple[int, str, Resource | None]


class Hub:
    """What a process serves, and to whom. ``tick`` counts seconds, ``now`` is the loop's time of the present slice."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock: Callable[[], float] = loop.time
        self.memory = Memory()
        self.group = Group("default")
        self.groups = {"default": self.group}
        self._starts: dict[Group, Value] = {}
        self.connections: dict[Connection, None] = {}
        self.openings: dict[bytes, Opening] = {}
        self.opening_sizes: list[int] = []
        self.nodes = Nodes()
        self.by_node: dict[str, dict[Connection, None]] = {}
        self.timed: dict[Connection, None] = {}
        self.nacks: deque[tuple[str, str, str]] = deque(maxlen=NACKS_MAX)
        self.told: dict[str, int] = {}
        self.tick = 0
        self.now = 0.0
        self.deliveries = self.sent_bytes = self.acks = self.left_in_flight = 0
        self.latency_s = 0.0
        self._ahead: list[Value] = []
        self._due: deque[Iterable[Connection]] = deque()
        self._running = False

    def start(self, group: Group) -> Value:
        """Return where the clients of a group begin."""
        found = self._starts.get(group)
        if found is None:
            found = self._starts[group] = self.memory.value(group, [None] * len(TYPES))
        return found

    def group_of(self, node_id: str, node: Any) -> Group:
        """Return the group that a node is in: the one that its cluster names, else the default."""
        return self.groups.get(node.cluster, self.group)

    # --- Changes -----------------------------------------------------------------------------------------------------

    def publish(self, changes: Iterable[Change], group: Group | None = None) -> None:
        """Serve what has changed, and have it sent to the clients whom it concerns."""
        group = group or self.group
        group.head, names = group.head.after(changes)
        if LIFETIME:
            self.memory.outdate()
            for value in self._ahead:  # else a value that nobody stands at would keep all that came after it
                value.next = value.ahead = None
            self._ahead.clear()
        if CLOCK:
            self.now = self.clock()
        concerned = [list(interest.streams) for interest in self.memory.interests() if _concerns(interest, names)]
        if not concerned:
            return
        first = dict.fromkeys(concerned[0])
        for more in concerned[1:]:
            first.update(dict.fromkeys(more))
        self._due.append(iter(first))
        if not self._running:
            self._running = True
            self._slice()

    def next_of(self, value: Value) -> Step | None:
        """Return what brings those who stand there to their group's head; worked out once."""
        head = value.group.head
        if value.at is head:
            return None
        if value.ahead is not head:
            value.next = advance(self.memory, value, self.now)
            if value.next is None:
                value.at = head
                return None
            value.ahead = head
            self._ahead.append(value)
        return value.next

    def _slice(self) -> None:
        """Step some of the streams that a change concerns, then let the event loop do what else there is."""
        while self._due:
            streams = list(islice(self._due[0], SLICE))
            if CLOCK:
                self.now = self.clock()
            if streams:
                self._deliver(streams)
            if len(streams) < SLICE:
                self._due.popleft()
            if SLICES and self._due:
                self.loop.call_soon(self._slice)
                return
        self._running = False

    def _deliver(self, streams: list[Connection]) -> None:  # noqa: C901 - all that a delivery costs, at one place
        last: Value | None = None
        step: Step | None = None
        count = 0
        for stream in streams:
            value = stream.value
            if value is not last:
                if COUNTERS and not COUNT_EACH and count and step is not None:
                    self.count(step, count)
                    count = 0
                step, last = self.next_of(value), value
            if step is None:
                continue
            if step.rare is not None:
                stream.deliver(step)
                continue
            if PAUSE_BY_FLAG and stream.paused:
                stream.behind = True
                continue
            if CREDIT:
                room = stream.room - step.size
                if room < 0:
                    stream.deliver(step)
                    continue
                stream.room = room
            if CREDIT_TWICE:
                connection_room = stream.connection_room - step.size
                if connection_room < 0:
                    stream.deliver(step)
                    continue
                stream.connection_room = connection_room
            if SERIAL_EACH:
                if step.serial <= stream.last:
                    stream.deliver(step)
                    continue
                stream.last = step.serial
            if COUNT_EACH:
                self.deliveries += 1
                self.sent_bytes += len(step.frames)
            elif COUNTERS:
                count += 1
            if CLOCK_EACH:
                stream.sent_at = self.clock()
            after = step.after
            if LIFETIME_COUNTED:
                value.streams -= 1
                after.streams += 1
            stream.value = after
            stream.write(step.frames)
        if COUNTERS and not COUNT_EACH and count and step is not None:
            self.count(step, count)

    # --- Connections -------------------------------------------------------------------------------------------------

    def keep_opening(self, data: bytes, opening: Opening) -> None:
        """Remember what a client began with."""
        if len(self.openings) < OPENINGS_MAX:
            self.openings[data] = opening
            self.opening_sizes = sorted({len(known) for known in self.openings})

    def lost(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.connections.pop(connection, None)
        self.timed.pop(connection, None)
        for current in connection.value.types:
            if current is not None:
                current.interest.streams.pop(connection, None)
                self.left_in_flight += len(current.flying)
        if NODE and EVENTS and connection.node is not None:
            streams = self.by_node.get(connection.node[0])
            if streams is not None:
                streams.pop(connection, None)
                if not streams:
                    del self.by_node[connection.node[0]]

    # --- What can be asked -------------------------------------------------------------------------------------------

    def count(self, step: Step, count: int) -> None:
        """Count messages that went out."""
        self.deliveries += count
        self.sent_bytes += count * len(step.frames)

    def figures(self) -> dict[str, float]:
        """Return the counters; the ACKs are what was sent, less what is in flight, rejected, or was left unanswered."""
        flying = sum(
            len(each.flying) for connection in self.connections for each in connection.value.types if each is not None
        )
        acks = self.acks if COUNT_EACH else self.deliveries - flying - self.left_in_flight
        return {"deliveries": self.deliveries, "bytes": self.sent_bytes, "acks": acks, "streams": len(self.connections)}

    def status(self, node_id: str) -> list[dict[str, tuple[int, bool]]]:
        """Return, for each stream of a node, what it was sent by type, as a revision, and whether it has answered."""
        return [
            {
                TYPES[index]: (current.sent.number, not current.flying)
                for index, current in enumerate(stream.value.types)
                if current is not None
            }
            for stream in self.by_node.get(node_id, ())
        ]

    def note(self, connection: Connection, effect: tuple[str, ...]) -> None:
        """Take an effect, a template that the node is filled in: a rejection, a deadline that has passed."""
        node_id = connection.node[0] if connection.node is not None else ""
        if effect[0] == "ack":
            self.told[node_id] = self.told.get(node_id, 0) + 1
        else:
            self.nacks.append((node_id, effect[0], effect[-1]))

    # --- Time --------------------------------------------------------------------------------------------------------

    def run_clock(self) -> None:
        """Tick for as long as the loop runs."""
        self.tick += 1
        if IDLE:
            for connection in list(self.connections):
                connection.look()
        if ORDER:
            for connection in [one for one in self.timed if one.due <= self.tick]:
                del self.timed[connection]
                if any(each is not None and each.flying for each in connection.value.types):
                    connection.expire()
        if TTL:
            self._renew()
        self.loop.call_later(TICK_S, self.run_clock)

    def _renew(self) -> None:
        """Send heartbeats for what has a TTL, three in its time: one timer for all, a step for each value."""
        if not any(view.with_ttl for group in self.groups.values() for view in group.head.views):
            return
        for interest in list(self.memory.interests()):
            if not interest.streams:
                continue
            made: dict[Value, Step | None] = {}
            for stream in list(interest.streams):
                value = stream.value
                if value not in made:
                    made[value] = self._heartbeat(value, interest)
                step = made[value]
                if step is not None:
                    stream.deliver(step)

    def _heartbeat(self, value: Value, interest: Interest) -> Step | None:
        for index, current in enumerate(value.types):
            if current is None or current.interest is not interest:
                continue
            with_ttl = current.sent.with_ttl
            names = [
                name for name in with_ttl if interest.has(name) and self.tick % max(1, int(with_ttl[name] / 3)) == 0
            ]
            if names:
                return heartbeat(self.memory, value, index, names, self.now)
        return None


def _concerns(interest: Interest, names: list[list[str]]) -> bool:
    if not interest.streams:
        return False
    if interest.wildcard:
        return any(names)
    return any(name in interest.names for changed in names for name in changed)
