"""Attacks on a running server, each an async function, in a process that yields to all others.

Run as a ``support.processes.Worker``: each line of stdin is a JSON command, answered on stdout. ``prepare`` builds the
data that an attack sends, so that its window is spent sending; ``run`` attacks for some seconds, and answers with the
requests made, their answers, and the CPU time used; ``clean`` removes what an authorized attack has left behind.

The process runs in the scheduling class SCHED_IDLE, which only gets CPU time that no other process wants: so what the
server and the well-behaved streams lose to an attack, they lose within the server.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from support import resources as r
from support.hostile import Http2, Tally, http1
from support.native_peer import (
    CONTINUATION,
    DATA,
    DELTA_ADS,
    END_HEADERS,
    HEADERS,
    PREFACE,
    RST_STREAM,
    frame,
    message,
    ping,
    settings_frame,
)
from support.waiting import for_a_while, turns
from support.wire import wire

MIB = 1 << 20
SERVICE = "/xds_control_plane.api.v1.Snapshots/"
EVIL = "evil.example.com"
FDS_MAX = 8_192


class Attack:
    """The parameters of an attack: the ports, its end, its scale, and its tally."""

    def __init__(self, ports: dict[str, int], token: str, scale: float) -> None:
        self.xds, self.admin, self.api = ports["xds"], ports["admin"], ports["api"]
        self.token, self.scale = token, scale
        self.tally = Tally()
        self.until = 0.0
        self.made: dict[str, Any] = {}
        self.held: list[Any] = []

    @property
    def on(self) -> bool:
        """Whether time is left."""
        return asyncio.get_running_loop().time() < self.until

    def many(self, count: int) -> int:
        """Return a count multiplied by the scale of this run."""
        return max(1, int(count * self.scale))

    async def at_once(self, count: int, one: Callable[[int], Awaitable[None]]) -> None:
        """Run ``count`` loops of ``one`` concurrently while time is left; a lost connection ends none of them."""

        async def again(number: int) -> None:
            while self.on:
                try:
                    await one(number)
                except (OSError, TimeoutError) as error:
                    self.tally.answers[type(error).__name__] += 1
                    await for_a_while(0.01, "the next try")

        async with asyncio.timeout_at(self.until + 5):
            await asyncio.gather(*(again(number) for number in range(count)))

    async def dial(self, **options: Any) -> Http2:
        """Connect to the xDS port."""
        return await Http2.dial(self.xds, self.tally, **options)

    @contextlib.asynccontextmanager
    async def connection(self, **options: Any) -> Any:
        """Connect to the xDS port for the length of a block."""
        made = await self.dial(**options)
        try:
            yield made
        finally:
            made.close()


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {}
PREPARES: dict[str, Callable[[Attack], None]] = {}


def attack(function: Callable[[Attack], Awaitable[None]]) -> Callable[[Attack], Awaitable[None]]:
    """Register an attack by its name."""
    ATTACKS[function.__name__] = function
    return function


def prepares(name: str) -> Callable[[Callable[[Attack], None]], Callable[[Attack], None]]:
    """Register the preparation of an attack."""

    def register(function: Callable[[Attack], None]) -> Callable[[Attack], None]:
        PREPARES[name] = function
        return function

    return register


def request(node_id: str = "", **fields: Any) -> bytes:
    """Return a delta request as a gRPC message, with a node if it is given an id."""
    made = wire.DeltaDiscoveryRequest(**fields)
    if node_id:
        made.node.id, made.node.cluster = node_id, "evil"
    return message(made.SerializeToString())


def delimited(field: int, payload: bytes) -> bytes:
    """Return a length-delimited protobuf field (numbers below 16)."""
    size, out = len(payload), bytearray((field << 3 | 2,))
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + payload


# --- Controls ---------------------------------------------------------------------------------------------------------


@attack
async def burn(to: Attack) -> None:
    """Burn CPU without requests: the cost of the machine's noise and of the attacker's own process."""
    while to.on:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        await turns()


@attack
async def benign(to: Attack) -> None:
    """Ordinary clients: 20 a second connect, subscribe to all types, ACK, and leave; and CPU is burnt."""

    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            await http.send(stream, request(f"benign-{number}", type_url=r.CLUSTER))
            data = await http.next_message(5)
            if data is not None:
                nonce = wire.DeltaDiscoveryResponse.FromString(data).nonce
                await http.send(stream, request(type_url=r.CLUSTER, response_nonce=nonce))
                to.tally.answers["synced"] += 1
        await for_a_while(0.2, "the pace of four clients: 20 a second")

    await asyncio.gather(to.at_once(4, one), burn(to))


# --- Large requests ---------------------------------------------------------------------------------------------------


@prepares("metadata")
def _make_metadata(to: Attack) -> None:
    count = 60 * MIB // 19
    fields = b"".join(b"\x0a\x11\x0a\x0a%010d\x12\x03\x1a\x01v" % number for number in range(count))
    node = delimited(1, b"metadata") + delimited(2, b"evil") + delimited(3, fields)
    to.made["wide"] = message(delimited(1, node) + delimited(2, r.CLUSTER.encode()))


@attack
async def metadata(to: Attack) -> None:
    """Three clients send 60 MiB of node metadata, three million fields, with their first request."""

    async def one(_: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            await http.send(stream, to.made["wide"], until=to.until)
            await http.answered(stream)

    await to.at_once(to.many(3), one)


@prepares("unauthenticated")
def _make_changes(to: Attack) -> None:
    any_bytes = delimited(1, r.CLUSTER.encode()) + delimited(2, delimited(1, b"x" * 12))
    one = delimited(2, any_bytes)
    to.made["apply"] = message(delimited(1, b"default") + one * (60 * MIB // len(one)))
    written = json.dumps(r.static_cluster("x" * 12)).encode() + b",\n"
    to.made["put"] = b'{"resources": [' + written * (60 * MIB // len(written)) + b"null]}"


@attack
async def unauthenticated(to: Attack) -> None:
    """Four gRPC Apply and four REST PUT of 60 MiB at once, without a token."""
    put = to.made["put"]
    head = (
        f"PUT /v1/groups/default/snapshot HTTP/1.1\r\nHost: 127.0.0.1:{to.admin}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(put)}\r\n\r\n"
    )

    async def one(number: int) -> None:
        if number % 2:
            await http1(to.admin, head, put, tally=to.tally, until=to.until)
            return
        http = await Http2.dial(to.api, to.tally)
        stream = http.open(SERVICE + "Apply")
        await http.send(stream, to.made["apply"], end=True, until=to.until)
        await http.answered(stream)
        http.close()

    await to.at_once(to.many(8), one)


@prepares("unsubscribes")
def _make_unsubscribes(to: Attack) -> None:
    names = b"".join(b"\x22\x08u%07d" % number for number in range(to.many(5_000_000)))
    to.made["unsubscribes"] = message(delimited(2, r.CLUSTER.encode()) + names)


@attack
async def unsubscribes(to: Attack) -> None:
    """Two clients repeatedly unsubscribe from 5,000,000 unknown names in one request."""
    await _names(to, "unsubscribes", 2)


@prepares("claims")
def _make_claims(to: Attack) -> None:
    entries = b"".join(b"\x2a\x0d\x0a\x08v%07d\x12\x01x" % number for number in range(to.many(3_900_000)))
    to.made["claims"] = message(delimited(2, r.CLUSTER.encode()) + entries)


@attack
async def claims(to: Attack) -> None:
    """Two clients reconnect with 3,900,000 names in initial_resource_versions."""
    await _names(to, "claims", 2)


@prepares("subscribes")
def _make_subscribes(to: Attack) -> None:
    names = b"".join(b"\x1a\x08s%07d" % number for number in range(to.many(5_000_000)))
    to.made["subscribes"] = message(delimited(2, r.ENDPOINTS.encode()) + names)


@attack
async def subscribes(to: Attack) -> None:
    """Two clients repeatedly subscribe to 5,000,000 names in one request."""
    await _names(to, "subscribes", 2)


async def _names(to: Attack, what: str, count: int) -> None:
    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            await http.send(stream, request(f"{what}-{number}", type_url=r.CLUSTER), until=to.until)
            if await http.send(stream, to.made[what], until=to.until):
                # A second type's answer shows that the first request was handled; a refusal ends the stream.
                await http.send(stream, request(type_url=r.ROUTE), until=to.until)
                await http.answered(stream, timeout_s=3.0)

    await to.at_once(count, one)


@attack
async def long_names(to: Attack) -> None:
    """Forty clients repeatedly subscribe to 1,000 new names of 3 KB, of eight types, and stay."""
    types = [r.CLUSTER, r.ENDPOINTS, r.ROUTE, r.LISTENER, r.SECRET, r.RUNTIME, r.EXTENSION, r.SCOPED_ROUTE]

    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            await http.send(stream, request(f"long-{number}", type_url=r.CLUSTER))
            for turn in range(to.many(40)):
                names = [f"{number}-{turn}-{each}-".ljust(3_000, "n") for each in range(1_000)]
                asked = request(type_url=types[turn % len(types)], resource_names_subscribe=names)
                if not await http.send(stream, asked, until=to.until):
                    break
            await http.answered(stream, timeout_s=max(0.1, to.until - asyncio.get_running_loop().time()))

    await to.at_once(to.many(40), one)


@attack
async def error_detail(to: Attack) -> None:
    """Four clients reject responses with an error message of 60 MB, and stay until the end."""
    text = "\x1b[31m<script>" + "e" * (60_000_000)

    async def one(number: int) -> None:
        http = await to.dial()
        to.held.append(http)
        stream = http.open(DELTA_ADS)
        await http.send(stream, request(f"wordy-{number}", type_url=r.CLUSTER))
        data = await http.next_message(5)
        if data is None:
            return
        nonce = wire.DeltaDiscoveryResponse.FromString(data).nonce
        nack = request(type_url=r.CLUSTER, response_nonce=nonce, error_detail=wire.Status(code=13, message=text))
        await http.send(stream, nack, until=to.until)
        await http.answered(stream, timeout_s=max(0.1, to.until - asyncio.get_running_loop().time()))
        http.close()

    await to.at_once(to.many(4), one)


@attack
async def nacks(to: Attack) -> None:
    """2,000 nodes of a group with 5,000 clusters reject all of them, reconnect, and reject again; 32 at a time."""
    count, at = to.many(2_000), 0

    async def one(_: int) -> None:
        nonlocal at
        at += 1
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            node = wire.Node(id=f"nacker-{at % count}-".ljust(200, "n"), cluster="big")
            first = wire.DeltaDiscoveryRequest(node=node, type_url=r.CLUSTER)
            await http.send(stream, message(first.SerializeToString()))
            data = await http.next_message(10)
            if data is None:
                to.tally.answers["no response"] += 1
                return
            nonce = wire.DeltaDiscoveryResponse.FromString(data).nonce
            error = wire.Status(code=13, message=f"rejected by {at} " + "x" * 500)
            await http.send(stream, request(type_url=r.CLUSTER, response_nonce=nonce, error_detail=error))
            # The next type's answer shows that the rejection was read.
            await http.send(stream, request(type_url=r.RUNTIME, resource_names_subscribe=["none"]))
            await http.next_message(5)
            to.tally.answers["nacked"] += 1

    await to.at_once(32, one)


# --- Malformed and unknown --------------------------------------------------------------------------------------------


def _garbage(size: int) -> bytes:
    return random.Random(size).randbytes(size)


MALFORMED: list[tuple[dict[str, str], bytes]] = [
    ({"path": "/"}, b""),
    ({"path": "/no.such.Service/Method"}, b""),
    ({"path": DELTA_ADS + "X"}, request("m")),
    ({"path": DELTA_ADS, "method": "GET"}, b""),
    ({"path": DELTA_ADS, "content_type": "text/html"}, request("m")),
    ({"path": DELTA_ADS, "grpc_encoding": "gzip"}, b"\x01" + request("m")[1:]),
    ({"path": DELTA_ADS, "grpc_timeout": "1n"}, request("m", type_url=r.CLUSTER)),
    ({"path": DELTA_ADS, "grpc_timeout": "99999999999999H"}, request("m", type_url=r.CLUSTER)),
    ({"path": DELTA_ADS}, message(_garbage(400))),
    ({"path": DELTA_ADS}, message(b"")),
    ({"path": DELTA_ADS}, request(type_url=r.CLUSTER)),
    ({"path": DELTA_ADS}, request("m", type_url="type.googleapis.com/no.such.Type")),
    ({"path": DELTA_ADS}, request("m", type_url="")),
    ({"path": DELTA_ADS}, b"\0\xff\xff\xff\xff" + _garbage(100)),
    ({"path": DELTA_ADS}, b"\x07\0\0\0\1x"),
    ({"path": DELTA_ADS}, request("m", type_url=r.CLUSTER, resource_names_subscribe=["xdstp://\x1b[2J/%zz?" * 3])),
    ({"path": DELTA_ADS}, request("\x1b]0;x\x07\u202e" * 100, type_url="\x1b[31m" * 50)),
]
HELLOS = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", _garbage(500), b"", PREFACE, PREFACE + frame(200, 0, 0, b"")]
HELLOS += [PREFACE + settings_frame() + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff")]
HELLOS += [PREFACE + settings_frame() + frame(DATA, 0, 9, b"x"), PREFACE + frame(DATA, 0, 1, b"", length=1 << 20)]


@attack
async def malformed(to: Attack) -> None:
    """Eight clients send requests that are invalid in every way, one after the other, as fast as they are answered."""

    async def one(number: int) -> None:
        chance = random.Random(number)
        hello = chance.choice(HELLOS) if chance.random() < 0.1 else None
        async with to.connection(hello=hello) as http:
            if hello is not None:
                http.write(b"\0" * 64)
                await asyncio.wait({http.ended}, timeout=0.2)
                return
            while to.on and not http.ended.done():
                opened = []
                for fields, body in MALFORMED:
                    opened.append(http.open(**fields))
                    await http.send(opened[-1], body, end=True)
                for stream in opened:
                    await http.answered(stream, timeout_s=0.02)

    await to.at_once(8, one)


@attack
async def logs(to: Attack) -> None:
    """Eight clients send requests that each cause a log line, no two alike, with texts of 2 KB."""
    sent = 0

    async def one(number: int) -> None:
        nonlocal sent
        async with to.connection() as http:
            for _ in range(50):
                sent += 1
                noise = f"\x1b[31m{number}-{sent}-".ljust(2_000, "l")
                kind = sent % 4
                if kind == 0:
                    body = request(noise, type_url=f"type.googleapis.com/{noise}")
                elif kind == 1:
                    body = request(noise, type_url=r.CLUSTER, resource_names_subscribe=[noise, "*"])
                elif kind == 2:
                    body = message(noise.encode())
                else:
                    body = request(noise, type_url=r.CLUSTER)
                stream = http.open(DELTA_ADS if kind != 2 else f"/{number}.{sent}/x")
                await http.send(stream, body)
                if kind == 3 and (data := await http.next_message(2)):
                    nonce = wire.DeltaDiscoveryResponse.FromString(data).nonce
                    error = wire.Status(code=sent % 16, message=noise)
                    await http.send(stream, request(type_url=r.CLUSTER, response_nonce=nonce, error_detail=error))
                    http.write(frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
                else:
                    await http.answered(stream, timeout_s=0.2)
                if http.ended.done():
                    break
            await _rest(to, "GET", f"/v1/{sent}/%1b", bearer=f"\x1b{sent}")

    await to.at_once(8, one)


@attack
async def headers(to: Attack) -> None:
    """Eight clients send header lists: many fields, large ones, HPACK bombs, CONTINUATION without end."""
    bomb = b"\x40" + b"\x01x" + b"\x7f\x81\x1e" + b"v" * 4_000  # enters the table: 4,000 bytes
    refer = b"\xbe" * 15_000

    async def one(number: int) -> None:
        async with to.connection() as http:
            for turn in range(20):
                kind = (number + turn) % 4
                if kind == 0:
                    http.open(DELTA_ADS, extra=[(f"x-{each}", "v" * 100) for each in range(150)])
                elif kind == 1:
                    http.write(frame(HEADERS, END_HEADERS, http.next_stream, bomb + refer[: 16_000 - len(bomb)]))
                    http.next_stream += 2
                elif kind == 2:
                    http.write(frame(HEADERS, 0, http.next_stream, b"\0\1x\1y"))
                    for _ in range(1_000):
                        http.write(frame(CONTINUATION, 0, http.next_stream, b"\0\1x\1y" * 50))
                        await http.drained()
                        if http.ended.done():
                            break
                else:
                    http.open(DELTA_ADS, extra=[("cookie", "c" * 7_000), ("grpc-tags-bin", "A" * 7_000)])
                await http.drained()
                if http.ended.done():
                    break
                await turns()
            to.tally.answers[http.ended.result() if http.ended.done() else "open"] += 1

    await to.at_once(8, one)


# --- Connections and streams ------------------------------------------------------------------------------------------


@attack
async def silent(to: Attack) -> None:
    """1,000 silent connections to each of the three ports, reopened when they are closed."""
    ports = [to.xds, to.admin, to.api]

    async def one(number: int) -> None:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[number % 3])
        to.tally.connections += 1
        try:
            async with asyncio.timeout_at(to.until):
                while await reader.read(4_096):
                    pass
            to.tally.answers["closed by the server"] += 1
        except TimeoutError:
            to.tally.answers["open to the end"] += 1
        finally:
            writer.transport.abort()

    await to.at_once(to.many(3_000), one)


@attack
async def slowloris(to: Attack) -> None:
    """400 connections to each port that send a request's head a byte at a time, twice a second, and never end it."""
    ports = [to.xds, to.admin, to.api]
    head = (
        f"POST /v1/groups/default/changesets HTTP/1.1\r\nHost: 127.0.0.1:{to.admin}\r\nX-Slow: ".encode() + b"s" * 999
    )
    slow = PREFACE + settings_frame() + frame(HEADERS, 0, 1, b"\0\1x\1y" * 500)

    async def one(number: int) -> None:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[number % 3])
        to.tally.connections += 1
        said = head if number % 3 == 1 else slow
        reading = asyncio.ensure_future(reader.read(-1))
        try:
            for each in said:
                writer.write(bytes((each,)))
                await asyncio.wait({reading}, timeout=0.5)
                if reading.done() or not to.on:
                    break
            to.tally.answers["closed by the server" if reading.done() else "open to the end"] += 1
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            writer.transport.abort()

    await to.at_once(to.many(1_200), one)


@attack
async def resets(to: Attack) -> None:
    """Eight connections open streams and reset them at once (CVE-2023-44487)."""
    first = request("resetter", type_url=r.CLUSTER)

    async def one(_: int) -> None:
        async with to.connection() as http:
            while to.on and not http.ended.done():
                stream = http.open(DELTA_ADS)
                http.write(frame(DATA, 0, stream, first) + frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
                http.over.pop(stream)
                http.windows.pop(stream, None)
                http.window -= len(first)
                if http.window < 1_000:
                    break
                await http.drained()
                if stream % 64 == 1:
                    await turns()
            await turns()
            to.tally.answers[http.ended.result() if http.ended.done() else "open"] += 1

    await to.at_once(8, one)


@attack
async def streams(to: Attack) -> None:
    """Four connections open 5,000 streams each, each a node that subscribes to all clusters, and hold them."""
    count = to.many(5_000)

    async def one(number: int) -> None:
        http = await to.dial()
        to.held.append(http)
        for each in range(count):
            stream = http.open(DELTA_ADS)
            await http.send(stream, request(f"many-{number}-{each}", type_url=r.CLUSTER), until=to.until)
            if http.ended.done() or not to.on:
                break
        to.tally.answers[http.ended.result() if http.ended.done() else "open"] += 1
        await asyncio.wait({http.ended}, timeout=max(0.1, to.until - asyncio.get_running_loop().time()))
        http.close()

    await to.at_once(4, one)


@attack
async def churn(to: Attack) -> None:
    """Sixteen clients connect, send a first request and disconnect before its answer, as fast as they can."""

    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            await http.send(stream, request(f"churn-{number}", type_url=r.CLUSTER))
        await turns()

    await to.at_once(16, one)


@attack
async def frames(to: Attack) -> None:
    """Eight connections flood with PING, SETTINGS, PRIORITY, empty DATA, and window updates of one byte."""
    kinds = [ping(), settings_frame(), frame(2, 0, 1, b"\0\0\0\3\1"), frame(DATA, 0, 1), frame(8, 0, 0, b"\0\0\0\1")]

    async def one(number: int) -> None:
        async with to.connection() as http:
            http.open(DELTA_ADS)
            while to.on and not http.ended.done():
                http.write(kinds[number % len(kinds)] * 100)
                await http.drained()
                await turns()
            to.tally.answers[http.ended.result() if http.ended.done() else "open"] += 1

    await to.at_once(8, one)


@attack
async def unread(to: Attack) -> None:
    """300 clients ask for 5,000 clusters, twice on many streams, and never read."""

    async def one(number: int) -> None:
        http = await to.dial(reading=False)
        to.held.append(http)
        for each in range(20):
            stream = http.open(DELTA_ADS)
            node = wire.Node(id=f"unread-{number}-{each}", cluster="big")
            first = wire.DeltaDiscoveryRequest(node=node, type_url=r.CLUSTER).SerializeToString()
            http.write(frame(DATA, 0, stream, message(first)))
        await asyncio.wait({http.ended}, timeout=max(0.1, to.until - asyncio.get_running_loop().time()))
        to.tally.answers[http.ended.result() if http.ended.done() else "open"] += 1
        http.close()

    await to.at_once(to.many(300), one)


# --- The push API -----------------------------------------------------------------------------------------------------


async def _rest(
    to: Attack, method: str, path: str, body: str = "", *, bearer: str | None = None, host: str = ""
) -> str:
    """Make a REST request, with the token unless another is given, or none ("")."""
    bearer = to.token if bearer is None else bearer
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{to.admin}'}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {bearer}"] * bool(bearer)
    return await http1(to.admin, "\r\n".join([*lines, "", body]), tally=to.tally, timeout_s=30.0)


@attack
async def groups(to: Attack) -> None:
    """An authorized client sends 10,000 PUTs of groups and of rules, 64 at a time, over 200 groups."""
    left = to.many(10_000)

    async def one(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            await for_a_while(0.1, "all are sent: what is left of the attack's time passes")
            return
        if left % 4 == 0:
            await _rest(to, "PUT", "/v1/groups", json.dumps({"rules": [{"group": "big", "match": {"cluster": "big"}}]}))
        else:
            base = f"attack-{left % 200 - 1}" if left % 200 and left % 3 else None
            await _rest(to, "PUT", f"/v1/groups/attack-{left % 200}", json.dumps({"extends": base} if base else {}))

    await to.at_once(64, one)


async def _clean_groups(to: Attack) -> None:
    for number in reversed(range(200)):
        await _rest(to, "DELETE", f"/v1/groups/attack-{number}")


@attack
async def rebinding(to: Attack) -> None:
    """Sixteen clients read and write with a browser's requests for another host (DNS rebinding), without a token."""

    async def one(number: int) -> None:
        for path in ("/v1/groups/default/snapshot", "/v1/revisions", "/metrics", "/healthz", "/v1/openapi.json"):
            await _rest(to, "GET", path, bearer="", host=EVIL)
        await _rest(to, "PUT", "/v1/groups/evil", "{}", bearer="", host=EVIL)

    await to.at_once(16, one)


@attack
async def watchers(to: Attack) -> None:
    """An authorized client opens 500 watches of the whole history, over REST and gRPC, and reads none of them."""

    async def one(number: int) -> None:
        if number % 2:
            http = await Http2.dial(to.api, to.tally, reading=False)
            stream = http.open(SERVICE + "Watch", authorization=f"Bearer {to.token}")
            http.write(frame(DATA, 1, stream, message(b"\x08\x01")))
            await asyncio.wait({http.ended}, timeout=max(0.1, to.until - asyncio.get_running_loop().time()))
            http.close()
            return
        _, writer = await asyncio.open_connection("127.0.0.1", to.admin, limit=1_024)
        to.tally.connections += 1
        head = (
            f"GET /v1/watch?from=1 HTTP/1.1\r\nHost: 127.0.0.1:{to.admin}\r\nAuthorization: Bearer {to.token}\r\n\r\n"
        )
        writer.write(head.encode())
        await for_a_while(max(0.1, to.until - asyncio.get_running_loop().time()), "the watch is held, and not read")
        writer.transport.abort()

    await to.at_once(to.many(500), one)


@attack
async def deep(to: Attack) -> None:
    """An authorized client sends changes nested 100,000 deep, names of 1 MB, and numbers of 1 MB; eight at a time."""
    bodies = [
        '{"upsert": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"upsert": [' + '{"@type":"x","a":' * 20_000 + "1" + "}" * 20_000 + "]}",
        json.dumps({"upsert": [r.static_cluster("n" * MIB, 1)]}),
        json.dumps({"remove": [{"type": "clusters", "name": "n" * MIB}], "id": "i" * MIB, "author": "a" * MIB}),
        '{"expected_revision": ' + "9" * MIB + "}",
        json.dumps({"upsert": [{"@type": r.CLUSTER, "name": f"bad-{n}", "connect_timeout": n} for n in range(3_000)]}),
    ]

    async def one(number: int) -> None:
        for body in bodies:
            await _rest(to, "POST", "/v1/groups/evil/changesets", body)
            if not to.on:
                break

    await to.at_once(8, one)


@attack
async def hoard(to: Attack) -> None:
    """Forty clients announce a request of 60 MiB each, send a window of it, and then nothing."""

    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            start = b"\0" + (60 * MIB).to_bytes(4, "big") + delimited(2, r.CLUSTER.encode())
            await http.send(stream, start + b"\x1a\x08x1234567" * 6_000, until=min(to.until, loop.time() + 1))
            await asyncio.wait({http.ended, http.over[stream]}, timeout=max(0.1, to.until - loop.time()))
            to.tally.answers["held" if not http.ended.done() and not http.over[stream].done() else "ended"] += 1

    loop = asyncio.get_running_loop()
    await to.at_once(to.many(40), one)


@attack
async def figures(to: Attack) -> None:
    """Sixteen clients read /metrics, /readyz and /v1 of the admin port as fast as they can, without a token."""

    async def one(number: int) -> None:
        for path in ("/metrics", "/readyz", "/healthz", "/v1/nodes", "/v1/openapi.json", "/" + "x" * 9_000):
            await _rest(to, "GET", path, bearer="")

    await to.at_once(16, one)


@attack
async def api_calls(to: Attack) -> None:
    """Eight clients call the gRPC push API without a token, every method and unknown ones, 100 calls at a time each."""
    methods = ["Apply", "Watch", "PushEndpoints", "ListNodes", "GetSnapshot", "NoSuchMethod"]

    async def one(_: int) -> None:
        http = await Http2.dial(to.api, to.tally)
        try:
            while to.on and not http.ended.done():
                opened = [http.open(SERVICE + methods[each % len(methods)]) for each in range(100)]
                for stream in opened:
                    http.write(frame(DATA, 0, stream, message(b"\x0a\x01x")))
                for stream in opened:
                    await http.answered(stream, timeout_s=5.0)
                    if http.ended.done():
                        break
        finally:
            http.close()

    await to.at_once(8, one)


@attack
async def health(to: Attack) -> None:
    """Eight clients call gRPC health on the xDS port: checks and watches, as many as they can."""
    ask = message(b"\x0a\xc8\x01" + b"h" * 200)

    async def one(number: int) -> None:
        async with to.connection() as http:
            while to.on and not http.ended.done():
                opened = [http.open("/grpc.health.v1.Health/" + ("Check", "Watch")[number % 2]) for _ in range(50)]
                for stream in opened:
                    await http.send(stream, ask * (1 if number % 2 == 0 else 20), end=number % 2 == 0)
                for stream in opened:
                    if number % 2:
                        http.write(frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
                    else:
                        await http.answered(stream)
                await turns()

    await to.at_once(8, one)


@attack
async def types(to: Attack) -> None:
    """Sixteen clients request every type on one stream, known or not, with locators, aliases, and per type."""
    known = [r.CLUSTER, r.ENDPOINTS, r.ROUTE, r.LISTENER, r.SECRET, r.RUNTIME, r.EXTENSION, r.SCOPED_ROUTE]
    locators = [wire.ResourceLocator(name=f"xdstp://a/t/{n}", dynamic_parameters={"k": "v" * 500}) for n in range(500)]

    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            await http.send(stream, request(f"types-{number}", type_url=r.CLUSTER))
            for turn in range(200):
                type_url = known[turn % 8] if number % 2 else f"type.googleapis.com/t{turn}".ljust(3_000, "t")
                asked = request(type_url=type_url, resource_locators_subscribe=locators, resource_names_subscribe=["*"])
                if not await http.send(stream, asked, until=to.until):
                    break
            await http.answered(stream, timeout_s=0.5)

    await to.at_once(16, one)


@attack
async def flapping(to: Attack) -> None:
    """Sixteen clients repeatedly subscribe to 5,000 clusters and unsubscribe, on one stream, in requests of 500 KB."""
    names = [f"cluster-{number}-".ljust(100, "x") for number in range(5_000)]

    async def one(number: int) -> None:
        async with to.connection() as http:
            stream = http.open(DELTA_ADS)
            node = wire.Node(id=f"flapper-{number}", cluster="big")
            first = wire.DeltaDiscoveryRequest(node=node, type_url=r.CLUSTER, resource_names_subscribe=["none"])
            await http.send(stream, message(first.SerializeToString()), until=to.until)
            more = request(type_url=r.CLUSTER, resource_names_subscribe=names)
            less = request(type_url=r.CLUSTER, resource_names_unsubscribe=names)
            while await http.send(stream, more + less, until=to.until):
                await http.next_message(0.2)

    await to.at_once(16, one)


async def _clean_deep(to: Attack) -> None:
    await _rest(to, "DELETE", "/v1/groups/evil")


CLEANS: dict[str, Callable[[Attack], Awaitable[None]]] = {"groups": _clean_groups, "deep": _clean_deep}


class Commands:
    """The commands of this process."""

    def __init__(self) -> None:
        self.attack: Attack | None = None

    async def prepare(self, name: str, ports: dict[str, int], token: str, scale: float) -> dict[str, Any]:
        """Build the data that the attack sends."""
        self.attack = Attack(ports, token, scale)
        if name in PREPARES:
            PREPARES[name](self.attack)
        return {}

    async def run(self, name: str, seconds: float) -> dict[str, Any]:
        """Attack for ``seconds``, and return the tally."""
        assert self.attack is not None
        to, before, loop = self.attack, resource.getrusage(resource.RUSAGE_SELF), asyncio.get_running_loop()
        to.tally, started = Tally(), loop.time()
        to.until = started + seconds
        with contextlib.suppress(TimeoutError):
            await ATTACKS[name](to)
        for each in to.held:
            each.close()
        to.held.clear()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return to.tally.as_json() | {"cpu_s": cpu_s, "wall_s": loop.time() - started}

    async def clean(self, name: str) -> dict[str, Any]:
        """Remove what the authorized attack has left behind."""
        if name in CLEANS:
            assert self.attack is not None
            await CLEANS[name](self.attack)
        return {}


async def main() -> None:
    """Answer commands until stdin ends."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FDS_MAX), hard))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MIB)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    commands = Commands()
    while line := await reader.readline():
        asked = json.loads(line)
        answer = await getattr(commands, asked.pop("command"))(**asked)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
