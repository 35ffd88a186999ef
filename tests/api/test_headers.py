"""Untrusted text in headers of requests and answers: it causes no 500, and ends no header."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from support import resources as r
from support.server import XdsServer

from xds._generated import snapshots_pb2 as pb
from xds.address import Address
from xds.api.admission import Admission
from xds.api.grpc_api import GrpcApi
from xds.api.rest import rest_api
from xds.schema.ingest import ingest
from xds.schema.restore import labelled
from xds.store.errors import OutcomeUnknownError

A = r.static_cluster("a", 1)
APPLY = "/xds_control_plane.api.v1.Snapshots/Apply"
TEXTS = ("кир", "é", "a\nb", "x\r\nset-cookie: a=b", "\x00", "\x7f", " a ", "\u202e", "😀")
"""Text outside Latin-1, outside ASCII, and text that would end a header or be stripped from it."""
BYTES = (
    *(b"\xff\xfe", b"\xd0\xba", b"a\x01b", b"\x7f", b";", b'"', b'a; b="', b"a; a*0=x; a*2*=b", b"=?utf-8?q?x?=", b","),
    *(
        b"text/html; charset*=utf-8''%ff",
        b'application/x-protobuf; messageType="\xff"',
        b"application/json; charset=\xff",
    ),
    *(b"application/json" + b";" * 20_000, b"application/json " + b"(" * 20_000),
    *(b"x" * 5_000, b"0" * 30, b"1e5", b"-1", b"\xd9\xa3", b"["),
)
REQUEST_HEADERS = (
    *("content-type", "accept", "if-match", "last-event-id", "authorization", "host", "origin", "content-encoding"),
    *("cookie", "range", "expect", "x-forwarded-for", "accept-encoding"),
)
REQUESTS = (
    ("PUT", "/v1/groups/default/resources/clusters/a", json.dumps(A).encode()),
    ("POST", "/v1/groups/default/changesets", json.dumps({"upsert": [A]}).encode()),
    ("GET", "/v1/groups/default/resources/clusters/a", b""),
    ("GET", "/v1/groups/default/snapshot", b""),
    ("DELETE", "/v1/groups/default/resources/clusters/b", b""),
)


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", "0") as running:
        await running.wait_ready()
        yield running


async def test_a_label_that_no_header_can_carry_is_refused_over_rest_and_grpc(server: XdsServer) -> None:
    address = f"http://127.0.0.1:{server.admin_port}"
    async with (
        httpx.AsyncClient(base_url=address) as api,
        aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel,
    ):
        for text in TEXTS:
            answer = await api.post("/v1/groups/default/changesets", json={"upsert": [A], "version": text})
            assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, "version"), text
            change = pb.Changeset(group="default", about=pb.About(version=text))
            with pytest.raises(aio.AioRpcError) as refused:
                await channel.unary_unary(APPLY)(change.SerializeToString())
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        answer = await api.post("/v1/groups/default/changesets", json={"upsert": [A], "version": "v1.0 (50%)~"})
        assert answer.status_code == 200
        answer = await api.get("/v1/groups/default/resources/clusters/a")
        assert answer.headers["x-xds-version"] == "v1.0 (50%)~"


async def test_ids_authors_and_messages_may_be_any_text(server: XdsServer) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}") as api:
        for at, text in enumerate(TEXTS):
            about = {"id": text, "author": text, "message": text}
            body = {"upsert": [r.static_cluster("a", at + 1)], **about}
            answer = await api.post("/v1/groups/default/changesets", json=body)
            assert answer.status_code == 200, answer.text
            (head, *_) = (await api.get("/v1/revisions")).json()["revisions"]
            assert about.items() <= head.items()


async def test_no_header_of_a_request_is_a_fault_of_the_server(server: XdsServer) -> None:
    for name in REQUEST_HEADERS:
        for value in BYTES:
            for method, path, body in REQUESTS:
                headers = {"host": b"localhost", "content-type": b"application/json", name: value}
                lines = b"".join(b"%s: %s\r\n" % (key.encode(), line) for key, line in headers.items())
                reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
                head = f"{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n".encode()
                writer.write(head + lines + b"\r\n" + body)
                status = (await reader.readline()).split()
                writer.transport.abort()
                assert b"200" <= b"".join(status[1:2]) < b"500", f"{method} {path} {name}: {value!r}: {status}"
    assert server.events("a request failed by a bug in this server; please report it") == []


async def test_a_label_of_before_and_an_id_are_encoded_where_they_go_into_headers(
    serving_api: Any, monkeypatch
) -> None:
    served = await serving_api()
    old = labelled(ingest(A), "кир\r\nx: y")
    monkeypatch.setattr(served.catalog, "own_resource", lambda *_: old)
    transport = httpx.ASGITransport(app=rest_api(served.operations, Admission(), body_bytes_max=1_000_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
        answer = await api.get("/v1/groups/default/resources/clusters/a")
        assert (answer.status_code, answer.headers["x-xds-version"]) == (200, "%D0%BA%D0%B8%D1%80%0D%0Ax%3A%20y")

    async def fail(*_: object) -> int:
        raise OutcomeUnknownError("кир", "power")

    monkeypatch.setattr(served.store, "append_all", fail)
    grpc_api = GrpcApi(Address("127.0.0.1", 0), served.operations, Admission(), body_bytes_max=1_000_000)
    await grpc_api.start()
    try:
        async with aio.insecure_channel(str(grpc_api.address)) as channel:
            change = pb.Changeset(group="default", about=pb.About(id="кир"))
            change.upsert.add().ParseFromString(ingest(A).body)
            with pytest.raises(aio.AioRpcError) as unknown:
                await channel.unary_unary(APPLY)(change.SerializeToString())
    finally:
        await grpc_api.stop()
    assert unknown.value.code() is grpc.StatusCode.UNKNOWN
    assert ("xds-id", "%D0%BA%D0%B8%D1%80") in tuple(unknown.value.trailing_metadata())
