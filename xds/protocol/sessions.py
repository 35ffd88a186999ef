"""Streams, their sessions, the index of streams by subscription, and the timers of sessions.

A session is one client: one aggregated stream, or all per-type streams of a node on one connection. A stream joins its
session with its first request. A change costs O(changed names + streams that subscribe to them), never O(streams).
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import count
from typing import Any

from xds.model.catalog import Catalog
from xds.model.groups import Node
from xds.model.identity import ANONYMOUS, Peer
from xds.model.snapshot import Snapshot
from xds.protocol.client_state import NO_MARKS, ClientState, Marks, Source
from xds.protocol.draining import NEVER
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import Limits, Variant
from xds.protocol.requests import Request, check_node_size, describe_node, is_grpc, same_node
from xds.protocol.subscription import Subscription
from xds.protocol.type_state import Kind, Rejection, TypeState

WITHOUT_SECRETS = "\0"
"""The beginning of the audience of clients that get no secrets; no group's name begins with it."""


def audience_of(group: str, peer: Peer) -> str:
    """Return the key of the snapshot for a client of a group."""
    return group if peer.gets_secrets else WITHOUT_SECRETS + group


# --- Streams and sessions --------------------------------------------------------------------------------------------


class Session:
    """One client's streams: one aggregated stream, or all per-type streams of a node on one connection.

    ``client_state`` is shared by all clients in the same state. ``marks`` are the types with changes that the client
    state does not have yet.
    """

    __slots__ = (
        "audience",
        "client_state",
        "group",
        "is_grpc",
        "marks",
        "newest",
        "node",
        "node_hash",
        "per_type",
        "rejections",
        "since",
        "slots",
        "streams",
        "timer",
    )

    def __init__(
        self,
        node: Node,
        group: str,
        newest: Snapshot,
        client_state: ClientState,
        *,
        audience: str,
        is_grpc: bool,
        per_type: bool,
        since: float,
    ) -> None:
        self.node = node
        self.group = group
        self.audience = audience
        """The key of the snapshot that it is updated to: its group, or a part of it (``audience_of``)."""
        self.newest = newest
        """The snapshot that the client is updated to."""
        self.is_grpc = is_grpc
        self.per_type = per_type
        self.since = since
        """When its first stream sent the node."""
        self.client_state = client_state
        self.marks: Marks = NO_MARKS
        self.streams: list[Stream] = []
        self.slots = 0
        """The number of streams so far, open or not."""
        self.timer = NEVER
        """The time of the earliest timer, NEVER for none."""
        self.node_hash = 0
        """The hash of the encoded node, so that an equal one need not be decoded again."""
        self.rejections: dict[Kind, tuple[Rejection, ...]] | None = None
        """The last rejections of each type, newest first."""

    def add(self, stream: "Stream") -> None:
        """Add a stream."""
        stream.session, stream.slot = self, self.slots
        stream.source = Source(stream.variant, stream.slot, stream.type_url, self.is_grpc)
        self.slots += 1
        self.streams.append(stream)

    def rejections_of(self, kind: Kind) -> tuple[Rejection, ...]:
        """Return the last rejections of a type, newest first."""
        return self.rejections.get(kind, ()) if self.rejections is not None else ()


class Stream:
    """One gRPC stream. ``type_url`` is empty on ADS; ``slot`` is its number within the session."""

    __slots__ = (
        "__weakref__",
        "connection",
        "names_bytes",
        "owner",
        "peer",
        "queued",
        "refusal",
        "session",
        "slot",
        "source",
        "type_url",
        "variant",
        "warm",
    )

    def __init__(self, variant: Variant, type_url: str, connection: str, peer: Peer = ANONYMOUS) -> None:
        self.peer = peer
        self.variant = variant
        self.type_url = type_url
        self.connection = connection
        self.session: Session | None = None
        self.owner: Any = None
        """The transport's object for the stream, of which only ``peer_address`` is used here."""
        self.slot = 0
        self.source = Source(variant, 0, type_url, is_grpc=False)
        self.queued = False
        self.names_bytes = 0
        """An upper bound of the memory of its names in bytes (``Hub``)."""
        self.warm = False
        """The client reported versions of an earlier stream, so there is little to send."""
        self.refusal: StreamRefusedError | None = None

    @property
    def aggregated(self) -> bool:
        """Say whether the stream carries all types (ADS)."""
        return not self.type_url

    @property
    def address(self) -> str:
        """Where the client connects from, "" if that is not known."""
        return "" if self.owner is None else str(self.owner.peer_address)

    @property
    def settled(self) -> bool:
        """Say whether there is nothing to send now."""
        session = self.session
        return session is None or (session.client_state.settled and not session.marks)

    @property
    def states(self) -> Mapping[str, TypeState]:
        """The state of each type of this stream, in sending order. Read-only."""
        if self.session is None:
            return {}
        return {state.type_url: state for state in self.session.client_state.types if state.kind.slot == self.slot}


# --- Sessions of per-type streams ------------------------------------------------------------------------------------


class Sessions:
    """The sessions of per-type streams, by connection and node."""

    __slots__ = ("_catalog", "_limits", "_shared", "_table")

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._table = catalog.table
        self._limits = limits
        self._shared: dict[tuple[str, Node], Session] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def of(
        self,
        stream: Stream,
        request: Request,
        request_bytes: int,
        now: float,
        newest: Callable[[str], Snapshot],
        start: Callable[[str, Variant, bool], ClientState],
    ) -> Session:
        """Return the stream's session, found or made at the stream's first request.

        Only the node of the request is read. ``newest`` returns the snapshot of an audience, ``start`` the initial
        client state.

        Raises StreamRefusedError if a first request has no node, if the node is too large or another one than before,
        or if no group takes it.
        """
        has_node = request.HasField("node")
        if has_node and request_bytes > self._limits.node_bytes_max:
            check_node_size(request.node.ByteSize(), self._limits.node_bytes_max)
        if stream.session is not None:
            if has_node and not same_node(stream.session.node, request.node):
                raise StreamRefusedError(
                    Status.INVALID_ARGUMENT,
                    f"this stream is of node {stream.session.node.id!r}, a later request says {request.node.id!r}",
                    node_id=request.node.id,
                )
            return stream.session
        if not has_node or not request.node.id:
            raise StreamRefusedError(
                Status.INVALID_ARGUMENT, "the first request of a stream must carry a node with an id"
            )
        node = describe_node(request.node, stream.peer.identity)
        placement = self._catalog.place(node)
        group = placement.group
        if group is None:
            raise StreamRefusedError(Status.PERMISSION_DENIED, placement.refusal, node_id=node.id)
        # The whole node, not its id alone: a proxy may bring several clients on one connection.
        session = None if stream.aggregated else self._shared.get((stream.connection, node))
        if session is None:
            grpc = is_grpc(node)
            audience = audience_of(group, stream.peer)
            session = Session(
                node,
                group,
                newest(audience),
                start(audience, stream.variant, grpc),
                audience=audience,
                is_grpc=grpc,
                per_type=not stream.aggregated,
                since=now,
            )
            if not stream.aggregated:
                self._shared[stream.connection, node] = session
        session.add(stream)
        return session

    def forget(self, stream: Stream, session: Session) -> None:
        """Remove a session whose last stream ended."""
        key = (stream.connection, session.node)
        if self._shared.get(key) is session:
            del self._shared[key]

    def to_regroup(self, streams: Iterable[Stream], groups: Set[str]) -> list[Session]:
        """Return the sessions whose group may have changed since the last call.

        ``groups`` are the added and removed groups. If the rules did not change, added and removed groups move no
        nodes; without rules, they move the nodes whose cluster has the group's name.
        """
        table, before = self._catalog.table, self._table
        self._table = table
        if table.rules and (table.rules, table.deny_unmatched) == (before.rules, before.deny_unmatched):
            return []
        sessions = list({id(s.session): s.session for s in streams if s.session is not None}.values())
        if not table.rules and (before.rules, before.deny_unmatched) == ((), table.deny_unmatched):
            return [session for session in sessions if session.node.cluster in groups]
        return sessions


class Regrouping:
    """The sessions that new rules may move to other groups, in the order in which they are looked at."""

    __slots__ = ("_groups", "at", "queue", "vanished")

    def __init__(self, groups: Iterable[str]) -> None:
        """Create it with the catalog's groups."""
        self._groups = frozenset(groups)
        self.queue: deque[Session] = deque()
        self.vanished: set[str] = set()
        """Groups that were removed while sessions may still be in them; some may have come back since."""
        self.at = 0
        """The revision of the oldest rules by which sessions of the queue may move."""

    def follow(self, groups: Iterable[str], find: Callable[[Set[str]], list[Session]], revision: int) -> None:
        """Queue the sessions that ``find`` returns for the groups that were added and removed at a revision."""
        now = frozenset(groups)
        self.vanished |= self._groups - now
        found = find(self._groups ^ now)
        self._groups = now
        known = set(map(id, found))
        if not self.queue:
            self.at = revision
        self.queue = deque([*found, *(each for each in self.queue if id(each) not in known)])


# --- Watchers --------------------------------------------------------------------------------------------------------

IDLE_MAX = 32
IDLE_BYTES_MAX = 2 * 1024 * 1024
"""Maximum bytes of the names of idle subscriptions per group and type."""


class Watchers:
    """An index of streams by subscription.

    Up to ``IDLE_MAX`` subscriptions without streams, with ``IDLE_BYTES_MAX`` bytes of names, stay in the index: streams
    that connect one after the other have the same subscriptions, and indexing thousands of names for each stream would
    cost too much.
    """

    __slots__ = ("_by_name", "_idle", "_idle_bytes", "_open_ended", "_streams")

    def __init__(self) -> None:
        self._streams: dict[Subscription, set[Stream]] = {}
        self._idle: dict[Subscription, None] = {}
        self._idle_bytes = 0
        self._by_name: dict[str, Subscription | set[Subscription]] = {}
        """The subscription to a name, or several: most names are of one, and a set for each would cost 200 bytes."""
        self._open_ended: set[Subscription] = set()

    def add(self, subscription: Subscription, stream: Stream) -> None:
        """Add a stream under its subscription."""
        streams = self._streams.get(subscription)
        if streams is not None:
            if not streams:
                del self._idle[subscription]
                self._idle_bytes -= subscription.names_bytes
            streams.add(stream)
            return
        self._streams[subscription] = {stream}
        if subscription.open_ended:
            self._open_ended.add(subscription)
        by_name = self._by_name
        for name in subscription.names:
            known = by_name.setdefault(name, subscription)
            if isinstance(known, set):
                known.add(subscription)
            elif known is not subscription:
                by_name[name] = {known, subscription}

    def discard(self, subscription: Subscription, stream: Stream) -> None:
        """Remove a stream. Its subscription becomes idle after its last stream."""
        streams = self._streams[subscription]
        streams.discard(stream)
        if not streams:
            self._idle[subscription] = None
            self._idle_bytes += subscription.names_bytes
            while len(self._idle) > IDLE_MAX or self._idle_bytes > IDLE_BYTES_MAX:
                self._forget(next(iter(self._idle)))

    def _forget(self, subscription: Subscription) -> None:
        del self._idle[subscription], self._streams[subscription]
        self._idle_bytes -= subscription.names_bytes
        self._open_ended.discard(subscription)
        by_name = self._by_name
        for name in subscription.names:
            known = by_name[name]
            if isinstance(known, set):
                known.discard(subscription)
            if known is subscription or not known:
                del by_name[name]

    def affected(self, names: Iterable[str]) -> Iterator[Stream]:
        """Iterate over the streams that subscribe to any of the names, each once."""
        subscriptions: set[Subscription] = set()
        for name in names:
            known = self._by_name.get(name)
            if isinstance(known, set):
                subscriptions |= known
            elif known is not None:
                subscriptions.add(known)
            subscriptions.update(subscription for subscription in self._open_ended if subscription.wants(name))
        for subscription in subscriptions:
            yield from self._streams[subscription]

    def __bool__(self) -> bool:
        return len(self._streams) > len(self._idle)


class WatchTable:
    """The index of streams by group, type and subscription."""

    __slots__ = ("_watchers",)

    def __init__(self) -> None:
        self._watchers: dict[tuple[str, str], Watchers] = {}

    def add(self, group: str, type_url: str, subscription: Subscription, stream: Stream) -> None:
        """Add a stream under its subscription to a group's type."""
        watchers = self._watchers.get((group, type_url))
        if watchers is None:
            watchers = self._watchers[group, type_url] = Watchers()
        watchers.add(subscription, stream)

    def discard(self, group: str, type_url: str, subscription: Subscription, stream: Stream) -> None:
        """Remove a stream."""
        watchers = self._watchers[group, type_url]
        watchers.discard(subscription, stream)
        if not watchers:
            del self._watchers[group, type_url]

    def affected(self, group: str, type_url: str, names: Iterable[str]) -> Iterable[Stream]:
        """Return the streams that subscribe to any of the names, each once."""
        watchers = self._watchers.get((group, type_url))
        return watchers.affected(names) if watchers is not None else ()


# --- Timers ----------------------------------------------------------------------------------------------------------

STALE_TIMERS_MAX = 500
"""Entries of ended sessions and earlier timers, beside half of all, at which they are dropped."""


class Timers:
    """One timer per session, the earliest that was set. Entries that no longer hold are at most half, and some."""

    __slots__ = ("_heap", "_order", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Session]] = []
        self._order = count()
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next(self) -> float:
        """The time of the earliest timer, NEVER for none."""
        return self._heap[0][0] if self._heap else NEVER

    def set(self, session: Session, at: float) -> None:
        """Set the timer of a session to ``at``, which must be before its present one."""
        self._clear(session)
        session.timer = at
        heapq.heappush(self._heap, (at, next(self._order), session))

    def end(self, session: Session) -> None:
        """Drop the timer of a session that has ended; thousands may come and go before it would be due."""
        self._clear(session)
        if self._stale > STALE_TIMERS_MAX + len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].timer]
            heapq.heapify(self._heap)
            self._stale = 0

    def _clear(self, session: Session) -> None:
        if session.timer != NEVER:
            session.timer = NEVER
            self._stale += 1

    def due(self, now: float) -> Iterator[tuple[Session, float]]:
        """Yield the sessions whose timer is due, with its time, and clear the timer."""
        while self._heap and self._heap[0][0] <= now:
            at, _, session = heapq.heappop(self._heap)
            if at == session.timer:
                session.timer = NEVER
                yield session, at
            else:
                self._stale -= 1
