"""``xds serve`` killed at random moments while changes are pushed: what was acknowledged is there, once, in order.

A real Envoy carries requests through all of it. ``XDS_KILLS`` sets how often.
"""

import asyncio
import os
import random
from dataclasses import dataclass, field, replace

import pytest
from support import resources as r
from support.envoy import EnvoyProcess
from support.forms import DELTA_ADS
from support.server import XdsServer
from support.swaps import BACK_OFF_MAX_S, Scene, route_moves, under_load
from support.upstream import Upstreams
from support.waiting import for_a_while

from xds.client import About, Client

pytestmark = pytest.mark.envoy

KILLS = int(os.environ.get("XDS_KILLS", "6"))
WRITERS = 3
ALL_KEPT = ("--set", "store.history_max=1000000")
"""The check reads every change; some hundred are made from one kill to the next."""
PATIENCE_S = 120.0


@dataclass
class Pushed:
    """What a writer was told: the id of each change with its revision, in the order in which it was told."""

    told: list[tuple[str, int]] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)


async def write(writer: int, client: Client, pushed: Pushed, stop: asyncio.Event) -> None:
    """Push pairs of clusters that always belong together, one change after the other, until told to stop."""
    number = 0
    while not stop.is_set():
        number += 1
        change_id = f"w{writer}-{number}"
        pushed.tried.add(change_id)
        pair = [r.static_cluster(f"w{writer}-{half}", 1 + number) for half in ("left", "right")]
        made = await client.apply(upsert=pair, about=About(id=change_id))
        pushed.told.append((change_id, made.revision))


async def check_history(client: Client, pushed: list[Pushed]) -> int:
    """Assert that every change that was told is kept once, whole, at its revision; return how many are kept."""
    revision = await client.revision()
    kept: dict[str, int] = {}
    ports: dict[str, int] = {}
    watch = client.watch(0)
    for expected in range(1, revision + 1):
        event = await asyncio.wait_for(anext(watch), 10)
        assert event.revision.revision == expected, "revisions have no gap"
        change_id = event.revision.id
        assert change_id not in kept, "no change is made twice"
        kept[change_id] = expected
        if change_id.startswith("w"):
            inside = {
                each.set["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"][
                    "port_value"
                ]
                for each in event.operations
                if each.set is not None
            }
            assert len(event.operations) == 2, "a change is whole"
            assert len(inside) == 1, "none is torn"
            writer, port = change_id.partition("-")[0], inside.pop()
            assert port > ports.get(writer, 0), "a writer's changes are in the order in which it made them"
            ports[writer] = port
    await watch.aclose()
    tried = set().union(*(each.tried for each in pushed))
    assert {name for name in kept if name.startswith("w")} <= tried
    for each in pushed:
        for change_id, told in each.told:
            assert kept[change_id] == told, f"{change_id} was acknowledged"
        revisions = [told for _, told in each.told]
        assert revisions == sorted(revisions)
    return len(kept)


@pytest.mark.timeout(60 + 12 * KILLS)
async def test_kill_9_loses_doubles_and_tears_nothing_and_costs_no_request() -> None:
    seed = int(os.environ.get("XDS_TEST_SEED", random.randrange(1 << 30)))
    chance = random.Random(seed)
    form = replace(DELTA_ADS, back_off_max_s=BACK_OFF_MAX_S)
    stop = asyncio.Event()
    pushed = [Pushed() for _ in range(WRITERS)]
    async with Upstreams("a", "b") as upstreams, XdsServer(None, *ALL_KEPT) as server:
        await server.wait_ready()
        scene = Scene(form, upstreams.ports)
        address = f"127.0.0.1:{server.api_port}"
        async with Client(address, patience_s=PATIENCE_S) as client:
            await client.apply(upsert=route_moves(scene, "a"))
            async with EnvoyProcess(form.bootstrap(server.port)) as envoy, under_load(scene, envoy) as traffic:
                writing = [asyncio.create_task(write(number, client, each, stop)) for number, each in enumerate(pushed)]
                for _ in range(KILLS):
                    await for_a_while(chance.uniform(0.2, 1.2), "the kill comes at any moment")
                    server.kill()
                    server.start()
                    await server.wait_ready()
                await for_a_while(0.5, "writers go on after the last start")
                stop.set()
                await asyncio.wait_for(asyncio.gather(*writing), PATIENCE_S)
                report = await traffic.stop()
                count = await check_history(client, pushed)
    told = sum(len(each.told) for each in pushed)
    print(f"seed {seed}: {KILLS} kills, {told} changes acknowledged, {count} kept, {report}")
    assert report.failed == {}, f"seed {seed}: {report.samples}"
    assert told > KILLS
