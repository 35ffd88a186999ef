"""The network between the members of an etcd cluster: a proxy before each, which can cut a member off from the others.

A member that is cut off still answers its clients, as behind a broken switch. A cut closes no connection: bytes just
stop. The sender is identified by the header ``X-Server-From`` of etcd's peer protocol, which is HTTP/1.1.
"""

import asyncio
import contextlib
import re
from types import TracebackType
from typing import Self

from support.waiting import turns

FROM = re.compile(rb"^x-server-from:\s*([0-9a-f]+)\s*$", re.IGNORECASE | re.MULTILINE)
PIECE_BYTES = 65_536


class PeerNetwork:
    """The proxies, while it is entered. The members reach each other at ``ports``."""

    def __init__(self, targets: list[int]) -> None:
        self._targets = targets
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers: dict[str, int] = {}
        self._cut: set[int] = set()
        self._healed = asyncio.Event()
        self._healed.set()
        self.held_back = 0
        """The number of chunks that cuts have held back: 0 means that a cut had no effect."""

    @property
    def ports(self) -> list[int]:
        """The proxies' ports, in the order of the targets."""
        return [int(server.sockets[0].getsockname()[1]) for server in self._servers]

    async def __aenter__(self) -> Self:
        for number in range(len(self._targets)):
            serve = lambda reader, writer, number=number: self._serve(number, reader, writer)  # noqa: E731
            self._servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await turns(2)  # the loop closes aborted connections meanwhile

    def know(self, ids: list[int]) -> None:
        """Set the members' ids, in order."""
        self._numbers = {f"{member_id:x}": number for number, member_id in enumerate(ids)}

    def cut_off(self, number: int) -> None:
        """Block all bytes between a member and the others, until ``heal``."""
        self._cut.add(number)
        self._healed.clear()

    def heal(self) -> None:
        """End all cuts."""
        self._cut.clear()
        self._healed.set()

    def _is_cut(self, source: int | None, target: int) -> bool:
        return target in self._cut or source in self._cut

    async def _serve(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = [writer]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = FROM.search(head.replace(b"\r\n", b"\n"))
            source = self._numbers.get(found.group(1).decode()) if found else None
            await self._pass(source, target)
            there, back = await asyncio.open_connection("127.0.0.1", self._targets[target])
            writers.append(back)
            back.write(head)
            await asyncio.gather(self._copy(reader, back, source, target), self._copy(there, writer, source, target))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # cancelled at the end only; asyncio's server logs a traceback for a cancelled task
        finally:
            for each in writers:
                each.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: int | None, target: int
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await self._pass(source, target)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _pass(self, source: int | None, target: int) -> None:
        while self._is_cut(source, target):
            self.held_back += 1
            await self._healed.wait()
