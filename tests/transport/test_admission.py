"""Past capacity: new streams are shed, those that are served go on, and everyone gets in in the end."""

import asyncio
import contextlib
import random
import time
from contextlib import AsyncExitStack

import grpc
import pytest
from support import resources as r
from support.control_planes import app_of, port_of
from support.grpc_writes import write
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient, StreamEnded

from xds.embed import ControlPlane
from xds.limits import LimitHits
from xds.protocol.errors import StreamRefusedError
from xds.serving.streams import Streams
from xds.transport.admission import AdmissionLimits, Pressure, StreamAdmission

LIMITS = AdmissionLimits(streams_max=10, waiting_max=5, wait_max_s=2.0, slow_streams_per_s=4.0)


def shed(admission: StreamAdmission, *, streams: int = 1, waiting: int = 0, wait_s: float = 0.0) -> str:
    """Return the status and the message with which a new stream is shed, "" if it is not."""
    try:
        admission.check(streams, waiting, wait_s)
    except StreamRefusedError as error:
        admission.hits.add(error.limit)
        return f"{error.status.name}: {error.message}"
    return ""


def streams_of(control_plane: ControlPlane) -> Streams:
    streams = app_of(control_plane)._streams
    assert isinstance(streams, Streams)
    return streams


def test_a_stream_is_shed_for_each_limit_and_counted_there():
    hits = LimitHits()
    admission = StreamAdmission(LIMITS, hits)
    assert shed(admission, streams=9, waiting=4, wait_s=2.0) == ""
    said = shed(admission, streams=10)
    assert said == "UNAVAILABLE: this server takes 10 streams (transport.streams_max); try again later"
    assert "(overload.waiting_max)" in shed(admission, waiting=5)
    assert "(overload.wait_max_s)" in shed(admission, wait_s=2.1)
    admission.set_pressure(Pressure.SLOW)
    assert shed(admission) == ""
    admission.set_pressure(Pressure.SHED)
    assert "(overload.shed_ratio)" in shed(admission)
    admission.set_pressure(Pressure.NONE)
    assert shed(admission) == ""
    assert {label: count for label, count in hits.counts().items() if count} == {
        "streams": 1,
        "waiting": 1,
        "wait": 1,
        "memory": 1,
    }


def test_without_a_limit_of_the_wait_any_wait_is_fine():
    assert shed(StreamAdmission(AdmissionLimits(wait_max_s=0)), wait_s=1e6) == ""


@pytest.mark.parametrize("pressure", [Pressure.SHED, Pressure.REFUSE])
async def test_while_memory_is_short_new_streams_are_shed_and_open_ones_are_served(serving, pressure):
    async with serving() as control_plane:
        port, streams = port_of(control_plane), streams_of(control_plane)
        async with DeltaClient(port) as served:
            await served.subscribe(r.CLUSTER)
            await served.take()
            streams.admission.set_pressure(pressure)
            async with DeltaClient(port, node_id="n2") as new:
                await new.subscribe(r.CLUSTER)
                end = await new.ended()
            assert (end.code, end.details) == (
                grpc.StatusCode.UNAVAILABLE,
                "this server is short of memory (overload.shed_ratio); try again later",
            )
            control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
            assert (await served.take()).names == {"b"}
            # On the connection that is served too: only the new stream ends.
            stream = served.channel.stream_stream("/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters")()
            await write(stream, b"")
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            control_plane.apply(upsert=[r.cluster("c"), r.assignment("c", 1)])
            await served.take()
        streams.admission.set_pressure(Pressure.NONE)
        async with DeltaClient(port) as again:
            await again.subscribe(r.CLUSTER)
            assert (await again.take()).names == {"a", "b", "c"}
        assert streams.limit_hits["memory"] == 2


async def test_while_memory_is_a_little_short_new_clients_are_answered_slowly_and_in_order(serving):
    per_s, count = 20.0, 8
    async with serving(overload={"slow_streams_per_s": per_s}) as control_plane, AsyncExitStack() as stack:
        streams = streams_of(control_plane)
        streams.admission.set_pressure(Pressure.SLOW)
        clients = [DeltaClient(port_of(control_plane), node_id=f"n{number}") for number in range(count)]
        began = time.monotonic()
        for requested, client in enumerate(clients, 1):
            await stack.enter_async_context(client)
            await client.subscribe(r.CLUSTER)
            await wait_until(lambda: streams.counters.requests, equals=requested)
        answered = []

        async def take(client: DeltaClient) -> None:
            await client.take()
            answered.append(client)

        await asyncio.gather(*map(take, clients))
        assert answered == clients
        assert time.monotonic() - began >= (count - 1) / per_s
        # One that is served is not slowed.
        async with asyncio.timeout(0.5 / per_s * count):
            for client in clients:
                await client.subscribe(r.ENDPOINTS, "a")
                assert (await client.take()).names == {"a"}


async def test_a_change_does_not_bring_the_first_answers_forward(serving):
    async with serving(overload={"slow_streams_per_s": 2.0}) as control_plane:
        port, streams = port_of(control_plane), streams_of(control_plane)
        streams.admission.set_pressure(Pressure.SLOW)
        async with DeltaClient(port, node_id="n1") as first, DeltaClient(port, node_id="n2") as second:
            await first.subscribe(r.CLUSTER)
            assert (await first.take()).names == {"a"}
            await second.subscribe(r.CLUSTER)
            await wait_until(lambda: sum(each.session is not None for each in streams.hub.streams), equals=2)
            control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
            assert (await first.take()).names == {"b"}
            await second.quiet(0.1)
            assert (await second.take()).names == {"a", "b"}


async def test_everyone_gets_in_though_few_may_wait_at_a_time(serving):
    """Clients that back off as Envoy does, ten times faster: a pause at random up to a limit that doubles."""
    count, chance = 30, random.Random(7)
    async with serving(overload={"waiting_max": 2, "slow_streams_per_s": 5.0}) as control_plane:
        streams = streams_of(control_plane)
        streams.admission.set_pressure(Pressure.SLOW)

        async def get_in(number: int) -> int:
            for attempt in range(1, 1_000):
                async with DeltaClient(port_of(control_plane), node_id=f"n{number}") as client:
                    await client.subscribe(r.CLUSTER)
                    with contextlib.suppress(StreamEnded):
                        await client.take()
                        return attempt
                await for_a_while(chance.uniform(0, min(3.0, 0.05 * 2**attempt)), "the client backs off")
            raise AssertionError("never let in")

        async with asyncio.timeout(60):
            attempts = sorted(await asyncio.gather(*map(get_in, range(count))))
        assert attempts[-1] > 1
        assert streams.limit_hits["waiting"] == sum(attempts) - count
        print(f"attempts of {count} clients: median {attempts[count // 2]}, most {attempts[-1]}")
