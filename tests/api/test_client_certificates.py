"""Client certificates at the ports of the push API, mapped to roles by a file that is followed."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fetch import fetch
from support.pki import Authority, Pair
from support.server import XdsServer

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


@dataclass
class Scene:
    server: XdsServer
    authority: Authority
    identities: Path

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


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("server", dns=["localhost"], ips=["127.0.0.1"])
    identities = tmp_path / "identities.yaml"
    identities.write_text(IDENTITIES)
    options = ["--api-tls-cert", str(pair.cert_path), "--api-tls-key", str(pair.key_path), "--workers", "0"]
    settings = {"api.tls_client_ca": authority.cert_path, "access.identities_file": identities}
    async with XdsServer(None, *options, settings=settings) as server:
        await server.wait_ready()
        yield Scene(server, authority, identities)


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
