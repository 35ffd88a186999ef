"""The start and end of a server with worker processes: what it leaves, what its clients receive, and TLS."""

import asyncio
import itertools
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import httpx
import pytest
from h2.events import ConnectionTerminated, Event
from support import resources as r
from support.control_planes import app_of, port_of, served
from support.native_h2 import H2Client
from support.pki import Authority
from support.ports import free_port, is_free
from support.running import children_of, runs
from support.server import XdsServer
from support.silent_listener import SilentListener
from support.waiting import wait_until
from support.wire import DeltaClient, StreamEnded, wire
from support.worker_fleet import Fleet, shares

from xds.access.audit import AuditFilter, read_audit
from xds.address import BindError
from xds.app import App
from xds.embed import ControlPlane, Settings
from xds.model.changeset import Changeset
from xds.serving import workers as workers_module
from xds.sources.inline import read_resources
from xds.transport.pool import WorkerFailedError

STREAMS = 16


async def test_every_answer_until_the_end_is_in_the_audit_log(tmp_path: Path) -> None:
    audit, token = tmp_path / "audit", tmp_path / "token"
    token.write_text("s3cret")
    answered: dict[str, int] = {}
    options = ["--store", f"sqlite:///{tmp_path / 'x.db'}", "--api-token-file", str(token), "--workers", "0"]
    settings = {"access.audit_file": audit, "drain.timeout_s": 0}

    async def push(server: XdsServer, writer: int) -> None:
        headers = {"authorization": "Bearer s3cret"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", headers=headers) as client:
            for number in itertools.count():
                name = f"{writer}-{number}"
                body = {"upsert": [r.static_cluster(f"c{writer}", 1, connect_timeout=f"{number + 1}s")], "id": name}
                try:
                    answer = await client.post(
                        "/v1/groups/g/changesets", json=body, headers={"x-request-id": f"request-{name}"}
                    )
                except httpx.TransportError:
                    return
                answered[f"request-{name}"] = answer.status_code

    async with XdsServer(None, *options, settings=settings) as server:
        await server.wait_ready()
        writers = [asyncio.create_task(push(server, number)) for number in range(6)]
        await wait_until(lambda: len(answered) > 100)
        server.signal(signal.SIGTERM)
        await asyncio.gather(*writers)
        assert await server.wait_ended() == 0
    recorded = {each.get("request_id") for each in read_audit(audit, AuditFilter(limit=100_000))}
    missing = {name: status for name, status in answered.items() if name not in recorded}
    assert missing == {}
    assert set(answered.values()) >= {200}


SIGNALLED = """
import asyncio, os, signal
from xds import server
from xds.cli.main import main

publish_first = server._publish_first

async def signalled(*arguments):
    await publish_first(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)

server._publish_first = signalled
main()
"""
"""A server that a signal reaches when its directory was just published."""


def records_of_directory(audit: Path) -> list[tuple[str, int]]:
    found = read_audit(audit, AuditFilter(limit=100)) if audit.exists() else []
    return [(each["outcome"], each["changed"]) for each in found if each["who"] == "directory"]


@pytest.mark.parametrize("when", ["published", "keys are fetched"])
async def test_a_signal_during_the_start_ends_the_server_and_the_directory_is_in_the_audit_log(
    tmp_path: Path, when: str
) -> None:
    directory, audit, identities = tmp_path / "mesh", tmp_path / "audit", tmp_path / "identities.yaml"
    directory.mkdir()
    r.write_directory(directory, [r.static_cluster("a", 1)])
    async with SilentListener(free_port()) as issuer:
        url = f"https://127.0.0.1:{issuer.port}/keys"
        identities.write_text(
            f"issuers: [{{name: corp, issuer: 'https://login.corp', audiences: [xds], jwks_url: '{url}'}}]\n"
            "callers: [{identity: jwt:corp/ann, roles: [admin]}]\n"
        )
        server = XdsServer(
            directory, settings={"access.identities_file": identities, "access.audit_file": audit, "drain.timeout_s": 0}
        )
        if when == "published":
            server.argv = [sys.executable, "-c", SIGNALLED, *server.argv[1:]]
        async with server:
            if when == "keys are fetched":
                await issuer.wait_accepted(1)
                server.signal(signal.SIGTERM)
            assert await server.wait_ended() == 0
        assert not server.events("serving")
        how = "anything was served" if when == "published" else "it was ready"
        assert server.events(f"stopped before {how}")
        assert records_of_directory(audit) == [("done", 1)]


async def test_the_directory_of_a_start_that_failed_later_is_in_the_audit_log(tmp_path: Path) -> None:
    directory, audit = tmp_path / "mesh", tmp_path / "audit"
    directory.mkdir()
    r.write_directory(directory, [r.static_cluster("a", 1)])
    server = XdsServer(directory, settings={"access.audit_file": audit})
    async with SilentListener(server.admin_port), server:
        assert await server.wait_ended() != 0
    assert records_of_directory(audit) == [("done", 1)]


# --- Draining --------------------------------------------------------------------------------------------------------


async def test_draining_ends_all_streams_one_by_one_over_the_window_and_leaves_no_process(serving):
    window_s = 2.0
    async with serving(drain={"timeout_s": window_s}) as control_plane:
        port, pids = port_of(control_plane), app_of(control_plane).worker_pids
        async with Fleet(port, STREAMS, r.CLUSTER) as fleet:
            await fleet.wait_versions(served(control_plane))
            share = shares(pids, port)
            for follower in fleet.followers:
                follower.returning = False
            await control_plane.drain()
            await wait_until(lambda: [each.node_id for each in fleet.followers if not each.ends], equals=[])
        assert not [pid for pid in pids if runs(pid)]
        assert app_of(control_plane).worker_pids == []
        ends = [end for follower in fleet.followers for end in follower.ends]
        assert {(end.code, end.details) for _, end in ends} == {
            (grpc.StatusCode.UNAVAILABLE, "this server is shutting down; connect again")
        }
        times = sorted(at for at, _ in ends)
        # Each worker ends its streams over the window: the last stream of the larger share ends near its end.
        most = max(share.values())
        assert times[-1] - times[0] > 0.7 * window_s * (most - 1) / most
        assert is_free(port)
        assert app_of(control_plane).stream_count == 0


class Farewell(H2Client):
    """Records the GOAWAY that it receives."""

    goaway: ConnectionTerminated | None = None

    def note(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = event
        else:
            super().note(event)


async def test_clients_are_told_to_go_before_their_streams_end(serving):
    async with serving(drain={"timeout_s": 0}) as control_plane, AsyncExitStack() as opened:
        clients = []
        for _ in range(STREAMS):
            clients.append(await asyncio.to_thread(Farewell, port_of(control_plane), generous=True))
            opened.callback(clients[-1].socket.close)
        assert min(shares(app_of(control_plane).worker_pids, port_of(control_plane)).values()) > 0
        draining = asyncio.create_task(control_plane.drain())
        for client in clients:
            await asyncio.to_thread(client.wait, lambda client=client: client.goaway is not None, 20.0)
            assert client.goaway is not None
            assert client.goaway.error_code == 0
            client.socket.close()
        await draining


async def test_nobody_is_taken_in_any_more_once_draining_has_begun(serving):
    async with (
        serving(drain={"timeout_s": 60}) as control_plane,
        Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet,
    ):
        await fleet.wait_versions(served(control_plane))
        for follower in fleet.followers:
            follower.returning = False
        draining = asyncio.create_task(control_plane.drain())
        await wait_until(lambda: _refuses(port_of(control_plane)))
        assert len([follower for follower in fleet.followers if not follower.ends]) > STREAMS / 2  # most go on for now
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)


def _refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def test_sigterm_to_every_process_at_once_drains_as_sigterm_to_the_first_does(tmp_path):
    """As systemd does by default (KillMode=control-group)."""
    await _drains_at(signal.SIGTERM, tmp_path, all_of_them=True)


async def test_ctrl_c_drains(tmp_path):
    await _drains_at(signal.SIGINT, tmp_path, all_of_them=False)


async def _drains_at(number: signal.Signals, directory: Path, *, all_of_them: bool) -> None:
    r.write_directory(directory, [r.static_cluster("a", 1)])
    settings = {"transport.kind": "native", "transport.workers": 2}
    async with XdsServer(directory, "--drain-timeout", "1", settings=settings) as server:
        await server.wait_ready()
        workers = children_of(server.pid)
        assert len(workers) == 2
        async with Fleet(server.port, STREAMS, r.CLUSTER) as fleet:
            await fleet.wait_served()
            for follower in fleet.followers:
                follower.returning = False
            for pid in workers if all_of_them else ():
                os.kill(pid, number)
            server.signal(number)  # to its group, as a terminal does
            assert await server.wait_ended(timeout_s=20.0) == 0
            await wait_until(lambda: [each.node_id for each in fleet.followers if not each.ends], equals=[])
            details = {end.details for follower in fleet.followers for _, end in follower.ends}
        assert details == {"this server is shutting down; connect again"}
        assert not [pid for pid in workers if runs(pid)]
        assert server.events("a worker ended and is replaced") == []


async def test_a_killed_parent_leaves_no_worker_and_the_port_is_free(tmp_path):
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    settings = {"transport.kind": "native", "transport.workers": 2}
    async with XdsServer(tmp_path, settings=settings) as server:
        await server.wait_ready()
        workers = children_of(server.pid)
        async with Fleet(server.port, STREAMS, r.CLUSTER) as fleet:
            await fleet.wait_served()
            for follower in fleet.followers:
                follower.returning = False
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await wait_until(lambda: [pid for pid in workers if runs(pid)], equals=[])
            await wait_until(lambda: [each.node_id for each in fleet.followers if not each.ends], equals=[])
        await wait_until(lambda: is_free(server.port))
        await server.wait_ended()
        server.start()
        await server.wait_ready()


# --- Beginnings ------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_told_of_and_leaves_no_process():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        control_plane = ControlPlane(Settings(listen=address, admin="off", transport={"workers": 2}))
        with pytest.raises(BindError, match="in use"):
            await control_plane.start()
        assert app_of(control_plane).worker_pids == []


async def test_a_second_server_with_workers_on_the_same_port_is_refused(serving):
    async with serving() as control_plane:
        again = Settings(listen=f"127.0.0.1:{port_of(control_plane)}", admin="off", transport={"workers": 2})
        with pytest.raises(BindError, match="in use"):
            await ControlPlane(again).start()


async def test_of_two_that_begin_at_once_the_later_one_is_refused_and_none_answers_before_it_serves():
    """Workers are launched before there is anything to serve: until then, clients are refused."""
    port = free_port()
    settings = Settings(listen=f"127.0.0.1:{port}", admin="off", transport={"workers": 2})
    first, second = ControlPlane(settings), ControlPlane(settings)
    first.launch()
    second.launch()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    first.replace({"default": [r.static_cluster("a", 1)]})
    async with first:
        with pytest.raises(BindError, match="in use"):
            await second.start()
        assert app_of(second).worker_pids == []
        async with Fleet(port, 2, r.CLUSTER) as fleet:
            await fleet.wait_versions(served(first))


async def test_what_was_launched_and_never_started_is_gone_after_stop():
    before = children_of(os.getpid())
    control_plane = ControlPlane(Settings(listen="127.0.0.1:0", admin="off", transport={"workers": 2}))
    control_plane.launch()
    await wait_until(lambda: len(children_of(os.getpid())), equals=len(before) + 2)
    await control_plane.stop()
    assert [pid for pid in children_of(os.getpid()) if pid not in before] == []


async def test_workers_that_can_not_begin_leave_neither_processes_nor_the_port(monkeypatch):
    monkeypatch.setattr(workers_module, "WORKER_MODULE", "xds.there_is_no_such_module")
    control_plane = ControlPlane(Settings(listen="127.0.0.1:0", admin="off", transport={"workers": 2}))
    before = children_of(os.getpid())
    with pytest.raises(WorkerFailedError, match="a worker ended with 1 before it served"):
        await control_plane.start()
    assert (app_of(control_plane).worker_pids, control_plane.address) == ([], None)
    assert [pid for pid in children_of(os.getpid()) if pid not in before] == []


async def test_what_lies_in_the_working_directory_is_not_taken_for_a_module(tmp_path):
    """``python -m`` searches the working directory first."""
    directory, here = tmp_path / "resources", tmp_path / "here"
    directory.mkdir()
    here.mkdir()
    r.write_directory(directory, [r.static_cluster("a", 1)])
    (here / "structlog.py").write_text("raise SystemExit('a file of the operator was run')")
    settings = {"transport.kind": "native", "transport.workers": 1}
    server = XdsServer(directory, settings=settings)
    server.argv = ["sh", "-c", 'cd "$0" && exec "$@"', str(here), *server.argv]
    async with server:
        await server.wait_ready()


async def test_a_unix_socket_is_shared_and_its_path_is_gone_after_the_end(serving, tmp_path):
    path = tmp_path / "xds.sock"
    async with serving(listen=f"unix:{path}") as control_plane:
        for number in range(8):
            async with DeltaClient(f"unix:{path}", node_id=f"n{number}") as client:
                await client.subscribe(r.CLUSTER)
                assert (await client.take()).names == {"a"}
        assert len(app_of(control_plane).worker_pids) == 2
    assert not path.exists()


async def test_without_workers_one_process_serves(tmp_path):
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    async with XdsServer(tmp_path, "--workers", "0", settings={"transport.kind": "native"}) as server:
        await server.wait_ready()
        assert children_of(server.pid) == []
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.CLUSTER)
            assert (await client.take()).names == {"a"}


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_a_renewed_certificate_is_shown_by_all_workers_and_open_streams_live_on(serving, tmp_path):
    authority, renewing = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    pair, renewed = authority.server(), renewing.server()
    tls = {"cert": str(pair.cert_path), "key": str(pair.key_path)}

    def client_of(trusted: Authority, number: int) -> DeltaClient:
        credentials = grpc.ssl_channel_credentials(root_certificates=trusted.cert)
        return DeltaClient(port_of(control_plane), node_id=f"n{number}", credentials=credentials)

    async with serving(tls=tls) as control_plane:
        olds = [client_of(authority, number) for number in range(STREAMS)]
        for client in olds:
            await client.open()
            await client.subscribe(r.CLUSTER)
            await client.take()
        assert min(shares(app_of(control_plane).worker_pids, port_of(control_plane)).values()) > 0
        pair.key_path.write_bytes(renewed.key)
        pair.cert_path.write_bytes(renewed.cert)
        for number in range(STREAMS):
            async with client_of(renewing, number) as client:
                await client.subscribe(r.CLUSTER)
                assert (await client.take()).names == {"a"}
        async with client_of(authority, 0) as distrustful:
            await distrustful.subscribe(r.CLUSTER)
            with pytest.raises(StreamEnded):
                await distrustful.next()
        control_plane.apply(upsert=[r.static_cluster("b", 1)])
        for client in olds:
            assert (await client.take()).names == {"b"}
            await client.close()


# --- The grpcio transport --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_grpcio_with_workers_is_refused(count):
    text = f"transport.workers: {count} worker processes need transport.kind=native; grpcio serves in one process .0."
    with pytest.raises(ValueError, match=text):
        Settings(admin="off", transport={"kind": "grpcio", "workers": count})


async def test_grpcio_serves_in_this_process_unless_told_otherwise():
    settings = Settings(listen="127.0.0.1:0", admin="off", transport={"kind": "grpcio"})
    app = App(settings, workers=2)
    app.apply(Changeset(upserts={"default": read_resources([r.static_cluster("a", 1)], group="default")}))
    address = await app.start()
    try:
        assert app.worker_pids == []
        async with DeltaClient(address.port) as client:
            await client.send(wire.DeltaDiscoveryRequest(type_url=r.CLUSTER))
            assert (await client.take()).names == {"a"}
    finally:
        await app.stop()
