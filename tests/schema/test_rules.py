"""Every kind of validation rule, on a real Envoy message if one has it, else on the rule alone."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format

from xds.schema import formats, rules
from xds.schema.decode import Findings
from xds.schema.ingest import load_plans
from xds.schema.plan import CHECK
from xds.schema.pool import load_schema

Violations = Callable[[str, dict[str, Any]], dict[str, str]]

CORE, CLUSTER, ROUTE = "envoy.config.core.v3.", "envoy.config.cluster.v3.", "envoy.config.route.v3."
HTTP, NETWORK = "envoy.extensions.filters.http.", "envoy.extensions.filters.network."
TLS = "envoy.extensions.transport_sockets.tls.v3."
UNCOMPRESSIBLE = HTTP + "compressor.v3.Compressor.ResponseDirectionConfig"

# message type, its JSON, the problems found
ON_REAL_MESSAGES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    # numbers
    (CORE + "TlvEntry", {"type": 255, "value": ""}, {}),
    (CORE + "TlvEntry", {"type": 256}, {"type": "must be less than 256, but is 256"}),
    (ROUTE + "DirectResponseAction", {"status": 200}, {}),
    (ROUTE + "DirectResponseAction", {"status": 600}, {"status": "must be less than 600, but is 600"}),
    (ROUTE + "DirectResponseAction", {}, {"status": "must be at least 200, but is 0"}),
    (
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        {},
        {"update_frequency": "must be greater than 0, but is 0"},
    ),
    (
        HTTP + "thrift_to_metadata.v3.FieldSelector",
        {"name": "a", "id": 32768},
        {"id": "must be at most 32767, but is 32768"},
    ),
    (
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        {"max_active_downstream_connections": "-1"},
        {"max_active_downstream_connections": "must be greater than 0, but is -1"},
    ),
    # wrappers have the rules of the wrapped value, and none if unset
    (CLUSTER + "OutlierDetection", {"max_ejection_percent": 100}, {}),
    (CLUSTER + "OutlierDetection", {}, {}),
    (
        CLUSTER + "OutlierDetection",
        {"max_ejection_percent": 101},
        {"max_ejection_percent": "must be at most 100, but is 101"},
    ),
    (
        CLUSTER + "Cluster.PreconnectPolicy",
        {"per_upstream_preconnect_ratio": 3.5, "predictive_preconnect_ratio": 0.5},
        {
            "per_upstream_preconnect_ratio": "must be at most 3.0, but is 3.5",
            "predictive_preconnect_ratio": "must be at least 1.0, but is 0.5",
        },
    ),
    (CORE + "RateLimitSettings", {"fill_rate": 0}, {"fill_rate": "must be greater than 0.0, but is 0.0"}),
    (
        "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
        {"error_utilization_penalty": -1},
        {"error_utilization_penalty": "must be at least 0.0, but is -1.0"},
    ),
    (
        CORE + "UdpSocketConfig",
        {"max_rx_datagram_size": "65536"},
        {"max_rx_datagram_size": "must be less than 65536, but is 65536"},
    ),
    (
        CLUSTER + "Cluster.MaglevLbConfig",
        {"table_size": 5000012},
        {"table_size": "must be at most 5000011, but is 5000012"},
    ),
    # bool
    ("envoy.config.rbac.v3.Permission", {"any": True}, {}),
    ("envoy.config.rbac.v3.Permission", {"any": False}, {"any": "must be True, but is False"}),
    # strings
    (CLUSTER + "Cluster.CustomClusterType", {}, {"name": "must not be empty"}),
    (CORE + "SchemeHeaderTransformation", {"scheme_to_overwrite": "http"}, {}),
    (
        CORE + "SchemeHeaderTransformation",
        {"scheme_to_overwrite": "ftp"},
        {"scheme_to_overwrite": "must be one of 'http', 'https', but is 'ftp'"},
    ),
    (
        ROUTE + "RouteMatch",
        {"path_separated_prefix": "/a/"},
        {"path_separated_prefix": "must match ^[^?#]+[^?#/]$, but is '/a/'"},
    ),
    (HTTP + "oauth2.v3.CookieConfig", {"path": ""}, {}),
    (ROUTE + "RateLimit.HitsAddend", {"format": ""}, {}),
    (ROUTE + "RateLimit.HitsAddend", {"format": "%A"}, {"format": "must end with '%', but is '%A'"}),
    (ROUTE + "RateLimit.HitsAddend", {"format": "A%"}, {"format": "must start with '%', but is 'A%'"}),
    (
        CORE + "HeaderValue",
        {"key": "k" * 16385},
        {"key": "must have at most 16384 bytes, but is 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…"},
    ),
    (CORE + "HeaderValue", {"key": "a b"}, {}),
    (CORE + "HeaderValue", {"key": "a\nb"}, {"key": "must be an HTTP header name, but is 'a\\nb'"}),
    (
        CORE + "UpstreamHttpProtocolOptions",
        {"override_auto_sni_header": "a b"},
        {"override_auto_sni_header": "must be an HTTP header name, but is 'a b'"},
    ),
    (CORE + "UpstreamHttpProtocolOptions", {}, {}),
    (
        HTTP + "api_key_auth.v3.KeySource",
        {"query": "é" * 1025},
        {"query": f"must have at most 1024 characters, but is '{'é' * 58}…"},
    ),
    # bytes
    (
        CORE + "HeaderValue",
        {"key": "a", "raw_value": "A" * 21848},
        {"raw_value": "must have at most 16384 bytes, but is 16386 bytes"},
    ),
    (
        "envoy.config.common.matcher.v3.HttpGenericBodyMatch.GenericTextMatch",
        {"binary_match": ""},
        {"binary_match": "must not be empty"},
    ),
    # enums
    (
        CLUSTER + "Cluster",
        {"name": "a", "type": 77},
        {"type": "must be a value of envoy.config.cluster.v3.Cluster.DiscoveryType, but is 77"},
    ),
    (CORE + "HealthCheck.HttpHealthCheck", {"path": "/", "method": "GET"}, {}),
    (
        CORE + "HealthCheck.HttpHealthCheck",
        {"path": "/", "method": "CONNECT"},
        {"method": "must not be CONNECT, but is CONNECT"},
    ),
    # durations, with Envoy's limits for all of them
    (
        CLUSTER + "Cluster",
        {"name": "a", "connect_timeout": "0s"},
        {"connect_timeout": "must be greater than 0s, but is 0s"},
    ),
    (CORE + "BackoffStrategy", {}, {"base_interval": "is required"}),
    (
        CORE + "BackoffStrategy",
        {"base_interval": "0.0005s"},
        {"base_interval": "must be at least 0.001s, but is 0.0005s"},
    ),
    (
        CORE + "HttpUri",
        {"uri": "a", "cluster": "b", "timeout": "4294967296s"},
        {"timeout": "must be less than 4294967296s, but is 4294967296s"},
    ),
    # an upper bound below the lower one forbids what lies between
    (CORE + "QuicKeepAliveSettings", {"initial_interval": "0s"}, {}),
    (CORE + "QuicKeepAliveSettings", {"initial_interval": "1s"}, {}),
    (
        CORE + "QuicKeepAliveSettings",
        {"initial_interval": "0.0005s"},
        {"initial_interval": "must be at most 0s or be at least 0.001s, but is 0.0005s"},
    ),
    (ROUTE + "RouteAction", {"cluster": "a", "timeout": "-1s"}, {"timeout": "must not be negative, but is -1s"}),
    (
        ROUTE + "RouteAction",
        {"cluster": "a", "timeout": "9223372036s"},
        {"timeout": "must be at most 9223372035s, but is 9223372036s"},
    ),
    # messages, oneofs, any
    (ROUTE + "Route", {"match": {"prefix": "/"}, "redirect": {}}, {}),
    (
        ROUTE + "Route",
        {"redirect": {}},
        {"match": "is required"},
    ),
    (
        CORE + "Address",
        {},
        {"": "must have one of socket_address, pipe, envoy_internal_address"},
    ),
    (CORE + "KeyValueAppend", {"entry": {"key": ""}}, {}),
    (CORE + "TypedExtensionConfig", {"name": "a"}, {"typed_config": "is required"}),
    # lists
    ("envoy.config.accesslog.v3.AndFilter", {}, {"filters": "must have at least 2 items, but has 0"}),
    (
        ROUTE + "Route",
        {"match": {"prefix": "/"}, "redirect": {}, "request_headers_to_add": [{"header": {"key": "a"}}] * 1001},
        {"request_headers_to_add": "must have at most 1000 items, but has 1001"},
    ),
    (UNCOMPRESSIBLE, {"uncompressible_response_codes": [200, 404]}, {}),
    (
        UNCOMPRESSIBLE,
        {"uncompressible_response_codes": [200, 600, 200]},
        {
            "uncompressible_response_codes[1]": "must be less than 600, but is 600",
            "uncompressible_response_codes": "must not have the same item twice, but has 200",
        },
    ),
    (
        "envoy.config.accesslog.v3.ResponseFlagFilter",
        {"flags": ["LH", "XX"]},
        {
            "flags[1]": "must be one of 'LH', 'UH', 'UT', 'LR', 'UR', 'UF', 'UC', 'UO', 'NR', 'DI', 'FI', 'RL', 'UAEX',"
            " 'RLSE', 'DC', 'URX', 'SI', 'IH', 'DPE', 'UMSDR', 'RFCF', 'NFCF', 'DT', 'UPE', 'NC', 'OM', 'DF', 'DO', "
            "'DR', 'UDO', but is 'XX'"
        },
    ),
    (
        TLS + "CertificateValidationContext",
        {"verify_certificate_spki": ["short"]},
        {"verify_certificate_spki[0]": "must have at least 44 characters, but is 'short'"},
    ),
    (
        CORE + "HealthStatusSet",
        {"statuses": [99]},
        {"statuses[0]": f"must be a value of {CORE}HealthStatus, but is 99"},
    ),
    (
        "envoy.config.listener.v3.FilterChainMatch",
        {"source_ports": [0]},
        {"source_ports[0]": "must be at least 1, but is 0"},
    ),
    # maps
    ("xds.type.matcher.v3.Matcher.MatcherTree.MatchMap", {}, {"map": "must have at least 1 pair, but has 0"}),
    (
        CORE + "Metadata",
        {"filter_metadata": {"": {}, "envoy.lb": {}}},
        {'filter_metadata[""]': "its key must not be empty"},
    ),
]


@pytest.mark.parametrize(("full_name", "value", "expected"), ON_REAL_MESSAGES)
def test_rule_of_a_real_message_is_enforced(
    violations: Violations, full_name: str, value: dict[str, Any], expected: dict[str, str]
) -> None:
    assert violations(full_name, value) == expected


# rules as JSON, a valid value, an invalid one, its problem
ON_THE_RULE_ALONE: list[tuple[dict[str, Any], Any, Any, str]] = [
    ({"uint32": {"const": 3}}, 3, 4, "must be 3, but is 4"),
    ({"int32": {"in": [1, 2]}}, 2, 3, "must be one of 1, 2, but is 3"),
    ({"sint64": {"not_in": [1, 2]}}, 3, 2, "must not be 1 or 2, but is 2"),
    ({"fixed32": {"gt": 5, "ignore_empty": True}}, 0, 5, "must be greater than 5, but is 5"),
    ({"sfixed64": {"lt": 1, "gt": 5}}, 6, 3, "must be less than 1 or be greater than 5, but is 3"),
    ({"double": {"gt": 1, "lt": 2}}, 1.5, 2.0, "must be less than 2.0, but is 2.0"),
    ({"string": {"const": "a"}}, "a", "", "must be 'a', but is empty"),
    ({"string": {"len": 2}}, "éé", "é", "must have exactly 2 characters, but is 'é'"),
    ({"string": {"len_bytes": 2}}, "é", "éé", "must have exactly 2 bytes, but is 'éé'"),
    ({"string": {"min_bytes": 2}}, "é", "e", "must have at least 2 bytes, but is 'e'"),
    ({"string": {"contains": "b"}}, "abc", "ac", "must contain 'b', but is 'ac'"),
    ({"string": {"not_contains": "b"}}, "ac", "abc", "must not contain 'b', but is 'abc'"),
    ({"string": {"not_in": ["a"]}}, "b", "a", "must not be 'a', but is 'a'"),
    ({"string": {"email": True}}, "a.b@example.org", "a@-", "must be an email address, but is 'a@-'"),
    ({"string": {"hostname": True}}, "a.example", "a_b", "must be a host name, but is 'a_b'"),
    ({"string": {"ip": True}}, "::1", "1.2.3", "must be an IP address, but is '1.2.3'"),
    ({"string": {"ipv4": True}}, "1.2.3.4", "::1", "must be an IPv4 address, but is '::1'"),
    ({"string": {"ipv6": True}}, "::1", "1.2.3.4", "must be an IPv6 address, but is '1.2.3.4'"),
    ({"string": {"uri": True}}, "http://a/b?c#d", "/b", "must be an absolute URI, but is '/b'"),
    ({"string": {"uri_ref": True}}, "/b", "a b", "must be a URI, but is 'a b'"),
    ({"string": {"address": True}}, "example.org", "a b", "must be a host name or an IP address, but is 'a b'"),
    ({"string": {"uuid": True}}, "123e4567-e89b-12d3-a456-426614174000", "1", "must be a UUID, but is '1'"),
    ({"string": {"well_known_regex": 1}}, ":path", "a b", "must be an HTTP header name, but is 'a b'"),
    ({"string": {"well_known_regex": 2}}, "a\tb", "a\x01", "must be an HTTP header value, but is 'a\\x01'"),
    ({"string": {"well_known_regex": 2, "strict": False}}, "\x01", "\r", "must be an HTTP header value, but is '\\r'"),
    ({"bytes": {"const": "YQ=="}}, b"a", b"b", "must be b'a', but is 1 bytes"),
    ({"bytes": {"len": 2}}, b"ab", b"", "must have exactly 2 bytes, but is empty"),
    ({"bytes": {"pattern": "^[a-c]+$"}}, b"abc", b"abd", "must match ^[a-c]+$, but is 3 bytes"),
    ({"bytes": {"prefix": "YQ=="}}, b"ab", b"b", "must start with b'a', but is 1 bytes"),
    ({"bytes": {"suffix": "YQ=="}}, b"ba", b"b", "must end with b'a', but is 1 bytes"),
    ({"bytes": {"contains": "YQ=="}}, b"bab", b"b", "must contain b'a', but is 1 bytes"),
    ({"bytes": {"in": ["YQ=="]}}, b"a", b"b", "must be one of b'a', but is 1 bytes"),
    ({"bytes": {"ip": True}}, b"1234", b"123", "must be an IP address of 4 or 16 bytes, but is 3 bytes"),
    ({"bytes": {"ipv4": True}}, b"1234", b"1" * 16, "must be an IPv4 address of 4 bytes, but is 16 bytes"),
    ({"bytes": {"ipv6": True}}, b"1" * 16, b"1234", "must be an IPv6 address of 16 bytes, but is 4 bytes"),
]


@pytest.mark.parametrize(("ruled", "good", "bad", "what"), ON_THE_RULE_ALONE)
def test_rule_no_envoy_message_has_is_enforced(ruled: dict[str, Any], good: Any, bad: Any, what: str) -> None:
    check = _check(ruled)

    assert (check(good), check(bad)) == (None, what)


@pytest.mark.parametrize(
    ("ruled", "good", "bad", "what"),
    [
        ({"const": "1s"}, "1s", "2s", "must be 1s, but is 2s"),
        ({"in": ["1s", "2s"]}, "2s", "3s", "must be one of 1s, 2s, but is 3s"),
        ({"not_in": ["1s"]}, "2s", "1s", "must not be 1s, but is 1s"),
        ({"gt": "1s", "lte": "2s"}, "2s", "2.000000001s", "must be at most 2s, but is 2.000000001s"),
    ],
)
def test_duration_rule_is_enforced(ruled: dict[str, Any], good: str, bad: str, what: str) -> None:
    check = _check({"duration": ruled})
    durations = [_message("google.protobuf.Duration", value) for value in (good, bad)]

    assert list(map(check, durations)) == [None, what]


def test_timestamp_rule_is_enforced() -> None:
    check = _check({"timestamp": {"gte": "1970-01-01T00:00:10Z", "lt": "1970-01-01T00:00:20Z"}})
    moments = [_message("google.protobuf.Timestamp", f"1970-01-01T00:00:{second}Z") for second in ("09", "10", "20")]

    assert list(map(check, moments)) == [
        "must be at least 10s since 1970, but is 9s since 1970",
        None,
        "must be less than 20s since 1970, but is 20s since 1970",
    ]


def test_any_rule_restricts_its_type() -> None:
    check = _check({"any": {"in": ["type.googleapis.com/a"], "not_in": ["type.googleapis.com/b"]}})
    holders = [_any(type_url) for type_url in ("type.googleapis.com/a", "type.googleapis.com/b")]

    assert list(map(check, holders)) == [
        None,
        "must be one of type.googleapis.com/a, but is type.googleapis.com/b",
    ]


def test_size_rule_can_leave_an_empty_list_alone() -> None:
    limits = _message("validate.RepeatedRules", {"min_items": 2, "ignore_empty": True})
    check = rules.size_check(limits, "item")
    assert check is not None

    assert [check([]), check([1]), check([1, 2])] == [None, "must have at least 2 items, but has 1", None]


def test_no_envoy_message_asks_for_a_clock() -> None:
    # rules.py does not enforce lt_now, gt_now and within; this fails if a message uses them
    schema = load_schema()
    fields = [field for name in schema.message_names() for field in schema.descriptor(name).fields]
    kinds = {schema.rules(field).WhichOneof("type") for field in fields if schema.rules(field) is not None}

    assert "timestamp" not in kinds


def test_every_message_of_the_schema_compiles() -> None:
    plans = load_plans()
    for name in plans.schema.message_names():
        plan = plans.of(plans.schema.descriptor(name), CHECK)
        if plan is not None:
            plan.run(plans.schema.message_class(name)(), None, Findings())


def test_recursive_message_without_rules_is_not_walked() -> None:
    plans = load_plans()

    assert plans.of(plans.schema.descriptor("google.protobuf.Struct"), CHECK) is None


@pytest.mark.parametrize(
    ("re2", "good", "bad"),
    [
        (r"^a$", "a", "a\n"),
        (r"a\z", "a", "a\n"),
        (r"\Qa.b\E+", "a.bb", "axb"),
        (r"[[:alpha:]_]+", "aB_", "a1"),
        (r"[^[0-9]+", "ab", "a[b"),
        (r"[]a]+", "]a", "b"),
        (r"\d+", "12", "١٢"),
        (r"[\s]", " ", "\v"),
        (r"\S", "\v", " "),
        (r"\C", "\n", ""),
        (r"(?i)abc", "ABC", "abd"),
        (r"\[x\]", "[x]", "x"),
    ],
)
def test_re2_pattern_means_in_python_what_it_means_in_envoy(re2: str, good: str, bad: str) -> None:
    pattern = formats.python_pattern(re2)

    assert (bool(pattern.fullmatch(good)), bool(pattern.fullmatch(bad))) == (True, False)


def _check(ruled: dict[str, Any]) -> rules.Check:
    check = rules.value_check(
        _message("validate.FieldRules", ruled), load_schema().descriptor("envoy.config.cluster.v3.Cluster").fields[0]
    )
    assert check is not None
    return check


def _message(full_name: str, value: Any) -> Any:
    return json_format.ParseDict(value, load_schema().message_class(full_name)())


def _any(type_url: str) -> Any:
    holder: Any = load_schema().message_class("google.protobuf.Any")()
    holder.type_url = type_url
    return holder
