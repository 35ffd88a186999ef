"""Name, TTL and aliases outside the message survive when a resource is read and pushed again."""

import pytest
from support import resources as r

from xds.client import unwrapped
from xds.model.resource import Resource
from xds.model.types import WRAPPER_URL
from xds.schema.ingest import ingest
from xds.schema.show import to_json
from xds.schema.wrapping import as_any, needs_wrapper

HOST = {
    "@type": "type.googleapis.com/envoy.config.route.v3.VirtualHost",
    "name": "host",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
}


def wrapped(message: dict[str, object], **beside: object) -> Resource:
    return ingest({"@type": WRAPPER_URL, "resource": message, **beside})


@pytest.mark.parametrize(
    "resource",
    [
        wrapped(r.static_cluster("a", 1), ttl="5s"),
        wrapped(r.static_cluster("a", 1), ttl="1.000000001s"),
        wrapped(r.static_cluster("a", 1), ttl="1.500s", aliases=["b", "c"]),
        wrapped(HOST, name="route/host"),
        wrapped(HOST, name="route/host", aliases=["route/other.example"]),
    ],
    ids=["ttl", "a nanosecond", "ttl and aliases", "name", "name and aliases"],
)
def test_what_the_message_lacks_is_in_the_wrapper(resource: Resource) -> None:
    assert needs_wrapper(resource)
    again = ingest(to_json(resource))
    assert (again.encoded, again.heartbeat, again.ttl_s) == (resource.encoded, resource.heartbeat, resource.ttl_s)
    any_ = as_any(resource)
    assert any_.type_url == WRAPPER_URL
    assert ingest((any_.type_url, any_.value)).encoded == resource.encoded
    message, around = unwrapped(to_json(resource))
    assert (message["@type"], around["name"]) == (resource.type_url, resource.name)


@pytest.mark.parametrize("resource", [ingest(r.static_cluster("a", 1)), ingest(HOST)], ids=["cluster", "host"])
def test_a_resource_that_is_all_in_its_message_is_not_wrapped(resource: Resource) -> None:
    assert not needs_wrapper(resource)
    assert to_json(resource)["@type"] == resource.type_url
    assert as_any(resource).SerializeToString() == resource.body
    assert unwrapped(to_json(resource)) == (to_json(resource), {})


def test_a_resource_of_an_unknown_type_is_wrapped_for_its_name() -> None:
    item = {"@type": "type.googleapis.com/none.Such", "value": "YQ=="}
    resource = ingest({"@type": WRAPPER_URL, "name": "x", "resource": item}, allow_unknown_types=True)
    assert ingest(to_json(resource), allow_unknown_types=True).encoded == resource.encoded
