"""The commonest request, known by its bytes: an ACK that says nothing else. It does not know order.

Streams of a cohort ACK with equal bytes, so what those say is worked out once. Envoy puts its node into every request
unless told otherwise (``set_node_on_first_message_only``); the rest of the bytes is equal then too.
"""

from typing import NamedTuple

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest
from xds.protocol.requests import Request, changes_subscription
from xds.protocol.session import Session

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

    def read(self, session: Session | None, data: bytes, node_end: int) -> PlainAck | None:
        """Return what a session's request is known to say; None if that is no such ACK."""
        if len(data) - node_end > BYTES_MAX:
            return None
        ack = self._known.get(data[node_end:])
        if ack is None or not node_end:
            return ack
        return ack if session is not None and hash(data[:node_end]) == session.node_hash else None

    def learn(self, session: Session, request: Request, data: bytes, node_end: int) -> None:
        """Note the node's bytes of a request that was taken, and if it is a plain ACK, what it says."""
        if node_end:
            session.node_hash = hash(data[:node_end])
        if is_plain_ack(request):
            self.add(data[node_end:], request.type_url, request.response_nonce)

    def add(self, plain: bytes, type_url: str, nonce: str) -> None:
        """Take in what a request that ``is_plain_ack`` says."""
        if len(self._known) >= self._entries_max:
            self._known.clear()
        if len(plain) <= BYTES_MAX:
            self._known[plain] = PlainAck(type_url, nonce)

    def get(self, plain: bytes) -> PlainAck | None:
        """Return what these bytes say, None if that is not known."""
        return self._known.get(plain)


def is_plain_ack(request: Request) -> bool:
    """Say whether a delta request ACKs and says nothing else. Its type URL must be in it."""
    return (
        bool(request.response_nonce and request.type_url)
        and isinstance(request, DeltaDiscoveryRequest)
        and not request.HasField("error_detail")
        and not changes_subscription(request)
    )


def end_of_node(data: bytes) -> int:
    """Return where in the bytes of a delta request its node ends, if that comes first, else 0."""
    if not data or data[0] != NODE_TAG:
        return 0
    size = shift = 0
    for at in range(1, min(len(data), 6)):
        size |= (data[at] & 0x7F) << shift
        shift += 7
        if not data[at] & 0x80:
            return min(at + 1 + size, len(data))
    return 0
