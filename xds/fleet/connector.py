"""Opens the sidecars' connections: at a bounded concurrency and rate, from many source addresses."""

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator

from xds.fleet.config import Tls, WorkerConfig
from xds.fleet.sidecar import Sidecar
from xds.fleet.stream import FaultError

SIDECARS_PER_SOURCE = 1_000
"""Sidecars per source address of 127.0.0.0/8: an address has about 28,000 ports to connect from."""
_BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of Linux: the port is chosen at connect, and need only be free for that target."""


class Connector:
    """Connects sidecars to the target, and reports failures to the sidecar, whose crowd counts a loss."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._tls = None if config.tls is None else _tls_context(config.tls)
        self._is_loopback = isinstance(config.target, tuple) and _is_loopback_v4(config.target[0])

    async def connect(self, sidecars: Iterable[Sidecar], *, rate_per_s: float | None = None) -> None:
        """Connect sidecars; return when each has connected or failed. Handshakes in flight are bounded."""
        waiting = list(sidecars)
        turns = self._turns(waiting, rate_per_s)
        lanes = min(len(waiting), self._config.connects_in_flight_max)
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(self._lane(turns))

    @staticmethod
    def _turns(sidecars: list[Sidecar], rate_per_s: float | None) -> Iterator[tuple[Sidecar, float]]:
        started_s = time.monotonic()
        for turn, sidecar in enumerate(sidecars):
            yield sidecar, started_s + turn / rate_per_s if rate_per_s else 0.0

    async def _lane(self, turns: Iterator[tuple[Sidecar, float]]) -> None:
        for sidecar, due_s in turns:
            if due_s and (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            await self.connect_one(sidecar)

    async def connect_one(self, sidecar: Sidecar) -> None:
        """Connect one sidecar, or report its failure to it."""
        loop = asyncio.get_running_loop()
        sidecar.started_ns = time.monotonic_ns()
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                sock = self._socket(sidecar.index)
                await _connected(sock, self._config.target)
                if self._tls is None:
                    await loop.create_connection(lambda: sidecar, sock=sock)
                else:
                    name = self._server_name()
                    await loop.create_connection(lambda: sidecar, sock=sock, ssl=self._tls, server_hostname=name)
        except (OSError, TimeoutError) as error:
            if sock is not None:
                sock.close()
            sidecar.fail(_fault(error, self._config.connect_timeout_s))

    def _server_name(self) -> str:
        assert self._config.tls is not None
        return self._config.tls.server_name or self._config.authority.rpartition(":")[0].strip("[]")

    def _socket(self, index: int) -> socket.socket:
        target = self._config.target
        if isinstance(target, str):
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        source = self._source(index)
        if source is not None:
            try:
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            except OSError:
                sock.close()
                raise
        return sock

    def _source(self, index: int) -> str | None:
        sources = self._config.sources
        if sources:
            return sources[index % len(sources)]
        return source_address(index) if self._is_loopback else None


async def _connected(sock: socket.socket, target: tuple[str, int] | str) -> None:
    """Connect a non-blocking socket to a resolved address.

    The event loop's own method resolves even numeric addresses, in a thread, at half the cost of a whole sidecar.
    """
    code = sock.connect_ex(target)
    if code == errno.EINPROGRESS:
        code = sock.connect_ex(target)  # loopback is connected by now, which saves two calls and a turn of the loop
    if code in (errno.EINPROGRESS, errno.EALREADY):
        await _writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code not in (0, errno.EISCONN):
        raise OSError(code, os.strerror(code))


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(sock, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(sock)


def source_address(index: int) -> str:
    """Return the address of 127.0.0.0/8 that the sidecar with an index connects from."""
    block = index // SIDECARS_PER_SOURCE
    return socket.inet_ntoa(struct.pack(">I", (127 << 24 | 1 << 16) + (block // 250 << 8) + block % 250 + 1))


def _is_loopback_v4(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return address.version == 4 and address.is_loopback


def _tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    return context


def _fault(error: OSError | TimeoutError, timeout_s: float) -> FaultError:
    if isinstance(error, ssl.SSLError):
        return FaultError("TLS failed", str(error))
    if isinstance(error, TimeoutError):
        return FaultError("connect timed out", f"no connection within {timeout_s:g} s")
    if isinstance(error, ConnectionRefusedError):
        return FaultError("connection refused", "nothing listens there")
    return FaultError("connect failed", str(error))
