"""Malformed, unknown and refused requests at the admin port and the gRPC push API do not fill the log."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from grpc import aio
from support.pki import Authority
from support.server import XdsServer

TIMES = 30
LINES_MAX = 11
"""Lines of one kind that ``xds.reporting.merged_log`` passes in a minute."""
POST = b"POST /v1/groups/d/changesets HTTP/1.1\r\nhost: localhost\r\n"
MALFORMED = (
    b"\x00\xff\xfe garbage\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50,
    b"\x16\x03\x01\x00\x05hello",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"x" * 70_000,
    POST + b"content-length: -5\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    POST + b"\r\n",
    b"GET /v1/groups HTTP/1.1\r\nhost: evil.example.com\r\n\r\n",
    b"GET /v1/groups HTTP/1.1\r\nhost: localhost\r\norigin: null\r\n\r\n",
    b"GET /v1/groups HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
)


async def send(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(OSError):  # the server may have closed the connection by now
            writer.write(data)
            writer.write_eof()
            await reader.read(-1)
    finally:
        writer.transport.abort()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("with_tls", [False, True])
async def test_the_log_grows_by_a_few_lines_of_a_kind_and_every_line_is_json(tmp_path: Path, with_tls: bool) -> None:
    (tmp_path / "token").write_text("s3cret")
    options = ["--api-token-file", str(tmp_path / "token"), "--workers", "0"]
    if with_tls:
        pair = Authority(tmp_path).issue("server", ips=["127.0.0.1"])
        options += ["--api-tls-cert", str(pair.cert_path), "--api-tls-key", str(pair.key_path)]
    async with XdsServer(None, *options) as server:
        await server.wait_ready()
        for data in MALFORMED:
            for port in (server.admin_port, server.api_port):
                async with asyncio.timeout(30):
                    await asyncio.gather(*(send(port, data) for _ in range(TIMES)))
        async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
            for method in ("/a/b", "/xds_control_plane.api.v1.Snapshots/Nothing", "/"):
                for _ in range(1 if with_tls else TIMES):
                    with pytest.raises(aio.AioRpcError):
                        await channel.unary_unary(method)(b"\xff", timeout=5)
        assert (await asyncio.to_thread(server.stop)) == 0
        lines = [json.loads(line) for line in server.log().splitlines()]
        events = Counter((line["event"], line.get("what", "")) for line in lines)  # refusals: of each call
    assert {event: count for event, count in events.items() if count > LINES_MAX} == {}
    assert sum(events.values()) < 6 * LINES_MAX
