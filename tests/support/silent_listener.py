"""A port that accepts connections and sends nothing, like that of a server that is starting or frozen."""

import asyncio
from types import TracebackType
from typing import Self

from support.waiting import wait_until


class SilentListener:
    """``async with SilentListener(port) as listener``: ``accepted`` counts connections; the exit aborts them all."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def wait_accepted(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until ``count`` connections were accepted."""
        await wait_until(lambda: self.accepted, lambda accepted: accepted >= count, timeout_s=timeout_s)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        self.accepted += 1
        self._writers.append(writer)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Abort all connections and stop listening."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
