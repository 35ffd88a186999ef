"""Keeps the keys of an issuer up to date: from a file, which is followed, or from a URL, which is fetched now and then.

What can't be read or used leaves the former keys in force, and is reported. Everything happens in one background task;
``want_newer`` only wakes it, and it reads at most once in ``interval_min_s``, whatever clients send.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from xds.identity.fetch import FetchError, Source, fetch
from xds.identity.issuers import Issuer
from xds.identity.keys import JWKS_BYTES_MAX, JwksError, KeySet, read_jwks

FILE_INTERVAL_S = 2.0
INTERVAL_MIN_S = 10.0
"""The shortest time between two fetches of a URL: a token with an unknown key asks for one."""
JITTER = 0.1
Read = Callable[[], Awaitable[bytes]]
"""Returns the bytes of the key set. Raises FetchError or OSError."""


class KeySource:
    """The keys of one issuer. ``on_problem`` is called with the reason whenever they can't be read or used.

    ``on_read`` is called with keys that have changed.
    """

    def __init__(
        self,
        read: Read,
        *,
        interval_s: float,
        interval_min_s: float,
        on_problem: Callable[[str], None],
        on_read: Callable[[KeySet], None] = lambda keys: None,
    ) -> None:
        self.current: KeySet | None = None
        self.read_at: float | None = None
        """When the keys were last read; on the monotonic clock."""
        self.problem = ""
        """Why they could not be read or used the last time, "" if they could."""
        self._read = read
        self._interval_s = interval_s
        self._interval_min_s = interval_min_s
        self._on_problem = on_problem
        self._on_read = on_read
        self._wanted = asyncio.Event()
        self._last = b""

    def want_newer(self) -> None:
        """Have the keys read again soon."""
        self._wanted.set()

    async def refresh(self) -> bool:
        """Read the keys now; return whether that went well."""
        try:
            data = await self._read()
            if data != self._last:
                keys = await asyncio.to_thread(read_jwks, data)
                self.current, self._last = keys, data
                self._on_read(keys)
        except (FetchError, JwksError) as error:
            return self._failed(str(error))
        except OSError as error:
            return self._failed(f"it can't be read: {error.strerror or error}")
        self.problem = ""
        self.read_at = time.monotonic()
        return True

    def _failed(self, problem: str) -> bool:
        self.problem = problem
        self._on_problem(problem)
        return False

    async def follow(self) -> None:
        """Read the keys again and again, until cancelled."""
        well = self.read_at is not None
        while True:
            # After a failure the next attempt comes sooner. The jitter keeps workers from fetching together.
            pause_s = self._interval_s if well else min(self._interval_min_s, self._interval_s)
            pause_s *= 1 + random.uniform(-JITTER, JITTER)  # noqa: S311 - spreads load, keeps no secret
            began_at = time.monotonic()
            self._wanted.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()
                await asyncio.sleep(max(0.0, began_at + self._interval_min_s - time.monotonic()))
            except TimeoutError:
                pass
            well = await self.refresh()


def keys_of(
    issuer: Issuer,
    *,
    interval_s: float,
    timeout_s: float,
    on_problem: Callable[[str], None],
    on_read: Callable[[KeySet], None] = lambda keys: None,
    file_interval_s: float = FILE_INTERVAL_S,
    interval_min_s: float | None = None,
) -> KeySource:
    """Return the source of an issuer's keys; fetches are at least ``interval_min_s`` apart, else ``INTERVAL_MIN_S``."""
    if interval_min_s is None:
        interval_min_s = INTERVAL_MIN_S
    if issuer.jwks_file is not None:
        path = issuer.jwks_file
        return KeySource(
            lambda: asyncio.to_thread(_read_file, path),
            interval_s=file_interval_s,
            interval_min_s=min(1.0, file_interval_s),
            on_problem=on_problem,
            on_read=on_read,
        )
    source = Source(
        url=issuer.jwks_url,
        ca=issuer.jwks_ca,
        token_file=issuer.jwks_token_file,
        bytes_max=JWKS_BYTES_MAX,
        timeout_s=timeout_s,
    )
    return KeySource(
        lambda: fetch(source),
        interval_s=max(interval_s, interval_min_s),
        interval_min_s=interval_min_s,
        on_problem=on_problem,
        on_read=on_read,
    )


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(JWKS_BYTES_MAX + 1)
