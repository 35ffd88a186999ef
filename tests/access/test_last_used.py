"""When tokens were last used: kept beside their file, merged with what other servers wrote."""

import json
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from xds.access.authenticator import Authenticator
from xds.access.errors import UnauthenticatedError
from xds.access.last_used import LastUsed, path_beside, read_last_used
from xds.access.tokens import create_token, read_tokens, revoke_tokens


class Clock:
    def __init__(self) -> None:
        self.now = 2_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_only_tokens_that_let_somebody_in_count_as_used(tokens: Path) -> None:
    made, token = create_token(tokens, "ci", ("read",))
    unused, _ = create_token(tokens, "unused", ("read",))
    revoked, former = create_token(tokens, "former", ("read",))
    revoke_tokens(tokens, "former")
    clock = Clock()
    authenticator = Authenticator(tokens_file=tokens, clock=clock)
    assert authenticator.last_used is not None
    authenticator.authenticate(f"Bearer {token}")
    for wrong in (former, "xdst_" + "x" * 43):
        with pytest.raises(UnauthenticatedError):
            authenticator.authenticate(f"Bearer {wrong}")
    assert read_last_used(tokens) == {}
    authenticator.last_used.write(authenticator.token_ids)
    assert read_last_used(tokens) == {made.id: 2_000_000_000}
    assert {each.id for each in read_tokens(tokens)} == {made.id, unused.id, revoked.id}
    assert stat.S_IMODE(path_beside(tokens).stat().st_mode) == 0o600
    assert token not in path_beside(tokens).read_text()


def test_servers_with_one_file_keep_the_later_time_and_forget_tokens_that_are_gone(tokens: Path) -> None:
    clock = Clock()
    one, two = LastUsed(tokens, clock=clock), LastUsed(tokens, clock=clock)
    one.note("a")
    one.note("gone")
    clock.now += 60
    two.note("a")
    two.note("b")
    two.write(["a", "b", "gone"])
    one.write(["a", "b"])
    assert read_last_used(tokens) == {"a": 2_000_000_060, "b": 2_000_000_060}


def test_nothing_is_written_where_nothing_was_used(tokens: Path) -> None:
    LastUsed(tokens).write(["a"])
    assert list(tokens.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "used": {"a": "x"}}', '{"format": 2, "used": {}}'])
def test_a_damaged_file_is_written_anew(tokens: Path, content: str) -> None:
    path_beside(tokens).write_text(content)
    assert read_last_used(tokens) == {}
    seen = LastUsed(tokens, clock=Clock())
    seen.note("a")
    seen.write(["a"])
    assert json.loads(path_beside(tokens).read_text()) == {"format": 1, "used": {"a": 2_000_000_000}}


def test_a_place_that_can_not_be_written_is_logged_once(tmp_path: Path) -> None:
    seen = LastUsed(tmp_path / "absent" / "tokens")
    with capture_logs() as logs:
        for _ in range(2):
            seen.note("a")
            seen.write(["a"])
    assert [(each["event"], each["problem"]) for each in logs] == [
        ("the last use of tokens is not kept", "No such file or directory")
    ]
