"""Data for operators: events and counters, and for each node the resources sent, accepted, rejected and held.

A status has every resource and costs O(names). A summary has numbers per type and costs O(types) per node, as a query
may return thousands of nodes. Both are computed on request from the client states.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from fnmatch import fnmatchcase
from itertools import islice
from typing import NamedTuple

from xds.model.groups import Node
from xds.model.resource import Resource
from xds.model.slot_pickling import pickled_by_slots
from xds.protocol.blame import BLAMED_MAX, NOBODY, BlamedBy, blame_in
from xds.protocol.client_state import debt_with
from xds.protocol.convergence import NO_DEBT, UNLIMITED, Debt
from xds.protocol.diff import wanted
from xds.protocol.paging import (
    NOWHERE,
    NodeState,
    Position,
    Sort,
    cursor_of,
    first_after,
    page_of,
    since_key,
    state_key,
    text_key,
    version_key,
)
from xds.protocol.policy import Variant
from xds.protocol.responses import Part
from xds.protocol.sessions import Session, Stream
from xds.protocol.type_state import Rejection, TypeState

# --- Events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """A node rejected a response. ``resources`` maps the names in it to the versions that were sent.

    ``upserts`` are the resources themselves, and ``key`` is a hash of their names and versions.
    """

    node_id: str
    group: str
    type_url: str
    nonce: str
    message: str
    resources: Mapping[str, str]
    upserts: tuple[Resource, ...] = ()
    key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A node did not answer a response within the hold timeout."""

    node_id: str
    group: str
    type_url: str
    nonce: str
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A stream was ended because of an invalid request, or because no group takes its node any more."""

    node_id: str
    """The id that the request claims, or of the stream's node; "" if neither is known."""
    status: str
    message: str
    identity: tuple[str, ...] = ()
    """The names that the client has proven."""
    address: str = ""
    """Where the client connects from, "" if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownType:
    """A node subscribed to a type that the schema lacks, which is answered as a type without resources."""

    node_id: str
    group: str
    type_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsWithheld:
    """A node that may get no secrets subscribed to secrets, which is answered as a type without resources."""

    node_id: str
    group: str


def nacked(node_id: str, group: str, type_url: str, part: Part, message: str) -> Nacked:
    """Return the event of a rejected part."""
    return Nacked(
        node_id=node_id,
        group=group,
        type_url=type_url,
        nonce=part.nonce,
        message=message,
        resources=part.versions,
        upserts=part.upserts,
        key=part.content_key,
    )


def overdue(node_id: str, group: str, type_url: str, nonce: str, waited_s: float) -> Overdue:
    """Return the event of an overdue answer."""
    return Overdue(node_id=node_id, group=group, type_url=type_url, nonce=nonce, waited_s=waited_s)


Event = Nacked | Overdue | Refused | UnknownType | SecretsWithheld


@dataclass(slots=True)
class Counters:
    """Totals since the start, for metrics."""

    streams_opened: int = 0
    streams_closed: int = 0
    streams_refused: int = 0
    requests: int = 0
    responses: int = 0
    response_bytes: int = 0
    resources_sent: int = 0
    removals_sent: int = 0
    heartbeats: int = 0
    acks: int = 0
    nacks: int = 0
    overdue: int = 0
    nodes_denied: int = 0
    """Streams refused because of who their node is."""
    secrets_withheld: int = 0
    """Subscriptions to secrets by clients that may not get them."""
    tokens_refused: Counter[str] = field(default_factory=Counter)
    """Tokens refused, by reason."""
    tokens_expired: int = 0
    """Streams ended because their token had expired."""
    keys_failed: Counter[str] = field(default_factory=Counter)
    """Failed attempts to read an issuer's keys, by issuer."""

    @classmethod
    def sum(cls, counters: Iterable["Counters"]) -> "Counters":
        """Return the sums over several processes."""
        total = cls()
        for one in counters:
            for name in (each.name for each in fields(cls)):
                setattr(total, name, getattr(total, name) + getattr(one, name))
        return total

    def count(self, part: Part, times: int = 1) -> None:
        """Count a message that was sent to ``times`` streams."""
        self.responses += times
        self.response_bytes += times * len(part.message)
        self.resources_sent += times * len(part.upserts)
        self.removals_sent += times * len(part.removals)
        self.heartbeats += times * part.is_heartbeat


# --- Statuses --------------------------------------------------------------------------------------------------------


class Progress(Enum):
    """The progress of one resource on one stream."""

    ACKED = "sent and accepted"
    SENT = "sent, not answered yet"
    NACKED = "rejected"
    HELD = "held back by the order of changes"
    MISSING = "subscribed, does not exist"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    """One name. ``version`` is the version sent last, empty for none."""

    name: str
    version: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatus:
    """One type on one stream. ``waited_s`` is the age of its unanswered response, None without one."""

    type_url: str
    variant: Variant
    wildcard: bool
    resources: tuple[ResourceStatus, ...]
    rejections: tuple[Rejection, ...]
    """The last ones, newest first."""
    waited_s: float | None
    overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node's stream, or all per-type streams of its connection."""

    node: Node
    group: str
    revision: int
    types: tuple[TypeStatus, ...]


def node_statuses(streams: Iterable[Stream], now: float) -> Iterator[NodeStatus]:
    """Yield the status of every session, oldest first."""
    for session in sessions_of(streams):
        yield _node_status(session, now)


def _node_status(session: Session, now: float) -> NodeStatus:
    return NodeStatus(
        node=session.node,
        group=session.group,
        revision=session.newest.revision,
        types=tuple(_type_status(session, state, now) for state in session.client_state.types),
    )


def _type_status(session: Session, state: TypeState, now: float) -> TypeStatus:
    outstanding = state.outstanding
    return TypeStatus(
        type_url=state.type_url,
        variant=state.kind.variant,
        wildcard=state.subscription.wildcard,
        resources=tuple(_resource_statuses(state)),
        rejections=session.rejections_of(state.kind),
        waited_s=None if outstanding is None else max(0.0, now - state.sent_at),
        overdue=state.overdue and outstanding is not None,
    )


def _resource_statuses(state: TypeState) -> Iterator[ResourceStatus]:
    on_the_way = {r.name for part in (*state.in_flight, *state.remaining) for r in part.upserts}
    held = set(wanted(state.subscription, state.view)) if state.view is not None else set()
    for name in sorted(held.union(state.overrides)):
        resource = state.held(name)
        progress = Progress.ACKED
        if name in state.overrides:
            progress = Progress.HELD
        elif name in on_the_way:
            progress = Progress.SENT
        elif name in state.nacked_names:
            progress = Progress.NACKED
        yield ResourceStatus(name=name, version=resource.version if resource else "", progress=progress)
    for name in sorted(state.subscription.names - held.union(state.overrides)):
        yield ResourceStatus(name=name, version="", progress=Progress.MISSING)


# --- Summaries -------------------------------------------------------------------------------------------------------

NODES_MAX = 1_000
NAMES_SHOWN_MAX = 100


def state_of(debt: Debt) -> NodeState:
    """Return the state of a connected client that owes this, at the newest revision."""
    if debt.is_rejected(UNLIMITED):
        return NodeState.REJECTED
    return NodeState.ACCEPTED if debt == NO_DEBT else NodeState.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesQuery:
    """A filter of nodes, and which page of them; None matches any value."""

    id: str | None = None
    group: str | None = None
    group_globs: tuple[str, ...] = ()
    """Globs for groups, of which one must match; without any, all groups."""
    state: NodeState | None = None
    lacks: int | None = None
    """A revision: only nodes that have not accepted it."""
    search: str = ""
    """A text that the id, the cluster, the address, the user agent or the locality contains, in any case."""
    known: bool = False
    """Whether nodes that are gone are of interest too."""
    sort: Sort = Sort.ID
    after: Position | None = None
    """The last node of the page before."""
    limit: int = NODES_MAX
    types: bool = True
    """Whether each node's types are of interest."""

    @property
    def is_of_all(self) -> bool:
        """Whether no node is left out."""
        chosen = (self.id, self.group, self.state, self.lacks)
        return all(each is None for each in chosen) and not self.group_globs and not self.search


@pickled_by_slots
@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSummary:
    """One type on one stream, in numbers of resources.

    ``sent`` were sent and not removed: ``acked`` of them are accepted, ``unacked`` not answered yet. ``pending`` are
    still to be sent. ``nacked`` has up to ``NAMES_SHOWN_MAX`` names of rejected responses; ``error`` is the message of
    the last NACK, ``blamed`` the names that are to blame for it, ``blamed_by`` how that is known, and ``rejected_key``
    the content of the response (``Part.content_key``, in hexadecimal: answers of replicas are JSON).
    """

    type_url: str
    variant: str
    wildcard: bool
    subscribed: int
    sent: int
    acked: int
    unacked: int
    pending: int
    nacked: tuple[str, ...]
    error: str
    versions: dict[str, str]
    blamed: tuple[str, ...] = ()
    blamed_by: BlamedBy = BlamedBy.UNKNOWN
    rejected_key: str = ""


@pickled_by_slots
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSummary:
    """One node's stream, or all per-type streams of its connection; or a node that is gone.

    ``revision`` is the one that it is updated to. Times are in milliseconds since 1970. What a node says of itself is
    its own word: only ``node.identity`` is proven.
    """

    node: Node
    group: str
    revision: int
    state: NodeState
    connected_s: float | None
    """None if it is gone."""
    types: tuple[TypeSummary, ...]
    debt: Debt = NO_DEBT
    accepted_revision: int = 0
    """The newest revision that it has accepted with all before it, 0 for none."""
    address: str = ""
    replica: str = ""
    worker: str = ""
    first_seen_ms: int = 0
    last_seen_ms: int = 0
    left_because: str = ""
    position: Position = NOWHERE
    """Its place in the list that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesFound:
    """A page of the nodes that match a query. ``missing_workers`` did not answer, so their nodes are missing.

    ``problems`` are those of the server that need its operator's attention.
    """

    nodes: tuple[NodeSummary, ...]
    total: int = 0
    """How many match, on all pages."""
    missing_workers: tuple[str, ...] = ()
    missing_replicas: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def after(self, query: NodesQuery) -> str:
        """Return the cursor of the next page, "" if this is the last one."""
        return cursor_of(query.sort, self.nodes[-1].position) if self.nodes and self.has_more(query) else ""

    def has_more(self, query: NodesQuery) -> bool:
        """Say whether there may be another page: nodes come and go meanwhile, so it may turn out to be empty."""
        return len(self.nodes) == query.limit


def joined(several: Iterable[NodesFound], query: NodesQuery) -> NodesFound:
    """Return the page that the pages of several processes make."""
    found = list(several)
    return NodesFound(
        nodes=tuple(
            node for _, node in first_after(((n.position, n) for each in found for n in each.nodes), None, query.limit)
        ),
        total=sum(each.total for each in found),
        missing_workers=tuple(sorted({name for each in found for name in each.missing_workers})),
        missing_replicas=tuple(sorted({name for each in found for name in each.missing_replicas})),
        problems=tuple(dict.fromkeys(problem for each in found for problem in each.problems)),
    )


AddressOf = Callable[[Session], str]
"""Returns where the client of a session connects from."""


def nodes_page(
    streams: Iterable[Stream],
    query: NodesQuery,
    now: float,
    *,
    revision: int = 0,
    epoch_s: float = 0.0,
    address_of: AddressOf = lambda _session: "",
) -> NodesFound:
    """Return a page of the nodes that match a query.

    ``revision`` is the published one; ``epoch_s`` is the time of 1970 on the clock of ``now``, so that times can be
    told. All sessions are looked at, and only those of the page are summarized.
    """
    key = _KEYS.get(query.sort) or (lambda session: since_key(round((session.since - epoch_s) * 1_000)))
    is_of_all = query.is_of_all
    found = [
        (key(session), text_key(session.node.id), session)
        for session in sessions_of(streams)
        if is_of_all or _is_asked_about(session, query, address_of)
    ]
    page = page_of(found, lambda session: f"{session.since:.6f} {id(session):x}", query.after, query.limit)
    shared: dict[int, tuple[TypeSummary, ...]] = {}
    nodes = []
    for at, session in page:
        debt = _debt(session)
        nodes.append(
            NodeSummary(
                node=session.node,
                group=session.group,
                revision=session.newest.revision,
                state=state_of(debt),
                connected_s=now - session.since,
                types=_type_summaries(session, shared) if query.types else (),
                debt=debt,
                accepted_revision=debt.accepted(revision),
                address=address_of(session),
                first_seen_ms=round((session.since - epoch_s) * 1_000),
                last_seen_ms=round((now - epoch_s) * 1_000),
                position=at,
            )
        )
    return NodesFound(nodes=tuple(nodes), total=len(found))


def sessions_of(streams: Iterable[Stream]) -> Iterator[Session]:
    """Yield the sessions of streams, each once, oldest first."""
    seen: set[int] = set()
    for stream in streams:
        session = stream.session
        if session is None:
            continue
        if len(session.streams) == 1:
            yield session
        elif id(session) not in seen:
            seen.add(id(session))
            yield session


_REJECTED, _PENDING, _ACCEPTED = map(state_key, (NodeState.REJECTED, NodeState.PENDING, NodeState.ACCEPTED))


def _key_of_state(session: Session) -> str:
    debt = _debt(session)
    return _ACCEPTED if debt == NO_DEBT else _REJECTED if debt.is_rejected(UNLIMITED) else _PENDING


_KEYS: Mapping[Sort, Callable[[Session], str]] = {
    Sort.ID: lambda _session: "",
    Sort.GROUP: lambda session: text_key(session.group),
    Sort.STATE: _key_of_state,
    Sort.VERSION: lambda session: version_key(session.node.envoy_version),
}


def _debt(session: Session) -> Debt:
    return debt_with(session.client_state.debt, session.marks)


def _is_asked_about(session: Session, query: NodesQuery, address_of: AddressOf) -> bool:
    if query.id not in (None, session.node.id) or query.group not in (None, session.group):
        return False
    if query.group_globs and not any(fnmatchcase(session.group, glob) for glob in query.group_globs):
        return False
    if query.state is not None and state_of(_debt(session)) is not query.state:
        return False
    if query.search and not says(session.node, address_of(session), query.search):
        return False
    return query.lacks is None or _debt(session).lacks(query.lacks)


def says(node: Node, address: str, text: str) -> bool:
    """Say whether a node's id, cluster, address, user agent, identity or locality contains a text, in any case."""
    place = node.locality
    parts = (node.id, node.cluster, address, node.user_agent, *node.identity, place.region, place.zone, place.sub_zone)
    wanted = text.casefold()
    return any(wanted in part.casefold() for part in parts)


def _type_summaries(session: Session, shared: dict[int, tuple[TypeSummary, ...]]) -> tuple[TypeSummary, ...]:
    """Return the summaries of a session's types, one object for all clients of a page in the same state.

    ``shared`` has them by the id of the client state. Marks and rejections are a session's own.
    """
    client_state = session.client_state
    is_own = session.marks or session.rejections
    if not is_own and (known := shared.get(id(client_state))) is not None:
        return known
    marked = {(slot, type_url) for slot, type_url, _ in session.marks}
    types = tuple(
        _type_summary(state, session.rejections_of(state.kind), (state.kind.slot, state.type_url) in marked)
        for state in client_state.types
    )
    if not is_own:
        shared[id(client_state)] = types
    return types


def _type_summary(state: TypeState, rejections: tuple[Rejection, ...], is_marked: bool) -> TypeSummary:
    view, subscription = state.view, state.subscription
    sent = 0
    if view is not None:
        sent = (
            len(view) if subscription.wildcard else sum(1 for name in subscription.names if view.get(name) is not None)
        )
    parts = [*state.in_flight, *state.remaining]
    unacked = len({resource.name for part in parts for resource in part.upserts})
    nacked_names = state.nacked_names.names
    rejected = 0 if view is None else sum(1 for name in nacked_names if view.get(name) is not None)
    nacked = tuple(sorted(nacked_names)[:NAMES_SHOWN_MAX])
    told = _told_of(rejections, nacked_names)
    return TypeSummary(
        type_url=state.type_url,
        variant=state.kind.variant.value,
        wildcard=subscription.wildcard,
        subscribed=max(sent, len(subscription.names)) if subscription.wildcard else len(subscription.names),
        sent=sent,
        acked=max(0, sent - unacked - rejected),
        unacked=unacked,
        pending=len(state.overrides) + (1 if state.dirty or is_marked else 0),
        nacked=nacked,
        error=told.error,
        versions={name: told.versions.get(name, "") for name in nacked} if rejections else {},
        blamed=told.blamed,
        blamed_by=told.blamed_by,
        rejected_key=told.key.hex(),
    )


MESSAGES_SHOWN_MAX = 3
"""Messages of different NACKs of one type, in one summary."""


class _Told(NamedTuple):
    """What rejections say of the names that are still in doubt."""

    error: str = ""
    versions: Mapping[str, str] = {}
    blamed: tuple[str, ...] = NOBODY[0]
    blamed_by: BlamedBy = NOBODY[1]
    key: bytes = b""
    """The content of the last of these responses."""


def _told_of(rejections: tuple[Rejection, ...], in_doubt: frozenset[str]) -> _Told:
    """Return what the rejections of a type say of the names in doubt: of each name, the last response that had it.

    A later response may have brought a part of a rejected one, in another version, and have been accepted.
    """
    left, messages, versions = set(in_doubt), dict[str, None](), dict[str, str]()
    blamed, ways, key = set[str](), list[BlamedBy](), b""
    for each in rejections:
        names = left.intersection(each.versions) if each.versions else frozenset(left)
        if not names:
            continue
        left -= names
        messages[each.message] = None
        versions.update((name, each.versions.get(name, "")) for name in names)
        named, way = blame_in(each.message, each.versions or dict.fromkeys(names, ""))
        if still := names.intersection(named):
            blamed |= still
            ways.append(way)
        elif len(names) == 1:
            blamed |= names
            ways.append(BlamedBy.ONLY)
        key = key or each.key
    if not messages:
        return _Told()
    error = "; ".join(islice(messages, MESSAGES_SHOWN_MAX))
    return _Told(error, versions, tuple(sorted(blamed)[:BLAMED_MAX]), ways[0] if ways else NOBODY[1], key)
