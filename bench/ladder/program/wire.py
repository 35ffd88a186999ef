"""Bytes: frames of a read, the opening of a connection, and the node in a first request. Pure."""

from collections.abc import Iterator

from bench.ladder.switches import CREDIT, NODE_PARSED
from xds._generated.xds_wire_pb2 import Node
from xds.transport.http2 import frames as h2
from xds.transport.http2.grpc import RESPONSE_BLOCK, trailers

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
WINDOW = h2.WINDOW_DEFAULT
HELLO = h2.settings_frame([(h2.MAX_CONCURRENT_STREAMS, 1)])
if not CREDIT:  # so much is never read
    HELLO = h2.settings_frame([(h2.INITIAL_WINDOW_SIZE, 1 << 30)]) + h2.window_update(0, 1 << 30)
SETTINGS_ACK = h2.frame(h2.SETTINGS, h2.ACK, 0)
OPENED = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, RESPONSE_BLOCK)
UNIMPLEMENTED = trailers(1, 12, "this server has delta ADS alone", only=True)
NODE_KEY = 0x0A
ID_KEY = 0x0A


class LongKey(bytes):
    """A long request as a key: hashed by its length and end, then compared whole, a quarter of what hashing takes."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash((len(self), self[-64:]))


def frames(data: bytes, at: int = 0) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Yield kind, flags, stream, payload and end of each whole frame."""
    end = len(data)
    while end - at >= h2.HEADER_BYTES:
        stop = at + h2.HEADER_BYTES + int.from_bytes(data[at : at + 3], "big")
        if stop > end:
            return
        yield data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : stop], stop
        at = stop


def without_node(message: bytes) -> tuple[bytes, bytes]:
    """Return the node of a request, encoded, and the request without it; b"" where none stands at its beginning."""
    if not message or message[0] != NODE_KEY:
        return b"", message
    size, at = _varint(message, 1)
    return message[at : at + size], message[at + size :]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7


class Nodes:
    """Nodes that were read: what all but the id says is read once for all nodes that share it."""

    def __init__(self) -> None:
        self._templates: dict[bytes, Node] = {}

    def read(self, encoded: bytes) -> tuple[str, Node]:
        """Return a node's id and all the rest of it. Raises DecodeError or UnicodeDecodeError."""
        if NODE_PARSED or not encoded or encoded[0] != ID_KEY:
            node = Node.FromString(encoded)
            return node.id, node
        size, at = _varint(encoded, 1)
        rest = encoded[at + size :]
        template = self._templates.get(rest)
        if template is None:
            if len(self._templates) > 1_000:
                self._templates.clear()
            template = self._templates[rest] = Node.FromString(rest)
        return encoded[at : at + size].decode(), template
