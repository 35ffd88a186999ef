"""What calls of the push API return. Resources are in Envoy's JSON form, as dicts with ``@type``."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from xds.schema.ingest import ingest
from xds.schema.show import to_json
from xds.schema.wrapping import WRAPPER_URL

Json = dict[str, Any]


class Name(NamedTuple):
    """A resource's type, by its short name (``clusters``) or else its message's, and its name."""

    type: str
    name: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The revision at which a change is kept and served, what it changed, and what was so before.

    ``again``: the server had the change with this id already.
    """

    revision: int
    changed: tuple[Name, ...]
    unchanged: tuple[Name, ...]
    again: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a group has itself at a revision. After a restore from a backup ``epoch`` is another one."""

    revision: int
    epoch: str
    resources: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A resource before and after, None where it is not there."""

    name: Name
    before: Json | None
    after: Json | None


@dataclass(frozen=True, slots=True)
class Revision:
    """A change that was made, as a list has it."""

    revision: int
    id: str
    author: str
    message: str
    at: datetime
    operations: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A resource that a change set, or removed (None)."""

    group: str
    name: Name
    set: Json | None


@dataclass(frozen=True, slots=True)
class Event:
    """A change, as a watch yields it."""

    revision: Revision
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group; ``kept`` by a directory; ``resources``: how many of each type it has itself."""

    name: str
    extends: str | None
    kept: bool
    resources: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TypeProgress:
    """One type on one connection of a node, in numbers of resources."""

    type: str
    subscribed: int
    sent: int
    acked: int
    pending: int
    nacked: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How far one connection of a node is; ``state`` is ``synced``, ``pending`` or ``rejected``."""

    id: str
    cluster: str
    group: str
    revision: int
    state: str
    connected_s: float
    types: tuple[TypeProgress, ...]


def unwrapped(resource: Json) -> tuple[Json, Json]:
    """Return a resource's message, and what is said around it: ``name``, ``aliases`` and ``ttl``, where need be.

    What has a TTL, aliases, or a name that its message does not say comes as ``envoy.service.discovery.v3.Resource``.
    """
    if resource.get("@type") != WRAPPER_URL:
        return resource, {}
    return resource["resource"], {key: value for key, value in resource.items() if key not in ("@type", "resource")}


def name_of(message: Any) -> Name:
    return Name(message.type, message.name)


def json_of(message: Any) -> Json:
    """Return the resource in a ``google.protobuf.Any``."""
    return to_json(ingest((message.type_url, message.value), allow_unknown_types=True, allow_redacted=True))


@dataclass(frozen=True, slots=True)
class Nodes:
    """How far nodes are, but those of ``missing_workers``: processes of the server that did not answer."""

    nodes: tuple[NodeProgress, ...]
    missing_workers: tuple[str, ...]


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
