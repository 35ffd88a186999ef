"""A version that every Envoy of a fleet rejects at once: row 5 of docs/reliability.md.

A cluster is pushed that most streams reject, one by one. It must not be sent to them again, whatever else changes;
other changes must reach all streams; the server must be idle again soon; and the log must have one line that names it.
"""

import time

import pytest
from support import resources as r
from support.fault_matrix import count, part, scaled
from support.fault_scene import fault_scene
from support.waiting import wait_until

REJECTING = count(5_000, 300)
OTHERS = count(500, 30)
IDLE_SHARE = 0.1
"""Of a core, for the server, both workers, and their checks of each second."""
ALERT = "a version is rejected by many clients; it is not sent again until it changes"


@pytest.mark.timeout(600)
async def test_a_version_that_a_whole_fleet_rejects_is_sent_once_and_costs_nothing_more() -> None:
    with part(5, "nacks", f"{REJECTING:,} streams reject a cluster that {OTHERS} others take") as found:
        streams = REJECTING + OTHERS
        async with fault_scene(streams, pushes_per_s=scaled(2.0, 8.0)) as on:
            idle_before = await on.cpu_share(2.0)
            await on.crowd.call("reject", prefix="bad", count=REJECTING)
            await on.crowd.call("forget_losses")
            await on.client.apply(upsert=[r.static_cluster("bad", 1)])
            await on.wait_seen(lambda seen: seen["nacks"] >= REJECTING, timeout_s=60.0)
            stormed = time.monotonic()
            while (share := await on.cpu_share()) > idle_before + IDLE_SHARE and time.monotonic() < stormed + 60:
                pass
            found.at_most("idle again after", time.monotonic() - stormed, 5.0, " s", quiet=True)
            found.note(f"The server's CPU before was {idle_before:.0%} of a core, and after the storm {share:.0%}.")
            window = await on.window(scaled(5.0, 1.0), streams)
            found.equal("endpoint changes that a stream lost", window.lost, 0)
            await on.client.apply(upsert=[r.static_cluster("good", 1)])
            await on.wait_seen(lambda seen: seen["nacks"] >= REJECTING, timeout_s=10.0)
            states = await wait_until(on.states, lambda told: len(told["states"]) <= 2, timeout_s=60.0, poll_s=0.2)
            seen = await on.seen()
            found.equal("times that a rejected version was sent again", seen["resent"], 0)
            found.equal("resources sent again to those who have them", seen["again"], 0)
            found.equal("responses rejected", seen["nacks"], REJECTING)
            found.equal("streams ended", seen["losses"], 0)
            found.equal("states that are left: those who took it, and those who did not", len(states["states"]), 2)
            alerts = on.server.events(ALERT)
            named = [each["resources"] for each in alerts]
            found.equal("log lines that name the rejected version", named, [["bad"]])
            found.at_most("log lines of single rejections", len(on.server.events("nack")), 22)
