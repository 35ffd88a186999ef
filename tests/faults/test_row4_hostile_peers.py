"""Malformed messages, garbage, and peers that fall silent: row 4 of docs/reliability.md.

*Malformed.* Each message that is no request must end its own stream with INVALID_ARGUMENT, and no other: a good stream
on the same connection must go on.

*Garbage.* Connections that speak no HTTP/2, or no TLS, must be closed.

*Silent.* Peers whose host is gone, so that nothing is acknowledged any more, and peers that are stopped, so that their
kernel acknowledges all and they read nothing, must be given up. Their sockets and memory must be free again after 45 s.
"""

import asyncio
import contextlib
import ctypes
import random
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from support import resources as r
from support.attack_scene import HERE
from support.attackers import HELLOS
from support.fault_matrix import Part, count, part, scaled
from support.fault_scene import fault_scene
from support.grpc_writes import write
from support.native_peer import DELTA_ADS
from support.pki import Authority
from support.processes import Worker
from support.running import children_of
from support.server import XdsServer
from support.steady_streams import OPENING, framed, request
from support.waiting import NotMetError, wait_until
from support.wire import wire

MALFORMED = count(10_000, 500)
A_CONNECTION = 50
"""Malformed streams of a connection. A connection that goes on so is ended as a whole, which is another rule."""
GARBAGE = count(2_000, 200)
AT_ONCE = 500
SILENT = count(500, 40)
RETURNED_S = 45.0
SETTINGS = (
    {}
    if count(1, 0)
    else {
        "transport.keepalive_interval_s": 2,
        "transport.keepalive_timeout_s": 1,
        "connections.handshake_timeout_s": 3,
    }
)


def malformed(chance: random.Random) -> bytes:
    """Return bytes that are no request: a request that was cut off, changed, or noise."""
    node = wire.Node(id="n" * chance.randrange(1, 50), cluster="c")
    good = wire.DeltaDiscoveryRequest(node=node, type_url=r.CLUSTER, resource_names_subscribe=["a", "b"])
    while True:
        data = bytearray(good.SerializeToString())
        kind = chance.randrange(3)
        if kind == 0:
            del data[chance.randrange(1, len(data)) :]
        elif kind == 1:
            for _ in range(chance.randrange(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        else:
            data = bytearray(chance.randbytes(chance.randrange(1, 200)))
        try:
            wire.DeltaDiscoveryRequest.FromString(bytes(data))
        except DecodeError:
            return bytes(data)


async def statuses_of(port: int, messages: list[bytes]) -> tuple[Counter[str], bool]:
    """Send each message on a stream of its own, beside a good one; return the statuses, and whether that went on."""
    found: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.stream_stream(DELTA_ADS)
        good = method()
        first = wire.DeltaDiscoveryRequest(node=wire.Node(id="good", cluster="c"), type_url=r.CLUSTER)
        await good.write(first.SerializeToString())
        said = wire.DeltaDiscoveryResponse.FromString(await good.read())

        async def one(data: bytes) -> None:
            call = method()
            await write(call, data)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call.read()
            found[(await call.code()).name] += 1

        await asyncio.gather(*map(one, messages))
        await good.write(wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, response_nonce=said.nonce).SerializeToString())
        await good.write(
            wire.DeltaDiscoveryRequest(type_url=r.ENDPOINTS, resource_names_subscribe=["none"]).SerializeToString()
        )
        goes_on = wire.DeltaDiscoveryResponse.FromString(await good.read()).type_url == r.ENDPOINTS
        good.cancel()
    return found, goes_on


@pytest.mark.timeout(600)
async def test_a_malformed_message_ends_its_own_stream_with_its_status() -> None:
    chance = random.Random(4)
    with part(4, "malformed", f"{MALFORMED:,} malformed messages, {A_CONNECTION} a connection") as found:
        async with fault_scene(count(200, 20), settings=SETTINGS) as on:
            before = on.anonymous_bytes()
            statuses: Counter[str] = Counter()
            broken = 0
            for _ in range(MALFORMED // A_CONNECTION):
                told, goes_on = await statuses_of(on.server.port, [malformed(chance) for _ in range(A_CONNECTION)])
                statuses += told
                broken += not goes_on
            found.equal("statuses of the malformed", dict(statuses), {"INVALID_ARGUMENT": MALFORMED})
            found.equal("good streams of the same connections that ended", broken, 0)
            await _returned(found, on.server, before, on.measured, sockets=0)
            found.equal("other streams that ended", (await on.seen())["losses"], 0)


async def garbage(port: int, number: int, chance: random.Random) -> str:
    """Send garbage, and wait for the end of the connection."""
    kinds = [*HELLOS, b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x01" + chance.randbytes(500), chance.randbytes(5_000)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(kinds[number % len(kinds)])
        async with asyncio.timeout(RETURNED_S):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
        return "closed"
    except TimeoutError:
        return "open"
    finally:
        writer.transport.abort()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["plaintext", "tls"])
async def test_what_is_no_http2_or_no_tls_is_closed(name: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    tls = ("--tls-cert", str(server.cert_path), "--tls-key", str(server.key_path))
    chance = random.Random(5)
    with part(
        4, f"garbage-{name}", f"{GARBAGE:,} connections that speak no {'TLS' if name == 'tls' else 'HTTP/2'}"
    ) as found:
        options = ("--workers", "2", *(tls if name == "tls" else ()))
        async with XdsServer(None, *options, settings=SETTINGS) as serving:
            await serving.wait_ready()
            before = _bytes(serving)
            ends: Counter[str] = Counter()
            for start in range(0, GARBAGE, AT_ONCE):  # some say nothing, and are closed after the time for a handshake
                numbers = range(start, min(start + AT_ONCE, GARBAGE))
                ends.update(await asyncio.gather(*(garbage(serving.port, number, chance) for number in numbers)))
            found.equal("ends of the connections", dict(ends), {"closed": GARBAGE})
            await _returned(found, serving, before, 0, sockets=0)
            found.at_most("log", len(serving.log()) / 1e3, 100, " KB")


def vanish(connected: socket.socket) -> None:
    """Make the kernel drop all that arrives for a socket: nothing is acknowledged, as where a host lost its power."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    drop_all = ctypes.create_string_buffer(b"\x06\0\0\0\0\0\0\0")  # classic BPF: return 0
    program = Program(1, ctypes.addressof(drop_all))
    connected.setsockopt(socket.SOL_SOCKET, 26, bytes(program))  # SO_ATTACH_FILTER


@pytest.mark.timeout(600)
async def test_peers_that_fall_silent_are_given_up() -> None:
    with part(4, "silent", f"{SILENT} peers whose host is gone and {SILENT} that are stopped") as found:
        good = count(200, 20)
        stopped = Worker(HERE / "steady_streams.py", name="stopped")
        async with fault_scene(good, settings=SETTINGS, pushes_per_s=5.0) as on, stopped:
            before, sockets = on.anonymous_bytes(), _descriptors(on.server)
            await stopped.call("connect", port=on.server.port, count=SILENT, names=20, timeout_s=120.0)
            gone = [await asyncio.to_thread(_open, on.server.port, number) for number in range(SILENT)]
            await on.server.wait_metrics(lambda told: told["xds_streams"] == good + 2 * SILENT)
            for each in gone:
                vanish(each)
            stopped.signal(signal.SIGSTOP)
            window = await on.window(scaled(5.0, 1.0), good)
            found.equal("pushes that a good stream lost", window.lost, 0)
            await _returned(found, on.server, before, good, sockets=sockets)
            found.equal("other streams that ended", (await on.seen())["losses"], 0)
            stopped.signal(signal.SIGCONT)
            for each in gone:
                each.close()


def _open(port: int, number: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port))
    node = wire.Node(id=f"gone-{number}", cluster="good")
    connected.sendall(OPENING + framed(request(node=node, type_url=r.CLUSTER)))
    connected.recv(65_536)
    return connected


def _bytes(server: XdsServer) -> int:
    total = 0
    for pid in [server.pid, *children_of(server.pid)]:
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(text.partition("RssAnon:")[2].split()[0]) << 10
    return total


def _descriptors(server: XdsServer) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in [server.pid, *children_of(server.pid)])


async def _returned(found: Part, server: XdsServer, before: int, streams: int, *, sockets: int) -> None:
    """Check that streams, sockets and memory are free again in time."""
    began = time.monotonic()

    async def left() -> tuple[float, int]:
        more = max(0, _descriptors(server) - sockets) if sockets else 0
        return (await server.metrics())["xds_streams"] - streams, more

    took: float | None = None
    with contextlib.suppress(NotMetError):
        await wait_until(left, lambda told: told[0] == 0 and told[1] <= 2, timeout_s=2 * RETURNED_S, poll_s=0.1)
        took = time.monotonic() - began
    found.at_most("streams and sockets returned after", took, RETURNED_S, " s")
    left_s = max(1.0, RETURNED_S - (time.monotonic() - began))
    with contextlib.suppress(NotMetError):
        await wait_until(lambda: _bytes(server) <= 1.1 * before, timeout_s=left_s, poll_s=0.2)
    found.at_most("memory then, times what it was", _bytes(server) / before, 1.1)
