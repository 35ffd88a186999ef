"""Calls without the token are refused by their headers, and their bodies are never read."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import aio
from support.server import XdsServer

from xds._generated import snapshots_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Snapshots"]
EMPTY_RESOURCES = b"\x12\x00" * (15 * 1024 * 1024)
"""30 MiB that protobuf parses into a gigabyte: a changeset, or a replacement, of empty resources."""
GROWTH_BYTES_MAX = 16 * 1024 * 1024


def peak_bytes(server: XdsServer) -> int:
    """Return the peak memory of the server's process (``VmHWM``)."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    (tmp_path / "token").write_text("s3cret")
    async with XdsServer(None, "--api-token-file", str(tmp_path / "token"), "--workers", "0") as running:
        await running.wait_ready()
        yield running


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization-bin", b"s3cret"),)])
async def test_every_grpc_method_asks_for_the_token_before_it_reads_a_message(
    server: XdsServer, metadata: tuple[tuple[str, str]]
) -> None:
    before = peak_bytes(server)
    async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
        for method in (*(each.name for each in SERVICE.methods), "Unknown"):
            path = f"/{SERVICE.full_name}/{method}"
            with pytest.raises(aio.AioRpcError) as refused:
                await channel.unary_unary(path)(EMPTY_RESOURCES, metadata=metadata, timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, method
    assert peak_bytes(server) - before < GROWTH_BYTES_MAX


async def test_a_rest_body_without_the_token_is_not_kept(server: XdsServer) -> None:
    before = peak_bytes(server)

    async def post(framing: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
        head = "POST /v1/groups/default/changesets HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}{framing}\r\n\r\n".encode())
        status = await reader.readline()
        writer.write(body)
        await asyncio.gather(writer.drain(), return_exceptions=True)  # the server may have closed the connection by now
        writer.transport.abort()
        return status

    whole = b" " * (30 * 1024 * 1024)
    for framing, body in (
        (f"content-length: {len(whole)}", whole),
        ("transfer-encoding: chunked", b"%x\r\n%s\r\n" % (len(whole), whole)),
    ):
        assert await post(framing, body) == b"HTTP/1.1 401 Unauthorized\r\n"
    assert peak_bytes(server) - before < GROWTH_BYTES_MAX
