"""Who a stream belongs to: from the wire's ``Node`` to the model's. It does not know groups."""

from google.protobuf.json_format import MessageToDict

from xds._generated.xds_wire_pb2 import Node as WireNode
from xds.model.groups import Locality, Node


def describe_node(wire: WireNode) -> Node:
    """Return the node that a first request describes."""
    place = wire.locality
    return Node(
        id=wire.id,
        cluster=wire.cluster,
        locality=Locality(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
        metadata=MessageToDict(wire.metadata) if wire.HasField("metadata") else {},
        user_agent=f"{wire.user_agent_name} {wire.user_agent_version}".strip(),
    )


def same_node(node: Node, wire: WireNode) -> bool:
    """Say whether a later request's node is the stream's. Its metadata may have changed since, its names not."""
    return wire.id == node.id and wire.cluster == node.cluster
