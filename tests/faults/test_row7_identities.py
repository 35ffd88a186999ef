"""Certificates that change, expire or lie, at a server with rules of identity: row 7 of docs/reliability.md.

Each case must have its own error, at the client or in the log, and the stream of another must go on through all of it.
"""

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from support import resources as r
from support import tokens as t
from support.fault_matrix import Part, part
from support.pki import Authority, Pair
from support.server import XdsServer
from support.waiting import NotMetError, wait_until
from support.wire import DeltaClient, StreamEnded

PAYMENTS = "spiffe://corp/ns/payments/sa/api"
WEB = "spiffe://corp/ns/web/sa/web"
RULES = """
rules:
- group: payments
  match: {identity: "spiffe://corp/ns/payments/**"}
  require: {id: "payments-*"}
- group: web
  match: {identity: "spiffe://corp/ns/web/**"}
  require: {id: "web-*"}
unmatched: deny
"""
NOTICED_S = 5.0
REVOKED_S = 60.0


@dataclass(slots=True)
class Tenants:
    """The server, its authority, the file of its clients' CAs, and the file of who is revoked."""

    server: XdsServer
    authority: Authority
    clients: Path
    revoked: Path
    pair: Pair

    def client(self, pair: Pair, node_id: str) -> DeltaClient:
        """Return a client with a certificate, that claims a node id."""
        credentials = grpc.ssl_channel_credentials(self.authority.cert, pair.key, pair.cert)
        return DeltaClient(self.server.port, node_id=node_id, credentials=credentials)

    async def ending(self, pair: Pair, node_id: str) -> str:
        """Subscribe, and return how the stream ends: its status and text, or what it was sent."""
        async with self.client(pair, node_id) as client:
            await client.subscribe(r.CLUSTER)
            try:
                response = await client.next()
            except StreamEnded as end:
                return str(end)
            return f"served {sorted(response.resources)}"

    async def refused(self, reason: str) -> list[str]:
        """Return the problems of clients that TLS refused for a reason, once there is one."""
        found: list[str] = []
        with contextlib.suppress(NotMetError):
            await wait_until(lambda: self._problems(reason), timeout_s=20.0)
            found = self._problems(reason)
        return found

    def _problems(self, reason: str) -> list[str]:
        events = self.server.events("a client was refused by TLS")
        return [each["problem"] for each in events if each["reason"] == reason]

    async def serial(self) -> int:
        """Return the serial number of the certificate that a new connection is shown."""
        context = self.authority.client_context(self.authority.client("looker", spiffe=WEB))
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", self.server.port, ssl=context, server_hostname="localhost"
        )
        shown = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        return int(shown["serialNumber"], 16)


def replace(pair: Pair, cert: bytes, key: bytes) -> None:
    """Write another certificate and key in place of a pair, each by a rename."""
    for path, data in ((pair.cert_path, cert), (pair.key_path, key)):
        new = path.with_suffix(".next")
        new.write_bytes(data)
        new.rename(path)


@contextlib.asynccontextmanager
async def tenants(directory: Path) -> AsyncIterator[Tenants]:
    """Serve two groups to those whose identity has them."""
    served = directory / "served"
    for group in ("payments", "web"):
        r.write_directory(served, [r.static_cluster(f"of-{group}", 1)], group)
    (served / "groups.yaml").write_text(RULES)
    authority = Authority(directory / "pki")
    pair = authority.server()
    clients, revoked = directory / "clients.pem", directory / "revoked"
    clients.write_bytes(authority.cert)
    revoked.write_text("")
    tls = ("--tls-cert", str(pair.cert_path), "--tls-key", str(pair.key_path), "--tls-client-ca", str(clients))
    server = XdsServer(served, "--workers", "2", *tls, "--set", f"tls.revoked={revoked}")
    async with server:
        await server.wait_ready()
        yield Tenants(server, authority, clients, revoked, pair)


@pytest.mark.timeout(300)
async def test_certificates_and_identities_that_lie_have_each_its_error(tmp_path: Path) -> None:
    with part(7, "identities", "one server, two tenants, clients with certificates") as found:
        async with tenants(tmp_path) as on:
            good = on.authority.client("good", spiffe=WEB)
            async with on.client(good, "web-1") as steady:
                await steady.subscribe(r.CLUSTER)
                await steady.take()
                found.equal("a client is served its own group", await on.ending(good, "web-2"), "served ['of-web']")
                await _spoofed(found, on, good)
                await _certificates_of_clients(found, on, tmp_path)
                await _rotation(found, on)
                await _overlap(found, on, tmp_path)
                await _revoked(found, on)
                r.write_directory(tmp_path / "served", [r.static_cluster("of-web", 2)], "web")
                response = await steady.next()
                found.equal("the stream of another goes on", sorted(response.resources), ["of-web"])


async def _spoofed(found: Part, on: Tenants, web: Pair) -> None:
    told = await on.ending(web, "payments-1")
    both = told.startswith("PERMISSION_DENIED") and WEB in told and "payments-1" in told
    found.holds("spoofed node: an error with both names", "PERMISSION_DENIED", told, held=both)


async def _certificates_of_clients(found: Part, on: Tenants, directory: Path) -> None:
    expired = on.authority.issue("expired", uris=[WEB], days=-1)
    told = await on.ending(expired, "web-3")
    why = await on.refused("expired")
    found.holds("expired client: refused", "UNAVAILABLE", told, held=told.startswith("UNAVAILABLE"))
    found.holds("expired client: the log says why", "expired", "; ".join(why), held=bool(why))
    two = on.authority.issue("two", uris=[WEB, PAYMENTS])
    told = await on.ending(two, "web-4")
    is_said = told.startswith("UNAUTHENTICATED") and "2 URI names" in told
    found.holds("two URI names: refused", "UNAUTHENTICATED", told, held=is_said)
    foreign = Authority(directory / "foreign", name="foreign CA").client("foreign", spiffe=PAYMENTS)
    told = await on.ending(foreign, "payments-1")
    why = await on.refused("untrusted")
    found.holds("another CA's client: refused", "UNAVAILABLE", told, held=told.startswith("UNAVAILABLE"))
    found.holds("another CA's client: the log says why", "untrusted", "; ".join(why), held=bool(why))


async def _rotation(found: Part, on: Tenants) -> None:
    before = await on.serial()
    renewed = on.authority.issue("renewed", dns=["localhost"], ips=["127.0.0.1"])
    replace(on.pair, renewed.cert, renewed.key)
    began = time.monotonic()
    with contextlib.suppress(NotMetError):
        await wait_until(on.serial, lambda serial: serial != before, timeout_s=20.0, ignoring=(OSError, ssl.SSLError))
    found.at_most("rotation: new connections see it after", time.monotonic() - began, NOTICED_S, " s")
    other = on.authority.issue("other", dns=["localhost"], ips=["127.0.0.1"])
    for _ in range(16):  # both workers notice, each at its next connection
        serial = await on.serial()
    told = len(on.server.events("tls"))
    replace(on.pair, renewed.cert, other.key)
    await on.serial()
    problems: list[str] = []
    with contextlib.suppress(NotMetError):
        await wait_until(lambda: on.server.events("tls")[told:], timeout_s=20.0)
        problems = [each["problem"] for each in on.server.events("tls")[told:]]
    said = any(re.search("not the key|key", each) for each in problems)
    found.holds("mismatched pair: the log says so", "says so", "; ".join(problems[:1]) or "nothing", held=said)
    found.equal("mismatched pair: the former stays", await on.serial(), serial)
    with contextlib.suppress(NotMetError):
        await wait_until(lambda: on.server.admin("/readyz"), lambda answer: "but" in answer.text, timeout_s=15.0)
    ready = (await on.server.admin("/readyz")).text
    found.holds("mismatched pair: /readyz names it", "ready, but …", ready, held=ready.startswith("ready, but"))
    replace(on.pair, renewed.cert, renewed.key)


async def _overlap(found: Part, on: Tenants, directory: Path) -> None:
    new = Authority(directory / "new", name="new CA")
    before, after = on.authority.client("before", spiffe=WEB), new.client("after", spiffe=WEB)
    on.clients.write_bytes(on.authority.cert + new.cert)
    told = [await on.ending(each, "web-5") for each in (before, after)]
    found.equal("two CAs at once: clients of both", told, ["served ['of-web']"] * 2)
    on.clients.write_bytes(new.cert)
    told = [await on.ending(after, "web-5"), (await on.ending(before, "web-5")).partition(":")[0]]
    found.equal("the old CA removed: new and old clients", told, ["served ['of-web']", "UNAVAILABLE"])
    on.clients.write_bytes(on.authority.cert)


async def _revoked(found: Part, on: Tenants) -> None:
    pair = on.authority.client("revoked", spiffe="spiffe://corp/ns/web/sa/former")
    async with on.client(pair, "web-6") as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        on.revoked.write_text("spiffe://corp/ns/web/sa/former\n")
        began = time.monotonic()
        told = str(await client.ended(timeout_s=90.0))
        found.at_most("revoked: its stream ends after", time.monotonic() - began, REVOKED_S, " s")
        said = told.startswith("UNAUTHENTICATED") and "revoked" in told
        found.holds("revoked: its stream's status", "UNAUTHENTICATED", told, held=said)
    # Each worker reads the file by itself, within five seconds: until then another one may still take it.
    again = ""
    with contextlib.suppress(NotMetError):
        again = await wait_until(
            lambda: on.ending(pair, "web-6"), lambda told: told.startswith("UNAUTHENTICATED"), timeout_s=90.0
        )
    found.at_most("revoked: refused again after", time.monotonic() - began, REVOKED_S, " s")
    found.holds("revoked: refused when it returns", "UNAUTHENTICATED", again, held=again.startswith("UNAUTHENTICATED"))


TOKEN_RULES = """
rules:
- group: payments
  match: {identity: "jwt:corp/payments"}
  require: {id: "payments-*"}
- group: web
  match: {identity: "jwt:corp/web"}
  require: {id: "web-*"}
unmatched: deny
"""
SHORT_S = 4.0


@pytest.mark.timeout(120)
async def test_tokens_that_lie_or_expire_have_each_its_error(tmp_path: Path) -> None:
    served = tmp_path / "served"
    for group in ("payments", "web"):
        r.write_directory(served, [r.static_cluster(f"of-{group}", 1)], group)
    (served / "groups.yaml").write_text(TOKEN_RULES)
    keys = tmp_path / "jwks.json"
    keys.write_bytes(t.jwks(t.jwk("ES256")))
    issuer = {"name": "corp", "issuer": t.ISSUER, "audiences": [t.AUDIENCE], "jwks_file": str(keys)}
    settings = {"identity.source": "token", "identity.issuers": json.dumps([issuer | {"algorithms": ["ES256"]}])}
    settings |= {"identity.leeway_s": 0, "identity.expiry_jitter_s": 0}
    with part(7, "tokens", "one server, two tenants, clients with tokens") as found:
        async with XdsServer(served, "--workers", "2", settings=settings) as server:
            await server.wait_ready()

            async def told(node_id: str, token: str | None) -> str:
                async with DeltaClient(server.port, node_id=node_id, token=token) as client:
                    await client.subscribe(r.CLUSTER)
                    try:
                        return f"served {sorted((await client.next(timeout_s=20.0)).resources)}"
                    except StreamEnded as end:
                        return str(end)

            found.equal("a client is served its own group", await told("web-1", t.token()), "served ['of-web']")
            now = int(time.time())
            refused = {
                "no token": (await told("web-1", None), "UNAUTHENTICATED", "token"),
                "expired token": (await told("web-1", t.token(exp=now - 10)), "UNAUTHENTICATED", "expired"),
                "foreign issuer's": (await told("web-1", t.token(iss="https://other")), "UNAUTHENTICATED", "issuer"),
                "for another audience": (await told("web-1", t.token(aud="other")), "UNAUTHENTICATED", "for 'other'"),
                "signed by another key": (await told("web-1", t.token(number=1)), "UNAUTHENTICATED", ""),
                "another tenant's token": (await told("web-1", t.token(sub="payments")), "PERMISSION_DENIED", "web-1"),
                "spoofed node": (await told("payments-1", t.token()), "PERMISSION_DENIED", "jwt:corp/web"),
            }
            for name, (said, status, reason) in refused.items():
                held = said.startswith(status) and reason in said
                found.holds(f"{name}: refused with its reason", status, said, held=held)
            ends = int(time.time()) + int(SHORT_S)
            async with DeltaClient(server.port, node_id="web-2", token=t.token(exp=ends)) as client:
                await client.subscribe(r.CLUSTER)
                await client.take()
                end = await client.ended(timeout_s=30.0)
                found.at_most("open stream ends after its token by", time.time() - ends, 5.0, " s")
                held = end.code.name == "UNAVAILABLE" and "expired" in end.details
                found.holds("its status: come back with a new one", "UNAVAILABLE", str(end), held=held)
