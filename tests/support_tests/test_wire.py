"""The raw xDS clients, against a server that answers as scripted: nothing of the product but its wire messages."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import any_pb2, struct_pb2
from support import resources as r
from support.pki import Authority
from support.waiting import for_a_while_blocking
from support.wire import ADS, PER_TYPE, RESOURCE_URL, DeltaClient, Held, SotwClient

from xds._generated import xds_wire_pb2 as wire


def encoded(name: str, *, version: str = "v1", body: bytes | None = b"") -> bytes:
    """Return an encoded Resource whose body begins with the name, as every resource does; None leaves the body out."""
    made = wire.Resource(name=name, version=version)
    if body is not None:
        value = wire.ControlPlane(identifier=name).SerializeToString() + body
        made.resource.CopyFrom(any_pb2.Any(type_url=r.CLUSTER, value=value))
    return made.SerializeToString()


def body(name: str) -> bytes:
    return wire.ControlPlane(identifier=name).SerializeToString()


class Scripted:
    """A gRPC server on any method: it keeps the requests and sends one of ``answers`` after each, then ``end``."""

    def __init__(self, answers, *, end=None, credentials=None):
        self.answers, self.end, self.requests, self.methods = list(answers), end, [], []
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers((self,))
        if credentials:
            self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        else:
            self.port = self.server.add_insecure_port("127.0.0.1:0")

    def service(self, details):
        self.methods.append(details.method)
        return grpc.stream_stream_rpc_method_handler(self.serve)

    async def serve(self, requests, context):
        async for request in requests:
            self.requests.append(request)
            if self.answers:
                answer = self.answers.pop(0)
                if answer is not None:
                    yield answer.SerializeToString()
            elif self.end:
                await context.abort(*self.end)

    async def __aenter__(self):
        await self.server.start()
        return self

    async def __aexit__(self, *_):
        await self.server.stop(None)


def delta(nonce, *resources, removed=()):
    return wire.DeltaDiscoveryResponse(type_url=r.CLUSTER, nonce=nonce, resources=resources, removed_resources=removed)


def sotw(nonce, version, *resources):
    return wire.DiscoveryResponse(type_url=r.CLUSTER, nonce=nonce, version_info=version, resources=resources)


def packed(name: str) -> bytes:
    return any_pb2.Any(type_url=r.CLUSTER, value=body(name)).SerializeToString()


async def test_a_delta_client_holds_what_it_acked_and_tells_its_node_once():
    answers = [
        delta("1", encoded("a"), encoded("b")),
        delta("2", encoded("c"), removed=["a"]),
        delta("3", encoded("x")),
    ]
    async with Scripted(answers) as server, DeltaClient(server.port, node_id="n7", metadata={"k": 1}) as client:
        await client.subscribe(r.CLUSTER, initial={"z": "v0"})
        assert (await client.take()).names == {"a", "b"}
        assert (await client.take()).removed == ("a",)
        await client.nack(await client.next(), "no x")
        assert client.view == {r.CLUSTER: {"b": Held("v1", body("b")), "c": Held("v1", body("c"))}}
        assert client.versions(r.CLUSTER) == {"b": "v1", "c": "v1"}
        await client.quiet(0.05)
        asked = [wire.DeltaDiscoveryRequest.FromString(data) for data in server.requests]
    assert [request.HasField("node") for request in asked] == [True, False, False, False]
    metadata = struct_pb2.Struct.FromString(asked[0].node.metadata)
    assert (asked[0].node.id, dict(metadata)) == ("n7", {"k": 1.0})
    assert dict(asked[0].initial_resource_versions) == {"z": "v0"}
    assert [request.response_nonce for request in asked] == ["", "1", "2", "3"]
    assert asked[3].error_detail.message == "no x"
    assert server.methods == [f"/{ADS.name}/DeltaAggregatedResources"]


async def test_a_heartbeat_keeps_the_body_and_unsubscribing_drops_it():
    heartbeat = wire.Resource(name="a", version="v1")
    heartbeat.ttl.FromMilliseconds(1500)
    answers = [delta("1", encoded("a")), delta("2", heartbeat.SerializeToString())]
    async with Scripted(answers) as server, DeltaClient(server.port) as client:
        await client.subscribe(r.CLUSTER, "a")
        await client.take()
        beat = await client.take()
        assert (beat.resources["a"].body, beat.resources["a"].ttl_s) == (None, 1.5)
        assert client.bodies(r.CLUSTER) == {"a": body("a")}
        await client.unsubscribe(r.CLUSTER, "a")
        assert client.bodies(r.CLUSTER) == {}


async def test_a_sotw_client_learns_a_removal_of_a_cluster_by_absence():
    wrapped = any_pb2.Any(type_url=RESOURCE_URL, value=encoded("c")).SerializeToString()
    answers = [sotw("1", "A", packed("a"), packed("b")), sotw("2", "B", packed("b"), wrapped), sotw("3", "C")]
    async with Scripted(answers) as server, SotwClient(server.port) as client:
        await client.subscribe(r.CLUSTER)
        assert (await client.take()).names == {"a", "b"}
        await client.take()
        assert client.bodies(r.CLUSTER) == {"b": body("b"), "c": body("c")}
        await client.nack(await client.next())
        await client.subscribe(r.CLUSTER, "a")
        await client.quiet(0.05)
        asked = [wire.DiscoveryRequest.FromString(data) for data in server.requests]
    assert [(x.version_info, x.response_nonce) for x in asked] == [
        ("", ""),
        ("A", "1"),
        ("B", "2"),
        ("B", "3"),
        ("B", "3"),
    ]
    assert [list(x.resource_names) for x in asked] == [[], [], [], [], ["a"]]


async def test_the_end_of_a_stream_comes_with_its_status_and_stays():
    end = (grpc.StatusCode.INVALID_ARGUMENT, "no such type")
    async with Scripted([], end=end) as server, DeltaClient(server.port) as client:
        await client.send(b"\xff\xff")
        ended = await client.ended()
        assert (ended.code, ended.details) == end
        await client.subscribe(r.CLUSTER)  # of no effect, and no error
        assert (await client.ended()).code == grpc.StatusCode.INVALID_ARGUMENT
    assert server.requests == [b"\xff\xff"]


async def test_silence_leaves_the_stream_open():
    async with Scripted([None, delta("1")]) as server, DeltaClient(server.port) as client:
        await client.subscribe(r.CLUSTER)
        await client.quiet(0.05)
        await client.subscribe(r.CLUSTER, "a")
        assert (await client.next()).nonce == "1"


async def test_the_same_name_twice_in_a_response_is_an_error():
    async with Scripted([delta("1", encoded("a"), encoded("a"))]) as server, DeltaClient(server.port) as client:
        await client.subscribe(r.CLUSTER)
        with pytest.raises(AssertionError, match="twice"):
            await client.next()


@pytest.mark.parametrize("short", sorted(PER_TYPE))
async def test_each_per_type_service_has_its_methods(short):
    service = PER_TYPE[short]
    async with Scripted([delta("1"), sotw("1", "A")]) as server:
        async with DeltaClient(server.port, service=service) as client:
            await client.subscribe(service.type_url)
            await client.next()
        if service.sotw:
            async with SotwClient(server.port, service=service) as client:
                await client.subscribe(service.type_url)
                await client.next()
    assert server.methods[0] == f"/{service.name}/{service.delta}"


async def test_a_client_may_come_with_a_certificate(tmp_path):
    ca = Authority(tmp_path)
    own, theirs = ca.client("n1", spiffe="spiffe://t/n1"), ca.server()
    served = grpc.ssl_server_credentials([(theirs.key, theirs.cert)], ca.cert, True)
    shown = grpc.ssl_channel_credentials(ca.cert, own.key, own.cert)
    server = Scripted([delta("1")], credentials=served)
    async with server, DeltaClient(server.port, credentials=shown) as client:
        await client.subscribe(r.CLUSTER)
        assert (await client.next()).nonce == "1"


class Refusing(grpc.GenericRpcHandler):
    """A gRPC server in threads of its own, which ends a stream when it is told to."""

    def __init__(self) -> None:
        self.may_end, self.has_ended = threading.Event(), threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=(self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def service(self, handler_call_details):
        return grpc.stream_stream_rpc_method_handler(self.serve)

    def serve(self, requests, context):
        context.send_initial_metadata(())
        self.may_end.wait(10)
        context.add_callback(self.has_ended.set)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")


async def test_a_request_that_fails_as_the_stream_ends_leaves_the_status_of_the_server():
    """The event loop comes to know of the end only after it has sent the request."""
    refusing = Refusing()
    refusing.server.start()
    async with DeltaClient(refusing.port) as client:
        await client._call.initial_metadata()
        refusing.may_end.set()
        assert refusing.has_ended.wait(10)
        for_a_while_blocking(0.1, "the status comes to the client while its loop stands still")
        await client.subscribe(r.CLUSTER)
        ended = await client.ended()
    refusing.server.stop(None).wait()
    assert (ended.code, ended.details) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
