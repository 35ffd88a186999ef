"""Warnings: deprecated fields and values, and what other Envoys of the fleet lack."""

import pytest
from support.schemas import older_api

from xds.schema.ingest import ingest
from xds.schema.notices import Notice, Notices, field_rows
from xds.schema.pool import Schema, load_schema
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
    assert found[0].what == "is deprecated since Envoy 3.0"


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
        if "deprecated since" in row["notes"]
    }

    assert len(annotated) > 50
    assert shown == annotated


def test_what_has_no_schema_has_no_notices(plain: Notices) -> None:
    assert plain.of("acme.v1.Thing", b"\x08\x01") == []
