"""The settings of tokens: what is accepted, from a file and from the environment, and what is said of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import tokens as t
from support.pki import Authority

from xds.cli.settings import Given, SettingsRejectedError, load_settings
from xds.identity.issuers import Issuer


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(t.jwks(t.jwk("ES256")))
    return path


def issuer(keys: Path, **more: Any) -> dict[str, Any]:
    given = {"name": "corp", "issuer": t.ISSUER, "audiences": ["xds"], "jwks_file": str(keys), **more}
    return {name: value for name, value in given.items() if value is not None}


def problems(*issuers: dict[str, Any], given: dict[tuple[str, ...], Any] | None = None, **identity: Any) -> str:
    values = {("identity", name): value for name, value in {"source": "token", "issuers": issuers, **identity}.items()}
    with pytest.raises(SettingsRejectedError) as caught:
        load_settings([Given(path, value, ".".join(path)) for path, value in {**values, **(given or {})}.items()])
    return str(caught.value)


def test_issuers_come_from_the_settings_file(tmp_path: Path, keys: Path) -> None:
    file = tmp_path / "xds.json"
    file.write_text(json.dumps({"identity": {"source": "token", "issuers": [issuer(keys, kubernetes=True)]}}))
    (found,) = load_settings(config_file=file).identity.issuers
    assert found.of_identity == Issuer(
        name="corp", issuer=t.ISSUER, audiences=("xds",), jwks_file=keys, kubernetes=True
    )


def test_issuers_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch, keys: Path) -> None:
    monkeypatch.setenv("XDS_IDENTITY__SOURCE", "token")
    monkeypatch.setenv("XDS_IDENTITY__ISSUERS", json.dumps([issuer(keys, audiences="a, b", algorithms="RS256")]))
    settings = load_settings()
    (found,) = settings.identity.issuers
    assert (found.audiences, found.algorithms) == (("a", "b"), ("RS256",))
    dumped = settings.model_dump(mode="json")["identity"]["issuers"]
    assert type(settings).model_validate({"identity": {"issuers": dumped}}).identity.issuers == (found,)


URL = {"jwks_file": None, "jwks_url": "https://issuer.example/keys"}


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"jwks_file": None}, "either by jwks_file or by jwks_url"),
        ({"jwks_url": "https://issuer.example/keys"}, "either by jwks_file or by jwks_url"),
        ({**URL, "jwks_url": "http://issuer.example/keys"}, "is not https: whoever is between"),
        ({"jwks_file": "/nowhere/jwks.json"}, "issuer corp: jwks_file '/nowhere/jwks.json' does not exist"),
        ({**URL, "jwks_ca": "/nowhere/ca.pem"}, "issuer corp: jwks_ca '/nowhere/ca.pem' does not exist"),
        ({**URL, "jwks_token_file": "/nowhere/token"}, "jwks_token_file '/nowhere/token' does not exist"),
        ({"jwks_ca": "/ca.pem"}, "jwks_ca and jwks_token_file are for jwks_url"),
        ({"algorithms": ["HS256"]}, "algorithm 'HS256' can't be allowed; there are RS256"),
        ({"algorithms": ["none"]}, "algorithm 'none' can't be allowed"),
        ({"algorithms": []}, "at least 1"),
        ({"audiences": []}, "at least 1"),
        ({"name": "Corp/x"}, "match pattern"),
        ({"issuer": ""}, "at least 1 character"),
        ({"trust_domain": "Corp"}, "trust_domain 'Corp': a trust domain has only lower-case letters"),
        ({"trust_domain": "corp/ns"}, "has a path; write the domain alone"),
        ({"kubernetes": True, "subject_claim": "email"}, "is the claim sub; leave out subject_claim"),
        ({"jwks": "x"}, "is not a setting"),
    ],
    ids=str,
)
def test_an_issuer_that_is_wrong_is_refused_with_the_reason(keys: Path, more: dict[str, Any], text: str) -> None:
    assert text in problems(issuer(keys, **more))


def test_keys_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}')
    assert "has no usable keys: it has no key that can verify tokens (key 1: it is not a public key" in problems(
        issuer(path)
    )


def test_names_of_issuers_are_unique(keys: Path) -> None:
    assert "2 issuers have the name 'corp'" in problems(issuer(keys), issuer(keys, issuer="https://other"))


def test_tokens_need_an_issuer() -> None:
    assert "is token, and no issuer of tokens is given; give identity.issuers" in problems()
    assert "is not JSON; write a list of issuers" in problems(given={("identity", "issuers"): "corp"})


@pytest.mark.parametrize("insecure", [False, True])
def test_tokens_are_not_taken_in_clear_from_other_machines(keys: Path, insecure: bool) -> None:
    text = problems(issuer(keys), given={("listen",): "0.0.0.0:18000", ("insecure_xds",): insecure})
    assert "identity.source: is token, and tokens would be sent in clear to 0.0.0.0:18000" in text


def test_tokens_over_tls_are_enough_beyond_loopback(tmp_path: Path, keys: Path) -> None:
    pair = Authority(tmp_path).server()
    given = {
        ("listen",): "0.0.0.0:18000",
        ("tls", "cert"): str(pair.cert_path),
        ("tls", "key"): str(pair.key_path),
        ("identity", "issuers"): [issuer(keys)],
    }
    settings = load_settings(
        [Given(path, value, "") for path, value in {**given, ("identity", "source"): "token"}.items()]
    )
    assert settings.clients_are_known
    with pytest.raises(SettingsRejectedError, match="clients need no certificate and no token"):
        load_settings([Given(path, value, "") for path, value in given.items()])
