"""Watches how much memory is used, and decides what is done about it: slow admission, shedding, refusing changes.

Each process decides for itself. Where the limit is that of the cgroup, all its processes count, so all decide alike;
where it is a setting, each process has its share.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from xds.process.memory import return_holes
from xds.process.memory_readings import Read, Reading, cgroup_reading, process_reading
from xds.transport.admission import Pressure

if TYPE_CHECKING:
    from xds.overload_settings import OverloadSettings

log = structlog.get_logger("xds")
LOOK_EVERY_S = 1.0
EFFECTS = {
    Pressure.NONE: "as usual",
    Pressure.SLOW: "new clients are admitted slowly",
    Pressure.SHED: "new streams are shed",
    Pressure.REFUSE: "new streams are shed, and changes are refused",
}
"""What the server does at each pressure."""


@dataclass(frozen=True, slots=True)
class MemoryState:
    """How short the memory of a process is, and its last reading, if it has one."""

    pressure: Pressure = Pressure.NONE
    reading: Reading | None = None

    @property
    def problem(self) -> str:
        """What is wrong and what is done about it, "" if nothing is."""
        if self.pressure is Pressure.NONE or self.reading is None:
            return ""
        return f"memory is short ({shown(self.reading)}): {EFFECTS[self.pressure]}"


def worst(states: list[MemoryState]) -> MemoryState:
    """Return the state with the highest pressure, and of those the one with the largest share used."""
    return max(states, key=lambda each: (each.pressure, each.reading.ratio if each.reading is not None else 0.0))


def shown(reading: Reading) -> str:
    """Return a reading for people."""
    mib = 1024 * 1024
    text = f"{reading.used_bytes // mib:,} of {reading.limit_bytes // mib:,} MiB, {reading.ratio:.0%}"
    return f"{text}; stalled {reading.stalled:.0%} of the time" if reading.stalled else text


def next_pressure(before: Pressure, reading: Reading, settings: "OverloadSettings") -> Pressure:
    """Return the pressure after a reading: it rises at once, and falls only well below the share where it rose."""
    begins = {
        Pressure.SLOW: settings.slow_ratio,
        Pressure.SHED: settings.shed_ratio,
        Pressure.REFUSE: settings.refuse_ratio,
    }
    risen = max((each for each, share in begins.items() if reading.ratio >= share), default=Pressure.NONE)
    kept = max(
        (each for each, share in begins.items() if each <= before and reading.ratio > share - settings.recovery_ratio),
        default=Pressure.NONE,
    )
    stall_share = settings.stall_ratio / (2 if before else 1)
    stalls = Pressure.SLOW if reading.stalled >= stall_share else Pressure.NONE
    return max(risen, kept, stalls)


def reader(settings: "OverloadSettings", processes: int) -> Read | None:
    """Return how this process reads its memory, None without any limit. ``processes`` share a limit that is set."""
    if settings.memory_bytes_max is not None:
        return process_reading(settings.memory_bytes_max // processes)
    return cgroup_reading()


class MemoryWatch:
    """Reads the memory once a second between ``start`` and ``stop``, and calls ``on_look`` with the state."""

    def __init__(
        self,
        settings: "OverloadSettings",
        read: Read | None,
        on_look: Callable[[MemoryState], None],
        *,
        give_back: Callable[[], None] = return_holes,
    ) -> None:
        self.state = MemoryState()
        self._settings = settings
        self._read = read
        self._on_look = on_look
        self._give_back = give_back
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look now, and then every second."""
        if self._read is not None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.start)  # first, whatever fails below
            self.look()

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Read the memory once."""
        if self._read is None:
            return
        if self.state.pressure:  # what is free inside the heap would else count as used
            self._give_back()
        if (reading := self._read()) is not None:
            self.state = MemoryState(next_pressure(self.state.pressure, reading, self._settings), reading)
        self._on_look(self.state)


class PressureLog:
    """Logs a line for each change of the pressure of the whole server: of its process that is worst off."""

    def __init__(self) -> None:
        self._pressure = Pressure.NONE

    def note(self, state: MemoryState) -> None:
        """Note the server's state; call it as often as you like."""
        if state.pressure is self._pressure or state.reading is None:
            return
        self._pressure = state.pressure
        tell = log.warning if state.pressure else log.info
        event = "memory is short" if state.pressure else "memory is no longer short"
        tell(event, memory=shown(state.reading), now=EFFECTS[state.pressure])
