"""The results of the push API's calls. Resources are dicts in Envoy's JSON form, with ``@type``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from google.protobuf import json_format

from xds._generated import snapshots_pb2 as pb
from xds.client.errors import problems_of
from xds.model.given import ResourceLike
from xds.model.problem import Problem
from xds.model.types import WRAPPER_URL

Json = dict[str, Any]


class BackupPart(NamedTuple):
    """A part of a copy of the server's store: of the first one, ``data`` is empty; of the others, all else is."""

    revision: int
    size_bytes: int
    """The size of the whole copy."""
    path: str
    """The store's path on the server's machine."""
    data: bytes


class Name(NamedTuple):
    """A resource's type, by short name (``clusters``) or else the name of its message, and its name."""

    type: str
    name: str


class AppliedResource(NamedTuple):
    """A resource of a group, and what a change did with it: ``added``, ``changed``, ``removed`` or ``unchanged``."""

    group: str
    name: Name
    change: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Roles of a caller, in the groups that match one of the globs; without globs in all groups."""

    roles: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who the client is to the server, "" where that asks for no credentials, and what it may do."""

    identity: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a change."""

    revision: int
    """The revision at which the change is stored and served."""
    resources: tuple[AppliedResource, ...]
    """All requested resources, also those that were in the requested state before."""
    again: bool
    """Whether a change with this id had been made before."""
    rules_changed: bool = False
    """Whether the change modified groups or rules: a group was created or deleted, extends another one, and so on."""
    warnings: tuple[Problem, ...] = ()
    """What deserves attention in the resources that were added or changed, such as deprecated fields."""

    @property
    def changed(self) -> tuple[Name, ...]:
        """The resources that were added, changed or removed."""
        return tuple(each.name for each in self.resources if each.change != "unchanged")

    @property
    def unchanged(self) -> tuple[Name, ...]:
        """Requested resources that were in the requested state before."""
        return tuple(each.name for each in self.resources if each.change == "unchanged")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChanges:
    """What to change in one group: resources to set and to remove. See ``Client.apply`` for their forms."""

    upsert: Iterable[ResourceLike] = ()
    remove: Iterable[tuple[str, str]] = ()
    replace: bool = False
    """Whether all other resources of the group are removed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A group's own resources at a revision."""

    revision: int
    epoch: str
    """Identifies the store's log; it changes with a restore from a backup."""
    resources: tuple[Json, ...]
    changed_at: int = 0
    """The revision at which the group last changed, or a later one after a restart of the server."""


class ListedResource(NamedTuple):
    """A resource without its content, and its version on the wire."""

    name: Name
    version: str


@dataclass(frozen=True, slots=True)
class ResourceList:
    """A group's own resources at a revision, without their content."""

    revision: int
    changed_at: int
    """The revision at which the group last changed, or a later one after a restart of the server."""
    resources: tuple[ListedResource, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A resource before and after, None where it does not exist."""

    name: Name
    before: Json | None
    after: Json | None
    group: str = ""

    @property
    def change(self) -> str:
        """What was done with the resource: ``added``, ``changed`` or ``removed``."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"


class GroupCounts(NamedTuple):
    """How many resources of a group a change added, changed and removed."""

    group: str
    added: int
    changed: int
    removed: int


@dataclass(frozen=True, slots=True)
class Revision:
    """Metadata of a change in the history."""

    revision: int
    id: str
    author: str
    message: str
    at: datetime
    operations: int
    """Number of resources that were set or removed."""
    groups: tuple[GroupCounts, ...] = ()
    rules_changed: bool = False
    """Whether the change modified groups or rules."""


@dataclass(frozen=True, slots=True)
class RevisionDetails:
    """A change of the history in full."""

    revision: Revision
    differences: tuple[Difference, ...]
    rules_before: Json | None
    """The groups and rules, as groups.yaml has them; None if the change left them."""
    rules_after: Json | None


@dataclass(frozen=True, slots=True)
class Operation:
    """A resource that a change set or removed."""

    group: str
    name: Name
    set: Json | None
    """The new resource, None if it was removed."""
    change: str = "changed"
    """``added``, ``changed`` or ``removed``."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change yielded by a watch."""

    revision: Revision
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group."""

    name: str
    extends: str | None
    kept: bool
    """Whether a directory manages the group."""
    resources: Mapping[str, int]
    """Number of the group's own resources of each type."""
    revision: int = 0
    """The revision at which the group last changed, or a later one after a restart of the server."""


@dataclass(frozen=True, slots=True)
class TypeProgress:
    """Numbers of resources of one type on one connection of a node."""

    type: str
    subscribed: int
    sent: int
    acked: int
    pending: int
    nacked: tuple[str, ...]
    """Names in the responses that the node rejected."""
    error: str
    blamed: tuple[str, ...] = ()
    """The resources that its last NACK is about."""
    blamed_by: str = ""
    """How that is known: ``client`` if it names them, ``only`` if there was no other, ``judge``, ``unknown``."""


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """The progress of one connection of a node."""

    id: str
    cluster: str
    group: str
    revision: int
    state: str
    """``accepted``, ``pending``, ``rejected`` or ``gone``."""
    connected_s: float
    """0 if it is gone."""
    types: tuple[TypeProgress, ...]
    accepted_revision: int = 0
    """The newest revision that it has accepted with all before it, 0 for none."""
    address: str = ""
    identity: tuple[str, ...] = ()
    user_agent: str = ""
    envoy_version: str = ""
    region: str = ""
    zone: str = ""
    sub_zone: str = ""
    replica: str = ""
    worker: str = ""
    first_seen_ms: int = 0
    last_seen_ms: int = 0
    """In Unix milliseconds."""
    left_because: str = ""


def unwrapped(resource: Json) -> tuple[Json, Json]:
    """Return a resource's message, and the fields of its wrapper (``name``, ``aliases``, ``ttl``), if it has one.

    A resource with a TTL, with aliases, or with a name that its message lacks is wrapped in
    ``envoy.service.discovery.v3.Resource``.
    """
    if resource.get("@type") != WRAPPER_URL:
        return resource, {}
    return resource["resource"], {key: value for key, value in resource.items() if key not in ("@type", "resource")}


def name_of(message: Any) -> Name:
    return Name(message.type, message.name)


def json_of(message: Any) -> Json:
    """Return the resource in a ``google.protobuf.Any``, as a dict."""
    from xds.schema.show import any_json, to_json

    if message.type_url == WRAPPER_URL:
        from xds.schema.ingest import ingest

        return to_json(ingest((message.type_url, message.value), allow_unknown_types=True, allow_redacted=True))
    return any_json(message.type_url, message.value)  # the server has checked it, which takes most of the time


@dataclass(frozen=True, slots=True)
class Nodes:
    """The progress of nodes: one entry for each connection, and for each node that is gone."""

    nodes: tuple[NodeProgress, ...]
    missing_workers: tuple[str, ...]
    """Worker processes that did not answer, and whose nodes are missing."""
    problems: tuple[str, ...] = ()
    """What is wrong with the server although it serves; what ``/readyz`` says."""
    next: str = ""
    """The cursor of the next page, "" if this is the last one."""
    total: int = 0
    """How many match, on all pages."""
    missing_replicas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LackingNode:
    """A node that has not accepted a revision. ``since``: the oldest one that it has not accepted, 0 if not known."""

    id: str
    group: str
    state: str
    """``pending``, ``rejected`` or ``gone``."""
    since: int
    reason: str


@dataclass(frozen=True, slots=True)
class Convergence:
    """The numbers of nodes that have accepted a revision, or not."""

    revision: int
    published: int
    """The oldest revision that all processes of the server serve."""
    accepted: int
    pending: int
    rejected: int
    verdict: str
    """``reached``, ``pending`` or ``rejected``."""
    missing_workers: tuple[str, ...]
    lacking: tuple[LackingNode, ...]
    """At most 20 nodes that have not accepted it, in the last answer."""
    gone: int = 0
    """Nodes that are known and not connected."""
    of: str = "known"
    """Which nodes count: ``known`` or ``connected`` ones."""
    missing_replicas: tuple[str, ...] = ()
    """Replicas that did not answer, each with the reason. Their nodes count as gone, or not at all."""

    @property
    def nodes(self) -> int:
        """The number of nodes that count."""
        connected = self.accepted + self.pending + self.rejected
        return connected + self.gone if self.of == "known" else connected


def convergence_of(message: Any) -> Convergence:
    lacking = (LackingNode(each.id, each.group, each.state, each.since, each.reason) for each in message.lacking)
    return Convergence(
        message.revision,
        message.published,
        message.accepted,
        message.pending,
        message.rejected,
        message.verdict,
        tuple(message.missing_workers),
        tuple(lacking),
        message.gone,
        message.of,
        tuple(message.missing_replicas),
    )


def applied_of(message: Any) -> Applied:
    resources = tuple(
        AppliedResource(each.group, name_of(each), _change_of(each.change))
        for each in (*message.changed, *message.unchanged)
    )
    warnings = problems_of(pb.Problems(problems=message.warnings))
    return Applied(message.revision, resources, message.again, message.rules_changed, warnings)


def _change_of(kind: int) -> str:
    return str(pb.ChangeKind.Name(cast("Any", kind))).lower()


def revision_of(message: Any) -> Revision:
    at = datetime.fromtimestamp(message.at_ms / 1000, UTC)
    groups = tuple(GroupCounts(each.group, each.added, each.changed, each.removed) for each in message.groups)
    return Revision(
        message.revision,
        message.id,
        message.author,
        message.message,
        at,
        message.operations,
        groups,
        message.rules_changed,
    )


def details_of(message: Any) -> RevisionDetails:
    before, after = (
        json_format.MessageToDict(getattr(message, field)) if message.HasField(field) else None
        for field in ("rules_before", "rules_after")
    )
    differences = tuple(map(difference_of, message.differences))
    return RevisionDetails(revision_of(message.revision), differences, before, after)


def list_of(message: Any) -> ResourceList:
    resources = tuple(ListedResource(name_of(each), each.version) for each in message.resources)
    return ResourceList(message.revision, message.changed_at, resources)


def difference_of(message: Any) -> Difference:
    before = json_of(message.before) if message.HasField("before") else None
    after = json_of(message.after) if message.HasField("after") else None
    return Difference(name_of(message.resource), before, after, message.group)


def event_of(message: Any) -> Event:
    operations = tuple(
        Operation(
            each.group,
            name_of(each.resource),
            json_of(each.set) if each.HasField("set") else None,
            _change_of(each.change),
        )
        for each in message.operations
    )
    return Event(revision_of(message.revision), operations)


def group_of(message: Any) -> Group:
    return Group(
        message.name, message.extends or None, message.kept, dict(sorted(message.resources.items())), message.revision
    )


def nodes_of(message: Any) -> Nodes:
    read: dict[bytes, TypeProgress] = {}  # by content: most nodes of a fleet are in the same state
    return Nodes(
        tuple(_node_of(each, read) for each in message.nodes),
        tuple(message.missing_workers),
        tuple(message.problems),
        next=message.next,
        total=message.total,
        missing_replicas=tuple(message.missing_replicas),
    )


def _type_of(message: Any) -> TypeProgress:
    return TypeProgress(
        message.type,
        message.subscribed,
        message.sent,
        message.acked,
        message.pending,
        tuple(message.nacked),
        message.error,
        tuple(message.blamed),
        message.blamed_by,
    )


def _node_of(message: Any, read: dict[bytes, TypeProgress]) -> NodeProgress:
    types = []
    for each in message.types:
        content = each.SerializeToString()
        types.append(read.get(content) or read.setdefault(content, _type_of(each)))
    return NodeProgress(
        message.id,
        message.cluster,
        message.group,
        message.revision,
        message.state,
        message.connected_s,
        tuple(types),
        accepted_revision=message.accepted_revision,
        address=message.address,
        identity=tuple(message.identity),
        user_agent=message.user_agent,
        envoy_version=message.envoy_version,
        region=message.region,
        zone=message.zone,
        sub_zone=message.sub_zone,
        replica=message.replica,
        worker=message.worker,
        first_seen_ms=message.first_seen_ms,
        last_seen_ms=message.last_seen_ms,
        left_because=message.left_because,
    )
