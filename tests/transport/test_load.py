"""Either transport under clients that are many, slow, gone, or ping too much: each harms itself alone."""

import asyncio
import resource
import sys
import time
from pathlib import Path

import grpc
import pytest
from support import resources as r
from support.bootstrap import ads_bootstrap
from support.control_planes import app_of, wait_streams
from support.envoy import EnvoyProcess
from support.processes import Child
from support.waiting import stays, wait_until
from support.wire import ADS, DeltaClient, wire

from xds.embed import ControlPlane

MIB = 1024 * 1024
PATH = f"/{ADS.name}/{ADS.delta}"


def address_of(control_plane: ControlPlane) -> str:
    assert control_plane.address is not None
    return str(control_plane.address)


def first_request(type_url: str, node_id: str = "n1") -> bytes:
    made = wire.DeltaDiscoveryRequest(type_url=type_url)
    made.node.CopyFrom(wire.Node(id=node_id, cluster="c1"))
    return made.SerializeToString()


def big_secret(number: int, name: str = "big", size: int = MIB // 4) -> r.Json:
    """Return a secret that is never the same."""
    text = f"{number:08}" * (size // 8)
    return {"@type": r.SECRET, "name": name, "generic_secret": {"secret": {"inline_string": text}}}


def names_in(response: wire.DeltaDiscoveryResponse) -> list[str]:
    return [wire.Resource.FromString(each).name for each in response.resources]


def memory_bytes() -> int:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.slow
async def test_a_client_that_never_reads_costs_bounded_memory_and_nobody_waits_for_it(serving):
    changes = 1_000
    secrets = [big_secret(0, name) for name in ("s0", "s1", "s2", "s3")]
    async with serving(secrets, protocol={"coalesce_s": 0, "coalesce_max_s": 0}) as control_plane:
        async with (
            grpc.aio.insecure_channel(address_of(control_plane)) as channel,
            DeltaClient(address_of(control_plane), node_id="reader") as reader,
        ):
            slow = channel.stream_stream(PATH)()
            await slow.write(first_request(r.SECRET, "slow"))
            await reader.subscribe(r.SECRET)
            await reader.take()
            before, slowest_s = memory_bytes(), 0.0
            for number in range(1, changes + 1):
                began = time.monotonic()
                name = f"s{number % 4}"
                control_plane.apply(upsert=[big_secret(number, name)])
                assert (await reader.take()).names == {name}
                slowest_s = max(slowest_s, time.monotonic() - began)
            grown = memory_bytes() - before
            sent = app_of(control_plane).hub.counters.response_bytes
            print(
                f"{changes} changes of 1/4 MiB beside a client that never reads: memory {grown / MIB:+.0f} MiB, "
                f"slowest change for its neighbour {slowest_s * 1000:.0f} ms"
            )
            assert sent < 1.1 * (changes * MIB / 4 + 2 * MIB)  # of that, the slow one got the first answer
            assert grown < 64 * MIB  # a queue would have held 250 of them
            assert slowest_s < 2.0
            slow.cancel()
        await wait_streams(control_plane, 0)


VANISHING = """
import os, sys
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
import grpc
target, path, request = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
channel = grpc.insecure_channel(target)
import threading
forever = threading.Event()
def requests():
    yield request
    forever.wait()
stream = channel.stream_stream(path)(requests())
print("subscribed", flush=True)
forever.wait()
"""


async def test_a_client_that_is_killed_while_it_is_written_to_is_forgotten(serving):
    secrets = [big_secret(number, f"big-{number}", MIB) for number in range(20)]
    async with serving(secrets) as control_plane:
        request = first_request(r.SECRET).hex()
        argv = [sys.executable, "-c", VANISHING, address_of(control_plane), PATH, request]
        async with Child(argv, name="vanishing") as child:
            await wait_streams(control_plane, 1)
            await wait_until(lambda: app_of(control_plane).hub.counters.responses)
            child.kill()
            await wait_streams(control_plane, 0)
        async with DeltaClient(address_of(control_plane)) as client:
            await client.subscribe(r.SECRET, "big-1")
            assert (await client.take()).names == {"big-1"}


async def test_two_thousand_streams_at_once_are_all_served(serving):
    streams, channels = 2_000, 8
    async with serving() as control_plane:
        options = [("grpc.use_local_subchannel_pool", 1)]
        opened = [grpc.aio.insecure_channel(address_of(control_plane), options=options) for _ in range(channels)]

        async def one(number: int) -> None:
            stream = opened[number % channels].stream_stream(PATH)()
            await stream.write(first_request(r.CLUSTER, f"n{number}"))
            said = wire.DeltaDiscoveryResponse.FromString(await stream.read())
            assert names_in(said) == ["a"]
            calls.append((stream, said))

        async def follow(stream: grpc.aio.StreamStreamCall, said: wire.DeltaDiscoveryResponse) -> None:
            ack = wire.DeltaDiscoveryRequest(type_url=said.type_url, response_nonce=said.nonce)
            await stream.write(ack.SerializeToString())
            assert names_in(wire.DeltaDiscoveryResponse.FromString(await stream.read())) == ["b"]

        calls: list[tuple[grpc.aio.StreamStreamCall, wire.DeltaDiscoveryResponse]] = []
        began = time.monotonic()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(streams):
                group.create_task(one(number))
        print(f"{streams} streams at once, all served in {time.monotonic() - began:.1f} s")
        assert len(app_of(control_plane).hub.streams) == streams
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        began = time.monotonic()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for stream, answer in calls:
                group.create_task(follow(stream, answer))
        print(f"one change of all of them, ACKs included, in {time.monotonic() - began:.1f} s")
        assert app_of(control_plane).hub.counters.responses == 2 * streams
        for channel in opened:
            await channel.close()
        await wait_streams(control_plane, 0)


@pytest.mark.envoy
@pytest.mark.parametrize("allowed", [True, False])
async def test_pings_every_second_cost_no_stream_unless_they_are_forbidden(serving, allowed):
    """grpc's own defaults send Envoy away (GOAWAY, "too many pings") every four seconds at this interval."""
    transport = {} if allowed else {"ping_interval_min_s": 300}
    async with serving([r.static_cluster("a", 1)], transport=transport) as control_plane:
        assert control_plane.address is not None
        async with EnvoyProcess(ads_bootstrap(control_plane.address.port, keepalive_interval="1s")) as envoy:
            await envoy.wait_live()
            counters = app_of(control_plane).hub.counters
            if allowed:
                await stays(lambda: counters.streams_closed, equals=0, for_s=6.0)
            else:
                await wait_until(lambda: counters.streams_closed, timeout_s=6.0)
            assert await envoy.stat("cluster.xds.upstream_cx_total") == 1 or not allowed


async def test_a_connection_that_answers_no_ping_is_closed(serving):
    """A black hole: the client's process is stopped, so that its kernel takes all and it answers nothing."""
    async with serving(transport={"keepalive_interval_s": 1, "keepalive_timeout_s": 0.5}) as control_plane:
        request = first_request(r.CLUSTER).hex()
        argv = [sys.executable, "-c", VANISHING, address_of(control_plane), PATH, request]
        async with Child(argv, name="black-hole") as child:
            await wait_streams(control_plane, 1)
            child.signal(19)  # SIGSTOP
            await wait_streams(control_plane, 0)
            child.signal(18)
