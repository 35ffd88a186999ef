"""The results of the push API's calls. Resources are dicts in Envoy's JSON form, with ``@type``."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from xds.schema.ingest import ingest
from xds.schema.show import to_json
from xds.schema.wrapping import WRAPPER_URL

Json = dict[str, Any]


class Name(NamedTuple):
    """A resource's type, by short name (``clusters``) or else the name of its message, and its name."""

    type: str
    name: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a change."""

    revision: int
    """The revision at which the change is stored and served."""
    changed: tuple[Name, ...]
    unchanged: tuple[Name, ...]
    """Requested resources that were in the requested state before."""
    again: bool
    """Whether a change with this id had been made before."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A group's own resources at a revision."""

    revision: int
    epoch: str
    """Identifies the store's log; it changes with a restore from a backup."""
    resources: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A resource before and after, None where it does not exist."""

    name: Name
    before: Json | None
    after: Json | None


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


@dataclass(frozen=True, slots=True)
class Operation:
    """A resource that a change set or removed."""

    group: str
    name: Name
    set: Json | None
    """The new resource, None if it was removed."""


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


@dataclass(frozen=True, slots=True)
class TypeProgress:
    """Numbers of resources of one type on one connection of a node."""

    type: str
    subscribed: int
    sent: int
    acked: int
    pending: int
    nacked: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """The progress of one connection of a node."""

    id: str
    cluster: str
    group: str
    revision: int
    state: str
    """``synced``, ``pending`` or ``rejected``."""
    connected_s: float
    types: tuple[TypeProgress, ...]


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
    return to_json(ingest((message.type_url, message.value), allow_unknown_types=True, allow_redacted=True))


@dataclass(frozen=True, slots=True)
class Nodes:
    """The progress of the connected nodes."""

    nodes: tuple[NodeProgress, ...]
    missing_workers: tuple[str, ...]
    """Worker processes that did not answer, and whose nodes are missing."""
    problems: tuple[str, ...] = ()
    """What is wrong with the server although it serves; what ``/readyz`` says."""


def applied_of(message: Any) -> Applied:
    changed, unchanged = (tuple(map(name_of, part)) for part in (message.changed, message.unchanged))
    return Applied(message.revision, changed, unchanged, message.again)


def revision_of(message: Any) -> Revision:
    at = datetime.fromtimestamp(message.at_ms / 1000, UTC)
    return Revision(message.revision, message.id, message.author, message.message, at, message.operations)


def difference_of(message: Any) -> Difference:
    before = json_of(message.before) if message.HasField("before") else None
    after = json_of(message.after) if message.HasField("after") else None
    return Difference(name_of(message.resource), before, after)


def event_of(message: Any) -> Event:
    operations = tuple(
        Operation(each.group, name_of(each.resource), json_of(each.set) if each.HasField("set") else None)
        for each in message.operations
    )
    return Event(revision_of(message.revision), operations)


def group_of(message: Any) -> Group:
    return Group(message.name, message.extends or None, message.kept, dict(message.resources))


def node_of(message: Any) -> NodeProgress:
    types = tuple(
        TypeProgress(each.type, each.subscribed, each.sent, each.acked, each.pending, tuple(each.nacked), each.error)
        for each in message.types
    )
    return NodeProgress(
        message.id, message.cluster, message.group, message.revision, message.state, message.connected_s, types
    )
