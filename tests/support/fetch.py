"""Makes single HTTP/1.1 requests to a local port: to Envoy's admin interface, and through Envoy.

It uses asyncio throughout, so that a control plane under test in the same event loop keeps serving meanwhile.
"""

import asyncio
import io
import json
import ssl
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, without a final line end."""
        return self.body.decode(errors="replace").rstrip("\n")

    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


async def fetch(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    host: str = "127.0.0.1",
    authority: str | None = None,
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 10.0,
) -> Answer:
    """Make one request on a new connection.

    Raises OSError if it fails (refused, reset, TLS failure), TimeoutError after ``timeout_s``.
    """
    lines = {"host": authority or f"{host}:{port}", "connection": "close", **(headers or {})}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=tls, server_hostname="localhost" if tls else None, limit=1 << 20
        )
        try:
            writer.write(f"{head}content-length: 0\r\n\r\n".encode())
            data = await reader.read(-1)
        finally:
            writer.transport.abort()
    return _parse(data, method)


def _parse(data: bytes, method: str) -> Answer:
    try:
        response = HTTPResponse(_Bytes(data), method=method)
        response.begin()
        body = response.read()
    except HTTPException as error:
        raise ConnectionError(f"not a whole HTTP response: {data[:200]!r}") from error
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
