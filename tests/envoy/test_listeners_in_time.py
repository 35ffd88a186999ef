"""Listeners that Envoy would have to wait for, up to its fetch timeout of 15 s or the server's hold timeout of 20 s."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from support import resources as r
from support.control_planes import app_of
from support.envoy import EnvoyProcess
from support.forms import DELTA_ADS, DELTA_PER_TYPE, Form
from support.ports import free_port
from support.silent_listener import SilentListener
from support.transports import settings_on
from support.waiting import wait_until

from xds.embed import ControlPlane, GroupTable
from xds.model.types import short_name
from xds.protocol.responses import Part
from xds.protocol.sessions import Stream

pytestmark = pytest.mark.envoy
IN_TIME_S = 8.0
ALL_ELSEWHERE = GroupTable(external=("clusters/*", "endpoints/*", "routes/*"))


@asynccontextmanager
async def served(
    resources: list[r.Json], bootstrap_of: Form = DELTA_ADS, **edits: r.Json
) -> AsyncIterator[tuple[ControlPlane, EnvoyProcess]]:
    """Serve resources to an Envoy that drains for 2 s; ``edits`` replace parts of its bootstrap."""
    async with ControlPlane(settings_on()) as control_plane:
        control_plane.replace({"default": resources}, rules=ALL_ELSEWHERE)
        assert control_plane.address is not None
        bootstrap = replace(bootstrap_of, back_off_max_s=0.2).bootstrap(control_plane.address.port)
        for key, value in edits.items():
            bootstrap[key] = bootstrap.get(key, {}) | value
        extra = ["--drain-time-s", "2", "--drain-strategy", "immediate"]
        async with EnvoyProcess(bootstrap, extra=extra) as envoy:
            yield control_plane, envoy


async def wait_active(envoy: EnvoyProcess, count: int) -> None:
    """Wait until so many listeners serve, none warms and none drains."""

    async def listeners() -> dict[str, float]:
        found = await envoy.stats("listener_manager.total_listeners")
        return {name.rpartition("_")[2]: value for name, value in found.items()}

    await envoy.wait_live(IN_TIME_S)
    await wait_until(listeners, equals={"active": count, "warming": 0, "draining": 0}, timeout_s=IN_TIME_S)


def with_hosts_on_demand(name: str, form: Form = DELTA_ADS) -> r.Json:
    return r.route(name) | {"vhds": {"config_source": form.source}}


async def test_an_envoy_with_static_clusters_and_no_cds() -> None:
    cluster = {name: value for name, value in r.cluster("a").items() if name != "@type"}
    resources = [r.assignment("a", 1), r.listener("l1", 0, "r1"), r.route("r1", "a")]
    async with ControlPlane(settings_on()) as control_plane:
        control_plane.replace({"default": resources}, rules=ALL_ELSEWHERE)
        assert control_plane.address is not None
        bootstrap = DELTA_ADS.bootstrap(control_plane.address.port)
        bootstrap["static_resources"]["clusters"].append(cluster)
        del bootstrap["dynamic_resources"]["cds_config"]
        async with EnvoyProcess(bootstrap) as envoy:
            await wait_active(envoy, 1)


async def test_a_route_with_virtual_hosts_on_demand_that_comes_after_its_listener() -> None:
    async with served([r.listener("l1", 0, "r1"), with_hosts_on_demand("r1")]) as (control_plane, envoy):
        await wait_active(envoy, 1)
        control_plane.apply(upsert=[r.listener("l2", 0, "r2")])
        await wait_until(lambda: _subscribed(control_plane, "r2"))
        control_plane.apply(upsert=[with_hosts_on_demand("r2")])
        await wait_active(envoy, 2)


async def test_a_route_with_virtual_hosts_on_demand_that_goes_and_comes_back() -> None:
    both = [r.listener("l1", 0, "r1"), with_hosts_on_demand("r1"), with_hosts_on_demand("r2")]
    async with served([*both, r.listener("l2", 0, "r2")]) as (control_plane, envoy):
        await wait_active(envoy, 2)
        control_plane.apply(remove=[("listeners", "l2")])
        await wait_active(envoy, 1)
        await wait_until(lambda: not _subscribed(control_plane, "r2"))
        control_plane.apply(upsert=[r.listener("l2", 0, "r2")])
        await wait_active(envoy, 2)


async def test_routes_with_virtual_hosts_on_demand_on_streams_of_their_own() -> None:
    form = replace(DELTA_PER_TYPE, back_off_max_s=0.2)
    resources = [with_hosts_on_demand(name, form) for name in ("r1", "r2")]
    for number in (1, 2):
        listener = r.listener(f"l{number}", 0, f"r{number}")
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["rds"]["config_source"] = form.source
        resources.append(listener)
    async with served(resources, form) as (_, envoy):
        await wait_active(envoy, 2)


async def test_an_envoy_with_a_runtime_layer_that_returns_while_clusters_warm() -> None:
    """It asks for the runtime first, then for endpoints, and not for clusters; route r1 waits for cluster b."""
    layers = {"layers": [{"name": "rt", "rtds_layer": {"name": "rt", "rtds_config": r.ads()}}]}
    port = free_port()
    resources = [r.runtime("rt", {"x": 1}), r.cluster("a"), r.assignment("a", port), r.listener("l1", 0, "r1")]
    async with (
        SilentListener(port),
        served([*resources, r.route("r1", "a")], layered_runtime=layers) as (control_plane, envoy),
    ):
        await wait_active(envoy, 1)
        check = r.health_check(60.0) | {"timeout": "4s"}
        control_plane.apply(upsert=[r.cluster("a", health_checks=[check])])
        warming = "cluster_manager.warming_clusters"
        await wait_until(lambda: envoy.stats(warming), equals={warming: 1}, timeout_s=IN_TIME_S)
        address, app = control_plane.address, app_of(control_plane)
        await control_plane.stop()
        app.settings = app.settings.model_copy(update={"listen": address})
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", port), r.route("r1", "b")])
        sent: list[str] = []
        poll = app.hub.poll

        def noting(stream: Stream, now: float) -> Part | None:
            part = poll(stream, now)
            if part is not None:
                sent.extend(f"{short_name(part.type_url)}/{name}" for name in part.names)
            return part

        app.hub.poll = noting  # type: ignore[method-assign]
        await control_plane.start()
        await wait_until(lambda: "routes/r1" in sent, timeout_s=30.0)
        assert sent.index("endpoints/a") < sent.index("clusters/b") < sent.index("routes/r1")
        await wait_until(lambda: envoy.stats(warming), equals={warming: 0}, timeout_s=IN_TIME_S)


def _subscribed(control_plane: ControlPlane, route: str) -> bool:
    streams = app_of(control_plane).hub._streams
    return any(route in state.subscription.names for stream in streams for state in stream.states.values())
