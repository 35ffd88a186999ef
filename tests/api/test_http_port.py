"""The admin port with clients that send nothing, too little or too slowly, and clients that read nothing."""

import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from support.fetch import Answer, fetch
from support.loops import on_both_loops
from support.pki import Authority
from support.waiting import for_a_while, for_a_while_blocking, wait_until

from xds.address import Address
from xds.api.admin import SCRAPES_MAX, SPARE, AdminServer
from xds.api.http_port import HttpConnection, HttpLimits
from xds.limits import LimitHits

CONNECTIONS_MAX = 40
REQUESTS_MAX = CONNECTIONS_MAX - SCRAPES_MAX - SPARE
TIMEOUT_S, NEVER_S = 1.0, 600.0
LARGE = b"x" * 32 * 1024 * 1024
"""More than the system buffers for a client that does not read."""
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\n"
POST = b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"


class Port:
    """A started admin port, connections to it, and an API whose answers wait for ``go``."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self.number = 0
        self.hits = LimitHits()
        self.go = asyncio.Event()
        self.under_way = 0
        self.cut = 0

    async def api(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.under_way += 1
        try:
            sized = {"/v1/large": LARGE, "/v1/medium": LARGE[: 1024 * 1024]}
            answer: Response = PlainTextResponse(sized.get(request.url.path) or str(len(await request.body())))
            if request.url.path == "/v1/wait":
                await self.go.wait()
            await answer(scope, receive, send)
        except Exception:
            self.cut += 1
        finally:
            self.under_way -= 1

    async def metrics(self) -> bytes:
        await self.go.wait()
        return b"xds_streams 3\n"

    async def connect(
        self, *, tls: bool = True, limit: int = 2**16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self.tls if tls else None
        return await asyncio.open_connection(
            "127.0.0.1", self.number, ssl=context, server_hostname="localhost" if context else None, limit=limit
        )

    async def fetch(self, path: str, timeout_s: float = 20.0) -> Answer:
        return await fetch(self.number, path, tls=self.tls, timeout_s=timeout_s)


@pytest.fixture(params=["plain", "tls"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., object]:
    """Serve the admin port: ``async with port() as port``."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", dns=["localhost"])

    @asynccontextmanager
    async def serve(*, connections_max: int = CONNECTIONS_MAX, **timeouts_s: float) -> AsyncIterator[Port]:
        limits = {"headers_timeout_s": NEVER_S, "body_timeout_s": NEVER_S, "unread_timeout_s": NEVER_S}
        tls = request.param == "tls"
        made = Port(ssl.create_default_context(cafile=str(authority.cert_path)) if tls else None)
        server = AdminServer(
            Address("127.0.0.1", 0),
            healthy=lambda: True,
            ready=lambda: (True, ""),
            metrics=made.metrics,
            tls=(pair.cert_path, pair.key_path) if tls else None,
            limits=HttpLimits(connections_max=connections_max, hits=made.hits, **(limits | timeouts_s)),
        )
        server.serve_api(made.api)
        made.number = (await server.start()).port
        try:
            yield made
        finally:
            made.go.set()
            await server.stop()
            await wait_until(lambda: sockets_of(made.number), equals=[], timeout_s=10.0)

    return serve


def descriptors() -> list[str]:
    """Return what each descriptor of this process refers to."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


def sockets_of(port: int) -> list[str]:
    """Return this process's sockets at a local port: the listening one, and the server's ends of connections."""
    inodes = {each[8:-1] for each in descriptors() if each.startswith("socket:")}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [" ".join(line) for line in lines if int(line[1].split(":")[1], 16) == port and line[9] in inodes]


async def connected(port: Port, *, first: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection for its first request, or for a later one."""
    reader, writer = await port.connect()
    if not first:
        writer.write(GET)
        assert await reader.readline() == HEALTHY
        await reader.readuntil(b"ok\n")
    return reader, writer


async def ended(reader: asyncio.StreamReader, within_s: float = 20.0) -> bytes:
    """Return everything received on a connection until its end, which may be a reset."""
    received = b""
    async with asyncio.timeout(within_s):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while block := await reader.read(1 << 16):
                received += block
    return received


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte at a time, while the connection is open."""
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await for_a_while(TIMEOUT_S / 5, "each byte comes in time, and all together do not")
    except (ConnectionError, ssl.SSLError):
        pass


# --- Deadlines -------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_who_says_nothing_is_disconnected(port) -> None:
    async with port(headers_timeout_s=TIMEOUT_S) as port:
        started = time.monotonic()
        reader, writer = await port.connect()
        assert await ended(reader) == b""
        assert time.monotonic() - started >= TIMEOUT_S
        writer.transport.abort()


@on_both_loops
async def test_a_handshake_that_is_not_begun_or_is_no_handshake_ends(port) -> None:
    async with port(headers_timeout_s=TIMEOUT_S) as port:
        silent, babbling = await port.connect(tls=False), await port.connect(tls=False)
        babbling[1].write(b"\x16\x03\x01" if port.tls else b"\r")
        for reader, writer in (silent, babbling):
            await ended(reader)
            writer.transport.abort()


@on_both_loops
async def test_between_requests_a_connection_may_be_idle(port) -> None:
    """As those of a client's pool are: one that is closed just as the next request is sent loses this request."""
    async with port(headers_timeout_s=TIMEOUT_S) as port:
        reader, writer = await port.connect()
        for _ in range(2):
            writer.write(GET)
            assert await reader.readline() == HEALTHY
            await reader.readuntil(b"ok\n")
            await for_a_while(1.5 * TIMEOUT_S, "longer than headers may take")
        sending = asyncio.create_task(trickle(writer, GET * 10))
        assert (await ended(reader)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        await sending
        writer.transport.abort()


@on_both_loops
async def test_a_connection_that_is_idle_for_too_long_ends_without_a_reset(port) -> None:
    async with port(idle_timeout_s=TIMEOUT_S) as port:
        reader, writer = await port.connect()
        writer.write(GET)
        assert await reader.readline() == HEALTHY
        await reader.readuntil(b"ok\n")
        async with asyncio.timeout(20):
            assert await reader.read(-1) == b"", "the end, and no error"
        writer.close()
        assert {limit: count for limit, count in port.hits.counts().items() if count} == {"idle_timeout": 1}


@on_both_loops
async def test_an_idle_connection_whose_client_does_not_close_is_counted_once(port) -> None:
    async with port(idle_timeout_s=TIMEOUT_S, headers_timeout_s=TIMEOUT_S) as port:
        reader, writer = await port.connect()
        writer.write(GET)
        await reader.readuntil(b"ok\n")
        writer.transport.pause_reading()
        await wait_until(lambda: len(sockets_of(port.number)), equals=1, timeout_s=20.0)
        assert {limit: count for limit, count in port.hits.counts().items() if count} == {"idle_timeout": 1}
        writer.transport.abort()


@on_both_loops
async def test_a_connection_that_its_client_resets_leaves_nothing(port) -> None:
    async with port() as port:
        for _ in range(3):
            reader, writer = await port.connect()
            writer.write(GET)
            assert await reader.readline() == HEALTHY
            await reader.readuntil(b"ok\n")
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        del reader, writer

        def kept() -> int:
            gc.collect()
            return sum(isinstance(each, HttpConnection) for each in gc.get_objects())

        await wait_until(kept, equals=0)


@on_both_loops
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
async def test_headers_that_come_byte_by_byte_are_answered_408(port, first: bool) -> None:
    async with port(headers_timeout_s=TIMEOUT_S) as port:
        reader, writer = await connected(port, first=first)
        sending = asyncio.create_task(trickle(writer, GET * 10))
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert answer.endswith(b'{"error": "the request was not complete in time"}')
        await sending
        writer.transport.abort()


@on_both_loops
@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (
            b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
            b"431 Request Header Fields Too Large",
            "65536 bytes",
        ),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"x" * 200_000 + b"\r\n\r\n", b"431", "shorten"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request", "not valid HTTP/1.1"),
        (b"\x16\x03\x01 no HTTP at all\r\n\r\n" * 5_000, b"400", "not valid HTTP/1.1"),
        (b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400", "not valid HTTP/1.1"),
    ],
    ids=["long path", "long header", "no host", "no HTTP", "wrong length"],
)
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
async def test_what_is_no_request_gets_a_json_answer_that_arrives(
    port, first: bool, sent: bytes, status: bytes, why: str
) -> None:
    async with port(headers_timeout_s=TIMEOUT_S) as port:
        reader, writer = await connected(port, first=first)
        writer.write(sent)
        head, _, body = (await ended(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"content-type: application/json" in head
        assert why in json.loads(body)["error"]
        writer.transport.abort()


@on_both_loops
async def test_a_body_that_comes_byte_by_byte_is_answered_408_and_its_request_is_told(port) -> None:
    async with port(body_timeout_s=TIMEOUT_S) as port:
        reader, writer = await port.connect()
        writer.write(POST)
        sending = asyncio.create_task(trickle(writer, b"x" * 100))
        assert (await ended(reader)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        await sending
        await wait_until(lambda: (port.under_way, port.cut), equals=(0, 1))
        writer.transport.abort()


@on_both_loops
@pytest.mark.parametrize("begins", ["connects", "waits", "has begun a request", "sends a body"])
async def test_what_comes_while_the_server_stands_still_is_in_time(port, begins: str) -> None:
    """The machine was busy, or the process was stopped: the client is not to blame."""
    timeouts = {"headers_timeout_s": TIMEOUT_S, "body_timeout_s": TIMEOUT_S, "idle_timeout_s": TIMEOUT_S}
    sent = {"has begun a request": GET[:20], "sends a body": POST + b"x" * 50}.get(begins, b"")
    rest = {"has begun a request": GET[20:], "sends a body": b"x" * 50}.get(begins, GET)
    async with port(**timeouts) as port:
        reader, writer = await connected(port, first=begins != "waits")
        if sent:
            writer.write(sent)
        if begins != "connects":
            await for_a_while(TIMEOUT_S / 4, "the server has read it")
        writer.write(rest)
        for_a_while_blocking(2 * TIMEOUT_S, "the server stands still")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)) == HEALTHY
        writer.transport.abort()


@on_both_loops
async def test_a_request_that_is_complete_may_take_its_time(port) -> None:
    async with port(headers_timeout_s=TIMEOUT_S, body_timeout_s=TIMEOUT_S, unread_timeout_s=TIMEOUT_S) as port:
        reader, writer = await port.connect()
        writer.write(b"GET /v1/wait HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(reader.readline())), 2 * TIMEOUT_S)
        port.go.set()
        await wait_until(lambda: port.under_way, equals=0)
        writer.transport.abort()


@on_both_loops
async def test_who_reads_nothing_of_an_answer_is_cut_off_and_who_reads_slowly_is_not(port) -> None:
    async with port(headers_timeout_s=TIMEOUT_S, unread_timeout_s=3 * TIMEOUT_S) as port:
        reading, stuck = await port.connect(limit=2**18), await port.connect()
        for _, writer in (reading, stuck):
            writer.write(b"GET /v1/large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        stuck[1].transport.pause_reading()
        size, started = 0, time.monotonic()
        while data := await reading[0].read(2**20):
            size += len(data)
            await for_a_while(TIMEOUT_S / 10, "it reads slowly")
        assert time.monotonic() - started > 3 * TIMEOUT_S
        assert size > len(LARGE)
        stuck[1].transport.resume_reading()
        assert len(await ended(stuck[0])) < len(LARGE)
        for _, writer in (reading, stuck):
            writer.transport.abort()


@on_both_loops
async def test_who_reads_too_little_of_a_complete_answer_is_cut_off(port) -> None:
    done = threading.Event()

    def read_a_little() -> None:
        with contextlib.closing(socket.socket()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(20)
            client.connect(("127.0.0.1", port.number))
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                if port.tls is not None:
                    client = stack.enter_context(port.tls.wrap_socket(client, server_hostname="localhost"))
                client.sendall(b"GET /v1/large HTTP/1.1\r\nhost: x\r\n\r\n")
                while not done.wait(0.1):
                    client.recv(100)

    async with port(headers_timeout_s=NEVER_S, unread_timeout_s=2 * TIMEOUT_S) as port:
        reading = asyncio.create_task(asyncio.to_thread(read_a_little))
        try:
            await wait_until(lambda: port.hits.counts()["unread_timeout"], timeout_s=15)
        finally:
            done.set()
            await reading


# --- Room ------------------------------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("said", ["nothing", "no handshake", "half", "body"])
async def test_connections_that_say_nothing_make_room_for_those_that_do(port, said: str) -> None:
    async with port() as port:
        crowd = []
        for _ in range(3 * CONNECTIONS_MAX):
            _, writer = await port.connect(tls=said != "no handshake")
            crowd.append(writer)
            writer.write({"half": GET[:-2], "body": POST}.get(said, b""))
            # One after the other, so that each is in place: the API accepts fewer at a time.
            if said == "body" and port.under_way < REQUESTS_MAX:
                await wait_until(lambda before=port.under_way: port.under_way > before or port.cut)
        for _ in range(3):
            assert (await port.fetch("/healthz")).text == "ok"
            assert (await port.fetch("/readyz")).text == "ready"
        for writer in crowd:
            writer.transport.abort()


@on_both_loops
async def test_health_is_answered_while_requests_of_all_other_kinds_are_as_many_as_may_be(port) -> None:
    async with port() as port:
        api = [asyncio.create_task(port.fetch("/v1/wait", 30)) for _ in range(REQUESTS_MAX)]
        scrapes = [asyncio.create_task(port.fetch("/metrics", 30)) for _ in range(SCRAPES_MAX)]
        await wait_until(lambda: port.under_way, equals=REQUESTS_MAX)
        for path in ("/v1/wait", "/metrics"):
            await _wait_busy(port, path)
        silent = [await port.connect() for _ in range(2 * CONNECTIONS_MAX)]
        assert (await port.fetch("/healthz")).text == "ok"
        assert (await port.fetch("/readyz")).text == "ready"
        port.go.set()
        assert {answer.status for answer in await asyncio.gather(*api, *scrapes)} == {200}
        assert (await port.fetch("/metrics")).status == 200
        for _, writer in silent:
            writer.transport.abort()


async def _wait_busy(port: Port, path: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                answer = await port.fetch(path, 5.0)
            except TimeoutError:
                continue  # it was one of the accepted requests
            assert answer.status == 503
            assert answer.json() == {"error": "too many requests are under way; try again"}
            assert answer.headers["retry-after"] == "1"
            return


@on_both_loops
async def test_health_is_answered_while_all_connections_have_answers_to_read(port) -> None:
    async with port() as port:
        crowd = []
        for _ in range(CONNECTIONS_MAX):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port.number))
            named = "localhost" if port.tls else None
            _, writer = await asyncio.open_connection(sock=client, ssl=port.tls, server_hostname=named, limit=1)
            writer.transport.pause_reading()
            writer.write(b"GET /v1/medium HTTP/1.1\r\nhost: x\r\n\r\n")
            crowd.append(writer)
            await wait_until(lambda: port.under_way, equals=0)
        await for_a_while(0.7, "they are seen not to read")
        for _ in range(3):
            assert (await fetch(port.number, "/healthz", tls=port.tls)).status == 200
        for writer in crowd:
            writer.transport.abort()


@on_both_loops
async def test_a_request_under_way_outlives_any_number_of_newcomers(port) -> None:
    async with port() as port:
        waiting = asyncio.create_task(port.fetch("/v1/wait", 30))
        await wait_until(lambda: port.under_way, equals=1)
        crowd = [await port.connect() for _ in range(3 * CONNECTIONS_MAX)]
        port.go.set()
        assert (await waiting).status == 200
        for _, writer in crowd:
            writer.transport.abort()


@on_both_loops
async def test_without_descriptors_it_takes_nobody_does_not_spin_and_goes_on_afterwards(port) -> None:
    async with port() as port:
        assert (await port.fetch("/healthz")).status == 200
        client = socket.socket()  # its descriptor is allocated before none is left
        client.setblocking(False)
        taken = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 8, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port.number))
            cpu_s = time.process_time()
            await for_a_while(1.0, "a server that spins takes CPU time meanwhile")
            assert time.process_time() - cpu_s < 0.6
        finally:
            for each in taken:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await port.fetch("/healthz")).status == 200
        client.close()
