"""The reference table has every field of the schema that may name a resource or a file, and no other."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from xds.model import types
from xds.protocol.policy import Stage, policy_of
from xds.schema.pool import ANY, Schema, load_schema
from xds.schema.reference_table import REMOTE, TABLE, Refers, Unrelated
from xds.schema.references import extractor_of

CONFIGURATION = re.compile(
    r"(envoy\.(config|extensions|service\.runtime)|xds\.(core|type)|udpa\.(core|type)|cpp2sky)\."
)
"""Packages of what resources are made of; messages of other packages count if these contain them."""
WORDS = re.compile(
    r"(^|_)(clusters?|listeners?|routes?|vhost|secrets?|sds|rds|files?|filename|filepath|c?paths?|dir|directory|"
    r"collection|locator|resources?|extension|collector|database|db)(_|$)"
)
NAMED = re.compile(r"Cluster|Listener|Route|Secret|Rds|Vhds|Fcds|Filter$")
"""Messages whose field ``name`` may be the name of another resource."""
SOURCES = frozenset(
    f"envoy.config.core.v3.{name}" for name in ("ConfigSource", "ExtensionConfigSource", "ApiConfigSource")
) | {"xds.core.v3.CollectionEntry", "xds.core.v3.ResourceLocator"}
EXTRA = {
    ("envoy.extensions.transport_sockets.tls.cert_mappers.static_name.v3.StaticName", "name"),
    ("envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder", "proto_descriptor"),
}
"""Fields of the table that nothing in the schema gives away."""


def has_source(message: Any) -> bool:
    return any(field.message_type is not None and field.message_type.full_name in SOURCES for field in message.fields)


def is_text(field: Any) -> bool:
    """Say whether a field holds text: itself, in a list, as the keys or values of a map, or in a wrapper."""
    message = field.message_type
    if message is None:
        return bool(field.type == field.TYPE_STRING)
    if message.GetOptions().map_entry:
        return any(is_text(part) for part in message.fields)
    return bool(message.full_name == "google.protobuf.StringValue")


def messages(schema: Schema) -> Iterator[Any]:
    """Yield the descriptors of the configuration messages and of all that they contain."""
    pending = [schema.descriptor(name) for name in schema.message_names() if CONFIGURATION.match(name)]
    met = set()
    while pending:
        message = pending.pop()
        if message.full_name not in met:
            met.add(message.full_name)
            pending += [field.message_type for field in message.fields if field.message_type is not None]
            if not message.GetOptions().map_entry:
                yield message


def suspects(schema: Schema) -> set[tuple[str, str]]:
    """Return every field that may name a resource or a file, or says where resources come from."""
    found = set()
    for message in messages(schema):
        sourced, named = has_source(message), NAMED.search(message.name)
        for field in message.fields:
            is_source = field.message_type is not None and field.message_type.full_name in SOURCES
            said = WORDS.search(field.name) or (named and field.name in ("name", "names"))
            if is_source or (is_text(field) and (said or sourced)):
                found.add((message.full_name, field.name))
    return found


def listed() -> set[tuple[str, str]]:
    return {(message, field) for message, fields in TABLE.items() for field in fields}


def test_every_field_that_may_name_a_resource_is_classified() -> None:
    assert sorted(suspects(load_schema()) - listed()) == []


def test_the_table_has_no_field_that_the_schema_lacks() -> None:
    schema = load_schema()
    known = {(message, field) for message, field in listed() if schema.has(message)} - {
        (name, field.name) for name in TABLE if schema.has(name) for field in schema.descriptor(name).fields
    }
    assert sorted(known) == []
    assert [name for name in TABLE if not schema.has(name)] == []


def test_the_table_has_no_field_that_names_nothing() -> None:
    assert listed() - suspects(load_schema()) == EXTRA


def test_every_reason_is_that_of_some_field() -> None:
    used = {entry for fields in TABLE.values() for entry in fields.values() if isinstance(entry, Unrelated)}
    assert used == set(Unrelated)


REFERENCES = sorted(
    (message, field)
    for message, fields in TABLE.items()
    for field, entry in fields.items()
    if isinstance(entry, Refers)
)


def message_with(full_name: str, field: str, source: str) -> Any:
    """Return a message whose field names the resource ``x``, by a config source of this kind if it has one."""
    message: Any = load_schema().message_class(full_name)()
    if field == "rds_config_source":
        scopes = message.scoped_route_configurations_list.scoped_route_configurations
        scopes.add(name="scope", route_configuration_name="x")
    elif "Map" in type(getattr(message, field)).__name__:
        getattr(message, field)["x"].SetInParent()
    elif isinstance(getattr(message, field), str):
        setattr(message, field, "x")
    else:
        getattr(message, field).append("x")
    if field == "name" and full_name == "envoy.config.cluster.v3.Cluster":
        message.type = message.EDS
        getattr(message.eds_cluster_config.eds_config, source).SetInParent()
    for other in message.DESCRIPTOR.fields:
        kind = other.message_type.full_name.rpartition(".")[2] if other.message_type is not None else ""
        if kind == "ConfigSource":
            getattr(getattr(message, other.name), source).SetInParent()
        elif kind == "ExtensionConfigSource":
            getattr(getattr(message, other.name).config_source, source).SetInParent()
    return message


@pytest.mark.parametrize(("full_name", "field"), REFERENCES)
def test_every_reference_of_the_table_is_extracted(full_name: str, field: str) -> None:
    entry, extract = TABLE[full_name][field], extractor_of(full_name)
    assert isinstance(entry, Refers)
    assert extract is not None
    for source in REMOTE:
        found = list(extract(message_with(full_name, field, source), True))
        assert [(named.type_url, named.name) for named in found if named.name] == [(entry.type_url, "x")]


@pytest.mark.parametrize(("full_name", "field"), REFERENCES)
def test_a_name_whose_source_is_a_file_is_no_reference(full_name: str, field: str) -> None:
    message, extract = message_with(full_name, field, "path_config_source"), extractor_of(full_name)
    assert extract is not None
    found = [named.name for named in extract(message, True) if named.name]
    assert (found == []) == has_source(message.DESCRIPTOR)


def reaches_clusters(schema: Schema, type_url: str) -> bool:
    """Say whether messages of a type can name clusters, in their fields or in typed configs."""
    pending, met = [schema.descriptor(type_url.removeprefix(types.TYPE_PREFIX))], set()
    while pending:
        message = pending.pop()
        if message.full_name in met:
            continue
        met.add(message.full_name)
        entries = TABLE.get(message.full_name, {}).values()
        if message.full_name == ANY or any(isinstance(e, Refers) and e.type_url == types.CLUSTER for e in entries):
            return True
        pending += [field.message_type for field in message.fields if field.message_type is not None]
    return False


NEVER_ROUTE = {
    types.ENDPOINTS: "its typed configs are metadata",
    types.LOCALITY_ENDPOINTS: "the same",
    types.SECRET: "its typed configs are validators and key providers",
}


@pytest.mark.parametrize(
    "type_url",
    sorted(
        {
            *types.SHORT_NAMES.values(),
            *(entry.type_url for fields in TABLE.values() for entry in fields.values() if isinstance(entry, Refers)),
        }
    ),
)
def test_types_that_name_clusters_are_ordered(type_url: str) -> None:
    """A type that is referred to and can name clusters must wait for them, and clusters for it."""
    ordered = policy_of(type_url).stage is not Stage.UNORDERED
    assert ordered == (reaches_clusters(load_schema(), type_url) and type_url not in NEVER_ROUTE)
