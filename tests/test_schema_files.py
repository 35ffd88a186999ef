"""The files of ``--schema``, and what is kept of them beside the store."""

import json
import os
from pathlib import Path

import pytest
from support.schemas import FILTER, own_filter

from xds import schema_files
from xds.cli.envoy import find_envoy
from xds.schema.origin import built_with
from xds.schema.union import SchemaError, encode_set


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    path = tmp_path / "acme.binpb"
    path.write_bytes(encode_set([own_filter()]))
    return path


def test_an_envoy_binary_is_read_with_its_version() -> None:
    envoy = find_envoy()
    assert envoy is not None
    source = schema_files.read(envoy)

    assert (source.is_api, source.envoy) == (True, built_with())


def test_what_was_read_is_kept_and_used_when_the_file_is_gone(own_set: Path, tmp_path: Path) -> None:
    kept = tmp_path / "store.db.schemas"
    read = schema_files.read(own_set, kept)
    own_set.unlink()

    assert schema_files.read(own_set, kept).files == read.files
    with pytest.raises(SchemaError, match=r"acme\.binpb can't be read: No such file"):
        schema_files.read(own_set, tmp_path / "another")


def test_a_file_that_changed_is_read_again_and_the_old_content_is_dropped(own_set: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    schema_files.read(own_set, kept)
    changed = own_filter()
    changed.message_type.add(name="More")
    own_set.write_bytes(encode_set([changed]))
    os.utime(own_set, (1, 1))

    assert schema_files.read(own_set, kept).files == (changed,)
    assert len(list(kept.glob("*.binpb"))) == 1


def test_an_unchanged_file_is_not_read_again(own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    read = schema_files.read(own_set, kept)
    monkeypatch.setattr(schema_files, "_read_file", lambda path: pytest.fail(f"{path} was read"))

    assert schema_files.read(own_set, kept).files == read.files


@pytest.mark.parametrize("damage", [b"", b"\xff", b"{}", b"[]"])
@pytest.mark.parametrize("which", ["index.json", "*.binpb"])
def test_damaged_kept_files_are_not_used(own_set: Path, tmp_path: Path, which: str, damage: bytes) -> None:
    kept = tmp_path / "kept"
    read = schema_files.read(own_set, kept)
    (file,) = kept.glob(which)
    file.write_bytes(damage)

    assert schema_files.read(own_set, kept).files == read.files


def test_kept_files_are_private(own_set: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    schema_files.read(own_set, kept)

    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    assert json.loads((kept / "index.json").read_text()).keys() == {str(own_set)}


def test_a_directory_that_can_not_be_written_costs_only_the_keeping(own_set: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert FILTER.startswith(schema_files.read(own_set, tmp_path / "file" / "kept").files[0].package)


@pytest.mark.parametrize(("content", "text"), [(b"", "is empty"), (b"hello", "is neither an Envoy binary nor")])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=text):
        schema_files.read(path)
