"""Keeps the table of known nodes: forgets nodes in time, and writes what changed to the file, in batches."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from xds.process.background import Background
from xds.registry.known_nodes import KnownNode, KnownNodes
from xds.registry.nodes_file import NodesFile, NotNodesError, set_aside

log = structlog.get_logger("xds")
T = TypeVar("T")
BATCH_S = 1.0
"""How often changes are written: a server that is killed loses those of this time."""
BATCH_MAX = 2_000
"""Nodes that are written at once."""
ALIVE_EVERY_S = 10.0
"""How often it is noted that the server runs, if nothing changes."""
FILE_ERRORS = (sqlite3.Error, OSError)


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _read_file(path: Path, epoch: str) -> tuple[NodesFile, list[KnownNode]]:
    """Open a file, or create it, and read it. Raises what ``NodesFile`` does, and leaves no file open then."""
    file = NodesFile(path)
    try:
        return file, file.read(epoch)
    except BaseException:
        file.close()
        raise


class NodeKeeper:
    """Between ``start`` and ``stop``, keeps a table, and its file if ``path`` is given.

    A file that can't be used costs what it has, and nothing else: that is logged, and ``problem`` says why.
    """

    def __init__(self, known: KnownNodes, path: Path | None, epoch: Callable[[], str] = lambda: "") -> None:
        """``epoch`` returns that of the store's history, which accepted revisions are of."""
        self._known, self._path, self._epoch = known, path, epoch
        self._file: NodesFile | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._alive_ms = 0
        self.problem = ""
        """Why the known nodes can't be written to their file, "" if they can."""

    async def start(self, background: Background) -> None:
        """Take what the file has, and begin to keep the table."""
        if self._path is not None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="nodes")
            await self._open(self._path)
        self._task = background.keep("keep the known nodes", self._keep)

    async def stop(self) -> None:
        """Write what is left, and close the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._file is not None:
            while await self._write():
                pass
            await self._on_thread(self._file.close)
            self._file = None
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    async def _open(self, path: Path) -> None:
        epoch = self._epoch()
        try:
            try:
                file, nodes = await self._on_thread(lambda: _read_file(path, epoch))
            except NotNodesError as error:
                aside = await self._on_thread(lambda: set_aside(path, now_ms()))
                log.error(
                    "the file of known nodes can't be read and is set aside; nodes are known once they connect",
                    file=str(path),
                    problem=str(error),
                    aside=str(aside),
                )
                file, nodes = await self._on_thread(lambda: _read_file(path, epoch))
        except (*FILE_ERRORS, NotNodesError) as error:
            self._note_problem(f"{path}: {error}")
            return
        known = self._known
        known.take_unwritten(now_ms(), 0)  # from now on, changes are noted
        known.load(nodes, now_ms())
        known.write_again(each.id for each in nodes if known.group_of(each.id) is None)
        self._file = file

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(BATCH_S)
            self._known.forget(now_ms())
            if self._file is not None:
                while await self._write():
                    pass

    async def _write(self) -> bool:
        """Write a batch of changes; return whether there may be more."""
        file, known, at_ms = self._file, self._known, now_ms()
        assert file is not None, "opened"
        nodes, forgotten = known.take_unwritten(at_ms, BATCH_MAX)
        if not nodes and not forgotten and at_ms < self._alive_ms + 1_000 * ALIVE_EVERY_S:
            return False
        try:
            await self._on_thread(lambda: file.write(nodes, forgotten, at_ms))
        except FILE_ERRORS as error:
            known.write_again([*(each.id for each in nodes), *forgotten])
            self._note_problem(f"{self._path}: {error}")
            return False
        self._alive_ms = at_ms
        self._note_problem("")
        return len(nodes) + len(forgotten) >= BATCH_MAX

    def _note_problem(self, why: str) -> None:
        if why and why != self.problem:
            log.error("the known nodes can't be written to their file; they are kept in memory", problem=why)
        elif self.problem and not why:
            log.info("the known nodes are written to their file again", file=str(self._path))
        self.problem = why

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
