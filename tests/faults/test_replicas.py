"""Two replicas on one etcd behind an Envoy: one is killed, and its streams go on at the other with what they have.

``XDS_REPLICA_STREAMS`` sets how many streams there are; ``make faults`` has 2,000.
"""

import os
import time
from typing import Any

import pytest
from support import resources as r
from support.bootstrap import ANY_ADMIN
from support.envoy import EnvoyProcess
from support.etcd import Etcd
from support.ports import free_port
from support.server import XdsServer
from support.waiting import wait_until
from support.worker_fleet import Fleet

from xds.client import Client

STREAMS = int(os.environ.get("XDS_REPLICA_STREAMS", "200"))
MOVED_S = 5.0


def balancer(port: int, ports: list[int]) -> EnvoyProcess:
    """Return an Envoy in front of the replicas, which tries another where one refuses."""
    listener, cluster = r.tcp_listener("xds", port, "xds"), r.static_cluster("xds", *ports)
    listener["filter_chains"][0]["filters"][0]["typed_config"]["max_connect_attempts"] = 10
    cluster["circuit_breakers"] = {"thresholds": [{"max_connections": 10_000}]}
    for each in (listener, cluster):
        del each["@type"]
    return EnvoyProcess({"admin": ANY_ADMIN, "static_resources": {"listeners": [listener], "clusters": [cluster]}})


async def streams_of(server: XdsServer) -> int:
    return int((await server.metrics())["xds_streams"])


def lacking(fleet: Fleet, count: int) -> list[tuple[str, int]]:
    """Return who has another number of clusters, and how many."""
    return [(each.node_id, len(each.versions)) for each in fleet.followers if len(each.versions) != count]


async def snapshot(server: XdsServer) -> Any:
    return (await server.admin("/v1/groups/default/snapshot")).json()


@pytest.mark.timeout(300)
async def test_a_replica_that_is_killed_costs_its_streams_a_reconnect_and_nothing_else() -> None:
    async with Etcd() as etcd:
        options = ("--store", etcd.url())
        async with XdsServer(None, *options) as one, XdsServer(None, *options) as two:
            await one.wait_ready()
            await two.wait_ready()
            async with Client(f"127.0.0.1:{one.api_port}") as client:
                await client.apply(upsert=[r.static_cluster(f"c{number}", 1) for number in range(50)])
            await wait_until(lambda: snapshot(two), equals=await snapshot(one))  # it follows as soon as it hears of it
            front = free_port()
            async with balancer(front, [one.port, two.port]) as envoy, Fleet(front, STREAMS, r.CLUSTER) as fleet:
                await envoy.wait_live()
                await wait_until(lambda: lacking(fleet, 50), equals=[], timeout_s=120, poll_s=0.05)
                had = await streams_of(one)
                assert had > STREAMS // 4, "both have some"
                one.kill()
                killed = time.monotonic()
                await wait_until(lambda: streams_of(two), lambda count: count >= STREAMS, timeout_s=60, poll_s=0.02)
                moved_s = time.monotonic() - killed
                async with Client(f"127.0.0.1:{two.api_port}") as client:
                    await client.apply(upsert=[r.static_cluster("new", 1)])
                await wait_until(lambda: lacking(fleet, 51), equals=[], poll_s=0.05)
                repeated = [each for follower in fleet.followers for each in follower.repeated]
    print(f"{had} of {STREAMS} streams went on at the other replica after {moved_s:.2f} s, {len(repeated)} sent again")
    assert repeated == []
    assert moved_s <= MOVED_S
