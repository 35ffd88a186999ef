"""Envoys at a server past its capacity, or that moves their connections: they return by themselves and lose nothing."""

from dataclasses import replace

import pytest
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, DELTA_PER_TYPE, SOTW_ADS
from support.server import XdsServer
from support.traffic import Traffic
from support.upstream import Upstreams
from support.waiting import wait_until
from support.wire import DeltaClient

from tests.envoy.test_restart import BACK_OFF_MAX_S, TYPES
from tests.serving.test_overload import limit_hits

pytestmark = pytest.mark.envoy
NATIVE = {"transport.kind": "native", "transport.workers": 0}


async def test_an_envoy_that_was_shed_is_served_as_soon_as_there_is_room(tmp_path):
    form = replace(DELTA_ADS, back_off_max_s=BACK_OFF_MAX_S)
    async with Upstreams("a") as upstreams:
        r.write_directory(tmp_path, r.path_through(port=0, upstream_port=upstreams.ports["a"], source=form.source))
        async with XdsServer(tmp_path, settings=NATIVE | {"transport.streams_max": 1}) as server:
            await server.wait_ready()
            async with DeltaClient(server.port) as first:
                await first.subscribe(r.CLUSTER)
                await first.take()
                async with EnvoyProcess(form.bootstrap(server.port)) as envoy:
                    await wait_until(lambda: limit_hits(server), lambda hits: hits.get("streams", 0) >= 3)
                    assert (await server.metrics())["xds_streams"] == 1
                    await first.close()
                    await envoy.wait_live()
                    assert (await fetch(await envoy.listener_port("l1"))).text == "a"


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE], ids=str)
async def test_envoys_whose_connections_age_lose_no_request_and_are_sent_nothing_twice(form, tmp_path):
    form = replace(form, back_off_max_s=BACK_OFF_MAX_S)
    times = 3
    async with Upstreams("a") as upstreams:
        r.write_directory(tmp_path, r.path_through(port=0, upstream_port=upstreams.ports["a"], source=form.source))
        async with XdsServer(tmp_path, settings=NATIVE | {"connections.age_max_s": 1.5}) as server:
            await server.wait_ready()
            async with EnvoyProcess(form.bootstrap(server.port)) as envoy:
                await envoy.wait_live()
                async with Traffic(await envoy.listener_port("l1"), rate=500) as traffic:
                    await wait_until(lambda: limit_hits(server), lambda hits: hits.get("age", 0) >= times, timeout_s=30)
                    streams = TYPES if form.per_type else 1
                    await server.wait_metrics(lambda said: said["xds_streams"] == streams)
                    report = await traffic.stop()
                assert report.failed == {}, report.samples
                metrics = await server.wait_metrics(server.is_quiet)
                assert metrics["xds_resources_sent_total"] == TYPES
                assert metrics["xds_streams_opened_total"] >= (times + 1) * streams
                assert await envoy.nacks() == 0
