"""Follows the files of revoked client certificates, on either transport."""

import asyncio
import contextlib
from collections.abc import Callable

from xds.transport.client_certificates import ClientCertificates

LOOK_EVERY_S = 5.0


class RevocationWatch:
    """Reads changed files of revoked certificates within seconds, in a thread, and calls ``on_change`` then.

    ``on_problem`` is called with the reason if they can't be used; what was revoked before stays so.
    """

    def __init__(
        self,
        clients: ClientCertificates,
        *,
        on_change: Callable[[], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._clients = clients
        self._on_change = on_change
        self._on_problem = on_problem
        self._task: asyncio.Task[None] | None = None
        self._is_asked = asyncio.Event()

    def start(self) -> None:
        """Follow the files until ``stop``."""
        self._task = asyncio.get_running_loop().create_task(self.follow())

    def stop(self) -> None:
        """Follow them no more."""
        if self._task is not None:
            self._task.cancel()

    def look_soon(self) -> None:
        """Read all files at once, changed or not."""
        self._clients.revocation_files.forget()
        self._is_asked.set()

    async def look(self) -> None:
        """Read the files that have changed."""
        is_read, problems = await asyncio.to_thread(self._clients.read_revocations)
        for problem in problems:
            self._on_problem(f"the revoked certificates can't be read again, so the former ones count: {problem}")
        if is_read:
            self._on_change()

    async def follow(self) -> None:
        """Follow them until this is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._is_asked.wait()
            self._is_asked.clear()
            try:
                await self.look()
            except Exception as error:  # a bug of ours must not end the watch
                with contextlib.suppress(Exception):
                    self._on_problem(f"revoked certificates: {error!r}")
