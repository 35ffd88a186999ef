"""A server of key sets over HTTP or HTTPS that a test makes slow, huge, wrong or gone."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from support.waiting import for_a_while


@dataclass(slots=True)
class JwksServer:
    """``body`` is answered to every request; ``answer`` is instead, if set, byte for byte.

    ``trickle_s``: between two bytes of the answer. ``hold``: while it is set, nothing is answered.
    """

    url: str = ""
    body: bytes = b""
    answer: bytes | None = None
    trickle_s: float = 0.0
    requests: list[bytes] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.hold.is_set():
                await reader.read()  # until the client gives up
                return
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(self.body)
            answer = self.answer if self.answer is not None else head + self.body
            if self.trickle_s:
                for at in range(len(answer)):
                    writer.write(answer[at : at + 1])
                    await writer.drain()
                    await for_a_while(self.trickle_s, "a slow answer")
            writer.write(answer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def jwks_server(context: ssl.SSLContext | None = None, *, body: bytes = b"") -> AsyncIterator[JwksServer]:
    """Serve a key set on a free port."""
    made = JwksServer(body=body)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    made.url = f"{'https' if context else 'http'}://127.0.0.1:{port}/jwks?v=1"
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.transport.abort()
