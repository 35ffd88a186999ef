"""A resource restored from its bytes equals the original, with its references; and so with an author's version."""

import pytest
from support import resources as r

from xds.model.resource import Resource
from xds.schema.ingest import ingest
from xds.schema.restore import labelled, restore

WITH_TTL = {
    "@type": "type.googleapis.com/envoy.service.discovery.v3.Resource",
    "name": "a",
    "ttl": "3.5s",
    "resource": r.assignment("a", 1, 2),
}
INTERNAL = r.assignment("internal", 1)
INTERNAL["endpoints"][0]["lb_endpoints"].append(
    {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "inner" * 40}}}}
)
ITEMS = [
    INTERNAL,
    r.cluster("eds"),
    r.static_cluster("static", 1),
    r.assignment("a", 1, 2),
    WITH_TTL,
    r.route("r", "eds"),
    r.listener("l", 1, "r"),
    r.tcp_listener("t", 1, "eds"),
    r.secret("s", r.DEMO_CERT, r.DEMO_KEY),
    r.runtime("x", {"a": 1}),
    r.scoped_route("sr", "r", "key"),
]


def fields(resource: Resource) -> tuple[object, ...]:
    return (
        resource.type_url,
        resource.name,
        resource.version,
        resource.encoded,
        resource.body,
        resource.ttl_s,
        resource.heartbeat,
        resource.aliases,
        {reference[:2] for reference in resource.references},
        resource.fingerprint,
    )


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["@type"].rpartition(".")[2] + "/" + str(item.get("name")))
def test_what_is_restored_is_what_was_read(item: r.Json) -> None:
    resource = ingest(item)
    assert fields(restore(resource.type_url, resource.encoded)) == fields(resource)


@pytest.mark.parametrize("item", ITEMS[:4])
def test_a_label_stands_in_place_of_the_hash_and_is_restored(item: r.Json) -> None:
    resource = ingest(item)
    marked = labelled(resource, "v7")
    assert (marked.version, marked.body, marked.name) == ("v7", resource.body, resource.name)
    assert fields(restore(marked.type_url, marked.encoded)) == fields(marked)


def test_what_is_no_resource_is_refused() -> None:
    resource = ingest(r.static_cluster("a", 1))
    for damaged in (b"\xff\xff", resource.encoded[:-3], resource.encoded[20:], b""):
        with pytest.raises(ValueError, match=r"resource|encoded"):
            restore(resource.type_url, damaged)


def test_an_authors_version_is_told_from_a_hash() -> None:
    resource = ingest(r.static_cluster("a", 1))
    own = labelled(resource, "build-7")
    assert (resource.labelled, own.labelled) == (False, True)
    assert restore(own.type_url, own.encoded).labelled
    assert not restore(resource.type_url, resource.encoded).labelled
    with pytest.raises(ValueError, match="content hash"):
        labelled(resource, resource.version)
