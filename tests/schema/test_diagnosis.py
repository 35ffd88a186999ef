"""A value of the wrong shape: all its problems at once, each with its place and a hint."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xds.model.problem import Problem
from xds.schema.convert import ConversionError, message_from_json
from xds.schema.ingest import ingest
from xds.schema.paths import Finding, dotted
from xds.schema.pool import load_schema

Rejected = Callable[..., list[Problem]]

PREFIX = "type.googleapis.com/"
CLUSTER = "envoy.config.cluster.v3.Cluster"
QUOTED = "put it in quotes as it is written"
SOCKET = "load_assignment.endpoints[0].lb_endpoints[1].endpoint.address.socket_address"


def found(problems: list[Problem]) -> dict[str, tuple[str, str]]:
    return {problem.field: (problem.what, problem.hint) for problem in problems}


def refused(value: Any, full_name: str = CLUSTER, **options: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ConversionError) as caught:
        message_from_json(load_schema(), value, full_name=full_name, **options)
    return [(dotted(finding.path), finding.what, finding.hint) for finding in caught.value.findings]


def test_every_problem_of_a_resource_is_listed_at_once(rejected: Rejected) -> None:
    item = yaml.safe_load(
        """
        "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
        name: 5
        conect_timeout: 5s
        connect_timeout: 500ms
        lb_policy: ROUND_ROBBIN
        respect_dns_ttl: yes please
        load_assignment:
          cluster_name: web
          endpoints:
          - lb_endpoints:
            - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 99999}}}
            - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: http, named_port: http}}}
        transport_socket:
          name: tls
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContex
            sni: example.org
        typed_extension_protocol_options:
          envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {explicit_http_config: {}}
        metadata: {filter_metadata: {envoy.lb: [1]}}
        """
    )

    assert found(rejected(item)) == {
        "name": ("must be text, but is the number 5", QUOTED),
        "conect_timeout": (f"unknown field of {CLUSTER}", "did you mean connect_timeout?"),
        "connect_timeout": ("the text '500ms' is not a duration", 'write "0.5s"'),
        "lb_policy": (f"ROUND_ROBBIN is not a value of {CLUSTER}.LbPolicy", "did you mean ROUND_ROBIN?"),
        "respect_dns_ttl": ("must be true or false, but is the text 'yes please'", ""),
        f"{SOCKET}.port_value": ("must be a whole number from 0 to 4294967295, but is the text 'http'", ""),
        f"{SOCKET}.named_port": ("cannot stand beside port_value: only one of the two may be set", ""),
        "transport_socket.typed_config.@type": (
            "unknown type envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContex",
            "did you mean envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext?",
        ),
        'typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]': (
            'has no "@type"',
            'say which message it is: "@type": type.googleapis.com/…',
        ),
        'metadata.filter_metadata["envoy.lb"]': ("must be a mapping, but is a list", ""),
        # and the rules, for the readable part
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value": (
            "must be at most 65535, but is 99999",
            "",
        ),
    }


def test_rule_is_not_said_to_be_broken_by_what_was_already_refused(rejected: Rejected) -> None:
    # the misspelt timeout is also a missing required field, but that is the same mistake
    check = {
        "timeout_": "1s",
        "interval": "1s",
        "healthy_threshold": 1,
        "unhealthy_threshold": 1,
        "http_health_check": {},
    }
    item = {"@type": PREFIX + CLUSTER, "name": "a", "health_checks": [check]}

    assert found(rejected(item)) == {
        "health_checks[0].timeout_": ("unknown field of envoy.config.core.v3.HealthCheck", "did you mean timeout?"),
        "health_checks[0].http_health_check.path": ("must not be empty", ""),
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"name": True}, (
            "name",
            "must be text, but is true",
            f"{QUOTED} (YAML reads y, yes, on as true and n, no, off as false)",
        )),
        ({"name": 1.5}, ("name", "must be text, but is the number 1.5", QUOTED)),
        ({"name": ["a"]}, ("name", "must be text, but is a list", "")),
        ({"connect_timeout": 5}, ("connect_timeout", "the number 5 is not a duration", 'write "5s"')),
        ({"connect_timeout": 0.25}, ("connect_timeout", "the number 0.25 is not a duration", 'write "0.25s"')),
        ({"connect_timeout": "2m"}, ("connect_timeout", "the text '2m' is not a duration", 'write "120s"')),
        ({"connect_timeout": "soon"}, (
            "connect_timeout",
            "the text 'soon' is not a duration",
            'write seconds with an s: "1.5s"',
        )),
        ({"protocol_selection": "none"}, (
            "protocol_selection",
            f"none is not a value of {CLUSTER}.ClusterProtocolSelection",
            "one of USE_CONFIGURED_PROTOCOL, USE_DOWNSTREAM_PROTOCOL",
        )),
        ({"per_connection_buffer_limit_bytes": -1}, (
            "per_connection_buffer_limit_bytes",
            "must be a whole number from 0 to 4294967295, but is the number -1",
            "",
        )),
        ({"per_connection_buffer_limit_bytes": True}, (
            "per_connection_buffer_limit_bytes",
            "must be a whole number from 0 to 4294967295, but is true",
            "",
        )),
        ({"preconnect_policy": {"predictive_preconnect_ratio": "much"}}, (
            "preconnect_policy.predictive_preconnect_ratio",
            "must be a number, but is the text 'much'",
            "",
        )),
        ({"load_assignment": "web"}, (
            "load_assignment",
            "must be a mapping (envoy.config.endpoint.v3.ClusterLoadAssignment), but is the text 'web'",
            "",
        )),
        ({"health_checks": "x"}, (
            "health_checks",
            "must be a mapping (envoy.config.core.v3.HealthCheck), but is the text 'x'",
            "",
        )),
        ({True: 1}, ("", "has the key True, which is not text", "put it in quotes")),
        ({"metadata": {"filter_metadata": []}}, ("metadata.filter_metadata", "must be a mapping, but is a list", "")),
        ({"metadata": {"filter_metadata": {1: {}}}}, (
            "metadata.filter_metadata",
            "has the key 1, which is not text",
            "put it in quotes",
        )),
        ({"metadata": {"filter_metadata": {"a": {"b": [float("nan")]}}}}, (
            'metadata.filter_metadata["a"]["b"][0]',
            "must be a JSON value, but is the number nan",
            "",
        )),
        ({"transport_socket": {"typed_config": {"@type": CLUSTER}}}, (
            "transport_socket.typed_config.@type",
            f"{CLUSTER!r} has no prefix",
            f"write type.googleapis.com/{CLUSTER}",
        )),
        ({"transport_socket": {"typed_config": []}}, (
            "transport_socket.typed_config",
            'must be a mapping with an "@type", but is a list',
            "",
        )),
        ({"transport_socket": {"typed_config": {"@type": PREFIX + "google.protobuf.Duration", "seconds": 1}}}, (
            "transport_socket.typed_config",
            "has the key 'seconds', but a google.protobuf.Duration here has only one more key, \"value\"",
            "",
        )),
        ({"transport_socket": {"typed_config": {"@type": PREFIX + "google.protobuf.Duration", "value": "1"}}}, (
            "transport_socket.typed_config.value",
            "the text '1' is not a duration",
            'write "1s"',
        )),
    ],
)  # fmt: skip
def test_wrong_value_is_named_with_what_would_be_right(value: dict[Any, Any], expected: tuple[str, str, str]) -> None:
    assert refused(value) == [expected]


def test_field_given_in_both_spellings_is_refused_when_anything_is() -> None:
    assert refused({"connect_timeout": "1s", "connectTimeout": "2s", "nam": "a"}) == [
        ("connect_timeout", "is given twice, as connect_timeout and as connectTimeout", "keep one of the two"),
        ("nam", f"unknown field of {CLUSTER}", "did you mean name?"),
    ]


def test_secret_text_of_the_wrong_type_is_not_shown() -> None:
    source = "envoy.config.core.v3.DataSource"

    assert refused({"inline_string": 12345}, source) == [("inline_string", "must be text", QUOTED)]
    assert refused({"inline_bytes": b"12345"}, source) == [
        ("inline_bytes", "must be base64 text", "text goes into inline_string"),
    ]


def test_bytes_that_are_not_base64_are_refused(rejected: Rejected) -> None:
    # protobuf's own parser skips characters that are not base64
    item = {
        "@type": PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "s",
        "tlsCertificate": {
            "certificateChain": {"filename": "/chain.pem"},
            "privateKey": {"inlineBytes": "-----BEGIN PRIVATE KEY-----"},
        },
    }

    assert found(rejected(item)) == {
        "tls_certificate.private_key.inline_bytes": ("must be base64 text", "text goes into inline_string"),
    }


def test_null_leaves_a_field_unset() -> None:
    item = {"@type": PREFIX + CLUSTER, "name": "a"}

    assert ingest(item | {"lb_policy": None, "load_assignment": None}).encoded == ingest(item).encoded


def test_read_only_mapping_is_read_like_a_dict() -> None:
    config = {"@type": PREFIX + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
    item = {"@type": PREFIX + CLUSTER, "name": "a", "transport_socket": {"name": "raw", "typed_config": config}}
    frozen = item | {"transport_socket": MappingProxyType({"name": "raw", "typed_config": MappingProxyType(config)})}

    assert ingest(MappingProxyType(frozen)).encoded == ingest(item).encoded


def test_value_that_contains_itself_is_refused(rejected: Rejected) -> None:
    matcher: dict[str, Any] = {}
    matcher["not_rule"] = matcher
    item = {"@type": PREFIX + "envoy.config.rbac.v3.Permission", **matcher}

    (problem,) = rejected(item, name="a")
    assert problem.what == "is nested more than 100 messages deep"


@pytest.mark.parametrize("type_name", ["google.protobuf.Duration", "google.protobuf.StringValue"])
def test_message_with_a_json_form_of_its_own_stands_under_value(type_name: str) -> None:
    value = {"google.protobuf.Duration": "1.5s", "google.protobuf.StringValue": "x"}[type_name]
    item = {
        "@type": PREFIX + "envoy.config.core.v3.TypedExtensionConfig",
        "name": "a",
        "typed_config": {"@type": PREFIX + type_name, "value": value},
    }

    assert ingest(item).name == "a"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(sorted(load_schema().descriptor(CLUSTER).fields_by_name))


@given(st.dictionaries(field_names, json_values, max_size=4))
def test_any_json_at_all_gives_a_message_or_findings(value: dict[str, Any]) -> None:
    findings: list[Finding] | None = None
    try:
        message_from_json(load_schema(), value, full_name=CLUSTER)
    except ConversionError as error:
        findings = error.findings

    assert findings is None or (findings and all(finding.what and finding.path for finding in findings))
