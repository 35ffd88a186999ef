"""A route configuration of 21 MB goes all the way: push API, store, worker, stream, Envoy; also after a restart."""

from pathlib import Path

import httpx
import pytest
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, SOTW_ADS
from support.server import XdsServer
from support.upstream import Upstreams
from support.waiting import wait_until

from xds.client import Client

pytestmark = pytest.mark.envoy

ROUTES, PATH_CHARS = 2_100, 10_000
TIMEOUT_S = 60.0


def large_routes(to: str) -> r.Json:
    """Return a route configuration of 21 MB, by whose last route everything goes to a cluster."""
    paths = [f"/{number}/" + "x" * PATH_CHARS for number in range(ROUTES)]
    return r.route("r1", to, routes=[{"match": {"path": path}, "route": {"cluster": to}} for path in paths])


def scene(ports: dict[str, int]) -> list[r.Json]:
    clusters = [each for name in "ab" for each in (r.cluster(name), r.assignment(name, ports[name]))]
    return [*clusters, r.listener("l1", 0, "r1")]


async def served(envoy: EnvoyProcess) -> str:
    return (await fetch(await envoy.listener_port("l1"))).text


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
async def test_a_route_configuration_of_21_mb_reaches_envoy(form):
    async with Upstreams("a", "b") as upstreams, XdsServer(None, "--workers", "1") as server:
        await server.wait_ready(TIMEOUT_S)
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(upsert=[*scene(upstreams.ports), large_routes("a")])
        (warning,) = await server.wait_event("a large resource")
        assert (warning["resource"], warning["size_bytes"] > 20_000_000) == ("routes/r1", True)
        async with EnvoyProcess(form.bootstrap(server.port)) as envoy:
            await envoy.wait_live(TIMEOUT_S)
            assert await served(envoy) == "a"
            url = f"http://127.0.0.1:{server.admin_port}/v1/groups/default/resources/routes/r1"
            async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
                answer = await http.put(url, json=large_routes("b"))
            assert answer.status_code == 200, answer.text
            await envoy.wait_stat("http.r1.rds.r1.update_success", 2, timeout_s=TIMEOUT_S)
            assert await served(envoy) == "b"
            assert await envoy.nacks() == 0
        server.kill()
        server.start()
        await server.wait_ready(TIMEOUT_S)
        async with EnvoyProcess(form.bootstrap(server.port)) as envoy:
            await envoy.wait_live(TIMEOUT_S)
            assert await served(envoy) == "b"


async def test_a_resource_beyond_the_set_limit_is_refused_on_every_way_in(tmp_path: Path):
    routes = r.route("r1", routes=[{"match": {"path": "/" + "x" * 100_000}, "direct_response": {"status": 204}}])
    settings = {"protocol.resource_bytes_max": 100_000}
    async with XdsServer(None, settings=settings) as server:
        await server.wait_ready()
        url = f"http://127.0.0.1:{server.admin_port}/v1/groups/default/resources/routes/r1"
        async with httpx.AsyncClient() as http:
            answer = await http.put(url, json=routes)
        assert answer.status_code == 422
        assert "protocol.resource_bytes_max" in answer.text
    r.write_directory(tmp_path, [routes])
    async with XdsServer(tmp_path, settings=settings) as server:
        await wait_until(lambda: not server.running, timeout_s=TIMEOUT_S)
        assert "protocol.resource_bytes_max" in server.log()
