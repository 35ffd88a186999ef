"""Ingestion: accepted forms, names, encoding and versions of resources, and the places of problems."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from xds._generated import xds_wire_pb2
from xds.model import types
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.schema.show import to_json
from xds.schema.wire import encode_any, encode_resource

Rejected = Callable[..., list[Problem]]

WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"
ENDPOINT = {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}}}}
ASSIGNMENT = {"@type": types.ENDPOINTS, "cluster_name": "web", "endpoints": [{"lb_endpoints": [ENDPOINT]}]}
RAW = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
VHOST = {"@type": types.VIRTUAL_HOST, "name": "v", "domains": ["*"]}
UNKNOWN = "type.googleapis.com/acme.v1.Widget"


def content(resource: Resource) -> tuple[str, str, str, bytes]:
    return resource.type_url, resource.name, resource.version, resource.encoded


def summary(problems: list[Problem]) -> list[tuple[str, str, str]]:
    return [(problem.resource, problem.field, problem.what) for problem in problems]


def wire(resource: Resource) -> Any:
    return xds_wire_pb2.Resource.FromString(resource.encoded)


def private_message(value: dict[str, Any]) -> Any:
    message: Any = load_schema().message_class(value["@type"].rpartition("/")[2])()
    message.ParseFromString(wire(ingest(value)).resource.value)
    return message


# --- forms


def test_every_form_of_one_resource_gives_the_same_resource() -> None:
    message = private_message(ASSIGNMENT)
    data = message.SerializeToString()
    holder = any_pb2.Any(type_url=types.ENDPOINTS, value=data)
    wrapped = xds_wire_pb2.Resource(name="web", version="whatever", resource=holder)
    without_type = {key: value for key, value in ASSIGNMENT.items() if key != "@type"}
    forms: list[tuple[Any, dict[str, Any]]] = [
        (message, {}),
        ((types.ENDPOINTS, data), {}),
        (("endpoints", memoryview(data)), {}),
        (holder, {}),
        (wrapped, {}),
        ({"@type": WRAPPER, "name": "web", "resource": ASSIGNMENT}, {}),
        (without_type, {"type_url": "endpoints"}),
        (without_type, {"type_url": types.ENDPOINTS, "name": "web"}),
        ({"@type": types.ENDPOINTS, "clusterName": "web", "endpoints": [{"lbEndpoints": [ENDPOINT]}]}, {}),
    ]

    assert {content(ingest(item, **options)) for item, options in forms} == {content(ingest(ASSIGNMENT))}


def test_message_handed_in_is_left_as_it_was() -> None:
    config = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": "/dev/stdout",
    }
    message = private_message({"@type": types.EXTENSION_CONFIG, "name": "a", "typed_config": config})
    # the same fields in another order, which ingest reorders
    message.typed_config.value = b"\x1a\x00" + message.typed_config.value
    before = message.SerializeToString()
    ingest(message)

    assert message.SerializeToString() == before


@pytest.mark.parametrize("item", [None, "web", 5, [ASSIGNMENT], ("a", "b"), b"bytes"])
def test_what_is_no_resource_is_refused(rejected: Rejected, item: Any) -> None:
    assert summary(rejected(item)) == [("", "", f"a Python {type(item).__name__} is not a resource")]


def test_type_is_needed_and_must_agree(rejected: Rejected) -> None:
    assert summary(rejected({"name": "a"})) == [("", "", 'has no "@type"')]
    assert summary(rejected(ASSIGNMENT, type_url="clusters")) == [
        (
            "endpoints/web",
            "",
            "is of type envoy.config.endpoint.v3.ClusterLoadAssignment,"
            " but envoy.config.cluster.v3.Cluster was asked for",
        ),
    ]


def test_unknown_type_is_refused_with_the_known_one_of_that_name(rejected: Rejected) -> None:
    (problem,) = rejected({"@type": "type.googleapis.com/envoy.api.v2.Cluster", "name": "a"})

    assert (problem.what, problem.hint) == (
        "unknown type envoy.api.v2.Cluster",
        "did you mean envoy.config.cluster.v3.Cluster?",
    )


def test_unknown_type_passes_unchecked_when_allowed() -> None:
    as_bytes = ingest((UNKNOWN, b"hallo"), name="w", allow_unknown_types=True)
    as_json = ingest({"@type": UNKNOWN, "value": "aGFsbG8="}, name="w", allow_unknown_types=True)

    assert content(as_bytes) == content(as_json)
    assert wire(as_bytes).resource == any_pb2.Any(type_url=UNKNOWN, value=b"hallo")


def test_unknown_type_inside_a_resource_passes_only_when_allowed(rejected: Rejected) -> None:
    holder = any_pb2.Any(type_url=UNKNOWN, value=b"hallo").SerializeToString()
    item = (types.EXTENSION_CONFIG, b"\x0a\x01a\x12" + bytes([len(holder)]) + holder)
    as_json = {
        "@type": types.EXTENSION_CONFIG,
        "name": "a",
        "typed_config": {"@type": UNKNOWN, "value": "aGFsbG8="},
    }

    assert summary(rejected(item)) == [("extensions/a", "typed_config", "unknown type acme.v1.Widget")]
    assert summary(rejected(as_json)) == [("extensions/a", "typed_config.@type", "unknown type acme.v1.Widget")]
    assert content(ingest(item, allow_unknown_types=True)) == content(ingest(as_json, allow_unknown_types=True))


def test_unknown_type_cannot_be_given_field_by_field(rejected: Rejected) -> None:
    what = "is of an unknown type, so its fields cannot be encoded"
    config = {"@type": UNKNOWN, "size": 5}
    item = {"@type": types.EXTENSION_CONFIG, "name": "a", "typed_config": config}

    assert summary(rejected(config, name="w", allow_unknown_types=True)) == [("acme.v1.Widget/w", "", what)]
    assert summary(rejected(item, allow_unknown_types=True)) == [("extensions/a", "typed_config", what)]


@pytest.mark.parametrize("package", ["xds.type.v3", "udpa.type.v1"])
def test_typed_struct_is_known(package: str) -> None:
    config = {
        "@type": f"type.googleapis.com/{package}.TypedStruct",
        "type_url": UNKNOWN,
        "value": {"size": 5, "a": [None]},
    }
    resource = ingest({"@type": types.EXTENSION_CONFIG, "name": "a", "typed_config": config})

    value = struct_pb2.Struct()
    value.update({"size": 5, "a": [None]})
    holder: Any = load_schema().message_class("envoy.config.core.v3.TypedExtensionConfig")()
    holder.ParseFromString(wire(resource).resource.value)
    inner: Any = load_schema().message_class(f"{package}.TypedStruct").FromString(holder.typed_config.value)
    assert (inner.type_url, inner.value.SerializeToString(deterministic=True)) == (
        UNKNOWN,
        value.SerializeToString(deterministic=True),
    )


def test_undecodable_bytes_are_refused(rejected: Rejected) -> None:
    (problem,) = rejected((types.CLUSTER, b"\xff\xff"), name="web")

    assert (problem.resource, problem.what) == (
        "clusters/web",
        "its bytes do not encode envoy.config.cluster.v3.Cluster",
    )
    assert "corrupt" in problem.hint


def test_undecodable_typed_config_is_refused_at_its_place(rejected: Rejected) -> None:
    holder = encode_any("type.googleapis.com/envoy.config.cluster.v3.Cluster", b"\xff")
    item = (types.EXTENSION_CONFIG, b"\x0a\x01a\x12" + bytes([len(holder)]) + holder)

    assert summary(rejected(item)) == [
        ("extensions/a", "typed_config", "its bytes do not encode envoy.config.cluster.v3.Cluster"),
    ]


HOST_1 = bytes.fromhex("0a0f0a0d0a0b1207312e312e312e311850")
"""An ``LbEndpoint`` with the address 1.1.1.1 and the port 80."""


def test_fields_the_schema_lacks_are_refused_wherever_they_are(rejected: Rejected) -> None:
    stray = b"\xd8\xf8\x01\x05"  # field 3979, varint 5
    host = stray + HOST_1
    locality = b"\x12" + bytes([len(host)]) + host
    data = b"\x0a\x03web" + stray + stray + b"\x12" + bytes([len(locality)]) + locality
    endpoint = "envoy.config.endpoint.v3"

    assert summary(rejected((types.ENDPOINTS, data))) == [
        ("endpoints/web", "", f"has a field number 3979, unknown to {endpoint}.ClusterLoadAssignment"),
        ("endpoints/web", "endpoints[0].lb_endpoints[0]", f"has a field number 3979, unknown to {endpoint}.LbEndpoint"),
    ]


HOST_1 = bytes.fromhex("0a0f0a0d0a0b1207312e312e312e311850")
"""An ``LbEndpoint`` with the address 1.1.1.1 and the port 80."""


def test_fields_the_schema_lacks_are_found_in_maps_and_typed_configs(rejected: Rejected) -> None:
    message = private_message(
        {"@type": types.CLUSTER, "name": "a", "metadata": {"typed_filter_metadata": {"k": VHOST}}}
    )
    holder = message.metadata.typed_filter_metadata["k"]
    holder.value += b"\xd8\xf8\x01\x05"

    assert summary(rejected(message)) == [
        (
            "clusters/a",
            'metadata.typed_filter_metadata["k"]',
            "has a field number 3979, unknown to envoy.config.route.v3.VirtualHost",
        ),
    ]


def test_typed_configs_cannot_be_nested_without_end(rejected: Rejected) -> None:
    message: Any = load_schema().message_class("envoy.config.core.v3.TypedExtensionConfig")(name="a")
    for _ in range(500):
        outer = type(message)(name="a")
        outer.typed_config.Pack(message)
        message = outer

    (problem,) = rejected(message)
    assert (problem.resource, problem.what) == ("extensions/a", "is a typed config nested too deeply")


@given(data=st.binary(max_size=60), type_url=st.sampled_from(sorted(types.SHORT_NAMES.values())))
def test_any_bytes_at_all_give_a_resource_or_problems(data: bytes, type_url: str) -> None:
    try:
        resource = ingest((type_url, data), name="a", allow_unknown_types=True)
    except ChangesetRejectedError:
        return

    shown = to_json(resource)
    assert ingest(shown, name="a", allow_unknown_types=True).encoded == resource.encoded


# --- names


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"@type": types.CLUSTER, "name": "a"}, "a"),
        ({"@type": types.ENDPOINTS, "cluster_name": "a"}, "a"),
        ({"@type": types.LISTENER, "name": "a", "api_listener": {}}, "a"),
        ({"@type": types.ROUTE, "name": "a"}, "a"),
        (
            {
                "@type": types.SCOPED_ROUTE,
                "name": "a",
                "route_configuration_name": "r",
                "key": {"fragments": [{"string_key": "k"}]},
            },
            "a",
        ),
        (VHOST, "v"),
        ({"@type": types.SECRET, "name": "a"}, "a"),
        ({"@type": types.RUNTIME, "name": "a"}, "a"),
        ({"@type": types.EXTENSION_CONFIG, "name": "a", "typed_config": VHOST}, "a"),
        ({"@type": "type.googleapis.com/envoy.config.core.v3.TransportSocket", "name": "a", "typed_config": RAW}, "a"),
        ({"@type": WRAPPER, "name": "r/v", "resource": VHOST}, "r/v"),
        ({"@type": WRAPPER, "name": "l/1", "resource": {"@type": types.LOCALITY_ENDPOINTS, **ENDPOINT}}, "l/1"),
    ],
)
def test_name_comes_from_where_the_type_keeps_it(item: dict[str, Any], name: str) -> None:
    assert (ingest(item).name, wire(ingest(item)).name) == (name, name)


def test_name_given_by_the_caller_names_what_has_none_inside() -> None:
    assert ingest({"@type": types.LOCALITY_ENDPOINTS, **ENDPOINT}, name="l/1").name == "l/1"
    assert ingest(VHOST, name="r/v").name == "r/v"


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"@type": types.CLUSTER, "name": "a"}, "name"),
        ({"@type": types.ENDPOINTS, "cluster_name": "a"}, "cluster_name"),
        ({"@type": types.LISTENER, "name": "a", "api_listener": {}}, "name"),
        ({"@type": types.ROUTE, "name": "a"}, "name"),
        ({"@type": types.SECRET, "name": "a"}, "name"),
    ],
)
def test_two_names_that_differ_are_refused_where_envoy_goes_by_the_inner_one(
    rejected: Rejected, item: dict[str, Any], field: str
) -> None:
    label = f"{types.short_name(item['@type'])}/a"
    expected = [(label, field, "is 'a', but the resource around it is named 'b'")]

    assert summary(rejected({"@type": WRAPPER, "name": "b", "resource": item})) == expected
    assert summary(rejected(item, name="b")) == expected
    assert ingest(item, name="a").name == "a"


def test_resource_without_a_name_is_refused(rejected: Rejected) -> None:
    assert summary(rejected({"@type": types.ROUTE})) == [("routes", "name", "has no name")]
    assert summary(rejected({"@type": types.LOCALITY_ENDPOINTS, **ENDPOINT})) == [
        ("locality-endpoints", "", "has no name"),
    ]
    assert summary(rejected({"@type": types.CLUSTER})) == [("clusters", "name", "must not be empty")]


# --- wrapper, encoding, version


def test_wrapper_gives_ttl_and_aliases() -> None:
    wrapped = {"@type": WRAPPER, "name": "r/v", "aliases": ["r/x", "r/y"], "ttl": "1.5s", "resource": VHOST}
    resource = ingest(wrapped)

    assert (resource.ttl_s, resource.aliases) == (1.5, ("r/x", "r/y"))
    assert wire(resource) == xds_wire_pb2.Resource(
        version=resource.version,
        resource=any_pb2.Any.FromString(ingest(VHOST).body),
        name="r/v",
        aliases=["r/x", "r/y"],
        ttl=duration_pb2.Duration(seconds=1, nanos=500_000_000),
    )


def test_heartbeat_is_the_resource_without_its_body() -> None:
    resource = ingest({"@type": WRAPPER, "name": "r/v", "aliases": ["r/x"], "ttl": "30s", "resource": VHOST})
    expected = wire(resource)
    expected.ClearField("resource")

    assert xds_wire_pb2.Resource.FromString(resource.heartbeat) == expected
    assert ingest(VHOST).heartbeat == b""


def test_body_is_exactly_the_any() -> None:
    resource = ingest(ASSIGNMENT)

    assert any_pb2.Any.FromString(resource.body) == wire(resource).resource
    assert resource.encoded[resource.body_start : resource.body_end] == resource.body


def test_version_is_a_hash_of_body_ttl_and_aliases() -> None:
    plain = ingest(VHOST)
    variants = [
        {"@type": WRAPPER, "resource": VHOST, "ttl": "1s"},
        {"@type": WRAPPER, "resource": VHOST, "aliases": ["a"]},
        {"@type": WRAPPER, "resource": VHOST | {"domains": ["a"]}},
    ]

    assert len({plain.version, *(ingest(item).version for item in variants)}) == 4
    assert ingest({"@type": WRAPPER, "version": "7", "name": "other", "resource": VHOST}).version == plain.version
    assert plain.version == blake2b(plain.body + len(plain.body).to_bytes(8, "big")).hexdigest()[:16]


@given(
    body=st.binary(max_size=400),
    name=st.text(min_size=1, max_size=200),
    ttl_nanos=st.integers(0, 10**19),
    aliases=st.lists(st.text(max_size=5), max_size=3),
)
def test_encoding_by_hand_is_protobufs(body: bytes, name: str, ttl_nanos: int, aliases: list[str]) -> None:
    holder = encode_any(types.CLUSTER, body)
    made = encode_resource(holder, name, ttl_nanos=ttl_nanos, aliases=tuple(aliases))

    expected = xds_wire_pb2.Resource(version=made.version, name=name, aliases=aliases)
    expected.resource.type_url, expected.resource.value = types.CLUSTER, body
    if ttl_nanos:
        expected.ttl.seconds, expected.ttl.nanos = divmod(ttl_nanos, 10**9)
    assert xds_wire_pb2.Resource.FromString(made.encoded) == expected
    assert made.encoded[made.body_start : made.body_end] == holder == expected.resource.SerializeToString()
    expected.ClearField("resource")
    assert made.heartbeat == (expected.SerializeToString() if ttl_nanos else b"")


def test_wrapper_is_checked_too(rejected: Rejected) -> None:
    wrapped = {"@type": WRAPPER, "nam": "v", "ttl": "-1s", "cache_control": {"do_not_cache": True}, "resource": VHOST}

    assert summary(rejected(wrapped)) == [
        ("virtual-hosts/v", "nam", "unknown field of envoy.service.discovery.v3.Resource"),
        ("virtual-hosts/v", "ttl", "must be at least 1s: each client is sent three heartbeats within the TTL"),
        ("virtual-hosts/v", "cache_control", "is not supported: only name, aliases, ttl and resource are served"),
    ]
    assert summary(rejected({"@type": WRAPPER, "name": "a"})) == [
        ("a", "resource", 'is required, a mapping with an "@type"'),
    ]
    assert summary(rejected(xds_wire_pb2.Resource(name="a"))) == [
        ("a", "", "an empty xds_control_plane.wire.Resource holds no resource"),
    ]


def test_size_is_limited(rejected: Rejected) -> None:
    resource = ingest(ASSIGNMENT)
    limit = len(resource.body)
    message = private_message(ASSIGNMENT)

    assert ingest(ASSIGNMENT, read_bytes_max=limit).version == resource.version
    for item in (ASSIGNMENT, message):
        assert summary(rejected(item, read_bytes_max=limit - 1)) == [
            ("endpoints/web", "", f"is {limit} bytes, over the limit of {limit - 1}"),
        ]
    assert summary(rejected((types.ENDPOINTS, b"\xff" * 100), name="web", read_bytes_max=99)) == [
        ("endpoints/web", "", "is 100 bytes, over the limit of 99"),
    ]


# --- places


LINES: dict[tuple[str | int, ...], int] = {
    (): 3,
    ("resource",): 5,
    ("resource", "loadAssignment"): 7,
    ("resource", "loadAssignment", "endpoints", 0, "lbEndpoints", 0): 12,
    ("resource", "loadAssignment", "endpoints", 0, "lbEndpoints", 0, "loadBalancingWeight"): 13,
}


def test_problem_says_file_and_line_and_they_are_in_order_of_place(rejected: Rejected) -> None:
    endpoint = {"loadBalancingWeight": 0, "endpoint": {"address": {"pipe": {"path": "/p"}}}}
    inner = {
        "@type": types.CLUSTER,
        "name": "web",
        "loadAssignment": {"endpoints": [{"lbEndpoints": [endpoint]}]},
    }
    problems = rejected({"@type": WRAPPER, "resource": inner}, source="a.yaml", line_of=LINES.__getitem__)

    assert [str(problem) for problem in problems] == [
        "a.yaml:7: clusters/web load_assignment.cluster_name: must not be empty",
        "a.yaml:13: clusters/web load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight:"
        " must be at least 1, but is 0",
    ]


def test_resource_says_where_it_was_written() -> None:
    wrapped = {"@type": WRAPPER, "resource": VHOST}

    assert ingest(wrapped, source="a.yaml", line_of=LINES.__getitem__).source == "a.yaml:5"
    assert ingest(VHOST, source="a.yaml", line_of=LINES.__getitem__).source == "a.yaml:3"
    assert ingest(VHOST, source="api").source == "api"
    assert ingest(VHOST).source == ""
