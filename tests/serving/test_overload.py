"""A real server past its capacity, with worker processes: what it sheds, what it says, and that it recovers."""

import asyncio
import re
from contextlib import AsyncExitStack

import grpc
from support import resources as r
from support.cgroup import MemoryCgroup
from support.server import XDS, XdsServer
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient, StreamEnded

from xds.client import Client, UnavailableError
from xds.serving.memory_watch import LOOK_EVERY_S

MIB = 1024 * 1024
CALM = {"overload.slow_ratio": 0.8, "overload.shed_ratio": 0.9, "overload.refuse_ratio": 0.95}


async def limit_hits(server: XdsServer) -> dict[str, int]:
    """Return the limits that were reached, with their counts."""
    text = (await server.admin("/metrics")).text
    found = re.findall(r'^xds_limit_hits_total\{limit="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {limit: int(float(count)) for limit, count in found if float(count)}


async def ask(client: DeltaClient) -> str:
    """Return "served", or the status with which the client's stream ended."""
    await client.subscribe(r.CLUSTER)
    try:
        await client.take()
    except StreamEnded as end:
        return end.code.name
    return "served"


async def cli(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        XDS, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_streams_beyond_the_limit_of_each_worker_are_shed_and_counted_together(tmp_path):
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    settings = {"transport.kind": "native", "transport.workers": 2, "transport.streams_max": 2}
    async with XdsServer(tmp_path, settings=settings) as server, AsyncExitStack() as stack:
        await server.wait_ready()
        said: list[str] = []
        while said.count("served") < 4 or len(said) < 10:
            client = await stack.enter_async_context(DeltaClient(server.port, node_id=f"n{len(said)}"))
            said.append(await ask(client))
            assert len(said) < 200, said
        assert set(said) == {"served", "UNAVAILABLE"}
        assert said.count("served") == 4
        assert await limit_hits(server) == {"streams": said.count("UNAVAILABLE")}
        metrics = await server.metrics()
        assert (metrics["xds_streams"], metrics["xds_streams_opened_total"]) == (4, 4)


async def test_a_server_with_too_little_memory_says_so_everywhere_and_serves_what_it_serves(tmp_path):
    """``memory_bytes_max`` is divided among three processes, each of which needs more than that from the start."""
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    settings = {"transport.kind": "native", "transport.workers": 2, "overload.memory_bytes_max": 33 * MIB}
    async with XdsServer(tmp_path, settings=settings) as server:
        await server.wait_ready()
        (line,) = await server.wait_event("memory is short")
        assert line["now"] == "new streams are shed, and changes are refused"
        ready = await server.admin("/readyz")
        assert ready.status == 200
        assert re.fullmatch(
            r"ready, but memory is short \(\d+ of 11 MiB, \d+%\): new streams are shed, and changes are refused",
            ready.text,
        )
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.CLUSTER)
            end = await client.ended()
        assert (end.code, end.details) == (
            grpc.StatusCode.UNAVAILABLE,
            "this server is short of memory (overload.shed_ratio); try again later",
        )
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=0.1) as api:
            try:
                await api.apply(upsert=[r.static_cluster("b", 1)], group="pushed")
            except UnavailableError as error:
                refused = str(error)
            assert "changes are refused: memory is short (" in refused
            assert "nothing was changed" in refused
        code, _, problems = await cli("status", "--api", f"127.0.0.1:{server.api_port}")
        assert (code, "the server serves, but memory is short (" in problems) == (0, True)
        metrics = await server.metrics()
        assert metrics["xds_memory_pressure"] == 3
        assert metrics["xds_memory_limit_bytes"] == 11 * MIB
        assert metrics["xds_memory_used_bytes"] > 11 * MIB
        hits = await limit_hits(server)
        assert hits["memory"] == 1
        assert hits["memory_changes"] >= 1
        assert len(server.events("memory is short")) == 1


async def test_in_a_cgroup_that_fills_up_admission_slows_then_new_streams_are_shed_then_all_is_well_again(tmp_path):
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    limit_bytes = 700 * MIB
    with MemoryCgroup(limit_bytes) as cgroup:
        server = XdsServer(tmp_path, settings={"transport.kind": "native", "transport.workers": 2} | CALM)
        server.argv = cgroup.argv(server.argv)
        async with server, AsyncExitStack() as stack:
            await server.wait_ready()
            early = await stack.enter_async_context(DeltaClient(server.port, node_id="early"))
            assert await ask(early) == "served"
            assert (await server.metrics())["xds_memory_pressure"] == 0

            async def fill_to(share: float, pressure: int) -> None:
                reading = await server.metrics()
                cgroup.hold(int(share * limit_bytes - reading["xds_memory_used_bytes"]))
                await server.wait_metrics(lambda said: said["xds_memory_pressure"] == pressure)

            await fill_to(0.85, 1)
            slow = await stack.enter_async_context(DeltaClient(server.port, node_id="slow"))
            assert await ask(slow) == "served"
            await fill_to(0.92, 2)
            assert "new streams are shed" in (await server.admin("/readyz")).text
            await for_a_while(LOOK_EVERY_S, "the other processes look too")
            for number in range(6):  # whichever worker the kernel gives it to
                async with DeltaClient(server.port, node_id=f"late{number}") as late:
                    assert await ask(late) == "UNAVAILABLE"
            r.write_file(tmp_path / "more.yaml", [r.static_cluster("b", 1)])
            assert (await early.take()).names == {"b"}
            cgroup.release()
            await server.wait_metrics(lambda said: said["xds_memory_pressure"] == 0)
            again = await stack.enter_async_context(DeltaClient(server.port, node_id="again"))
            assert await ask(again) == "served"
        events = [(each["event"], each["now"]) for each in server.events() if "memory" in each["event"]]
        assert [event for event, _ in events] == ["memory is short", "memory is short", "memory is no longer short"]


async def test_connections_are_moved_off_all_workers_and_their_clients_lose_nothing(tmp_path):
    r.write_directory(tmp_path, [r.static_cluster("a", 1), r.static_cluster("b", 1)])
    settings = {"transport.kind": "native", "transport.workers": 2}
    async with XdsServer(tmp_path, settings=settings) as server, AsyncExitStack() as stack:
        await server.wait_ready()
        clients = [DeltaClient(server.port, node_id=f"n{number}") for number in range(20)]
        for client in clients:
            await stack.enter_async_context(client)
            assert await ask(client) == "served"
        where = ("--api", f"127.0.0.1:{server.api_port}")
        code, out, err = await cli("rebalance", "--share", "1/2", "--over", "1s", *where)
        assert (code, err) == (0, "")
        moved = int(re.match(r"(\d+) connections will end within 1 s", out)[1])  # type: ignore[index]
        assert 9 <= moved <= 11
        await server.wait_metrics(lambda said: said["xds_streams"] == 20 - moved)

        def ended() -> list[DeltaClient]:
            return [client for client in clients if client._reader is not None and client._reader.done()]

        await wait_until(lambda: len(ended()), equals=moved)
        for client in ended():
            assert (await client.ended()).details == "this connection is moved; connect again"
            again = await stack.enter_async_context(DeltaClient(server.port, node_id=client.node.id))
            await again.subscribe(r.CLUSTER, initial=client.versions(r.CLUSTER))
        await server.wait_metrics(lambda said: said["xds_streams"] == 20)
        r.write_file(tmp_path / "more.yaml", [r.static_cluster("c", 1)])
        await wait_until(server.metrics, lambda said: said["xds_responses_total"] == 40)
        metrics = await server.metrics()
        assert metrics["xds_resources_sent_total"] == 20 * 2 + 20  # the returned ones were sent c alone
        assert (await limit_hits(server)) == {"age": moved}
        (line,) = server.events("connections are moved")
        assert (line["connections"], line["share"], line["over_s"]) == (moved, 0.5, 1.0)


async def test_a_wrong_share_is_refused_with_what_would_be_right(tmp_path):
    async with XdsServer(None) as server:
        await server.wait_ready()
        where = ("--api", f"127.0.0.1:{server.api_port}")
        code, _, err = await cli("rebalance", "--share", "2", *where)
        assert (code, "share: 2 is not more than 0 and at most 1" in " ".join(err.split())) == (2, True), err
        code, _, err = await cli("rebalance", "--share", "some", *where)
        assert (code, "write 1/3, 25% or 0.25" in " ".join(err.split())) == (2, True)
