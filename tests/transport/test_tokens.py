"""Bearer tokens on either transport: who gets in, as whom, what others are told, and streams whose token expires."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs
from support import resources as r
from support import tokens as t
from support.control_planes import app_of, is_served
from support.grpc_writes import write
from support.jwks_server import jwks_server
from support.pki import Authority
from support.waiting import wait_until
from support.wire import DeltaClient, SotwClient

from xds.embed import ControlPlane
from xds.identity import key_source
from xds.reporting.events import keys_log


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(t.jwks(t.jwk("ES256"), t.jwk("ES384")))
    return path


def identity_by(keys: Path | str, **more: Any) -> dict[str, Any]:
    """Return the settings of one issuer, by the file or the URL of its keys."""
    named = {"jwks_file": str(keys)} if isinstance(keys, Path) else {"jwks_url": keys}
    issuer = {"name": "corp", "issuer": t.ISSUER, "audiences": [t.AUDIENCE], "trust_domain": "corp", **named}
    issuer["algorithms"] = ["ES256", "ES384"]
    return {"identity": {"source": "token", "issuers": [issuer], "expiry_jitter_s": 0, "leeway_s": 0, **more}}


def client_of(control_plane: ControlPlane, token: str | None, **more: Any) -> DeltaClient:
    assert control_plane.address is not None
    return DeltaClient(control_plane.address.port, token=token, **more)


async def refused(client: DeltaClient) -> tuple[grpc.StatusCode, str]:
    async with client:
        await client.subscribe(r.CLUSTER)
        ended = await client.ended()
        return ended.code, ended.details


@pytest.mark.parametrize("kind", ["ES256", "ES384"])
async def test_the_hub_is_given_the_identity_in_the_token(serving, keys, peers, kind):
    async with serving(**identity_by(keys)) as control_plane:
        assert await is_served(client_of(control_plane, t.token(kind)))
        assert await is_served(client_of(control_plane, t.token(kind, sub="spiffe://corp/ns/shop/sa/web")))
    assert [peer.identity for peer in peers] == [("jwt:corp/web",), ("spiffe://corp/ns/shop/sa/web",)]


@pytest.mark.parametrize(
    ("token", "reason", "text"),
    [
        (None, "missing", "no token was sent; send the metadata authorization: Bearer TOKEN"),
        ("a b", "malformed", "the token has 1 parts, and a signed token has 3"),
        ("abc", "malformed", "the token has 1 parts, and a signed token has 3"),
        (t.token(exp=int(time.time()) - 100), "expired", "the token expired "),
        (t.token(iss="https://other"), "issuer", "the token is of issuer 'https://other', which identity.issuers does"),
        (t.token(aud="other"), "audience", "the token is for 'other'; issuer corp must issue it for xds"),
        (t.token("ES256", 5), "key", "the token is signed with key 'ES256-5', which issuer corp lacks"),
        (t.token("ES256", 5, headers={"kid": "ES256-0"}), "signature", "the token's signature is not one of issuer"),
        (t.token(sub="spiffe://other/web"), "subject", "the token's subject is of trust domain 'other'"),
        ("x" * 8193, "too large", "the token has more than 8192 bytes"),
    ],
    ids=lambda value: str(value)[:12],
)
async def test_others_are_told_what_is_wrong_but_not_their_token(serving, keys, peers, token, reason, text):
    async with serving(**identity_by(keys)) as control_plane:
        with capture_logs() as logs:
            code, details = await refused(client_of(control_plane, token))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert details.startswith(text)
        assert app_of(control_plane).hub.counters.tokens_refused == {reason: 1}
        (line,) = [each for each in logs if each["event"] == "a token was refused"]
        assert (line["reason"], line["problem"]) == (reason, details)
        assert line["client"].startswith("127.0.0.1:")
        assert not token or len(token) < 5 or token not in repr(logs) + details
        assert not peers, "no stream was opened"
        assert await is_served(client_of(control_plane, t.token())), "others are served"


async def test_a_long_token_is_taken_each_time(serving, keys):
    """gRPC would refuse more than 8 KiB of headers at random."""
    token = t.token(groups="x" * 9_000)
    async with serving(**identity_by(keys, token_bytes_max=14 * 1024)) as control_plane:
        assert len(token) > 12_000
        assert [await is_served(client_of(control_plane, token)) for _ in range(10)] == [True] * 10


async def test_the_first_requests_of_a_client_wait_for_its_token(serving, keys):
    """A returning Envoy sends all of its requests in one burst."""
    async with serving(**identity_by(keys)) as control_plane:
        async with client_of(control_plane, t.token("ES384")) as client:
            await client.subscribe(r.CLUSTER)
            await client.subscribe(r.ENDPOINTS, "a")
            taken = await client.take_until(lambda: len(client.view) == 2)
            assert {each.type_url for each in taken} == {r.CLUSTER, r.ENDPOINTS}
        assert control_plane.address is not None
        async with SotwClient(control_plane.address.port, token=t.token(sub="sotw")) as sotw:
            await sotw.subscribe(r.CLUSTER)
            assert (await sotw.take()).names == {"a"}


async def test_a_client_that_leaves_while_its_token_is_verified_leaves_nothing(serving, keys):
    async with serving(**identity_by(keys)) as control_plane:
        for number in range(20):
            client = client_of(control_plane, t.token("ES384", sub=f"n{number}"))
            async with client:
                await client.subscribe(r.CLUSTER)
        app = app_of(control_plane)
        await wait_until(lambda: len(app.hub.streams), equals=0)
        assert await is_served(client_of(control_plane, t.token()))


async def test_a_stream_ends_when_its_token_expires_and_goes_on_with_another(serving, keys):
    async with serving(**identity_by(keys)) as control_plane:
        first = t.token(exp=int(time.time()) + 2, sub="n")
        async with client_of(control_plane, first) as client, client_of(control_plane, t.token(sub="o")) as other:
            for each in (client, other):
                await each.subscribe(r.CLUSTER)
                await each.take()
            ended = await client.ended(timeout_s=10)
            assert ended.code is grpc.StatusCode.UNAVAILABLE
            assert ended.details == "the token of this stream has expired; connect again with a new one"
            await other.quiet()
            versions = client.versions(r.CLUSTER)
        assert app_of(control_plane).hub.counters.tokens_expired == 1
        code, details = await refused(client_of(control_plane, first))
        assert (code, details[:17]) == (grpc.StatusCode.UNAUTHENTICATED, "the token expired")
        async with client_of(control_plane, t.token(sub="n")) as again:
            await again.subscribe(r.CLUSTER, initial=versions)
            await again.quiet()


async def test_a_stream_that_ends_by_itself_is_forgotten(serving, keys, transport):
    async with serving(**identity_by(keys)) as control_plane:
        assert await is_served(client_of(control_plane, t.token()))
        app = app_of(control_plane)
        await wait_until(lambda: len(app.hub.streams), equals=0)
        (sinks,) = app._streams._tokens._expiry._sinks.values()
        await wait_until(lambda: len(sinks), equals=0)


async def test_secrets_go_to_clients_with_a_token(serving, keys, tmp_path):
    authority = Authority(tmp_path / "pki")
    pair = authority.server()
    tls = {"cert": str(pair.cert_path), "key": str(pair.key_path)}
    settings = {**identity_by(keys), "tls": tls, "secrets": {"require": "identity"}}
    secret = r.secret("key", pair.cert_text, pair.key_text)
    async with serving([secret], **settings) as control_plane:
        client = client_of(control_plane, t.token(), credentials=grpc.ssl_channel_credentials(authority.cert))
        async with client:
            await client.subscribe(r.SECRET, "key")
            assert (await client.take()).names == {"key"}


async def test_health_is_for_everyone_and_other_services_are_not(serving, keys):
    async with serving(**identity_by(keys), csds=True, reflection=True) as control_plane:
        assert control_plane.address is not None
        target = f"127.0.0.1:{control_plane.address.port}"
        async with grpc.aio.insecure_channel(target) as channel:
            assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
            for path in (
                "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            ):
                for token, code in ((None, grpc.StatusCode.UNAUTHENTICATED), (t.token(), grpc.StatusCode.OK)):
                    metadata = None if token is None else (("authorization", f"Bearer {token}"),)
                    call = channel.stream_stream(path)(metadata=metadata)
                    if token is None:
                        await write(call, b"")
                    await call.done_writing()
                    assert await call.code() is code, path


async def test_without_keys_clients_are_told_to_come_again(serving, monkeypatch):
    monkeypatch.setattr(key_source, "INTERVAL_MIN_S", 0.1)
    keys_log.flush()
    async with jwks_server(body=t.jwks(t.jwk("ES256"))) as server:
        server.answer = b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n"
        with capture_logs() as logs:
            async with serving(**identity_by(server.url)) as control_plane:
                code, details = await refused(client_of(control_plane, t.token()))
                assert (code, details) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "the keys of issuer corp could not be read yet",
                )
                counters = app_of(control_plane).hub.counters
                assert counters.keys_failed["corp"] >= 1
                server.answer = None
                await wait_until(lambda: any(each["event"] == "keys read" for each in logs))
                assert await is_served(client_of(control_plane, t.token()))
        (line, *_) = [each for each in logs if each["event"] == "keys can't be read"]
        assert (line["issuer"], line["source"]) == ("corp", server.url)
        assert "503" in line["problem"]


async def test_a_storm_is_served_while_tokens_are_verified(serving, keys):
    async with serving(**identity_by(keys)) as control_plane:
        clients = [
            client_of(control_plane, t.token(sub=f"n{number % 50}"), node_id=f"n{number}") for number in range(200)
        ]
        assert all(await asyncio.gather(*map(is_served, clients)))
