"""Ring when something in or about a directory may have changed. It does not know what, nor what is in it."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import Change, awatch

_STEP_MS = 10  # how often watchfiles' thread looks for events: at 5 ms an idle watch takes 1.2% of a CPU, at 10/40 0.5%
_STEP_BESIDE_MS = 40
_TIMEOUT_MS = 60_000


class Alarm:
    """Watches a directory and what decides where it is: its parent, and the symlinks on the way to it.

    It may ring for nothing, and may miss things (network mounts, watches used up): poll besides. ``on_degraded`` is
    told, once per cause, when the kernel will not watch. The root is held open while it is watched, so that a directory
    which replaces it can't get its inode number and pass for it.
    """

    def __init__(self, root: Path, stop: asyncio.Event, *, on_degraded: Callable[[str], None] | None = None) -> None:
        self._root, self._stop = Path(os.path.abspath(root)), stop
        self._on_degraded = on_degraded
        self._told: set[str] = set()
        self._rung = asyncio.Event()
        self._armed_for: object = None
        self._root_descriptor: int | None = None
        self._listeners: list[asyncio.Task[None]] = []
        self._stopper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._stopper = asyncio.create_task(self._ring_at_stop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stopper is not None
        self._stopper.cancel()
        await asyncio.gather(self._stopper, self._disarm(), return_exceptions=True)

    async def arm(self, root_identity: object, directories: Collection[str]) -> bool:
        """Watch the root as it now is, and further directories. Return whether that is a change, so that what happened
        before it may have been missed."""
        wanted = (root_identity, frozenset(directories), links := tuple(_links_to(self._root)))
        if wanted == self._armed_for:
            return False
        await self._disarm()
        self._armed_for = wanted
        about = {str(self._root), *links}
        beside = {os.path.dirname(path) for path in about} | set(directories)
        self._listen(beside, recursive=False, only=about, outside=frozenset(directories))
        if root_identity is not None:
            self._hold_root()
            self._listen({str(self._root)}, recursive=True)
        await asyncio.sleep(0)  # each listener's first step, which sets up its watch
        return True

    def ring(self) -> None:
        """Have the next, or present, ``wait`` return at once."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when it rings, at once if it rang since the last call, or after the time, or when stopped."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            pass
        if not self._stop.is_set():
            self._rung.clear()

    def _listen(
        self,
        paths: Collection[str],
        *,
        recursive: bool,
        only: Collection[str] | None = None,
        outside: frozenset[str] = frozenset(),
    ) -> None:
        def concerns(_change: Change, path: str) -> bool:
            return only is None or path in only or os.path.dirname(path) in outside or path in outside

        if existing := [path for path in paths if os.path.isdir(path)]:
            self._listeners.append(asyncio.create_task(self._hear(existing, concerns, recursive=recursive)))

    async def _hear(self, paths: list[str], concerns: Callable[[Change, str], bool], *, recursive: bool) -> None:
        step_ms = _STEP_MS if recursive else _STEP_BESIDE_MS
        try:
            async for _ in awatch(
                *paths,
                watch_filter=concerns,
                debounce=step_ms,
                step=step_ms,
                rust_timeout=_TIMEOUT_MS,
                recursive=recursive,
                ignore_permission_denied=True,
            ):
                self._rung.set()
            raise RuntimeError("the watch of the directory ended by itself")
        except Exception as error:  # whatever it is, polling goes on
            if str(error) not in self._told and self._on_degraded is not None:
                self._on_degraded(str(error))
            self._told.add(str(error))
            self._armed_for = None  # so that the next sweep tries again

    def _hold_root(self) -> None:
        with contextlib.suppress(OSError):  # it is gone already, which the next sweep sees
            self._root_descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    async def _ring_at_stop(self) -> None:
        await self._stop.wait()
        self._rung.set()

    async def _disarm(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        descriptor, self._root_descriptor = self._root_descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _links_to(path: Path) -> list[str]:
    """Return the symlinks among a path's own directories and itself."""
    return [str(part) for part in (path, *path.parents) if part.is_symlink()]
