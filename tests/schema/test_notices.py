"""Warnings: deprecated fields and values, and what other Envoys of the fleet lack."""

from pathlib import Path

import pytest
from corpus.live import refusals
from google.protobuf.descriptor import FieldDescriptor
from support import resources as r
from support.schemas import older_api
from support.static_envoy import hcm, refusal, static_cluster, typed
from support.static_envoy import listener as static_listener

from xds.schema.ingest import ingest
from xds.schema.notices import Notice, Notices, field_rows
from xds.schema.origin import built_with, files_not_in_envoy
from xds.schema.pool import Schema, load_schema
from xds.schema.successors import SUCCESSORS
from xds.schema.union import encode_set

CLUSTER, LISTENER, ROUTE = (
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
)
COOKIES = "envoy.config.route.v3.RouteMatch.cookies"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def notices_of(value: dict, notices: Notices) -> list[Notice]:
    resource = ingest(value)
    body = load_schema().message_class("google.protobuf.Any").FromString(resource.body)  # type: ignore[attr-defined]
    return notices.of(body.type_url.rpartition("/")[2], body.value)


def cluster(**more: object) -> dict:
    return {"@type": f"type.googleapis.com/{CLUSTER}", "name": "a", "type": "STATIC", "connect_timeout": "1s", **more}


def routes(match: dict) -> dict:
    route = {"match": match, "route": {"cluster": "a"}}
    host = {"name": "all", "domains": ["*"], "routes": [route]}
    return {"@type": f"type.googleapis.com/{ROUTE}", "name": "r", "virtual_hosts": [host]}


def listener(routing: dict) -> dict:
    config = {"@type": f"type.googleapis.com/{HCM}", "stat_prefix": "x", "route_config": routing}
    return {
        "@type": f"type.googleapis.com/{LISTENER}",
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": config}]}],
    }


def without_type(value: dict) -> dict:
    return {key: item for key, item in value.items() if key != "@type"}


@pytest.fixture(scope="module")
def plain() -> Notices:
    return Notices(load_schema())


@pytest.fixture(scope="module")
def old() -> Notices:
    older = older_api("1.30.0", lacks=(COOKIES,))
    return Notices(load_schema(), {"1.30.0": Schema(encode_set(older.files))})


def test_nothing_is_said_of_what_is_neither_deprecated_nor_missing(plain: Notices, old: Notices) -> None:
    assert notices_of(cluster(), plain) == []
    assert notices_of(routes({"prefix": "/"}), old) == []


def test_a_deprecated_field_is_noticed_with_its_place_and_version(plain: Notices) -> None:
    found = notices_of(cluster(track_timeout_budgets=True), plain)

    assert [(notice.path, notice.lacking) for notice in found] == [(("track_timeout_budgets",), "")]
    assert (found[0].what, found[0].hint) == ("is deprecated in the v3 API", "use track_cluster_stats")


def test_what_takes_the_place_of_deprecated_fields_is_in_the_schema_and_not_deprecated() -> None:
    schema = load_schema()

    def field_of(name: str) -> FieldDescriptor:
        message, _, field = name.rpartition(".")
        return schema.descriptor(message).fields_by_name[field]

    def is_deprecated(field: FieldDescriptor) -> bool:
        return bool(field.GetOptions().deprecated)

    fields = {name: field_of(name) for name in SUCCESSORS}
    assert [name for name, field in fields.items() if not is_deprecated(field)] == []
    assert [
        name for name in SUCCESSORS.values() if name and not schema.has(name) and is_deprecated(field_of(name))
    ] == []


SOURCE = {"api_config_source": {"cluster_names": ["c"], "refresh_delay": "1s", "transport_api_version": "V3"}}


@pytest.mark.envoy
def test_a_field_whose_default_envoy_refuses_is_noticed_where_it_is_not_set(plain: Notices, tmp_path: Path) -> None:
    unset = static_cluster("a", lrs_server=SOURCE)
    (notice,) = notices_of(unset, plain)
    assert notice.path == ("lrs_server", "api_config_source", "api_type")
    assert notice.what.startswith("is not set, and its default, DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE, is refused by")
    said = refusals(tmp_path, {"a": unset})
    assert "Using the default now-deprecated value" in said["a"]
    kind = {"api_config_source": SOURCE["api_config_source"] | {"api_type": "REST"}}
    assert notices_of(static_cluster("a", lrs_server=kind), plain) == []


def test_every_type_that_this_envoy_lacks_is_noticed(plain: Notices) -> None:
    schema = load_schema()
    names = [name for name in schema.message_names() if schema.descriptor(name).file.name in files_not_in_envoy()]
    assert "envoy.extensions.filters.http.kill_request.v3.KillRequest" in names
    for name in names:
        (notice,) = [each for each in plain.of(name, b"") if "only in xds-protos" in each.what]
        assert notice.what == f"is of type {name}, which Envoy {built_with()} lacks: it is only in xds-protos"
    others = [name for name in schema.message_names() if name not in names]
    assert not any("only in xds-protos" in each.what for name in others for each in plain.of(name, b""))


KILL = typed("k", "type.googleapis.com/envoy.extensions.filters.http.kill_request.v3.KillRequest")


@pytest.mark.envoy
def test_a_type_that_this_envoy_lacks_is_noticed_where_it_stands_and_refused_by_it(
    plain: Notices, tmp_path: Path
) -> None:
    resource = static_listener(hcm(KILL, typed("router", r.ROUTER)))
    (notice,) = notices_of(resource, plain)
    assert notice.path[-3:] == ("http_filters", 0, "typed_config")
    assert (notice.lacking, notice.hint) == ("", "that Envoy ignores it, or rejects the resource")
    assert "KillRequest" in refusal(resource, tmp_path)


def test_a_field_that_another_envoy_lacks_is_noticed_wherever_it_is(old: Notices) -> None:
    routing = routes({"prefix": "/", "cookies": [{"name": "c", "string_match": {"exact": "1"}}]})
    path = ("virtual_hosts", 0, "routes", 0, "match", "cookies")
    what = "is a field that Envoy 1.30.0 lacks"

    assert notices_of(routing, old) == [Notice(path, what, "1.30.0")]
    within = ("filter_chains", 0, "filters", 0, "typed_config", "route_config", *path)
    assert notices_of(listener(without_type(routing)), old) == [Notice(within, what, "1.30.0")]


def test_every_annotated_field_of_the_schema_is_found() -> None:
    """Counted here by a plain search of the descriptors."""
    schema = load_schema()
    annotated = set()
    for name in schema.message_names():
        for field in schema.descriptor(name).fields:
            since = schema.annotation(
                "google.protobuf.FieldOptions", field, "envoy.annotations.deprecated_at_minor_version"
            )
            if since:
                annotated.add(f"{name}.{field.name}")
    shown = {
        f"{name}.{row['field']}"
        for name in schema.message_names()
        for row in field_rows(schema, name)
        if "deprecated in the v3 API" in row["notes"]
    }

    assert len(annotated) > 50
    assert shown == annotated


def test_what_has_no_schema_has_no_notices(plain: Notices) -> None:
    assert plain.of("acme.v1.Thing", b"\x08\x01") == []
