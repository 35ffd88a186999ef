"""The fast path equals ``ingest``: the same resource, or the same problems."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import resources as r

from xds.model.problem import ChangesetRejectedError
from xds.model.resource import Resource
from xds.model.types import CLUSTER, ENDPOINTS
from xds.schema import quick
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.schema.wrapping import as_any, wrapped_json

HOST = {
    "@type": "type.googleapis.com/envoy.config.route.v3.VirtualHost",
    "name": "host",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
}
ITEMS = [
    r.cluster("eds"),
    r.static_cluster("static", 1),
    r.assignment("a", 1, 2),
    r.route("r", "eds"),
    r.listener("l", 1, "r"),
    r.tcp_listener("t", 1, "eds"),
    r.secret("s", r.DEMO_CERT, r.DEMO_KEY),
    r.runtime("x", {"a": 1, "b": [1, {"c": True}]}),
    r.scoped_route("sr", "r", "key"),
    HOST,
]
ENCODED = [(any_.type_url, any_.value) for any_ in (as_any(ingest(item)) for item in ITEMS)]


def outcome(way: Any, *arguments: Any) -> Any:
    try:
        resource: Resource = way(*arguments)
    except ChangesetRejectedError as error:
        return error.problems
    return (
        *(resource.type_url, resource.name, resource.version, resource.encoded, resource.body, resource.ttl_s),
        *(resource.heartbeat, resource.aliases, resource.references, resource.labelled, resource.source),
    )


def same(type_url: str, value: bytes) -> None:
    for _ in range(2):  # the second time, the endpoints are cached
        assert outcome(quick.ingest_encoded, type_url, value) == outcome(ingest, (type_url, value))


@pytest.mark.parametrize("encoded", ENCODED, ids=[str(item["@type"]).rpartition(".")[2] for item in ITEMS])
def test_resources_are_the_same(encoded: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    same(*encoded)
    if encoded[0] != HOST["@type"]:
        monkeypatch.setattr(quick, "ingest", None)
        quick.ingest_encoded(*encoded)  # by the fast path indeed


@given(st.sampled_from(ENCODED), st.integers(0, 2**32), st.integers(1, 4))
def test_damaged_resources_have_the_same_problems(encoded: tuple[str, bytes], seed: int, count: int) -> None:
    chance = random.Random(seed)
    value = bytearray(encoded[1])
    for _ in range(count):
        at = chance.randrange(len(value))
        match chance.randrange(4):
            case 0:
                value[at] = chance.randrange(256)
            case 1:
                del value[at : at + chance.randrange(1, 4)]
            case 2:
                value[at:at] = bytes([chance.randrange(256)])
            case _:
                value += value[at : at + chance.randrange(1, 9)]
        if not value:
            break
    same(encoded[0], bytes(value))


def test_resources_that_are_wrapped_or_encoded_differently_are_the_same() -> None:
    cluster: Any = load_schema().message_class("envoy.config.cluster.v3.Cluster")
    reversed_fields = cluster(alt_stat_name="x").SerializeToString() + cluster(name="a").SerializeToString()
    same(CLUSTER, reversed_fields)
    same(CLUSTER, cluster(name="a").SerializeToString() + b"\xf8\x7f\x01")  # an unknown field
    same(CLUSTER, b"")
    same(ENDPOINTS, b"")
    same(CLUSTER, cluster(name="x" * 5_000_000).SerializeToString())
    same(CLUSTER, cluster(name="[redacted]").SerializeToString())
    same("clusters", cluster(name="a").SerializeToString())
    same("type.googleapis.com/none.Such", b"")
    wrapped = as_any(ingest({**wrapped_json(ingest(r.assignment("a", 1)), r.assignment("a", 1)), "ttl": "5s"}))
    same(wrapped.type_url, wrapped.value)
