"""Certificates of a running server with workers: renewed, spoilt, about to expire; clients refused or revoked."""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support import resources as r
from support.fetch import Answer, fetch
from support.pki import Authority, Pair
from support.running import children_of
from support.server import XDS, XdsServer
from support.wire import DeltaClient


class Served(XdsServer):
    """A server with TLS on all ports, and its certificate authority."""

    def __init__(self, directory: Path, *options: str, days: float = 30) -> None:
        self.authority = Authority(directory / "pki")
        self.xds_pair = self.authority.issue("xds", dns=["localhost"], ips=["127.0.0.1"], days=days)
        self.api_pair = self.authority.issue("api", dns=["localhost"], ips=["127.0.0.1"])
        self.revoked = directory / "revoked"
        self.revoked.write_text("")
        r.write_directory(directory / "served", [r.cluster("a"), r.assignment("a", 1)])
        super().__init__(
            directory / "served",
            *("--workers", "2", "--tls-cert", str(self.xds_pair.cert_path), "--tls-key", str(self.xds_pair.key_path)),
            *("--tls-client-ca", str(self.authority.cert_path), "--api-tls-cert", str(self.api_pair.cert_path)),
            *("--api-tls-key", str(self.api_pair.key_path), *options),
            settings={"transport.kind": "native", "tls.revoked": self.revoked},
        )

    async def admin(self, path: str) -> Answer:
        return await fetch(self.admin_port, path, tls=self.authority.client_context(), timeout_s=5.0)

    async def failures(self) -> dict[tuple[str, str], int]:
        """Return the refused clients by port and reason."""
        found = re.findall(
            r'^xds_tls_failures_total\{port="(.+)",reason="(.+)"\} (\S+)$', (await self.metrics_text()), re.M
        )
        return {(port, reason): int(float(count)) for port, reason, count in found}

    async def metrics_text(self) -> str:
        return (await self.admin("/metrics")).text

    async def ready_text(self) -> str:
        return (await self.admin("/readyz")).text

    def client(self, pair: Pair) -> DeltaClient:
        credentials = grpc.ssl_channel_credentials(self.authority.cert, pair.key, pair.cert)
        return DeltaClient(self.port, credentials=credentials)

    async def wait_text(self, path: str, text: str, *, gone: bool = False) -> str:
        """Wait until an answer of the admin port has a text, or has it no more."""

        async def answer() -> str:
            return (await self.admin(path)).text

        return await self.wait_for(
            answer, lambda said: (text in said) is not gone, otherwise=f"{path} is not as wanted", timeout_s=30
        )

    async def wait_failures(self, expected: dict[tuple[str, str], int]) -> None:
        """Wait until so many clients were refused."""
        await self.wait_for(
            self.failures, lambda found: found == expected, otherwise="other clients were refused", timeout_s=20
        )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path) as started:
        await started.wait_ready()
        yield started


def _shown(port: int, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


def _renew(pair: Pair, renewed: Pair) -> None:
    pair.key_path.write_bytes(renewed.key)
    pair.cert_path.write_bytes(renewed.cert)


async def test_every_port_shows_a_renewed_certificate_without_a_signal(server):
    renewed = server.authority.issue("renewed", dns=["localhost"], ips=["127.0.0.1"])
    with_client = server.authority.client_context(server.authority.client())
    assert await asyncio.to_thread(_shown, server.port, with_client) == "CN=xds"
    for pair in (server.xds_pair, server.api_pair):
        _renew(pair, renewed)
    for port in (server.port, server.api_port, server.admin_port):
        context = server.authority.client_context(server.authority.client())
        if port == server.api_port:
            context.set_alpn_protocols(["h2"])

        async def shown(port: int = port, context: ssl.SSLContext = context) -> str:
            return await asyncio.to_thread(_shown, port, context)

        await server.wait_for(
            shown, lambda name: name == "CN=renewed", otherwise="the former certificate is shown", timeout_s=30
        )


async def test_files_that_do_not_go_together_are_a_problem_until_they_do(server):
    other = server.authority.issue("other", dns=["localhost"], ips=["127.0.0.1"])
    before = server.xds_pair.key
    server.xds_pair.key_path.write_bytes(other.key)
    said = await server.wait_text("/readyz", "TLS files of the xDS port can't be used")
    assert said.startswith("ready, but ")
    assert (await server.admin("/readyz")).status == 200
    async with server.client(server.authority.client()) as client:
        await client.subscribe(r.CLUSTER)
        assert (await client.take()).names == {"a"}
    server.xds_pair.key_path.write_bytes(before)
    assert await server.wait_text("/readyz", "can't be used", gone=True) == "ready"


async def test_a_certificate_that_expires_soon_is_a_problem_a_warning_and_a_metric(tmp_path):
    async with Served(tmp_path, days=3) as server:
        await server.wait_ready()
        said = await server.ready_text()
        assert said == f"ready, but the certificate of CN=xds in {server.xds_pair.cert_path} expires in 2 days"
        (logged,) = await server.wait_event("a certificate expires")
        assert logged["problem"] in said
        command = [str(XDS), "status", "-o", "json", "--api", f"127.0.0.1:{server.api_port}"]
        command += ["--ca", str(server.authority.cert_path)]
        told = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, env=server.env
        )
        assert "expires in 2 days" in told.stdout + told.stderr
        text = await server.metrics_text()
        times = dict(re.findall(r'^xds_certificate_expiry_timestamp_seconds\{file="(.+?)",.*\} (\S+)$', text, re.M))
        files = {server.xds_pair.cert_path, server.api_pair.cert_path, server.authority.cert_path}
        assert set(times) == {str(path) for path in files}
        expected = x509.load_pem_x509_certificate(server.xds_pair.cert).not_valid_after_utc.timestamp()
        assert float(times[str(server.xds_pair.cert_path)]) == expected
        _renew(server.xds_pair, server.authority.issue("renewed", dns=["localhost"]))
        assert await server.wait_text("/readyz", "expires", gone=True) == "ready"


async def test_failed_handshakes_of_all_ports_and_workers_are_counted_and_logged(server):
    with_nothing = server.authority.client_context()
    stranger = Authority(server.authority.directory / "stranger", name="stranger")
    for _ in range(8):
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_talk, server.port, with_nothing)
    with contextlib.suppress(OSError):
        await asyncio.to_thread(_talk, server.admin_port, stranger.client_context())
    with contextlib.suppress(OSError):
        await asyncio.to_thread(_talk, server.admin_port, None)
    expected = {("xds", "no certificate"): 8, ("admin", "server certificate refused"): 1, ("admin", "not TLS"): 1}
    await server.wait_failures(expected)
    lines = await server.wait_event("a client was refused by TLS", 3)
    assert {(line["port"], line["reason"]) for line in lines} == {("xDS", "no certificate"), *list(expected)[1:]}
    assert all(line["client"].startswith("127.0.0.1:") for line in lines)
    for pid in children_of(server.pid):
        with contextlib.suppress(ProcessLookupError):
            subprocess.run(["kill", "-9", str(pid)], check=False)
    await server.wait_event("a worker ended and is replaced", 2)
    await server.wait_failures(expected)


def _talk(port: int, context: ssl.SSLContext | None) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        if context is None:
            plain.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            plain.recv(1)
            return
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            tls.recv(1)


async def test_a_client_is_revoked_in_every_worker(server):
    gone = server.authority.client("gone", spiffe="spiffe://corp/gone")
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client(gone)) for _ in range(8)]
        for client in clients:
            await client.subscribe(r.CLUSTER)
            await client.take()
        server.revoked.write_text("spiffe://corp/gone")
        ends = await asyncio.gather(*(client.ended(timeout_s=30) for client in clients))
        assert {end.code for end in ends} == {grpc.StatusCode.UNAUTHENTICATED}
        assert json.dumps(ends[0].details)
