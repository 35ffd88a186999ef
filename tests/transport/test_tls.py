"""TLS of either transport: who gets in, and certificates that are replaced while streams are open."""

import asyncio
import contextlib
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support import resources as r
from support.control_planes import app_of
from support.pki import Authority, Pair
from support.wire import DeltaClient, StreamEnded

from xds.embed import ControlPlane


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def files_of(pair: Pair, authority: Authority | None = None) -> dict[str, dict[str, str]]:
    """Return the TLS settings of a server; with an authority, its clients need a certificate."""
    tls = {"cert": str(pair.cert_path), "key": str(pair.key_path)}
    return {"tls": tls | ({"client_ca": str(authority.cert_path)} if authority else {})}


def client_of(control_plane: ControlPlane, authority: Authority, pair: Pair | None = None) -> DeltaClient:
    """Return a client that trusts an authority and shows a certificate if it has one."""
    shown = {"private_key": pair.key, "certificate_chain": pair.cert} if pair else {}
    credentials = grpc.ssl_channel_credentials(root_certificates=authority.cert, **shown)
    assert control_plane.address is not None
    return DeltaClient(control_plane.address.port, credentials=credentials)


async def serves(client: DeltaClient) -> bool:
    """Say whether the client is served, rather than refused."""
    async with client:
        await client.subscribe(r.CLUSTER)
        with contextlib.suppress(StreamEnded):
            return (await client.take()).names == {"a"}
        assert (await client.ended()).code is grpc.StatusCode.UNAVAILABLE
        return False


async def shown_certificate(control_plane: ControlPlane, authority: Authority) -> str:
    """Return the common name in the certificate that a new connection is shown."""
    context = authority.client_context()
    context.set_alpn_protocols(["h2"])
    assert control_plane.address is not None
    _, writer = await asyncio.open_connection("127.0.0.1", control_plane.address.port, ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


async def test_a_client_that_trusts_the_server_is_served(serving, authority):
    async with serving(**files_of(authority.server())) as control_plane:
        assert await serves(client_of(control_plane, authority))


async def test_a_client_that_trusts_others_goes_away(serving, authority, tmp_path):
    async with serving(**files_of(authority.server())) as control_plane:
        assert not await serves(client_of(control_plane, Authority(tmp_path / "other")))


async def test_a_plaintext_client_is_refused(serving, authority):
    async with serving(**files_of(authority.server())) as control_plane:
        assert control_plane.address is not None
        assert not await serves(DeltaClient(control_plane.address.port))
        assert app_of(control_plane).hub.counters.streams_opened == 0


async def test_a_client_needs_a_certificate_where_one_is_asked_for(serving, authority, tmp_path):
    other = Authority(tmp_path / "other")
    async with serving(**files_of(authority.server(), authority)) as control_plane:
        assert await serves(client_of(control_plane, authority, authority.client()))
        opened = app_of(control_plane).hub.counters.streams_opened
        assert not await serves(client_of(control_plane, authority))
        assert not await serves(client_of(control_plane, authority, other.client()))
        assert not await serves(client_of(control_plane, authority, authority.issue("expired", days=-1)))
        assert app_of(control_plane).hub.counters.streams_opened == opened


async def test_a_replaced_certificate_is_shown_to_new_connections_and_old_streams_live_on(serving, authority):
    pair, renewed = authority.server("first"), authority.server("second")
    async with serving(**files_of(pair)) as control_plane, client_of(control_plane, authority) as old:
        await old.subscribe(r.CLUSTER)
        await old.take()
        assert await shown_certificate(control_plane, authority) == "CN=first"
        # One after the other, as any tool would: between the two, key and certificate do not go together.
        pair.key_path.write_bytes(renewed.key)
        assert await shown_certificate(control_plane, authority) == "CN=first"
        pair.cert_path.write_bytes(renewed.cert)
        assert await shown_certificate(control_plane, authority) == "CN=second"
        assert await serves(client_of(control_plane, authority))
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        assert (await old.take()).names == {"b"}
        assert app_of(control_plane).hub.counters.streams_opened == 2


async def test_files_that_can_not_be_used_leave_the_former_in_force(serving, authority):
    pair = authority.server("first")
    async with serving(**files_of(pair)) as control_plane:
        for spoilt in (b"", b"not a certificate"):
            pair.cert_path.write_bytes(spoilt)
            assert await shown_certificate(control_plane, authority) == "CN=first"
        pair.cert_path.unlink()
        assert await shown_certificate(control_plane, authority) == "CN=first"
        assert await serves(client_of(control_plane, authority))


async def test_a_handshake_that_never_ends_keeps_nobody_out(serving, authority):
    async with serving(**files_of(authority.server())) as control_plane:
        assert control_plane.address is not None
        _, writer = await asyncio.open_connection("127.0.0.1", control_plane.address.port)
        writer.write(b"\x16\x03\x01")
        try:
            assert await serves(client_of(control_plane, authority))
        finally:
            writer.transport.abort()
