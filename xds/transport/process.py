"""A child process that starts with those signals blocked that would end it before it has set up its handlers.

uvloop's own children start with no signal blocked (libuv resets the mask), so a SIGHUP in their first half second kills
them. ``subprocess`` keeps the mask; a pidfd reports the end.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence

from xds.process.signals import held


class Process:
    """A child process; made by ``start``."""

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
        """Start a process in its own process group, without input. The child must unblock signals. Raises OSError."""
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
        """Kill it, unless it has ended."""
        self._child.kill()

    async def wait(self) -> int:
        """Wait for its end and return the exit code; negative: the signal."""
        return await asyncio.shield(self._code)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._tell()

    def _tell(self) -> None:
        if not self._code.done():
            self._code.set_result(self._child.wait())
