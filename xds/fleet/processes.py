"""Measures CPU time and memory of a server's processes and their descendants, on Linux."""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PROCESS_CLOCK = 2
"""The kind of CPU clock of another process (CPUCLOCK_SCHED): in nanoseconds, including ended threads."""


class ProcessGoneError(Exception):
    """A process to be measured does not run, or may not be read."""


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU time, user and system: of the named processes, and of their descendants (a server's workers)."""

    named_s: float
    below_s: float

    @property
    def total_s(self) -> float:
        """The sum of both."""
        return self.named_s + self.below_s

    def each_us(self, before: "CpuUse", count: int) -> tuple[float, float]:
        """Return the CPU time since ``before`` divided by ``count``, in µs: in all, and the descendants' part of it."""
        scale = 1e6 / count
        return round((self.total_s - before.total_s) * scale, 3), round((self.below_s - before.below_s) * scale, 3)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The proportional set size, which counts shared pages once in all, and the part that is not mapped from files.

    Use the second to measure growth: the first also changes when unrelated processes map the same libraries.
    """

    pss_bytes: int
    own_bytes: int


class ProcessTree:
    """Some processes and all their descendants at the time of each call.

    The CPU time of ended descendants is counted once their parents have reaped them.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = tuple(pids)
        for pid in self.pids:
            if not (_PROC / str(pid)).exists():
                raise ProcessGoneError(f"there is no process {pid}")

    def living(self) -> list[int]:
        """Return the pids that run now. Raises ProcessGoneError if a named one does not."""
        below: dict[int, list[int]] = {}
        for entry in _PROC.iterdir():
            if entry.name.isdecimal() and (stat := _stat(int(entry.name))) is not None:
                below.setdefault(int(stat[1]), []).append(int(entry.name))
        for pid in self.pids:
            if _stat(pid) is None:
                raise ProcessGoneError(f"the server's process {pid} has ended")
        found: dict[int, None] = {}
        todo = list(self.pids)
        while todo:
            pid = todo.pop()
            if pid not in found:
                found[pid] = None
                todo += below.get(pid, [])
        return list(found)

    def cpu(self) -> CpuUse:
        """Return the CPU time used so far, by running and ended processes. Raises ProcessGoneError."""
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        named_s = below_s = 0.0
        for pid in self.living():
            stat = _stat(pid)
            if stat is not None:
                own_s = _own_cpu_s(pid, stat, tick_s)
                if pid in self.pids:
                    named_s += own_s
                else:
                    below_s += own_s
                below_s += (int(stat[13]) + int(stat[14])) * tick_s
        return CpuUse(named_s, below_s)

    def cpu_s(self) -> float:
        """Return the total of ``cpu``. Raises ProcessGoneError."""
        return self.cpu().total_s

    def memory(self) -> MemoryUse:
        """Return the memory used now. Raises ProcessGoneError."""
        pss_bytes = own_bytes = 0
        for pid in self.living():
            try:
                text = (_PROC / str(pid) / "smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            except PermissionError:
                raise ProcessGoneError(f"the memory of process {pid} may not be read by this user") from None
            found = dict(re.findall(r"^(Pss\w*): +(\d+) kB$", text, re.MULTILINE))
            pss_bytes += int(found["Pss"]) << 10
            own_bytes += int(found["Pss"]) - int(found.get("Pss_File", 0)) << 10
        return MemoryUse(pss_bytes, own_bytes)


def _own_cpu_s(pid: int, stat: list[str], tick_s: float) -> float:
    try:
        return time.clock_gettime_ns(~pid << 3 | _PROCESS_CLOCK) / 1e9
    except OSError:  # ended, but not reaped yet
        return (int(stat[11]) + int(stat[12])) * tick_s


def _stat(pid: int) -> list[str] | None:
    """Return the fields after the command's name in /proc/PID/stat: state, parent, ... (proc(5), from field 3 on)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
