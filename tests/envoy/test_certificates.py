"""Real Envoys whose certificates are renewed, expire, are revoked, or belong to somebody else."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from structlog.testing import capture_logs
from support import resources as r
from support.bootstrap import ads_bootstrap
from support.control_planes import app_of, port_of
from support.envoy import EnvoyProcess
from support.pki import Authority, Pair
from support.transports import KINDS, settings_on
from support.waiting import wait_until

from xds.embed import ControlPlane, GroupTable, Rule
from xds.model.groups import Patterns
from xds.transport import client_certificates, grpcio_clients, revocation_watch

pytestmark = pytest.mark.envoy
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@pytest.fixture(params=KINDS)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_watch, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(grpcio_clients, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(client_certificates, "EXPIRY_SPREAD_S", 1)


class Workload:
    """The certificate of a workload in a directory that its Envoy watches, as a program that renews it writes it."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.authority = authority
        self.directory = directory
        self.shown = directory / "shown"
        self.shown.mkdir(parents=True)
        self.sds = directory / "sds.yaml"
        files = {"certificate_chain": "web.pem", "private_key": "web.key"}
        certificate: dict[str, Any] = {kind: {"filename": str(self.shown / name)} for kind, name in files.items()}
        certificate["watched_directory"] = {"path": str(self.shown)}
        r.write_file(self.sds, [{"@type": SECRET, "name": "workload", "tls_certificate": certificate}])

    def show(self, pair: Pair) -> None:
        """Replace key and certificate, each by a rename."""
        for name, content in (("web.key", pair.key), ("web.pem", pair.cert)):
            new = self.directory / name
            new.write_bytes(content)
            new.rename(self.shown / name)

    def envoy(self, port: int, *, node_id: str = "web-1") -> EnvoyProcess:
        """Return an Envoy that shows the certificate, not started."""
        san = {"san_type": "DNS", "matcher": {"exact": "localhost"}}
        ca = {"filename": str(self.authority.cert_path)}
        config = {
            "@type": r.UPSTREAM_TLS,
            "sni": "localhost",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "validation_context": {"trusted_ca": ca, "match_typed_subject_alt_names": [san]},
                "tls_certificate_sds_secret_configs": [
                    {"name": "workload", "sds_config": {"path_config_source": {"path": str(self.sds)}}}
                ],
            },
        }
        tls = {"name": "envoy.transport_sockets.tls", "typed_config": config}
        return EnvoyProcess(ads_bootstrap(port, node_id=node_id, tls=tls))


def tls_of(authority: Authority, **more: Any) -> dict[str, Any]:
    pair = authority.server()
    return {"cert": str(pair.cert_path), "key": str(pair.key_path), "client_ca": str(authority.cert_path)} | more


def clusters(*names: str) -> list[r.Json]:
    return [each for name in names for each in (r.cluster(name), r.assignment(name, 1))]


async def test_an_envoy_returns_with_its_renewed_certificate_when_the_former_expires(transport, tmp_path):
    authority = Authority(tmp_path / "pki")
    web = Workload(tmp_path / "web", authority)
    brief = authority.issue("brief", uris=["spiffe://corp/web"], days=12 / 86_400)
    expires = x509.load_pem_x509_certificate(brief.cert).not_valid_after_utc
    web.show(brief)
    control_plane = ControlPlane(settings_on(transport, tls=tls_of(authority)))
    control_plane.replace({"default": clusters("a")})
    async with control_plane, web.envoy(port_of(control_plane)) as envoy:
        await envoy.wait_live()
        await envoy.wait_names("clusters", {"a"})
        web.show(authority.issue("renewed", uris=["spiffe://corp/web"]))
        counters = app_of(control_plane).hub.counters
        assert counters.streams_opened == 1
        await wait_until(lambda: counters.streams_opened, lambda count: count >= 2, timeout_s=40)
        assert datetime.datetime.now(datetime.UTC) > expires
        control_plane.apply(upsert=clusters("b"))
        await envoy.wait_names("clusters", {"a", "b"})
        assert set(app_of(control_plane)._streams.tls_failures) == {"expired"}


async def test_a_revoked_envoy_keeps_what_it_has_and_gets_nothing_until_it_has_another_certificate(transport, tmp_path):
    authority = Authority(tmp_path / "pki")
    web = Workload(tmp_path / "web", authority)
    listed = tmp_path / "revoked"
    listed.write_text("")
    lost = authority.issue("lost", uris=["spiffe://corp/web"])
    web.show(lost)
    control_plane = ControlPlane(settings_on(transport, tls=tls_of(authority, revoked=str(listed))))
    control_plane.replace({"default": clusters("a")})
    async with control_plane, web.envoy(port_of(control_plane)) as envoy:
        await envoy.wait_live()
        await envoy.wait_names("clusters", {"a"})
        listed.write_text(f"serial:{lost.serial:040x}")
        failures = app_of(control_plane)._streams.tls_failures
        await wait_until(lambda: failures["revoked"], lambda count: count >= 2, timeout_s=20)
        control_plane.apply(upsert=clusters("b"))
        assert len(app_of(control_plane).hub.streams) == 0
        assert (await envoy.dynamic_names())["clusters"] == {"a"}
        web.show(authority.issue("new", uris=["spiffe://corp/web"]))
        await envoy.wait_names("clusters", {"a", "b"}, timeout_s=20)


async def test_an_envoy_that_claims_another_workloads_place_gets_none_of_its_resources(transport, tmp_path):
    authority = Authority(tmp_path / "pki")
    web = Workload(tmp_path / "web", authority)
    web.show(authority.issue("web", uris=["spiffe://corp/ns/web/sa/web"]))
    groups = ("web", "payments")
    rules = tuple(
        Rule(group=group, identity=f"spiffe://corp/ns/{group}/**", require=Patterns(id=f"{group}-*"))
        for group in groups
    )
    control_plane = ControlPlane(settings_on(transport, tls=tls_of(authority)))
    table = GroupTable(rules=rules, deny_unmatched=True)
    control_plane.replace({group: clusters(group) for group in groups}, rules=table)
    async with control_plane, web.envoy(port_of(control_plane)) as honest:
        await honest.wait_live()
        await honest.wait_names("clusters", {"web"})
        with capture_logs() as logs:
            async with web.envoy(port_of(control_plane), node_id="payments-1") as spoofing:
                await wait_until(lambda: spoofing.admin_port, bool, timeout_s=20)
                counters = app_of(control_plane).hub.counters
                await wait_until(lambda: counters.streams_refused, lambda count: count >= 1, timeout_s=20)
                assert (await spoofing.dynamic_names())["clusters"] == set()
        refused = next(each for each in logs if each["event"] == "refused")
        assert refused["status"] == "PERMISSION_DENIED"
        assert "payments-1" in refused["message"]
        assert "spiffe://corp/ns/web/sa/web" in refused["message"]


async def test_an_envoy_of_another_trust_domain_is_told_why_it_is_refused(transport, tmp_path):
    corp, partner = Authority(tmp_path / "pki", name="corp"), Authority(tmp_path / "partner", name="partner")
    web = Workload(tmp_path / "web", corp)
    web.show(partner.client(spiffe="spiffe://corp/ns/web/sa/web"))
    domains = {"corp": str(corp.cert_path), "partner": str(partner.cert_path)}
    tls = tls_of(corp, trust_domains=domains)
    del tls["client_ca"]
    control_plane = ControlPlane(settings_on(transport, tls=tls))
    control_plane.replace({"default": clusters("a")})
    async with control_plane, web.envoy(port_of(control_plane)) as envoy:
        failures = app_of(control_plane)._streams.tls_failures
        await wait_until(lambda: failures["trust domain"], lambda count: count >= 1, timeout_s=20)
        web.show(corp.client(spiffe="spiffe://corp/ns/web/sa/web"))
        await envoy.wait_names("clusters", {"a"}, timeout_s=20)
        assert "do not vouch for spiffe://corp/ns/web/sa/web" in envoy.log()
