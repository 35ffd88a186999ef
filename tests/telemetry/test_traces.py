"""Traces of changes, as a real OTLP receiver gets them: from the call to the nodes that have accepted it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from support import resources as r
from support.otlp import Receiver, attributes_of, receiving
from support.server import XdsServer
from support.waiting import wait_until
from support.wire import DeltaClient, Response

from xds._generated import snapshots_pb2 as pb
from xds.api.grpc_api import SERVICE
from xds.model.types import CLUSTER

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
WAY = ["xds.plan", "xds.store", "xds.feed", "xds.send", "xds.accept.first", "xds.accept.all"]


@asynccontextmanager
async def traced(protocol: Any, *, workers: int = 0, **settings: Any) -> AsyncIterator[tuple[XdsServer, Receiver]]:
    async with receiving(protocol) as receiver:
        given = {"telemetry.traces": "otlp", "transport.kind": "native", "transport.workers": workers} | settings
        server = XdsServer(None, settings=given)
        path = "" if protocol == "grpc" else "/v1/traces"
        server.env |= {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{receiver.port}{path}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        async with server:
            await server.wait_ready()
            yield server, receiver


async def push(server: XdsServer, timeout_s: int, headers: dict[str, str] | None = None) -> httpx.Response:
    resource = r.static_cluster("a", 1) | {"connect_timeout": f"{timeout_s}s"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}") as client:
        body = {"upsert": [resource], "message": "secret-message"}
        return await client.post("/v1/groups/default/changesets", json=body, headers=headers or {})


def by_name(receiver: Receiver) -> dict[str, Span]:
    return {span.name: span for span in receiver.spans}


async def accepted(client: DeltaClient) -> None:
    await client.subscribe(CLUSTER)
    response = await client.next()
    while not response.resources:
        await client.ack(response)
        response = await client.next()
    await client.ack(response)


@pytest.mark.parametrize(("protocol", "workers"), [("http/protobuf", 0), ("grpc", 1)])
async def test_a_change_is_traced_from_the_call_to_the_last_node(protocol: str, workers: int) -> None:
    async with traced(protocol, workers=workers) as (server, receiver):
        assert (await push(server, 1, NOT_SAMPLED)).status_code == 200
        async with (
            DeltaClient(server.port, node_id="n1") as one,
            DeltaClient(server.port, node_id="n2") as two,
        ):
            await asyncio.gather(accepted(one), accepted(two))
            answer = await push(server, 2, SAMPLED)
            revision = answer.json()["revision"]
            responses: list[Response] = [await one.next(), await two.next()]
            await one.ack(responses[0])
            await wait_until(lambda: by_name(receiver), lambda found: "xds.accept.first" in found, timeout_s=20)
            assert "xds.accept.all" not in by_name(receiver)
            await two.ack(responses[1])
            await wait_until(lambda: by_name(receiver), lambda found: "xds.accept.all" in found, timeout_s=20)
    spans = by_name(receiver)
    call = spans["POST /v1/groups/{group}/changesets"]
    assert sorted(span.name for span in receiver.spans) == sorted([call.name, *WAY])
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}  # nothing of what was not sampled
    assert (call.parent_span_id.hex(), call.trace_state, call.kind) == (PARENT, "vendor=1", Span.SPAN_KIND_SERVER)
    assert {name: spans[name].parent_span_id for name in WAY} == dict.fromkeys(WAY, call.span_id)
    assert attributes_of(call.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/groups/{group}/changesets",
        "http.response.status_code": 200,
        "url.path": "/v1/groups/default/changesets",
        "url.scheme": "http",
    }
    assert attributes_of(spans["xds.store"].attributes) == {"db.system.name": "sqlite", "db.operation.name": "append"}
    assert spans["xds.store"].kind == Span.SPAN_KIND_CLIENT
    about = {"xds.revision": revision, "xds.groups": ["default"]}
    assert attributes_of(spans["xds.feed"].attributes) == attributes_of(spans["xds.send"].attributes) == about
    counted = {"xds.nodes.accepted": 2, "xds.nodes.pending": 0, "xds.nodes.rejected": 0}
    assert attributes_of(spans["xds.accept.all"].attributes) == about | counted
    assert attributes_of(spans["xds.accept.first"].attributes)["xds.nodes.accepted"] == 1
    for before, after in pairwise(WAY[:4]):
        assert spans[before].end_time_unix_nano <= spans[after].end_time_unix_nano
    assert spans["xds.accept.first"].end_time_unix_nano < spans["xds.accept.all"].end_time_unix_nano
    assert receiver.resources[0]["service.name"] == "xds-control-plane"
    assert "secret-message" not in str(receiver.spans)


async def test_a_rejected_change_is_an_error_of_its_last_span() -> None:
    async with traced("http/protobuf") as (server, receiver):
        await push(server, 1, NOT_SAMPLED)
        async with DeltaClient(server.port, node_id="n1") as client:
            await accepted(client)
            await push(server, 2)  # without a context: a trace of its own
            await client.nack(await client.next(), "no")
            await wait_until(lambda: by_name(receiver), lambda found: "xds.accept.all" in found, timeout_s=20)
    last = by_name(receiver)["xds.accept.all"]
    assert (last.status.code, last.status.message) == (Status.STATUS_CODE_ERROR, "1 nodes have rejected it")
    assert last.trace_id.hex() != TRACE


async def test_calls_of_grpc_are_traced_with_their_status() -> None:
    async with traced("http/protobuf") as (server, receiver):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/GetResource",
                request_serializer=pb.ResourceRequest.SerializeToString,
                response_deserializer=bytes,
            )
            request = pb.ResourceRequest(group="default", resource=pb.ResourceName(type="clusters", name="none"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, metadata=tuple(SAMPLED.items()))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        await wait_until(lambda: len(receiver.spans), equals=1, timeout_s=20)
    (span,) = receiver.spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (f"{SERVICE}/GetResource", TRACE, PARENT)
    assert attributes_of(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "GetResource",
        "rpc.grpc.status_code": 5,
    }
    assert span.status.code == Status.STATUS_CODE_UNSET


def test_nothing_that_traces_is_imported_without_traces() -> None:
    """FastAPI imports the names of OpenTelemetry's API by itself, which do nothing."""
    code = (
        "import sys, xds.server, xds.app, xds.api.rest, xds.api.grpc_api, xds.serving.worker, xds.cli.serve\n"
        "found = [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]\n"
        "assert not found, found\n"
        "assert 'xds.telemetry.traces' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
