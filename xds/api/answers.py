"""The push API's answers: errors as HTTP and gRPC statuses; changes, resources and nodes as JSON. Pure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from xds.access.errors import ForbiddenError, NoAuditError, UnauthenticatedError
from xds.access.rights import Caller
from xds.api.convergence import Convergence
from xds.api.fleet import FleetStatus, GroupStatus
from xds.api.intake import BusyError, TooSlowError
from xds.api.media_types import UnknownMediaTypeError
from xds.api.operations import (
    CantMoveError,
    ResourceDifference,
    RevisionAnswer,
    SnapshotAnswer,
    UnknownNodeError,
    UnknownResourceError,
)
from xds.api.shown import resource_json
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.protocol.errors import StreamRefusedError
from xds.protocol.paging import Position, Sort, WrongCursorError, position_of
from xds.protocol.status import NodesFound, NodeSummary, TypeSummary
from xds.publishing.changes import KeptElsewhereError, Published, change_of
from xds.publishing.edits import UnknownGroupError
from xds.sources.groups_file import groups_json
from xds.store.entries import EntrySummary, Key, Stored, kind_in
from xds.store.errors import (
    CompactedError,
    ConflictError,
    IdReusedError,
    NoBackupError,
    NotYetError,
    OutcomeUnknownError,
    StoreError,
    TooLargeError,
)


class BodyTooLargeError(Exception):
    """A body has more bytes than the limit."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error: its HTTP status, the name of its gRPC status, and its message. ``more`` are further keys."""

    http: int
    grpc: str
    message: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"error": self.message, **self.more}


def header_value(text: str) -> str:
    """Return untrusted text as a header value: percent-encoded where it is not printable ASCII."""
    can_stand = text.isascii() and text.isprintable() and text == text.strip()
    return text if can_stand else quote(text, safe="")


EXPECTED = (
    *(ChangesetRejectedError, StoreError, KeptElsewhereError, UnknownGroupError, UnknownResourceError),
    *(CantMoveError, UnknownNodeError, UnknownMediaTypeError, BodyTooLargeError, StreamRefusedError, BusyError),
    *(TooSlowError, ForbiddenError, UnauthenticatedError, NoAuditError),
)
"""The errors that ``error_answer`` handles: any other error is a bug."""


def error_answer(error: Exception) -> ErrorAnswer:
    """Return the answer for an expected error."""
    text = str(error)
    match error:
        case ChangesetRejectedError():
            problems = [problem_json(problem) for problem in error.problems]
            return ErrorAnswer(422, "INVALID_ARGUMENT", text, {"problems": problems})
        case ConflictError():
            return ErrorAnswer(409, "ABORTED", text, {"revision": error.revision})
        case IdReusedError():
            return ErrorAnswer(409, "ABORTED", text, {} if error.revision is None else {"revision": error.revision})
        case UnauthenticatedError():
            return ErrorAnswer(401, "UNAUTHENTICATED", text)
        case ForbiddenError():
            return ErrorAnswer(403, "PERMISSION_DENIED", text)
        case KeptElsewhereError() | NoBackupError() | NoAuditError() | CantMoveError():
            return ErrorAnswer(409, "FAILED_PRECONDITION", text)
        case CompactedError():
            return ErrorAnswer(410, "OUT_OF_RANGE", text, {"oldest": error.oldest})
        case NotYetError():
            return ErrorAnswer(404, "NOT_FOUND", text, {"revision": error.revision})
        case UnknownGroupError() | UnknownResourceError() | UnknownNodeError():
            return ErrorAnswer(404, "NOT_FOUND", text)
        case TooLargeError() | BodyTooLargeError():
            return ErrorAnswer(413, "RESOURCE_EXHAUSTED", text)
        case TooSlowError():
            return ErrorAnswer(408, "UNAVAILABLE", text)
        case UnknownMediaTypeError():
            return ErrorAnswer(415, "INVALID_ARGUMENT", text)
        case OutcomeUnknownError():
            return ErrorAnswer(504, "UNKNOWN", text, {"outcome": "unknown", "id": error.entry_id})
        case _:
            return ErrorAnswer(503, "UNAVAILABLE", text)


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem with its place, as far as it is known."""
    told = {
        "what": problem.what,
        "hint": problem.hint,
        "group": problem.group,
        "resource": problem.resource,
        "field": problem.field,
        "line": problem.line,
    }
    return {key: value for key, value in told.items() if value}


def published_json(published: Published) -> dict[str, Any]:
    """Return the outcome of a change."""
    return {
        "revision": published.revision,
        "changed": [
            {"group": key.group, **_name(key), "change": change_of(published, key)} for key in published.changed
        ],
        "unchanged": [{"group": key.group, **_name(key)} for key in published.unchanged],
        "again": published.again,
        "rules_changed": published.rules_changed,
        "warnings": [problem_json(warning) for warning in published.warnings],
    }


def _name(key: Key) -> dict[str, str]:
    return {"type": short_name(key.type_url), "name": key.name}


def resources_json(resources: Iterable[Resource], *, secrets: bool) -> list[dict[str, Any]]:
    """Return resources in the form that ``ingest`` reads."""
    return [resource_json(each, secrets=secrets) for each in resources]


def list_json(snapshot: SnapshotAnswer) -> dict[str, Any]:
    """Return the names of a group's resources, without their content."""
    resources = [
        {"type": short_name(each.type_url), "name": each.name, "version": each.version} for each in snapshot.resources
    ]
    return {"revision": snapshot.revision, "changed_at": snapshot.changed_at, "resources": resources}


def difference_json(difference: ResourceDifference, *, secrets: bool) -> dict[str, Any]:
    """Return a difference; ``before`` or ``after`` is left out where the resource did not exist."""
    told: dict[str, Any] = {"group": difference.key.group, **_name(difference.key), "change": difference.change}
    if difference.before is not None:
        told["before"] = resource_json(difference.before, secrets=secrets)
    if difference.after is not None:
        told["after"] = resource_json(difference.after, secrets=secrets)
    return told


def summary_json(summary: EntrySummary) -> dict[str, Any]:
    """Return a change as an item of the history."""
    return {
        "revision": summary.revision,
        "id": summary.id,
        "author": summary.author,
        "message": summary.message,
        "at_ms": summary.at_ms,
        "operations": summary.operations,
        "groups": [each._asdict() for each in summary.groups],
        "rules_changed": summary.rules_changed,
    }


def details_json(answer: RevisionAnswer, *, secrets: bool) -> dict[str, Any]:
    """Return a change in full; ``rules_before`` and ``rules_after`` are there only if it modifies groups or rules."""
    told = summary_json(answer.summary)
    told["differences"] = [difference_json(each, secrets=secrets) for each in answer.differences]
    tables = {"rules_before": answer.rules_before, "rules_after": answer.rules_after}
    return told | {key: groups_json(table) for key, table in tables.items() if table is not None}


def event_json(stored: Stored) -> dict[str, Any]:
    """Return a change as an event of a watch: the resources it set and removed."""
    entry = stored.entry
    return {
        "revision": stored.revision,
        "id": entry.id,
        "author": entry.author,
        "message": entry.message,
        "at_ms": entry.at_ms,
        "set": [
            {"group": key.group, **_name(key), "change": kind_in(entry, key)}
            for key, value in entry.operations.items()
            if value is not None
        ],
        "removed": [{"group": key.group, **_name(key)} for key, value in entry.operations.items() if value is None],
        "rules_changed": entry.groups is not None,
    }


def node_json(node: NodeSummary) -> dict[str, Any]:
    """Return the progress of a node."""
    place = node.node.locality
    return {
        "id": node.node.id,
        "cluster": node.node.cluster,
        "group": node.group,
        "state": node.state.value,
        "revision": node.revision,
        "accepted_revision": node.accepted_revision,
        "address": node.address,
        "identity": list(node.node.identity),
        "locality": {"region": place.region, "zone": place.zone, "sub_zone": place.sub_zone},
        "user_agent": node.node.user_agent,
        "envoy_version": node.node.envoy_version,
        "replica": node.replica,
        "worker": node.worker,
        "first_seen_ms": node.first_seen_ms,
        "last_seen_ms": node.last_seen_ms,
        "connected_s": None if node.connected_s is None else round(node.connected_s, 3),
        "left_because": node.left_because,
        "types": [_type_json(each) for each in node.types],
    }


def nodes_json(found: NodesFound, following: str = "") -> dict[str, Any]:
    """Return the progress of nodes, which are missing, and the server's problems. ``following``: the next cursor."""
    return {
        "nodes": [node_json(each) for each in found.nodes],
        "next": following,
        "total": found.total,
        "missing_workers": list(found.missing_workers),
        "missing_replicas": list(found.missing_replicas),
        "problems": list(found.problems),
    }


def status_json(found: FleetStatus) -> dict[str, Any]:
    """Return how the fleet and its server stand."""
    server = found.server
    return {
        "server": {
            "version": server.version,
            "schema_of": server.schema_of,
            "replica": server.replica,
            "started_at_ms": server.started_at_ms,
        },
        "revision": found.revision,
        "epoch": found.epoch,
        "groups": [_group_status_json(each) for each in found.groups],
        "replicas": [asdict(each) for each in server.replicas],
        "workers": {**asdict(server.workers), "silent": list(server.workers.silent)},
        "store": asdict(server.store),
        "directory": None if server.directory is None else asdict(server.directory),
        "limits": dict(server.limits),
        "certificates": [asdict(each) for each in server.certificates],
        "problems": list(server.problems),
        "missing_workers": list(found.missing_workers),
        "missing_replicas": list(found.missing_replicas),
    }


def _group_status_json(group: GroupStatus) -> dict[str, Any]:
    return {
        "name": group.name,
        "revision": group.revision,
        "nodes": group.nodes,
        "accepted": group.accepted,
        "pending": group.pending,
        "rejected": group.rejected,
        "gone": group.gone,
        "oldest_unaccepted": None if group.oldest_unaccepted is None else asdict(group.oldest_unaccepted),
    }


def after_cursor(sort: Sort, cursor: str) -> Position | None:
    """Return the position of a cursor, None for "". Raises ChangesetRejectedError."""
    try:
        return position_of(sort, cursor)
    except WrongCursorError as error:
        raise ChangesetRejectedError([Problem(what=str(error), field="cursor")]) from None


def caller_json(caller: Caller) -> dict[str, Any]:
    """Return who a caller is, and its grants; ``groups`` is left out of a grant for all groups."""
    grants = [
        {"roles": list(each.roles)} | ({"groups": list(each.groups)} if each.groups else {}) for each in caller.grants
    ]
    return {"identity": caller.identity, "grants": grants}


def _type_json(each: TypeSummary) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": short_name(each.type_url),
        "variant": each.variant,
        "subscribed": "*" if each.wildcard else each.subscribed,
        "sent": each.sent,
        "acked": each.acked,
        "pending": each.pending,
        "nacked": list(each.nacked),
    }
    if each.error:
        told |= {"error": each.error, "versions": each.versions}
        told |= {"blamed": list(each.blamed), "blamed_by": each.blamed_by.value}
    return told


def convergence_json(found: Convergence) -> dict[str, Any]:
    """Return how far a revision has come."""
    return {
        "revision": found.goal.revision,
        "published": found.published,
        "verdict": found.verdict.value,
        "nodes": found.nodes,
        "accepted": found.accepted,
        "pending": found.pending,
        "rejected": found.rejected,
        "gone": found.gone,
        "of": found.goal.of,
        "missing_workers": list(found.missing_workers),
        "missing_replicas": list(found.missing_replicas),
        "lacking": [
            {
                "id": each.id,
                "group": each.group,
                "state": each.state,
                "since": each.since,
                "reason": each.reason,
            }
            for each in found.lacking
        ],
    }
