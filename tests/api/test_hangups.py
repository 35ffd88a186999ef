"""Clients that disconnect in the middle of a request: not a fault of the server, so it logs nothing and goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio
from support import resources as r
from support.fetch import fetch
from support.server import XdsServer

from xds._generated import snapshots_pb2 as pb
from xds.client import Client
from xds.schema.ingest import ingest

SERVICE = "/xds_control_plane.api.v1.Snapshots/"
LARGE = [r.static_cluster(f"c{number}", *range(1, 20)) for number in range(500)]
HEAD = "HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", "0") as running:
        await running.wait_ready()
        async with Client(f"127.0.0.1:{running.api_port}", patience_s=30) as client:
            await client.put_group("large")
            await client.apply(upsert=LARGE, group="large")
        yield running


async def is_still_silent(server: XdsServer) -> None:
    """Wait until earlier requests are handled; assert that the server and gRPC have logged nothing since the start."""
    assert (await fetch(server.admin_port, "/v1/revisions")).status == 200
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        await client.groups()
    others = [line for line in server.log().splitlines() if '"applied"' not in line]
    assert others[-1:] == [line for line in others if '"serving"' in line]


async def hang_up(server: XdsServer, sent: bytes, *, read: int = 0) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port, limit=1 << 16)
    writer.write(sent)
    await writer.drain()
    if read:
        await reader.readexactly(read)
    writer.transport.abort()


@pytest.mark.parametrize("sent", [b"", b"G", b"POST /v1", b"POST /v1/groups HTTP/1.1\r\nhost: loc"])
async def test_in_the_middle_of_a_requests_head(server: XdsServer, sent: bytes) -> None:
    for _ in range(3):
        await hang_up(server, sent)
    await is_still_silent(server)


async def test_in_the_middle_of_a_requests_body(server: XdsServer) -> None:
    for method, path in (
        ("POST", "/v1/groups/default/changesets"),
        ("PUT", "/v1/groups/default/snapshot"),
        ("PUT", "/v1/groups/default/resources/clusters/a"),
        ("POST", "/v1/groups/default/rollback"),
        ("PUT", "/v1/groups/g"),
        ("PUT", "/v1/groups"),
        ("GET", "/v1/groups"),
    ):
        for framing, begun in (("content-length: 1000", b'{"upsert": ['), ("transfer-encoding: chunked", b"3e8\r\n{")):
            await hang_up(server, f"{method} {path} {HEAD}{framing}\r\n\r\n".encode() + begun)
    await is_still_silent(server)


async def test_before_the_answer_and_in_the_middle_of_it(server: XdsServer) -> None:
    whole = json.dumps({"upsert": [r.static_cluster("a", 1)]})
    change = f"POST /v1/groups/default/changesets {HEAD}content-length: {len(whole)}\r\n\r\n{whole}".encode()
    for accepted in ("application/json", "application/yaml", "application/x-protobuf"):
        ask = f"GET /v1/groups/large/snapshot {HEAD}accept: {accepted}\r\n\r\n".encode()
        for sent in (ask, change, f"GET /v1/groups/large/diff?from=1 {HEAD}\r\n".encode(), ask + ask):
            for read in (0, 1, 20_000 if sent is not change else 10):
                await hang_up(server, sent, read=read)
    await is_still_silent(server)


async def test_in_the_middle_of_a_watch(server: XdsServer) -> None:
    for read in (0, 20, 200):
        await hang_up(server, f"GET /v1/watch?from=0 {HEAD}\r\n".encode(), read=read)
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        await client.apply(upsert=[r.static_cluster("a", 1)])
    await is_still_silent(server)


async def test_with_what_is_no_http_in_the_middle_of_an_answer(server: XdsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
    writer.write(f"GET /v1/watch?from=0 {HEAD}transfer-encoding: chunked\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.write(b"no chunk\r\n")
    await reader.read(-1)
    writer.close()
    await is_still_silent(server)


async def test_in_the_middle_of_a_grpc_call(server: XdsServer) -> None:
    change = pb.Changeset(group="default")
    for each in LARGE:
        change.upsert.append(AnyMessage.FromString(ingest(each).body))
    data = change.SerializeToString()
    read = pb.SnapshotRequest(group="large").SerializeToString()
    for method, request in (("Apply", data), ("Replace", data), ("GetSnapshot", read), ("ListGroups", b"")):
        for wait_s in (0.0, 0.001, 0.05):
            async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
                call = channel.unary_unary(SERVICE + method)(request)
                await asyncio.wait([asyncio.ensure_future(call)], timeout=wait_s)
                call.cancel()
            async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
                with suppress(aio.AioRpcError):  # its deadline; a small request may be answered before it
                    await channel.unary_unary(SERVICE + method)(request, timeout=wait_s / 10)
    await is_still_silent(server)


async def test_in_the_middle_of_a_grpc_stream(server: XdsServer) -> None:
    push = pb.EndpointsPush(group="default", endpoints=[AnyMessage.FromString(ingest(r.assignment("a", 1)).body)])
    for answers in (0, 1):
        async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
            watch = channel.unary_stream(SERVICE + "Watch")(pb.WatchRequest().SerializeToString())
            pushing = channel.stream_stream(SERVICE + "PushEndpoints")()
            for _ in range(answers):
                assert pb.Event.FromString(await watch.read()).revision.revision == 1
            for _ in range(50):
                await pushing.write(push.SerializeToString())
            for _ in range(answers):
                assert pb.EndpointsPushed.FromString(await pushing.read()).rejected
            watch.cancel()
            pushing.cancel()
    await is_still_silent(server)
