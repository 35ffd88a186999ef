"""`xds serve DIR --workers 2` with real Envoys: killed workers cost no request, and edits go on being served."""

import os
import signal
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, SOTW_ADS
from support.running import children_of, runs
from support.server import XdsServer
from support.traffic import Traffic
from support.upstream import Upstreams
from support.waiting import wait_until
from support.worker_fleet import shares

pytestmark = pytest.mark.envoy

BACK_OFF_MAX_S = 0.4


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
async def test_killed_workers_cost_no_request_and_edits_go_on_being_served(form, tmp_path):
    form = replace(form, back_off_max_s=BACK_OFF_MAX_S)
    settings = {"transport.kind": "native"}
    async with AsyncExitStack() as stack:
        upstreams = await stack.enter_async_context(Upstreams("a", "b"))
        ports = upstreams.ports
        r.write_directory(tmp_path, r.path_through(port=0, upstream_port=ports["a"], source=form.source))
        server = await stack.enter_async_context(XdsServer(tmp_path, "--workers", "2", settings=settings))
        await server.wait_ready()
        assert len(children_of(server.pid)) == 2
        envoys = [EnvoyProcess(form.bootstrap(server.port, node_id=f"n{number}")) for number in range(2)]
        for envoy in envoys:
            await stack.enter_async_context(envoy)
            await envoy.wait_live()
        traffics = [
            await stack.enter_async_context(Traffic(await envoy.listener_port("l1"), rate=200)) for envoy in envoys
        ]
        for number, name in enumerate("ba"):
            share = shares(children_of(server.pid), server.port)
            victim = max(share, key=lambda pid: share[pid])
            os.kill(victim, signal.SIGKILL)
            await wait_until(lambda pid=victim: not runs(pid))
            r.write_directory(tmp_path, [r.assignment("a", ports[name])])
            for envoy in envoys:
                await envoy.wait_hosts("a", {ports[name]}, timeout_s=30.0)
                assert (await fetch(await envoy.listener_port("l1"))).text == name
            await server.wait_event("a worker ended and is replaced", number + 1)
            await wait_until(lambda: len(children_of(server.pid)), equals=2)
        for traffic in traffics:
            await traffic.wait_requests(50)
            report = await traffic.stop()
            assert report.failed == {}, report.samples
            assert set(report.served) == {"a", "b"}
        for envoy in envoys:
            assert await envoy.nacks() == 0
        metrics = await server.wait_metrics(lambda said: said["xds_streams"] == len(envoys))
        assert metrics["xds_streams_opened_total"] - metrics["xds_streams_closed_total"] == len(envoys)
