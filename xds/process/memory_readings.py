"""Readings of how much memory is used, of how much there may be: from the cgroup (v2 or v1), or from the process.

The kernel kills a process of a cgroup when all of it needs more than its limit, so the cgroup's reading is for all of
its processes together. Pages of files that can be dropped at once (``inactive_file``) do not count.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xds.process.memory import resident_bytes

NO_LIMIT_BYTES = 2**60
"""cgroup v1 has no word for "no limit": it shows the largest multiple of a page."""


@dataclass(frozen=True, slots=True)
class Reading:
    """``used_bytes`` of ``limit_bytes``; ``stalled`` is the share of time lost for want of memory (PSI, 0 without)."""

    used_bytes: int
    limit_bytes: int
    stalled: float = 0.0

    @property
    def ratio(self) -> float:
        """The share that is used."""
        return self.used_bytes / self.limit_bytes


Read = Callable[[], Reading | None]
"""Returns a reading, or None if none can be had at present."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The names of a cgroup version's files, and the key of ``memory.stat`` that counts pages that can be dropped."""

    limit: str
    used: str
    droppable: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def process_reading(limit_bytes: int) -> Read:
    """Return readings of this process against its own limit."""
    return lambda: Reading(resident_bytes(), limit_bytes)


def cgroup_reading(root: Path = Path("/")) -> Read | None:
    """Return readings of the cgroup of this process with the least limit, None if none of them has a limit.

    ``root`` has ``proc/self/cgroup`` and ``sys/fs/cgroup``. The limit is read each time, as it may be changed.
    """
    found = [(limit, place, files) for place, files in _places(root) if (limit := _limit(place, files)) is not None]
    if not found:
        return None
    _, place, files = min(found, key=lambda each: each[0])
    return lambda: _read(place, files)


def _places(root: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the folders of this process's cgroup and of those around it, as far as they are visible."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files, base = _V2, mounted
        elif "memory" in controllers.split(","):
            files, base = _V1, mounted / "memory"
        else:
            continue
        place = base / path.lstrip("/")  # in a container it may not be visible: its own cgroup is then the mount
        while place != base:
            yield place, files
            place = place.parent
        yield base, files


def _limit(place: Path, files: _Files) -> int | None:
    number = _number(place / files.limit)
    return None if number is None or number >= NO_LIMIT_BYTES else number


def _read(place: Path, files: _Files) -> Reading | None:
    limit, used = _limit(place, files), _number(place / files.used)
    if not limit or used is None:
        return None
    return Reading(max(0, used - _droppable(place / "memory.stat", files.droppable)), limit, _stalled(place))


def _number(path: Path) -> int | None:
    """Return the number in a file, None if there is no such file or it says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _droppable(path: Path, key: str) -> int:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def _stalled(place: Path) -> float:
    """Return the share of the last ten seconds in which all tasks waited for memory (``memory.pressure``)."""
    try:
        for line in (place / "memory.pressure").read_text().splitlines():
            kind, *fields = line.split()
            values = dict(field.split("=", 1) for field in fields)
            if kind == "full":
                return float(values["avg10"]) / 100
    except (OSError, ValueError, KeyError):
        pass
    return 0.0
