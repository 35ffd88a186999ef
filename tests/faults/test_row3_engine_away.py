"""etcd away for minutes, and a server that starts meanwhile: row 3 of docs/reliability.md.

etcd is killed, or stopped so that it accepts connections and says nothing. Streams must stay and newcomers be served;
the server must say that it may be behind; a write must fail soon, with the reason; a server that starts now must serve
what it last knew. Once etcd is back, a change made at one server must reach the streams of all.
"""

import signal
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest
from support import resources as r
from support.etcd import Etcd
from support.fault_matrix import Part, count, part, scaled
from support.server import XdsServer
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient
from support.worker_fleet import Fleet

from xds.client import Client, ClientError
from xds.schema.ingest import ingest

AWAY_S = scaled(600.0, 6.0)
STREAMS = count(200, 20)
WRITE_S = 2.0
CAUGHT_UP_S = 5.0


async def _kill(etcd: Etcd) -> None:
    etcd.members[0].kill()


async def _pause(etcd: Etcd) -> None:
    etcd.members[0].signal(signal.SIGSTOP)


async def _again(etcd: Etcd) -> None:
    if etcd.members[0].running:
        etcd.members[0].signal(signal.SIGCONT)
    else:
        etcd.start()
    await etcd.wait_ready()


@pytest.mark.timeout(AWAY_S + 200)
@pytest.mark.parametrize(("name", "leave"), [("killed", _kill), ("silent", _pause)])
async def test_while_etcd_is_away_all_is_served_and_afterwards_all_catches_up(
    name: str, leave: Callable[[Etcd], Awaitable[None]]
) -> None:
    what = f"etcd {name} for {AWAY_S:,.0f} s, with {STREAMS} streams; another server starts meanwhile"
    with part(3, name, what) as found:
        async with Etcd(1) as etcd:
            options = ("--workers", "1", "--store", etcd.url(uuid.uuid4().hex))
            async with XdsServer(None, *options) as one, XdsServer(None, *options) as two:
                for server in (one, two):
                    await server.wait_ready()
                cluster = r.static_cluster("a", 1)
                async with Client(f"127.0.0.1:{one.api_port}", patience_s=0.1) as client:
                    await client.apply(upsert=[cluster])
                    async with Fleet(one.port, STREAMS, r.CLUSTER) as fleet:
                        await fleet.wait_versions({"a": ingest(cluster).version})
                        # Its local copy is at most a second behind.
                        await for_a_while(2.0, "the other server writes its local copy")
                        two.stop()
                        await leave(etcd)
                        await _away(found, client, one, two)
                        await _back(found, etcd, one, two, fleet)


async def _away(found: Part, client: Client, one: XdsServer, two: XdsServer) -> None:
    began = time.monotonic()
    found.at_most("first write fails after", await _refused(found, client, "first write"), WRITE_S, " s")
    await one.wait_metrics(lambda told: told["xds_stale"] == 1, timeout_s=30.0)
    found.at_most("marked as stale after", time.monotonic() - began, 10.0, " s")
    two.start()
    await two.wait_ready(60.0)
    started = time.monotonic()
    for server, name in ((one, "running"), (two, "started meanwhile")):
        async with DeltaClient(server.port, node_id="newcomer") as newcomer:
            await newcomer.subscribe(r.CLUSTER)
            await newcomer.take_until(lambda newcomer=newcomer: newcomer.versions(r.CLUSTER), timeout_s=10.0)
            found.equal(f"what the server {name} serves a newcomer", sorted(newcomer.versions(r.CLUSTER)), ["a"])
        found.equal(f"the server {name} says that it may be behind", (await server.metrics())["xds_stale"], 1.0)
        ready = await server.admin("/readyz")
        found.holds(f"/readyz of the server {name}", "200, but …", ready.text, held=ready.text.startswith("ready, but"))
    await for_a_while(max(0.0, AWAY_S - (time.monotonic() - began)), "etcd stays away")
    assert time.monotonic() > started
    found.at_most("last write fails after", await _refused(found, client, "last write"), WRITE_S, " s")


async def _refused(found: Part, client: Client, which: str) -> float:
    began = time.monotonic()
    told = "it was acknowledged"
    try:
        await client.apply(upsert=[r.static_cluster("refused", 1)])
    except ClientError as error:
        told = str(error)
    found.holds(f"the {which} says why", "names etcd", told, held="etcd" in told)
    return time.monotonic() - began


async def _back(found: Part, etcd: Etcd, one: XdsServer, two: XdsServer, fleet: Fleet) -> None:
    await _again(etcd)
    back = time.monotonic()
    cluster = r.static_cluster("b", 2)
    async with Client(f"127.0.0.1:{two.api_port}", patience_s=30.0) as client:
        await client.apply(upsert=[cluster])
    version = ingest(cluster).version
    # The change whose outcome was not known may turn out to be made: then they are sent it too.
    await wait_until(lambda: {each.versions.get("b") for each in fleet.followers}, equals={version}, timeout_s=30.0)
    for server in (one, two):
        await server.wait_metrics(lambda told: told["xds_stale"] == 0, timeout_s=30.0)
    found.at_most("caught up after", time.monotonic() - back, CAUGHT_UP_S, " s")
    again = [each for follower in fleet.followers for each in follower.repeated]
    found.equal("streams ended", fleet.streams - len(fleet.followers), 0)
    found.equal("resources sent again", again, [])
