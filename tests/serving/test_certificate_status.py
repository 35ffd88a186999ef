"""What one process knows of all certificate files: reports of expiry, once a day and while they are near."""

import resource
from pathlib import Path

from cryptography import x509
from structlog.testing import capture_logs
from support.pki import Authority

from xds.config import Settings
from xds.serving.certificate_status import CertificateStatus

DAY_S = 86_400.0


def settings_of(directory: Path, authority: Authority) -> Settings:
    pair = authority.issue("xds", dns=["localhost"], days=10)
    tls = {"cert": pair.cert_path, "key": pair.key_path, "client_ca": authority.cert_path}
    return Settings.model_validate({"tls": tls | {"crls": str(authority.revoke(days=2))}})


async def test_what_expires_soon_is_reported_while_it_is_near_and_logged_once_a_day(tmp_path):
    authority = Authority(tmp_path)
    settings = settings_of(tmp_path, authority)
    pair = tmp_path / "xds.pem"
    end = x509.load_pem_x509_certificate(pair.read_bytes()).not_valid_after_utc.timestamp()
    now = [end - 10 * DAY_S]
    status = CertificateStatus(settings, wall_clock=lambda: now[0])
    crl = f"the revocation list of CN=test CA in {tmp_path / 'ca.crl'}"
    certificate = f"the certificate of CN=xds in {pair}"
    seen = []
    for later_s in (0, 60, 8.5 * DAY_S, 8.5 * DAY_S + 60, 9.6 * DAY_S, 11 * DAY_S):
        now[0] = end - 10 * DAY_S + later_s
        with capture_logs() as logs:
            await status.look()
        seen.append(([why for _, why in status.problems()], len(logs)))
    assert [count for _, count in seen] == [1, 0, 2, 0, 2, 2]
    assert seen[0][0] == [f"{crl} expires in 2 days"] or seen[0][0] == [f"{crl} expires in 1 day"]
    assert seen[2][0] == [f"{certificate} expires in 1 day", f"{crl} expired 6 days ago"]
    assert seen[4][0][0] == f"{certificate} expires in 9 hours"
    assert seen[5][0][0] == f"{certificate} expired 1 day ago"
    assert [(each.file, each.is_crl) for each in status.expiries] == [
        (str(pair), False),
        (str(authority.cert_path), False),
        (str(tmp_path / "ca.crl"), True),
    ]


async def test_a_renewed_ca_in_a_bundle_replaces_its_former_self_and_another_does_not(tmp_path):
    authority, other = Authority(tmp_path), Authority(tmp_path / "other", name="other")
    status = CertificateStatus(settings_of(tmp_path, authority))
    same = Authority(tmp_path / "again")
    authority.cert_path.write_bytes(authority.cert + same.cert + other.cert)
    await status.look()
    subjects = [each.subject for each in status.expiries if each.file == str(authority.cert_path)]
    assert sorted(subjects) == ["CN=other", "CN=test CA"]


async def test_files_of_either_port_that_can_not_be_used_are_a_problem_until_they_can(tmp_path):
    authority = Authority(tmp_path)
    settings = settings_of(tmp_path, authority)
    changes: list[int] = []
    status = CertificateStatus(settings, on_api_change=lambda: not changes.append(1))
    crl = tmp_path / "ca.crl"
    good = crl.read_bytes()
    await status.look()
    for path, spoilt in ((crl, b"nothing"), (authority.cert_path, b"nothing"), (tmp_path / "xds.key", b"nothing")):
        before = path.read_bytes()
        path.write_bytes(spoilt)
        await status.look()
        assert any("TLS files of the xDS port can't be used" in each for _, each in status.problems()), path
        path.write_bytes(before)
        await status.look()
        assert not any("can't be used" in each for _, each in status.problems()), path
    assert (changes, good) == ([], crl.read_bytes())


async def test_an_unreadable_file_is_looked_at_again_and_a_port_that_could_not_reload_is_told_again(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.issue("xds", dns=["localhost"], days=10)
    api = {"tls_cert": pair.cert_path, "tls_key": pair.key_path}
    outcomes, told = [False, True], []
    status = CertificateStatus(
        Settings.model_validate({"api": api}), on_api_change=lambda: told.append(1) or outcomes.pop(0)
    )
    await status.look()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pair.cert_path.write_bytes(authority.issue("xds", dns=["localhost"], days=20).cert)
    used = status.expiries
    status._look()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        pair.cert_path.touch()
        status._look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert any("can't be used" in each for _, each in status.problems())
    assert told == []
    for _ in range(3):
        await status.look()
    assert list(status.problems()) == []
    assert len(told) == 2, "once in vain"
    assert status.expiries != used
