"""The packaged Envoy API."""

import pytest

from xds.model.types import SHORT_NAMES, TYPE_PREFIX
from xds.schema.paths import MapKey, camel_case, dotted, locate
from xds.schema.pool import load_schema


def test_every_type_with_a_short_name_is_known() -> None:
    assert all(load_schema().has(type_url.removeprefix(TYPE_PREFIX)) for type_url in SHORT_NAMES.values())


def test_unknown_name_has_no_class() -> None:
    assert not load_schema().has("envoy.config.cluster.v3.Nothing")
    with pytest.raises(KeyError):
        load_schema().message_class("envoy.config.cluster.v3.Nothing")


def test_schema_is_loaded_once_and_apart_from_the_default_pool() -> None:
    schema = load_schema()

    assert load_schema() is schema
    descriptor = schema.descriptor("envoy.config.cluster.v3.Cluster")
    assert descriptor.file.pool is schema.pool


def test_map_entries_are_no_messages_of_their_own() -> None:
    names = load_schema().message_names()

    assert "envoy.config.core.v3.Metadata" in names
    assert "envoy.config.core.v3.Metadata.FilterMetadataEntry" not in names


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("envoy.api.v2.Cluster", ("envoy.config.cluster.v3.Cluster",)),
        ("envoy.config.cluster.v3.Clutser", ("envoy.config.cluster.v3.Cluster",)),
        ("type.googleapis.com/envoy.config.listener.v3.Listner", ("envoy.config.listener.v3.Listener",)),
        ("acme.v1.Zebra", ()),
    ],
)
def test_close_names_are_what_was_probably_meant(word: str, names: tuple[str, ...]) -> None:
    assert load_schema().close_names(word)[:1] == names


def test_path_is_spelt_as_people_write_it() -> None:
    assert dotted(("a", 0, "b", MapKey("x.y"), "c")) == 'a[0].b["x.y"].c'


def test_path_is_followed_as_far_as_the_document_goes() -> None:
    document = {"loadAssignment": {"endpoints": [{"a_b": 1}]}}

    assert locate(document, ("load_assignment", "endpoints", 0, "a_b", "c")) == (
        "loadAssignment",
        "endpoints",
        0,
        "a_b",
    )
    assert locate(document, ("load_assignment", "endpoints", 1)) == ("loadAssignment", "endpoints")
    assert locate(None, ("a",)) == ()


def test_json_name_is_that_of_protobuf() -> None:
    schema = load_schema()
    fields = [field for name in schema.message_names() for field in schema.descriptor(name).fields]

    assert [field.full_name for field in fields if camel_case(field.name) != field.json_name] == []
