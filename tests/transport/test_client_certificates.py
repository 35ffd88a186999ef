"""The identity in a client certificate, and why one is refused."""

import re
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from support.der import INTEGER, Items, changed_certificate, item
from support.pki import SIGNS_CERTIFICATES, Authority, Pair
from support.waiting import wait_until

from xds.model.identity import Peer
from xds.transport.certificate_expiry import CertificateFiles
from xds.transport.client_certificates import KNOWN_MAX, ClientCertificate, ClientCertificates
from xds.transport.revocation_watch import LOOK_EVERY_S, RevocationWatch
from xds.transport.revocations import RevocationFiles
from xds.transport.tls import RETRY_S, TlsFiles, stamp

WEB = "spiffe://corp/ns/shop/sa/web"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def files_of(authority: Authority | None, **given: object) -> TlsFiles:
    nowhere = Path("/nowhere")
    own = {} if authority is None else {"client_ca": authority.cert_path}
    return TlsFiles(cert=nowhere, key=nowhere, **(own | given))  # type: ignore[arg-type]


def examined(pair: Pair, authority: Authority, name: str = "spiffe") -> ClientCertificate:
    return ClientCertificates(files_of(authority, name=name), pytest.fail).examine(pair.cert)


def der_of(pair: Pair) -> bytes:
    return x509.load_pem_x509_certificate(pair.cert).public_bytes(serialization.Encoding.DER)


# --- Names -----------------------------------------------------------------------------------------------------------


def test_each_kind_of_name_is_an_identity_of_its_own_kind_only(authority):
    pair = authority.issue("web", dns=["a.corp", "B.corp"], uris=[WEB])
    assert examined(pair, authority).peer.identity == (WEB,)
    assert examined(pair, authority, "dns").peer.identity == ("dns:a.corp", "dns:b.corp")
    assert examined(pair, authority, "cn").peer.identity == ("cn:web",)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("spiffe", {"dns": ["spiffe.corp"]}),
        ("spiffe", {"uris": ["https://corp/web"]}),
        ("dns", {"uris": [WEB]}),
        ("dns", {"ips": ["10.0.0.1"]}),
        ("cn", {"dns": ["web"], "uris": [WEB], "subject": x509.Name([])}),
    ],
)
def test_other_kinds_of_names_are_no_identity(authority, name, other):
    seen = examined(authority.issue("web", **other), authority, name)
    assert (seen.peer.identity, seen.reason) == ((), "")


@pytest.mark.parametrize(
    "uris",
    [
        [WEB, "spiffe://corp/ns/shop/sa/payments"],
        [WEB, "https://corp/web"],
        [WEB, WEB],
        ["spiffe://corp"],
        ["spiffe://Corp/web"],
        ["SPIFFE://corp/web"],
        ["spiffe://corp/web/"],
        ["spiffe://corp/a/../web"],
        ["spiffe://corp/%77eb"],
        ["spiffe://corp:443/web"],
        ["spiffe://user@corp/web"],
        ["spiffe://corp/web?a"],
        ["spiffe:web"],
        ["spiffe://corp/" + "a" * 3_000],
    ],
)
def test_what_is_not_one_valid_spiffe_id_is_refused(authority, uris):
    seen = examined(authority.issue("web", uris=uris), authority)
    assert (seen.reason, seen.peer.identity) == ("names", ())
    assert "SPIFFE" in seen.refusal


@pytest.mark.parametrize("name", ["*.corp", "a..corp", ".corp", "a" * 64 + ".corp", "a b.corp", "a" * 254])
def test_what_is_not_the_dns_name_of_a_host_is_refused(authority, name):
    seen = examined(authority.issue("web", dns=["good.corp", name]), authority, "dns")
    assert (seen.reason, seen.peer.identity) == ("names", ())


def test_international_names_are_taken_in_their_ascii_form(authority):
    pair = authority.issue("web", dns=["xn--bcher-kva.corp"])
    assert examined(pair, authority, "dns").peer.identity == ("dns:xn--bcher-kva.corp",)


def test_too_many_dns_names_are_refused(authority):
    pair = authority.issue("web", dns=[f"h{n}.corp" for n in range(101)])
    assert examined(pair, authority, "dns").reason == "names"


def _named(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names])


@pytest.mark.parametrize("names", [("web", "payments"), ("web\n",), (" web",), ("web\u202e",), ("web\x07",)])
def test_common_names_that_mislead_are_refused(authority, names):
    seen = examined(authority.issue("x", subject=_named(*names)), authority, "cn")
    assert (seen.reason, seen.peer.identity) == ("names", ())
    assert seen.refusal.isprintable()


def test_a_common_name_that_is_too_long_or_empty_is_refused(authority):
    pairs = []
    for name in ("a" * 257, ""):
        with pytest.warns(UserWarning, match="length must be"):
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)])
        pairs.append(authority.issue("x", subject=subject))
    for pair in pairs:  # warnings are errors in tests: none may reach an operator's stderr
        seen = examined(pair, authority, "cn")
        assert (seen.reason, seen.peer.identity) == ("names", ())


def test_a_common_name_may_have_letters_of_any_language(authority):
    assert examined(authority.issue("x", subject=_named("bücher")), authority, "cn").peer.identity == ("cn:bücher",)


@pytest.mark.parametrize("name", ["spiffe", "dns", "cn"])
@pytest.mark.parametrize("spoilt", [b"\0", b"\xff", b"\n", b"/"])
def test_a_name_with_a_byte_that_does_not_belong_there_names_nobody_else(authority, name, spoilt):
    # Such a certificate can't be made with a library, so bytes of a good one are replaced.
    pair = authority.issue("aaaaQbbbb", dns=["aaaaQbbbb"], uris=["spiffe://corp/aaaaQbbbb"])
    spoiled = der_of(pair).replace(b"aaaaQbbbb", b"aaaa" + spoilt + b"bbbb")
    seen = ClientCertificates(files_of(authority, name=name), pytest.fail).examine(spoiled)
    if name == "spiffe" and spoilt == b"/":
        assert seen.peer.identity == ("spiffe://corp/aaaa/bbbb",)
    elif name == "cn" and spoilt == b"/":
        assert seen.peer.identity == ("cn:aaaa/bbbb",)
    else:
        assert (seen.peer.identity, bool(seen.reason)) == ((), True)
        assert seen.refusal.isprintable()


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 2_000), byte=st.integers(0, 255), name=st.sampled_from(["spiffe", "dns", "cn"]))
def test_a_spoilt_certificate_is_refused_and_raises_nothing(spoilt_ones, at, byte, name):
    clients, der = spoilt_ones(name)
    bad = bytearray(der)
    bad[at % len(der)] = byte
    seen = clients.examine(bytes(bad))
    assert isinstance(seen, ClientCertificate)
    assert seen.peer.identity == () or not seen.reason


@pytest.fixture(scope="module")
def spoilt_ones(authority: Authority) -> Callable[[str], tuple[ClientCertificates, bytes]]:
    der = der_of(authority.issue("web", dns=["a.corp"], uris=[WEB]))
    return lambda name: (ClientCertificates(files_of(authority, name=name), pytest.fail), der)


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\x30\x82", b"x" * 100_000])
def test_what_is_no_certificate_is_refused(authority, data):
    assert ClientCertificates(files_of(authority), pytest.fail).examine(data).reason == "malformed"


# --- Authorities -----------------------------------------------------------------------------------------------------


def test_the_certificate_of_a_ca_is_refused(authority):
    assert examined(authority.issue("web", uris=[WEB], ca=True), authority).reason == "authority"
    assert examined(authority.issue("web", uris=[WEB], usage=SIGNS_CERTIFICATES), authority).reason == "authority"


class Domains:
    """Two trust domains with a CA each, another CA for clients without a domain, and what examines their clients."""

    def __init__(self, directory: Path, *, client_ca: bool = True) -> None:
        self.corp = Authority(directory / "corp", name="CA of corp")
        self.partner = Authority(directory / "partner", name="CA of partner")
        self.others = Authority(directory / "others", name="CA of others")
        domains = (("corp", self.corp.cert_path), ("partner", self.partner.cert_path))
        self.files = files_of(self.others if client_ca else None, trust_domains=domains)
        self.clients = ClientCertificates(self.files, pytest.fail)

    def reason(self, pair: Pair, chain: Sequence[Authority] = ()) -> str:
        ders = [x509.load_pem_x509_certificate(each.cert).public_bytes(serialization.Encoding.DER) for each in chain]
        return self.clients.examine(pair.cert, lambda: ders).reason


def test_a_ca_vouches_for_names_of_its_own_trust_domain_only(tmp_path):
    domains = Domains(tmp_path)
    assert domains.reason(domains.corp.client(spiffe="spiffe://corp/web")) == ""
    assert domains.reason(domains.partner.client(spiffe="spiffe://partner/web")) == ""
    assert domains.reason(domains.others.client(spiffe="spiffe://elsewhere/web")) == ""
    assert domains.reason(domains.others.client()) == ""
    for authority, name in (
        (domains.partner, "spiffe://corp/web"),
        (domains.corp, "spiffe://partner/web"),
        (domains.others, "spiffe://corp/web"),
        (domains.corp, "spiffe://elsewhere/web"),
        (domains.corp, None),
    ):
        assert domains.reason(authority.client(spiffe=name)) == "trust domain", (authority, name)


def test_without_a_ca_for_others_only_listed_trust_domains_are_accepted(tmp_path):
    domains = Domains(tmp_path, client_ca=False)
    assert domains.reason(domains.corp.client(spiffe="spiffe://corp/web")) == ""
    assert domains.reason(domains.corp.client(spiffe="spiffe://elsewhere/web")) == "trust domain"
    assert domains.reason(domains.corp.client()) == "trust domain"


def test_intermediates_may_sign_for_their_trust_domain_and_leaves_may_not(tmp_path):
    domains = Domains(tmp_path)
    middle = Authority(tmp_path / "middle", name="CA of a team", issuer=domains.corp)
    web = middle.client(spiffe="spiffe://corp/web")
    assert domains.reason(web) == "trust domain"
    assert domains.reason(web, [middle]) == ""  # a refusal for want of an intermediate is not remembered
    foreign = Authority(tmp_path / "foreign", name="CA of a team", issuer=domains.partner)
    assert domains.reason(foreign.client(spiffe="spiffe://corp/web"), [foreign, domains.partner]) == "trust domain"


def test_a_certificate_is_verified_at_the_time_at_which_it_is_shown(tmp_path):
    domains = Domains(tmp_path)
    pair = domains.corp.client(spiffe="spiffe://corp/web")
    made = x509.load_pem_x509_certificate(pair.cert)
    wall = [made.not_valid_before_utc.timestamp() - 86_400]
    clients = ClientCertificates(domains.files, pytest.fail, wall_clock=lambda: wall[0])
    assert clients.examine(pair.cert).reason == "trust domain", "not valid yet"
    wall[0] += 2 * 86_400
    assert clients.examine(pair.cert).reason == ""
    wall[0] = made.not_valid_after_utc.timestamp() + 1
    clients.reload_authorities()
    assert clients.examine(pair.cert).reason == "expired"


def test_a_bundle_may_have_two_cas_while_one_replaces_the_other(tmp_path):
    domains = Domains(tmp_path)
    new = Authority(tmp_path / "new", name="new CA of corp")
    renewed, former = new.client("a", spiffe="spiffe://corp/a"), domains.corp.client("b", spiffe="spiffe://corp/b")
    assert (domains.reason(renewed), domains.reason(former)) == ("trust domain", "")
    domains.corp.cert_path.write_bytes(domains.corp.cert + new.cert)
    domains.clients.reload_authorities()
    assert (domains.reason(renewed), domains.reason(former)) == ("", "")
    domains.corp.cert_path.write_bytes(new.cert)
    domains.clients.reload_authorities()
    assert (domains.reason(renewed), domains.reason(former)) == ("", "trust domain")


def test_only_a_change_of_the_cas_has_open_connections_checked_each_at_its_time(tmp_path):
    authority, new = Authority(tmp_path / "a", name="a"), Authority(tmp_path / "b", name="b")
    now = [1_000.0]
    clients = ClientCertificates(files_of(authority), pytest.fail, clock=lambda: now[0])
    seen = clients.examine(authority.client(spiffe=WEB).cert)

    def due() -> list[bool]:
        return [clients.is_due(seen, now[0], spread_by=spread << 6) for spread in (0, 39)]

    authority.cert_path.write_bytes(authority.cert)
    clients.reload_authorities()
    assert due() == [False, False]
    authority.cert_path.write_bytes(authority.cert + new.cert)
    clients.follow_authorities()
    assert due() == [True, False]
    now[0] += 30
    authority.cert_path.write_bytes(authority.cert)  # does not put off what is due
    clients.follow_authorities()
    now[0] += 10
    assert due() == [True, True]


def test_cas_that_can_not_be_read_leave_the_former_in_force_and_are_reported_once(tmp_path):
    authority = Authority(tmp_path / "a")
    pair, told = authority.client(spiffe=WEB), []
    clients = ClientCertificates(files_of(authority), told.append)
    for spoil in (lambda: authority.cert_path.write_bytes(b"no CA"), authority.cert_path.unlink):
        spoil()
        told.clear()
        for _ in range(2):
            clients.follow_authorities()
            assert clients.examine(pair.cert, verifies=True).reason == ""
        (problem,) = told
        assert "the CAs of clients can't be read again" in problem


# --- Expiry ----------------------------------------------------------------------------------------------------------


def test_a_certificate_ends_by_the_monotonic_clock_whatever_the_system_clock_does(authority):
    now, wall = [1_000.0], [x509.load_pem_x509_certificate(authority.cert).not_valid_before_utc.timestamp() + 90_000]
    clients = ClientCertificates(files_of(authority), pytest.fail, clock=lambda: now[0], wall_clock=lambda: wall[0])
    seen = clients.examine(authority.client(spiffe=WEB).cert)
    left_s = seen.ends_at - now[0]
    assert 29 * 86_400 < left_s <= 30 * 86_400
    wall[0] += 10**9
    assert clients.checked(seen).reason == ""
    now[0] += left_s
    assert clients.checked(seen).reason == "expired"
    assert [seen.has_ended(now[0] + later, spread_by=59 << 6) for later in (0, 58, 60)] == [False, False, True]


def test_an_expired_certificate_is_refused_also_if_tls_did_not_look(authority):
    # As with a resumed session, for which TLS verifies nothing.
    assert examined(authority.issue("late", uris=[WEB], days=-1), authority).reason == "expired"


# --- Revocation ------------------------------------------------------------------------------------------------------


def revoking(authority: Authority, tmp_path: Path, *lines: str) -> ClientCertificates:
    listed = tmp_path / "revoked"
    listed.write_text("\n".join(lines))
    return ClientCertificates(files_of(authority, revoked=listed), pytest.fail)


def test_identities_patterns_and_serial_numbers_can_be_revoked(authority, tmp_path):
    web, payments, other = (
        authority.client(name, spiffe=f"spiffe://corp/{name}") for name in ("web", "ns/payments", "other")
    )
    clients = revoking(
        authority, tmp_path, "# gone", "spiffe://corp/web", "", "spiffe://corp/ns/**", f"serial:{other.serial:040x}"
    )
    for pair in (web, payments, other):
        assert clients.examine(pair.cert).reason == "revoked"
        assert "tls.revoked lists" in clients.examine(pair.cert).refusal
    assert clients.examine(authority.client("web2", spiffe="spiffe://corp/web2").cert).reason == ""


def test_a_revocation_list_counts_for_certificates_and_intermediates_of_its_ca(tmp_path):
    root = Authority(tmp_path / "root", name="root")
    middle = Authority(tmp_path / "middle", name="middle", issuer=root)
    gone, stays, below = root.client("gone"), root.client("stays"), middle.client("below")
    crl = root.revoke(gone)
    clients = ClientCertificates(files_of(root, crls=(crl,)), pytest.fail)
    assert (clients.examine(gone.cert).reason, clients.examine(stays.cert).reason) == ("revoked", "")
    chain = [x509.load_pem_x509_certificate(middle.cert).public_bytes(serialization.Encoding.DER)]
    seen = clients.examine(below.cert, lambda: chain)
    assert seen.reason == ""
    root.revoke(gone, Pair(middle.cert, b"", middle.cert_path, middle.cert_path))
    assert clients.read_revocations() == (True, ())
    assert clients.checked(seen).reason == "revoked"
    assert clients.examine(below.cert, lambda: chain).reason == "revoked"
    assert clients.read_revocations() == (False, ())


def test_a_list_that_can_not_be_used_says_where_and_leaves_the_former_in_force(tmp_path):
    authority, stranger = Authority(tmp_path / "a", name="a"), Authority(tmp_path / "b", name="b")
    namesake = Authority(tmp_path / "c", name="a")
    gone = authority.client("gone", spiffe=WEB)
    crl = authority.revoke(gone)
    listed = tmp_path / "revoked"
    listed.write_text("spiffe://corp/other")
    clients = ClientCertificates(files_of(authority, crls=(crl,), revoked=listed), pytest.fail)
    good = crl.read_bytes()
    for path, spoilt, problem in (
        (crl, b"", "has no certificate revocation list|is not a certificate revocation list"),
        (crl, stranger.revoke().read_bytes(), "is no CA of tls.client_ca"),
        (crl, namesake.revoke(gone).read_bytes(), "its signature is not by the CA"),
        (listed, b"spiffe://corp/other\nweb\n", "line 2: 'web': it is neither"),
        (listed, b"\nspiffe://corp/a//b", "line 2"),
        (listed, b"\xff", "not UTF-8"),
        (listed, b"serial:123", "line 1"),
    ):
        before = path.read_bytes()
        path.write_bytes(spoilt)
        is_read, (told,) = clients.read_revocations()
        assert not is_read
        assert re.search(problem, told)
        assert clients.examine(gone.cert).reason == "revoked"
        path.write_bytes(before)
        assert clients.read_revocations() == (True, ())
    crl.unlink()
    is_read, (told,) = clients.read_revocations()
    assert (is_read, "ca.crl" in told) == (False, True)
    assert clients.examine(gone.cert).reason == "revoked"
    crl.write_bytes(good)


def test_a_revocation_list_counts_once_its_ca_is_there(tmp_path):
    old, new = Authority(tmp_path / "a", name="a"), Authority(tmp_path / "b", name="b")
    gone = new.client("gone", spiffe=WEB)
    crls = old.revoke()
    clients = ClientCertificates(files_of(old, crls=(crls,)), pytest.fail)
    crls.write_bytes(crls.read_bytes() + new.revoke(gone).read_bytes())
    is_read, (told,) = clients.read_revocations()
    assert (is_read, "is no CA of tls.client_ca" in told) == (False, True)
    assert clients.read_revocations() == (False, ()), "it is told once"
    old.cert_path.write_bytes(old.cert + new.cert)
    assert clients.read_revocations() == (True, ())
    clients.follow_authorities()
    assert clients.examine(gone.cert).reason == "revoked"


def test_a_file_of_revoked_ones_that_can_not_be_used_holds_up_no_other(authority, tmp_path):
    listed, other = tmp_path / "revoked", tmp_path / "more.crl"
    listed.write_text("")
    crl, pair = authority.revoke(), authority.client("web", spiffe=WEB)
    other.write_bytes(crl.read_bytes())
    clients = ClientCertificates(files_of(authority, crls=(crl, other), revoked=listed), pytest.fail)
    crl.write_bytes(b"no list")
    listed.write_text(WEB)
    is_read, (told,) = clients.read_revocations()
    assert (is_read, str(crl) in told) == (True, True)
    assert clients.examine(pair.cert).reason == "revoked"


def test_a_file_that_can_not_be_opened_for_a_while_is_read_again_though_it_has_not_changed(
    authority, tmp_path, monkeypatch
):
    now, listed, told = [1_000.0], tmp_path / "revoked", []
    listed.write_text("")
    pair, other = authority.client("web", spiffe=WEB), Authority(tmp_path / "other", name="other")
    clients = ClientCertificates(files_of(authority, revoked=listed), told.append, clock=lambda: now[0])
    listed.write_text(WEB)
    authority.cert_path.write_bytes(other.cert)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for _ in range(2):
            is_read, problems = clients.read_revocations()
            clients.follow_authorities()
            told += problems
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (is_read, len(told)) == (False, 2)
    now[0] += RETRY_S
    assert clients.read_revocations() == (True, ())
    clients.follow_authorities()
    assert clients.examine(pair.cert).reason == "revoked"
    assert clients.examine(authority.client("x", spiffe="spiffe://corp/x").cert, verifies=True).reason == "untrusted"


def test_a_mode_that_lets_the_file_be_read_is_a_change(tmp_path):
    path = tmp_path / "f"
    path.write_text("")
    before = stamp([path])
    path.chmod(0o600 if path.stat().st_mode & 0o040 else 0o640)
    assert stamp([path]) != before


async def test_the_files_of_revoked_ones_are_read_at_once_if_asked(authority, tmp_path):
    listed = tmp_path / "revoked"
    listed.write_text("")
    clients = ClientCertificates(files_of(authority, revoked=listed), pytest.fail)
    changes = []
    watch = RevocationWatch(clients, on_change=lambda: changes.append(1), on_problem=pytest.fail)
    watch.start()
    try:
        watch.look_soon()
        await wait_until(lambda: changes, timeout_s=LOOK_EVERY_S / 2)
    finally:
        watch.stop()


# --- Cost ------------------------------------------------------------------------------------------------------------


def test_equal_certificates_share_what_is_known_of_them_and_it_is_bounded(authority):
    made: list[tuple[str, ...]] = []

    def make_peer(identity: tuple[str, ...]) -> Peer:
        made.append(identity)
        return Peer(identity)

    clients = ClientCertificates(files_of(authority), pytest.fail, make_peer=make_peer)
    pair = authority.client(spiffe=WEB)
    assert clients.examine(pair.cert) is clients.examine(pair.cert)
    renewed = authority.client(spiffe=WEB)
    assert clients.examine(pair.cert).peer is clients.examine(renewed.cert).peer
    assert made == [(WEB,)]
    assert len(clients._known) <= KNOWN_MAX


# --- Libraries -------------------------------------------------------------------------------------------------------


def of_version_2(cert: bytes) -> bytes:
    """Return a certificate that cryptography refuses with an error of its own, in PEM."""

    def change(signed: Items, _: Items) -> None:
        signed[0] = (0xA0, item(INTEGER, b"\1"))
        signed.pop()

    return changed_certificate(cert.decode(), change).encode()


def test_cas_of_a_version_that_is_not_known_are_files_that_can_not_be_read(authority, tmp_path):
    path = tmp_path / "old.pem"
    path.write_bytes(of_version_2(authority.cert))
    with pytest.raises(ValueError, match="is not a PEM file of CA certificates"):
        ClientCertificates(TlsFiles(client_ca=path, cert=path, key=path), pytest.fail)
    with pytest.raises(ValueError, match="version"):
        RevocationFiles(TlsFiles(client_ca=path, cert=path, key=path, crls=(authority.revoke(),)))
    assert CertificateFiles([path]).look() == ()


def test_the_panic_of_a_library_refuses_the_certificate(authority, monkeypatch):
    class PanicException(BaseException):  # as pyo3 names it
        pass

    def panic(_: bytes) -> None:
        raise PanicException("explicit panic")

    clients = ClientCertificates(files_of(authority), pytest.fail)
    monkeypatch.setattr(x509, "load_der_x509_certificate", panic)
    assert clients.examine(b"x").reason == "malformed"
