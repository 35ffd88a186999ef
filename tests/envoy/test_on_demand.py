"""What Envoy asks for only when it needs it: clusters (ODCDS), virtual hosts (VHDS); and collections by xdstp names."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from support import resources as r
from support.control_planes import app_of
from support.envoy import EnvoyProcess
from support.fetch import Answer, fetch
from support.forms import DELTA_ADS
from support.transports import settings_on
from support.upstream import Upstreams
from support.waiting import wait_until

from xds.embed import ControlPlane, GroupTable

pytestmark = pytest.mark.envoy

ON_DEMAND = r.TYPE + "envoy.extensions.filters.http.on_demand.v3.OnDemand"
CLUSTER_HEADER = "x-cluster"
ODCDS_TIMEOUT_S = 5
SOON_S = 2.0
"""Well below the timeouts that count where the server says nothing."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A control plane in this process, one Envoy with listener ``l1``, and upstreams ``a`` and ``b``."""

    control_plane: ControlPlane
    envoy: EnvoyProcess
    ports: dict[str, int]

    def apply(self, *resources: r.Json) -> None:
        """Publish resources."""
        self.control_plane.apply(upsert=resources)

    async def ask(self, **options: object) -> tuple[Answer, float]:
        """Make a request to the listener; return the answer and how many seconds it took."""
        began = time.monotonic()
        answer = await fetch(await self.envoy.listener_port("l1"), **options)
        return answer, time.monotonic() - began

    async def wait_served_by(self, name: str, **options: object) -> None:
        """Wait until a request is answered by an upstream."""

        async def text() -> str:
            return (await self.ask(**options))[0].text

        await wait_until(text, equals=name, timeout_s=5)

    def to(self, cluster: str) -> dict[str, object]:
        """Return the options of a request to a cluster."""
        return {"headers": {CLUSTER_HEADER: cluster}}


@asynccontextmanager
async def scene(resources: list[r.Json], **dynamic: object) -> AsyncIterator[Scene]:
    """Serve resources, and the clusters ``a`` and ``b``, to an Envoy; ``dynamic`` replaces bootstrap fields."""
    # Clusters that are asked for by name are removed once the hold timeout is over.
    protocol = {"hold_timeout_s": 1.0}
    settings = settings_on(protocol=protocol)
    async with Upstreams("a", "b") as upstreams, ControlPlane(settings) as control_plane:
        rules = GroupTable(external=("clusters/*", "endpoints/*"))
        clusters = [r.cluster("a"), r.assignment("a", upstreams.ports["a"])]
        control_plane.replace({"default": [*resources, *clusters]}, rules=rules)
        assert control_plane.address is not None
        bootstrap = replace(DELTA_ADS, back_off_max_s=0.2).bootstrap(control_plane.address.port)
        fields = bootstrap["dynamic_resources"] | dynamic
        bootstrap["dynamic_resources"] = {name: value for name, value in fields.items() if value is not None}
        async with EnvoyProcess(bootstrap) as envoy:
            yield Scene(control_plane, envoy, upstreams.ports)


def manager_on_demand(**config: object) -> r.Json:
    """Return a listener whose requests may wait for what is asked for meanwhile."""
    listener = r.listener("l1", 0, "r1")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    on_demand = {"name": "envoy.filters.http.on_demand", "typed_config": {"@type": ON_DEMAND, **config}}
    manager["http_filters"].insert(0, on_demand)
    return listener


def clusters_on_demand() -> list[r.Json]:
    """Return a listener and a route to whatever cluster the request names."""
    odcds = {"source": r.ads(), "timeout": f"{ODCDS_TIMEOUT_S}s"}
    by_header = {"match": {"prefix": "/"}, "route": {"cluster_header": CLUSTER_HEADER}}
    return [manager_on_demand(odcds=odcds), r.route("r1", routes=[by_header])]


async def test_a_cluster_is_sent_to_who_asks_for_it_and_to_nobody_else():
    async with scene(clusters_on_demand(), cds_config=None) as at:
        assert await at.envoy.wait_live() < 3_000
        assert (await at.envoy.dynamic_names())["clusters"] == set()
        answer, took_s = await at.ask(**at.to("a"))
        assert (answer.status, answer.text) == (200, "a")
        assert took_s < SOON_S
        assert (await at.envoy.dynamic_names())["clusters"] == {"a"}
        assert await at.envoy.nacks() == 0


async def test_a_missing_cluster_is_refused_at_once_and_sent_when_it_comes():
    async with scene(clusters_on_demand(), cds_config=None) as at:
        await at.envoy.wait_live()
        answer, took_s = await at.ask(**at.to("b"))
        assert answer.status == 503
        assert took_s < SOON_S
        at.apply(r.cluster("b"), r.assignment("b", at.ports["b"]))
        await at.wait_served_by("b", **at.to("b"))
        assert await at.envoy.nacks() == 0


async def test_a_cluster_that_was_removed_is_sent_again_when_it_returns():
    """Envoy does not ask again."""
    async with scene(clusters_on_demand(), cds_config=None) as at:
        await at.envoy.wait_live()
        await at.wait_served_by("a", **at.to("a"))
        at.control_plane.apply(remove=[("clusters", "a")])
        await at.envoy.wait_names("clusters", set())
        at.apply(r.cluster("a"))
        await at.wait_served_by("a", **at.to("a"))


async def test_clusters_on_demand_live_through_a_reconnect():
    async with scene(clusters_on_demand(), cds_config=None) as at:
        await at.envoy.wait_live()
        await at.wait_served_by("a", **at.to("a"))
        assert (await at.ask(**at.to("missing")))[0].status == 503
        sent = app_of(at.control_plane).hub.counters.resources_sent
        address = at.control_plane.address
        await at.control_plane.stop()
        app = app_of(at.control_plane)
        app.settings = app.settings.model_copy(update={"listen": address})
        await at.control_plane.start()
        await at.envoy.wait_stat("control_plane.connected_state")
        assert (await at.ask(**at.to("a")))[0].text == "a"
        at.apply(r.cluster("missing"), r.assignment("missing", at.ports["b"]))
        await at.wait_served_by("b", **at.to("missing"))
        assert app_of(at.control_plane).hub.counters.resources_sent == sent + 2
        assert (await at.envoy.dynamic_names())["clusters"] == {"a", "missing"}


VHDS = {"vhds": {"config_source": r.ads()}}


def hosts_on_demand() -> list[r.Json]:
    """Return a listener and a route configuration without a virtual host of its own."""
    return [manager_on_demand(), r.route("r1") | VHDS]


def more_hosts_on_demand(name: str, route_name: str) -> r.Json:
    """Return one more listener, on a route configuration of its own."""
    listener = manager_on_demand() | {"name": name}
    listener["filter_chains"][0]["filters"][0]["typed_config"]["rds"]["route_config_name"] = route_name
    return listener


async def test_a_listener_with_virtual_hosts_on_demand_is_ready_at_once():
    """Its first request names nothing: only an answer that is not empty ends Envoy's wait, here 15 s."""
    async with scene(hosts_on_demand()) as at:
        live_ms = await at.envoy.wait_live()
        print(f"LIVE with VHDS in {live_ms:.0f} ms")
        assert live_ms < SOON_S * 1000
        assert await at.envoy.nacks() == 0


async def test_further_listeners_with_virtual_hosts_on_demand_are_ready_at_once():
    """Envoy asks but once, naming nothing, and yet waits for an answer of each of its route configurations."""
    more = [more_hosts_on_demand("l2", "r2"), r.route("r2") | VHDS]
    async with scene([*hosts_on_demand(), *more]) as at:
        assert await at.envoy.wait_live() < SOON_S * 1000
        at.apply(more_hosts_on_demand("l3", "r3"), r.route("r3") | VHDS)
        await at.envoy.wait_names("listeners", {"l1", "l2", "l3"}, timeout_s=SOON_S)
        assert await at.envoy.nacks() == 0


async def test_a_virtual_host_is_sent_when_a_request_needs_it():
    async with scene([*hosts_on_demand(), r.virtual_host("r1/a.test", "a", ["a.test"])]) as at:
        await at.envoy.wait_live()
        sent = app_of(at.control_plane).hub.counters.resources_sent
        answer, took_s = await at.ask(authority="a.test")
        assert (answer.status, answer.text) == (200, "a")
        assert took_s < SOON_S
        assert app_of(at.control_plane).hub.counters.resources_sent == sent + 1
        assert await at.envoy.nacks() == 0


async def test_an_unknown_host_is_refused_at_once_and_sent_when_it_comes():
    async with scene(hosts_on_demand()) as at:
        await at.envoy.wait_live()
        answer, took_s = await at.ask(authority="b.test")
        assert answer.status == 404
        assert took_s < SOON_S
        at.apply(r.cluster("b"), r.assignment("b", at.ports["b"]), r.virtual_host("r1/b.test", "b", ["b.test"]))
        await at.wait_served_by("b", authority="b.test")
        assert await at.envoy.nacks() == 0


def aliased(name: str, to: str, *domains: str) -> r.Json:
    """Return a virtual host that Envoy asks for by its domains, in the wrapper that has these as aliases."""
    aliases = [f"r1/{domain}" for domain in domains]
    wrapper = {"@type": r.TYPE + "envoy.service.discovery.v3.Resource", "name": f"r1/{name}", "aliases": aliases}
    return wrapper | {"resource": r.virtual_host(f"r1/{name}", to, domains or ["none.test"])}


async def test_an_alias_follows_the_virtual_host_that_has_it():
    """Envoy would reject both hosts of one domain, and would serve one that lost the domain for ever."""
    async with scene([*hosts_on_demand(), aliased("one", "a", "x.test"), aliased("two", "b", "x.test")]) as at:
        at.apply(r.cluster("b"), r.assignment("b", at.ports["b"]))
        await at.envoy.wait_live()
        await at.wait_served_by("a", authority="x.test")
        at.apply(aliased("one", "a", "y.test"))
        await at.wait_served_by("b", authority="x.test")
        await at.wait_served_by("a", authority="y.test")
        at.apply(aliased("two", "b"))

        async def status() -> int:
            return (await at.ask(authority="x.test"))[0].status

        await wait_until(status, equals=404, timeout_s=5)
        assert await at.envoy.nacks() == 0


async def test_virtual_hosts_live_through_a_reconnect():
    async with scene([*hosts_on_demand(), r.virtual_host("r1/a.test", "a", ["a.test"])]) as at:
        await at.envoy.wait_live()
        await at.wait_served_by("a", authority="a.test")
        sent = app_of(at.control_plane).hub.counters.resources_sent
        address = at.control_plane.address
        await at.control_plane.stop()
        app = app_of(at.control_plane)
        app.settings = app.settings.model_copy(update={"listen": address})
        await at.control_plane.start()
        await at.envoy.wait_stat("control_plane.connected_state")
        assert (await at.ask(authority="a.test"))[0].text == "a"
        assert app_of(at.control_plane).hub.counters.resources_sent == sent
        at.apply(r.virtual_host("r1/c.test", "a", ["c.test"]))
        await at.wait_served_by("a", authority="c.test")
        assert await at.envoy.nacks() == 0


CONTEXT = "xds.node.cluster=c1&xds.node.id=n1"


def member(type_name: str, name: str) -> str:
    """Return the name of a collection's member, as this one node sees it."""
    return f"xdstp://auth1/{type_name}/col/{name}?{CONTEXT}"


def cluster_name(name: str) -> str:
    return member("envoy.config.cluster.v3.Cluster", name)


async def test_collections_by_xdstp_names_are_served_and_followed():
    collections = {
        "cds_resources_locator": "xdstp://auth1/envoy.config.cluster.v3.Cluster/col/*",
        "lds_resources_locator": "xdstp://auth1/envoy.config.listener.v3.Listener/col/*",
    }
    listener = r.listener(member("envoy.config.listener.v3.Listener", "l1"), 0, "r1")
    in_collection = r.cluster(cluster_name("a"), service_name="a-eds")
    resources = [listener, r.route("r1", cluster_name("a")), in_collection]
    async with collection_scene(resources, collections) as at:
        assert await at.envoy.wait_live() < SOON_S * 1000
        assert (await at.envoy.dynamic_names())["clusters"] == {cluster_name("a")}
        port = await at.envoy.listener_port(listener["name"])
        assert (await fetch(port)).text == "a"
        other = r.cluster(cluster_name("b"), service_name="b-eds")
        at.control_plane.apply(
            upsert=[other, r.assignment("b-eds", at.ports["b"]), r.route("r1", cluster_name("b"))],
            remove=[("clusters", cluster_name("a"))],
        )
        await at.envoy.wait_names("clusters", {cluster_name("b")})
        assert (await fetch(port)).text == "b"
        assert await at.envoy.nacks() == 0


@asynccontextmanager
async def collection_scene(resources: list[r.Json], dynamic: dict[str, object]) -> AsyncIterator[Scene]:
    """Serve resources to an Envoy that asks for collections, in which a plain cluster has no part."""
    protocol = {"hold_timeout_s": 1.0}
    settings = settings_on(protocol=protocol)
    async with Upstreams("a", "b") as upstreams, ControlPlane(settings) as control_plane:
        plain = [r.cluster("plain"), r.assignment("plain")]
        control_plane.replace({"default": [*resources, *plain, r.assignment("a-eds", upstreams.ports["a"])]})
        assert control_plane.address is not None
        bootstrap = DELTA_ADS.bootstrap(control_plane.address.port) | {"node_context_params": ["id", "cluster"]}
        fields = bootstrap["dynamic_resources"] | dynamic
        bootstrap["dynamic_resources"] = {name: value for name, value in fields.items() if value is not None}
        async with EnvoyProcess(bootstrap) as envoy:
            yield Scene(control_plane, envoy, upstreams.ports)
