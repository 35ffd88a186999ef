"""Signals to a server's processes: those that are not meant to end it cost no stream, and SIGHUP reloads."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from support import resources as r
from support.pki import Authority, Pair
from support.running import children_of
from support.server import XdsServer
from support.waiting import wait_until
from support.worker_fleet import Fleet

from xds.client import Client

STREAMS = 12
ENDING = {"TERM", "INT", "QUIT", "ABRT", "KILL", "XCPU", "SEGV", "BUS", "FPE", "ILL", "TRAP", "SYS"}
"""Signals that are meant to end a process, and those of its own faults."""
STOPPING = {"STOP", "TSTP", "TTIN", "TTOU"}
OTHERS = sorted(
    number
    for number in signal.valid_signals()
    if number not in {getattr(signal, f"SIG{name}") for name in ENDING | STOPPING}
)
FOR_THE_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def test_most_signals_are_not_meant_to_end_a_process() -> None:
    assert {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGRTMIN} < {*OTHERS}
    assert len(OTHERS) > 40


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the test then finds that it has ended
        os.kill(pid, number)


@contextlib.asynccontextmanager
async def pushing(server: XdsServer) -> AsyncIterator[dict[str, int]]:
    """Push one change after the other; ``{"made": N}`` counts them."""
    counted = {"made": 0}

    async def push() -> None:
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=0) as client:
            while True:
                await client.apply(upsert=[r.static_cluster("a", 1 + counted["made"] % 60_000)])
                counted["made"] += 1

    task = asyncio.create_task(push())
    try:
        yield counted
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_signal_that_is_not_meant_to_end_a_server_costs_a_stream_or_a_change() -> None:
    async with XdsServer(None, "--workers", "2", settings={"transport.kind": "native"}) as server:
        await server.wait_ready()
        workers = children_of(server.pid)
        assert server.pid is not None
        assert len(workers) == 2
        async with pushing(server) as counted, Fleet(server.port, STREAMS, r.CLUSTER) as fleet:
            await fleet.wait_served()
            for number in OTHERS:
                for pid in (server.pid, *workers):
                    send(pid, number)
                before = counted["made"]
                await wait_until(lambda: counted["made"], lambda made, before=before: made > before)
            for number in FOR_THE_PARENT:
                for pid in workers:
                    send(pid, number)
            received = {each: sum(map(len, each.responses)) for each in fleet.followers}
            await wait_until(
                lambda: [each.node_id for each, count in received.items() if sum(map(len, each.responses)) == count],
                equals=[],
            )
            assert fleet.streams == STREAMS
        assert server.running
        assert children_of(server.pid) == workers
        assert server.events("a worker ended and is replaced") == []
        assert len(server.events("reloading, as SIGHUP asks")) == 1


async def test_a_starting_worker_is_not_ended_by_them_either() -> None:
    """Before its set-up, most of them would end it, so its parent starts it with them blocked."""
    async with XdsServer(None, "--workers", "1", settings={"transport.kind": "native"}) as server:
        await server.wait_ready()
        (first,) = children_of(server.pid)
        os.kill(first, signal.SIGKILL)
        seen: set[int] = set()

        def bombard() -> bool:
            """Send all signals to a process from its start until it ignores them."""
            for pid in children_of(server.pid):
                if pid != first:
                    seen.update([pid])
                    for number in (*OTHERS, *FOR_THE_PARENT):
                        send(pid, number)
            return any(_ignores(pid, signal.SIGHUP) for pid in seen) or len(seen) > 1

        await wait_until(bombard)
        async with Fleet(server.port, 2, r.CLUSTER) as fleet, Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(upsert=[r.static_cluster("a", 1)])
            await fleet.wait_served()
        assert len(seen) == 1
        assert set(children_of(server.pid)) == seen


# --- SIGHUP ----------------------------------------------------------------------------------------------------------


async def shown(port: int) -> str:
    """Return the subject of a port's certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


def replace(pair: Pair, by: Pair) -> None:
    pair.key_path.write_bytes(by.key)
    pair.cert_path.write_bytes(by.cert)


@pytest.mark.parametrize("kind", ["native", "grpcio"])
async def test_sighup_reads_directory_certificates_and_token_again(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path / "pki")
    pair, renewed = authority.server("first"), authority.server("second")
    directory, token = tmp_path / "served", tmp_path / "token"
    r.write_directory(directory, [r.static_cluster("a", 1)])
    token.write_text("hush")
    tls = ("--tls-cert", pair.cert_path, "--tls-key", pair.key_path)
    api_tls = ("--api-tls-cert", pair.cert_path, "--api-tls-key", pair.key_path, "--api-token-file", token)
    options = [str(each) for each in (*tls, *api_tls)]
    async with XdsServer(directory, *options, settings={"transport.kind": kind}) as server:
        await server.wait_ready()
        assert server.pid is not None
        ports = (server.port, server.admin_port, server.api_port)
        assert [await shown(port) for port in ports] == ["CN=first"] * 3
        processes = max(1, len(children_of(server.pid)))
        os.kill(server.pid, signal.SIGHUP)
        (done,) = await server.wait_event("directory read again")
        assert (done["changed"], done["problems"]) == (False, 0)
        assert len(server.events("tokens and identities read again")) == 1
        told = await server.wait_event("certificates read again", processes + 2)
        assert sorted(each["port"] for each in told) == sorted(["push API", "admin", *["xDS"] * processes])
        replace(pair, renewed)
        r.write_directory(directory, [r.static_cluster("b", 1)])
        os.kill(server.pid, signal.SIGHUP)
        await server.wait_event("certificates read again", 2 * (processes + 2))
        assert [await shown(port) for port in ports] == ["CN=second"] * 3
        await server.wait_event("directory read again", 2)
        pair.cert_path.write_bytes(b"spoilt")
        os.kill(server.pid, signal.SIGHUP)
        await server.wait_event("tls", processes + 2)
        assert [await shown(port) for port in ports] == ["CN=second"] * 3
        assert server.running


async def test_sighup_while_a_server_starts_is_answered_once_it_serves(tmp_path: Path) -> None:
    r.write_directory(tmp_path / "served", [r.static_cluster(f"c{number}", 1) for number in range(3_000)])
    async with XdsServer(tmp_path / "served") as server:
        assert server.pid is not None
        await wait_until(lambda: _handles(server.pid or 0, signal.SIGHUP))
        os.kill(server.pid, signal.SIGHUP)
        await server.wait_ready()
        await server.wait_event("directory read again")


def _handles(pid: int, number: int) -> bool:
    return _in_mask(pid, "SigCgt", number)


def _ignores(pid: int, number: int) -> bool:
    return _in_mask(pid, "SigIgn", number) and not _in_mask(pid, "SigBlk", number)


def _in_mask(pid: int, name: str, number: int) -> bool:
    """Return what a process does with a signal, from ``/proc/PID/status`` (proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(line.startswith(name) and int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)
