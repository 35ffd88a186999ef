"""Every server of the comparison serves the same resources, and a push changes exactly one of them."""

import asyncio
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from support import resources as r
from support import toolchains
from support.wire import DeltaClient

from bench.compare.servers import KINDS, OURS, Kind, Resources, Running, WorkersMissingError, running
from bench.peers.build import ToolchainMissingError
from bench.serve import Workload
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema

SMALL = Resources(clusters=5, routes=2, endpoints=3)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    kind: Kind = request.param
    try:
        kind.command()
    except WorkersMissingError as missing:
        pytest.skip(str(missing))
    except ToolchainMissingError as missing:
        toolchains.without(missing)
    with running(kind, SMALL) as started:
        yield started


def message(type_url: str, body: bytes) -> Any:
    return load_schema().message_class(type_url.removeprefix(r.TYPE)).FromString(body)


def expected(workload: Workload) -> dict[str, dict[str, Any]]:
    """Return the messages of the workload before its first push, by type and name."""
    found: dict[str, dict[str, Any]] = {}
    for item in workload.initial():
        resource = ingest(item)
        wire = load_schema().message_class("envoy.service.discovery.v3.Resource").FromString(resource.encoded)
        found.setdefault(resource.type_url, {})[resource.name] = message(resource.type_url, wire.resource.value)
    return found


def held(client: DeltaClient) -> dict[str, dict[str, Any]]:
    return {
        type_url: {name: message(type_url, body) for name, body in client.bodies(type_url).items()}
        for type_url in client.view
    }


async def push(server: Running) -> None:
    def get() -> int:
        with urllib.request.urlopen(server.trigger, timeout=10) as answer:
            return int(answer.status)

    assert await asyncio.to_thread(get) == 200


async def subscribe_to_all(client: DeltaClient) -> None:
    """Subscribe as the fleet does: clusters by wildcard, then the rest by name."""
    await client.subscribe(r.CLUSTER)
    await client.take()
    await client.subscribe(r.ENDPOINTS, *sorted(client.view[r.CLUSTER]))
    await client.take_until(lambda: len(client.view.get(r.ENDPOINTS, {})) == SMALL.clusters)
    await client.subscribe(r.ROUTE, *(f"route-{i}" for i in range(SMALL.routes)))
    await client.take_until(lambda: len(client.view.get(r.ROUTE, {})) == SMALL.routes)


async def test_all_serve_the_same_and_a_push_changes_one_assignment(server: Running) -> None:
    workload = Workload(clusters=SMALL.clusters, routes=SMALL.routes, endpoints=SMALL.endpoints)
    should = expected(workload)
    async with DeltaClient(server.port) as client:
        await subscribe_to_all(client)
        assert held(client) == should
        for _ in range(2 * SMALL.clusters + 1):  # more than one round, so that the same name changes again
            changed = workload.next_change()
            should[r.ENDPOINTS][changed.cluster_name] = message(r.ENDPOINTS, changed.SerializeToString())
            await push(server)
            response = await client.take()
            assert (response.type_url, response.names, response.removed) == (
                r.ENDPOINTS, {changed.cluster_name}, (),
            )  # fmt: skip
            assert held(client) == should
        await client.quiet()


async def test_a_newcomer_after_pushes_gets_what_the_others_have(server: Running) -> None:
    async with DeltaClient(server.port, node_id="before") as before:
        await subscribe_to_all(before)
        await push(server)
        await before.take()
        async with DeltaClient(server.port, node_id="newcomer") as newcomer:
            await subscribe_to_all(newcomer)
            assert held(newcomer) == held(before)


@pytest.mark.parametrize(("path", "status"), [("/push?x", 404), ("/", 404)])
def test_ours_pushes_for_nothing_but_get_push(path: str, status: int) -> None:
    with running(OURS, SMALL) as started:
        request = urllib.request.Request(started.trigger.removesuffix("/push") + path)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        with error.value as answer:
            assert answer.status == status


def test_a_server_that_ends_at_once_is_reported_with_what_it_said() -> None:
    with pytest.raises(Exception, match="routes from 0 to the number of clusters"), running(OURS, Resources(1, 2, 1)):
        pass
