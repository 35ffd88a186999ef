"""Client certificates at the ports of the push API, mapped to roles by a file that is followed."""

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fetch import fetch
from support.pki import Authority, Pair
from support.server import XdsServer
from support.waiting import for_a_while, wait_until

from xds.access.errors import AccessFileError
from xds.access.identities import read_identities
from xds.client import Client, RefusedError, UnavailableError

IDENTITIES = """\
callers:
- identity: spiffe://corp/ns/ci/**
  roles: [write]
  groups: ["web-*"]
- identity: cn:ann
  grants:
  - roles: [read]
  - roles: [admin]
"""
TOKEN = "t" * 40


@dataclass
class Scene:
    server: XdsServer
    authority: Authority
    identities: Path
    client_ca: Path
    crl: Path
    revoked: Path

    def context(self, pair: Pair | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.cert_path)
        if pair is not None:
            context.load_cert_chain(pair.cert_path, pair.key_path)
        return context

    def client(self, pair: Pair | None, token: str = "") -> Client:
        return Client(
            f"localhost:{self.server.api_port}",
            token=token,
            tls_ca=self.authority.cert_path,
            tls_cert=None if pair is None else pair.cert_path,
            tls_key=None if pair is None else pair.key_path,
            patience_s=0,
        )

    async def status(self, pair: Pair, path: str = "/v1/whoami", token: str = "") -> tuple[int, str]:
        """Return the status and text of an answer on a new connection."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = await fetch(self.server.admin_port, path, tls=self.context(pair), headers=headers)
        return answer.status, answer.text


class Kept:
    """A connection to the REST port that is kept, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, path: str = "/v1/whoami") -> tuple[int, str]:
        """Return the status and headers of the answer."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)).decode().lower()
        if "content-length: " in head:
            await self._reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        return int(head.split()[1]), head

    async def ended(self) -> str:
        """Return what comes until the answer ends."""
        data = await asyncio.wait_for(self._reader.readuntil(b"0\r\n\r\n"), 20)
        return data.decode()


@asynccontextmanager
async def kept(scene: Scene, pair: Pair) -> AsyncIterator[Kept]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", scene.server.admin_port, ssl=scene.context(pair), server_hostname="localhost"
    )
    try:
        yield Kept(reader, writer)
    finally:
        writer.transport.abort()


async def must_end(scene: Scene, pair: Pair, client: Client, connection: Kept, watching: Kept, why: str) -> None:
    """Assert that open connections of a caller that could call lose that within a minute, for a reason."""
    began = time.monotonic()
    watch = asyncio.ensure_future(_ending(client))
    rest = asyncio.ensure_future(watching.ended())
    status, head = 200, ""
    while status == 200:
        await for_a_while(0.2, "a kept connection is asked again and again")
        status, head = await connection.ask()
    assert (status, "connection: close" in head) == (401, True)
    assert why in await watch
    assert why in await rest
    with pytest.raises(RefusedError, match=why):
        await client.whoami()
    assert time.monotonic() - began < 60


async def _ending(client: Client) -> str:
    try:
        async for _ in client.watch(0):
            pass
    except RefusedError as error:
        return str(error)
    raise AssertionError("the watch ended without an error")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("server", dns=["localhost"], ips=["127.0.0.1"])
    identities, client_ca, revoked, token = (
        tmp_path / name for name in ("identities.yaml", "clients.pem", "revoked", "token")
    )
    identities.write_text(IDENTITIES)
    client_ca.write_bytes(authority.cert)
    revoked.write_text("")
    token.write_text(TOKEN)
    crl = authority.revoke()
    options = ["--api-tls-cert", str(pair.cert_path), "--api-tls-key", str(pair.key_path), "--workers", "0"]
    settings = {
        "api.tls_client_ca": client_ca,
        "api.token_file": token,
        "access.identities_file": identities,
        "tls.crls": crl,
        "tls.revoked": revoked,
    }
    async with XdsServer(None, *options, settings=settings) as server:
        await server.wait_ready()
        yield Scene(server, authority, identities, client_ca, crl, revoked)


async def test_a_certificate_says_who_calls(scene: Scene) -> None:
    ann = scene.authority.issue("ann")
    ci = scene.authority.issue("ci", uris=["spiffe://corp/ns/ci/sa/x"])
    async with scene.client(ann) as client:
        assert (await client.whoami()).identity == "cn:ann"
    async with scene.client(ci) as client:
        assert (await client.whoami()).identity == "spiffe://corp/ns/ci/sa/x"
        with pytest.raises(RefusedError, match="lacks the right write for the group 'default'"):
            await client.apply(remove=[("clusters", "x")])
    for pair, found in ((ann, "cn:ann"), (ci, "spiffe://corp/ns/ci/sa/x")):
        answer = await fetch(scene.server.admin_port, "/v1/whoami", tls=scene.context(pair))
        assert answer.json()["identity"] == found
    async with scene.client(None) as client:
        with pytest.raises(UnavailableError):  # gRPC needs a certificate
            await client.whoami()
    for path, status in (("/healthz", 200), ("/metrics", 200), ("/v1/whoami", 401)):
        assert (await fetch(scene.server.admin_port, path, tls=scene.context(None))).status == status


async def test_certificates_that_prove_too_much_or_nobody_that_is_known_are_refused(scene: Scene) -> None:
    authority, other = scene.authority, Authority(scene.identities.parent / "other")
    for pair, why in (
        (authority.issue("bob"), "no entry of access.identities_file is for this certificate, which names cn:bob"),
        (authority.issue("ann", ca=True), "the client certificate is refused: it is the certificate of a CA"),
        (
            authority.issue("x", uris=["spiffe://corp/ns/ci/sa/x", "spiffe://corp/ns/ci/sa/y"]),
            "the client certificate is refused: it has 2 URI names",
        ),
        (authority.issue("z", uris=["spiffe://other/ns/ci/sa/x"]), "no entry of access.identities_file"),
    ):
        answer = await fetch(scene.server.admin_port, "/v1/groups", tls=scene.context(pair))
        assert answer.status == 401
        assert answer.json()["error"].startswith(why), answer.text
        async with scene.client(pair) as client:
            with pytest.raises(RefusedError, match=why.partition(":")[0]):
                await client.groups()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await fetch(scene.server.admin_port, "/healthz", tls=scene.context(other.issue("ann")))


async def test_a_token_decides_alone(scene: Scene) -> None:
    ann = scene.authority.issue("ann")
    async with scene.client(ann, token="xdst_" + "A" * 43) as client:
        with pytest.raises(RefusedError, match="does not know the token"):
            await client.whoami()


@pytest.mark.parametrize("how", ["crl", "name", "serial"])
async def test_a_revoked_certificate_is_refused_on_all_ports_and_open_connections(scene: Scene, how: str) -> None:
    ann, ci = scene.authority.issue("ann"), scene.authority.issue("ci", uris=["spiffe://corp/ns/ci/sa/x"])
    async with (
        scene.client(ann) as client,
        scene.client(ci) as other,
        kept(scene, ann) as connection,
        kept(scene, ann) as watching,
        kept(scene, ann) as page,
    ):
        assert (await client.whoami()).identity == "cn:ann"
        assert (await connection.ask())[0] == (await watching.ask("/v1/watch?from=0"))[0] == 200
        assert (await page.ask("/page/live"))[0] == 200
        if how == "crl":
            scene.authority.revoke(ann)
        else:
            scene.revoked.write_text("cn:ann" if how == "name" else f"serial:{ann.serial:040x}")
        await must_end(scene, ann, client, connection, watching, "is revoked")
        assert "UnauthenticatedError" in await page.ended()
        assert (await other.whoami()).identity == "spiffe://corp/ns/ci/sa/x"
    for path in ("/v1/whoami", "/page/", "/page/groups"):
        status, text = await scene.status(ann, path)
        assert (status, "is revoked" in text) == (401, True), path
    assert (await scene.status(ann, "/healthz"))[0] == 200
    assert (await scene.status(ci))[0] == 200
    # TLS would refuse it if it knew, whatever follows: a token does not help.
    assert (await scene.status(ann, token=TOKEN))[0] == 401
    assert (await scene.status(ci, token=TOKEN))[0] == 200
    async with scene.client(ann, token=TOKEN) as client:
        with pytest.raises(RefusedError, match="is revoked"):
            await client.whoami()


async def test_a_spoilt_list_of_revoked_certificates_leaves_the_former_in_force(scene: Scene) -> None:
    ann = scene.authority.issue("ann")
    scene.revoked.write_text("cn:ann")
    await wait_until(lambda: scene.status(ann), lambda found: found[0] == 401, timeout_s=15)
    scene.revoked.write_text("ann")
    (event,) = await scene.server.wait_event("tls")
    assert "line 1: 'ann'" in event["problem"]
    assert (await scene.status(ann))[0] == 401
    other = scene.authority.issue("bob")
    await wait_until(lambda: scene.status(other, "/readyz"), lambda found: "push API" in found[1], timeout_s=15)
    scene.revoked.write_text("")
    await wait_until(lambda: scene.status(ann), lambda found: found[0] == 200, timeout_s=15)


async def test_an_expired_certificate_is_refused_on_open_connections(scene: Scene) -> None:
    ann = scene.authority.issue("ann", days=5 / 86_400)
    async with (
        scene.client(ann) as client,
        kept(scene, ann) as connection,
        kept(scene, ann) as watching,
    ):
        assert (await client.whoami()).identity == "cn:ann"
        assert (await connection.ask())[0] == (await watching.ask("/v1/watch?from=0"))[0] == 200
        await must_end(scene, ann, client, connection, watching, "it expired on")


async def test_cas_are_replaced_on_all_ports_and_open_connections(scene: Scene) -> None:
    new = Authority(scene.identities.parent / "new", name="new CA")
    before, after = scene.authority.issue("ann"), new.issue("ann")
    async with scene.client(before) as client, kept(scene, before) as connection, kept(scene, before) as watching:
        assert (await client.whoami()).identity == "cn:ann"
        assert (await connection.ask())[0] == (await watching.ask("/v1/watch?from=0"))[0] == 200
        scene.client_ca.write_bytes(scene.authority.cert + new.cert)
        scene.server.signal(signal.SIGHUP)
        await scene.server.wait_event("certificates read again")
        for pair in (before, after):
            assert (await scene.status(pair))[0] == 200
            async with scene.client(pair) as another:
                assert (await another.whoami()).identity == "cn:ann"
        assert (await connection.ask())[0] == 200
        scene.client_ca.write_bytes(new.cert)
        await must_end(scene, before, client, connection, watching, "no CA of this server vouches for it")
    assert (await scene.status(after))[0] == 200
    await wait_until(lambda: _is_refused(scene, before), timeout_s=15)  # by TLS, without a signal
    async with scene.client(before) as another:
        with pytest.raises(UnavailableError):
            await another.whoami()


async def _is_refused(scene: Scene, pair: Pair) -> bool:
    try:
        await scene.status(pair)
    except (ssl.SSLError, ConnectionError):
        return True
    return False


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_of_a_removed_ca_is_resumed(scene: Scene, version: ssl.TLSVersion) -> None:
    new = Authority(scene.identities.parent / "new", name="new CA")
    context = scene.context(scene.authority.issue("ann"))
    context.minimum_version = context.maximum_version = version
    port = scene.server.admin_port
    with contextlib.ExitStack() as stack:
        first = await asyncio.to_thread(_asked, stack, port, context, None)
        again = await asyncio.to_thread(_asked, stack, port, context, first.session)
        assert again.session_reused is (version is ssl.TLSVersion.TLSv1_2)
        scene.client_ca.write_bytes(new.cert)
        scene.server.signal(signal.SIGHUP)
        await wait_until(
            lambda: [each for each in scene.server.events("certificates read again") if each["port"] == "admin"]
        )
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(_asked, stack, port, context, first.session)
    assert (await scene.status(new.issue("ann")))[0] == 200


def _asked(
    stack: contextlib.ExitStack, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> ssl.SSLSocket:
    """Return a connection on which a request was answered."""
    plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
    tls = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost", session=session))
    tls.sendall(b"GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\n\r\n")
    if not (answer := tls.recv(4096)):
        raise ConnectionResetError
    assert answer.startswith(b"HTTP/1.1 200")
    return tls


async def test_an_intermediate_that_the_caller_sends_is_taken_into_account(scene: Scene) -> None:
    middle = Authority(scene.identities.parent / "middle", name="middle", issuer=scene.authority)
    ann = middle.issue("ann")
    ann.cert_path.write_bytes(ann.cert + middle.cert)
    assert (await scene.status(ann))[0] == 200
    async with scene.client(ann) as client:
        assert (await client.whoami()).identity == "cn:ann"
        scene.authority.revoke(Pair(middle.cert, b"", middle.cert_path, middle.cert_path))
        await wait_until(lambda: scene.status(ann), lambda found: found[0] == 401, timeout_s=15)
        with pytest.raises(RefusedError, match="is revoked"):
            await client.whoami()


async def test_the_file_is_followed_and_a_bad_one_changes_nothing(scene: Scene) -> None:
    ann = scene.authority.issue("ann")
    context = scene.context(ann)
    scene.identities.write_text(IDENTITIES.replace("admin", "root").replace("cn:ann", "ann"))
    assert (await fetch(scene.server.admin_port, "/v1/whoami", tls=context)).status == 200
    (event,) = await scene.server.wait_event("access file not read again; what it had stays in force")
    assert "'root' is not a role" in event["problem"]
    assert f"{scene.identities}:5: identity: 'ann'" in event["problem"]
    scene.identities.write_text(IDENTITIES.partition("- identity: cn:ann")[0])
    assert (await fetch(scene.server.admin_port, "/v1/whoami", tls=context)).status == 401


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file has the key callers"),
        ("callers: {}", "callers is a list"),
        ("callers: []\nother: 1", "the file has the key callers"),
        ("callers: []\nissuers: [{name: a, issuer: b, audiences: [c]}]", "one of jwks_file and jwks_url"),
        ("callers: []\nissuers: [{name: a, issuer: b, jwks_file: c}]", "an issuer needs audiences"),
        ("callers: []\nissuers: [{name: a, issuer: b, audiences: [c], jwks_url: 'http://x/'}]", "is not https"),
        ("callers: []\nissuers: [{name: a, issuer: b, audiences: c, jwks_file: d}]", "audiences: write a list"),
        ("callers:\n- roles: [read]", "an entry needs an identity"),
        ("callers:\n- identity: '*'\n  roles: [read]", "would be for everyone"),
        ("callers:\n- identity: cn:a\n  roles: []", "there is no role"),
        ("callers:\n- identity: cn:a\n  roles: [read]\n  groups: []", "the list is empty"),
        ("callers:\n- identity: cn:a\n  roles: [admin]\n  groups: [a]", "admin is for all groups"),
        ("callers:\n- identity: cn:a\n  rolls: [read]", "'rolls' is not a key"),
        ("callers:\n- identity: cn:a\n  roles: [read]\n  claims: {a: b}", "only tokens have claims"),
        ("callers:\n- identity: jwt:x/a\n  roles: [read]\n  claims: {a: 1}", "write each as NAME: TEXT"),
        ("callers:\n- identity: cn:a\n  roles: [read]\n  grants: []", "not both"),
        ("callers: [&a [*a, *a]]", "alias"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text(text)
    with pytest.raises(AccessFileError, match=problem):
        read_identities(path)
