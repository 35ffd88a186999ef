"""A local file with the last known state of a remote store: served if the store can't be reached at start."""

import asyncio
import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from xds.process.background import Background
from xds.process.private_files import make_directory, open_replacement, tighten
from xds.store.entries import State
from xds.store.records import decode_base, encode_base

MAGIC = b"xds cache 1\n"
EVERY_S = 1.0
PAUSE_RATIO = 20
"""The minimum pause after a write, as a multiple of the write's duration."""
_EPOCH_BYTES, _DIGEST_BYTES = 64, 16


class StateCache:
    """Writes the state to a file about once a second, between ``begin`` and ``end``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._task: asyncio.Task[None] | None = None
        self._written = ("", -1)
        self._inode = 0
        self._source: Callable[[], tuple[str, State]] | None = None

    def read(self) -> tuple[str, State] | None:
        """Return the epoch and the state in the file, None if the file is missing or incomplete."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        start = len(MAGIC) + _DIGEST_BYTES
        if (
            not data.startswith(MAGIC)
            or blake2b(data[start:], digest_size=_DIGEST_BYTES).digest() != data[len(MAGIC) : start]
        ):
            return None
        tighten(self.path)
        epoch = data[start : start + _EPOCH_BYTES].rstrip(b"\0").decode()
        at = start + _EPOCH_BYTES
        return epoch, decode_base(data[at + 8 :], int.from_bytes(data[at : at + 8]))

    def begin(self, source: Callable[[], tuple[str, State]], background: Background | None = None) -> None:
        """Start writing the epoch and state that ``source`` returns, whenever they have changed."""
        self._source = source
        self._task = (background or Background()).keep("write the local copy of etcd", self._run)

    async def end(self) -> None:
        """Write the state if it has changed, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._write()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await self._write()
            await asyncio.sleep(max(EVERY_S, PAUSE_RATIO * (loop.time() - started)))

    async def _write(self) -> None:
        assert self._source is not None
        epoch, state = self._source()
        if (epoch, state.revision) == self._written and _inode(self.path) == self._inode:
            return
        copy = State(state.revision, dict(state.resources), state.groups)
        try:
            await asyncio.to_thread(self._replace, epoch, copy)
            self._written = (epoch, state.revision)
        except OSError:
            return  # a full disk must not stop the service; the write is retried next time

    def _replace(self, epoch: str, state: State) -> None:
        content = epoch.encode().ljust(_EPOCH_BYTES, b"\0") + state.revision.to_bytes(8) + encode_base(state)
        make_directory(self.path.parent)
        beside = self.path.with_name(f"{self.path.name}.new")
        with open_replacement(beside) as file:
            file.write(MAGIC + blake2b(content, digest_size=_DIGEST_BYTES).digest() + content)
            file.flush()
            os.fsync(file.fileno())
            inode = os.fstat(file.fileno()).st_ino
        beside.replace(self.path)
        self._inode = inode


def _inode(path: Path) -> int:
    """Return the inode number of the file at a path, 0 if there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0
