"""Servers come and go, and the Envoys do not mind: nothing is sent twice, and no request fails."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, DELTA_PER_TYPE, SOTW_ADS, Form
from support.processes import ChildFailedError
from support.server import XdsServer
from support.traffic import Traffic
from support.upstream import Upstreams
from support.waiting import for_a_while

pytestmark = pytest.mark.envoy

ENVOYS = 5
TYPES = 4
BACK_OFF_MAX_S = 0.4


@asynccontextmanager
async def fleet(form: Form, server: XdsServer, count: int = ENVOYS) -> AsyncIterator[list[EnvoyProcess]]:
    """Run Envoys that have got all that there is, and answered so."""
    async with AsyncExitStack() as stack:
        envoys = [EnvoyProcess(form.bootstrap(server.port, node_id=f"n{number}")) for number in range(count)]
        for envoy in envoys:
            await stack.enter_async_context(envoy)
        await asyncio.gather(*(envoy.wait_live() for envoy in envoys))
        await server.wait_metrics(
            lambda said: said["xds_requests_total"] >= 2 * TYPES * count and server.is_quiet(said)
        )
        yield envoys


@asynccontextmanager
async def served(form: Form, directory: Path, *options: str) -> AsyncIterator[XdsServer]:
    """Serve one upstream behind one listener, whose port each Envoy chooses."""
    async with Upstreams("a") as upstreams:
        r.write_directory(directory, r.path_through(port=0, upstream_port=upstreams.ports["a"], source=form.source))
        async with XdsServer(directory, *options) as server:
            await server.wait_ready()
            yield server


async def updates(envoys: Sequence[EnvoyProcess]) -> list[dict[str, int]]:
    """Return how many updates each Envoy has taken, by kind of subscription."""
    return [await envoy.stats("(cds|lds|rds.*|eds|cluster[.]a)[.]update_(success|rejected)$") for envoy in envoys]


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE], ids=str)
async def test_a_restarted_server_sends_nothing_to_the_envoys_that_have_it_all(form, tmp_path):
    form = replace(form, back_off_max_s=BACK_OFF_MAX_S)
    async with served(form, tmp_path) as server, fleet(form, server) as envoys:
        before = await updates(envoys)
        assert all(sum(one.values()) == TYPES for one in before), before
        server.kill()
        server.start()
        await server.wait_ready()
        # Each of them asks for each of its types, and all is said with that.
        metrics = await server.wait_metrics(lambda said: said["xds_requests_total"] >= TYPES * ENVOYS)
        streams = ENVOYS * (TYPES if form.per_type else 1)
        assert (metrics["xds_streams"], metrics["xds_requests_total"]) == (streams, TYPES * ENVOYS)
        for envoy in envoys:
            assert (await fetch(await envoy.listener_port("l1"))).text == "a"
        metrics = await server.metrics()
        sent = {name: metrics[f"xds_{name}_total"] for name in ("responses", "resources_sent", "removals_sent")}
        assert sent == {"responses": 0, "resources_sent": 0, "removals_sent": 0}
        assert await updates(envoys) == before


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
async def test_what_changed_meanwhile_is_all_that_a_restarted_server_sends(form, tmp_path):
    form = replace(form, back_off_max_s=BACK_OFF_MAX_S)
    async with Upstreams("b") as other, served(form, tmp_path) as server, fleet(form, server, 2) as envoys:
        server.kill()
        r.write_directory(tmp_path, [r.assignment("a", other.ports["b"])])
        server.start()
        await server.wait_ready()  # a worker may serve Envoys before the admin port is there
        for envoy in envoys:
            await envoy.wait_hosts("a", {other.ports["b"]})
            assert (await fetch(await envoy.listener_port("l1"))).text == "b"
        metrics = await server.wait_metrics(server.is_quiet)
        assert (metrics["xds_resources_sent_total"], metrics["xds_removals_sent_total"]) == (len(envoys), 0)


async def watch_streams(server: XdsServer, first: int) -> list[float]:
    """Return the numbers of open streams as they change, until the server has ended, and with it the last of them."""
    seen: list[float] = [first]
    while server.running:
        with contextlib.suppress(OSError, KeyError):  # it may be about to end, or be slow
            streams = (await server.metrics())["xds_streams"]
            if streams != seen[-1]:
                seen.append(streams)
        await for_a_while(0.01, "the interval of the samples")
    return seen if seen[-1] == 0 else [*seen, 0]  # it may end before a sample shows that


def logged_at(server: XdsServer, event: str) -> datetime:
    """Return when the server logged an event for the last time since its start."""
    return datetime.fromisoformat(server.events(event)[-1]["timestamp"])


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
async def test_sigterm_drains_the_streams_one_by_one_and_no_request_fails(form, tmp_path):
    form = replace(form, back_off_max_s=BACK_OFF_MAX_S)
    window_s = 2.0
    # In one process: several end their streams side by side, each over the window (tests/serving/test_ending.py).
    options = ("--drain-timeout", str(window_s), "--workers", "0")
    async with served(form, tmp_path, *options) as server, fleet(form, server) as envoys:
        assert (await server.admin("/readyz")).status == 200
        async with Traffic(await envoys[0].listener_port("l1"), rate=500) as traffic:
            await traffic.wait_requests(100)
            server.signal(signal.SIGTERM)
            await server.wait_event("draining")
            ready = await server.admin("/readyz")
            assert (ready.status, ready.text) == (503, "draining")
            assert (await server.admin("/healthz")).status == 200
            seen = await watch_streams(server, ENVOYS)
            assert await server.wait_ended() == 0
            drained_s = (logged_at(server, "stopped") - logged_at(server, "draining")).total_seconds()
            server.start()
            await server.wait_ready()
            metrics = await server.wait_metrics(lambda said: said["xds_requests_total"] >= TYPES * ENVOYS)
            await traffic.wait_requests(100)
            report = await traffic.stop()
        assert report.failed == {}, report.samples
        assert (metrics["xds_streams"], metrics["xds_resources_sent_total"]) == (ENVOYS, 0)
        # One after the other, and not all at once: the last goes at 4/5 of the window.
        assert seen == [5, 4, 3, 2, 1, 0]
        assert 0.7 * window_s < drained_s < 1.5 * window_s
        for envoy in envoys:
            assert await envoy.nacks() == 0


async def test_a_second_sigterm_ends_the_server_at_once(tmp_path):
    async with served(DELTA_ADS, tmp_path, "--drain-timeout", "100") as server, fleet(DELTA_ADS, server, 2):
        server.signal(signal.SIGTERM)
        await server.wait_event("draining")
        server.signal(signal.SIGTERM)
        assert await server.wait_ended(timeout_s=5.0) == 0


async def test_an_envoy_serves_on_while_there_is_no_server(tmp_path):
    form = replace(DELTA_ADS, back_off_max_s=BACK_OFF_MAX_S)
    async with served(form, tmp_path) as server, fleet(form, server, 1) as (envoy,):
        async with Traffic(await envoy.listener_port("l1"), rate=500) as traffic:
            server.kill()
            await envoy.wait_stat("cluster.xds.upstream_cx_connect_fail", 3)
            await traffic.wait_requests(100)
            report = await traffic.stop()
        assert report.failed == {}, report.samples
        with pytest.raises((ChildFailedError, OSError)):
            await server.metrics()
