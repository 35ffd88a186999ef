"""Either transport and real grpc.aio clients: every method, every refusal, and an end for every stream."""

import asyncio
import os

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support import resources as r
from support.control_planes import app_of, port_of, wait_streams
from support.ports import free_port
from support.wire import ADS, PER_TYPE, DeltaClient, Service, SotwClient, StreamEnded, wire

from xds.address import BindError
from xds.embed import ControlPlane, Settings
from xds.protocol.policy import METHODS, SERVICES, Variant

LEDS = "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint"
KNOWN = [pytest.param(method, id=method.path) for method in METHODS]


ONE_OF_EACH = [
    r.cluster("a"),
    r.assignment("a", 1),
    r.listener("a", 2, "a"),
    r.route("a", "a"),
    r.scoped_route("a", "a", "key"),
    r.virtual_host("a", "a", ["a.test"]),
    {"@type": r.SECRET, "name": "a", "generic_secret": {"secret": {"inline_string": "s"}}},
    r.runtime("a", {"x": 1}),
    r.extension("a", {"@type": r.ROUTER}),
]


@pytest.mark.parametrize("method", KNOWN)
async def test_every_method_serves_its_type(serving, method):
    async with serving(ONE_OF_EACH) as control_plane:
        type_url = method.type_url or r.CLUSTER
        service = Service(method.service, method.name, method.name, type_url)
        client_type = DeltaClient if method.variant is Variant.DELTA else SotwClient
        async with client_type(port_of(control_plane), service=service) as client:
            await client.subscribe(type_url, "a")
            response = await client.take()
            if type_url == LEDS:  # of which there is none by that name
                assert (response.type_url, response.removed) == (type_url, ("a",))
            else:
                assert (response.type_url, response.names) == (type_url, {"a"})
            await client.quiet(0.05)


def test_the_services_are_those_that_clients_know():
    known = [ADS, *PER_TYPE.values()]
    assert {service.name for service in known} <= set(SERVICES)
    paths = {method.path for method in METHODS}
    assert {f"/{service.name}/{service.delta}" for service in known} <= paths
    assert {f"/{service.name}/{service.sotw}" for service in known if service.sotw} <= paths


async def test_a_method_that_does_not_exist_is_unimplemented(serving):
    async with serving() as control_plane:
        service = Service(ADS.name, "DeltaNothing", "StreamNothing", None)
        async with DeltaClient(port_of(control_plane), service=service) as client:
            await client.subscribe(r.CLUSTER)
            ended = await client.ended()
        assert ended.code is grpc.StatusCode.UNIMPLEMENTED


def request(type_url: str, **node: str) -> wire.DeltaDiscoveryRequest:
    made = wire.DeltaDiscoveryRequest(type_url=type_url)
    made.node.CopyFrom(wire.Node(**node))
    return made


REFUSED = {
    "malformed bytes": (b"\xff\xff\xff", "3 bytes that are no DeltaDiscoveryRequest"),
    "no type": (request("", id="n1"), "must carry a type_url"),
    "a node without id": (request(r.CLUSTER, cluster="c1"), "must carry a node with an id"),
    "no node": (wire.DeltaDiscoveryRequest(type_url=r.CLUSTER).SerializeToString(), "must carry a node with an id"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_bad_request_ends_its_own_stream_alone(serving, what):
    bad, text = REFUSED[what]
    async with serving() as control_plane:
        async with DeltaClient(port_of(control_plane)) as good:
            await good.subscribe(r.CLUSTER)
            await good.take()
            # On the very same connection, so that a mishap of the connection would show.
            stream = good.channel.stream_stream(f"/{ADS.name}/{ADS.delta}")()
            await stream.write(bad if isinstance(bad, bytes) else bad.SerializeToString())
            assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
            details = await stream.details()
            assert text in details
            assert "Traceback" not in details
            assert len(app_of(control_plane).hub.streams) == 1
            control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
            assert (await good.take()).names == {"b"}
        await wait_streams(control_plane, 0)


async def test_another_node_on_a_later_request_ends_the_stream(serving):
    async with serving() as control_plane, DeltaClient(port_of(control_plane)) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        await client.send(request(r.ENDPOINTS, id="n2"))
        end = await client.ended()
    assert (end.code, end.details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "this stream is of node 'n1', a later request says 'n2'",
    )


async def test_a_type_that_a_service_does_not_serve_ends_the_stream(serving):
    async with serving() as control_plane, DeltaClient(port_of(control_plane), service=PER_TYPE["CDS"]) as client:
        await client.subscribe(r.LISTENER)
        end = await client.ended()
    assert end.code is grpc.StatusCode.INVALID_ARGUMENT
    assert end.details == f"this service serves {r.CLUSTER}, the request asks for {r.LISTENER}"


async def test_streams_beyond_the_limit_are_shed_by_its_name(serving):
    async with serving(transport={"streams_max": 2}) as control_plane:
        port = port_of(control_plane)
        async with DeltaClient(port) as first, DeltaClient(port) as second:
            for client in (first, second):
                await client.subscribe(r.CLUSTER)
                await client.take()
            async with DeltaClient(port) as third:
                await third.subscribe(r.CLUSTER)
                end = await third.ended()
            assert end.code is grpc.StatusCode.UNAVAILABLE
            assert end.details == "this server takes 2 streams (transport.streams_max); try again later"
            assert len(app_of(control_plane).hub.streams) == 2


async def test_a_request_beyond_four_mebibytes_is_taken(serving):
    clusters = [r.static_cluster(f"cluster-{number:05}", 1) for number in range(100)]
    async with serving(clusters, protocol={"hold_timeout_s": 0.1}) as control_plane:
        async with DeltaClient(port_of(control_plane)) as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
            claims = client.versions(r.CLUSTER) | {f"gone-{number:06}-{'y' * 70}": "1" for number in range(50_000)}
        async with DeltaClient(port_of(control_plane)) as client:
            await client.subscribe(r.CLUSTER, initial=claims)
            assert client.requests_sent[0].ByteSize() > 4 * 1024 * 1024
            gone: set[str] = set()
            while len(gone) < 50_000:
                response = await client.take(timeout_s=20.0)
                assert response.names == set()
                gone |= set(response.removed)


async def test_a_request_beyond_the_limit_ends_the_stream(serving):
    async with serving(transport={"message_bytes_max": 1024 * 1024}) as control_plane:
        async with DeltaClient(port_of(control_plane)) as client:
            await client.subscribe(r.CLUSTER, initial={"x" * 2_000_000: "1"})
            assert (await client.ended()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await wait_streams(control_plane, 0)


async def test_a_cancelled_stream_is_forgotten(serving):
    async with serving() as control_plane:
        async with DeltaClient(port_of(control_plane)) as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
            assert len(app_of(control_plane).hub.streams) == 1
        await wait_streams(control_plane, 0)
        assert app_of(control_plane).hub.counters.streams_closed == 1


async def test_a_stream_past_its_deadline_is_forgotten(serving):
    async with serving() as control_plane:
        async with grpc.aio.insecure_channel(str(control_plane.address)) as channel:
            stream = channel.stream_stream(f"/{ADS.name}/{ADS.delta}")(timeout=0.3)
            await stream.write(request(r.CLUSTER, id="n1").SerializeToString())
            assert isinstance(await stream.read(), bytes)
            assert len(app_of(control_plane).hub.streams) == 1
            assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await wait_streams(control_plane, 0)


async def test_a_stream_whose_client_has_said_all_ends_well(serving):
    async with serving() as control_plane, DeltaClient(port_of(control_plane)) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        await client.finish()
        assert (await client.ended()).code is grpc.StatusCode.OK
        await wait_streams(control_plane, 0)


async def test_a_stream_that_never_says_anything_is_forgotten_too(serving):
    async with serving() as control_plane:
        async with DeltaClient(port_of(control_plane)) as client:
            await client.finish()
            assert (await client.ended()).code is grpc.StatusCode.OK
        await wait_streams(control_plane, 0)


async def test_a_port_in_use_is_said_so(serving):
    async with serving() as control_plane:
        taken = Settings.model_validate({"listen": str(control_plane.address), "admin": "off"})
        with pytest.raises(BindError, match=r"^the xDS address 127\.0\.0\.1:\d+ is in use by another process"):
            await ControlPlane(taken).start()


async def test_a_port_in_use_for_the_admin_leaves_the_xds_port_closed(serving):
    async with serving() as control_plane:
        port = free_port()
        taken = {"listen": f"127.0.0.1:{port}", "admin": str(control_plane.address)}
        with pytest.raises(BindError, match="admin"):
            await ControlPlane(Settings.model_validate(taken)).start()
        async with DeltaClient(port) as client:
            await client.subscribe(r.CLUSTER)
            assert (await client.ended()).code is grpc.StatusCode.UNAVAILABLE


async def test_a_unix_socket_serves_the_same(serving, tmp_path):
    path = f"unix:{tmp_path}/xds.sock"
    async with serving(listen=path) as control_plane:
        assert str(control_plane.address) == path
        async with DeltaClient(path) as client:
            await client.subscribe(r.CLUSTER)
            assert (await client.take()).names == {"a"}
    assert not os.path.exists(f"{tmp_path}/xds.sock")


async def test_health_is_told_to_who_asks_until_the_drain(serving):
    async with serving(drain={"timeout_s": 0.5}) as control_plane, DeltaClient(port_of(control_plane)) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        async with grpc.aio.insecure_channel(str(control_plane.address)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", ADS.name):
                said = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                assert said.status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=5)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            draining = asyncio.create_task(control_plane.drain())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            await draining


async def test_a_drain_ends_streams_over_its_window_and_takes_no_new_ones(serving):
    window_s = 0.6
    async with serving(drain={"timeout_s": window_s}) as control_plane:
        port, loop = port_of(control_plane), asyncio.get_running_loop()
        clients = [await DeltaClient(port).open() for _ in range(3)]
        for client in clients:
            await client.subscribe(r.CLUSTER)
            await client.take()
        began = loop.time()
        draining = asyncio.create_task(control_plane.drain())

        async def end_of(client: DeltaClient) -> tuple[StreamEnded, float]:
            return await client.ended(), loop.time() - began

        ends = await asyncio.gather(*map(end_of, clients))
        async with DeltaClient(port) as late:
            await late.subscribe(r.CLUSTER)
            assert (await late.ended()).code is grpc.StatusCode.UNAVAILABLE
        await draining
        for client in clients:
            await client.close()
    assert {(end.code, end.details) for end, _ in ends} == {
        (grpc.StatusCode.UNAVAILABLE, "this server is shutting down; connect again")
    }
    times = sorted(at for _, at in ends)
    assert times[0] < 0.3 * window_s
    assert 0.6 * window_s < times[-1] < 1.5 * window_s
    assert app_of(control_plane).hub.streams == {}


async def reflected(control_plane: ControlPlane) -> set[str]:
    """Return the services that reflection lists."""
    async with grpc.aio.insecure_channel(str(control_plane.address)) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        async for said in stub.ServerReflectionInfo(iter([asked]), timeout=5):
            return {service.name for service in said.list_services_response.service}
    return set()


async def test_reflection_is_off_unless_asked_for(serving):
    async with serving() as control_plane:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await reflected(control_plane)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with serving(reflection=True) as control_plane:
        names = await reflected(control_plane)
        assert set(SERVICES) <= names
        assert "grpc.health.v1.Health" in names
