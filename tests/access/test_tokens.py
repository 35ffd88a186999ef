"""The file of tokens: what it holds, who may write it at once, and how servers follow it."""

import asyncio
import json
import os
import resource
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.pki import Authority
from support.waiting import wait_until

from xds.access.authenticator import Authenticator
from xds.access.certificates import CertificateNames
from xds.access.errors import AccessFileError, InvalidCertificateError, UnauthenticatedError
from xds.access.rights import EVERYONE, Caller, Grant, Right
from xds.access.tokens import TOKEN, create_token, read_tokens, revoke_tokens
from xds.config import Settings
from xds.transport.tls import RETRY_S, TlsFiles


def reason(authenticator: Authenticator, authorization: str) -> str:
    with pytest.raises(UnauthenticatedError) as refused:
        authenticator.authenticate(authorization)
    return refused.value.reason


def test_a_token_is_kept_as_a_hash_in_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "made" / "tokens"
    made, token = create_token(path, "ci", ("write",), ("web-*",), expires_at=2_000_000_000)
    assert TOKEN.fullmatch(token)
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_tokens(path) == (made,)
    caller = Authenticator(tokens_file=path).authenticate(f"Bearer {token}")
    assert caller == Caller("token:ci", (Grant(("write",), ("web-*",)),), made.id)


def test_a_server_follows_the_file_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    authenticator = Authenticator(tokens_file=path)
    assert (authenticator.is_needed, authenticator.authenticate("")) == (False, EVERYONE)
    made, token = create_token(path, "ci", ("read",))
    assert (authenticator.is_needed, reason(authenticator, "")) == (True, "no credentials")
    assert authenticator.authenticate(f"bearer  {token} ").identity == "token:ci"
    assert revoke_tokens(path, "ci")[0].id == made.id
    assert reason(authenticator, f"Bearer {token}") == "revoked token"
    assert revoke_tokens(path, "ci") == ()
    _, second = create_token(path, "ci", ("read",))  # the name is free again
    assert authenticator.authenticate(f"Bearer {second}").identity == "token:ci"
    path.unlink()
    assert authenticator.authenticate(f"Bearer {second}").identity == "token:ci"
    assert reason(authenticator, "") == "no credentials"  # it does not become open


def test_a_file_that_is_set_and_missing_admits_nobody(tmp_path: Path) -> None:
    assert Settings(access={"tokens_file": tmp_path / "tokens"}).asks_for_credentials
    assert not Settings(store={"url": f"sqlite:///{tmp_path}/s.db"}).asks_for_credentials
    authenticator = Authenticator(tokens_file=tmp_path / "tokens", is_needed=True)
    assert reason(authenticator, "") == "no credentials"


def test_a_token_ends_when_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    now_s = [1_000.0]
    _, token = create_token(path, "ci", ("read",), expires_at=2_000)
    authenticator = Authenticator(tokens_file=path, clock=lambda: now_s[0])
    assert authenticator.authenticate(f"Bearer {token}").identity == "token:ci"
    now_s[0] = 2_000.0
    assert reason(authenticator, f"Bearer {token}") == "expired token"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "no credentials"),
        ("Bearer", "malformed credentials"),
        ("Bearer ", "malformed credentials"),
        ("Basic eDp5", "malformed credentials"),
        ("Bearer " + "x" * 20_000, "malformed credentials"),
        ("Bearer wrong", "unknown token"),
        ("Bearer xdst_" + "A" * 43, "unknown token"),
        ("Bearer \x00\n\ud800".encode("utf-8", "replace").decode(), "unknown token"),
        ("Bearer é" * 10, "unknown token"),
        ("Bearer a.b.c", "unknown token"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: str, why: str) -> None:
    (tmp_path / "single").write_text("s3cret")
    create_token(tmp_path / "tokens", "ci", ("read",))
    authenticator = Authenticator(tmp_path / "single", tokens_file=tmp_path / "tokens")
    assert reason(authenticator, header) == why


def test_the_one_token_of_the_token_file_is_an_admins_beside_the_named_ones(tmp_path: Path) -> None:
    (tmp_path / "single").write_text("s3cret\n")
    _, token = create_token(tmp_path / "tokens", "ci", ("read",))
    authenticator = Authenticator(tmp_path / "single", tokens_file=tmp_path / "tokens")
    caller = authenticator.authenticate("Bearer s3cret")
    assert (caller.identity, all(caller.may_everywhere(right) for right in Right)) == ("token-file", True)
    assert authenticator.authenticate(f"Bearer {token}").identity == "token:ci"
    (tmp_path / "single").write_text("")  # an empty file admits nobody
    assert reason(authenticator, "Bearer ") == "malformed credentials"
    assert reason(authenticator, "Bearer s3cret") == "unknown token"


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"format": 2, "tokens": []}', '{"format": 1, "tokens": [{}]}', "{" * 100_000, "\x00", '{"format": 1}'],
)
def test_a_bad_file_ends_a_start_and_leaves_a_running_server_as_it_was(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens"
    _, token = create_token(path, "ci", ("read",))
    authenticator = Authenticator(tokens_file=path)
    path.write_text(content)
    assert authenticator.authenticate(f"Bearer {token}").identity == "token:ci"
    assert str(path) in authenticator.problems[0]
    with pytest.raises(AccessFileError, match="is not a file of tokens"):
        Authenticator(tokens_file=path)
    with pytest.raises(AccessFileError):
        create_token(path, "other", ("read",))
    assert path.read_text() == content


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    create_token(path, "ci", ("read",))
    path.chmod(0o666)
    with pytest.raises(AccessFileError, match="can be written by others"):
        read_tokens(path)


def test_a_file_that_others_could_write_counts_once_they_can_not(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    _, token = create_token(path, "ci", ("read",))
    authenticator = Authenticator(tokens_file=path)
    revoke_tokens(path, "ci")
    path.chmod(0o664)
    assert authenticator.authenticate(f"Bearer {token}").identity == "token:ci"
    assert "chmod go-w" in authenticator.problems[0]
    path.chmod(0o600)
    assert reason(authenticator, f"Bearer {token}") == "revoked token"
    assert authenticator.problems == ()


def test_a_file_that_could_not_be_opened_is_read_again_though_it_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now_s = tmp_path / "tokens", [1_000.0]
    monkeypatch.setattr("xds.access.authenticator.time.monotonic", lambda: now_s[0])
    _, token = create_token(path, "ci", ("read",))
    authenticator = Authenticator(tokens_file=path)
    revoke_tokens(path, "ci")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with capture_logs() as logs:
            for _ in range(3):
                assert authenticator.authenticate(f"Bearer {token}").identity == "token:ci"
                now_s[0] += RETRY_S
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (len(logs), "can't be read" in authenticator.problems[0]) == (1, True)
    assert reason(authenticator, f"Bearer {token}") == "revoked token"
    assert authenticator.problems == ()


async def test_a_reload_reads_who_is_revoked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.transport.revocation_watch.LOOK_EVERY_S", 600.0)
    authority, revoked = Authority(tmp_path), tmp_path / "revoked"
    pair = authority.client("ann", spiffe="spiffe://corp/ann")
    revoked.write_text("")
    files = TlsFiles(cert=pair.cert_path, key=pair.key_path, client_ca=authority.cert_path, revoked=revoked)
    names_of = CertificateNames(files, pytest.fail)
    authenticator = Authenticator(names_of=names_of)
    following = asyncio.create_task(names_of.follow())
    assert names_of([pair.cert]) == ("spiffe://corp/ann", "dns:ann", "cn:ann")
    revoked.write_text("cn:ann")
    authenticator.reload()

    def refused() -> bool:
        try:
            names_of([pair.cert])
        except InvalidCertificateError:
            return True
        return False

    await wait_until(refused)
    following.cancel()


@pytest.mark.parametrize(
    ("name", "roles", "groups", "problem"),
    [
        ("a b", ("read",), (), "is not a name"),
        ("", ("read",), (), "is not a name"),
        ("ci", (), (), "there is no role"),
        ("ci", ("root",), (), "'root' is not a role"),
        ("ci", ("admin",), ("web",), "admin is for all groups"),
        ("ci", ("read",), ("",), "is not the name of a group"),
    ],
)
def test_wrong_tokens_are_not_made(
    tmp_path: Path, name: str, roles: tuple[str, ...], groups: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(AccessFileError, match=problem):
        create_token(tmp_path / "tokens", name, roles, groups)
    assert not (tmp_path / "tokens").exists()


def make(path: Path, number: int) -> str:
    """Create a token, and revoke every other one."""
    _, token = create_token(path, f"t{number}", ("read",))
    if number % 2:
        revoke_tokens(path, f"t{number}")
    return token


def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(make, [path] * 40, range(40)))
    found = {each.name: each.state(0) for each in read_tokens(path)}
    assert found == {f"t{number}": "revoked" if number % 2 else "valid" for number in range(40)}
    assert len(json.loads(path.read_text())["tokens"]) == 40
    assert sorted(os.listdir(tmp_path)) == ["tokens", "tokens.lock"]
