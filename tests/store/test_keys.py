"""The keys of a store: from files and from a command."""

import base64
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from xds.store import keys
from xds.store.keys import KeyRing, KeysError, KeySource, new_key, read_key_file, write_key_file

SECRET = bytes(range(32))
TEXT = base64.b64encode(SECRET).decode()


def refused(source: KeySource) -> str:
    with pytest.raises(KeysError) as error:
        source.read()
    assert TEXT not in str(error.value)
    assert TEXT[:10] not in str(error.value)
    return str(error.value)


def script(text: str, **more: float) -> KeySource:
    return KeySource(command=(sys.executable, "-c", text), **more)  # type: ignore[arg-type]


def test_a_new_key_file_is_its_owners_and_is_read_back(tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    write_key_file(tmp_path / "k", [first, second])
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert read_key_file(tmp_path / "k") == [first, second]
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_several_files_are_one_ring_whose_first_key_encrypts(tmp_path: Path) -> None:
    (tmp_path / "new").write_text(f"# of May\n\n  {base64.b64encode(os.urandom(32)).decode()}\n")
    (tmp_path / "old").write_text(f"{TEXT}\n{TEXT}")
    ring = KeySource(files=(tmp_path / "new", tmp_path / "old")).read()
    assert len(ring.keys) == 2
    assert ring.keys[1].secret == SECRET
    assert KeySource().read() == KeyRing()


def test_the_id_of_a_key_does_not_change_and_the_key_is_not_in_its_repr(tmp_path: Path) -> None:
    (tmp_path / "k").write_text(TEXT)
    (key,) = read_key_file(tmp_path / "k")
    assert key.id == "b1bd02f761da932b"
    assert repr(key) == "StoreKey(id='b1bd02f761da932b')"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "has no key"),
        ("# nothing", "has no key"),
        (TEXT[:-1], "line 1 of .* is not base64"),
        (f"{TEXT}\n{TEXT} x", "line 2 of .* is not base64"),
        (base64.b64encode(SECRET[:16]).decode(), "a key of 16 bytes, not 32"),
        (SECRET.hex(), "a key of 48 bytes, not 32"),
        ("#" * 70_000, "more than 65,536 bytes"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_without_any_key(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "k").write_text(content)
    with pytest.raises(KeysError, match=why) as error:
        read_key_file(tmp_path / "k")
    assert TEXT[:10] not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="gone can't be read: No such file or directory"):
        read_key_file(tmp_path / "gone")


def test_a_command_prints_keys_and_no_shell_reads_it() -> None:
    assert script(f"import sys; sys.stderr.write('x' * 500_000); print('{TEXT}')").read().keys[0].secret == SECRET
    assert KeySource(command=("echo", TEXT)).read().keys[0].secret == SECRET
    assert "is not base64" in refused(KeySource(command=("echo", TEXT, ";", "true")))


def test_a_failing_command_is_reported_with_what_it_says() -> None:
    what = refused(script(f"import sys; print('{TEXT}'); sys.exit('the vault is sealed')"))
    assert what == f"the key command {Path(sys.executable).name!r} failed (exit code 1): the vault is sealed"
    assert "can't be run" in refused(KeySource(command=("/nonexistent/vault",)))


def test_a_command_that_prints_without_end_or_does_not_end_is_killed(tmp_path: Path) -> None:
    started = time.monotonic()
    assert "more than 65,536 bytes" in refused(script("while True: print('A' * 1000)"))
    late = f"import subprocess, time; print('{TEXT}', flush=True); subprocess.run(['sleep', '60'])"
    assert "did not end within 0.5 s" in refused(script(late, timeout_s=0.5))
    assert time.monotonic() - started < 20


def test_a_ring_keeps_the_keys_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_key(), new_key()
    assert KeyRing((second,)).extended_by(KeyRing((first, second))).keys == (second, first)
    monkeypatch.setattr(keys, "KEYS_MAX", 1)
    many = "\n".join(base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    assert "at most 1" in refused(KeySource(command=("echo", many)))
