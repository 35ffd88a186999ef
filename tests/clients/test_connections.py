"""What becomes of a client's connection: TLS, drains and reconnects, keepalive, peers that vanish."""

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from support import resources as r
from support import toolchains
from support.control_planes import app_of, wait_streams
from support.native_clients import (
    ClientProcess,
    GrpcioClients,
    RemoteClients,
    TlsPaths,
    ToolchainMissingError,
    build_go,
    build_java,
)
from support.native_dial import DELTA_ADS, Dialer, first_request
from support.pki import Authority, Pair
from support.waiting import stays
from support.wire import StreamEnded

from xds.transport.native_connection import NativeConnection


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def files_of(pair: Pair, authority: Authority | None = None) -> dict[str, dict[str, str]]:
    """Return the TLS settings of a server; with an authority, its clients need a certificate."""
    tls = {"cert": str(pair.cert_path), "key": str(pair.key_path)}
    return {"tls": tls | ({"client_ca": str(authority.cert_path)} if authority else {})}


def shown(authority: Authority, pair: Pair | None = None) -> TlsPaths:
    return TlsPaths(authority.cert_path, pair.cert_path if pair else None, pair.key_path if pair else None)


async def test_tls_serves_whoever_trusts_the_server(serving, dial, authority, variant):
    async with (
        serving(**files_of(authority.server())) as control_plane,
        dial.client(variant, dial.channel(control_plane, tls=shown(authority))) as client,
    ):
        await client.subscribe(r.CLUSTER)
        assert (await client.take()).names == {"a"}


async def test_mutual_tls_serves_only_who_shows_a_certificate(serving, dial, authority, tmp_path):
    resources = [r.static_cluster(f"cluster-{number}", 1, alt_stat_name="x" * 200) for number in range(2_000)]
    async with serving(resources, **files_of(authority.server(), authority)) as control_plane:
        async with dial.delta(dial.channel(control_plane, tls=shown(authority, authority.client()))) as client:
            await client.subscribe(r.CLUSTER)
            await client.take_until(lambda: len(client.versions(r.CLUSTER)) == len(resources), timeout_s=20.0)
        other = Authority(tmp_path / "other").client()
        for refused in (shown(authority), shown(authority, other)):
            async with dial.delta(dial.channel(control_plane, tls=refused)) as client:
                await client.subscribe(r.CLUSTER)
                assert (await client.ended()).code is grpc.StatusCode.UNAVAILABLE
        assert app_of(control_plane).hub.counters.streams_opened == 1


async def test_a_renewed_certificate_costs_no_stream_and_is_shown_to_the_next_connection(serving, dial, authority):
    pair = authority.server("first")
    elsewhere = Authority(authority.cert_path.parent / "elsewhere", name="another CA")
    async with serving(**files_of(pair, authority)) as control_plane:
        own = authority.client()
        async with dial.delta(dial.channel(control_plane, tls=shown(authority, own))) as old:
            await old.subscribe(r.CLUSTER)
            await old.take()
            renewed = elsewhere.server("second")  # of another authority, so that a client can tell which it is shown
            pair.key_path.write_bytes(renewed.key)
            pair.cert_path.write_bytes(renewed.cert)
            paths = TlsPaths(elsewhere.cert_path, own.cert_path, own.key_path)
            async with dial.delta(dial.channel(control_plane, tls=paths), node_id="n2") as new:
                await new.subscribe(r.CLUSTER)
                assert (await new.take()).names == {"a"}
                async with dial.delta(dial.channel(control_plane, tls=shown(authority, own))) as distrustful:
                    await distrustful.subscribe(r.CLUSTER)
                    assert (await distrustful.ended()).code is grpc.StatusCode.UNAVAILABLE
                control_plane.apply(upsert=[r.static_cluster("b", 1)])
                assert (await old.take()).names == (await new.take()).names == {"b"}
        assert app_of(control_plane).hub.counters.streams_opened == 2


async def test_a_drained_server_sends_its_clients_to_the_next_one(serving, dial, variant):
    async with serving() as first:
        channel = dial.channel(first)
        async with dial.client(variant, channel) as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
            draining = asyncio.create_task(first.drain())
            end = await client.ended()
            assert (end.code, end.details) == (
                grpc.StatusCode.UNAVAILABLE,
                "this server is shutting down; connect again",
            )
            await draining
        assert app_of(first).hub.streams == {}
        listen = str(first.address)
    async with serving([r.static_cluster("b", 1)], listen=listen):
        async with asyncio.timeout(20):
            while True:  # the client's own backoff decides when it tries again
                async with dial.client(variant, channel) as client:
                    await client.subscribe(r.CLUSTER)
                    try:
                        found = (await client.take()).names
                    except StreamEnded as end:
                        code = end.code
                    else:
                        break
                assert code is grpc.StatusCode.UNAVAILABLE
            assert found == {"b"}


async def test_new_calls_during_a_drain_are_refused_and_open_ones_get_their_turn(serving, dial):
    async with serving(drain={"timeout_s": 1.0}) as control_plane:
        channel = dial.channel(control_plane)
        clients = []
        for number in range(3):  # one after the other, so that the first is the oldest, which is ended first
            client = await dial.delta(channel, node_id=f"n{number}").open()
            await client.subscribe(r.CLUSTER)
            await client.take()
            clients.append(client)
        draining = asyncio.create_task(control_plane.drain())
        assert (await clients[0].ended()).code is grpc.StatusCode.UNAVAILABLE
        assert len(app_of(control_plane).hub.streams) >= 1
        async with dial.delta(channel, node_id="late") as late:
            await late.subscribe(r.CLUSTER)
            assert (await late.ended()).code is grpc.StatusCode.UNAVAILABLE
        for client in clients:
            assert (await client.ended()).code is grpc.StatusCode.UNAVAILABLE
            await client.close()
        await draining
        assert app_of(control_plane).hub.streams == {}


async def test_keepalive_costs_an_idle_client_nothing(serving, dial):
    async with (
        serving(transport={"keepalive_interval_s": 1, "keepalive_timeout_s": 0.4}) as control_plane,
        dial.delta(dial.channel(control_plane)) as client,
    ):
        await client.subscribe(r.CLUSTER)
        await client.take()
        # Two pings and their time-out pass meanwhile.
        await stays(lambda: len(app_of(control_plane).hub.streams), equals=1, for_s=2.5)
        control_plane.apply(upsert=[r.static_cluster("b", 1)])
        assert (await client.take()).names == {"b"}


@pytest.mark.slow
async def test_clients_that_ping_are_answered_and_stay(serving, transport, monkeypatch):
    """Each as often as its library lets it: grpcio every second, grpc-go and grpc-java every ten."""
    try:
        argvs = {"go": [str(build_go())], "java": ["java", "-jar", str(build_java())]}
    except ToolchainMissingError as missing:
        toolchains.without(missing)
    pings: Counter[NativeConnection] = Counter()
    monkeypatch.setattr(NativeConnection, "on_ping", lambda connection: pings.update([connection]))
    async with AsyncExitStack() as stack, serving() as control_plane:
        every = [stack.enter_context(ClientProcess(f"pinging-{name}", argv)) for name, argv in argvs.items()]
        dialers = [Dialer(RemoteClients(process.name, process)) for process in every] + [Dialer(GrpcioClients())]
        clients = []
        for number, dialer in enumerate(dialers):
            channel = dialer.channel(control_plane, keepalive_s=1)
            stack.push_async_callback(channel.close)
            clients.append(await dialer.delta(channel, node_id=f"n{number}").open())
            await clients[-1].subscribe(r.CLUSTER)
            await clients[-1].take()
        settled = pings.copy()  # grpc-go and grpc-java ping with the first data, to measure the bandwidth
        # A client without an answer would have left by then.
        await stays(lambda: len(app_of(control_plane).hub.streams), equals=len(clients), for_s=23.0)
        control_plane.apply(upsert=[r.static_cluster("b", 1)])
        for client in clients:
            assert (await client.take()).names == {"b"}
            await client.close()
        counters = app_of(control_plane).hub.counters
        assert (counters.streams_opened, counters.nacks) == (len(clients), 0)
        if transport == "native":
            assert len(pings - settled) == len(clients)


async def test_a_client_that_answers_no_ping_is_forgotten(serving):
    """A black hole: the client's process is stopped, so that its kernel takes all and it answers nothing."""
    try:
        binary = build_go()
    except ToolchainMissingError as missing:
        toolchains.without(missing)
    async with serving(transport={"keepalive_interval_s": 1, "keepalive_timeout_s": 0.4}) as control_plane:
        with ClientProcess("black-hole", [str(binary)]) as process:
            channel = RemoteClients("go", process).channel(str(control_plane.address))
            call = channel.stream_stream(DELTA_ADS)()
            await call.write(first_request())
            await call.read()
            assert len(app_of(control_plane).hub.streams) == 1
            process.signal(signal.SIGSTOP)
            await wait_streams(control_plane, 0)
            process.signal(signal.SIGCONT)
        process.complaints.clear()


async def test_a_client_that_is_killed_is_forgotten(serving):
    try:
        binary = build_go()
    except ToolchainMissingError as missing:
        toolchains.without(missing)
    async with serving() as control_plane:
        with ClientProcess("killed", [str(binary)]) as process:
            channels = [RemoteClients("go", process).channel(str(control_plane.address)) for _ in range(5)]
            for channel in channels:
                await channel.stream_stream(DELTA_ADS)().write(first_request())
            await wait_streams(control_plane, 5)
            process.kill()
            await wait_streams(control_plane, 0)
