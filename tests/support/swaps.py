"""The load of make-before-break: requests through a real Envoy while their route moves from cluster to cluster.

Each change removes what the one before added, so that any wrong order fails requests. Used by the tests, which assert,
and by ``bench/make_before_break.py``, which prints.
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, Form
from support.ports import free_port
from support.server import XdsServer
from support.thrift import ThriftTraffic, ThriftUpstreams
from support.traffic import Traffic, TrafficReport
from support.transports import settings_on
from support.upstream import Upstreams
from support.waiting import for_a_while
from xds.embed import ControlPlane

RATE = 3_000.0
"""Requests a second: enough to see a gap of a millisecond, and few enough to leave CPU time on two cores."""
REQUESTS_BETWEEN = 30
"""Requests between two changes, so that each change happens under load."""
BACK_OFF_MAX_S = 0.2
"""Envoys' reconnect delay here: shorter than the product's ten seconds, so that restarts are quick."""
WARMING_S = 1
REMOVED = "cluster_manager.cluster_removed"

State = Callable[["Scene", str], list[r.Json]]


@dataclass(frozen=True, slots=True)
class Scene:
    """The environment of a load: two upstreams, ``a`` and ``b``, and the port of the one listener."""

    form: Form
    ports: Mapping[str, int]
    listener_port: int = field(default_factory=free_port)

    def cluster(self, name: str, **fields: object) -> list[r.Json]:
        """Return a cluster named like its upstream, with its endpoints."""
        return [r.cluster(name, source=self.form.source, **fields), r.assignment(name, self.ports[name])]

    def listener(self, route_name: str | None = None, inline: r.Json | None = None) -> r.Json:
        """Return the listener, with its routes by RDS or inline."""
        return r.listener("l1", self.listener_port, route_name, inline=inline, source=self.form.source)

    def filter_listener(self, name: str, config: r.Json) -> r.Json:
        """Return the listener with a network filter of this name and config."""
        return r.filter_listener("l1", self.listener_port, name, config)


def route_moves(scene: Scene, side: str) -> list[r.Json]:
    """The plain case: route ``r1`` leads to the only cluster."""
    return [*scene.cluster(side), r.route("r1", side), scene.listener("r1")]


def route_moves_health_checked(scene: Scene, side: str) -> list[r.Json]:
    """The same, but clusters are warm only once their endpoint has passed a health check, which takes a second."""
    check = r.health_check(60, f"/delay/{WARMING_S * 1000}") | {"timeout": "5s"}
    return [*scene.cluster(side, health_checks=[check]), r.route("r1", side), scene.listener("r1")]


def inline_route_moves(scene: Scene, side: str) -> list[r.Json]:
    """The listener contains the route, so that connections use the old one while it drains."""
    return [*scene.cluster(side), scene.listener(inline=r.route("inline", side))]


def listener_moves(scene: Scene, side: str) -> list[r.Json]:
    """The listener switches to a route configuration with another name, and the former one is removed."""
    return [*scene.cluster(side), r.route(f"r-{side}", side), scene.listener(f"r-{side}")]


EXTENSIONS = r.TYPE + "envoy.extensions."
SPECIFIERS = EXTENSIONS + "router.cluster_specifiers."
NETWORK = EXTENSIONS + "filters.network."


def _by_plugin(scene: Scene, side: str, config: r.Json) -> list[r.Json]:
    plugin = {"inline_cluster_specifier_plugin": {"extension": {"name": "plugin", "typed_config": config}}}
    rule = {"match": {"prefix": "/"}, "route": plugin}
    return [*scene.cluster(side), r.route("r1", routes=[rule]), scene.listener("r1")]


def _always(action: r.Json) -> r.Json:
    return {"on_no_match": {"action": {"name": "cluster", "typed_config": action}}}


def matcher_route_moves(scene: Scene, side: str) -> list[r.Json]:
    """A matcher chooses the cluster, as a cluster specifier plugin of the route."""
    action = {"@type": SPECIFIERS + "matcher.v3.ClusterAction", "cluster": side}
    matcher = {"@type": SPECIFIERS + "matcher.v3.MatcherClusterSpecifier", "cluster_matcher": _always(action)}
    return _by_plugin(scene, side, matcher)


def lua_route_moves(scene: Scene, side: str) -> list[r.Json]:
    """A Lua script that fails leaves the choice to the default cluster."""
    script = "function envoy_on_route(handle) error('no choice') end"
    config = {"@type": SPECIFIERS + "lua.v3.LuaConfig", "source_code": {"inline_string": script}}
    return _by_plugin(scene, side, config | {"default_cluster": side})


def generic_route_moves(scene: Scene, side: str) -> list[r.Json]:
    """The route configuration is that of the generic proxy, which speaks HTTP/1.1 here."""
    proxy = NETWORK + "generic_proxy."
    action = {"@type": proxy + "action.v3.RouteAction", "name": "any", "cluster": side}
    codec = {"name": "http1", "typed_config": {"@type": proxy + "codecs.http1.v3.Http1CodecConfig"}}
    router = {"name": "envoy.filters.generic.router", "typed_config": {"@type": proxy + "router.v3.Router"}}
    rds = {"route_config_name": "g1", "config_source": scene.form.source}
    config = {"@type": proxy + "v3.GenericProxy", "stat_prefix": "g", "codec_config": codec, "generic_rds": rds}
    return [
        *scene.cluster(side),
        {"@type": proxy + "v3.RouteConfiguration", "name": "g1", "routes": _always(action)},
        scene.filter_listener("envoy.filters.network.generic_proxy", config | {"filters": [router]}),
    ]


def thrift_route_moves(scene: Scene, side: str) -> list[r.Json]:
    """The route configuration is that of the Thrift proxy."""
    proxy = NETWORK + "thrift_proxy.v3."
    rds = {"route_config_name": "t1", "config_source": scene.form.source}
    config = {"@type": proxy + "ThriftProxy", "stat_prefix": "t", "trds": rds}
    rules = [{"match": {"method_name": ""}, "route": {"cluster": side}}]
    return [
        *scene.cluster(side),
        {"@type": proxy + "RouteConfiguration", "name": "t1", "routes": rules},
        scene.filter_listener(
            "envoy.filters.network.thrift_proxy", config | {"transport": "FRAMED", "protocol": "BINARY"}
        ),
    ]


def tracer_moves(scene: Scene, side: str) -> list[r.Json]:
    """Requests go to cluster ``app``; what moves is the collector of their traces."""
    app = r.static_cluster("app", scene.ports["a"])
    zipkin = {
        "@type": r.TYPE + "envoy.config.trace.v3.ZipkinConfig",
        "collector_cluster": side,
        "collector_endpoint": "/spans",
        "collector_endpoint_version": "HTTP_JSON",
    }
    tracing = {"provider": {"name": "envoy.tracers.zipkin", "typed_config": zipkin}}
    manager = r.http_manager("r1", source=scene.form.source, tracing=tracing)
    listener = scene.filter_listener("envoy.filters.network.http_connection_manager", manager)
    return [*scene.cluster(side), app, r.route("r1", "app"), listener]


@asynccontextmanager
async def under_generic_load(scene: Scene, envoy: EnvoyProcess) -> AsyncIterator[Traffic]:
    """Keep requests running through a generic proxy, which does not close connections for ``connection: close``."""
    await envoy.wait_live()
    async with Traffic(scene.listener_port, rate=RATE) as traffic:
        await traffic.wait_requests(REQUESTS_BETWEEN)
        yield traffic


@asynccontextmanager
async def under_thrift_load(scene: Scene, envoy: EnvoyProcess) -> AsyncIterator[ThriftTraffic]:
    """Wait until the Envoy is LIVE, then keep Thrift calls running through it."""
    await envoy.wait_live()
    async with ThriftTraffic(scene.listener_port) as traffic:
        await traffic.wait_requests(REQUESTS_BETWEEN)
        yield traffic


@asynccontextmanager
async def under_load(scene: Scene, envoy: EnvoyProcess) -> AsyncIterator[Traffic]:
    """Wait until the Envoy answers from upstream ``a``, then keep requests running through it."""
    await envoy.wait_live()
    answer = await fetch(scene.listener_port)
    assert (answer.status, answer.text) == (200, "a"), answer
    async with Traffic(scene.listener_port, rate=RATE) as traffic:
        await traffic.wait_requests(REQUESTS_BETWEEN)
        yield traffic
        assert not (await traffic.stop()).ran_out, "the load was to go on until what it watches was over"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A scene whose control plane runs in this process, with one Envoy under load."""

    scene: Scene
    control_plane: ControlPlane
    envoy: EnvoyProcess
    traffic: Traffic | ThriftTraffic

    def show(self, state: State, side: str) -> None:
        """Publish a state, and remove everything else."""
        self.control_plane.replace({"default": state(self.scene, side)})


@asynccontextmanager
async def embedded(
    state: State, *, form: Form, ordering: bool = True, drain_s: int | None = None
) -> AsyncIterator[Embedded]:
    """Serve side ``a`` of a state to one Envoy under load. ``drain_s`` is its drain time for replaced listeners."""
    protocol = {"ordering": ordering, "listener_drain_s": 600.0 if drain_s is None else drain_s + 1.0}
    settings = settings_on(protocol=protocol)
    extra = () if drain_s is None else ("--drain-time-s", str(drain_s))
    upstreams_of = ThriftUpstreams if state is thrift_route_moves else Upstreams
    load = {thrift_route_moves: under_thrift_load, generic_route_moves: under_generic_load}.get(state, under_load)
    async with upstreams_of("a", "b") as upstreams, ControlPlane(settings) as control_plane:
        assert control_plane.address is not None
        scene = Scene(form, upstreams.ports)
        control_plane.replace({"default": state(scene, "a")})
        bootstrap = form.bootstrap(control_plane.address.port)
        async with EnvoyProcess(bootstrap, extra=extra) as envoy, load(scene, envoy) as traffic:
            yield Embedded(scene, control_plane, envoy, traffic)


async def swap(
    state: State = route_moves,
    *,
    swaps: int,
    form: Form = DELTA_ADS,
    ordering: bool = True,
    drain_s: int | None = None,
) -> TrafficReport:
    """Change sides ``swaps`` times, waiting each time until Envoy has removed the former cluster; return the report."""
    async with embedded(state, form=form, ordering=ordering, drain_s=drain_s) as running:
        for number in range(1, swaps + 1):
            running.show(state, "ab"[number % 2])
            await running.envoy.wait_stat(REMOVED, number, timeout_s=15.0)
            await running.traffic.wait_requests(REQUESTS_BETWEEN)
        if ordering:
            assert await running.envoy.nacks() == 0
        return await running.traffic.stop()


async def swap_collectors(*, swaps: int, form: Form = DELTA_ADS, ordering: bool = True, drain_s: int) -> dict[str, int]:
    """Change the collector of traces ``swaps`` times under load, and return Envoy's Zipkin counters."""
    async with embedded(tracer_moves, form=form, ordering=ordering, drain_s=drain_s) as running:
        for number in range(1, swaps + 1):
            running.show(tracer_moves, "ab"[number % 2])
            await running.envoy.wait_stat(REMOVED, number, timeout_s=15.0)
            await running.traffic.wait_requests(REQUESTS_BETWEEN)
        assert (await running.traffic.stop()).failed == {}
        stats = await running.envoy.stats("zipkin")
        return {name.rpartition(".")[2]: value for name, value in stats.items()}


async def hurry(*, swaps: int, seed: int, form: Form = DELTA_ADS, ordering: bool = True) -> TrafficReport:
    """Change sides ``swaps`` times without waiting for Envoy, at random intervals of up to 20 ms."""
    chance = random.Random(seed)
    async with embedded(route_moves, form=form, ordering=ordering) as running:
        for number in range(1, swaps + 1):
            running.show(route_moves, "ab"[number % 2])
            await for_a_while(chance.choice((0.0, 0.002, 0.005, 0.012, 0.02)), "the next swap comes at any moment")
        running.show(route_moves, "b")
        await running.envoy.wait_names("clusters", {"b"})
        await running.traffic.wait_requests(REQUESTS_BETWEEN)
        assert (await fetch(running.scene.listener_port)).text == "b"
        assert await running.envoy.nacks() == 0
        return await running.traffic.stop()


async def restart(
    directory: Path, *, restarts: int, form: Form = DELTA_ADS, ordering: bool = True, hold_timeout_s: float = 20.0
) -> TrafficReport:
    """Kill ``xds serve`` ``restarts`` times, each time starting it again with the other side; return the report."""
    form = replace(form, back_off_max_s=BACK_OFF_MAX_S)
    async with Upstreams("a", "b") as upstreams:
        scene = Scene(form, upstreams.ports)
        r.write_directory(directory, route_moves(scene, "a"))
        settings = {"protocol.ordering": ordering, "protocol.hold_timeout_s": hold_timeout_s}
        async with XdsServer(directory, settings=settings) as server:
            await server.wait_ready()
            async with EnvoyProcess(form.bootstrap(server.port)) as envoy, under_load(scene, envoy) as traffic:
                for number in range(1, restarts + 1):
                    server.kill()
                    r.write_directory(directory, route_moves(scene, "ab"[number % 2]))
                    server.start()
                    await envoy.wait_stat(REMOVED, number, timeout_s=20.0)
                    await traffic.wait_requests(REQUESTS_BETWEEN)
                assert await envoy.nacks() == 0
                return await traffic.stop()
