"""The commonest request, known by its bytes: an ACK that says nothing else. It does not know order.

Streams of a cohort ACK with equal bytes, so what those say is worked out once. Envoy puts its node into every request
unless told otherwise (``set_node_on_first_message_only``); the rest of the bytes is equal then too.
"""

from typing import NamedTuple

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from xds.protocol.session import Session
from xds.protocol.state import TypeState, Variant
from xds.protocol.stream import Stream

NODE_TAG = 0x0A
"""Of field 1 of a ``DeltaDiscoveryRequest``, which encoders write first."""
BYTES_MAX = 512


class PlainAck(NamedTuple):
    """What such a request says."""

    type_url: str
    nonce: str


class PlainAcks:
    """The ACKs seen lately, by their bytes without the node; of so many at most."""

    __slots__ = ("_entries_max", "_known")

    def __init__(self, *, entries_max: int = 4_096) -> None:
        self._known: dict[bytes, PlainAck] = {}
        self._entries_max = entries_max

    def take(self, stream: Stream, data: bytes) -> TypeState | None:
        """Take a request that is an ACK and moves nothing else; return the type that was ACKed, None if it is not."""
        session = stream.session
        if session is None or session.expects_endpoints or stream.variant is Variant.SOTW:
            return None
        node_bytes, plain = split_node(data)
        ack = self._known.get(plain)
        if ack is None or (node_bytes and hash(node_bytes) != session.node_hash):
            return None
        state = stream.states.get(ack.type_url)
        if state is None or not state.takes_plain_ack(ack.nonce):
            return None
        state.outstanding = None
        return state

    def learn(self, session: Session, request: DeltaDiscoveryRequest | DiscoveryRequest, data: bytes) -> None:
        """Note the node's bytes of a request that was taken, and if it is a plain ACK, what it says."""
        node_bytes, plain = split_node(data)
        if node_bytes:
            session.node_hash = hash(node_bytes)
        if is_plain_ack(request):
            self.add(plain, request.type_url, request.response_nonce)

    def add(self, plain: bytes, type_url: str, nonce: str) -> None:
        """Take in what a request that ``is_plain_ack`` says."""
        if len(self._known) >= self._entries_max:
            self._known.clear()
        if len(plain) <= BYTES_MAX:
            self._known[plain] = PlainAck(type_url, nonce)

    def get(self, plain: bytes) -> PlainAck | None:
        """Return what these bytes say, None if that is not known."""
        return self._known.get(plain)


def is_plain_ack(request: DeltaDiscoveryRequest | DiscoveryRequest) -> bool:
    """Say whether a delta request ACKs and says nothing else. Its type URL must be in it."""
    return (
        isinstance(request, DeltaDiscoveryRequest)
        and bool(request.response_nonce and request.type_url)
        and not request.HasField("error_detail")
        and not request.resource_names_subscribe
        and not request.resource_names_unsubscribe
        and not request.resource_locators_subscribe
        and not request.resource_locators_unsubscribe
    )


def split_node(data: bytes) -> tuple[bytes, bytes]:
    """Split a delta request into the bytes of its node, if that comes first, and the rest."""
    if not data or data[0] != NODE_TAG:
        return b"", data
    size = shift = 0
    for at in range(1, min(len(data), 6)):
        size |= (data[at] & 0x7F) << shift
        shift += 7
        if not data[at] & 0x80:
            end = at + 1 + size
            return data[:end], data[end:]
    return b"", data
