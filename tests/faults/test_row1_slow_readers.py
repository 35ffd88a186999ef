"""Streams that read slowly or not at all, beside healthy ones: row 1 of docs/reliability.md.

The same streams take turns: in one window all read, in the next one a tenth misbehaves. The ratio of a turn is p99 of
the healthy streams (which never misbehave) with the others over p99 without; that of the run is the median of the
turns. In the end the dead ones stay dead, and must be cut off by the server's own deadline: the interval of its pings,
and the time that it waits for an answer.
"""

import statistics
import time

import pytest
from support.fault_matrix import count, part, scaled
from support.fault_scene import fault_scene
from support.waiting import for_a_while

STREAMS = count(5_000, 300)
SLOW, DEAD = STREAMS * 9 // 100, STREAMS // 100
TURNS = count(5, 2)
WINDOW_S = scaled(6.0, 1.5)
KEEPALIVE = {} if count(1, 0) else {"transport.keepalive_interval_s": 2, "transport.keepalive_timeout_s": 1}
DEADLINE_S = scaled(40.0, 3.0)
SWEEP_S = 5.0
"""The server looks at its connections once a second, a slice at a time."""


@pytest.mark.timeout(900)
async def test_healthy_streams_do_not_wait_for_slow_and_dead_ones() -> None:
    what = f"{STREAMS:,} streams, {SLOW} slow, {DEAD} never read, {TURNS} turns of {WINDOW_S:g} s"
    with part(1, "readers", what) as found:
        unmeasured = SLOW + DEAD
        async with fault_scene(STREAMS, settings=KEEPALIVE, pushes_per_s=scaled(2.0, 8.0), unmeasured=unmeasured) as on:
            await on.window(1.0, on.measured)
            ratios, sizes, lost = [], [], 0
            for _ in range(TURNS):
                await on.crowd.call("act")
                before = await on.window(WINDOW_S, on.measured)
                bytes_before = on.anonymous_bytes()
                await on.crowd.call("act", dead=DEAD, slow=SLOW)
                during = await on.window(WINDOW_S, on.measured)
                sizes.append(on.anonymous_bytes() / bytes_before)
                ratios.append(during.p99_s / before.p99_s)
                lost += before.lost + during.lost
                print(f"p99 {before.p99_s * 1e3:.1f} -> {during.p99_s * 1e3:.1f} ms, memory {sizes[-1]:.3f}")
            found.at_most("p99 of the healthy, times what it was", statistics.median(ratios), 1.2, quiet=True)
            found.at_most("memory, times what it was", max(sizes), 1.15)
            found.equal("pushes that a healthy stream lost", lost, 0)
            await on.crowd.call("act", dead=0)
            await for_a_while(scaled(3.0, 1.0), "those who were slow catch up")
            await on.crowd.call("act", dead=DEAD)
            died = time.monotonic()
            left = STREAMS - DEAD
            await on.server.wait_metrics(lambda told: told["xds_streams"] <= left, timeout_s=DEADLINE_S + 60)
            found.at_most("dead ones cut after", time.monotonic() - died, DEADLINE_S + SWEEP_S, " s")
            state = await on.seen(skip=DEAD)
            found.equal("other streams that ended", left - state["open"], 0)
