"""How the server's own certificate files stand: whether they can be used, and when they expire.

One process looks at them for all. The processes that serve reload them by themselves, except for the admin port's.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xds.config import Settings, api_tls_files, tls_files
from xds.reporting.events import log_expiry
from xds.transport.certificate_expiry import CertificateFiles, Expiry
from xds.transport.certificates import why_unusable
from xds.transport.tls import Stamp, TlsFiles

LOOK_EVERY_S = 10.0
LOG_EVERY_S = 86_400.0
"""How often an expiry that is near is logged again."""


class CertificateStatus:
    """Follows the TLS files of all ports.

    ``on_api_change`` is called when those of the push API have changed; if it returns false, again at the next look.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_api_change: Callable[[], bool] = lambda: True,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        xds, api = tls_files(settings), api_tls_files(settings)
        self._ports: dict[str, TlsFiles] = {}
        if xds is not None:
            self._ports["xDS"] = xds
        if api is not None:
            self._ports["push API"] = api
        certificates: list[Path] = []
        for files in self._ports.values():
            certificates += [files.cert, *files.authorities]
        self._files = CertificateFiles(certificates, settings.tls.crls)
        self._warn_before_s = settings.tls.warn_before_s
        self._on_api_change = on_api_change
        self._api_is_due = False
        self._wall_clock = wall_clock
        self._stamps: dict[str, tuple[Stamp, Stamp]] = {}
        self._unusable: dict[str, str] = {}
        """Why the files of each port can't be used, "" if they can be."""
        self._logged_at: dict[tuple[str, str], float] = {}
        self.expiries: tuple[Expiry, ...] = ()
        """When each certificate and revocation list of the files expires."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Iterate over the files that can't be used, and the certificates that expire soon: for anyone, and in full."""
        for port, why in self._unusable.items():
            if why:
                what = f"the TLS files of the {port} port can't be used, so the former ones are"
                yield what, f"{what}: {why}"
        now = self._wall_clock()
        for expiry in self.expiries:
            if problem := expiry.problem(now, self._warn_before_s):
                yield "certificates or revocation lists have expired, or expire soon", problem

    async def follow(self) -> None:
        """Look at the files every few seconds, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look at the files once, in a thread, and log what expires soon."""
        changed = await asyncio.to_thread(self._look)
        if "push API" in changed or self._api_is_due:
            self._api_is_due = not self._on_api_change()
        now = self._wall_clock()
        logged_at, self._logged_at = self._logged_at, {}
        for expiry in self.expiries:
            if not (problem := expiry.problem(now, self._warn_before_s)):
                continue
            key = expiry.file, expiry.subject
            at = logged_at.get(key)
            if at is None or now - at >= LOG_EVERY_S:
                log_expiry(problem)
                at = now
            self._logged_at[key] = at

    def _look(self) -> set[str]:
        """Read what has changed or could not be used; return the ports whose TLS files are to be reloaded."""
        changed = set()
        unusable = dict(self._unusable)  # a new one: the event loop may read the former meanwhile
        for port, files in self._ports.items():
            now = files.stamp_now(), files.revocations_stamp_now()
            before = self._stamps.get(port)
            if now == before and not unusable.get(port):
                continue
            was_unusable = bool(unusable.get(port))
            self._stamps[port] = now
            unusable[port] = why_unusable(files)
            if before is not None and (now[0] != before[0] or (was_unusable and not unusable[port])):
                changed.add(port)
        self._unusable, self.expiries = unusable, self._files.look()
        return changed
