"""What Envoy rejects, lacks or loses: everything else flows on, nothing is sent over and over, and a fix goes live.

The bad resources here are well-formed and pass every rule of the schema: only Envoy knows that it can't use them.
"""

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support import resources as r
from support.control_planes import app_of
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, SOTW_ADS, Form
from support.pki import Authority
from support.ports import free_port
from support.transports import settings_on
from support.upstream import Upstreams
from support.waiting import for_a_while_blocking, stays, wait_until

from xds.embed import ControlPlane, GroupTable

pytestmark = pytest.mark.envoy

BOTH = pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
WRAPPER = r.TYPE + "envoy.service.discovery.v3.Resource"


@dataclass(frozen=True, slots=True)
class Scene:
    """A control plane in this process and one Envoy of it; what is served at first answers on the listener ``l1``."""

    control_plane: ControlPlane
    envoy: EnvoyProcess
    ports: dict[str, int]

    def apply(self, *resources: r.Json, remove: Iterable[tuple[str, str]] = ()) -> None:
        """Publish resources."""
        self.control_plane.apply(upsert=resources, remove=remove)

    async def wait_quiet(self) -> None:
        """Wait until Envoy has answered all it was sent, with an ACK or a NACK."""
        hub = app_of(self.control_plane).hub
        await wait_until(
            lambda: (hub.counters.responses, hub.counters.acks, hub.counters.nacks),
            lambda counts: counts[0] <= counts[1] + counts[2],
            timeout_s=5,
        )

    async def wait_nack(self, count: int = 1) -> None:
        """Wait until the server was told of so many NACKs."""
        await wait_until(
            lambda: app_of(self.control_plane).hub.counters.nacks, lambda nacks: nacks >= count, timeout_s=5
        )

    async def assert_rejected_once(self, kind: str) -> None:
        """Assert that Envoy rejected one response in all, of this kind of subscription, and is not sent it again.

        Every subscription of the kind counts it (each route configuration has its own).
        """
        await self.wait_quiet()
        hub = app_of(self.control_plane).hub
        # Any reason to send it again would have come with the changes that others made meanwhile.
        await stays(lambda: hub.counters.responses, equals=hub.counters.responses, for_s=0.2)
        rejected = {name: value for name, value in (await self.envoy.stats("update_rejected$")).items() if value}
        assert set(rejected.values()) == {1}, rejected
        assert all(kind in name for name in rejected)
        assert app_of(self.control_plane).hub.counters.nacks == 1


@asynccontextmanager
async def scene(form: Form, *more: r.Json, external: tuple[str, ...] = (), live: bool = True) -> AsyncIterator[Scene]:
    """Serve a path to the upstream ``a``, and more, to one Envoy."""
    async with Upstreams("a", "b") as upstreams, ControlPlane(settings_on()) as control_plane:
        resources = [*r.path_through(port=free_port(), upstream_port=upstreams.ports["a"]), *more]
        control_plane.replace({"default": resources}, rules=GroupTable(external=external))
        assert control_plane.address is not None
        async with EnvoyProcess(form.bootstrap(control_plane.address.port)) as envoy:
            if live:
                await envoy.wait_live()
            yield Scene(control_plane, envoy, upstreams.ports)


async def answer(envoy: EnvoyProcess, listener: str = "l1") -> str:
    """Return what a request through a listener is answered with."""
    return (await fetch(await envoy.listener_port(listener))).text


async def wait_answer(envoy: EnvoyProcess, text: str, before: str, listener: str = "l1") -> None:
    """Wait until requests are answered by another upstream than before, and see to it that no third answer comes."""

    def is_over(said: str) -> bool:
        assert said in (before, text)
        return said == text

    await wait_until(lambda: answer(envoy, listener), is_over, timeout_s=5, poll_s=0.002)


@BOTH
async def test_a_cluster_that_envoy_rejects_stops_nothing_else(form):
    async with scene(form) as at:
        bad = r.cluster("bad", **r.REFUSED_BY_ENVOY)
        good = [r.cluster("b"), r.assignment("b", at.ports["b"])]
        at.apply(bad, r.assignment("bad", at.ports["b"]), *good)
        await at.wait_nack()
        await at.envoy.wait_names("clusters", {"a", "b"})
        at.apply(r.cluster("later"), r.assignment("later", at.ports["b"]))
        await at.envoy.wait_names("clusters", {"a", "b", "later"})
        at.apply(r.route("r1", "b"))
        await wait_answer(at.envoy, "b", before="a")
        if form is DELTA_ADS:  # in SotW the bad one is in every response, and so is every one of them rejected
            await at.assert_rejected_once("cds")
        at.apply(r.cluster("bad"))
        await at.envoy.wait_names("clusters", {"a", "b", "later", "bad"})
        nacks = await at.envoy.nacks()
        at.apply(r.cluster("last"), r.assignment("last", at.ports["b"]))
        await at.envoy.wait_names("clusters", {"a", "b", "later", "bad", "last"})
        await at.wait_quiet()
        assert await at.envoy.nacks() == nacks


@BOTH
async def test_a_listener_that_clashes_stops_nothing_else(form):
    async with scene(form) as at:
        port = await at.envoy.listener_port("l1")
        at.apply(r.listener("l2", port, "r1"))
        await at.wait_nack()
        at.apply(r.route("r1", "b"), r.cluster("b"), r.assignment("b", at.ports["b"]))
        await wait_answer(at.envoy, "b", before="a")
        await at.assert_rejected_once("lds")
        at.apply(r.listener("l2", free_port(), "r1"))
        await at.envoy.wait_names("listeners", {"l1", "l2"})
        assert await answer(at.envoy, "l2") == "b"


@BOTH
async def test_a_route_that_envoy_rejects_stops_nothing_else(form):
    more = [r.route("r2", "a"), r.listener("l2", 0, "r2")]
    async with scene(form, *more) as at:
        at.apply(
            r.route("r1", "a", routes=[{"match": {"safe_regex": {"regex": "a{1000}"}}, "route": {"cluster": "a"}}])
        )
        await at.wait_nack()
        at.apply(r.cluster("b"), r.assignment("b", at.ports["b"]))
        await at.envoy.wait_names("clusters", {"a", "b"})
        at.apply(r.route("r2", "b"))
        await wait_answer(at.envoy, "b", before="a", listener="l2")
        assert await answer(at.envoy) == "a"
        await at.assert_rejected_once("rds")
        at.apply(r.route("r1", "b"))
        await wait_answer(at.envoy, "b", before="a")


@BOTH
async def test_endpoints_that_envoy_rejects_leave_the_old_ones_in_use(form):
    async with scene(form) as at:
        at.apply(r.refused_assignment("a", at.ports["b"]))
        await at.wait_nack()
        assert await answer(at.envoy) == "a"
        at.apply(r.cluster("b"), r.assignment("b", at.ports["b"]))
        await at.envoy.wait_hosts("b", {at.ports["b"]})
        await at.assert_rejected_once("cluster.a")
        at.apply(r.assignment("a", at.ports["b"]))
        await at.envoy.wait_hosts("a", {at.ports["b"]})
        assert await answer(at.envoy) == "b"


@BOTH
async def test_a_certificate_that_envoy_rejects_leaves_the_old_one_in_use(form, tmp_path):
    authority = Authority(tmp_path)
    pair = authority.server()
    more = [r.listener("tls", 0, "r1", tls=r.downstream_tls("s1")), r.secret("s1", pair.cert_text, pair.key_text)]
    async with scene(form, *more) as at:
        context, port = authority.client_context(), await at.envoy.listener_port("tls")
        other, weak = authority.server("other"), authority.server("weak", weak=True)
        at.apply(r.secret("s1", weak.cert_text, weak.key_text))
        await at.wait_nack()
        assert (await fetch(port, tls=context)).text == "a"
        at.apply(r.cluster("b"), r.assignment("b", at.ports["b"]))
        await at.envoy.wait_names("clusters", {"a", "b"})
        await at.assert_rejected_once("sds")
        at.apply(r.secret("s1", other.cert_text, other.key_text))
        await at.envoy.wait_config(lambda dump: str(dump).count("s1"))
        await at.wait_quiet()
        assert (await fetch(port, tls=context)).text == "a"
        assert app_of(at.control_plane).hub.counters.nacks == 1


@BOTH
async def test_a_route_to_a_cluster_that_envoy_rejected_is_held_until_it_has_one(form):
    async with scene(form) as at:
        at.apply(r.cluster("b", **r.REFUSED_BY_ENVOY), r.assignment("b", at.ports["b"]), r.route("r1", "b"))
        await at.wait_nack()
        await at.wait_quiet()
        assert await answer(at.envoy) == "a"
        at.apply(r.cluster("b"))
        await wait_answer(at.envoy, "b", before="a")


async def handshake(port: int, context: ssl.SSLContext) -> str | None:
    """Return what a request by TLS is answered with, None if there was no connection."""
    try:
        return (await fetch(port, tls=context)).text
    except OSError:
        return None


def patience(form: Form, seconds: float = 15.0) -> r.Json:
    """Return a config source on which delta waits for its default timeout, so that SotW alone has to be shortened."""
    return r.ads() | {"initial_fetch_timeout": f"{seconds if form is DELTA_ADS else 0.5}s"}


@BOTH
async def test_unknown_endpoints_keep_no_envoy_waiting(form):
    """In SotW silence is all there is, so that Envoy waits for its fetch timeout."""
    async with scene(form, r.cluster("e", source=patience(form)), external=("endpoints/e",), live=False) as at:
        assert await at.envoy.wait_live() < 3_000
        assert await answer(at.envoy) == "a"
        at.apply(r.assignment("e", at.ports["b"]))
        await at.envoy.wait_hosts("e", {at.ports["b"]})


@BOTH
async def test_an_unknown_secret_keeps_no_envoy_waiting(form, tmp_path):
    authority = Authority(tmp_path)
    pair = authority.server()
    listener = r.listener("tls", 0, "r1", tls=r.downstream_tls("s1", source=patience(form)))
    async with scene(form, listener, external=("secrets/s1",), live=False) as at:
        assert await at.envoy.wait_live() < 3_000
        assert await answer(at.envoy) == "a"
        at.apply(r.secret("s1", pair.cert_text, pair.key_text))
        port, context = await at.envoy.listener_port("tls"), authority.client_context()

        def is_over(said: str | None) -> bool:
            assert said in (None, "a")  # it is reset as long as there is no certificate
            return said == "a"

        await wait_until(lambda: handshake(port, context), is_over, timeout_s=5, poll_s=0.002)


@BOTH
async def test_an_unknown_route_is_waited_for_no_longer_than_the_fetch_timeout_and_comes_later(form):
    """Were it answered as missing, Envoy would wait for ever."""
    source = r.ads() | {"initial_fetch_timeout": "0.5s"}
    async with scene(form, r.listener("l2", 0, "later", source=source), external=("routes/later",), live=False) as at:
        assert 500 < await at.envoy.wait_live() < 3_000
        assert (await fetch(await at.envoy.listener_port("l2"))).status == 404
        at.apply(r.route("later", "a"))
        await wait_answer(at.envoy, "a", before="", listener="l2")


def mortal(resource: r.Json, ttl_s: int) -> dict[str, Any]:
    """Return a resource that a client forgets unless it hears of it."""
    return {"@type": WRAPPER, "name": r.name_of(resource), "ttl": f"{ttl_s}s", "resource": resource}


@BOTH
async def test_heartbeats_keep_a_mortal_cluster_alive_and_without_them_it_goes(form):
    async with scene(form) as at:
        at.apply(mortal(r.cluster("b"), 1), r.assignment("b", at.ports["b"]), r.route("r1", "b"))
        await at.envoy.wait_names("clusters", {"a", "b"})
        requests = app_of(at.control_plane).hub.counters.requests
        await stays(lambda: answer(at.envoy), equals="b", for_s=3.0, poll_s=0.02)
        # About three heartbeats a second, each of them ACKed.
        assert 6 <= app_of(at.control_plane).hub.counters.requests - requests <= 12
        assert await at.envoy.nacks() == 0
        await at.control_plane.stop()
        await at.envoy.wait_names("clusters", {"a"}, timeout_s=3.0)


@BOTH
async def test_a_mortal_cluster_that_expired_while_the_server_stood_still_comes_back(form):
    async with scene(form) as at:
        at.apply(mortal(r.static_cluster("t", at.ports["b"]), 1))
        await at.envoy.wait_names("clusters", {"a", "t"})
        for_a_while_blocking(2.5, "this process is the server: nothing is renewed meanwhile, as after SIGSTOP")
        await at.envoy.wait_names("clusters", {"a", "t"}, timeout_s=5.0)
        await stays(lambda: clusters_of(at.envoy), equals={"a", "t"}, for_s=1.5, poll_s=0.1)
        # On delta, one renewal is of a version that Envoy no longer has. On SotW renewals have bodies.
        assert (app_of(at.control_plane).hub.counters.nacks > 0) is (form is DELTA_ADS)


async def test_no_ttl_ends_an_envoy_on_sotw(tmp_path):
    """It crashes when that of endpoints, routes, scoped routes or secrets runs out (docs/envoy-behaviour.md#ttl)."""
    pair = Authority(tmp_path).server()
    scoped = r.listener("scoped", 0, "r1")
    manager = scoped["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["scoped_routes"] = {
        "name": "scopes",
        "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "x-scope", "index": 0}}]},
        "rds_config_source": r.ads(),
        "scoped_rds": {"scoped_rds_config_source": r.ads()},
    }
    scope = {"name": "one", "route_configuration_name": "r1", "key": {"fragments": [{"string_key": "one"}]}}
    mortals = [
        {"@type": r.TYPE + "envoy.config.route.v3.ScopedRouteConfiguration"} | scope,
        r.secret("s1", pair.cert_text, pair.key_text),
        r.cluster("b"),
        r.assignment("b", 1),
        r.route("r2", "b"),
    ]
    tls = r.listener("tls", 0, "r2", tls=r.downstream_tls("s1", source=r.ads()))
    async with scene(SOTW_ADS, tls, scoped, *(mortal(each, 1) for each in mortals)) as at:
        await at.wait_quiet()
        for_a_while_blocking(2.5, "this process is the server: nothing is renewed meanwhile, as after SIGSTOP")
        assert await answer(at.envoy) == "a"
        assert await at.envoy.nacks() == 0


async def clusters_of(envoy: EnvoyProcess) -> set[str]:
    """Return the names of an Envoy's dynamic clusters."""
    return (await envoy.dynamic_names())["clusters"]
