"""A store in an etcd that requires a client certificate and a password."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from support import resources as r
from support.etcd import etcd_binary, wait_answering
from support.pki import Authority, Pair
from support.ports import free_port
from support.processes import Child
from support.server import XdsServer
from support.waiting import wait_until

from xds._generated import etcd_pb2 as pb
from xds.client import Client
from xds.process.background import Background
from xds.replicas.membership import Member, Membership
from xds.store import etcd_client
from xds.store.errors import UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdClient, EtcdOptions

PREFIX = "mine"
Context = grpc.aio.ServicerContext
Answer = Callable[[str, bytes, Context], Awaitable[bytes]]


class Guarded:
    """An etcd with TLS whose one user may read and write below one prefix."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.server = self.authority.server()
        self.client: Pair = self.authority.client()
        self.port, peer = free_port(), free_port()
        self.child = Child([], name="etcd-guarded")
        url = f"https://127.0.0.1:{self.port}"
        self.child.argv = [etcd_binary(), "--data-dir", str(self.child.directory / "data"), "--log-level", "warn"]
        self.child.argv += ["--listen-client-urls", url, "--advertise-client-urls", url]
        self.child.argv += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
        self.child.argv += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
        self.child.argv += ["--initial-cluster", f"default=http://127.0.0.1:{peer}"]
        self.child.argv += ["--cert-file", str(self.server.cert_path), "--key-file", str(self.server.key_path)]
        self.child.argv += ["--client-cert-auth", "--trusted-ca-file", str(self.authority.cert_path)]

    def options(self, *, before: tuple[str, ...] = (), **more: str) -> EtcdOptions:
        """Return the connection options, with the endpoints ``before`` first."""
        return EtcdOptions(
            endpoints=(*before, f"127.0.0.1:{self.port}"),
            ca=self.authority.cert_path,
            cert=self.client.cert_path,
            key=self.client.key_path,
            **more,
        )

    def control(self, *words: str) -> None:
        command = [
            "etcdctl",
            "--endpoints",
            f"https://127.0.0.1:{self.port}",
            "--cacert",
            str(self.authority.cert_path),
        ]
        command += ["--cert", str(self.client.cert_path), "--key", str(self.client.key_path), *words]
        subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True, timeout=20)

    async def wait_ready(self) -> None:
        await wait_answering(self.options())

    def guard(self) -> None:
        for words in (
            ("user", "add", "root:secret"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "xds"),
            ("role", "grant-permission", "xds", "--prefix=true", "readwrite", PREFIX),
            ("user", "add", "ann:hush"),
            ("user", "grant-role", "ann", "xds"),
            ("auth", "enable"),
        ):
            self.control(*words)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    etcd = Guarded(tmp_path)
    etcd.child.start()
    await etcd.wait_ready()
    yield etcd
    etcd.child.stop()


async def test_a_control_plane_presents_its_certificate_and_its_password(guarded: Guarded, tmp_path: Path) -> None:
    guarded.guard()
    password = tmp_path / "password"
    password.write_text("hush\n")
    settings = {
        "etcd_ca": guarded.authority.cert_path,
        "etcd_cert": guarded.client.cert_path,
        "etcd_key": guarded.client.key_path,
        "etcd_user": "ann",
        "etcd_password_file": password,
    }
    options = ["--store", f"etcd://127.0.0.1:{guarded.port}/{PREFIX}"]
    options += [word for name, value in settings.items() for word in ("--set", f"store.{name}={value}")]
    async with XdsServer(None, *options) as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            assert (await client.apply(upsert=[r.static_cluster("a", 1)])).revision == 1
        guarded.child.kill()  # its tokens are invalid afterwards
        guarded.child.start()
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=20) as client:
            assert (await client.apply(upsert=[r.static_cluster("b", 1)])).revision == 2
        server.kill()
        server.start()
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            assert [each["name"] for each in (await client.snapshot()).resources] == ["a", "b"]


async def test_an_error_says_why_etcd_refuses_access(guarded: Guarded) -> None:
    with pytest.raises(UnavailableError):
        await EtcdStore.open(EtcdOptions(endpoints=(f"127.0.0.1:{guarded.port}",)), PREFIX)
    guarded.guard()
    with pytest.raises(UnavailableError, match="'ann'"):
        await EtcdStore.open(guarded.options(user="ann", password="wrong"), PREFIX, wait_s=600)
    with pytest.raises(UnavailableError, match=r"etcd refuses .*(user name is empty|permission)"):
        await EtcdStore.open(guarded.options(), PREFIX, wait_s=600)
    with pytest.raises(UnavailableError, match=r"etcd refuses .*permission denied"):
        await EtcdStore.open(guarded.options(user="ann", password="hush"), "theirs", wait_s=600)


async def test_an_unreachable_member_is_skipped_when_authenticating(guarded: Guarded) -> None:
    guarded.guard()
    options = guarded.options(before=(f"127.0.0.1:{free_port()}",), user="ann", password="hush")
    store = await EtcdStore.open(options, PREFIX)
    assert store.away == ""
    await store.close()


async def test_a_replica_registers_with_the_rights_below_its_prefix(guarded: Guarded) -> None:
    guarded.guard()

    def member() -> Member:
        return Member(instance="0" * 32, name="a", api="a.test:1", tls=False, epoch="", version="1", started_at_ms=1)

    client = EtcdClient(guarded.options(user="ann", password="hush"))
    membership = Membership(client, PREFIX, member, forget_after_s=1.0)
    await membership.start(Background())
    await wait_until(lambda: membership.away, equals="")
    found = await client.range(f"{PREFIX}/replicas/".encode() + b"0" * 32)
    assert [kv.key for kv in found.kvs] == [f"{PREFIX}/replicas/".encode() + b"0" * 32]
    await membership.stop()


@asynccontextmanager
async def client_of(answer: Answer) -> AsyncIterator[EtcdClient]:
    """Yield a client with a password, whose calls a proxy answers by their names."""

    class Proxy(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(partial(answer, call.method.rpartition("/")[2]))

    server = grpc.aio.server(handlers=(Proxy(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = EtcdClient(EtcdOptions(endpoints=(f"127.0.0.1:{port}",), user="ann", password="hush"))
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


async def test_what_etcd_or_a_proxy_repeats_of_the_password_is_hidden() -> None:
    async def refuse(_: str, request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"who sends {request!r} is not welcome")
        return b""

    async with client_of(refuse) as client:
        with pytest.raises(UnavailableError) as refused:
            await client.range(b"x")
        assert "[redacted]" in str(refused.value)
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
@pytest.mark.parametrize("method", ["range", "transact"])
async def test_what_etcd_or_a_proxy_repeats_of_the_token_is_hidden(method: str, code: grpc.StatusCode) -> None:
    """The password may be a part of the token."""

    async def answer(name: str, _: bytes, context: Context) -> bytes:
        if name == "Authenticate":
            return pb.AuthenticateResponse(token="ticket.hush.17").SerializeToString()
        token = dict(context.invocation_metadata() or ())["token"]
        await context.abort(code, f"etcdserver: invalid auth token: {token!r}")
        return b""

    async with client_of(answer) as client:
        with pytest.raises(UnavailableError) as refused:
            await (client.range(b"x") if method == "range" else client.transact([], [], []))
        assert "invalid auth token: '[redacted]'" in str(refused.value)


async def test_the_token_of_each_request_is_hidden_where_another_one_has_made_the_client_forget_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two requests are refused at once; the first that is, has the client ask for another token."""
    monkeypatch.setattr(etcd_client, "TRY_S", 20.0)
    tokens = (f"ticket.{number}" for number in range(100))
    held = asyncio.Event()

    async def answer(name: str, request: bytes, context: Context) -> bytes:
        if name == "Authenticate":
            return pb.AuthenticateResponse(token=next(tokens)).SerializeToString()
        token = dict(context.invocation_metadata() or ())["token"]
        if name == "Txn":
            held.set()
            await wait_until(lambda: client._token, lambda known: known not in ("", token))
        elif token != "ticket.0":
            return b""
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"etcdserver: invalid auth token: {token}")
        return b""

    async with client_of(answer) as client:
        transaction = asyncio.create_task(client.transact([], [], []))
        await held.wait()
        await client.range(b"x")
        with pytest.raises(UnavailableError, match=r"token: \[redacted\]$"):
            await transaction
        assert client._token == "ticket.1"
