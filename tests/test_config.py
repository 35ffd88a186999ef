from pathlib import Path

import pytest
from pydantic import ValidationError
from support.pki import Authority

from xds.address import Address
from xds.config import ProtocolSettings, Settings, TlsSettings, api_tls_files, tls_files
from xds.transport.revocations import RevocationFiles


def told(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(values)
    return str(caught.value)


def test_defaults_serve_this_machine_alone() -> None:
    settings = Settings()
    assert settings.listen == Address("127.0.0.1", 18000)
    assert settings.admin == Address("127.0.0.1", 19000)
    assert settings.tls.mode == "off"
    assert settings.protocol.ordering
    assert settings.protocol.response_bytes_max == 2 * 1024 * 1024


def test_settings_take_nothing_from_the_environment_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDS_LISTEN", "127.0.0.1:1")
    assert Settings().listen == Address("127.0.0.1", 18000)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().reflection = True  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        Settings().protocol.ordering = False  # type: ignore[misc]


def test_an_address_may_be_given_as_text_or_as_itself() -> None:
    settings = Settings.model_validate({"listen": "[::1]:0", "admin": Address("127.0.0.1", 0)})
    assert settings.listen == Address("::1", 0)
    assert settings.admin == Address("127.0.0.1", 0)


@pytest.mark.parametrize("off", ["off", False, None])
def test_admin_can_be_off(off: object) -> None:
    assert Settings.model_validate({"admin": off}).admin is None


def test_xds_may_listen_on_a_unix_socket_and_admin_may_not() -> None:
    assert Settings.model_validate({"listen": "unix:/run/xds.sock"}).listen.path == "/run/xds.sock"
    assert "can't be a unix socket" in told(admin="unix:/run/admin.sock")


def test_one_address_can_not_be_both() -> None:
    assert "choose another port" in told(listen="127.0.0.1:5", admin="127.0.0.1:5")
    Settings.model_validate({"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"})


def test_other_machines_are_not_served_without_tls_unless_told_to(tmp_path: Path) -> None:
    assert "--insecure-xds" in told(listen="0.0.0.0:18000")
    Settings.model_validate({"listen": "0.0.0.0:18000", "insecure_xds": True})
    pair = Authority(tmp_path).server()
    tls: dict[str, object] = {"cert": pair.cert_path, "key": pair.key_path}
    said = told(listen="0.0.0.0:18000", tls=tls)
    assert all(name in said for name in ("clients need no certificate", "--tls-client-ca", "--insecure-xds"))
    open_to_all = {"listen": "0.0.0.0:18000", "tls": tls, "insecure_xds": True}
    assert Settings.model_validate(open_to_all).tls.mode == "server"
    ca = tmp_path / "ca.pem"
    for more in ({"client_ca": ca}, {"trust_domains": {"corp": ca}}, {"trust_domains": f"corp={ca}"}):
        assert Settings.model_validate({"listen": "0.0.0.0:18000", "tls": tls | more}).tls.mode == "mutual"


def test_tls_files_are_checked_before_anything_starts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.server("one"), authority.server("other")
    tls = {"cert": one.cert_path, "key": one.key_path, "client_ca": authority.cert_path}
    assert Settings.model_validate({"tls": tls}).tls.mode == "mutual"
    assert "tls.key: is given without tls.cert" in told(tls={"key": one.key_path})
    assert "tls.cert: is given without tls.key" in told(tls={"cert": one.cert_path})
    assert "tls.client_ca: is given without tls.cert" in told(tls={"client_ca": authority.cert_path})
    assert "is not the key of the certificate" in told(tls={"cert": one.cert_path, "key": other.key_path})
    assert "does not exist" in told(tls={"cert": tmp_path / "none", "key": one.key_path})
    assert "can't be read: Is a directory" in told(tls={"cert": tmp_path, "key": one.key_path})
    assert "is not a PEM file of CA" in told(tls=tls | {"client_ca": one.key_path})
    assert "is not a PEM certificate" in told(tls={"cert": one.key_path, "key": one.key_path})
    assert "is not a path" in told(tls={"cert": "a\0b", "key": one.key_path})


def test_what_client_certificates_are_checked_with_is_checked_before_anything_starts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, stranger = authority.server(), Authority(tmp_path / "stranger", name="another")
    ca, crl = str(authority.cert_path), authority.revoke()
    tls: dict[str, object] = {"cert": pair.cert_path, "key": pair.key_path}
    listed = tmp_path / "revoked"
    listed.write_text("spiffe://corp/web\n\nweb\n")
    for given, problem in (
        ({"crls": str(crl)}, "tls.crls: is given without tls.client_ca (--tls-client-ca) or tls.trust_domains"),
        ({"revoked": str(listed)}, "tls.revoked: is given without tls.client_ca"),
        ({"client_ca": ca, "revoked": str(listed)}, "line 3: 'web': it is neither an identity"),
        ({"client_ca": ca, "crls": str(tmp_path / "none")}, "tls.crls: '"),
        ({"client_ca": ca, "crls": str(stranger.revoke())}, "its issuer CN=another is no CA of tls.client_ca"),
        ({"client_ca": ca, "crls": ca}, "has no certificate revocation list"),
        ({"trust_domains": "corp"}, "write DOMAIN=FILE,DOMAIN=FILE"),
        ({"trust_domains": f"corp={ca},corp={ca}"}, "has a trust domain twice"),
        ({"trust_domains": f"Corp={ca}"}, "lower-case letters"),
        ({"trust_domains": f"corp/web={ca}"}, "a trust domain has no path"),
        ({"trust_domains": f"corp={listed}"}, "is not a PEM file of CA certificates"),
    ):
        assert problem in told(tls=tls | given), given
    identities = tmp_path / "identities.yaml"
    identities.write_text("callers: []")
    api = {"tls_cert": pair.cert_path, "tls_key": pair.key_path, "tls_client_ca": ca}
    for more in ({}, tls):
        for given, problem in (
            (
                {"crls": str(stranger.revoke())},
                "its issuer CN=another is no CA of tls.client_ca, tls.trust_domains or api",
            ),
            ({"revoked": str(listed)}, "line 3: 'web': it is neither an identity"),
        ):
            problems = told(tls=more | given, api=api, access={"identities_file": identities})
            assert problems.count(problem) == 1, given
        both = {"tls": more | {"crls": str(crl)}, "api": api, "access": {"identities_file": identities}}
        assert api_tls_files(Settings.model_validate(both)) is not None
    both["tls"] = tls | {"client_ca": stranger.cert_path, "crls": f"{crl}:{stranger.revoke()}"}  # of either port's CAs
    of_both = Settings.model_validate(both)
    for files in (tls_files(of_both), api_tls_files(of_both)):
        assert files is not None
        RevocationFiles(files)
    trusting = tls | {"trust_domains": f"corp={ca}"}
    assert "need identity.certificate=spiffe" in told(tls=trusting, identity={"certificate": "dns"})
    assert "identity.certificate" in told(identity={"certificate": "email"})
    settings = Settings.model_validate({"tls": trusting | {"crls": str(crl), "client_ca": ca}})
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    files = tls_files(settings)
    assert files is not None
    assert (files.trust_domains, files.crls) == ((("corp", authority.cert_path),), (crl,))


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = Authority(tmp_path).server()
    key = serialization.load_pem_private_key(pair.key, password=None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    assert "with its unencrypted key" in told(tls={"cert": pair.cert_path, "key": encrypted})


def test_the_directory_must_be_a_directory_if_it_exists(tmp_path: Path) -> None:
    assert Settings.model_validate({"directory": str(tmp_path)}).directory == tmp_path
    assert Settings(directory=tmp_path / "none").directory == tmp_path / "none", "its last good state may be served"
    file = tmp_path / "file"
    file.touch()
    assert "is not a directory" in told(directory=file)
    assert "is empty" in told(directory="")


def test_all_problems_are_told_at_once() -> None:
    text = told(
        listen="a", log={"level": "loud"}, protocol={"hold_timeout_s": -1, "odd": 1}, drain={"timeout_s": "nan"}
    )
    for name in ("listen", "log.level", "protocol.hold_timeout_s", "protocol.odd", "drain.timeout_s"):
        assert f"\n{name}\n" in text


def test_merging_can_not_wait_shorter_at_most_than_at_least() -> None:
    assert "is less than protocol.coalesce_s" in told(protocol={"coalesce_s": 1, "coalesce_max_s": 0.5})
    assert ProtocolSettings(coalesce_s=0, coalesce_max_s=0).coalesce_s == 0


def test_settings_dump_to_what_they_are_made_of(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"directory": tmp_path, "listen": "[::1]:0", "admin": "off", "tls": TlsSettings()}
    )
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"api": {"listen": "0.0.0.0:18001"}}, ("api", "listen")),
        ({"admin": "0.0.0.0:19000"}, ("admin",)),
        ({"api": {"tls_cert": __file__}}, ("api", "tls_cert")),
        ({"api": {"token_file": "/none"}}, ("api", "token_file")),
        ({"api": {"listen": "127.0.0.1:19000"}}, ("api", "listen")),
        ({"store": {"url": "redis://x"}}, ("store", "url")),
        ({"store": {"etcd_ca": "/none"}}, ("store", "etcd_ca")),
        (
            {"store": {"url": "etcd://127.0.0.1:1,b:2/x", "etcd_user": "u", "etcd_password_file": __file__}},
            ("store", "etcd_password_file"),
        ),
    ],
    ids=str,
)
def test_the_push_api_and_the_store_are_refused_where_they_are_unsafe_or_wrong(given, path) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(given)
    (detail,) = caught.value.errors()
    assert path in [place for place, _ in detail["ctx"]["error"].problems]


@pytest.mark.parametrize(
    "given",
    [
        {"api": {"listen": "0.0.0.0:18001", "insecure": True}},
        {"api": {"listen": "0.0.0.0:18001", "tls_cert": __file__, "tls_key": __file__, "token_file": __file__}},
        {"admin": "0.0.0.0:19000", "api": {"rest": False}},
        {"admin": "off", "api": {"listen": "off"}},
        {"store": {"url": "etcd://a:1,b:2/x"}},
        {"store": {"url": "etcd://127.0.0.1:1,[::1]:2/x", "etcd_password_file": __file__}},
        {"store": {"url": "etcd://a:1/x", "etcd_password_file": __file__, "etcd_ca": __file__}},
    ],
    ids=str,
)
def test_the_push_api_and_the_store_as_they_may_be(given) -> None:
    Settings.model_validate(given)


def test_no_section_reads_its_source_at_the_import() -> None:
    """It would take a tenth of a second of every start; ``xds settings`` reads it when asked (``meanings_of``)."""
    found = [Settings, *(type(getattr(Settings(), name)) for name in Settings.model_fields)]
    assert [each for each in found if getattr(each, "model_config", {}).get("use_attribute_docstrings")] == []
