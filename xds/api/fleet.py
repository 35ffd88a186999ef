"""How the fleet stands: the groups' nodes by state, the server's parts, and what needs attention.

What an operator asks first. Everything is counted already: a status costs O(groups × distinct debts), not O(nodes).
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from xds.protocol.convergence import EVERYTHING, Debt, Debts, acceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class Unaccepted:
    """The oldest change that a node of a group has not accepted."""

    revision: int
    at_ms: int | None
    """When it was made, in Unix milliseconds by its author's clock; None if it is no longer in the history."""
    is_everything: bool = False
    """Whether a node has accepted nothing at all yet; ``revision`` is then the last change of its group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """The nodes of one group, by state at the served revision."""

    name: str
    revision: int
    """The revision at which what its nodes are sent last changed, 0 for a removed group."""
    accepted: int = 0
    pending: int = 0
    rejected: int = 0
    gone: int = 0
    oldest_unaccepted: Unaccepted | None = None

    @property
    def nodes(self) -> int:
        """All nodes, gone ones included."""
        return self.accepted + self.pending + self.rejected + self.gone


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica of the server. ``state``: ``self``, ``ok`` or ``silent``."""

    name: str
    api: str
    state: str
    revision: int
    streams: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersStatus:
    """The worker processes: how many serve, which do not answer, and how many are being replaced."""

    serving: int = 0
    silent: tuple[str, ...] = ()
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """The store. ``stale_because``: why newer changes may be missing; ``refusing_because``: why none can be stored."""

    kind: str
    revision: int
    stale_because: str = ""
    refusing_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """The followed directory. Times are Unix milliseconds, 0 for never."""

    path: str
    applied_at_ms: int
    rejected_since_ms: int
    problems: int
    """How many its present content has."""
    problem: str
    """Why it is not what is served, "" if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate or a revocation list (``kind``: ``certificate`` or ``crl``) of the server's files."""

    file: str
    subject: str
    kind: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """What one server says of itself."""

    version: str
    schema_of: str
    """The Envoy whose API it has."""
    replica: str
    started_at_ms: int
    replicas: tuple[ReplicaStatus, ...] = ()
    workers: WorkersStatus = WorkersStatus()
    store: StoreStatus
    directory: SourceStatus | None = None
    limits: Mapping[str, int]
    """How often each limit was reached since the start, of those that were."""
    certificates: tuple[Certificate, ...] = ()
    problems: tuple[str, ...] = ()
    gone: Mapping[str, int]
    """The numbers of nodes that are gone, by group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """How the fleet and its server stand."""

    server: ServerStatus
    revision: int
    epoch: str
    groups: tuple[GroupStatus, ...]
    missing_workers: tuple[str, ...] = ()
    missing_replicas: tuple[str, ...] = ()
    """Workers and replicas that did not answer, whose nodes are not counted."""


HIDDEN_WHY = "the reason is shown only to callers who may read all groups"
"""Instead of a reason, which may have paths, addresses, and names of any group."""
_REASON = re.compile(r" \(|: ")


def name_of_missing(missing: str) -> str:
    """Return the name of a replica or a worker that did not answer, without its address and the reason."""
    return _REASON.split(missing, maxsplit=1)[0]


def without_reasons(status: FleetStatus) -> FleetStatus:
    """Return what is told of a fleet to who may not read all groups: nothing of the server's own files and reasons."""
    server = status.server
    store = replace(
        server.store,
        stale_because=HIDDEN_WHY if server.store.stale_because else "",
        refusing_because=HIDDEN_WHY if server.store.refusing_because else "",
    )
    replicas = (replace(each, api="", problem=HIDDEN_WHY if each.problem else "") for each in server.replicas)
    told = replace(
        server, replicas=tuple(replicas), store=store, directory=None, limits={}, certificates=(), problems=()
    )
    return replace(status, server=told, missing_replicas=tuple(map(name_of_missing, status.missing_replicas)))


async def group_statuses(
    debts: Debts,
    gone: Mapping[str, int],
    groups: Mapping[str, int],
    *,
    revision: int,
    at_ms: Callable[[Iterable[int]], Awaitable[Mapping[int, int]]],
) -> tuple[GroupStatus, ...]:
    """Return the status of groups, by name.

    ``groups`` maps each to the revision of its last change; one that was removed, and has nodes that are gone, is told
    too. ``at_ms`` returns when revisions were made, for those that are in the history.
    """
    groups = dict.fromkeys((name for name, count in gone.items() if count), 0) | dict(groups)
    owing = {name: oldest_of(debts.by_group.get(name, {}), last) for name, last in groups.items()}
    made = await at_ms({each for each in owing.values() if each})
    found = []
    for name in sorted(groups):
        since = owing[name]
        counts = acceptance(debts.by_group.get(name, {}), revision)
        found.append(
            GroupStatus(
                name=name,
                revision=groups[name],
                accepted=counts.accepted,
                pending=counts.pending,
                rejected=counts.rejected,
                gone=gone.get(name, 0),
                oldest_unaccepted=None
                if since is None
                else Unaccepted(revision=since, at_ms=made.get(since), is_everything=_owes_everything(debts, name)),
            )
        )
    return tuple(found)


def oldest_of(counts: Mapping[Debt, int], last: int) -> int | None:
    """Return the oldest change that a client has not accepted, None if there is none.

    A client that has just connected owes everything, however old: of it, the ``last`` change of its group counts.
    """
    owed = [each for debt in counts for each in debt if each]
    return min((last if each == EVERYTHING else each for each in owed), default=None)


def _owes_everything(debts: Debts, group: str) -> bool:
    return any(EVERYTHING in debt for debt in debts.by_group.get(group, {}))
