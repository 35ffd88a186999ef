"""One schema made of several, and the differences of two."""

import pytest
from support.schemas import FILTER, older_api, own_filter

from xds.schema.pool import Schema
from xds.schema.union import Difference, File, SchemaError, SchemaSource, encode_set, read_source, united, version_key
from xds.schema_files import packaged_source

COOKIES = "envoy.config.route.v3.RouteMatch.cookies"
PACKAGED = packaged_source()


def schema_of(source: SchemaSource) -> Schema:
    return Schema(encode_set(source.files, source.envoy))


def has_field(source: SchemaSource, name: str) -> bool:
    message, _, field = name.rpartition(".")
    return field in schema_of(source).descriptor(message).fields_by_name


def test_the_packaged_schema_is_used_where_no_api_is_given() -> None:
    whole = united(PACKAGED, [])

    assert (whole.files, whole.envoy) == (PACKAGED.files, PACKAGED.envoy)


def test_a_filter_of_ones_own_is_added_to_the_packaged_schema() -> None:
    whole = united(PACKAGED, [SchemaSource("acme.binpb", (own_filter(),))])

    assert schema_of(whole).has(FILTER)
    assert schema_of(whole).has("envoy.config.cluster.v3.Cluster")
    assert whole.envoy == PACKAGED.envoy


def test_a_given_envoy_replaces_the_packaged_schema() -> None:
    whole = united(PACKAGED, [older_api("1.30.2", lacks=(COOKIES,))])

    assert not has_field(whole, COOKIES)
    assert whole.envoy == "1.30.2"


@pytest.mark.parametrize("backwards", [False, True])
def test_of_several_envoys_the_newest_counts_whatever_their_order(backwards: bool) -> None:
    old, new = older_api("1.9.0", lacks=(COOKIES,)), older_api("1.30.0", lacks=())
    whole = united(PACKAGED, [new, old] if backwards else [old, new])

    assert has_field(whole, COOKIES)
    assert whole.envoy == "1.30.0"


def test_what_envoy_has_is_not_taken_from_a_set_that_only_adds_to_it() -> None:
    copy = File(name="envoy/config/cluster/v3/cluster.proto", package="envoy.config.cluster.v3", syntax="proto3")
    whole = united(PACKAGED, [SchemaSource("acme.binpb", (copy, own_filter(copy.name)))])

    assert has_field(whole, "envoy.config.cluster.v3.Cluster.connect_timeout")
    assert schema_of(whole).has(FILTER)


def test_a_set_without_what_it_imports_is_refused_with_what_to_do() -> None:
    with pytest.raises(SchemaError, match=r"acme\.binpb: .*greeting\.proto imports lacks\.proto, .*--include_imports"):
        united(PACKAGED, [SchemaSource("acme.binpb", (own_filter("lacks.proto"),))])


def test_a_set_that_contradicts_others_is_refused_by_name() -> None:
    file = own_filter()
    file.message_type[0].field[1].type_name = ".google.protobuf.Nothing"
    with pytest.raises(SchemaError, match=r"acme\.binpb: .*greeting\.proto does not fit"):
        united(PACKAGED, [SchemaSource("acme.binpb", (file,))])


@pytest.mark.parametrize("data", [b"\x7fELF" + bytes(100), b"\xff\xff", b"resources: []\n"])
def test_what_is_no_schema_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(SchemaError, match=r"^some/file "):
        read_source("some/file", data)


@pytest.mark.parametrize("version", ["", "1.40.0", "1.41.0-dev"])
def test_an_exported_set_keeps_its_files_and_its_version(version: str) -> None:
    read = read_source("x", encode_set(PACKAGED.files, version))

    assert (read.files, read.envoy) == (PACKAGED.files, version)
    assert read.is_api


def test_versions_are_ordered_as_numbers() -> None:
    versions = ["", "1.9.3", "1.30", "1.30.1", "1.40.0"]
    assert sorted(versions, key=version_key) == versions


def test_the_differences_name_what_was_added_removed_and_changed() -> None:
    old = older_api("1.30.0", lacks=(COOKIES,))
    changed = own_filter()
    changed.message_type[0].field[0].number = 7
    before = SchemaSource("old", (*old.files, own_filter()))
    after = SchemaSource("new", (*PACKAGED.files, changed))
    found = Difference(before, after)

    assert found.added == [COOKIES]
    assert found.changed == [f"{FILTER}.text"]
    assert found.removed == []
    assert [line[0] for line in found.lines] == ["~", "+"]
    assert found.lines[0] == f"~ {FILTER}.text  string = 1 → string = 7"


def test_a_removed_message_is_one_line() -> None:
    before = SchemaSource("old", (*PACKAGED.files, own_filter()))
    assert Difference(before, PACKAGED).lines == [f"- {FILTER}  message"]
