"""A child process that begins with the signals blocked that would end it before it has set up anything.

uvloop's own children begin with no signal blocked (libuv resets the mask), and so die of a SIGHUP in their first half
second. ``subprocess`` keeps the mask; the end is told by a pidfd.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence

from xds.signals import held


class Process:
    """Get one from ``start``."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        try:
            self._pidfd = os.pidfd_open(child.pid)
        except (AttributeError, OSError):  # not Linux, or no descriptor is left: a thread waits
            self._loop.run_in_executor(None, child.wait).add_done_callback(lambda _: self._tell())
        else:
            self._loop.add_reader(self._pidfd, self._on_end)

    @classmethod
    def start(cls, argv: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str]) -> "Process":
        """Start a process in a process group of its own, without input. It has to unblock signals. Raises OSError."""
        with held():
            child = subprocess.Popen(  # noqa: S603 - our own program
                argv, pass_fds=pass_fds, env=env, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return cls(child)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def kill(self) -> None:
        """End it now; nothing is done where it has ended."""
        self._child.kill()

    async def wait(self) -> int:
        """Return its exit code once it has ended; negative: the signal."""
        return await asyncio.shield(self._code)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._tell()

    def _tell(self) -> None:
        if not self._code.done():
            self._code.set_result(self._child.wait())
