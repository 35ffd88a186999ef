"""Identities of clients on either transport: who is passed on to the hub, and who is refused or ended."""

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs
from support import resources as r
from support.control_planes import app_of, is_served, port_of, wait_streams
from support.pki import Authority, Pair
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient, StreamEnded

from xds.embed import ControlPlane
from xds.reporting.merged_log import peers_log
from xds.transport import client_certificates, grpcio_clients, native, revocation_watch

WEB = "spiffe://corp/ns/shop/sa/web"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files and open calls more often than every few seconds."""
    monkeypatch.setattr(revocation_watch, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(grpcio_clients, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(grpcio_clients, "FAREWELL_S", 0.2)
    monkeypatch.setattr(client_certificates, "EXPIRY_SPREAD_S", 1)
    monkeypatch.setattr(client_certificates, "AUTHORITIES_SPREAD_S", 1)
    monkeypatch.setattr(native, "FOLLOW_TLS_S", 1)


def tls_of(authority: Authority, **more: Any) -> dict[str, Any]:
    pair = authority.server()
    return {"cert": str(pair.cert_path), "key": str(pair.key_path), "client_ca": str(authority.cert_path)} | more


def client_of(control_plane: ControlPlane, authority: Authority, pair: Pair) -> DeltaClient:
    credentials = grpc.ssl_channel_credentials(authority.cert, pair.key, pair.cert)
    return DeltaClient(port_of(control_plane), credentials=credentials)


async def ending_of(client: DeltaClient) -> StreamEnded:
    """Subscribe, and return how the stream ends."""
    await client.subscribe(r.CLUSTER)
    return await client.ended()


async def wait_ended(control_plane: ControlPlane, client: DeltaClient) -> StreamEnded:
    await client.subscribe(r.CLUSTER)
    await client.take()
    return await client.ended(timeout_s=20)


@pytest.mark.parametrize(
    ("kind", "identity"),
    [("spiffe", (WEB,)), ("dns", ("dns:a.corp", "dns:b.corp")), ("cn", ("cn:web",))],
)
async def test_the_hub_is_given_the_identity_that_the_setting_names(serving, authority, peers, kind, identity):
    pair = authority.issue("web", dns=["a.corp", "b.corp"], uris=[WEB])
    async with serving(tls=tls_of(authority), identity={"certificate": kind}) as control_plane:
        assert await is_served(client_of(control_plane, authority, pair))
        assert await is_served(client_of(control_plane, authority, pair))
    assert [peer.identity for peer in peers] == [identity, identity]
    assert peers[0] is peers[1]


async def test_without_a_certificate_there_is_no_identity(serving, authority, peers):
    pair = authority.server()
    async with serving(tls={"cert": str(pair.cert_path), "key": str(pair.key_path)}) as control_plane:
        credentials = grpc.ssl_channel_credentials(authority.cert)
        assert await is_served(DeltaClient(port_of(control_plane), credentials=credentials))
    async with serving() as control_plane:
        assert await is_served(DeltaClient(port_of(control_plane)))
    assert [peer.identity for peer in peers] == [(), ()]


async def test_certificates_that_tls_accepts_and_we_do_not_are_refused_with_the_reason(serving, authority, peers):
    bad = {
        "has 2 URI names": authority.issue("two", uris=[WEB, "spiffe://corp/other"]),
        "is not a SPIFFE ID": authority.issue("strange", uris=["spiffe://corp//web"]),
        "is the certificate of a CA": authority.issue("signer", uris=[WEB], ca=True),
    }
    async with serving(tls=tls_of(authority), csds=True, reflection=True) as control_plane:
        for reason, pair in bad.items():
            client = client_of(control_plane, authority, pair)
            async with client:
                for method in (
                    "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
                    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                    "/grpc.health.v1.Health/Watch",
                ):
                    assert await _refusal(client, method) is grpc.StatusCode.UNAUTHENTICATED, method
                ended = await ending_of(client)
                assert ended.code is grpc.StatusCode.UNAUTHENTICATED
                assert reason in ended.details
        assert app_of(control_plane)._streams.tls_failures.keys() == {"names", "authority"}
    assert peers == []


async def _refusal(client: DeltaClient, method: str) -> grpc.StatusCode:
    call = client.channel.stream_stream(method)(iter([b""]))
    with contextlib.suppress(grpc.aio.AioRpcError):
        await asyncio.wait_for(call.read(), 5)
    return await call.code()


async def test_a_ca_of_one_trust_domain_does_not_vouch_for_another(serving, authority, peers, tmp_path):
    corp, partner = Authority(tmp_path / "corp", name="corp"), Authority(tmp_path / "partner", name="partner")
    domains = {"corp": str(corp.cert_path), "partner": str(partner.cert_path)}
    tls = tls_of(authority, trust_domains=domains)
    del tls["client_ca"]
    async with serving(tls=tls) as control_plane:
        assert await is_served(client_of(control_plane, authority, corp.client(spiffe=WEB)))
        assert await is_served(client_of(control_plane, authority, partner.client(spiffe="spiffe://partner/web")))
        async with client_of(control_plane, authority, partner.client(spiffe=WEB)) as client:
            ended = await ending_of(client)
            assert (ended.code, WEB in ended.details) == (grpc.StatusCode.UNAUTHENTICATED, True)
            assert "the CAs of trust domain 'corp' do not vouch" in ended.details
    assert [peer.identity for peer in peers] == [(WEB,), ("spiffe://partner/web",)]


async def test_cas_overlap_while_one_replaces_the_other_and_streams_of_the_former_end(
    serving, authority, tmp_path, soon
):
    new = Authority(tmp_path / "new", name="new CA")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.cert)
    before, after = authority.client("before", spiffe=WEB), new.client("after", spiffe=WEB)
    async with (
        serving(tls=tls_of(authority, client_ca=str(clients))) as control_plane,
        client_of(control_plane, authority, before) as old,
    ):
        await old.subscribe(r.CLUSTER)
        await old.take()
        clients.write_bytes(authority.cert + new.cert)
        assert await is_served(client_of(control_plane, authority, before))
        async with client_of(control_plane, authority, after) as renewed:
            await renewed.subscribe(r.CLUSTER)
            await renewed.take()
            await for_a_while(3, "the stream is examined again")
            control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
            assert (await old.take()).names == (await renewed.take()).names == {"b"}
            clients.write_bytes(new.cert)
            ended = await old.ended(timeout_s=20)
            assert (ended.code, "no CA of this server vouches for it" in ended.details) == (
                grpc.StatusCode.UNAUTHENTICATED,
                True,
            )
            async with client_of(control_plane, authority, before) as client:
                assert (await ending_of(client)).code is grpc.StatusCode.UNAVAILABLE
            control_plane.apply(upsert=[r.cluster("c"), r.assignment("c", 1)])
            assert (await renewed.take()).names == {"c"}
            await wait_streams(control_plane, 1)


async def test_streams_end_when_the_ca_of_their_trust_domain_is_removed(serving, authority, tmp_path, soon):
    former, other = Authority(tmp_path / "former", name="former"), Authority(tmp_path / "other", name="other")
    corp = tmp_path / "corp.pem"
    corp.write_bytes(former.cert + other.cert)
    tls = tls_of(authority, trust_domains={"corp": str(corp), "partner": str(former.cert_path)})
    async with (
        serving(tls=tls) as control_plane,
        client_of(control_plane, authority, former.client(spiffe=WEB)) as gone,
        client_of(control_plane, authority, other.client(spiffe=WEB)) as stays,
        client_of(control_plane, authority, former.client("p", spiffe="spiffe://partner/p")) as partner,
    ):
        for each in (gone, stays, partner):
            await each.subscribe(r.CLUSTER)
            await each.take()
        corp.write_bytes(other.cert)
        ended = await gone.ended(timeout_s=20)
        assert ended.code is grpc.StatusCode.UNAUTHENTICATED
        assert "the CAs of trust domain 'corp' do not vouch" in ended.details
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        assert (await stays.take()).names == (await partner.take()).names == {"b"}


async def test_the_intermediates_that_a_client_sent_count_when_cas_change(serving, authority, tmp_path, soon):
    root, extra = Authority(tmp_path / "root", name="root"), Authority(tmp_path / "extra", name="extra")
    middle = Authority(tmp_path / "middle", name="middle", issuer=root)
    leaf = middle.client(spiffe=WEB)
    clients = tmp_path / "clients.pem"
    clients.write_bytes(root.cert + extra.cert)
    credentials = grpc.ssl_channel_credentials(authority.cert, leaf.key, leaf.cert + middle.cert)
    async with (
        serving(tls=tls_of(authority, client_ca=str(clients))) as control_plane,
        DeltaClient(port_of(control_plane), credentials=credentials) as client,
    ):
        await client.subscribe(r.CLUSTER)
        await client.take()
        clients.write_bytes(root.cert)
        await for_a_while(3, "the stream is examined again")
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        assert (await client.take()).names == {"b"}
        clients.write_bytes(extra.cert)
        assert (await client.ended(timeout_s=20)).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_ca_that_was_renewed_with_its_key_still_vouches(serving, authority, tmp_path, soon):
    """A certificate is not bound to the CA certificate by which it was accepted, but to the CA's name and key."""
    renewed = authority.renewed()
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.cert)
    async with (
        serving(tls=tls_of(authority, client_ca=str(clients))) as control_plane,
        client_of(control_plane, authority, authority.client(spiffe=WEB)) as client,
    ):
        await client.subscribe(r.CLUSTER)
        await client.take()
        clients.write_bytes(renewed)
        await for_a_while(3, "the stream is examined again")
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        assert (await client.take()).names == {"b"}


@pytest.mark.parametrize("how", ["crl", "identity", "serial"])
async def test_a_revoked_client_is_ended_and_refused_and_others_stay(serving, authority, tmp_path, soon, how):
    gone, stays = authority.client("gone", spiffe="spiffe://corp/gone"), authority.client("stays", spiffe=WEB)
    listed, crl = tmp_path / "revoked", authority.revoke()
    listed.write_text("")
    tls = tls_of(authority, crls=str(crl), revoked=str(listed))
    async with (
        serving(tls=tls) as control_plane,
        client_of(control_plane, authority, stays) as other,
        client_of(control_plane, authority, gone) as client,
    ):
        for each in (other, client):
            await each.subscribe(r.CLUSTER)
            await each.take()
        began = time.monotonic()
        if how == "crl":
            authority.revoke(gone)
        else:
            listed.write_text("spiffe://corp/gone" if how == "identity" else f"serial:{gone.serial:040x}")
        ended = await client.ended()
        assert time.monotonic() - began < 60
        assert (ended.code, "is revoked" in ended.details) == (grpc.StatusCode.UNAUTHENTICATED, True)
        async with client_of(control_plane, authority, gone) as again:
            assert (await ending_of(again)).code is grpc.StatusCode.UNAUTHENTICATED
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        assert (await other.take()).names == {"b"}
        assert app_of(control_plane)._streams.tls_failures["revoked"] >= 2


async def test_who_is_revoked_is_read_at_once_if_all_files_are_to_be_read_again(
    serving, authority, tmp_path, monkeypatch
):
    monkeypatch.setattr("xds.transport.revocation_watch.LOOK_EVERY_S", 600.0)
    gone, listed = authority.client("gone", spiffe="spiffe://corp/gone"), tmp_path / "revoked"
    listed.write_text("")
    async with (
        serving(tls=tls_of(authority, revoked=str(listed))) as control_plane,
        client_of(control_plane, authority, gone) as client,
    ):
        await client.subscribe(r.CLUSTER)
        await client.take()
        listed.write_text("spiffe://corp/gone")
        app_of(control_plane).reload_certificates()
        assert (await client.ended()).code is grpc.StatusCode.UNAUTHENTICATED


async def test_the_connection_of_a_revoked_client_is_closed_so_that_it_can_return_with_another(
    serving, authority, tmp_path, soon
):
    listed = tmp_path / "revoked"
    listed.write_text("")
    gone = authority.client("gone", spiffe="spiffe://corp/gone")
    async with serving(tls=tls_of(authority, revoked=str(listed))) as control_plane:
        context = authority.client_context(gone)
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(control_plane), ssl=context)
        try:
            async with client_of(control_plane, authority, gone) as client:
                await client.subscribe(r.CLUSTER)
                await client.take()
                listed.write_text("spiffe://corp/gone")
                await client.ended()
                await wait_until(client.channel.get_state, equals=grpc.ChannelConnectivity.IDLE)
        finally:
            writer.transport.abort()


async def test_a_file_of_revoked_clients_that_is_spoilt_leaves_the_former_in_force(serving, authority, tmp_path, soon):
    listed = tmp_path / "revoked"
    listed.write_text("spiffe://corp/gone")
    gone = authority.client("gone", spiffe="spiffe://corp/gone")
    with capture_logs() as logs:
        async with serving(tls=tls_of(authority, revoked=str(listed))) as control_plane:
            for spoilt in ("nobody", None):
                if spoilt is None:
                    listed.unlink()
                else:
                    listed.write_text(spoilt)
                said = len(logs)
                await wait_until(
                    lambda said=said: any("revoked certificates can't" in str(each) for each in logs[said:])
                )
                async with client_of(control_plane, authority, gone) as client:
                    assert (await ending_of(client)).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_ends_when_the_certificate_of_its_client_expires(serving, authority, soon):
    brief, lasting = authority.issue("brief", uris=[WEB], days=4 / 86_400), authority.client("lasting", spiffe=WEB)
    async with (
        serving(tls=tls_of(authority)) as control_plane,
        client_of(control_plane, authority, lasting) as other,
        client_of(control_plane, authority, brief) as client,
    ):
        for each in (other, client):
            await each.subscribe(r.CLUSTER)
            await each.take()
        ended = await client.ended(timeout_s=20)
        assert (ended.code, "has expired" in ended.details) == (grpc.StatusCode.UNAUTHENTICATED, True)
        await wait_streams(control_plane, 1)
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        assert (await other.take()).names == {"b"}


async def test_a_resumed_session_is_examined_as_a_new_one(serving, transport, authority, tmp_path, peers, soon):
    """TLS 1.2 resumes a session without verifying the certificate again."""
    if transport == "grpcio":
        pytest.skip("what gRPC resumes is gRPC's; its calls are examined all the same")
    listed = tmp_path / "revoked"
    listed.write_text("")
    pair = authority.client(spiffe=WEB)
    for more in ({}, {"trust_domains": {"corp": str(authority.cert_path)}}):
        async with serving(tls=tls_of(authority, revoked=str(listed), **more)) as control_plane:
            context = authority.client_context(pair)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            first = await asyncio.to_thread(_connect, context, port_of(control_plane), None)
            again = await asyncio.to_thread(_connect, context, port_of(control_plane), first.session)
            assert again.session_reused
            assert app_of(control_plane)._streams.tls_failures == {}
            listed.write_text(WEB)
            await asyncio.to_thread(_read_to_end, first, again)
            more_again = await asyncio.to_thread(_connect, context, port_of(control_plane), first.session)
            failures = app_of(control_plane)._streams.tls_failures
            await wait_until(lambda failures=failures: failures["revoked"], equals=3)
            for each in (first, again, more_again):
                each.close()
            listed.write_text("")


def _connect(context: ssl.SSLContext, port: int, session: Any) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    tls = context.wrap_socket(plain, server_hostname="localhost", session=session)
    tls.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    tls.recv(1)
    return tls


def _read_to_end(*connections: ssl.SSLSocket) -> None:
    for each in connections:
        with contextlib.suppress(OSError):
            while each.recv(4096):
                pass


# --- Handshakes ------------------------------------------------------------------------------------------------------


def _fail_to_shake_hands(port: int, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        if context is None:
            plain.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            plain.recv(1)
            return
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.recv(1)


async def test_a_failed_handshake_is_logged_with_its_client_and_reason_and_counted(
    serving, transport, authority, tmp_path
):
    if transport == "grpcio":
        pytest.skip("gRPC tells its server nothing of failed handshakes; docs/how-to/tls.md says so")
    other = Authority(tmp_path / "other", name="another CA")
    old = authority.client_context(authority.client("old"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the server's key is no RSA key
    tries: dict[str, ssl.SSLContext | None] = {
        "no certificate": authority.client_context(),
        "untrusted": authority.client_context(other.client("stranger")),
        "expired": authority.client_context(authority.issue("late", days=-1)),
        "not TLS": None,
        "server certificate refused": other.client_context(authority.client("web")),
        "version": old,
    }
    peers_log.flush()
    async with serving(tls=tls_of(authority)) as control_plane:
        for reason, context in tries.items():
            with capture_logs() as logs:
                await asyncio.to_thread(_fail_to_shake_hands, port_of(control_plane), context)
                failures = app_of(control_plane)._streams.tls_failures
                await wait_until(lambda failures=failures, reason=reason: failures[reason], equals=1)
            (line,) = [each for each in logs if each["event"] == "a client was refused by TLS"]
            assert (line["reason"], line["port"]) == (reason, "xDS")
            assert line["client"].startswith("127.0.0.1:")
            assert line["problem"]
        assert set(failures) == set(tries)


async def test_a_client_that_only_connects_is_no_failure_and_one_that_leaves_is(serving, transport, authority):
    if transport == "grpcio":
        pytest.skip("gRPC tells its server nothing of failed handshakes")
    async with serving(tls=tls_of(authority)) as control_plane:
        failures = app_of(control_plane)._streams.tls_failures
        for data in (b"", b"\x16\x03\x01"):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(control_plane))
            writer.write(data)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        await wait_until(lambda: dict(failures), equals={"left": 1})


async def test_a_client_that_takes_too_long_is_a_failure(serving, transport, authority):
    if transport == "grpcio":
        pytest.skip("gRPC tells its server nothing of failed handshakes")
    limits = {"handshake_timeout_s": 0.5}
    async with serving(tls=tls_of(authority), connections=limits) as control_plane:
        failures = app_of(control_plane)._streams.tls_failures
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(control_plane))
        writer.write(b"\x16\x03\x01")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await wait_until(lambda: dict(failures), equals={"late": 1})


async def test_a_client_that_speaks_tls_to_a_plaintext_port_is_a_failure(serving, transport, authority):
    if transport == "grpcio":
        pytest.skip("gRPC tells its server nothing of failed handshakes")
    async with serving() as control_plane:
        failures = app_of(control_plane)._streams.tls_failures
        await asyncio.to_thread(_fail_to_shake_hands, port_of(control_plane), authority.client_context())
        await wait_until(lambda: dict(failures), equals={"TLS to plaintext": 1})
