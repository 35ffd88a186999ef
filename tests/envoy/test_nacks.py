"""A real Envoy rejects a response: which resource is to blame, by its words, or as another Envoy judges."""

from typing import Any

import pytest
from support import resources as r
from support.control_planes import app_of
from support.envoy import EnvoyProcess, envoy_binary
from support.forms import DELTA_ADS, SOTW_ADS, Form
from support.ports import free_port
from support.server import XdsServer
from support.transports import settings_on
from support.waiting import wait_until

from xds.client import Client
from xds.embed import ControlPlane
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE
from xds.protocol.status import NodesQuery

pytestmark = pytest.mark.envoy
LONG_REGEX = [{"match": {"safe_regex": {"regex": "a{1000}"}}, "route": {"cluster": "a"}}]


def first(port: int) -> list[r.Json]:
    """Return what Envoy takes: two listeners with routes to two clusters."""
    listeners = [r.listener("l1", port, "r1"), r.listener("l2", free_port(), "r2")]
    clusters = [r.cluster("a"), r.assignment("a", 1), r.cluster("b"), r.assignment("b", 1)]
    return [*listeners, r.route("r1", "a"), r.route("r2", "a"), *clusters]


def changes(port: int) -> dict[str, list[r.Json]]:
    """Return changes by type URL, of which Envoy rejects a part."""
    return {
        CLUSTER: [
            r.cluster("bad", **r.REFUSED_BY_ENVOY),
            r.cluster("bad-too", **r.REFUSED_BY_ENVOY),
            r.cluster("good"),
        ],
        LISTENER: [r.listener("clash", port, "r1"), r.listener("l3", free_port(), "r2")],
        ROUTE: [r.route("r1", "a", routes=LONG_REGEX), r.route("r2", "b")],
        ENDPOINTS: [r.refused_assignment("a", 2)],
    }


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
async def test_envoys_words_name_the_resources_at_fault(form: Form) -> None:
    port = free_port()
    async with ControlPlane(settings_on()) as control_plane:
        control_plane.replace({"default": first(port)})
        assert control_plane.address is not None
        async with EnvoyProcess(form.bootstrap(control_plane.address.port)) as envoy:
            await envoy.wait_live()

            async def blamed() -> dict[str, tuple[tuple[str, ...], str]]:
                (node,) = (await app_of(control_plane).nodes(NodesQuery())).nodes
                return {each.type_url: (each.blamed, each.blamed_by.value) for each in node.types if each.nacked}

            for type_url, bad in changes(port).items():
                more = [r.assignment(each["name"], 1) for each in bad] if type_url == CLUSTER else []
                control_plane.apply(upsert=[*bad, *more])
                await wait_until(blamed, lambda found, wanted=type_url: wanted in found)
            assert await blamed() == {
                CLUSTER: (("bad", "bad-too"), "client"),
                LISTENER: (("clash",), "client"),
                ROUTE: ((), "unknown"),
                ENDPOINTS: (("a",), "only"),
            }


@pytest.mark.parametrize("workers", [0, 2])
async def test_an_envoy_that_is_asked_finds_what_the_words_do_not_name(workers: int) -> None:
    settings: dict[str, Any] = {
        "validation.attribute_nacks": "on",
        "validation.envoy_path": envoy_binary(),
        "transport.kind": "native",
        "transport.workers": workers,
    }
    async with XdsServer(None, settings=settings) as server, Client(f"127.0.0.1:{server.api_port}") as client:
        await server.wait_ready()
        await client.apply(upsert=first(free_port()))
        async with EnvoyProcess(DELTA_ADS.bootstrap(server.port)) as envoy:
            await envoy.wait_live()
            made = await client.apply(upsert=[r.route("r1", "a", routes=LONG_REGEX), r.route("r2", "b")])
            (line,) = await server.wait_event("nack")
            assert (line["type"], line["blamed"], line["blamed_by"]) == ("routes", ["r1"], "judge")
            assert (line["resources"], line["count"], line["nodes"]) == (["r1", "r2"], 1, ["n1"])
            (node,) = (await client.nodes()).nodes
            told = {each.type: (each.blamed, each.blamed_by) for each in node.types if each.nacked}
            assert told == {"routes": (("r1",), "judge")}
            answer = (await server.admin(f"/v1/revisions/{made.revision}/convergence?wait_s=5")).text
            assert "it rejected routes r1 (an Envoy that was asked refuses it): regex" in answer
            assert "unknown fields" not in server.log()
