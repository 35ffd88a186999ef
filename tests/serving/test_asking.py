"""What operators ask of a running server: its status, its nodes, one node, and why a node has a resource or not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
from support import resources as r
from support.server import XdsServer
from support.waiting import wait_until
from support.wire import DeltaClient

from xds.client import Client, NotFoundError


@pytest.fixture(params=["0", "2"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", request.param) as server:
        await server.wait_ready()
        yield server


async def states(client: Client, **query: object) -> list[tuple[str, str]]:
    found = await client.nodes(**query)  # type: ignore[arg-type]
    return [(each.id, each.state) for each in found.nodes]


async def rest(server: XdsServer, path: str) -> dict:
    return json.loads((await server.admin(path)).text)


async def test_a_change_is_followed_from_the_fleet_to_one_field(server: XdsServer) -> None:
    async with (
        Client(f"127.0.0.1:{server.api_port}") as client,
        DeltaClient(server.port, node_id="one", cluster="web") as one,
        DeltaClient(server.port, node_id="two", cluster="web") as two,
    ):
        await client.apply(upsert=[r.static_cluster("a", 1)], group="web")
        for node in (one, two):
            await node.subscribe(r.CLUSTER)
            while not (response := await node.next()).resources:
                await node.ack(response)
            await node.ack(response)
        await wait_until(lambda: states(client), equals=[("one", "accepted"), ("two", "accepted")])
        await client.apply(upsert=[r.static_cluster("a", 2)], group="web")
        await two.ack(await two.next())
        await one.nack(await one.next(), "a: no such thing")
        await wait_until(lambda: states(client), equals=[("one", "rejected"), ("two", "accepted")])

        status = await client.status()
        (group,) = [each for each in status["groups"] if each["name"] == "web"]
        counts = [group[key] for key in ("revision", "nodes", "accepted", "pending", "rejected", "gone")]
        assert (counts, group["oldest_unaccepted"]["revision"]) == ([2, 2, 1, 0, 1, 0], 2)
        assert time.time() - group["oldest_unaccepted"]["at_ms"] / 1_000 < 60
        assert status["groups"] == (await rest(server, "/v1/status"))["groups"]

        (found,) = (await client.nodes(id="one")).nodes
        assert (found.accepted_revision, found.address.startswith("127.0.0.1:")) == (1, True)
        assert (await states(client, search="TWO"), await states(client, state="rejected")) == (
            [("two", "accepted")],
            [("one", "rejected")],
        )
        first = await client.nodes(limit=1)
        assert [each.id for each in first.nodes] == ["one"]
        assert ((await client.nodes(limit=1, cursor=first.next)).nodes[0].id, first.total) == ("two", 2)

        node = await client.inspect("one")
        (held,) = node["connections"][0]["resources"]
        assert (held["sent"] == held["wanted"] != held["accepted"], held["waits"][0]["code"]) == (True, "rejected")
        assert [(each["names"], each["message"]) for each in node["nacks"]] == [(["a"], "a: no such thing")]
        assert node == await rest(server, "/v1/nodes/one/resources") | {"connections": node["connections"]}

        (differs,) = (await client.inspect("one", differs=True))["connections"][0]["differences"]
        (field,) = differs["fields"]
        assert (field["path"].endswith("port_value"), field["before"], field["after"]) == (True, 1, 2)
        (accepted,) = (await client.inspect("two"))["connections"]
        assert (await client.inspect("two", differs=True))["connections"][0]["differences"] == []
        assert accepted["resources"][0]["accepted"] == held["wanted"]

        why = await client.explain("one", "clusters", "a")
        codes = [step["code"] for step in why["explanations"][0]["steps"]]
        assert codes == ["by_cluster", "group_has", "subscribed", "waits", "nacked", "accepted_older"]
        assert why["explanations"][0]["verdict"] == "has_other"
        answer = await rest(server, "/v1/nodes/one/explain?type=cds&name=a")
        assert [step["code"] for step in answer["explanations"][0]["steps"]] == codes
        lacks = await client.explain("two", "routes", "r")
        assert [step["code"] for step in lacks["explanations"][0]["steps"]] == ["by_cluster", "group_lacks", "no_type"]
    await left(client_port=server.api_port)


async def left(*, client_port: int) -> None:
    """Check what is told of the two nodes after they have left."""
    async with Client(f"127.0.0.1:{client_port}") as client:
        await wait_until(lambda: states(client, known=True, state="gone"), equals=[("one", "gone"), ("two", "gone")])
        assert await states(client) == []
        (group,) = [each for each in (await client.status())["groups"] if each["name"] == "web"]
        assert (group["nodes"], group["gone"]) == (2, 2)
        (gone,) = (await client.nodes(id="one", known=True)).nodes
        assert (gone.group, gone.accepted_revision, bool(gone.left_because)) == ("web", 1, True)
        found = await client.inspect("one")
        assert (found["connections"], found["nacks"][0]["message"]) == ([], "a: no such thing")
        would = (await client.explain("one", "clusters", "a"))["explanations"][0]
        assert (would["verdict"], would["steps"][0]["code"]) == ("would_get", "node_gone")
        nobody = (await client.explain("nobody", "clusters", "a"))["explanations"][0]
        assert (nobody["verdict"], [step["code"] for step in nobody["steps"]]) == ("unknown", ["node_unknown"])
        with pytest.raises(NotFoundError):
            await client.inspect("nobody")


async def test_ids_with_slashes_are_told_from_what_is_asked_of_a_node(server: XdsServer) -> None:
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        await client.apply(upsert=[r.static_cluster("a", 1)])
        async with DeltaClient(server.port, node_id="a/resources") as node:
            await node.subscribe(r.CLUSTER)
            await wait_until(client.nodes, lambda told: len(told.nodes) == 1)
            assert (await rest(server, "/v1/nodes/a%2Fresources"))["nodes"][0]["id"] == "a/resources"
            assert (await rest(server, "/v1/nodes/a%2Fresources/resources"))["id"] == "a/resources"
            assert (await server.admin("/v1/nodes/a/resources")).status == 404


async def test_pages_are_right_over_workers_while_nodes_come_and_go(server: XdsServer) -> None:
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        await client.apply(upsert=[r.static_cluster("a", 1)])
        stay = [DeltaClient(server.port, node_id=f"n{number:02}") for number in range(0, 20, 2)]
        come = [DeltaClient(server.port, node_id=f"n{number:02}") for number in range(1, 20, 2)]
        await asyncio.gather(*(each.open() for each in stay))
        await asyncio.gather(*(each.subscribe(r.CLUSTER) for each in stay))
        await wait_until(lambda: states(client), lambda told: len(told) == 10)
        seen: list[str] = []
        cursor, more = "", True
        while more:
            page = await client.nodes(limit=3, cursor=cursor)
            seen += [each.id for each in page.nodes]
            cursor, more = page.next, bool(page.next)
            if come:
                other = come.pop()
                await other.open()
                await other.subscribe(r.CLUSTER)
                stay.append(other)
        assert [each for each in seen if int(each[1:]) % 2 == 0] == [f"n{number:02}" for number in range(0, 20, 2)]
        assert len(set(seen)) == len(seen)
        assert seen == sorted(seen)
        for each in stay:
            await each.__aexit__(None, None, None)
