"""A gRPC server's connections without sockets: on this project's HTTP/2, and on the ``h2`` library."""

import asyncio
import time
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

from bench.h2_cost.table import FRAMED, SERVED
from bench.serve import Workload
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from xds.model.types import ENDPOINTS
from xds.process.loop_share import LoopShare
from xds.transport.assembly import Assembly
from xds.transport.http2 import frames, grpc, headers
from xds.transport.http2.connection import Connection
from xds.transport.http2.headers import RequestHead
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.stream import Http2Stream
from xds.transport.native_connection import NativeConnection, SharedByConnections

WINDOW = 1 << 30
PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
HEAD = headers.encode(
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "xds"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
)
HELLO = (
    frames.PREFACE
    + frames.settings_frame([(frames.INITIAL_WINDOW_SIZE, WINDOW)])
    + frames.window_update(0, WINDOW)
    + frames.frame(frames.SETTINGS, frames.ACK, 0)
)


class Wire:
    """A transport that keeps the last write alone."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.last = data


class Taken:
    """How many messages a participant's streams were given."""

    count = 0


class Taker(Http2Stream):
    """A stream that counts the messages that come."""

    __slots__ = ("_taken",)

    def __init__(self, connection: Any, stream_id: int, taken: Taken) -> None:
        super().__init__(connection, stream_id)
        self._taken = taken

    def on_message(self, message: bytes) -> None:
        """Count it."""
        self._taken.count += 1

    def on_end(self) -> None:
        """The client does not end it."""

    def on_gone(self) -> None:
        """Nothing is kept elsewhere."""

    def on_writable(self) -> None:
        """The windows are never used up."""


class Served(NativeConnection):
    """The connection as the server has it, with streams that only count."""

    __slots__ = ("taken",)

    def open_stream(self, stream_id: int, head: RequestHead) -> Http2Stream:
        return Taker(self, stream_id, self.taken)

    def began(self, stream: Http2Stream, head: RequestHead) -> None:
        stream.start()

    def deliver(self, message: bytes, framed: bytes) -> None:
        """Send a message, which is framed already, on stream 1."""
        self.streams[1].send(message, framed)


class Framed(Connection):
    """The HTTP/2 connection alone, without anything remembered of other connections."""

    __slots__ = ("_wire", "taken")

    def __init__(self, limits: Http2Limits, wire: Wire, taken: Taken) -> None:
        super().__init__(limits)
        self._wire, self.taken = wire, taken

    def open_stream(self, stream_id: int, head: RequestHead) -> Http2Stream:
        return Taker(self, stream_id, self.taken)

    def began(self, stream: Http2Stream, head: RequestHead) -> None:
        stream.start()

    def write(self, data: bytes) -> None:
        self._wire.write(data)

    def clock(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """There is nothing to close."""

    def on_preface(self) -> None:
        self.write(self.limits.hello())

    def data_received(self, data: bytes) -> None:
        """Take a read."""
        self.receive(data)

    def deliver(self, message: bytes, framed: bytes) -> None:
        """Send a message on stream 1."""
        self.streams[1].send(message)


class OnH2:
    """A gRPC server's connection on the library: whole messages in and out, credit given back for all that comes."""

    __slots__ = ("_h2", "_wire", "taken")
    config = H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )
    answer = ((b":status", b"200"), (b"content-type", b"application/grpc"))

    def __init__(self, wire: Wire, taken: Taken) -> None:
        self._h2 = H2Connection(self.config)
        self._wire, self.taken = wire, taken
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take a read."""
        for event in self._h2.receive_data(data):
            if isinstance(event, DataReceived):
                came = event.data
                if len(came) != grpc.PREFIX_BYTES + int.from_bytes(came[1:5], "big"):
                    raise ValueError("the messages of this benchmark come whole")
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.taken.count += 1
            elif isinstance(event, RequestReceived):
                self._h2.send_headers(event.stream_id, self.answer)
        self._flush()

    def deliver(self, message: bytes, framed: bytes) -> None:
        """Send a message on stream 1."""
        self._h2.send_data(1, message)
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._wire.write(data)


class Participant:
    """One way of doing it: makes connections, and has counted what came on them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken = Taken()
        self._first = Exchange(0)
        self._shared = SharedByConnections(
            services=cast("Any", None),
            limits=Http2Limits(),
            assembly=Assembly(),
            clock=time.monotonic,
            call_at=cast("Any", None),
            share=LoopShare(lambda callback: callback()),  # each read in a turn of its own
            turns=cast("Any", None),
        )

    def connected(self) -> tuple[Any, Wire]:
        """Return a connection with one stream that was delivered to once and has ACKed it, and what it writes into."""
        wire = Wire()
        connection: Any
        if self.name == SERVED:
            connection = Served(self._shared)
            connection.taken = self.taken
            connection.connection_made(cast("asyncio.Transport", wire))
        elif self.name == FRAMED:
            connection = Framed(self._shared.limits, wire, self.taken)
        else:
            connection = OnH2(wire, self.taken)
        connection.data_received(HELLO)
        open_stream(connection, 1)
        connection.deliver(self._first.message, self._first.framed)
        connection.data_received(self._first.ack)
        wire.last = b""
        return connection, wire


def open_stream(connection: Any, stream_id: int) -> None:
    """Have the client open a stream and say its first message."""
    first = DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=["cluster-1"]).SerializeToString()
    connection.data_received(frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, HEAD))
    connection.data_received(grpc.framed(stream_id, first))


class Exchange:
    """The bytes of one push: what the server sends to each stream, and what each client answers."""

    def __init__(self, number: int) -> None:
        nonce = f"{number:x}"
        workload = Workload(clusters=1, routes=0, endpoints=10)
        workload.version = number
        assignment = workload.next_change().SerializeToString()
        resource = Resource(name="cluster-1", version=f"{number:016x}")
        resource.resource.type_url, resource.resource.value = ENDPOINTS, assignment
        response = DeltaDiscoveryResponse(
            type_url=ENDPOINTS,
            nonce=nonce,
            system_version_info=f"{number:016x}",
            resources=[resource.SerializeToString()],
        )
        self.message = grpc.prefixed(response.SerializeToString())
        self.framed = frames.data_frames(1, self.message)
        self.ack = grpc.framed(1, DeltaDiscoveryRequest(type_url=ENDPOINTS, response_nonce=nonce).SerializeToString())
        self.ack_with_update = self.ack + frames.window_update(0, len(self.message))
