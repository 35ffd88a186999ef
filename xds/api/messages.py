"""The push API's answers as protobuf (``snapshots.proto``). Pure."""

from collections.abc import Iterable
from typing import Any

from xds._generated import snapshots_pb2 as pb
from xds.api.operations import GroupInfo, ResourceDifference, SnapshotAnswer
from xds.api.shown import resource_any
from xds.model.problem import Problem
from xds.model.types import short_name
from xds.protocol.status import NodeSummary
from xds.publishing.changes import Published
from xds.publishing.codec import restored
from xds.store.entries import Head, Key, Stored, head_of

PROBLEMS_BYTES_MAX = 3_500
"""gRPC sometimes refuses trailers of more than 8 KiB; base64 makes these bytes a third more."""


def applied_message(published: Published) -> Any:
    """Return the outcome of a change."""
    return pb.Applied(
        revision=published.revision,
        changed=[_name(key) for key in published.changed],
        unchanged=[_name(key) for key in published.unchanged],
        again=published.again,
    )


def _name(key: Key) -> Any:
    return pb.ResourceName(type=short_name(key.type_url), name=key.name)


def problems_message(problems: Iterable[Problem]) -> Any:
    """Return as many problems as fit into the trailers."""
    message = pb.Problems()
    for each in problems:
        added = message.problems.add(
            what=each.what, hint=each.hint, group=each.group, resource=each.resource, field=each.field
        )
        if message.ByteSize() > PROBLEMS_BYTES_MAX:
            message.problems.remove(added)
            break
    return message


def snapshot_message(snapshot: SnapshotAnswer, epoch: str, *, secrets: bool) -> Any:
    """Return a group's resources at a revision."""
    resources = [resource_any(each, secrets=secrets) for each in snapshot.resources]
    return pb.Snapshot(revision=snapshot.revision, resources=resources, epoch=epoch)


def difference_message(difference: ResourceDifference, *, secrets: bool) -> Any:
    """Return a difference."""
    before, after = difference.before, difference.after
    return pb.Difference(
        resource=_name(difference.key),
        before=None if before is None else resource_any(before, secrets=secrets),
        after=None if after is None else resource_any(after, secrets=secrets),
    )


def revision_message(head: Head) -> Any:
    """Return a change as an item of the history."""
    return pb.Revision(
        revision=head.revision,
        id=head.id,
        author=head.author,
        message=head.message,
        at_ms=head.at_ms,
        operations=head.operations,
    )


def event_message(stored: Stored, *, secrets: bool) -> Any:
    """Return a change with everything it sets and removes."""
    operations = [
        pb.Operation(
            group=key.group,
            resource=_name(key),
            set=None
            if encoded is None
            else resource_any(restored(key, encoded, f"revision {stored.revision}"), secrets=secrets),
        )
        for key, encoded in stored.entry.operations.items()
    ]
    return pb.Event(revision=revision_message(head_of(stored)), operations=operations)


def group_message(group: GroupInfo) -> Any:
    """Return a group."""
    counts = {short_name(type_url): count for type_url, count in group.resources.items()}
    return pb.Group(name=group.name, extends=group.extends or "", kept=group.kept, resources=counts)


def node_message(node: NodeSummary) -> Any:
    """Return the progress of a node."""
    types = [
        pb.NodeType(
            type=short_name(each.type_url),
            subscribed=each.subscribed,
            sent=each.sent,
            acked=each.acked,
            pending=each.pending,
            nacked=each.nacked,
            error=each.error,
        )
        for each in node.types
    ]
    return pb.Node(
        id=node.node.id,
        cluster=node.node.cluster,
        group=node.group,
        revision=node.revision,
        state=node.state.value,
        connected_s=node.connected_s,
        types=types,
    )
