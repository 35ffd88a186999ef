"""A simulated network: messages arrive in order and delayed, and the server may notice a broken stream late."""

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from simulation.audit import SessionAudit, StreamAudit
from simulation.clock import Clock
from simulation.content import Content, Key, State, encode, read
from simulation.envoy import Envoy
from simulation.memory import CLAIMED
from simulation.process import Process
from simulation.wire_format import Message, Request, decode, delta_request, spell
from support.encoded import CDS, short
from support.rechecked import RecheckedHub as Hub

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import AppliedChangeset, Changeset
from xds.protocol.node_history import HistoryEntry
from xds.protocol.paging import NodeState
from xds.protocol.policy import Ordering, Variant
from xds.protocol.responses import Encoding, Part
from xds.protocol.sessions import Stream
from xds.protocol.status import NodesQuery, NodeSummary, Progress, node_statuses, nodes_page

if TYPE_CHECKING:
    from simulation.world import World


class Server:
    """One server process: a catalog, a hub, and its streams."""

    def __init__(
        self,
        world: "World",
        number: int,
        ordering: Ordering,
        encoding: Encoding,
        chance: Random,
        *,
        catalog: Catalog | None = None,
        process: Process | None = None,
    ) -> None:
        self.world, self.number, self.chance = world, number, chance
        self.clock: Clock = world.clock
        self.process = process
        """The process that it runs in with its publisher; None: one of its own."""
        self.up = True
        self.frozen_until = 0.0
        self._wakes_at = 0.0
        self.catalog = catalog or Catalog()
        self.published: dict[str, Mapping[Key, Content]] = {}
        """The snapshot that each group's streams are updated to."""
        self.groups: dict[str, str] = {}
        """The group of each node."""
        self.lines: dict[Stream, SimulatedLine] = {}
        self.sessions: dict[tuple[int, str], SessionAudit] = {}
        """The connections, by the number of the client and of the connection."""
        self.hub = Hub(
            self.catalog, knows_type=lambda _: True, ordering=ordering, encoding=encoding, share=self._share
        )  # fmt: skip
        self.ordering = ordering
        self.small = encoding.response_bytes_max < 10_000
        self._unpublished: list[tuple[AppliedChangeset, dict[str, Mapping[Key, Content]], dict[str, str]]] = []
        self._tick_at = float("inf")

    @property
    def now(self) -> float:
        """The monotonic clock of this process."""
        return self.clock.now if self.process is None else self.process.time()

    def is_asleep(self, what: Callable[..., None], *arguments: Any) -> bool:
        """Say whether the process is frozen; ``what`` is then called once it is not."""
        until = self.frozen_until if self.process is None else self.process.frozen_until
        if until <= self.clock.now:
            return False
        if self._wakes_at != until:
            self._wakes_at = until
            self.clock.at(until, self._wake)
        self.clock.at(until, what, *arguments)
        return True

    def _wake(self) -> None:
        """Notice that the process stood still, as ``xds.process.loop_lag`` does, before anything is read."""
        if self.up and not self.is_asleep(self._wake):
            self.hub.stood_still(self.now)

    def die(self) -> None:
        """End as by ``kill -9``: the streams end, and nothing is remembered."""
        self.up = False
        for line in self.lines.values():
            line.over = True
        self.lines.clear()

    def _share(self, entry: HistoryEntry) -> None:
        for other in self.world.peers_of(self):
            self.clock.later(self.chance.uniform(0.001, 0.02), other.remember, entry)
        self.world.remember(self, entry)

    def remember(self, entry: HistoryEntry) -> None:
        """Take what another process knows of a node."""
        if self.up and not self.is_asleep(self.remember, entry):
            self.hub.remember(entry)

    # --- Changes ---------------------------------------------------------------------------------------------------

    def apply(self, states: Mapping[str, State], groups: Mapping[str, str], *, publish: bool = True) -> None:
        """Apply the snapshots of some groups and the groups of all nodes; publish them, unless more changes follow."""
        upserts: dict[str, tuple] = {}
        removals: dict[str, tuple[Key, ...]] = {}
        for group, state in states.items():
            before = self._unpublished_state(group)
            upserts[group] = tuple(encode(c) for key, c in state.items() if before.get(key) != c)
            removals[group] = tuple(key for key in before if key not in state)
        table = None
        if groups != (self._unpublished[-1][2] if self._unpublished else self.groups):
            table = self.world.table(groups)
        applied = self.catalog.apply(Changeset(upserts=upserts, removals=removals, groups=table))
        self._unpublished.append((applied, dict(states), dict(groups)))
        if publish:
            self.publish()

    def take(
        self,
        changeset: Changeset,
        revision: int,
        states: Mapping[str, Mapping[Key, Content]],
        groups: Mapping[str, str],
        *,
        publish: bool = True,
    ) -> None:
        """Apply a revision of the store. ``states`` are the snapshots that changed, ``groups`` those of all nodes."""
        if not self.up or self.is_asleep(lambda: self.take(changeset, revision, states, groups, publish=publish)):
            return
        assert revision > self.catalog.revision, f"hub {self.number}: {revision} follows {self.catalog.revision}"
        applied = self.catalog.apply(changeset, revision=revision)
        self._unpublished.append((applied, dict(states), dict(groups)))
        if publish:
            self.publish()

    def _unpublished_state(self, group: str) -> Mapping[Key, Content]:
        for _, states, _ in reversed(self._unpublished):
            if group in states:
                return states[group]
        return self.published.get(group, {})

    @property
    def has_unpublished(self) -> bool:
        """Say whether applied changes are not published yet."""
        return bool(self._unpublished)

    def publish(self) -> None:
        """Publish the applied changes."""
        if not self.up:
            return
        unpublished, self._unpublished = self._unpublished, []
        # A change of groups applies every group's snapshot, so all changes are published at once.
        for _, states, groups in unpublished:
            self.published |= states
            self.groups = groups
        for line in self.lines.values():
            line.audit.note_state(self.published.get(self.group_of(line.envoy), {}), self.group_of(line.envoy))
        for applied, _, _ in unpublished:
            if applied.effect is not None:
                self.hub.publish(applied)
        self._pump(spread_s=0.01)

    def group_of(self, envoy: Envoy) -> str:
        """Return the group of a node."""
        return self.groups.get(envoy.node_id, "default")

    # --- What is looked at in the end ------------------------------------------------------------------------------

    def status_problems(self) -> list[str]:
        """Return the clients that, by their status, have not accepted all resources."""
        keepers = {line.envoy.node_id for line in self.lines.values() if line.envoy.keeps_listeners}
        found = [
            f"the server takes {summary.node.id} to be {[summary.state.value]}: {_unsettled(summary)}"
            for summary in nodes_page(self.hub.streams, NodesQuery(), self.now).nodes
            if summary.state is not NodeState.ACCEPTED and summary.node.id not in keepers
        ]
        for status in node_statuses(self.hub.streams, self.now):
            if status.node.id in keepers:
                continue
            for of_type in status.types:
                about = f"hub: {status.node.id} {short(of_type.type_url)}"
                if of_type.waited_s is not None:
                    found.append(f"{about} has not been answered")
                wrong = [r for r in of_type.resources if r.progress not in (Progress.ACKED, Progress.MISSING)]
                found += [f"{about} {wrong}"] if wrong else []
        return found

    def check_nothing_unsaid(self) -> None:
        """Assert that no stream has a message to send without being marked as ready."""
        for stream in self.lines:
            part = self.hub.poll(stream, self.now)
            assert part is None, f"left unsaid: {part}"

    # --- Streams ---------------------------------------------------------------------------------------------------

    def receive(self, line: "SimulatedLine", request: Request) -> None:
        """Pass a request of a stream to the hub."""
        if line.stream is None:
            line.stream = self.hub.open(
                line.envoy.habits.variant, type_url=line.type_url, connection=line.connection.name
            )
            self.lines[line.stream] = line
            self.world.note_stream(line.stream)
            line.audit = StreamAudit(self, line)
            if self._unpublished:  # the newest rules decide its group, whose published snapshot it is sent
                group = self._unpublished[-1][2].get(line.envoy.node_id, "default")
                line.audit.note_state(self.published.get(group, {}), group)
        line.audit.note_request(request)
        self.world.nacks += request.HasField("error_detail")
        self.hub.receive(line.stream, request.SerializeToString(), self.now)
        self._pump()

    def close(self, line: "SimulatedLine") -> None:
        """Notice that a stream ended."""
        if self.is_asleep(self.close, line):
            return
        if line.stream is not None and line.stream in self.lines:
            self.world.say("      hub %s: the stream %s of n%s is over", self.number, line.number, line.envoy.number)
            del self.lines[line.stream]
            self.hub.close(line.stream)
            self._pump()

    def drain(self, line: "SimulatedLine") -> None:
        """Send a stream's messages as far as it takes them, and then those of other streams that became ready."""
        if not self.up or self.is_asleep(self.drain, line):
            return
        self._drain(line)
        self._pump()

    def _drain(self, line: "SimulatedLine") -> None:
        line.waiting = False
        if line.stream is None or line.stream not in self.lines:
            return
        for _ in range(1_000):
            if line.under_way >= line.window:
                line.waiting = True
                return
            part = self.hub.poll(line.stream, self.now)
            if part is None:
                break
            line.carry(part)
        else:
            raise AssertionError("a stream never has enough")

    def _pump(self, spread_s: float = 0.0) -> None:
        for _ in range(1_000):
            ready = self.hub.take_ready()
            if not ready:
                break
            # The order in which a change makes streams ready depends on their addresses in memory.
            for line in sorted((self.lines[stream] for stream in ready), key=lambda line: line.number):
                if spread_s:
                    self.clock.later(self.chance.random() * spread_s, self.drain, line)
                else:
                    self._drain(line)
        else:
            raise AssertionError("streams wake each other for ever")
        self._schedule()

    def _schedule(self) -> None:
        at = max(self.hub.next_tick_at, self.now)
        if at < self._tick_at:
            self._tick_at = at
            ahead_s = self.now - self.clock.now
            self.clock.at(at + self.chance.choice((0.0, 0.0, 0.05)) - ahead_s, self._tick, at)

    def claim(self) -> str:
        """Open a stream that claims to have many resources, ACK their removal, and close it; return the node's id."""
        node = f"claims-at-{self.number}"
        stream = self.hub.open(Variant.DELTA, connection=node)
        request = delta_request(CDS, have={f"{CLAIMED}{number}": "1" for number in range(20)})
        request.node.id = node
        self.hub.receive(stream, request.SerializeToString(), self.now)
        while (part := self.hub.poll(stream, self.now)) is not None:
            nonce = wire.DeltaDiscoveryResponse.FromString(part.message).nonce
            self.hub.receive(stream, delta_request(CDS, nonce=nonce).SerializeToString(), self.now)
        self.hub.close(stream)
        self._pump()
        return node

    def leap(self) -> None:
        """Notice that the clock leapt."""
        self._tick_at = float("inf")
        self._schedule()

    def _tick(self, at: float) -> None:
        if at != self._tick_at or not self.up or self.is_asleep(self._tick, at):
            return
        self._tick_at = float("inf")
        if self.hub.next_tick_at <= self.now:
            self.hub.tick(self.now)
            self._pump()
        self._schedule()


def _unsettled(summary: NodeSummary) -> str:
    types = [each for each in summary.types if each.nacked or each.pending or each.unacked]
    return ", ".join(f"{short(t.type_url)} {','.join(t.nacked)} {t.pending} {t.unacked}" for t in types)


class Connection:
    """One HTTP/2 connection: messages of all its streams arrive in order, in each direction."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up_at = self.down_at = 0.0
        """When the last message in transit arrives."""
        self.held_until = 0.0
        """No message arrives earlier."""

    def hold(self, until: float) -> None:
        """Let no message arrive before a time."""
        self.held_until = max(self.held_until, until)


class SimulatedLine:
    """One gRPC stream. Messages in transit are lost when it breaks."""

    def __init__(
        self, server: Server, envoy: Envoy, type_url: str, connection: Connection, number: int, chance: Random
    ) -> None:
        self.server, self.envoy, self.type_url, self.connection = server, envoy, type_url, connection
        self.number, self.chance = number, chance
        self.clock = server.clock
        self.stream: Stream | None = None
        self.audit: StreamAudit
        self.opened_at = server.now
        self.open = True
        self.over = False
        self.node_sent = False
        self.window = chance.choice((1, 2, 50, 50, 50))
        self.under_way = 0
        self.waiting = False
        """The server has a message that the stream cannot take."""
        self.cut_at = float("inf")
        """Messages that reach the server later are lost."""
        self._slow = chance.random() < 0.15
        self._unheard: list[Request] = []
        self._unread: list[Message] = []
        self.up_at = self.down_at = 0.0
        self._ordered: SimulatedLine | Connection = self if server.world.plan.reorders else connection

    def _delay_s(self) -> float:
        if self.server.world.calm:
            return 0.001
        if self.chance.random() < (0.3 if self._slow else 0.04):
            return self.chance.uniform(0.1, 3.0)
        return self.chance.uniform(0.0005, 0.03)

    # --- Its client's end ------------------------------------------------------------------------------------------

    def send(self, request: Request) -> None:
        """Send a request; the first one gets the node."""
        if not self.open:
            return
        self._say("→ %s", lambda: f"{short(request.type_url)} {spell(request)}")
        if not self.node_sent:
            request.node.CopyFrom(wire.Node(id=self.envoy.node_id, cluster="c"))
            self.node_sent = True
        self._unheard.append(request)
        self._ordered.up_at = max(self._ordered.up_at, self.clock.now + self._delay_s())
        self.clock.at(self._ordered.up_at, self._reach, request)

    def _is_held(self, what: Callable[..., None], *arguments: Any) -> bool:
        """Say whether nothing arrives at present; ``what`` is then called later."""
        if self.connection.held_until <= self.clock.now:
            return False
        self.clock.at(self.connection.held_until, what, *arguments)
        return True

    def _reach(self, request: Request) -> None:
        if self.over or self.clock.now > self.cut_at or not self.server.up:
            return
        if self._is_held(self._reach, request):
            return
        if self.server.is_asleep(self._reach, request):
            return
        request = self._unheard.pop(0)  # what waits for one thing and then for another would be overtaken
        self._say("   reaches the hub: %s", lambda: f"{short(request.type_url)} {spell(request)}")
        self.server.receive(self, request)

    def close(self) -> None:
        """End the stream by the client: the server learns of it after the messages that were sent before."""
        self.open = False
        self._ordered.up_at = max(self._ordered.up_at, self.clock.now + self._delay_s())
        self.clock.at(self._ordered.up_at, self._close_if_not_held)

    def _close_if_not_held(self) -> None:
        if not self._is_held(self._close_if_not_held):
            self._close_at_server()

    def read_nothing(self, seconds: float) -> None:
        """Take no more messages for a time than are on their way."""
        if self.window:
            self.clock.later(seconds, self._read_again, self.window)
            self.window = 0

    def _read_again(self, window: int) -> None:
        self.window = window
        if self.waiting:
            self.server.drain(self)

    def break_off(self, noticed_after_s: float) -> None:
        """Break the stream: the client notices at once, the server after a delay."""
        if not self.open:
            return
        self.open = False
        self.cut_at = self.clock.now + self.chance.choice((0.0, 0.02, 0.05))
        self.clock.at(max(self.cut_at, self.clock.now + noticed_after_s), self._close_at_server)
        self.clock.at(self.cut_at + 1e-6, self._note_lost)

    def _note_lost(self) -> None:
        for request in self._unheard:
            if request.response_nonce and request.HasField("error_detail"):
                self.envoy.lose_nack(self, request.response_nonce)
        self._unheard.clear()

    # --- Its server's end ------------------------------------------------------------------------------------------

    def _close_at_server(self) -> None:
        if not self.over:
            self.over = True
            self.server.close(self)

    def carry(self, part: Part) -> None:
        """Deliver a message to the client."""
        message = decode(self.envoy.habits.variant, part.message, read)
        self._say("← %s", lambda: f"{short(message.type_url)} {message.nonce}: {message}")
        message = self.audit.check(message)
        self.server.world.responses += 1
        self.under_way += 1
        self._unread.append(message)
        self._ordered.down_at = max(self._ordered.down_at, self.clock.now + self._delay_s())
        self.clock.at(self._ordered.down_at, self._arrive)

    def _arrive(self) -> None:
        if not self.open:
            return  # the stream is broken: messages that the server still sends on it do not arrive
        if self._is_held(self._arrive):
            return
        message = self._unread.pop(0)  # one that is held twice would be overtaken
        self.under_way -= 1
        self.envoy.take(self, message)
        if self.waiting:
            self.server.drain(self)

    def _say(self, text: str, *parts: object) -> None:
        if self.server.world.transcript is not None:
            said = [part() for part in parts]  # type: ignore[operator]
            self.server.world.say(f"n{self.envoy.number}/{self.number} {text}", *said)
