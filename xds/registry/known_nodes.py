"""The nodes that are known: one record for each id that was seen, connected or gone.

A node may have several sessions, in one process or in several. It is *connected* while it has any, and *gone* if it was
seen and has none, until it is forgotten. Where several replicas serve, it may be connected to another one: then it is
not gone either. Counts are kept as nodes come and go, so no question walks over all of them. Times are arguments, in
milliseconds since 1970.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from xds.model.groups import Locality
from xds.registry.change_log import ChangeLog
from xds.registry.session_events import SessionBegan, SessionEnded, SessionEvent, SessionMoved

Shared = TypeVar("Shared", str, Locality)
SHARED_MAX = 4_096
"""Texts and localities that records are looked up in, so that equal ones are one object."""
SHARED_CHARACTERS_MAX = 256
"""Longer ones are not looked up: the table would keep them when no record has them any more."""
NOWHERE = Locality()
RECORD_BYTES = 550
"""Memory of a record without the characters of its texts, in all tables; bench/known_nodes.py measures it."""
SERVER_ENDED = "the server ended"
PROCESS_ENDED = "the worker that served it ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNode:
    """A node that was seen. Its texts are the client's own: escape them where they are shown."""

    id: str
    group: str
    """The group of its newest session."""
    cluster: str = ""
    address: str = ""
    """Where it connected from."""
    identity: tuple[str, ...] = ()
    user_agent: str = ""
    locality: Locality = NOWHERE
    first_seen_ms: int
    last_seen_ms: int
    """Now, for a connected node."""
    accepted_revision: int = 0
    """The newest revision that it had accepted when a session of it ended last; 0 if that is not known."""
    left_because: str = ""
    """Why its last session ended, "" while it is connected here."""
    is_connected: bool = False
    """Whether it is connected to this replica."""
    replica: str = ""
    """Another replica to which it is connected, "" for none."""

    @property
    def is_gone(self) -> bool:
        """Whether it is connected nowhere."""
        return not (self.is_connected or self.replica)

    @property
    def envoy_version(self) -> str:
        """The version of the Envoy, "" for other clients."""
        name, _, version = self.user_agent.partition(" ")
        return version if name == "envoy" else ""


class Place(NamedTuple):
    """One session of a node: where it is served, and what is known by it."""

    process: int
    session: int
    group: str
    address: str


@dataclass(slots=True, eq=False)
class _Record:
    id: str
    group: str
    cluster: str
    address: str
    identity: tuple[str, ...]
    user_agent: str
    locality: Locality
    first_seen_ms: int
    last_seen_ms: int
    accepted_revision: int = 0
    left_because: str = ""
    process: int | None = None
    """The process of its newest session, None without one."""
    session: int = 0
    replica: str = ""
    is_awaited: bool = False
    """It was connected when the server ended, and could not return before the server did."""

    @property
    def size_bytes(self) -> int:
        place = self.locality
        texts = (self.id, self.group, self.cluster, self.address, self.user_agent, self.left_because, *self.identity)
        return RECORD_BYTES + _bytes_of("".join((*texts, place.region, place.zone, place.sub_zone)))

    def known(self, now_ms: int) -> KnownNode:
        is_connected = self.process is not None
        return KnownNode(
            id=self.id,
            group=self.group,
            cluster=self.cluster,
            address=self.address,
            identity=self.identity,
            user_agent=self.user_agent,
            locality=self.locality,
            first_seen_ms=self.first_seen_ms,
            last_seen_ms=max(now_ms, self.last_seen_ms) if is_connected else self.last_seen_ms,
            accepted_revision=self.accepted_revision,
            left_because="" if is_connected else self.left_because,
            is_connected=is_connected,
            replica=self.replica,
        )


class JournalEntry(NamedTuple):
    """A session that began or ended."""

    process: int
    number: int
    """The number of the event among those of its process."""
    session: int
    id: str
    began: bool


@dataclass(slots=True, eq=False)
class Journal:
    """The sessions that began and ended while a question is asked of several processes."""

    entries: list[JournalEntry] = field(default_factory=list)


class KnownNodes:
    """The table of known nodes, of one replica.

    At most ``nodes_max`` nodes and about ``bytes_max`` bytes are kept: those that left first make room. While all are
    connected, a further one is not recorded, and so is not missed when it leaves. A gone node is forgotten after
    ``forget_after_ms``, at once if that is 0. ``on_full`` is called whenever a node has to make room, or finds none.
    """

    def __init__(
        self,
        *,
        nodes_max: int = 100_000,
        bytes_max: int = 128 * 1024 * 1024,
        forget_after_ms: int = 3_600_000,
        began_ms: int = 0,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._nodes_max, self._bytes_max = nodes_max, bytes_max
        self._forget_after_ms = forget_after_ms
        self._began_ms = began_ms
        self._on_full = on_full
        self._records: dict[str, _Record] = {}
        self._bytes = 0
        self._live: dict[int, dict[int, _Record]] = {}
        """The nodes of the open sessions, by process and session."""
        self._others: dict[str, list[Place]] = {}
        """The sessions before the newest one of the nodes that have several, oldest first."""
        self._gone: dict[str, _Record] = {}
        """The gone nodes, those that are forgotten first at the beginning unless ``_is_unsorted``."""
        self._is_unsorted = False
        self._gone_by_group: dict[str, int] = {}
        self._gone_changes: dict[str, int] = {}
        """The number of the last change of the gone nodes of each group that has any."""
        self._changes_of_gone = 0
        self._received: dict[int, int] = {}
        """The number of events of each process."""
        self._journals: list[Journal] = []
        self._shared: dict[object, object] = {}
        self._log: ChangeLog | None = None
        self._other_replicas: dict[str, list[str]] = {}
        """The replicas before ``_Record.replica`` of the nodes that are connected to several others, oldest first."""
        self._on_several: set[str] = set()
        self._unwritten: dict[str, None] | None = None
        """The ids of nodes that changed or were forgotten since the last ``take_unwritten``, None before the first."""

    # --- Reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._records)

    @property
    def size_bytes(self) -> int:
        """An estimate of the memory of all records."""
        return self._bytes

    @property
    def gone_by_group(self) -> Mapping[str, int]:
        """The numbers of gone nodes by group."""
        return self._gone_by_group

    @property
    def gone_changes(self) -> Mapping[str, int]:
        """For each group with gone nodes, a number that is another one whenever other nodes are gone."""
        return self._gone_changes

    @property
    def doubled(self) -> Set[str]:
        """The ids of the nodes with several sessions."""
        return self._others.keys()

    @property
    def on_several(self) -> Set[str]:
        """The ids of the nodes that are connected to several replicas, of which this one may be one."""
        return self._on_several

    def replicas(self, node_id: str) -> list[str]:
        """Return the other replicas to which a node is connected, the oldest first."""
        record = self._records.get(node_id)
        return [] if record is None or not record.replica else [*self._other_replicas.get(node_id, ()), record.replica]

    def node(self, node_id: str, now_ms: int) -> KnownNode | None:
        """Return a node, None if it is not known."""
        record = self._records.get(node_id)
        return None if record is None else record.known(now_ms)

    def nodes(self, now_ms: int) -> Iterator[KnownNode]:
        """Iterate over all nodes, in no order. The table must not change meanwhile."""
        return (record.known(now_ms) for record in self._records.values())

    def gone(self, group: str | None = None) -> Iterator[KnownNode]:
        """Iterate over the gone nodes, of one group or of all. The table must not change meanwhile."""
        return (record.known(0) for record in self._gone.values() if group in (None, record.group))

    def sessions(self, node_id: str) -> list[Place]:
        """Return the sessions of a node, oldest first."""
        record = self._records.get(node_id)
        if record is None or record.process is None:
            return []
        newest = Place(record.process, record.session, record.group, record.address)
        return [*self._others.get(node_id, ()), newest]

    def group_of(self, node_id: str) -> str | None:
        """Return the group of a node, None if it is not known."""
        record = self._records.get(node_id)
        return None if record is None else record.group

    def is_gone(self, node_id: str) -> bool:
        """Whether a node is known and connected nowhere."""
        return node_id in self._gone

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Keep a journal of the sessions that begin and end in the block."""
        kept = Journal()
        self._journals.append(kept)
        try:
            yield kept
        finally:
            self._journals.remove(kept)

    # --- Sessions ----------------------------------------------------------------------------------------------------

    def note(self, process: int, events: Iterable[SessionEvent]) -> list[Place]:
        """Note what a process reports, in order; return the older sessions of nodes that got another one.

        Those may be half open: the client may have lost the connection without the server having noticed it.
        """
        older: list[Place] = []
        for event in events:
            self._received[process] = self._received.get(process, 0) + 1
            match event:
                case SessionBegan():
                    older += self._begin(process, event)
                case SessionMoved():
                    self._move(process, event)
                case SessionEnded():
                    self._end(process, event)
        return older

    def end_process(self, process: int, at_ms: int, why: str = PROCESS_ENDED) -> None:
        """Note that a process has ended, and all its sessions with it."""
        for session in list(self._live.get(process, ())):
            self._received[process] = self._received.get(process, 0) + 1
            self._end(process, SessionEnded(session, at_ms, 0, why))
        self._live.pop(process, None)
        self._received.pop(process, None)

    def _begin(self, process: int, event: SessionBegan) -> list[Place]:
        older: list[Place] = []
        record = self._records.get(event.id)
        if record is None:
            record = _Record(event.id, "", "", "", (), "", event.locality, event.at_ms, event.at_ms)
            _describe(record, event, self._share)
            size = record.size_bytes
            if not self._make_room(size):
                return older
            self._records[record.id] = record
            self._bytes += size
        else:
            if record.process is not None:
                older = [Place(record.process, record.session, record.group, record.address)]
                self._others.setdefault(record.id, []).extend(older)
            else:
                self._not_gone(record)
            self._bytes -= record.size_bytes
            _describe(record, event, self._share)
            record.left_because = ""
            self._bytes += record.size_bytes
        record.process, record.session = process, event.session
        record.last_seen_ms = event.at_ms
        record.is_awaited = False
        self._live.setdefault(process, {})[event.session] = record
        self._note_change(record)
        self._write_down(process, event.session, record, began=True)
        return older

    def _move(self, process: int, event: SessionMoved) -> None:
        record = self._live.get(process, {}).get(event.session)
        if record is None:
            return
        group = self._share(event.group)
        if (record.process, record.session) == (process, event.session):
            self._bytes += _bytes_of(group) - _bytes_of(record.group)
            record.group = group
            self._note_change(record)
        else:
            self._others[record.id] = [
                each._replace(group=group) if each[:2] == (process, event.session) else each
                for each in self._others[record.id]
            ]

    def _end(self, process: int, event: SessionEnded) -> None:
        record = self._live.get(process, {}).pop(event.session, None)
        if record is None:
            return
        self._write_down(process, event.session, record, began=False)
        record.accepted_revision = event.accepted_revision or record.accepted_revision
        others = self._others.get(record.id, [])
        if (record.process, record.session) != (process, event.session):
            others[:] = [each for each in others if each[:2] != (process, event.session)]
        elif others:
            self._bytes -= record.size_bytes
            record.process, record.session, record.group, record.address = others.pop()
            self._bytes += record.size_bytes
        else:
            self._leave(record, event.at_ms, event.why)
        if not others:
            self._others.pop(record.id, None)
        self._note_change(record)

    def _leave(self, record: _Record, at_ms: int, why: str) -> None:
        record.process, record.session = None, 0
        record.last_seen_ms = at_ms
        self._bytes += _bytes_of(why) - _bytes_of(record.left_because)
        record.left_because = self._share(why)
        if not record.replica:
            self._note_gone(record)

    def _write_down(self, process: int, session: int, record: _Record, *, began: bool) -> None:
        for journal in self._journals:
            journal.entries.append(JournalEntry(process, self._received[process], session, record.id, began))

    # --- Gone, forgotten ---------------------------------------------------------------------------------------------

    def _note_gone(self, record: _Record) -> None:
        if not self._forget_after_ms:
            self._drop(record)
            return
        last = next(reversed(self._gone.values()), None)
        self._is_unsorted = self._is_unsorted or (last is not None and self._since(last) > self._since(record))
        self._gone[record.id] = record
        self._gone_by_group[record.group] = self._gone_by_group.get(record.group, 0) + 1
        self._note_gone_change(record.group)

    def _not_gone(self, record: _Record) -> None:
        if self._gone.pop(record.id, None) is None:
            return
        left = self._gone_by_group[record.group] - 1
        if left:
            self._gone_by_group[record.group] = left
            self._note_gone_change(record.group)
        else:
            del self._gone_by_group[record.group]
            del self._gone_changes[record.group]

    def _note_gone_change(self, group: str) -> None:
        self._changes_of_gone += 1
        self._gone_changes[group] = self._changes_of_gone

    def _since(self, record: _Record) -> int:
        """Return since when a node could have returned."""
        return max(record.last_seen_ms, self._began_ms) if record.is_awaited else record.last_seen_ms

    def _sort(self) -> None:
        if self._is_unsorted:
            self._gone = {record.id: record for record in sorted(self._gone.values(), key=self._since)}
            self._is_unsorted = False

    def forget(self, now_ms: int) -> int:
        """Forget the nodes that have been gone for long; return how many. To be called regularly."""
        self._sort()
        due: list[_Record] = []
        for record in self._gone.values():
            if self._since(record) + self._forget_after_ms > now_ms:
                break
            due.append(record)
        for record in due:
            self._drop(record)
        return len(due)

    def _drop(self, record: _Record) -> None:
        self._not_gone(record)
        del self._records[record.id]
        self._bytes -= record.size_bytes
        self._note_change(record)

    def _make_room(self, size: int) -> bool:
        """Drop the nodes that left first until another one fits; return whether it does."""
        is_full = False
        while len(self._records) >= self._nodes_max or self._bytes + size > self._bytes_max:
            is_full = True
            self._sort()
            first = next(iter(self._gone.values()), None)
            if first is None:
                break
            self._drop(first)
        if is_full:
            self._on_full()
        return len(self._records) < self._nodes_max and self._bytes + size <= self._bytes_max

    # --- Other replicas ----------------------------------------------------------------------------------------------

    def merge(self, replica: str, nodes: Iterable[KnownNode], now_ms: int) -> None:
        """Merge what another replica knows. ``nodes`` must have every node that is connected to it or was since.

        A node that is connected there is not gone here. Otherwise who saw it last knows best.
        """
        for node in nodes:
            record = self._records.get(node.id)
            if record is None:
                self._learn(replica, node, now_ms)
                continue
            was_gone, was_there = self._is_gone(record), self._leave_replica(record, replica)
            record.first_seen_ms = min(record.first_seen_ms, node.first_seen_ms)
            if node.is_connected:
                self._come_to_replica(record, replica)
            has_left = was_there and not record.replica
            is_newer = node.is_connected or has_left or node.last_seen_ms > record.last_seen_ms
            if record.process is None and is_newer:
                if was_gone:
                    self._not_gone(record)
                    was_gone = False
                self._bytes -= record.size_bytes
                self._copy(record, node)
                self._bytes += record.size_bytes
            if was_gone and not self._is_gone(record):
                self._not_gone(record)
            elif self._is_gone(record) and not was_gone:
                self._note_gone(record)
            self._note_change(record, is_own=False)

    def end_replica(self, replica: str, now_ms: int, why: str = "its replica ended") -> None:
        """Note that another replica serves no nodes any more."""
        for record in [each for each in self._records.values() if each.replica]:
            if not self._leave_replica(record, replica):
                continue
            if self._is_gone(record):
                self._bytes += _bytes_of(why) - _bytes_of(record.left_because)
                record.last_seen_ms, record.left_because = now_ms, why
                self._note_gone(record)
            self._note_change(record, is_own=False)

    def _come_to_replica(self, record: _Record, replica: str) -> None:
        if record.replica:
            self._other_replicas.setdefault(record.id, []).append(record.replica)
        record.replica = self._share(replica)

    def _leave_replica(self, record: _Record, replica: str) -> bool:
        """Note that a node is not connected to another replica; return whether it was."""
        others = self._other_replicas.get(record.id, [])
        if record.replica == replica:
            record.replica = others.pop() if others else ""
        elif replica in others:
            others.remove(replica)
        else:
            return False
        if not others:
            self._other_replicas.pop(record.id, None)
        return True

    def load(self, nodes: Iterable[KnownNode], now_ms: int) -> None:
        """Take the nodes that a file has. Those that were connected are gone now, and awaited since ``began_ms``."""
        for node in nodes:
            is_awaited = node.is_connected
            why = SERVER_ENDED if is_awaited else node.left_because
            since = max(node.last_seen_ms, self._began_ms) if is_awaited else node.last_seen_ms
            if node.id not in self._records and since + self._forget_after_ms > now_ms:
                self._add(replace(node, left_because=why, is_connected=False, replica=""), is_awaited=is_awaited)

    def _learn(self, replica: str, node: KnownNode, now_ms: int) -> None:
        if node.is_connected:
            self._add(replace(node, is_connected=False, replica=replica))
        elif node.last_seen_ms + self._forget_after_ms > now_ms:
            self._add(replace(node, replica=""))

    def _add(self, node: KnownNode, *, is_awaited: bool = False) -> None:
        """Add a node that is not connected here."""
        record = _Record(node.id, "", "", "", (), "", node.locality, node.first_seen_ms, node.last_seen_ms)
        self._copy(record, node)
        record.replica, record.is_awaited = self._share(node.replica), is_awaited
        if self._make_room(record.size_bytes):
            self._records[record.id] = record
            self._bytes += record.size_bytes
            if self._is_gone(record):
                self._note_gone(record)
            self._note_change(record)

    def _copy(self, record: _Record, node: KnownNode) -> None:
        """Set what a node says of itself, and when it was seen."""
        _describe(record, node, self._share)
        record.last_seen_ms, record.accepted_revision = node.last_seen_ms, node.accepted_revision
        record.left_because, record.is_awaited = self._share(node.left_because), False

    def _is_gone(self, record: _Record) -> bool:
        return record.process is None and not record.replica

    def follow(self) -> None:
        """Keep a log of the changes from now on, for ``changes``."""
        self._log = ChangeLog(self._records)

    def changes(self, since: int, most: int, now_ms: int) -> tuple[list[KnownNode], int]:
        """Return up to ``most`` nodes that changed here after the change with a number, and the last one's number.

        What was merged from another replica is no change, unless the node was not known before. Nodes that were
        forgotten are left out. Call ``follow`` before.
        """
        assert self._log is not None, "followed"
        ids, serial = self._log.since(since, most)
        return [self._records[node_id].known(now_ms) for node_id in ids], serial

    # --- For a file --------------------------------------------------------------------------------------------------

    def take_unwritten(self, now_ms: int, most: int) -> tuple[list[KnownNode], list[str]]:
        """Return up to ``most`` nodes that changed and were not returned since, and ids of nodes that were forgotten.

        Changes are noted from the first call on.
        """
        if self._unwritten is None:
            self._unwritten = {}
        changed = list(islice(self._unwritten, most))
        for node_id in changed:
            del self._unwritten[node_id]
        nodes = [record.known(now_ms) for node_id in changed if (record := self._records.get(node_id)) is not None]
        return nodes, [node_id for node_id in changed if node_id not in self._records]

    def write_again(self, node_ids: Iterable[str]) -> None:
        """Have ``take_unwritten`` return nodes, known or not, as they could not be written."""
        if self._unwritten is not None:
            self._unwritten |= dict.fromkeys(node_ids)

    def _note_change(self, record: _Record, *, is_own: bool = True) -> None:
        if record.replica and (record.process is not None or record.id in self._other_replicas):
            self._on_several.add(record.id)
        elif self._on_several:
            self._on_several.discard(record.id)
        if self._log is not None:
            if record.id not in self._records:
                self._log.forget(record.id)
            elif is_own:
                self._log.note(record.id)
        if self._unwritten is not None:
            self._unwritten[record.id] = None

    def _share(self, value: Shared) -> Shared:
        """Return an equal value that other records have: groups, versions and localities repeat."""
        if (known := self._shared.get(value)) is not None:
            return cast("Shared", known)
        if _characters_of(value) > SHARED_CHARACTERS_MAX:
            return value
        if len(self._shared) >= SHARED_MAX:
            self._shared.clear()
        return cast("Shared", self._shared.setdefault(value, value))


class _Described(Protocol):
    """What a node says of itself, and its group and address."""

    @property
    def group(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def identity(self) -> tuple[str, ...]: ...
    @property
    def user_agent(self) -> str: ...
    @property
    def locality(self) -> Locality: ...


def _characters_of(value: str | Locality) -> int:
    return len(value) if isinstance(value, str) else len(value.region) + len(value.zone) + len(value.sub_zone)


def _bytes_of(text: str) -> int:
    """Return the memory of a text's characters, at most."""
    return len(text) if text.isascii() else 4 * len(text)


def _describe(record: _Record, node: _Described, share: Callable[[Any], Any]) -> None:
    record.group, record.cluster, record.address = share(node.group), share(node.cluster), node.address
    record.identity, record.user_agent, record.locality = node.identity, share(node.user_agent), share(node.locality)
