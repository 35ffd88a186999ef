"""What one client sends at once is taken in turns with what others ask for, and with changes that go out."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.loops import PerTurn, on_both_loops
from support.native_peer import PREFACE, ping, settings_frame
from support.pki import Authority
from support.transports import settings_on

from xds.embed import ControlPlane
from xds.transport.native_connection import FRAMES_AT_ONCE, NativeConnection

PINGS = 3_000
"""Fewer than end the connection."""


async def pinged(port: int, tls: ssl.SSLContext | None) -> int:
    """Send all pings at once, and return how many are answered."""
    where: Any = {"ssl": tls, "server_hostname": "localhost"} if tls else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **where)
    writer.write(PREFACE + settings_frame() + b"".join(ping(number.to_bytes(8, "big")) for number in range(PINGS)))
    last, data = (PINGS - 1).to_bytes(8, "big"), b""
    while not data.endswith(last):
        piece = await reader.read(65_536)
        assert piece, "the server stays"
        data += piece
    writer.transport.abort()
    return data.count(b"\0\0\x08\x06\x01\0\0\0\0")


@pytest.mark.parametrize("over_tls", [False, True], ids=["plaintext", "tls"])
@on_both_loops
async def test_frames_that_come_at_once_are_taken_a_few_each_turn_of_the_event_loop(
    over_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = PerTurn()
    monkeypatch.setattr(NativeConnection, "on_ping", taken.note)
    authority = Authority(tmp_path / "pki")
    pair = authority.server()
    tls = {"tls": {"cert": str(pair.cert_path), "key": str(pair.key_path)}} if over_tls else {}
    control_plane = ControlPlane(settings_on("native", **tls))
    control_plane.replace({"default": [r.static_cluster("a", 1)]})
    async with control_plane, asyncio.timeout(30):
        assert control_plane.address is not None
        context = authority.client_context() if over_tls else None
        if context is not None:
            context.set_alpn_protocols(["h2"])
        answered = await asyncio.gather(*(pinged(control_plane.address.port, context) for _ in range(4)))
    assert answered == [PINGS] * 4, "none is lost"
    # Each client's first read may fall into the same turn; of those that have more, one goes on.
    assert FRAMES_AT_ONCE // 2 < taken.most <= 5 * FRAMES_AT_ONCE
