"""Every counted limit, reached by a client over a socket, and its count in ``xds_limit_hits_total``.

``SCENES`` has one scene for each label, so that a new limit is not counted without having been seen to be.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from support import native_peer as p
from support import resources as r
from support.control_planes import app_of, port_of
from support.native_peer import Peer, delta_request, message, ping
from support.server import XdsServer
from support.transports import settings_on
from support.waiting import wait_until
from support.wire import DeltaClient, wire

from tests.serving.test_overload import limit_hits
from xds.api.intake import BusyError, Intake
from xds.app import App
from xds.embed import ControlPlane
from xds.limits import METERED, LimitHits
from xds.transport.admission import Pressure

MIB = 1024 * 1024
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a client does to reach a limit of the xDS port, and the settings with which it takes little."""

    act: Callable[[App, int], Awaitable[None]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def by_peer(act: Callable[[Peer], None], **settings: Any) -> Scene:
    """Return a scene of one HTTP/2 connection, in a thread of its own, until the limit was reached."""

    async def run(app: App, port: int) -> None:
        def talk() -> None:
            with contextlib.suppress(OSError), Peer(port) as peer:
                act(peer)
                done.wait(20)

        before, done = sum(app.limit_hits.values()), threading.Event()
        talking = asyncio.create_task(asyncio.to_thread(talk))
        try:
            await wait_until(lambda: sum(app.limit_hits.values()) > before, timeout_s=20)
        finally:
            done.set()
            await talking

    return Scene(run, settings)


def by_streams(count: int, *, pressure: Pressure = Pressure.NONE, **settings: Any) -> Scene:
    """Return a scene of several clients that each ask for clusters, each on a connection of its own."""

    async def run(app: App, port: int) -> None:
        app._streams.admission.set_pressure(pressure)  # type: ignore[union-attr]
        async with AsyncExitStack() as stack:
            for number in range(count):
                client = await stack.enter_async_context(DeltaClient(port, node_id=f"n{number}"))
                await client.subscribe(r.CLUSTER)
                await wait_until(lambda asked=number: app.hub.counters.requests + sum(app.limit_hits.values()) > asked)

    return Scene(run, settings)


def ask(**given: Any) -> bytes:
    """Return a delta request of the node n1 as a gRPC message."""
    request = wire.DeltaDiscoveryRequest(type_url=given.pop("type_url", r.CLUSTER))
    request.node.id = given.pop("id", "n1")
    for name, value in given.items():
        getattr(request, name).extend(value) if isinstance(value, list) else getattr(request, name).update(value)
    return message(request.SerializeToString())


def say(*requests: bytes) -> Callable[[Peer], None]:
    """Return a peer that opens a stream and sends these requests."""

    def act(peer: Peer) -> None:
        peer.open(1)
        for each in requests:
            peer.data(1, each)

    return act


def rejects(peer: Peer, count: int = 2) -> None:
    """Several nodes, one after the other, reject what they are sent."""
    for number in range(count):
        stream_id = 2 * number + 1
        answer = peer.open(stream_id, ask(id=f"n{number}"))
        peer.wait(lambda answer=answer: answer.messages())
        nonce = wire.DeltaDiscoveryResponse.FromString(answer.messages()[0]).nonce
        nack = wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, response_nonce=nonce)
        nack.error_detail.message = "no"
        peer.data(stream_id, message(nack.SerializeToString()))


async def drain_listeners(app: App, port: int) -> None:
    """Two nodes drain a listener: they were sent it, and it is replaced by one with other clusters."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(2):
            client = await stack.enter_async_context(DeltaClient(port, node_id=f"n{number}"))
            clients.append(client)
            for type_url in (r.CLUSTER, r.LISTENER):
                await client.subscribe(type_url)
                await client.take()
        app.apply(_changeset(r.tcp_listener("l", 1, "b")))
        for client in clients:
            await client.take()
        await wait_until(lambda: app.limit_hits["draining_nodes"])


async def come_and_go(app: App, port: int) -> None:
    """Two nodes come and leave, one after the other."""
    for number in range(2):
        async with DeltaClient(port, node_id=f"n{number}") as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
    await wait_until(lambda: app.limit_hits["known_nodes"])


def _changeset(*resources: r.Json) -> Any:
    from xds.model.changeset import Changeset
    from xds.sources.inline import read_resources

    return Changeset(upserts={"default": read_resources(list(resources), group="default")})


async def many_connections(app: App, port: int) -> None:
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(34)]
    await wait_until(lambda: app.limit_hits["connections_xds"])
    for each in sockets:
        each.close()


async def silent_connection(app: App, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        await wait_until(lambda: app.limit_hits["handshake_timeout"], timeout_s=10)


async def aged_connection(app: App, port: int) -> None:
    async with DeltaClient(port) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        await client.ended(timeout_s=15)
    await wait_until(lambda: app.limit_hits["age"])


def no_answer(peer: Peer) -> None:
    peer.open(1, delta_request())


def mute(peer: Peer) -> None:
    """It stops to read, so that it answers no ping."""
    peer.settled()


def many_pings(peer: Peer) -> None:
    for _ in range(5):
        peer.send(ping())
        peer.settled()


def too_many_messages(peer: Peer) -> None:
    peer.open(1, fields=p.request_fields(REFLECTION))
    peer.data(1, message(b"") * 40)


def unread_answers(peer: Peer) -> None:
    """It takes no answer, so that its further messages wait: fewer on each stream than are allowed."""
    peer.send(p.settings_frame({p.INITIAL_WINDOW_SIZE: 0}))
    for stream_id in (1, 3, 5, 7):
        peer.open(stream_id, fields=p.request_fields(REFLECTION))
        for _ in range(10):
            peer.data(stream_id, message(bytes([15 << 3 | 2, *b"\xb0\xb6\x02"]) + bytes(39_728)))
            peer.settled()


SHORT = {"handshake_timeout_s": 0.5, "idle_timeout_s": 0.5}
XDS: dict[str, Scene] = {
    "streams": by_streams(2, transport={"streams_max": 1}),
    "waiting": by_streams(3, pressure=Pressure.SLOW, overload={"waiting_max": 1, "slow_streams_per_s": 0.1}),
    "wait": by_streams(9, pressure=Pressure.SLOW, overload={"wait_max_s": 0.001, "slow_streams_per_s": 0.1}),
    "memory": by_streams(1, pressure=Pressure.SHED),
    "connections_xds": Scene(many_connections, {"connections": {"xds_max": 32}}),
    "handshake_timeout": Scene(silent_connection, {"connections": SHORT}),
    "idle_timeout": by_peer(lambda peer: peer.settled() and None, connections=SHORT),
    "keepalive_timeout": by_peer(mute, transport={"keepalive_interval_s": 1, "keepalive_timeout_s": 0.1}),
    "ping_interval": by_peer(many_pings, transport={"ping_interval_min_s": 10}),
    "age": Scene(aged_connection, {"connections": {"age_max_s": 0.5}}),
    "message": by_peer(say(b"\0" + (2 * MIB).to_bytes(4, "big")), transport={"message_bytes_max": MIB}),
    "headers": by_peer(
        lambda peer: peer.send(peer.head(1, [*p.request_fields(), ("x", "y" * 17_000)])),
    ),
    "connection_streams": by_peer(
        lambda peer: [peer.open(number) for number in (1, 3, 5)] and None, transport={"connection_streams_max": 2}
    ),
    "chores": by_peer(
        lambda peer: [peer.send(ping()) for _ in range(400)] and None,
        transport={"chores_max": 100, "chores_per_s": 10},
    ),
    "waiting_bytes": by_peer(unread_answers, reflection=True, transport={"waiting_bytes_max": MIB}),
    "replies": by_peer(too_many_messages, reflection=True),
    "node": by_peer(say(ask(id="n" * 2_000)), protocol={"node_bytes_max": 1_024}),
    "subscriptions": by_peer(say(ask(resource_names_subscribe=["a", "b"])), protocol={"subscriptions_max": 1}),
    "names": by_peer(
        say(
            *(
                ask(type_url=r.ENDPOINTS, resource_names_subscribe=[f"{n}{'x' * 200}" for n in range(9_000)])
                for _ in "12"
            )
        ),
        protocol={"names_bytes_max": MIB},
    ),
    "worker_names": by_peer(
        say(ask(type_url=r.ENDPOINTS, resource_names_subscribe=[f"{n}{'x' * 200}" for n in range(9_000)])),
        protocol={"worker_names_bytes_max": MIB},
    ),
    "types": by_peer(say(ask(), ask(type_url=r.ENDPOINTS)), protocol={"types_max": 1}),
    "hold_timeout": by_peer(no_answer, protocol={"hold_timeout_s": 0.2}),
    "nacked_nodes": by_peer(rejects, protocol={"doubtful_nodes_max": 1}),
    "known_nodes": Scene(come_and_go, {"fleet": {"nodes_max": 1}}),
    "draining_nodes": Scene(drain_listeners, {"protocol": {"doubtful_nodes_max": 1}}),
}
"""The limits of the xDS port."""


@pytest.mark.parametrize("limit", XDS)
async def test_a_limit_of_the_xds_port_is_counted_when_it_is_reached(limit: str) -> None:
    scene = XDS[limit]
    control_plane = ControlPlane(settings_on("native", **scene.settings))
    clusters = [r.static_cluster("a", 1), r.static_cluster("b", 1)]
    control_plane.replace({"default": [*clusters, r.tcp_listener("l", 1, "a")]})
    async with control_plane:
        assert not any(app_of(control_plane).limit_hits.values())
        await scene.act(app_of(control_plane), port_of(control_plane))
        counted = {label for label, count in app_of(control_plane).limit_hits.items() if count}
        assert counted == {limit}


# --- The push API and the admin port ---------------------------------------------------------------------------------


@asynccontextmanager
async def api_of(server: XdsServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", timeout=20) as api:
        yield api


async def large_body(server: XdsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.admin_port)) as client:
        head = f"POST /v1/changesets HTTP/1.1\r\nhost: localhost\r\ncontent-length: {MIB + 1}\r\n\r\n"
        client.sendall(head.encode())
        assert (await asyncio.to_thread(client.recv, 100)).startswith(b"HTTP/1.1 413 ")


async def large_resource(server: XdsServer) -> None:
    padding = {"metadata": {"filter_metadata": {"padding": {"text": "x" * 100_000}}}}
    async with api_of(server) as api:
        pushed = {"upsert": [r.static_cluster("a", 1) | padding]}
        assert (await api.post("/v1/groups/default/changesets", json=pushed)).status_code == 422


async def slow_body(server: XdsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.admin_port)) as client:
        client.sendall(b"POST /v1/changesets HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx")
        await asyncio.to_thread(client.recv, 100)


async def slow_headers(server: XdsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.admin_port)) as client:
        client.sendall(b"GET /")
        await asyncio.to_thread(client.recv, 100)


async def unread_answer(server: XdsServer) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.admin_port))
        client.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await _counted(server, "unread_timeout")


async def many_connections_and_requests(server: XdsServer) -> None:
    """Of 32 connections, 31 are kept from requests that take long; so one watch is as many as there may be."""
    async with api_of(server) as api, api.stream("GET", "/v1/watch", params={"from": 0}):
        assert (await api.get("/v1/groups")).status_code == 503
    sockets = [socket.create_connection(("127.0.0.1", server.admin_port)) for _ in range(40)]
    await _counted(server, "connections_admin")
    for each in sockets:
        each.close()


async def many_streams_of_pushes(server: XdsServer) -> None:
    from xds.client import Client, ClientError

    async with Client(f"127.0.0.1:{server.api_port}", patience_s=0.1) as client, client.pushing_endpoints() as first:
        await (await first(r.assignment("a", 1)))
        with pytest.raises(ClientError):
            async with client.pushing_endpoints() as second:
                await (await second(r.assignment("a", 2)))


async def many_watches(server: XdsServer) -> None:
    """One watch is as many as there may be: a second one is refused, and so is a wait for convergence."""
    from xds.client import Client, ClientError

    async with Client(f"127.0.0.1:{server.api_port}", patience_s=0.1) as client:
        first = client.watch(0)
        await anext(first)
        for another in (client.watch(0), client.converge(1)):
            with pytest.raises(ClientError, match=r"api\.watches_max"):
                await anext(another)
        await first.aclose()


async def late_question(server: XdsServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
        call = channel.stream_unary("/xds_control_plane.api.v1.Snapshots/WhoAmI")()
        with pytest.raises(grpc.aio.AioRpcError, match=r"api\.message_timeout_s"):
            await call


async def _counted(server: XdsServer, limit: str) -> None:
    await wait_until(lambda: limit_hits(server), lambda hits: hits.get(limit), timeout_s=10)


API: dict[str, Callable[[XdsServer], Awaitable[None]]] = {
    "body": large_body,
    "resource": large_resource,
    "body_timeout": slow_body,
    "message_timeout": late_question,
    "headers_timeout": slow_headers,
    "unread_timeout": unread_answer,
    "requests_admin": many_connections_and_requests,
    "connections_admin": many_connections_and_requests,
    "push_streams": many_streams_of_pushes,
    "watches": many_watches,
}
"""The limits of the push API and of the admin port."""


async def test_the_limits_of_the_push_api_and_of_the_admin_port_are_counted_when_they_are_reached(tmp_path) -> None:
    settings = {
        "api.body_bytes_max": MIB,
        "protocol.resource_bytes_max": 65_536,
        "api.body_timeout_s": 1,
        "api.message_timeout_s": 0.5,
        "connections.headers_timeout_s": 0.5,
        "connections.unread_timeout_s": 0.5,
        "connections.admin_max": 32,
        "api.push_streams_max": 1,
        "api.watches_max": 1,
        "transport.kind": "native",
        "transport.workers": 0,
    }
    async with XdsServer(None, settings=settings) as server:
        await server.wait_ready()
        for limit, act in API.items():
            before = (await limit_hits(server)).get(limit, 0)
            assert before == 0 or limit == "connections_admin", limit
            await act(server)
            await _counted(server, limit)


async def test_a_body_that_finds_no_room_is_counted() -> None:
    hits = LimitHits()
    intake = Intake(10, wait_s=0.0, hits=hits)
    async with intake.room(10):
        with pytest.raises(BusyError):
            await intake.take(1)
    assert hits.counts()["intake"] == 1


ELSEWHERE = {
    "assembly": "tests/transport/test_assembly.py",
    "unread_answers": "tests/http2/test_cves.py",
    "sign_ins": "tests/page/test_forms.py",
    "intake": "test_a_body_that_finds_no_room_is_counted",
    "memory_changes": "tests/publishing/test_short_memory.py",
    "pending_changes": "tests/publishing/test_stopping.py",
}
"""Limits that no client can reach within a test's time, or that are reached without a socket."""


def test_every_counted_limit_is_reached_by_a_test() -> None:
    assert set(METERED) == XDS.keys() | API.keys() | ELSEWHERE.keys()
