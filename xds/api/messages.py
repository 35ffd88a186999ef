"""The push API's answers as protobuf (``snapshots.proto``). Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from xds._generated import snapshots_pb2 as pb
from xds.api.convergence import Convergence
from xds.api.operations import GroupInfo, ResourceDifference, RevisionAnswer, SnapshotAnswer
from xds.api.shown import resource_any
from xds.model.problem import Problem
from xds.model.types import short_name
from xds.protocol.status import NodeSummary, TypeSummary
from xds.publishing.changes import Published, change_of
from xds.publishing.codec import restored
from xds.sources.groups_file import groups_json
from xds.store.entries import EntrySummary, Key, Stored, kind_in, summary_of

PROBLEMS_BYTES_MAX = 3_500
"""gRPC sometimes refuses trailers of more than 8 KiB; base64 makes these bytes a third more."""


def applied_message(published: Published) -> Any:
    """Return the outcome of a change."""
    return pb.Applied(
        revision=published.revision,
        changed=[_applied(key, change_of(published, key)) for key in published.changed],
        unchanged=[_applied(key, "unchanged") for key in published.unchanged],
        again=published.again,
        rules_changed=published.rules_changed,
        warnings=problems_message(published.warnings).problems,
    )


def _applied(key: Key, change: str) -> Any:
    return pb.AppliedResource(type=short_name(key.type_url), name=key.name, group=key.group, change=change.upper())


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
    return pb.Snapshot(revision=snapshot.revision, resources=resources, epoch=epoch, changed_at=snapshot.changed_at)


def list_message(snapshot: SnapshotAnswer) -> Any:
    """Return the names of a group's resources at a revision."""
    resources = [
        pb.ListedResource(type=short_name(each.type_url), name=each.name, version=each.version)
        for each in snapshot.resources
    ]
    return pb.ResourceList(revision=snapshot.revision, changed_at=snapshot.changed_at, resources=resources)


def difference_message(difference: ResourceDifference, *, secrets: bool) -> Any:
    """Return a difference."""
    before, after = difference.before, difference.after
    return pb.Difference(
        resource=_name(difference.key),
        before=None if before is None else resource_any(before, secrets=secrets),
        after=None if after is None else resource_any(after, secrets=secrets),
        group=difference.key.group,
    )


def revision_message(summary: EntrySummary) -> Any:
    """Return a change as an item of the history."""
    return pb.Revision(
        revision=summary.revision,
        id=summary.id,
        author=summary.author,
        message=summary.message,
        at_ms=summary.at_ms,
        operations=summary.operations,
        groups=[pb.GroupCounts(**each._asdict()) for each in summary.groups],
        rules_changed=summary.rules_changed,
    )


def details_message(answer: RevisionAnswer, *, secrets: bool) -> Any:
    """Return a change in full."""
    message = pb.RevisionDetails(
        revision=revision_message(answer.summary),
        differences=[difference_message(each, secrets=secrets) for each in answer.differences],
    )
    for table, target in ((answer.rules_before, message.rules_before), (answer.rules_after, message.rules_after)):
        if table is not None:
            target.update(groups_json(table))
    return message


def event_message(stored: Stored, *, secrets: bool) -> Any:
    """Return a change with everything it sets and removes."""
    operations = [
        pb.Operation(
            group=key.group,
            resource=_name(key),
            set=None
            if encoded is None
            else resource_any(restored(key, encoded, f"revision {stored.revision}"), secrets=secrets),
            change=kind_in(stored.entry, key).upper(),
        )
        for key, encoded in stored.entry.operations.items()
    ]
    return pb.Event(revision=revision_message(summary_of(stored)), operations=operations)


def group_message(group: GroupInfo) -> Any:
    """Return a group."""
    counts = {short_name(type_url): count for type_url, count in group.resources.items()}
    return pb.Group(
        name=group.name, extends=group.extends or "", kept=group.kept, resources=counts, revision=group.revision
    )


def node_messages(nodes: Iterable[NodeSummary]) -> Iterator[Any]:
    """Yield the progress of nodes. Nodes in the same state share their types, which are made once."""
    made: dict[int, tuple[tuple[TypeSummary, ...], list[Any]]] = {}
    for node in nodes:
        _, types = made.get(id(node.types)) or made.setdefault(id(node.types), (node.types, _type_messages(node.types)))
        yield _node_message(node, types)


def _type_messages(types: Iterable[TypeSummary]) -> list[Any]:
    return [
        pb.NodeType(
            type=short_name(each.type_url),
            subscribed=each.subscribed,
            sent=each.sent,
            acked=each.acked,
            pending=each.pending,
            nacked=each.nacked,
            error=each.error,
            blamed=each.blamed,
            blamed_by=each.blamed_by.value if each.error else "",
        )
        for each in types
    ]


def _node_message(node: NodeSummary, types: list[Any]) -> Any:
    return pb.Node(
        id=node.node.id,
        cluster=node.node.cluster,
        group=node.group,
        revision=node.revision,
        state=node.state.value,
        connected_s=node.connected_s or 0.0,
        types=types,
        accepted_revision=node.accepted_revision,
        address=node.address,
        identity=node.node.identity,
        user_agent=node.node.user_agent,
        envoy_version=node.node.envoy_version,
        region=node.node.locality.region,
        zone=node.node.locality.zone,
        sub_zone=node.node.locality.sub_zone,
        replica=node.replica,
        worker=node.worker,
        first_seen_ms=node.first_seen_ms,
        last_seen_ms=node.last_seen_ms,
        left_because=node.left_because,
    )


def convergence_message(found: Convergence) -> pb.Convergence:
    """Return how far a revision has come, as a message."""
    return pb.Convergence(
        revision=found.goal.revision,
        published=found.published,
        accepted=found.accepted,
        pending=found.pending,
        rejected=found.rejected,
        gone=found.gone,
        of=found.goal.of,
        verdict=found.verdict.value,
        missing_workers=found.missing_workers,
        missing_replicas=found.missing_replicas,
        lacking=[
            pb.LackingNode(
                id=each.id,
                group=each.group,
                state=each.state,
                since=each.since,
                reason=each.reason,
            )
            for each in found.lacking
        ],
    )
