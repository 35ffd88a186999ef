"""Warnings in the answer to a change, of what the Envoys of connected nodes lack."""

from support import resources as r
from support.schemas import older_api

from xds.model.groups import Node
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.paging import NodeState
from xds.protocol.status import NodeSummary
from xds.publishing.changes import Change
from xds.schema.ingest import ingest
from xds.schema.notices import Notices
from xds.schema.pool import Schema, load_schema
from xds.schema.union import encode_set

DNS_RATE, DEPRECATED = "dns_refresh_rate", {"track_timeout_budgets": True}
OLD = "1.30.0"


def change(name: str) -> Change:
    cluster = r.static_cluster(name, 1) | DEPRECATED | {DNS_RATE: "5s"}
    return Change(upserts={"default": (ingest(cluster),)})


async def test_a_change_is_answered_although_no_worker_says_which_envoys_are_connected(serving_api) -> None:
    """Deprecated fields are warned of all the same; it is asked again at the next change."""
    older = older_api(OLD, lacks=(f"envoy.config.cluster.v3.Cluster.{DNS_RATE}",))
    served = await serving_api(notices=Notices(load_schema(), {OLD: Schema(encode_set(older.files))}))
    served.nodes_fail = StreamRefusedError(Status.UNAVAILABLE, "worker 1 did not answer")
    published = await served.operations.publish(change("a"))
    assert (published.revision, {each.field for each in published.warnings} - {DNS_RATE}) == (1, {*DEPRECATED})
    assert not any("lacks" in each.what for each in published.warnings)

    served.nodes_fail = None
    node = Node(id="n", user_agent=f"envoy {OLD}")
    served.known_nodes.append(
        NodeSummary(node=node, group="default", revision=1, state=NodeState.ACCEPTED, connected_s=1.0, types=())
    )
    published = await served.operations.publish(change("b"))
    (lacking,) = [each for each in published.warnings if "lacks" in each.what]
    assert (lacking.field, lacking.hint.partition(":")[0]) == (DNS_RATE, "1 connected node is of this version")
