"""What is decided about short memory, with injected readings."""

import asyncio
from collections.abc import Iterator

from structlog.testing import capture_logs

from xds.overload_settings import OverloadSettings
from xds.process.memory_readings import Reading
from xds.serving.memory_watch import MemoryState, MemoryWatch, PressureLog, next_pressure, worst
from xds.transport.admission import Pressure

NONE, SLOW, SHED, REFUSE = Pressure
SETTINGS = OverloadSettings()
MIB = 1024 * 1024


def reading(percent: float, stalled: float = 0.0) -> Reading:
    return Reading(int(percent * MIB), 100 * MIB, stalled)


def pressures(percents: list[float]) -> Iterator[Pressure]:
    before = NONE
    for percent in percents:
        before = next_pressure(before, reading(percent), SETTINGS)
        yield before


def test_pressure_rises_at_once_and_falls_only_well_below_where_it_rose():
    percents = [10, 79, 80, 79, 76, 74, 91, 86, 85, 84, 96, 91, 89, 86, 84, 74]
    assert list(pressures(percents)) == [
        *(NONE, NONE, SLOW, SLOW, SLOW, NONE),
        *(SHED, SHED, SLOW, SLOW),
        *(REFUSE, REFUSE, SHED, SHED, SLOW, NONE),
    ]


def test_a_reading_that_swings_around_a_share_does_not_swing_the_pressure():
    assert set(pressures([90, 89, 91, 88, 90, 87, 92, 86] * 10)) == {SHED}


def test_stalls_slow_the_admission_whatever_the_share_and_nothing_more():
    assert next_pressure(NONE, reading(10, stalled=0.19), SETTINGS) is NONE
    assert next_pressure(NONE, reading(10, stalled=0.2), SETTINGS) is SLOW
    assert next_pressure(SLOW, reading(10, stalled=0.11), SETTINGS) is SLOW
    assert next_pressure(SLOW, reading(10, stalled=0.09), SETTINGS) is NONE
    assert next_pressure(NONE, reading(96, stalled=0.9), SETTINGS) is REFUSE


def test_the_server_is_as_badly_off_as_the_worst_of_its_processes():
    calm, short = MemoryState(NONE, reading(10)), MemoryState(SHED, reading(91))
    assert worst([calm, short, MemoryState()]) is short
    assert worst([MemoryState(), calm]) is calm


def test_each_change_is_logged_once_and_says_what_is_done():
    log = PressureLog()
    with capture_logs() as logged:
        for state in (NONE, SLOW, SLOW, SHED, SHED, NONE, NONE):
            log.note(MemoryState(state, reading(80 + 10 * (state is SHED))))
    assert [(line["event"], line["log_level"], line["now"]) for line in logged] == [
        ("memory is short", "warning", "new clients are admitted slowly"),
        ("memory is short", "warning", "new streams are shed"),
        ("memory is no longer short", "info", "as usual"),
    ]
    assert logged[1]["memory"] == "90 of 100 MiB, 90%"


async def test_free_memory_inside_the_heap_is_given_back_before_a_reading_counts():
    """Without it a process whose clients have left would shed new ones for ever."""
    percents, given = [91.0, 91.0], []

    def give_back() -> None:
        given.append(True)
        percents[:] = [10.0]

    watch = MemoryWatch(SETTINGS, lambda: reading(percents[-1]), lambda _state: None, give_back=give_back)
    watch.look()
    assert (watch.state.pressure, given) == (SHED, [])
    watch.look()
    assert (watch.state.pressure, given) == (NONE, [True])


async def test_a_reading_that_can_not_be_had_leaves_the_state():
    found: list[Reading | None] = [reading(91), None]
    watch = MemoryWatch(SETTINGS, lambda: found.pop(0), lambda _state: None, give_back=lambda: None)
    for _ in range(2):
        watch.look()
    assert watch.state == MemoryState(SHED, reading(91))


async def test_without_a_limit_nothing_is_watched():
    watch = MemoryWatch(SETTINGS, None, lambda _state: None)
    before = len(asyncio.all_tasks())
    watch.start()
    watch.stop()
    assert (watch.state, len(asyncio.all_tasks())) == (MemoryState(), before)
