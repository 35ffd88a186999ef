"""Two servers on a real etcd answer as one, through stops, kills, wrong tokens and callers with few rights."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from support.etcd import Etcd
from support.proof_fleet import ProofFleet
from support.server import XdsServer
from support.waiting import wait_until

from xds.access.tokens import create_token
from xds.client import Client

CLUSTER = {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c"}


def server_of(etcd: Etcd, name: str, *options: str, **settings: Any) -> XdsServer:
    given = {"replicas.name": name, "transport.workers": 0} | settings
    return XdsServer(None, "--store", etcd.url(), *options, settings=given, name=name)


class Scene:
    def __init__(self, servers: list[XdsServer], fleet: ProofFleet) -> None:
        self.a, self.b = servers
        self.fleet = fleet

    async def get(self, server: XdsServer, path: str) -> Any:
        return json.loads((await server.admin(path)).text)

    async def nodes(self, server: XdsServer) -> tuple[dict[str, str], list[str]]:
        """Return the replica of each node, or its state if it is gone, and the replicas that are missing."""
        found = await self.get(server, "/v1/nodes?of=known")
        return {each["id"]: each["replica"] or each["state"] for each in found["nodes"]}, found["missing_replicas"]

    async def replicas(self, server: XdsServer) -> dict[str, str]:
        return {each["name"]: each["state"] for each in (await self.get(server, "/v1/status"))["replicas"]}

    async def cluster_at(self, server: XdsServer, node_id: str) -> list[tuple[str, str]]:
        """Return the replica of each connection of a node, and how it stands to the cluster: by all ways of asking."""
        told = []
        for connection in (await self.get(server, f"/v1/nodes/{node_id}/resources"))["connections"]:
            (cluster,) = connection["resources"]
            told.append((connection["replica"], cluster["progress"]))
        differences = (await self.get(server, f"/v1/nodes/{node_id}/diff"))["connections"]
        assert [(each["replica"], each["differences"]) for each in differences] == [(each[0], []) for each in told]
        why = await self.get(server, f"/v1/nodes/{node_id}/explain?type=clusters&name=c")
        assert [(each["replica"], each["verdict"]) for each in why["explanations"]] == [
            (each[0], "has") for each in told
        ]
        return told

    async def verdict(self, server: XdsServer, of: str = "known") -> str:
        found = await self.get(server, f"/v1/revisions/1/convergence?of={of}")
        return str(found["verdict"])


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd())
        servers = [server_of(etcd, name) for name in ("a", "b")]
        for server in servers:
            await stack.enter_async_context(server)
        for server in servers:
            await server.wait_ready(60.0)
        async with Client(f"127.0.0.1:{servers[0].api_port}") as client:
            await client.apply(upsert=[CLUSTER])
        fleet = ProofFleet(2, [server.port for server in servers], seed=1)
        stack.push_async_callback(fleet.close)
        await fleet.connect()
        yield Scene(servers, fleet)


FIRST, SECOND = "sidecar-00000", "sidecar-00001"


async def test_replicas_answer_as_one_while_they_stop_and_go(scene: Scene) -> None:
    both = ({FIRST: "a", SECOND: "b"}, list[str]())
    for server in (scene.a, scene.b):
        await wait_until(lambda server=server: scene.nodes(server), equals=both)
        await wait_until(lambda server=server: scene.verdict(server), equals="reached")
    assert await scene.replicas(scene.a) == {"a": "self", "b": "ok"}
    assert await scene.replicas(scene.b) == {"b": "self", "a": "ok"}
    for server in (scene.a, scene.b):
        for node_id, replica in both[0].items():
            assert await scene.cluster_at(server, node_id) == [(replica, "sent and accepted")]

    assert scene.b.pid is not None
    scene.b.signal(signal.SIGSTOP)
    try:
        nodes, missing = await scene.nodes(scene.a)
        assert nodes == {FIRST: "a"}
        assert missing == [f"b (127.0.0.1:{scene.b.api_port}): it did not answer within 1 s (replicas.timeout_s)"]
        assert (await scene.verdict(scene.a), await scene.verdict(scene.a, "connected")) == ("pending", "reached")
        assert await scene.replicas(scene.a) == {"a": "self", "b": "silent"}
    finally:
        scene.b.signal(signal.SIGCONT)
    await wait_until(lambda: scene.nodes(scene.a), equals=both)
    await wait_until(lambda: scene.verdict(scene.a), equals="reached")

    scene.b.signal(signal.SIGTERM)  # it says so, and its node comes to the other replica
    await scene.b.wait_ended(30.0)
    moved = ({FIRST: "a", SECOND: "a"}, list[str]())
    await wait_until(lambda: scene.nodes(scene.a), equals=moved)
    await wait_until(lambda: scene.replicas(scene.a), equals={"a": "self"})
    assert await scene.verdict(scene.a) == "reached"

    scene.b.start()
    await scene.b.wait_ready(60.0)
    await wait_until(lambda: scene.nodes(scene.b), equals=moved)
    await wait_until(lambda: scene.replicas(scene.a), equals={"a": "self", "b": "ok"})
    await wait_until(lambda: scene.verdict(scene.a), equals="reached")  # which reads its nodes
    scene.b.kill()
    await wait_until(lambda: scene.nodes(scene.a), lambda found: found[1] and "can't be reached" in found[1][0])
    assert await scene.verdict(scene.a) == "pending"
    await wait_until(lambda: scene.verdict(scene.a), equals="reached", timeout_s=30.0)  # its lease is lost
    assert "its lease is lost" in (await scene.nodes(scene.a))[1][0]


async def test_the_rights_of_the_caller_hold_for_what_the_others_say(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    secret = {
        "replicas": create_token(tokens, "replicas", ("read",))[1],
        "few": create_token(tokens, "few", ("read",), ("web",))[1],
    }
    shown = tmp_path / "shown"
    shown.write_text(secret["few"])
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd())
        access = {"access.tokens_file": tokens, "replicas.token_file": shown}
        servers = [server_of(etcd, name, **access) for name in ("a", "b")]
        for server in servers:
            await stack.enter_async_context(server)
        for server in servers:
            await server.wait_ready(60.0)

        async def missing() -> tuple[str, ...]:
            async with Client(f"127.0.0.1:{servers[0].api_port}", token=secret["replicas"]) as client:
                return [found async for found in client.converge(0, timeout_s=0.0)][-1].missing_replicas

        await wait_until(missing, lambda found: found and "refuses this replica's token" in found[0])
        shown.write_text(secret["replicas"])
        await wait_until(missing, equals=())
