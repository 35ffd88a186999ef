"""``xds wait``: exit codes, what it says of nodes that lack a revision, and the same over REST."""

import asyncio
import contextlib
import json
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli.conftest import Run
from support import resources as r
from support.fetch import fetch
from support.server import XdsServer
from support.waiting import wait_until
from support.wire import DeltaClient

from xds.client import Client


@pytest.fixture(params=["0", "2"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", request.param) as server:
        await server.wait_ready()
        yield server


def kept(file: Path) -> set[str]:
    """Return the ids of the nodes that are in a file of known nodes, which is written in batches."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return {node_id for (node_id,) in database.execute("SELECT id FROM nodes")}


async def waited(xds: Run, server: XdsServer, *arguments: str) -> tuple[int, str]:
    done = await asyncio.to_thread(xds, "wait", "--api", f"127.0.0.1:{server.api_port}", *arguments)
    return done.returncode, done.stdout + done.stderr


async def test_wait_ends_when_the_last_node_has_accepted_the_revision(xds: Run, server: XdsServer) -> None:
    async with (
        Client(f"127.0.0.1:{server.api_port}") as client,
        DeltaClient(server.port, node_id="n1") as one,
        DeltaClient(server.port, node_id="n2") as two,
    ):
        await client.apply(upsert=[r.static_cluster("a", 1)])
        for node in (one, two):
            await node.subscribe(r.CLUSTER)
            await node.ack(await node.next())
        code, said = await waited(xds, server)
        assert (code, said.strip()) == (0, "revision 1: 2 of 2 nodes accepted it")

        await client.apply(upsert=[r.static_cluster("a", 2)])
        first, second = await one.next(), await two.next()
        code, said = await waited(xds, server, "--timeout", "0.5s")
        assert code == 7
        assert "revision 2: 0 of 2 nodes accepted it, 2 pending" in said
        assert "n1 (default): pending since revision 2; clusters: 1 not answered" in said
        waiting = asyncio.create_task(waited(xds, server, "--revision", "2", "--timeout", "1m"))
        await one.ack(first)
        assert (await waited(xds, server, "--quorum", "50%"))[0] == 0
        assert not waiting.done()
        await two.ack(second)
        assert (await waiting)[0] == 0


async def test_wait_names_who_rejected_a_revision_and_why(xds: Run, server: XdsServer) -> None:
    async with (
        Client(f"127.0.0.1:{server.api_port}") as client,
        DeltaClient(server.port, node_id="n1") as node,
    ):
        await client.apply(upsert=[r.static_cluster("a", 1)])
        await node.subscribe(r.CLUSTER)
        await node.nack(await node.next(), "a: no such thing")
        await wait_until(client.nodes, lambda told: [each.state for each in told.nodes] == ["rejected"])
        code, said = await waited(xds, server)
        assert code == 8
        assert "n1 (default): rejected since revision 1; it rejected clusters a: a: no such thing" in said
        assert (await waited(xds, server, "--max-rejected", "1", "--quorum", "1%", "--timeout", "0"))[0] == 7
        code, said = await waited(xds, server, "-o", "json")
        assert (code, json.loads(said)["lacking"][0]["id"]) == (8, "n1")
        answer = await fetch(server.admin_port, "/v1/revisions/1/convergence?wait_s=5")
        told = json.loads(answer.body)
        assert (told["verdict"], told["rejected"], told["lacking"][0]["since"]) == ("rejected", 1, 1)
        events = await fetch(
            server.admin_port, "/v1/revisions/1/convergence?wait_s=5", headers={"accept": "text/event-stream"}
        )
        assert "event: convergence" in events.body.decode() if isinstance(events.body, bytes) else events.body


async def test_wait_says_what_is_wrong_with_its_arguments(xds: Run, server: XdsServer) -> None:
    for arguments, words in (
        (("--quorum", "120%"), "'120%' is no share"),
        (("--timeout", "5 parsecs"), "'5 parsecs' is no time"),
        (("-g", "nobody"), "nobody"),
    ):
        code, said = await waited(xds, server, *arguments)
        assert code in (2, 4)
        assert words in said
    code, said = await waited(xds, server, "--revision", "99", "--timeout", "0.3s")
    assert code == 7
    assert "revision 99 is not served yet" in said


@pytest.mark.parametrize("server", ["0"], indirect=True)
async def test_changes_can_wait_for_the_nodes_that_they_concern(xds: Run, server: XdsServer, tmp_path: Path) -> None:
    async with (
        DeltaClient(server.port, node_id="n1") as node,
        Client(f"127.0.0.1:{server.api_port}") as client,
    ):
        await node.subscribe(r.CLUSTER)
        await node.ack(await node.next())

        async def change(*arguments: str) -> tuple[int, str]:
            done = await asyncio.to_thread(xds, *arguments, "--api", f"127.0.0.1:{server.api_port}", "--wait")
            return done.returncode, done.stdout + done.stderr

        (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
        waiting = asyncio.create_task(change("apply", "-f", "a.json"))
        response = await node.next()
        assert not waiting.done()
        await node.ack(response)
        code, said = await waiting
        assert (code, said.splitlines()[-1]) == (0, "revision 1: 1 of 1 node accepted it")

        waiting = asyncio.create_task(change("delete", "clusters/a", "--timeout", "0.5s", "-o", "json"))
        removal = await node.next()
        code, said = await waiting
        told = json.loads(said)
        assert (code, told["revision"], told["convergence"]["verdict"]) == (7, 2, "pending")
        await node.ack(removal)

        waiting = asyncio.create_task(change("rollback", "1"))
        await node.nack(await node.next(), "a: no such thing")
        code, said = await waiting
        assert (code, "n1 (default): rejected since revision 3" in said) == (8, True), said
        assert "default: revision 3, 1 added" in said, "the change is made all the same, and is printed"

        await client.put_group("canary")
        code, said = await change("apply", "-f", "a.json", "-g", "canary")
        assert (code, said.splitlines()[-1]) == (0, "revision 5: 0 of 0 nodes accepted it"), "no node of that group"
        code, said = await change("apply", "-f", "a.json", "--dry-run")
        assert (code, "leave one of them out" in said) == (2, True)


async def test_a_node_that_is_gone_is_waited_for_also_after_a_restart(xds: Run, tmp_path: Path) -> None:
    store = {"store.url": f"sqlite:///{tmp_path}/store.db"}
    async with XdsServer(None, "--workers", "2", settings=store) as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client, DeltaClient(server.port, node_id="here") as here:
            await client.apply(upsert=[r.static_cluster("a", 1)])
            await here.subscribe(r.CLUSTER)
            await here.ack(await here.next())
            async with DeltaClient(server.port, node_id="gone") as gone:
                await gone.subscribe(r.CLUSTER)
                await gone.ack(await gone.next())
            code, said = await waited(xds, server, "--timeout", "0.5s")
            assert code == 7
            assert "revision 1: 1 of 2 nodes accepted it, 1 gone" in said
            assert "gone (default): gone; it left" in said
            assert (await waited(xds, server, "--of", "connected"))[0] == 0
            assert (await waited(xds, server, "--quorum", "50%"))[0] == 0
            events = await fetch(server.admin_port, "/v1/revisions/1/convergence?of=elsewhere")
            assert events.status == 422
            await wait_until(lambda: kept(tmp_path / "store.db.nodes") == {"here", "gone"})
            server.kill()
        await server.wait_ended()
        server.start()
        await server.wait_ready()
        async with DeltaClient(server.port, node_id="gone") as gone:
            await gone.subscribe(r.CLUSTER)
            await gone.ack(await gone.next())
            code, said = await waited(xds, server, "--timeout", "0.5s")
            assert code == 7
            assert "revision 1: 1 of 2 nodes accepted it, 1 gone" in said
            assert "here (default): gone; it left" in said
            assert "the server ended" in said
    assert stat.S_IMODE((tmp_path / "store.db.nodes").stat().st_mode) == 0o600


async def test_a_node_with_two_streams_counts_once_as_the_worse_of_them(xds: Run, server: XdsServer) -> None:
    async with (
        Client(f"127.0.0.1:{server.api_port}") as client,
        DeltaClient(server.port, node_id="twice") as one,
        DeltaClient(server.port, node_id="twice") as two,
    ):
        await client.apply(upsert=[r.static_cluster("a", 1)])
        for node in (one, two):
            await node.subscribe(r.CLUSTER)
        await one.ack(await one.next())
        refused = await two.next()
        code, said = await waited(xds, server, "--timeout", "0")
        assert (code, said.splitlines()[0]) == (7, "revision 1: 0 of 1 node accepted it, 1 pending")
        await two.nack(refused, "no")
        code, said = await waited(xds, server)
        assert (code, said.splitlines()[0]) == (8, "revision 1: 0 of 1 node accepted it, 1 rejected")
        await client.apply(upsert=[r.static_cluster("a", 2)])
        for node in (one, two):
            await node.ack(await node.next())
        code, said = await waited(xds, server)
        assert (code, said.strip()) == (0, "revision 2: 1 of 1 node accepted it")
