"""Many real Envoys of one server at once, in plaintext and by mTLS: each gets everything, once, and serves on."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, MUTUAL_TLS, SOTW_ADS, Form, client_tls
from support.pki import Authority
from support.server import XdsServer
from support.upstream import Upstreams

pytestmark = pytest.mark.envoy

TYPES = 4
PATIENCE_S = 60.0
"""Fifty Envoys that start at once share two cores with all else that runs."""
BACK_OFF_MAX_S = 0.4


@asynccontextmanager
async def fleet(form: Form, directory: Path, count: int) -> AsyncIterator[tuple[XdsServer, list[EnvoyProcess]]]:
    """Serve a directory to so many Envoys, which are all started before any is waited for."""
    authority = Authority(directory.parent / "pki")
    pair = authority.server()
    tls, options = None, []
    if form.mutual_tls:
        tls = client_tls(authority, authority.client())
        options = ["--tls-cert", str(pair.cert_path), "--tls-key", str(pair.key_path)]
        options += ["--tls-client-ca", str(authority.cert_path)]
    async with XdsServer(directory, *options) as server, AsyncExitStack() as stack:
        await server.wait_ready()
        began = time.monotonic()
        envoys = []
        for number in range(count):
            envoy = EnvoyProcess(form.bootstrap(server.port, node_id=f"n{number}", tls=tls), name=f"envoy-{number}")
            envoys.append(await stack.enter_async_context(envoy))
        for envoy in envoys:
            await envoy.wait_live(PATIENCE_S)
        print(f"{form}: {count} Envoys LIVE after {time.monotonic() - began:.1f} s")
        yield server, envoys


async def answers(envoys: Sequence[EnvoyProcess]) -> list[str]:
    """Return what each Envoy answers a request with."""
    return [(await fetch(await envoy.listener_port("l1"))).text for envoy in envoys]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "count"), [(DELTA_ADS, 50), (SOTW_ADS, 20), (MUTUAL_TLS, 50)], ids=str)
async def test_every_envoy_of_a_fleet_gets_every_change_and_minds_no_restart(form, count, tmp_path):
    form, directory = replace(form, back_off_max_s=BACK_OFF_MAX_S), tmp_path / "served"
    async with Upstreams("a", "b") as upstreams:
        r.write_directory(directory, r.path_through(port=0, upstream_port=upstreams.ports["a"]))
        async with fleet(form, directory, count) as (server, envoys):
            assert await answers(envoys) == ["a"] * count
            metrics = await server.wait_metrics(server.is_quiet)
            assert (metrics["xds_streams"], metrics["xds_streams_opened_total"]) == (count, count)
            assert metrics["xds_resources_sent_total"] == TYPES * count

            r.write_directory(directory, [r.assignment("a", upstreams.ports["b"])])
            for envoy in envoys:
                await envoy.wait_hosts("a", {upstreams.ports["b"]}, timeout_s=PATIENCE_S)
            assert await answers(envoys) == ["b"] * count
            metrics = await server.wait_metrics(server.is_quiet)
            assert metrics["xds_resources_sent_total"] == (TYPES + 1) * count

            server.kill()
            server.start()
            await server.wait_ready()
            metrics = await server.wait_metrics(
                lambda said: said["xds_streams"] == count and said["xds_requests_total"] >= TYPES * count, PATIENCE_S
            )
            assert metrics["xds_resources_sent_total"] == 0

            # Another cluster takes its place: added, then routed to, then the former removed.
            moved = r.path_through(port=0, upstream_port=upstreams.ports["a"], cluster_name="other")
            r.write_directory(directory, moved)
            for envoy in envoys:
                await envoy.wait_names("clusters", {"other"}, timeout_s=PATIENCE_S)
            assert await answers(envoys) == ["a"] * count
            assert [await envoy.nacks() for envoy in envoys] == [0] * count
            assert (await server.metrics())["xds_nacks_total"] == 0
