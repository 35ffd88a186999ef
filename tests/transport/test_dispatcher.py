"""The dispatcher on uvloop, where timers are not asyncio's own."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import uvloop
from support.waiting import turns, wait_until

from xds.protocol.policy import Variant
from xds.protocol.sessions import Stream
from xds.transport.dispatcher import SLICE, Dispatcher


def test_a_deadline_of_this_very_moment_is_no_fault():
    """uvloop's ``call_at`` gives a handle without ``when`` for what is due already."""
    ticks: list[float] = []

    async def poll_twice() -> None:
        loop = asyncio.get_running_loop()
        hub: Any = SimpleNamespace(
            next_tick=loop.time(), has_work=False, poll=lambda *_: None, take_ready=list, take_events=list, tick=None
        )

        def tick(now: float) -> None:
            ticks.append(now)
            hub.next_tick = float("inf")

        hub.tick = tick
        dispatcher = Dispatcher(hub, on_event=lambda _: None, on_fault=lambda _: None)
        stream: Any = None
        for _ in range(2):
            assert dispatcher.poll(stream) is None
        await wait_until(lambda: ticks, poll_s=0)
        dispatcher.stop()

    uvloop.run(poll_twice())
    assert len(ticks) == 1


def burn(seconds: float) -> None:
    """Work for so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def fanning_out(count: int, *, each_s: float) -> tuple[Dispatcher, list[int]]:
    """Return a dispatcher with streams that a change concerns, and a list whose only number is how many were told."""
    streams = [Stream(Variant.DELTA, "", "") for _ in range(count)]
    unopened = list(streams)
    hub: Any = SimpleNamespace(
        next_tick=float("inf"),
        has_work=False,
        open=lambda *_, **__: unopened.pop(),
        publish=lambda _: None,
        advance_clock=lambda _: None,
        take_ready=lambda: streams,
        take_events=list,
    )
    told = [0]

    def send_cohort(*_: object) -> bool:
        told[0] += 1
        burn(each_s)
        return True

    dispatcher = Dispatcher(hub, on_event=lambda _: None, on_fault=lambda _: None)
    sink: Any = SimpleNamespace(send_cohort=send_cohort)
    for _ in streams:
        dispatcher.open(Variant.DELTA, sink)
    return dispatcher, told


async def test_a_big_fan_out_lets_the_loop_do_other_things_between_its_slices():
    dispatcher, told = fanning_out(2 * SLICE + 1, each_s=100e-6)
    change: Any = None
    dispatcher.publish(change)
    so_far = []
    for _ in range(4):
        so_far.append(told[0])
        await turns()
    assert so_far == [SLICE, 2 * SLICE, 2 * SLICE + 1, 2 * SLICE + 1]
    dispatcher.stop()


async def test_a_slice_lasts_as_long_as_the_loop_was_busy_with_other_things_since_the_one_before():
    dispatcher, told = fanning_out(20 * SLICE, each_s=10e-6)
    change: Any = None
    dispatcher.publish(change)
    assert told == [SLICE]
    burn(0.2)  # far longer than it takes to tell all of them
    await turns()
    assert told == [20 * SLICE]
    dispatcher.stop()
