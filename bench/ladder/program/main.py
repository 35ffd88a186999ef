"""The process of the ladder's server: it listens, serves, and makes a change for each GET /push."""

import argparse
import asyncio
import hashlib
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import uvloop

from bench.ladder.program.connection import Connection
from bench.ladder.program.content import INDEX, Resource
from bench.ladder.program.hub import Change, Hub
from bench.ladder.program.tls import TlsConnection, context
from bench.ladder.switches import TLS, TLS_BY_LOOP, WORKERS
from bench.serve import READY, Workload
from xds._generated.xds_wire_pb2 import Resource as WireResource
from xds.fleet.wire import length_field
from xds.model.types import CLUSTER, ENDPOINTS
from xds.process.memory import return_large_blocks, settle_memory
from xds.schema.ingest import ingest

BACKLOG = 4_096
LENGTH_BYTES = 4


def change_of(item: Any) -> Change:
    """Return a resource of the workload as a change, checked and encoded as the product does it."""
    made = ingest(item)
    bare = WireResource(name=made.name, version=made.version)
    bare.ttl.FromTimedelta(timedelta(seconds=made.ttl_s or 0.0))
    refers = tuple(reference.name for reference in made.references if reference.type_url == CLUSTER)
    ttl_s = made.ttl_s or 0.0
    resource = Resource(
        made.name, made.version, made.encoded, refers, ttl_s, bare=length_field(2, bare.SerializeToString())
    )
    return INDEX[made.type_url], made.name, resource


def pushed(workload: Workload) -> Change:
    """Return the next change of the workload, which is known to be sound: encoded and no more."""
    message = workload.next_change()
    body = message.SerializeToString(deterministic=True)
    wire = WireResource(name=message.cluster_name, version=hashlib.sha256(body).hexdigest()[:16])
    wire.resource.type_url, wire.resource.value = ENDPOINTS, body
    return INDEX[ENDPOINTS], wire.name, Resource(wire.name, wire.version, wire.SerializeToString())


class Feed(asyncio.Protocol):
    """A worker's end of the socket pair: changes come in order, each a length and a pickle; figures go back."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._data = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= LENGTH_BYTES:
            stop = LENGTH_BYTES + int.from_bytes(self._data[:LENGTH_BYTES], "big")
            if len(self._data) < stop:
                return
            told = pickle.loads(self._data[LENGTH_BYTES:stop])
            del self._data[:stop]
            if told == "figures":
                self._transport.write(packed(self._hub.figures()))
            else:
                self._hub.publish(told)
                if self._hub.group.head.number == 1:
                    settle_memory()
                    self._transport.write(packed("begun"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._hub.loop.stop()


def packed(told: object) -> bytes:
    """Return something as the feed has it."""
    data = pickle.dumps(told, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


class AdminPort(asyncio.Protocol):
    """Answers GET /push with a change, and closes."""

    def __init__(self, push: Callable[[], None]) -> None:
        self._push = push
        self._head = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        found = self._head.startswith(b"GET /push ")
        if found:
            self._push()
        status = b"200 OK" if found else b"404 Not Found"
        self._transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self._transport.close()


async def accept(hub: Hub, listening: socket.socket, options: argparse.Namespace) -> asyncio.AbstractServer:
    """Serve clients on a socket."""
    loop = asyncio.get_running_loop()
    if TLS:
        tls_context = context(options.tls_cert, options.tls_key, options.tls_client_ca)
        if TLS_BY_LOOP:
            return await loop.create_server(partial(Connection, hub), sock=listening, ssl=tls_context)
        return await loop.create_server(partial(TlsConnection, hub, tls_context), sock=listening, backlog=BACKLOG)
    return await loop.create_server(partial(Connection, hub), sock=listening, backlog=BACKLOG)


def listen(port: int) -> socket.socket:
    """Return a socket of the port; with workers one that other processes could share."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if WORKERS:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM: clients here, or in a worker that is told of changes."""
    loop = asyncio.get_running_loop()
    workload = Workload(clusters=options.clusters, routes=options.routes, endpoints=options.endpoints)
    initial = [change_of(item) for item in workload.initial()]
    listening = listen(options.port)
    worker: subprocess.Popen[bytes] | None = None
    if WORKERS:
        near, far = socket.socketpair()
        descriptors = (far.fileno(), listening.fileno())
        words = [f"--worker={descriptors[0]}", f"--listening={descriptors[1]}"]
        worker = subprocess.Popen(
            [sys.executable, "-m", "bench.ladder.serve", *sys.argv[1:], *words], pass_fds=descriptors
        )
        far.close()
        listening.close()
        reader, writer = await asyncio.open_connection(sock=near)

        def publish(changes: list[Change]) -> None:
            writer.write(packed(changes))

        publish(initial)
        size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        assert pickle.loads(await reader.readexactly(size)) == "begun"
    else:
        hub = Hub(loop)
        hub.publish(initial)
        await accept(hub, listening, options)
        loop.call_later(1.0, hub.run_clock)
        publish = hub.publish
    settle_memory()
    admin = await loop.create_server(
        lambda: AdminPort(lambda: publish([pushed(workload)])), "127.0.0.1", options.admin_port
    )
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    print(READY, flush=True)
    await ended.wait()
    admin.close()
    if worker is not None:
        worker.terminate()
        worker.wait()


async def work(options: argparse.Namespace) -> None:
    """Serve clients as a worker, until the socket pair ends."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    hub = Hub(loop)
    await loop.create_connection(lambda: Feed(hub), sock=socket.socket(fileno=options.worker))
    await accept(hub, socket.socket(fileno=options.listening), options)
    loop.call_later(1.0, hub.run_clock)
    await asyncio.Event().wait()


def main(options: argparse.Namespace) -> None:
    """Run the process that the options ask for."""
    return_large_blocks()
    uvloop.run(serve(options) if options.worker is None else work(options))
