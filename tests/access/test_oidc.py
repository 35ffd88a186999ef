"""OIDC tokens of people: verified with the issuer's keys, mapped to roles by their subject and claims."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from structlog.testing import capture_logs

from xds.access.authenticator import Authenticator
from xds.access.errors import UnauthenticatedError
from xds.access.oidc import OidcTokens
from xds.api.admission import Admission
from xds.app import ACCESS_PROBLEM, App
from xds.config import Settings
from xds.process.background import Background

KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER = "https://login.corp"


def identities(directory: Path) -> Path:
    jwk = json.loads(ECAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k1", "alg": "ES256", "use": "sig"}
    (directory / "keys.json").write_text(json.dumps({"keys": [jwk]}))
    path = directory / "identities.yaml"
    path.write_text(
        f"""\
issuers:
- {{name: corp, issuer: "{ISSUER}", audiences: [xds], jwks_file: {directory / "keys.json"}}}
callers:
- identity: jwt:corp/*
  claims: {{groups: platform}}
  roles: [write]
  groups: [web]
- identity: jwt:corp/ann
  roles: [read]
"""
    )
    return path


def token(key: Any = KEY, **claims: Any) -> str:
    now_s = int(time.time())
    content = {"iss": ISSUER, "aud": "xds", "sub": "ann", "iat": now_s - 5, "exp": now_s + 300} | claims
    return jwt.encode(content, key, algorithm="ES256", headers={"kid": "k1"})


async def started(directory: Path) -> Authenticator:
    authenticator = Authenticator(identities_file=identities(directory))
    await Admission(authenticator).start(Background())
    return authenticator


async def test_the_first_entry_that_matches_subject_and_claims_decides(tmp_path: Path) -> None:
    authenticator = await started(tmp_path)
    for claims, who, grant in (
        ({}, "jwt:corp/ann", "read in all groups"),
        ({"groups": ["a", "platform"]}, "jwt:corp/ann", "write in web"),
        ({"sub": "bob", "groups": "platform"}, "jwt:corp/bob", "write in web"),
    ):
        for _ in range(2):  # the second time it is known
            caller = authenticator.authenticate(f"Bearer {token(**claims)}")
            assert (caller.identity, [str(each) for each in caller.grants]) == (who, [grant])


async def test_tokens_that_prove_nothing_are_refused(tmp_path: Path) -> None:
    authenticator = await started(tmp_path)
    past_s = int(time.time()) - 1_000
    for shown, reason in (
        (token(ec.generate_private_key(ec.SECP256R1())), "refused OIDC token"),
        (token(aud="other"), "refused OIDC token"),
        (token(iss="https://evil"), "refused OIDC token"),
        (token(exp=past_s), "refused OIDC token"),
        (token(sub="bob"), "unmapped OIDC token"),
        (token(sub="bob", groups={"platform": True}), "unmapped OIDC token"),
        (f"{token()[:-4]}AAAA", "refused OIDC token"),
        ("a.b.c", "refused OIDC token"),
    ):
        with pytest.raises(UnauthenticatedError) as refused:
            authenticator.authenticate(f"Bearer {shown}")
        assert refused.value.reason == reason
        assert shown not in str(refused.value)


async def test_other_issuers_need_a_restart_and_change_nothing_until_then(tmp_path: Path) -> None:
    authenticator = await started(tmp_path)
    path = tmp_path / "identities.yaml"
    path.write_text(path.read_text().replace("name: corp", "name: evil"))
    assert authenticator.authenticate(f"Bearer {token()}").identity == "jwt:corp/ann"
    assert "needs a restart" in authenticator.problems[0]


async def test_keys_that_can_not_be_read_are_logged_once_and_are_a_problem_until_they_can(
    tmp_path: Path,
) -> None:
    path = identities(tmp_path)
    keys = next(tmp_path.glob("*.json"))
    content = keys.read_bytes()
    keys.write_bytes(b"{")
    now = [0.0]
    (issuer,) = Authenticator(identities_file=path).issuers
    oidc = OidcTokens((issuer,), clock=lambda: now[0])
    ((_, source),) = oidc._sources
    with capture_logs() as logs:
        for _ in range(100):
            assert not await source.refresh()
        assert len(logs) == 1
        now[0] = 601.0
        await source.refresh()
        assert len(logs) == 2
    assert oidc.problems == ("the keys of the issuer 'corp' can't be read: its tokens are refused",)
    keys.write_bytes(content)
    assert await source.refresh()
    assert oidc.problems == ()


async def test_the_problem_of_access_names_keys_that_can_not_be_read(tmp_path: Path) -> None:
    path = identities(tmp_path)
    next(tmp_path.glob("*.json")).unlink()
    admission = Admission(Authenticator(identities_file=path))
    background = Background()
    await admission.start(background)
    assert "the keys of the issuer 'corp' can't be read" in admission.problem


async def test_a_problem_of_access_is_one_of_the_server_and_readyz_does_not_quote_it() -> None:
    app = App(Settings())
    assert ACCESS_PROBLEM not in app._readiness()[1]
    app.measured.access_problem = lambda: "identities.yaml: 'spiffe://corp/x' is wrong"
    assert ACCESS_PROBLEM in app._readiness()[1]
    assert "spiffe" not in app._readiness()[1]
    assert "identities.yaml: 'spiffe://corp/x' is wrong" in tuple(app._all_problems())
