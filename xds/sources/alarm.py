"""Notifies when something in a directory, or its location, may have changed."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import Change, awatch

_STEP_MS = 10  # poll interval of watchfiles' thread: at 5 ms an idle watch takes 1.2% of a CPU, at 10 and 40 ms 0.5%
_STEP_BESIDE_MS = 40
_TIMEOUT_MS = 60_000


class Alarm:
    """Watches a directory, its parent, and the symlinks on the path to it.

    It may ring without a change, and may miss changes (network mounts, exhausted watches), so polling is needed too.
    ``on_degraded`` is called with the reason, once per cause, if the kernel refuses to watch. The root is held open
    while it is watched, so that a directory that replaces it can't have the same inode number.
    """

    def __init__(self, root: Path, stop: asyncio.Event, *, on_degraded: Callable[[str], None] | None = None) -> None:
        self._root, self._stop = Path(os.path.abspath(root)), stop
        self._on_degraded = on_degraded
        self._reported: set[str] = set()
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
        """Watch the present root, and further directories.

        Return whether the watch was set up anew: earlier changes may then have been missed.
        """
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
        await asyncio.sleep(0)  # lets each listener set up its watch
        return True

    def ring(self) -> None:
        """Make the present or next ``wait`` return at once."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when the alarm rings (at once if it rang since the last call), at the timeout, or when stopped."""
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
        def is_relevant(_change: Change, path: str) -> bool:
            return only is None or path in only or os.path.dirname(path) in outside or path in outside

        if existing := [path for path in paths if os.path.isdir(path)]:
            self._listeners.append(asyncio.create_task(self._ring_on_events(existing, is_relevant, recursive)))

    async def _ring_on_events(
        self, paths: list[str], is_relevant: Callable[[Change, str], bool], recursive: bool
    ) -> None:
        step_ms = _STEP_MS if recursive else _STEP_BESIDE_MS
        try:
            async for _ in awatch(
                *paths,
                watch_filter=is_relevant,
                debounce=step_ms,
                step=step_ms,
                rust_timeout=_TIMEOUT_MS,
                recursive=recursive,
                ignore_permission_denied=True,
            ):
                self._rung.set()
            raise RuntimeError("the watch of the directory ended by itself")
        except Exception as error:  # polling continues whatever the error
            if str(error) not in self._reported and self._on_degraded is not None:
                self._on_degraded(str(error))
            self._reported.add(str(error))
            self._armed_for = None  # the next sweep retries

    def _hold_root(self) -> None:
        with contextlib.suppress(OSError):  # removed meanwhile; the next sweep notices
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
    """Return the symlinks among a path and its parents."""
    return [str(part) for part in (path, *path.parents) if part.is_symlink()]
