"""What a gRPC client sees of calls that are not served as wished: refusals, limits, deadlines; and of health."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support import resources as r
from support.control_planes import app_of, wait_streams
from support.grpc_writes import write
from support.native_clients import RemoteCallError
from support.native_dial import DELTA_ADS, HEALTH_CHECK, HEALTH_WATCH, first_request
from support.wire import wire

MIB = 1024 * 1024
LIMIT = {"message_bytes_max": MIB}


async def outcome(call, *messages: bytes, timeout_s: float = 10.0) -> tuple[grpc.StatusCode, str]:
    """Send messages and return how the call ended, whatever came before."""
    async with asyncio.timeout(timeout_s):
        for message in messages:
            await write(call, message)
        code = await call.code()
        return code, await call.details()


def big_request(size: int) -> bytes:
    made = wire.DeltaDiscoveryRequest.FromString(first_request())
    made.resource_names_subscribe.append("x" * size)
    return made.SerializeToString()


@pytest.mark.parametrize(
    "path",
    [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaNothing",
        "/envoy.service.nothing.v3.NoService/DeltaAggregatedResources",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/deltaaggregatedresources",
        "/no-service-at-all/DeltaX",
    ],
)
async def test_what_is_not_served_is_unimplemented(serving, dial, path):
    async with serving() as control_plane:
        code, details = await outcome(dial.channel(control_plane).stream_stream(path)(), first_request())
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert details


async def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives_on(serving, dial):
    async with serving(transport=LIMIT) as control_plane:
        channel = dial.channel(control_plane)
        async with dial.delta(channel) as other:
            await other.subscribe(r.CLUSTER)
            await other.take()
            code, _ = await outcome(channel.stream_stream(DELTA_ADS)(), big_request(2 * MIB))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            control_plane.apply(upsert=[r.static_cluster("b", 1)])
            assert (await other.take()).names == {"b"}
            await wait_streams(control_plane, 1)


async def test_a_message_just_within_the_limit_is_taken(serving, dial):
    async with serving(transport=LIMIT) as control_plane:
        call = dial.channel(control_plane).stream_stream(DELTA_ADS)()
        request = big_request(MIB - len(big_request(0)) - 2)  # the length itself takes two bytes more
        assert len(request) == MIB
        await call.write(request)
        said = wire.DeltaDiscoveryResponse.FromString(await call.read())
        assert said.type_url == r.CLUSTER
        call.cancel()
        await wait_streams(control_plane, 0)


async def test_requests_of_many_mebibytes_are_taken(serving, dial):
    async with serving() as control_plane, dial.delta(dial.channel(control_plane)) as client:
        claims = {f"gone-{number:06}-{'y' * 70}": "1" for number in range(50_000)}
        await client.subscribe(r.CLUSTER, initial=claims)
        assert client.requests_sent[0].ByteSize() > 4 * MIB
        gone: set[str] = set()
        while len(gone) < 50_000:
            gone |= set((await client.take(timeout_s=20.0)).removed)


async def test_a_compressed_request_is_refused_with_what_would_be_taken(serving, dial, transport):
    """gRPC, Compression: UNIMPLEMENTED, and grpc-accept-encoding with the algorithms that the server takes."""
    async with serving() as control_plane:
        channel = dial.channel(control_plane)
        call = channel.stream_stream(DELTA_ADS)(compression=grpc.Compression.Gzip)
        request = big_request(10_000)
        if transport == "grpcio":  # which brings its decompressors with it
            await call.write(request)
            assert wire.DeltaDiscoveryResponse.FromString(await call.read()).type_url == r.CLUSTER
            call.cancel()
        else:
            code, details = await outcome(call, request)
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert "compressed" in details
            said = [*(await call.initial_metadata()), *(await call.trailing_metadata())]
            accepted = [value for name, value in said if name == "grpc-accept-encoding"]
            if dial.name == "go":  # grpc-java and grpcio keep this header to themselves
                assert accepted == ["identity"]
        await wait_streams(control_plane, 0)


async def test_a_deadline_ends_the_call_at_both_ends(serving, dial):
    async with serving() as control_plane:
        call = dial.channel(control_plane).stream_stream(DELTA_ADS)(timeout=0.4)
        await call.write(first_request())
        assert isinstance(await call.read(), bytes)
        assert len(app_of(control_plane).hub.streams) == 1
        code, _ = await outcome(call)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await wait_streams(control_plane, 0)


async def test_metadata_of_a_few_kilobytes_is_taken(serving, dial):
    metadata = [(f"x-test-{number}", "v" * 500) for number in range(10)]
    async with serving() as control_plane:
        call = dial.channel(control_plane).stream_stream(DELTA_ADS)(metadata=metadata)
        await call.write(first_request())
        assert isinstance(await call.read(), bytes)
        call.cancel()


async def test_too_much_metadata_ends_its_own_call_alone(serving, dial):
    """Who is told SETTINGS_MAX_HEADER_LIST_SIZE may keep such a call back; whoever sends it is refused."""
    async with serving() as control_plane:
        channel = dial.channel(control_plane)
        async with dial.delta(channel) as other:
            await other.subscribe(r.CLUSTER)
            await other.take()
            metadata = [(f"x-test-{number}", "v" * 1_000) for number in range(100)]
            code, _ = await outcome(channel.stream_stream(DELTA_ADS)(metadata=metadata), first_request())
            assert code is not grpc.StatusCode.OK
            control_plane.apply(upsert=[r.static_cluster("b", 1)])
            assert (await other.take()).names == {"b"}
            await wait_streams(control_plane, 1)


@pytest.mark.parametrize("service", ["", "envoy.service.discovery.v3.AggregatedDiscoveryService"])
async def test_health_is_checked_by_a_unary_call(serving, dial, service):
    """Which a client holds to exactly one answer, and an error to none."""
    async with serving() as control_plane:
        check = dial.channel(control_plane).unary_unary(HEALTH_CHECK)
        said = await check(health_pb2.HealthCheckRequest(service=service).SerializeToString())
        assert health_pb2.HealthCheckResponse.FromString(said).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises((RemoteCallError, grpc.aio.AioRpcError)) as unknown:
            await check(health_pb2.HealthCheckRequest(service="no.such.Service").SerializeToString())
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", ["", "envoy.service.discovery.v3.AggregatedDiscoveryService"])
async def test_health_is_checked(serving, dial, service):
    async with serving() as control_plane:
        call = dial.channel(control_plane).stream_stream(HEALTH_CHECK)()
        await call.write(health_pb2.HealthCheckRequest(service=service).SerializeToString())
        await call.done_writing()
        said = health_pb2.HealthCheckResponse.FromString(await call.read())
        assert said.status == health_pb2.HealthCheckResponse.SERVING
        assert await call.code() is grpc.StatusCode.OK


async def test_the_health_of_what_is_not_there_is_not_found(serving, dial):
    async with serving() as control_plane:
        call = dial.channel(control_plane).stream_stream(HEALTH_CHECK)()
        await call.write(health_pb2.HealthCheckRequest(service="no.such.Service").SerializeToString())
        await call.done_writing()
        assert (await outcome(call))[0] is grpc.StatusCode.NOT_FOUND


async def test_health_is_watched_until_the_drain(serving, dial):
    async with serving(drain={"timeout_s": 0.5}) as control_plane:
        channel = dial.channel(control_plane)
        async with dial.delta(channel) as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
            watch = channel.stream_stream(HEALTH_WATCH)()
            unknown = channel.stream_stream(HEALTH_WATCH)()
            for call, service in ((watch, ""), (unknown, "no.such.Service")):
                await call.write(health_pb2.HealthCheckRequest(service=service).SerializeToString())
                await call.done_writing()
            statuses = health_pb2.HealthCheckResponse
            assert statuses.FromString(await watch.read()).status == statuses.SERVING
            assert statuses.FromString(await unknown.read()).status == statuses.SERVICE_UNKNOWN
            draining = asyncio.create_task(control_plane.drain())
            assert statuses.FromString(await watch.read()).status == statuses.NOT_SERVING
            watch.cancel()
            unknown.cancel()
            await draining
