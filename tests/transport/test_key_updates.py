"""Clients that ask for new TLS keys without end on the native transport: each answer is one that may be left unread."""

import asyncio
import socket
from pathlib import Path

import pytest
from support import resources as r
from support.control_planes import app_of, port_of
from support.key_updates import KeyUpdater
from support.native_peer import PREFACE, ping, settings_frame
from support.pki import Authority
from support.transports import settings_on

from xds.embed import ControlPlane
from xds.transport.native_connection import NativeConnection

UPDATES = 100_000
"""Nearly 3 MB of answers: more than the buffers and the limit together. Half a megabyte fitted now and then."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server's system keep little that a client does not read."""
    made = NativeConnection.connection_made

    def connection_made(connection: NativeConnection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        made(connection, transport)

    monkeypatch.setattr(NativeConnection, "connection_made", connection_made)


def served(authority: Authority) -> ControlPlane:
    """Return a control plane with TLS, and a small limit on unread answers."""
    pair = authority.server()
    tls = {"cert": str(pair.cert_path), "key": str(pair.key_path)}
    control_plane = ControlPlane(settings_on("native", tls=tls, transport={"unread_bytes_max": 64 * 1024}))
    control_plane.replace({"default": [r.static_cluster("a", 1)]})
    return control_plane


def ask(client: KeyUpdater, *, between: bytes = b"", reads: bool = False) -> int:
    """Ask for new keys until the connection ends, with data after each hundred; return how often."""
    client.socket.sendall(client.data(PREFACE + settings_frame()))
    asked = 0
    try:
        while asked < UPDATES:
            client.socket.sendall(b"".join(client.records(100)) + (client.data(between) if between else b""))
            asked += 100
            if reads:
                client.socket.recv(65_536)
    except OSError:
        return asked
    return asked


@pytest.mark.parametrize("between", [b"", ping()], ids=["alone", "with pings"])
@pytest.mark.usefixtures("small_buffers")
async def test_a_client_that_reads_nothing_may_not_ask_for_keys_without_end(authority, tmp_path, between):
    async with served(authority) as control_plane:
        client = await asyncio.to_thread(
            KeyUpdater,
            port_of(control_plane),
            authority.client_context(),
            tmp_path / "keys",
            receive_buffer_bytes=4_096,
        )
        with client.socket:
            assert await asyncio.to_thread(ask, client, between=between) < UPDATES
        assert app_of(control_plane).limit_hits["unread_answers"] == 1


async def test_a_client_that_reads_may_ask_for_keys(authority, tmp_path):
    async with served(authority) as control_plane:
        client = await asyncio.to_thread(
            KeyUpdater, port_of(control_plane), authority.client_context(), tmp_path / "keys"
        )
        with client.socket:
            assert await asyncio.to_thread(ask, client, reads=True) == UPDATES
        assert not app_of(control_plane).limit_hits["unread_answers"]
