"""One log line for a version that many clients reject, however many processes serve them.

Each process counts the rejections of its own clients and reports the first ``ALERT_COUNT`` of a version; the process
that logs adds the reports of all processes up. A version is what one response had: names and versions of one type.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

import structlog

from xds.model.types import short_name
from xds.protocol.status import Nacked

ALERT_COUNT = 10
"""Rejections of one version, of all clients, that are reported as one event."""
VERSIONS_MAX = 1_000
RESPONSES_MAX = 100
NAMES_MAX = 20
log = structlog.get_logger("xds")


@dataclass(frozen=True, slots=True)
class Rejected:
    """How often the clients of one process have rejected a version."""

    key: bytes
    group: str
    type_url: str
    names: tuple[str, ...]
    names_count: int
    count: int
    message: str


class Rejections:
    """Counts the rejections in one process, and calls ``report`` for the first ones of each version."""

    def __init__(self, report: Callable[[Rejected], None]) -> None:
        self._report = report
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str, int], tuple[Mapping[str, str], bytes]] = OrderedDict()
        """Keys by the identity of a response's versions, which its clients share; they are held, so that it stays."""

    def take(self, event: Nacked) -> None:
        """Count a rejection."""
        key = self._key(event)
        count = self._counts.get(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > VERSIONS_MAX:
            self._counts.popitem(last=False)
        if count <= ALERT_COUNT:
            names = tuple(islice(event.resources, NAMES_MAX))
            about = (event.group, event.type_url, names, len(event.resources))
            self._report(Rejected(key, *about, count, event.message[:2_000]))

    def _key(self, event: Nacked) -> bytes:
        place = (event.group, event.type_url, id(event.resources))
        known = self._keys.get(place)
        if known is not None:
            return known[1]
        digest = blake2b(f"{event.group}\0{event.type_url}".encode(), digest_size=16)
        for name, version in sorted(event.resources.items()):
            digest.update(f"\0{name}\0{version}".encode())
        self._keys[place] = (event.resources, digest.digest())
        if len(self._keys) > RESPONSES_MAX:
            self._keys.popitem(last=False)
        return digest.digest()


@dataclass(slots=True)
class _Total:
    counts: dict[Hashable, int] = field(default_factory=dict)
    is_logged: bool = False


class RejectionLog:
    """Adds up what the processes report, and logs each version once."""

    def __init__(self) -> None:
        self._totals: OrderedDict[bytes, _Total] = OrderedDict()

    def take(self, process: Hashable, rejected: Rejected) -> None:
        """Take the newest count of a process."""
        total = self._totals.setdefault(rejected.key, _Total())
        if len(self._totals) > VERSIONS_MAX:
            self._totals.popitem(last=False)
        total.counts[process] = rejected.count
        if not total.is_logged and sum(total.counts.values()) >= ALERT_COUNT:
            total.is_logged = True
            log.error(
                "a version is rejected by many clients; it is not sent again until it changes",
                group=rejected.group,
                type=short_name(rejected.type_url),
                resources=list(rejected.names),
                resource_count=rejected.names_count,
                message=rejected.message,
                hint="undo or mend the change: xds history, xds rollback",
            )
