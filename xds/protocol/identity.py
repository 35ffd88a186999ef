"""Who a stream belongs to: from the wire's ``Node`` to the model's. It does not know groups."""

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from xds._generated.xds_wire_pb2 import Node as WireNode
from xds.model.groups import Locality, Node
from xds.protocol.errors import Status, StreamRefusedError

NOWHERE = Locality()


def check_node_size(size: int, bytes_max: int) -> None:
    """Refuse a node of ``size`` encoded bytes, before anything of it is converted or kept, if that is too much."""
    if size > bytes_max:
        raise StreamRefusedError(
            Status.RESOURCE_EXHAUSTED, f"the node has {size} bytes, at most {bytes_max} are taken (node_bytes_max)"
        )


def describe_node(wire: WireNode) -> Node:
    """Return the node that a first request describes. Raises StreamRefusedError if that can't be read."""
    place = wire.locality
    nowhere = not (place.region or place.zone or place.sub_zone)
    return Node(
        id=wire.id,
        cluster=wire.cluster,
        locality=NOWHERE if nowhere else Locality(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
        metadata=_metadata(wire),
        user_agent=f"{wire.user_agent_name} {wire.user_agent_version}".strip(),
    )


def is_grpc(node: Node) -> bool:
    """Say whether a node is gRPC's own xDS client, which names itself so in every language ("gRPC C-core …")."""
    return node.user_agent.startswith("gRPC ")


def _metadata(wire: WireNode) -> dict[str, Any]:
    if not wire.metadata:
        return {}
    try:
        return MessageToDict(Struct.FromString(wire.metadata))
    except (DecodeError, ValueError) as error:  # ValueError: not-a-number and the like, which JSON does not have
        raise StreamRefusedError(Status.INVALID_ARGUMENT, f"node.metadata can't be read: {error}") from None


def same_node(node: Node, wire: WireNode) -> bool:
    """Say whether a later request's node is the stream's. Its metadata may have changed since, its names not."""
    return wire.id == node.id and wire.cluster == node.cluster
