"""A run whose changes come from a store, which replicas follow: their faults, and the checks of what they serve."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from simulation.content import Content, Key, encode
from simulation.engines import Engine, simulated
from simulation.envoy import Envoy
from simulation.ledger import Ledger, Write
from simulation.network import Server
from simulation.plan import Event
from simulation.process import Process
from simulation.replica import BEHIND_S, Replica
from simulation.world import STEPS_MAX, World
from support.encoded import EDS

from xds._generated import store_pb2
from xds.model.catalog import Catalog
from xds.protocol.node_history import HistoryEntry
from xds.publishing.changes import Change
from xds.publishing.edits import PutRules
from xds.store.errors import ConflictError, IdReusedError, OutcomeUnknownError, UnavailableError

TRIES_MAX = 5
HEAD = b"xds/head"
LOOK_S = 30.0
FIRST, FIRST_S = "other writers were first", 9.0
"""A refusal, and for how long others must have written before it."""
PROBED, PROBE_S = "probed", 8.0
"""The group that is changed to see whether replicas take changes, and how long each may take."""


@dataclass
class StoreWorld(World):
    """The replicas, the store's engine, and the ledger of what is written and served."""

    replicas: list[Replica] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    processes: list[Process] = field(default_factory=list)

    # --- Processes ---------------------------------------------------------------------------------------------------

    def _make_servers(self) -> None:
        self.engine = Engine(self.plan.store, self.clock, self.chance("engine"), caches=self.plan.caches)
        self._twins: set[str] = set()
        self._newest: list[tuple[float, int]] = []
        self._made = 0
        self._written_at = 0.0
        for number, workers in enumerate(self.plan.replicas):
            first = len(self.servers)
            slots = tuple(range(first, first + max(1, workers)))
            chance = self.chance(f"replica {number}")
            self.replicas.append(Replica(self, number, slots, workers=workers > 0, chance=chance))
            for slot in slots:
                server = self.make_server(slot)
                server.up = False
                self.servers.append(server)

    def process(self, name: str) -> Process:
        """Return a new process."""
        made = Process(self.clock, self.chance(f"process {len(self.processes)}"), name)
        self.processes.append(made)
        return made

    def new_server(self, slot: int, *, catalog: Catalog | None = None, process: Process | None = None) -> Server:
        """Return the new process in a slot, whose former one has ended."""
        self._made += 1
        self.servers[slot] = self.make_server(slot, catalog=catalog, process=process)
        return self.servers[slot]

    def lose_server(self, slot: int) -> None:
        """End a process; its clients go elsewhere."""
        server = self.servers[slot]
        if not server.up:
            return
        server.die()
        self._made += 1
        chance = self.chance(f"loss {self._made}")
        for envoy in self.envoys.values():
            if self.homes[envoy.number] is server and envoy.connected:
                self._lose_streams(envoy, chance)

    def _lose_streams(self, envoy: Envoy, chance: Random) -> None:
        self.say("-- n%s loses its streams, as its server is gone", envoy.number)
        envoy.was_late = True
        for line in envoy.lines:
            line.break_off(0.0)  # type: ignore[attr-defined]
        envoy.disconnected()
        self.clock.later(chance.choice((0.1, 0.5, 3.0)), self._return, envoy, chance.randrange(len(self.servers)))

    def fail(self, why: str) -> None:
        """Let the run fail after the present event."""
        self.clock.failure = self.clock.failure or why

    def peers_of(self, server: Server) -> list[Server]:
        """Return the other workers of a replica."""
        slots = next((replica.slots for replica in self.replicas if server.number in replica.slots), ())
        if not server.up:
            return []
        return [other for slot in slots if (other := self.servers[slot]) is not server and other.up]

    def remember(self, server: Server, entry: HistoryEntry) -> None:
        """Have the replica keep what its worker knows of a node."""
        for replica in self.replicas:
            if server.number in replica.slots and server.up:
                replica.remember(entry)

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Let the product's code use the store's engine and the simulated clocks."""
        with simulated(self.engine, self.chance("numbers"), self.fail):
            try:
                yield
            finally:
                for process in self.processes:
                    process.kill()
                self.engine.end()
                if any(process.has_dead for process in self.processes):
                    self._collect()

    def _collect(self) -> None:
        """Free the tasks of killed processes too, whatever they do then."""
        hook, sys.unraisablehook = sys.unraisablehook, lambda _unraisable: None
        for process in self.processes:
            process.forget_dead()
        gc.collect()
        sys.unraisablehook = hook

    # --- The run -----------------------------------------------------------------------------------------------------

    def _make_first(self, states: Mapping[str, Mapping[Key, Content]]) -> None:
        self._first = self._write(states, Change(
            upserts={group: _encoded(state) for group, state in states.items()}, edit=self._rules(), id="first"
        ), groups=dict(self.groups))  # fmt: skip
        self._first.is_final = True

    def run(self) -> None:
        """Start the replicas, make the first change, and run all events. Raises AssertionError."""
        for replica in self.replicas:
            replica.start()
        self._submit(self._first, self.chance("first"))
        while self._first.made_at is None:
            assert self.now < 1_100.0, "the replicas do not start"
            self.clock.run(self.now + 0.5, STEPS_MAX)
        self.clock.later(LOOK_S, self._look)
        super().run()

    def _connect(self, envoy: Envoy) -> None:
        server = self.servers[self.homes[envoy.number].number]
        if not server.up or not server.groups:
            self.homes[envoy.number] = self.servers[envoy.chance.randrange(len(self.servers))]
            self.clock.later(0.3, self._connect, envoy)
            return
        self.homes[envoy.number] = server
        super()._connect(envoy)

    def _return(self, envoy: Envoy, number: int) -> None:
        server = self.servers[number]
        if not server.up or not server.groups:
            self.clock.later(0.5, self._return, envoy, envoy.chance.randrange(len(self.servers)))
        else:
            super()._return(envoy, number)

    def _look(self) -> None:
        """Check that no replica is behind the store for long without saying so."""
        if self.engine.etcd is not None:
            head = store_pb2.Head.FromString(self.engine.etcd.value(HEAD) or b"")
            self._newest.append((self.now, head.revision))
            due = [revision for at, revision in self._newest if at <= self.now - BEHIND_S]
            for replica in self.replicas:
                if not due or not replica.up or replica.process is None:
                    continue
                awake = replica.process.frozen_until + BEHIND_S < self.now
                if awake and replica.up_since + BEHIND_S < self.now and replica.revision < due[-1]:
                    assert replica.admits, (
                        f"{replica.name} is at revision {replica.revision} instead of {due[-1]}, and says nothing of it"
                    )
        self.clock.later(LOOK_S, self._look)

    def note_served(self, replica: Replica) -> None:
        """Record what a replica serves."""
        if replica.revision > self.ledger.newest:
            self._written_at = self.now
        if replica.revision > 0:
            self.ledger.note(replica.revision, replica.states, replica.groups, replica.name)

    # --- Writes ------------------------------------------------------------------------------------------------------

    def _rules(self) -> PutRules:
        return PutRules(self.table(self.groups), lambda _known: ())

    def _write(
        self,
        states: Mapping[str, Mapping[Key, Content]],
        change: Change,
        groups: Mapping[str, str] | None = None,
        *,
        merges: bool = False,
    ) -> Write:
        made = Write(change.id, change, states, groups, merges=merges, expected=change.expected_revision)
        self.ledger.writes.append(made)
        return made

    def _next_id(self) -> str:
        return f"w{len(self.ledger.writes)}"

    def _publish(self, group: str, state: Mapping[Key, Content], chance: Random) -> None:
        before = self.author.states[group]
        self._say_change(group, before, state)
        self.author.keep(group, dict(state))
        write = self._change_of(group, before, state, chance)
        write.is_final = self.calm
        self._submit(write, chance)

    def _change_of(
        self,
        group: str,
        before: Mapping[Key, Content],
        state: Mapping[Key, Content],
        chance: Random,
        *,
        entry_id: str = "",
    ) -> Write:
        """Return the change of a group to a snapshot: its endpoints alone, if nothing else changes, or as a whole."""
        entry_id = entry_id or self._next_id()
        changed = {key: content for key, content in state.items() if before.get(key) != content}
        is_of_endpoints = bool(changed) and before.keys() == state.keys() and all(key[0] == EDS for key in changed)
        if is_of_endpoints and not self.calm and chance.random() < 0.7:
            merged = Change(upserts={group: _encoded(changed)}, id=entry_id, mergeable=True)
            return self._write({group: changed}, merged, merges=True)
        expected = None
        if not self.calm and chance.random() < 0.15:
            expected = max(0, chance.choice(self.replicas).revision)
        whole = Change(upserts={group: _encoded(state)}, replace=(group,), id=entry_id, expected_revision=expected)
        return self._write({group: state}, whole)

    def _move(self, node: str, group: str, chance: Random) -> None:
        self.say("-- %s moves from %s to %s", node, self.groups[node], group)
        self.groups = {**self.groups, node: group}
        self._note_move(node)
        self._submit_rules(chance)

    def _submit_rules(self, chance: Random) -> None:
        write = self._write({}, Change(edit=self._rules(), id=self._next_id()), groups=dict(self.groups))
        write.is_final = self.calm
        self._submit(write, chance)

    def _submit(self, write: Write, chance: Random, *, at: int | None = None) -> None:
        """Let a client make a change at a replica."""
        if self.calm and not write.is_final:
            return
        up = [replica for replica in self.replicas if replica.up]
        if not up:
            self.clock.later(1.0, self._submit, write, chance)
            return
        replica = chance.choice(up) if at is None else up[at % len(up)]
        self.say("   %s: the change %s", replica.name, write.id)
        write.tries += 1
        write.open_tries += 1
        replica.write(write)

    def answer(self, replica: Replica, write: Write, outcome: int | Exception) -> None:
        """Take a replica's answer to a change; try it again where that may help."""
        replica.writes.remove(write)
        write.open_tries -= 1
        self.say("   %s: the change %s: %s", replica.name, write.id, outcome)
        if isinstance(outcome, int):
            try:
                self.ledger.acknowledge(write, outcome)
            except AssertionError as error:
                self.fail(str(error))
            return
        if isinstance(outcome, OutcomeUnknownError):
            write.may_be_made = True
        elif isinstance(outcome, IdReusedError):
            if write.id not in self._twins:
                self.fail(f"the id of the change {write.id} is taken to be another's: {outcome}")
            return
        elif isinstance(outcome, ConflictError):
            if write.expected is None:
                self.fail(f"the change {write.id} expects no revision, and was answered: {outcome}")
            return
        elif not isinstance(outcome, UnavailableError):
            self.fail(f"the change {write.id} was answered: {outcome!r}")
            return
        elif FIRST in str(outcome) and self._written_at < self.now - FIRST_S and not replica.was_frozen(FIRST_S):
            self.fail(f"the change {write.id} was answered: {outcome}; but nobody has written anything")
            return
        if write.made_at is None and (write.is_final or write.tries < TRIES_MAX):
            chance = Random(f"{self.plan.seed} {write.id} {write.tries}")
            self.clock.later(chance.choice((0.1, 1.0, 5.0)), self._submit, write, chance)

    # --- What happens ------------------------------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        fault = self._faults.get(event.kind)
        if fault is None:
            super()._happen(event)
            return
        chance = Random(event.seed)
        fault(self, self.replicas[event.who % len(self.replicas)], chance)

    def _crash(self, replica: Replica, chance: Random) -> None:
        if replica.up:
            self.say("-- %s is killed", replica.name)
            replica.kill()
            self.clock.later(chance.choice((0.1, 2.0, 20.0)), replica.start)

    def _stop(self, replica: Replica, chance: Random) -> None:
        if replica.up:
            self.say("-- %s is to stop", replica.name)
            replica.stop()
            self.clock.later(chance.choice((2.0, 20.0, 70.0)), replica.start)

    def _freeze(self, replica: Replica, chance: Random) -> None:
        self._freeze_for(replica, chance.choice((0.5, 4.0, 30.0)), chance)

    def _freeze_for(self, replica: Replica, seconds: float, chance: Random) -> None:
        """Freeze the process, or one of its workers."""
        for envoy in self.envoys.values():
            envoy.was_late = True
        if replica.workers and chance.random() < 0.5:
            server = self.servers[chance.choice(replica.slots)]
            if server.frozen_until <= self.now:
                self.say("-- hub %s is frozen for %g s", server.number, seconds)
                server.frozen_until = self.now + seconds
        elif replica.process is not None and not replica.process.is_frozen:
            self.say("-- %s is frozen for %g s", replica.name, seconds)
            replica.process.freeze(seconds)

    def _suspend(self, replica: Replica, chance: Random) -> None:
        """Freeze the process while its monotonic clock stands still, as when a virtual machine is suspended."""
        if replica.process is not None and not replica.process.is_frozen:
            seconds = chance.choice((0.5, 4.0, 30.0))
            self._freeze_for(replica, seconds, Random(0) if not replica.workers else chance)
            if replica.process.is_frozen:
                replica.process.leap(-seconds)
                self._note_leap(replica)

    def _leap(self, replica: Replica, chance: Random) -> None:
        """Let the monotonic clock leap, which ends all waits early: the order of changes can't be held then."""
        if replica.process is None or replica.process.is_frozen:
            return
        seconds = chance.choice((1.0, 30.0, 3_600.0))
        self.say("-- the monotonic clock of %s leaps by %g s", replica.name, seconds)
        replica.process.leap(seconds)
        for envoy in self.envoys.values():
            envoy.unknown = envoy.was_late = True
        self._note_leap(replica)

    def _note_leap(self, replica: Replica) -> None:
        for slot in replica.slots:
            if self.servers[slot].up and self.servers[slot].process is replica.process:
                self.servers[slot].leap()

    def _wall(self, replica: Replica, chance: Random) -> None:
        if replica.process is not None:
            seconds = chance.choice((3_600.0, -3_600.0, -86_400.0))
            self.say("-- the wall clock of %s leaps by %g s", replica.name, seconds)
            replica.process.set_wall(seconds)

    def _compact(self, replica: Replica, chance: Random) -> None:
        if replica.up and replica.process is not None:
            kept = chance.choice((0, 1, 3))
            self.say("-- %s keeps %s revisions", replica.name, kept)
            replica.process.create_task(replica.compact(kept))

    def _again(self, replica: Replica, chance: Random) -> None:
        """Make a change twice at once, with the same id."""
        group, before, state = self._some_change(chance)
        write = self._change_of(group, before, state, chance)
        self.author.keep(group, dict(state))
        self._submit(write, chance, at=replica.number)
        self.clock.later(chance.choice((0.0, 0.005)), self._submit_at, write, chance, replica.number + 1)

    def _submit_at(self, write: Write, chance: Random, at: int) -> None:
        self._submit(write, chance, at=at)

    def _burst(self, replica: Replica, chance: Random) -> None:
        """Make changes at all replicas within a few milliseconds."""
        for number in range(3 * len(self.replicas)):
            self.clock.later(chance.random() * 0.03, self._change_at, number, Random(chance.random()))

    def _overtake(self, replica: Replica, chance: Random) -> None:
        """Let a replica's replies be late while others write, and let it write again when they are not."""
        assert self.engine.etcd is not None
        self.say("-- etcd's replies to %s are late for half a second", replica.name)
        self.engine.etcd.late[replica.name] = (self.now + 0.5, 0.35)
        up = [other for other in self.replicas if other.up]
        if replica in up:
            at = up.index(replica)
            for delay_s, number in ((0.0, at), (0.1, at + 1), (1.5, at)):
                self.clock.later(delay_s, self._change_at, number, Random(chance.random()))

    def _change_at(self, at: int, chance: Random) -> None:
        group, before, state = self._some_change(chance)
        self.author.keep(group, dict(state))
        self._submit(self._change_of(group, before, state, chance), chance, at=at)

    def _twins_of(self, replica: Replica, chance: Random) -> None:
        """Make two changes of a group with the same id."""
        group, before, state = self._some_change(chance)
        entry_id = self._next_id()
        self._twins.add(entry_id)
        one = self._change_of(group, before, state, chance, entry_id=entry_id)
        other = self._change_of(group, before, self.author.change(group, chance), chance, entry_id=entry_id)
        self._submit(one, chance, at=replica.number)
        self.clock.later(chance.choice((0.0, 0.003, 0.01)), self._submit_at, other, chance, replica.number + 1)

    def _some_change(self, chance: Random) -> tuple[str, Mapping[Key, Content], Mapping[Key, Content]]:
        group = chance.choice(sorted(set(self.groups.values())))
        return group, self.author.states[group], self.author.change(group, chance)

    def _worker_dies(self, replica: Replica, chance: Random) -> None:
        if replica.workers and replica.up:
            slot = chance.choice(replica.slots)
            self.say("-- hub %s is killed", slot)
            self.lose_server(slot)
            self.clock.later(chance.choice((0.2, 3.0)), self._restart_worker, replica, slot)

    def _restart_worker(self, replica: Replica, slot: int) -> None:
        if replica.up and not self.servers[slot].up:
            replica.start_worker(slot)

    # --- Faults of the store -----------------------------------------------------------------------------------------

    def _cut(self, replica: Replica, chance: Random) -> None:
        assert self.engine.etcd is not None
        seconds = chance.choice((0.3, 2.0, 10.0, 60.0))
        self.say("-- %s is cut off from etcd for %g s", replica.name, seconds)
        self.engine.etcd.cut_off[replica.name] = self.now + seconds

    def _lose(self, replica: Replica, chance: Random) -> None:
        assert self.engine.etcd is not None
        seconds = chance.choice((0.5, 3.0, 12.0))
        self.say("-- etcd's replies are lost for %g s", seconds)
        self.engine.etcd.losing_until = self.now + seconds

    def _member(self, replica: Replica, chance: Random) -> None:
        assert self.engine.etcd is not None
        number, seconds = chance.randrange(len(self.engine.etcd.members)), chance.choice((0.5, 5.0, 40.0))
        lost = chance.random() < 0.5
        self.say("-- member %s of etcd is %s for %g s", number, "cut off" if lost else "down", seconds)
        (self.engine.etcd.isolate if lost else self.engine.etcd.stop)(number)
        self.clock.later(seconds, self.engine.etcd.mend, number)

    def _forget(self, replica: Replica, chance: Random) -> None:
        assert self.engine.etcd is not None
        self.say("-- etcd compacts its revisions")
        self.engine.etcd.compact(max(0, self.engine.etcd.revision - chance.choice((0, 2, 10))))

    def _junk(self, replica: Replica, chance: Random) -> None:
        """Set a key below the log's prefix that is none of the store's, and remove it after a time."""
        assert self.engine.etcd is not None
        key = b"xds/log/" + chance.choice((b"zz", b"0000", b"%020d" % (self.ledger.newest + chance.randrange(1, 4))))
        if self.engine.etcd.value(key) is None:
            self.say("-- something else is written to %s", key.decode())
            self.engine.etcd.write({key: b"no protobuf at all \xff"})
            self.clock.later(chance.choice((2.0, 20.0)), self._remove, key)

    def _remove(self, key: bytes) -> None:
        assert self.engine.etcd is not None
        if (self.engine.etcd.value(key) or b"").startswith(b"no protobuf"):
            self.engine.etcd.write({key: None})

    def _damage(self, replica: Replica, chance: Random) -> None:
        """Damage a record of the log, and restore it after a time."""
        etcd = self.engine.etcd
        assert etcd is not None
        keys = list(etcd.keys(b"xds/log/"))
        if keys:
            key = chance.choice(keys[-2:])
            value = etcd.value(key)
            assert value is not None
            if value.startswith((b"damaged", b"no protobuf")):
                return
            self.say("-- %s is damaged", key.decode())
            etcd.write({key: b"damaged \xff"})
            self.clock.later(chance.choice((2.0, 20.0)), self._restore, key, value)

    def _restore(self, key: bytes, value: bytes) -> None:
        assert self.engine.etcd is not None
        if (self.engine.etcd.value(key) or b"").startswith(b"damaged"):
            self.engine.etcd.write({key: value})

    def _disk(self, replica: Replica, chance: Random) -> None:
        assert self.engine.disk is not None
        seconds = chance.choice((0.5, 3.0, 15.0))
        self.say("-- the disk fails for %g s", seconds)
        self.engine.disk.fails = True
        self.clock.later(seconds, self._disk_again)

    def _disk_again(self) -> None:
        assert self.engine.disk is not None
        self.engine.disk.fails = False

    _faults: ClassVar[Mapping[str, Callable[..., None]]] = {
        "crash": _crash, "stop": _stop, "freeze": _freeze, "suspend": _suspend, "leap": _leap, "wall": _wall,
        "compact": _compact, "burst": _burst, "again": _again, "twins": _twins_of, "worker": _worker_dies,
        "cut": _cut, "lose": _lose, "late": _overtake, "member": _member, "forget": _forget, "junk": _junk,
        "damage": _damage, "disk": _disk,
    }  # fmt: skip

    # --- The end -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self.clock.later(80.0, self._start_all)
        self._start_all()
        etcd = self.engine.etcd
        if etcd is not None:
            etcd.calm = True
            etcd.cut_off.clear()
            etcd.losing_until = 0.0
            for number in range(len(etcd.members)):
                etcd.mend(number)
        if self.engine.disk is not None:
            self.engine.disk.fails = False
        super()._end()
        self.ledger.check()
        problems = [f"{process.name}: {each}" for process in self.processes for each in process.problems]
        problems += [
            f"{replica.name}: the task {name!r} died" for replica in self.replicas for name in replica.deaths()
        ]
        assert not problems, problems[0]

    def _start_all(self) -> None:
        """Start all processes that are down."""
        for replica in self.replicas:
            replica.start()
            for slot in replica.slots if replica.workers else ():
                self._restart_worker(replica, slot)

    def _repair(self) -> None:
        waiting = [write.id for write in self.ledger.writes if write.open_tries]
        assert not waiting, f"the change {waiting[0]} was never answered"
        for replica in self.replicas:
            self._probe(replica)
        super()._repair()
        self._submit_rules(Random(0))

    def _probe(self, replica: Replica) -> None:
        """Check that a replica takes a change while nothing fails: of a group without nodes."""
        assert replica.up, f"{replica.name} does not start"
        key = (EDS, "probed")
        state = {key: Content(*key, PROBED, self.author.probe())}
        change = Change(upserts={PROBED: _encoded(state)}, replace=(PROBED,), id=self._next_id())
        write = self._write({PROBED: state}, change)
        write.is_final = True
        self.author.states[PROBED] = state
        write.tries = write.open_tries = 1
        replica.write(write)
        self.clock.run(self.now + PROBE_S, STEPS_MAX)
        assert write.made_at is not None, f"{replica.name} does not take a change, though nothing fails"

    def _compare(self, *, strict: bool) -> None:
        wanted = {group: dict(state) for group, state in self.author.states.items() if state}
        for replica in self.replicas:
            assert replica.up, f"{replica.name} does not start"
            assert not replica.admits, f"in the end {replica.name} says {replica.admits}"
            served = {group: dict(state) for group, state in replica.states.items() if state}
            assert replica.revision == self.ledger.newest, f"{replica.name} is at {replica.revision} in the end"
            assert served == wanted, f"in the end {replica.name} does not serve what was written last"
            assert replica.groups == self.groups, f"in the end {replica.name} has other rules"
        super()._compare(strict=strict)

    def _let_go(self) -> None:
        super()._let_go()
        for process in self.processes:
            process.kill()
        self.replicas.clear()
        self.servers.clear()


def _encoded(state: Mapping[Key, Content]) -> tuple:
    return tuple(encode(content) for content in state.values())
