"""One run of the simulation: its servers, clients and clock, its events, and the checks at its end.

Changes reach the servers directly, in order and late. ``StoreWorld`` has them come from a store (``store_world.py``).
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from simulation.clock import Clock
from simulation.content import Author, Content, Key
from simulation.ending import differences
from simulation.envoy import Envoy
from simulation.memory import CLAIMED, texts_in
from simulation.network import Connection, Server, SimulatedLine
from simulation.plan import GROUPS, Event, Plan
from support.encoded import CDS, EDS, LDS, RDS, short

from xds.model.groups import GroupTable, Rule
from xds.protocol.node_history import HistoryEntry
from xds.protocol.policy import Ordering
from xds.protocol.responses import Encoding
from xds.protocol.sessions import Stream

HOLD_S, DRAIN_S = 20.0, 60.0
SILENCE_S = 5 * DRAIN_S
"""How long nothing may happen in the end: longer than anything waits."""
STEPS_MAX = 100_000


class Run(Protocol):
    """A run of either simulation that failed."""

    plan: Any
    transcript: list[str] | None
    envoys: dict[int, Envoy]


class Failure(AssertionError):  # noqa: N818 - what it is
    """The failure of a run, with its ``transcript`` if it was kept."""

    def __init__(self, message: str, run: Run) -> None:
        super().__init__(message)
        self.message, self.plan, self.transcript = message, run.plan, run.transcript
        self.envoys = dict(run.envoys)


@dataclass
class World:
    """The servers, the clients and the clock of one run."""

    plan: Plan
    transcript: list[str] | None = None
    clock: Clock = field(default_factory=Clock)
    servers: list[Server] = field(default_factory=list)
    envoys: dict[int, Envoy] = field(default_factory=dict)
    homes: dict[int, Server] = field(default_factory=dict)
    responses: int = 0
    nacks: int = 0
    calm: bool = False
    """Whether delays have ended."""

    def __post_init__(self) -> None:
        self.author = Author(GROUPS, faults=self.plan.faults, secrets=self.plan.secrets)
        self.sent: dict[int, set[Content]] = {}
        """All resources that each client was ever sent, by any server."""
        self._streams: list[weakref.ref[Stream]] = []
        self._connections: dict[int, Connection] = {}
        self._lines = 0
        self._applied_at: dict[Server, float] = {}
        self._breaks: dict[int, int] = {}
        chance = self.chance("world")
        self._make_servers()
        self.groups = {f"n{number}": chance.choice(GROUPS) for number in range(len(self.plan.habits))}
        states = {group: self.author.change(group, chance) for group in GROUPS}
        for group, state in states.items():
            self.author.keep(group, state)
        self._make_first(states)
        for number in self.plan.clients:
            habits = self.plan.habits[number]
            self.envoys[number] = Envoy(self, number, habits, self.chance(f"envoy {number}"))
            # Endpoints and routes are on streams of their own there: they can't be ordered then (docs/ordering.md).
            self.envoys[number].unknown = self.plan.reorders and habits.per_type
            self.homes[number] = self.servers[chance.randrange(len(self.servers))]

    def _make_servers(self) -> None:
        self.servers = [self.make_server(number) for number in range(self.plan.servers)]

    def make_server(self, number: int, **more: Any) -> Server:
        """Return a new server process."""
        ordering = Ordering(hold_timeout_s=HOLD_S, listener_drain_s=DRAIN_S)
        encoding = Encoding(response_bytes_max=600) if self.plan.small else Encoding()
        return Server(self, number, ordering, encoding, self.chance(f"server {number}"), **more)

    def _make_first(self, states: Mapping[str, Mapping[Key, Content]]) -> None:
        for server in self.servers:
            server.apply(states, self.groups)

    def chance(self, what: str) -> Random:
        """Return a separate random generator for one purpose."""
        return Random(f"{self.plan.seed} {what}")

    # --- What Envoys live in ---------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time."""
        return self.clock.now

    def later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event after a delay."""
        self.clock.later(seconds, what, *arguments)

    def dial(self, envoy: Envoy, type_url: str) -> SimulatedLine:
        """Open a stream to the client's server, on its current connection."""
        self._lines += 1
        name = f"tcp{envoy.number}-{self._breaks.get(envoy.number, 0)}"
        connection = self._connections.get(envoy.number)
        if connection is None or connection.name != name:
            connection = self._connections[envoy.number] = Connection(name)
        chance = self.chance(f"line {envoy.number} {self._lines}")
        return SimulatedLine(self.homes[envoy.number], envoy, type_url, connection, self._lines, chance)

    def say(self, line: str, *values: object) -> None:
        """Add a line to the transcript."""
        if self.transcript is not None:
            self.transcript.append(f"{self.now:10.3f} {line % values}")

    def note_stream(self, stream: Stream) -> None:
        """Record a stream that a hub opened, to check later that it is freed."""
        self._streams.append(weakref.ref(stream))

    def peers_of(self, server: Server) -> list[Server]:
        """Return the processes that a server shares its node history with."""
        return [other for other in self.servers if other is not server] if self.plan.share_memory else []

    def remember(self, server: Server, entry: HistoryEntry) -> None:
        """Keep what a server knows of a node for the one that takes its place: without a parent, nobody does."""

    def table(self, groups: Mapping[str, str]) -> GroupTable:
        """Return rules that assign each node to its group."""
        rules = tuple(Rule(group=group, id=f"{node}*") for node, group in sorted(groups.items()))
        return GroupTable(rules=rules, names=GROUPS)

    # --- What happens ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all events of the plan, then the checks at the end. Raises AssertionError."""
        start = self.now
        for envoy in self.envoys.values():
            self.clock.later(self.chance(f"start {envoy.number}").random(), self._connect, envoy)
        for event in self.plan.events:
            self.clock.at(start + event.at_s, self._happen, event)
        self.clock.run(start + max((event.at_s for event in self.plan.events), default=0.0) + 1.0, STEPS_MAX)
        self._end()

    def _happen(self, event: Event) -> None:
        chance = Random(event.seed)
        if event.kind in ("change", "flip"):
            group = self._group(event, chance)
            before = self.author.states[group]
            self._publish(group, self.author.change(group, chance), chance)
            if event.kind == "flip":
                self.clock.later(chance.choice((0.0, 0.02, 0.1, 1.0)), self._publish, group, before, chance)
            return
        if event.kind == "move":
            node = f"n{event.who % len(self.plan.habits)}"
            before_group, after = self.groups[node], chance.choice(GROUPS)
            self._move(node, after, chance)
            if chance.random() < 0.5:
                self.clock.later(chance.choice((0.0, 0.02, 0.5, 10.0)), self._move, node, before_group, chance)
            return
        envoy = self.envoys.get(event.who % len(self.plan.habits))
        if envoy is None:
            return
        if event.kind == "break":
            self._break(envoy, chance)
        elif event.kind == "hold":
            self._hold(envoy, chance)
        elif event.kind == "slow":
            self._slow_down(envoy, chance)
        elif event.kind == "stall":
            seconds = chance.uniform(0.0, 45.0)
            self.say("-- n%s does nothing for %.1f s", envoy.number, seconds)
            envoy.was_late = True
            envoy.stall(seconds)
        else:
            type_url, seconds = chance.choice((CDS, EDS, LDS, RDS)), chance.uniform(0.0, 45.0)
            self.say("-- n%s sends nothing of %s for %.1f s", envoy.number, short(type_url), seconds)
            envoy.was_late = True
            envoy.pause(type_url, seconds)

    def _group(self, event: Event, chance: Random) -> str:
        """Return a group to change, mostly one that has nodes."""
        return chance.choice(GROUPS) if chance.random() < 0.1 else self.groups[f"n{event.who % len(self.plan.habits)}"]

    def _publish(self, group: str, state: Mapping[Key, Content], chance: Random) -> None:
        self._say_change(group, self.author.states[group], state)
        self.author.keep(group, dict(state))
        self._spread({group: state}, chance)

    def _say_change(self, group: str, before: Mapping[Key, Content], state: Mapping[Key, Content]) -> None:
        words = [f"{short(c.type_url)} {c}" for key, c in sorted(state.items()) if before.get(key) != c]
        words += [f"{short(url)} -{name}" for url, name in sorted(before) if (url, name) not in state]
        self.say("-- %s: %s", group, ", ".join(words) or "nothing changes")

    def _move(self, node: str, group: str, chance: Random) -> None:
        self.say("-- %s moves from %s to %s", node, self.groups[node], group)
        self.groups = {**self.groups, node: group}
        self._note_move(node)
        self._spread({}, chance)

    def _note_move(self, node: str) -> None:
        for envoy in self.envoys.values():
            if envoy.node_id == node:
                envoy.moved_at = self.now

    def _spread(self, states: Mapping[str, Mapping[Key, Content]], chance: Random) -> None:
        """Let each server apply a change with its own delay, in the order of changes."""
        for server in self.servers:
            at = self.now + (chance.choice((0.0, 0.05, 2.0)) if server.number else 0.0)
            at = self._applied_at[server] = max(self._applied_at.get(server, 0.0), at)
            self.clock.at(at, self._apply, server, dict(states), dict(self.groups), chance.random() < 0.15)

    def _apply(self, server: Server, states: Mapping, groups: Mapping[str, str], waits: bool) -> None:
        server.apply(states, groups, publish=not waits)
        if waits:
            self.clock.later(0.02, server.publish)

    # --- Streams that break ----------------------------------------------------------------------------------------

    def _connect(self, envoy: Envoy) -> None:
        self.say("-- n%s connects to hub %s", envoy.number, self.homes[envoy.number].number)
        envoy.connect()

    def _break(self, envoy: Envoy, chance: Random) -> None:
        """Break all streams of a client; it reconnects to any server, before or after the server notices."""
        if not envoy.connected:
            return
        noticed_after_s = chance.choice((0.0, 0.0, 0.3, 5.0, 60.0))
        self.say("-- n%s loses its streams, which is noticed after %g s", envoy.number, noticed_after_s)
        for line in envoy.lines:
            line.break_off(noticed_after_s * chance.choice((1.0, 1.0, 0.5)))  # type: ignore[attr-defined]
        envoy.disconnected()
        back_s = chance.choice((0.1, 0.5, 0.5, 3.0, 30.0, 70.0))
        self.clock.later(back_s, self._return, envoy, chance.randrange(len(self.servers)))

    def _slow_down(self, envoy: Envoy, chance: Random) -> None:
        """Let a client read nothing for a time."""
        if envoy.connected:
            seconds = chance.uniform(0.0, 45.0)
            self.say("-- n%s reads nothing for %.1f s", envoy.number, seconds)
            envoy.was_late = True
            for line in envoy.lines:
                line.read_nothing(seconds)  # type: ignore[attr-defined]

    def _hold(self, envoy: Envoy, chance: Random) -> None:
        """Cut a client off from its server for a time that neither of them notices: TCP sends all of it later."""
        connection = self._connections.get(envoy.number)
        if connection is None or not envoy.connected:
            return
        seconds = chance.choice((0.5, 5.0, 15.0, 40.0))
        self.say("-- n%s is cut off from its server for %g s", envoy.number, seconds)
        envoy.was_late = True
        connection.hold(self.now + seconds)

    def _return(self, envoy: Envoy, number: int) -> None:
        server, before = self.servers[number], self.homes[envoy.number]
        self.homes[envoy.number] = server
        self._breaks[envoy.number] = self._breaks.get(envoy.number, 0) + 1
        if server is not before:
            self._change_server(envoy, before, server)
        envoy.returned = True
        envoy.returned_early = envoy.returned_early or any(
            line.envoy is envoy for other in self.servers for line in other.lines.values()
        )
        envoy.warming_at_return = {name for name, cluster in envoy.clusters.items() if cluster.warming}
        hidden = envoy.warming_listeners.keys() | envoy.unreported_listeners
        envoy.keeps_listeners = envoy.keeps_listeners or bool(hidden)
        self._connect(envoy)

    def _change_server(self, envoy: Envoy, before: Server, server: Server) -> None:
        """Record what a client's next server cannot know (docs/ordering.md, "Limits")."""
        if not envoy.delta:
            envoy.unknown = True
        if server not in self.peers_of(before):
            envoy.doubt(list(envoy.doubtful))
            envoy.loses_draining()

    # --- The end ---------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Stop all faults, fix bad resources, let time pass: all clients then have all resources."""
        self.say("-- no more faults")
        self.calm = True
        self.clock.run(self.now + 200.0, STEPS_MAX)
        self._repair()
        self.clock.run(self.now + 200.0, STEPS_MAX)
        self._compare(strict=False)
        for server in self.servers:
            server.claim()
        for group in GROUPS:
            self._publish(group, self.author.touched(group), Random(0))
        self.clock.run(self.now + 200.0, STEPS_MAX)
        self._compare(strict=True)
        self._check_silence()
        self._check_status()

    def _repair(self) -> None:
        """Fix all bad resources."""
        repaired = {group: self.author.repaired(group) for group in GROUPS}
        for group, state in repaired.items():
            self._publish(group, state, Random(0))

    def _compare(self, *, strict: bool) -> None:
        for envoy in self.envoys.values():
            assert all(subscription.line.open for subscription in envoy.subscriptions.values()), "a stream is gone"
            wrong = differences(envoy, self.author.states[self.groups[envoy.node_id]], strict=strict)
            assert not wrong, f"in the end {wrong[0]}"
            assert not strict or not envoy.draining, f"{envoy.node_id} still drains {envoy.draining}"

    def _check_status(self) -> None:
        for server in self.servers:
            assert not (wrong := server.status_problems()), wrong[0]

    def _check_silence(self) -> None:
        before = self._lines, self.responses
        self.clock.run(self.now + SILENCE_S, STEPS_MAX)
        for server in self.servers:
            server.check_nothing_unsaid()
        assert before == (self._lines, self.responses), "never silent"

    def check_memory(self) -> None:
        """End all streams; the hubs must free them, and what their clients claimed to have."""
        self._close_all()
        self.clock.run(self.now + SILENCE_S, STEPS_MAX)
        kept = sorted(text for text in texts_in([server.hub for server in self.servers]) if text.startswith(CLAIMED))
        assert not kept, f"{kept[0]}, which has closed its stream, is not forgotten"
        self._let_go()
        self._collect()
        left = [stream for stream in (ref() for ref in self._streams) if stream is not None]
        assert not left, f"{len(left)} closed streams are not forgotten"

    def _close_all(self) -> None:
        for line in [line for envoy in self.envoys.values() for line in envoy.lines]:
            line.close()

    def _let_go(self) -> None:
        """Drop all references of this run to streams and hubs."""
        for server in self.servers:
            server.lines.clear()
        for table in (self.envoys, self.homes, self._applied_at, self._connections):
            table.clear()  # type: ignore[attr-defined]
        self.clock.clear()

    def _collect(self) -> None:
        gc.collect()

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Use what the run needs of the outside world, and give it back."""
        yield
