"""Triggers a change at the server, by HTTP or by a command, and waits until it is done."""

import asyncio
import os
import signal
import time
from typing import Protocol
from urllib.parse import urlsplit

HEAD_BYTES_MAX = 16_384


class TriggerError(Exception):
    """A push could not be triggered. The text says what was tried and how it failed."""


class Trigger(Protocol):
    """Triggers a push."""

    async def prepare(self) -> None:
        """Do the work that is not measured. Raises TriggerError."""

    async def pull(self) -> int:
        """Trigger a push and wait for its confirmation; return the time of its start (CLOCK_MONOTONIC, ns)."""


class HttpTrigger:
    """Sends a GET request; connecting is not measured."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        parts = urlsplit(url)
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port:
            raise ValueError(f"{url!r} is not a URL to GET; write http://HOST:PORT/PATH")
        self._address = (parts.hostname, port)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def prepare(self) -> None:
        """Connect. Raises TriggerError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                self._streams = await asyncio.open_connection(*self._address)
        except (OSError, TimeoutError) as error:
            raise TriggerError(f"the trigger {self._url} can't be reached: {_cause(error)}") from None

    async def pull(self) -> int:
        """Send the request and wait for its answer. Raises TriggerError unless its status is 2xx."""
        assert self._streams is not None, "prepared"
        reader, writer = self._streams
        self._streams = None
        started_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(self._request)
                status = (await reader.readline()).decode(errors="replace").strip()
                while await reader.read(HEAD_BYTES_MAX):
                    pass
        except (OSError, ValueError, TimeoutError) as error:
            raise TriggerError(f"the trigger {self._url} did not answer: {_cause(error)}") from None
        finally:
            writer.close()
        if not status.partition(" ")[2].startswith("2"):
            raise TriggerError(f"the trigger {self._url} answered {status!r}; a 2xx was expected")
        return started_ns


class CommandTrigger:
    """Runs a shell command; its start is measured too, as it can't be separated."""

    def __init__(self, command: str, *, timeout_s: float) -> None:
        self._command, self._timeout_s = command, timeout_s

    async def prepare(self) -> None:
        """Nothing to prepare."""

    async def pull(self) -> int:
        """Run the command until it ends. Raises TriggerError unless it exits with 0."""
        started_ns = time.monotonic_ns()
        process = await asyncio.create_subprocess_shell(
            self._command,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                _, errors = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it started
            await process.wait()
            raise TriggerError(f"the trigger {self._command!r} took longer than {self._timeout_s:g} s") from None
        if process.returncode:
            said = errors.decode(errors="replace").strip()[-500:]
            raise TriggerError(f"the trigger {self._command!r} failed with exit code {process.returncode}: {said}")
        return started_ns


def trigger_of(url: str | None, command: str | None, *, timeout_s: float) -> Trigger | None:
    """Return the trigger of the options, None without any. Raises ValueError for an invalid URL."""
    if url is not None:
        return HttpTrigger(url, timeout_s=timeout_s)
    return None if command is None else CommandTrigger(command, timeout_s=timeout_s)


def _cause(error: Exception) -> str:
    return "timed out" if isinstance(error, TimeoutError) else str(error)
