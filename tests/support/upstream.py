"""Tiny HTTP/1.1 upstreams, any number in one separate process, each answering with its name.

Every answer is 200 with body ``NAME\\n`` and header ``x-upstream: NAME``, delayed if the path is
``/delay/MILLISECONDS``; ``/health`` answers 503 if set by ``set_health``, ``/spans`` 202, as collectors of traces do.
Keep-alive connections stay open.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

HEALTH_PATH = b"/health"
SPANS_PATH = b"/spans"


class _Upstream:
    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self.status = 200
        self.healthy = True

    def answer(self, path: bytes) -> bytes:
        health = path.startswith(HEALTH_PATH)
        self.requests += not health
        status = (200 if self.healthy else 503) if health else 202 if path == SPANS_PATH else self.status
        body = f"{self.name}\n".encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nx-upstream: {self.name}\r\n\r\n"
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection. Requests are answered in order; bodies are skipped, by their length or in chunks."""

    def __init__(self, upstream: _Upstream) -> None:
        self.upstream = upstream
        self.pending = b""
        self.delayed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pending += data
        self._serve()

    def _serve(self) -> None:
        while not self.delayed and (end := self.pending.find(b"\r\n\r\n")) >= 0:
            head = self.pending[:end]
            whole = _end_of_body(self.pending, head, end + 4)
            if not whole or len(self.pending) < whole:
                return
            self.pending = self.pending[whole:]
            path = head.split(b" ", 2)[1]
            if path.startswith(b"/delay/"):
                self.delayed = True
                asyncio.get_running_loop().call_later(int(path.split(b"/")[2]) / 1000, self._answer_late, path)
            else:
                self.transport.write(self.upstream.answer(path))
                if b"connection: close" in head.lower():
                    self.transport.close()

    def _answer_late(self, path: bytes) -> None:
        self.transport.write(self.upstream.answer(path))
        self.delayed = False
        self._serve()


def _end_of_body(pending: bytes, head: bytes, start: int) -> int:
    """Return where the body that begins at ``start`` ends, 0 if that is not known yet."""
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return start + _content_length(head)
    while (line_end := pending.find(b"\r\n", start)) >= 0:
        size = int(pending[start:line_end], 16)
        start = line_end + 2 + size + 2
        if not size:
            return start
    return 0


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


async def _main(ports: dict[str, int], tls: list[str] | None) -> None:
    loop = asyncio.get_running_loop()
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
    upstreams = {name: _Upstream(name) for name in ports}
    bound = {}
    for name, port in ports.items():
        made = await loop.create_server(lambda u=upstreams[name]: _Connection(u), "127.0.0.1", port, ssl=context)
        bound[name] = made.sockets[0].getsockname()[1]
    print(json.dumps(bound), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        said = json.loads(line)
        if said["command"] == "set":
            for field, value in said["fields"].items():
                setattr(upstreams[said["name"]], field, value)
        print(json.dumps({name: upstream.requests for name, upstream in upstreams.items()}), flush=True)


class Upstreams:
    """Upstreams by name in one process: ``async with Upstreams("a", "b") as up: up.ports["a"]``.

    ``ports`` fixes some of their ports; ``tls`` is a certificate file and a key file.
    """

    def __init__(
        self, *names: str, ports: Mapping[str, int] | None = None, tls: Sequence[str | Path] | None = None
    ) -> None:
        from support.processes import Worker  # not at the top: the worker runs this file as a script

        wanted = dict.fromkeys(names, 0) | dict(ports or {})
        files = [str(path) for path in tls] if tls else None
        self.ports: dict[str, int] = {}
        self.worker = Worker(__file__, json.dumps({"ports": wanted, "tls": files}), name="upstream")

    async def start(self) -> Self:
        """Start the process and read the ports."""
        self.worker.start()
        self.ports = await self.worker.read()
        return self

    async def set_health(self, name: str, healthy: bool) -> None:
        """Make ``/health`` of one upstream answer 200 or 503."""
        await self._set(name, healthy=healthy)

    async def set_status(self, name: str, status: int) -> None:
        """Make one upstream answer everything but ``/health`` with this status."""
        await self._set(name, status=status)

    async def _set(self, name: str, **fields: Any) -> None:
        await self.worker.call("set", name=name, fields=fields)

    async def requests(self) -> dict[str, int]:
        """Return the number of requests that each has answered, without health checks."""
        return await self.worker.call("count")

    async def stop(self) -> None:
        """End the process."""
        await asyncio.to_thread(self.worker.stop)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


if __name__ == "__main__":
    import uvloop

    arguments = json.loads(sys.argv[1])
    uvloop.run(_main(arguments["ports"], arguments["tls"]))
