"""The load of make-before-break: a real Envoy under requests while what they need moves from cluster to cluster.

Each change takes away what the one before it brought, so that any wrong order costs requests. Used by the tests, which
assert, and by ``bench/make_before_break.py``, which prints.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, Form
from support.ports import free_port
from support.traffic import Traffic, TrafficReport
from support.upstream import Upstreams

RATE = 3_000.0
"""Requests a second: dense enough to see a gap of a millisecond, and leaving two cores room for all else."""
REQUESTS_BETWEEN = 30
"""Requests seen between two changes, so that each change happens under load."""

State = Callable[["Scene", str], list[r.Json]]


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a load runs: two upstreams, ``a`` and ``b``, and the port of the one listener."""

    form: Form
    ports: Mapping[str, int]
    listener_port: int = field(default_factory=free_port)

    def cluster(self, name: str, **fields: object) -> list[r.Json]:
        """Return a cluster named like its upstream, with its endpoints."""
        return [r.cluster(name, source=self.form.source, **fields), r.assignment(name, self.ports[name])]

    def listener(self, route_name: str | None = None, inline: r.Json | None = None) -> r.Json:
        """Return the listener, with its routes by RDS or inline."""
        return r.listener("l1", self.listener_port, route_name, inline=inline, source=self.form.source)


def route_moves(scene: Scene, side: str) -> list[r.Json]:
    """The plain case: route ``r1`` leads to the one cluster there is."""
    return [*scene.cluster(side), r.route("r1", side), scene.listener("r1")]


def route_moves_health_checked(scene: Scene, side: str) -> list[r.Json]:
    """The same, with clusters that are warm only once a health check of their endpoint has passed."""
    return [*scene.cluster(side, health_check_s=1), r.route("r1", side), scene.listener("r1")]


def weights_move(scene: Scene, side: str) -> list[r.Json]:
    """Side ``a`` splits among both clusters, side ``b`` has one of them alone."""
    if side == "b":
        return route_moves(scene, "b")
    weighted = r.weighted_route("r1", {"a": 50, "b": 50})
    return [*scene.cluster("a"), *scene.cluster("b"), weighted, scene.listener("r1")]


def inline_route_moves(scene: Scene, side: str) -> list[r.Json]:
    """The listener itself holds the route, so that connections go on using the old one while it drains."""
    return [*scene.cluster(side), scene.listener(inline=r.route("inline", side))]


def listener_moves(scene: Scene, side: str) -> list[r.Json]:
    """The listener goes over to a route configuration of another name, and the former one is removed."""
    return [*scene.cluster(side), r.route(f"r-{side}", side), scene.listener(f"r-{side}")]


@asynccontextmanager
async def upstreams() -> AsyncIterator[Upstreams]:
    """Run the upstreams of a scene."""
    async with Upstreams("a", "b") as running:
        yield running


@asynccontextmanager
async def under_load(scene: Scene, envoy: EnvoyProcess, *, rate: float = RATE) -> AsyncIterator[Traffic]:
    """Wait until the Envoy answers from upstream ``a``, then keep requests running through it."""
    await envoy.wait_live()
    answer = await fetch(scene.listener_port)
    assert (answer.status, answer.text) == (200, "a"), answer
    async with Traffic(scene.listener_port, rate=rate) as traffic:
        await traffic.wait_requests(REQUESTS_BETWEEN)
        yield traffic


def sides(count: int) -> list[str]:
    """Return to which side each change goes; all begins at ``a``."""
    return ["ba"[number % 2] for number in range(count)]


async def swap(
    state: State = route_moves,
    *,
    swaps: int,
    form: Form = DELTA_ADS,
    ordering: bool = True,
    drain_s: int | None = None,
    wait_removal: bool = True,
) -> TrafficReport:
    """Make so many changes in an embedded control plane, each awaited to its end, and return what the load saw.

    ``drain_s`` is how long Envoy drains a replaced listener. The end of a change is the removal of a cluster by Envoy.
    """
    from xds import ControlPlane, Settings

    protocol = {"ordering": ordering, "listener_drain_s": 600.0 if drain_s is None else drain_s + 1.0}
    settings = Settings.model_validate({"listen": "127.0.0.1:0", "admin": "off", "protocol": protocol})
    extra = () if drain_s is None else ("--drain-time-s", str(drain_s))
    async with upstreams() as running, ControlPlane(settings) as control_plane:
        scene = Scene(form, running.ports)
        control_plane.replace({"default": state(scene, "a")})
        assert control_plane.address is not None
        async with (
            EnvoyProcess(form.bootstrap(control_plane.address.port), extra=extra) as envoy,
            under_load(scene, envoy) as traffic,
        ):
            for number, side in enumerate(sides(swaps), 1):
                control_plane.replace({"default": state(scene, side)})
                if wait_removal:
                    await envoy.wait_stat("cluster_manager.cluster_removed", number, timeout_s=15.0)
                await traffic.wait_requests(REQUESTS_BETWEEN)
            if ordering:
                assert await envoy.nacks() == 0
            return await traffic.stop()
