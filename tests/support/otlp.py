"""A receiver of traces by OTLP, over gRPC or HTTP, made of OpenTelemetry's own protocol package."""

import asyncio
from collections.abc import AsyncIterator
from concurrent import futures
from contextlib import asynccontextmanager
from typing import Any, Literal

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Protocol = Literal["grpc", "http/protobuf"]


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """What was received: spans, and the resources that they came from."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.port = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        """Take an export."""
        for each in request.resource_spans:
            self.resources.append(attributes_of(each.resource.attributes))
            for scope in each.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    async def on_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one HTTP/1.1 connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                assert head.startswith("POST /v1/traces "), head
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                assert fields["content-type"] == "application/x-protobuf"
                body = await reader.readexactly(int(fields["content-length"]))
                answer = self.Export(trace_service_pb2.ExportTraceServiceRequest.FromString(body), None)
                data = answer.SerializeToString()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n")
                writer.write(b"content-length: %d\r\n\r\n" % len(data) + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {each.key: _plain(each.value) for each in pairs}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@asynccontextmanager
async def receiving(protocol: Protocol) -> AsyncIterator[Receiver]:
    """Receive on a free port of loopback."""
    receiver = Receiver()
    if protocol == "grpc":
        server = grpc.server(futures.ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
        receiver.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield receiver
        finally:
            server.stop(None).wait()
        return
    http = await asyncio.start_server(receiver.on_http, "127.0.0.1", 0)
    receiver.port = http.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        http.close()
