"""What Envoy checks beyond types and rules: each case is judged by the product and by a real Envoy, and they agree."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from corpus.live import refusals
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from schema import combination_cases, format_cases, lenient_cases, semantic_cases, tls_cases, unvalidated_cases
from schema.lenient_cases import HTTP2, grpc_checked
from support import resources as r
from support.der import INTEGER, SEQUENCE, item, pem, stretched_key
from support.pki import Authority
from support.processes import ChildFailedError
from support.static_envoy import address, hcm, listener, refusal, static_cluster, tls_cluster, typed, virtual_host

from xds.model.problem import ChangesetRejectedError, Problem
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.schema.quick import ingest_encoded
from xds.schema.semantics.commands import COMMANDS, NEED_PARAMETERS
from xds.schema.semantics.filters import NOT_TERMINAL, TERMINAL
from xds.schema.semantics.tls import CIPHER_WORDS, CIPHERS, GROUPS
from xds.schema.wrapping import as_any

pytestmark = pytest.mark.envoy

HTTP = r.TYPE + "envoy.extensions.filters.http."
NETWORK = r.TYPE + "envoy.extensions.filters.network."
STRUCT = r.TYPE + "xds.type.v3.TypedStruct"
ANY = {"prefix": "/"}
FINE = {"direct_response": {"status": 200}}
ROUTER = typed("router", r.ROUTER)
CORS = typed("cors", HTTP + "cors.v3.Cors")
TCP = typed("tcp", r.TCP_PROXY, stat_prefix="t", cluster="c")
JWKS = {"keys": [{"kty": "oct", "alg": "HS256", "use": "sig", "kid": "1", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}
BIG = {"status": 200, "body": {"inline_string": "x" * 4097}}

Case = tuple[str, r.Json, str]
"""A name, a resource, and the field of the problem, "" if the resource is good."""


def routes(**fields: Any) -> r.Json:
    return {"@type": r.ROUTE, "name": "r"} | fields


def route(action: r.Json = FINE, match: r.Json = ANY, **fields: Any) -> r.Json:
    return routes(virtual_hosts=[virtual_host(routes=[{"match": match, **action, **fields}])])


def to_c(**fields: Any) -> r.Json:
    return route({"route": {"cluster": "c", **fields}})


def weights(*clusters: r.Json) -> r.Json:
    return route({"route": {"weighted_clusters": {"clusters": list(clusters)}}})


def domains(*hosts: tuple[str, ...]) -> r.Json:
    return routes(virtual_hosts=[virtual_host(f"v{number}", each) for number, each in enumerate(hosts)])


def regex(text: str) -> r.Json:
    return route(match={"safe_regex": {"regex": text}})


def header(value: str, key: str = "x-a") -> list[r.Json]:
    return [{"header": {"key": key, "value": value}}]


def log_format(text: str) -> r.Json:
    config = {"path": "/dev/null", "log_format": {"text_format_source": {"inline_string": text}}}
    return listener(
        hcm(access_log=[typed("file", r.TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog", **config)])
    )


def log_with(**log_fields: Any) -> r.Json:
    log = typed(
        "file", r.TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog", path="/dev/null", **log_fields
    )
    return listener(hcm(access_log=[log]))


def chains(*matches: r.Json | None, **fields: Any) -> r.Json:
    made = [{"filters": [hcm()]} | ({"filter_chain_match": each} if each is not None else {}) for each in matches]
    return listener(filter_chains=made, **fields)


def ranges(*texts: tuple[str, int], field: str = "prefix_ranges") -> r.Json:
    return {field: [{"address_prefix": text, "prefix_len": length} for text, length in texts]}


def jwt(requires: r.Json | None = None, **fields: Any) -> r.Json:
    provider = {"issuer": "i", "local_jwks": {"inline_string": json.dumps(JWKS)}}
    rules = [{"match": ANY, "requires": requires}] if requires else []
    config = {"providers": {"p": provider}, "rules": rules} | fields
    return listener(hcm(typed("jwt", HTTP + "jwt_authn.v3.JwtAuthentication", **config), ROUTER))


def endpoints(*hosts: r.Json, **fields: Any) -> r.Json:
    return {"@type": r.ENDPOINTS, "cluster_name": "e", "endpoints": [{"lb_endpoints": [*hosts]}]} | fields


def host(where: r.Json, **fields: Any) -> r.Json:
    return {"endpoint": {"address": where, **fields}}


def cluster_of(kind: str, *hosts: r.Json, **fields: Any) -> r.Json:
    assignment = {"cluster_name": "x", "endpoints": [{"lb_endpoints": list(hosts)}]} if hosts else None
    own = {"load_assignment": assignment} if assignment else {}
    return {"@type": r.CLUSTER, "name": "x", "type": kind} | own | fields


def downstream(common: r.Json) -> r.Json:
    socket = {"name": "tls", "typed_config": {"@type": r.DOWNSTREAM_TLS, "common_tls_context": common}}
    return listener(filter_chains=[{"filters": [hcm()], "transport_socket": socket}])


def struct(type_name: str, value: r.Json) -> r.Json:
    return listener(hcm(typed("s", STRUCT, type_url=r.TYPE + type_name, value=value)))


ROUTER_TYPE = "envoy.extensions.filters.http.router.v3.Router"
WEIGHTED = "virtual_hosts[0].routes[0].route.weighted_clusters.clusters"
ACTION = "virtual_hosts[0].routes[0].route"
HCM = "filter_chains[0].filters[0].typed_config"
HOST = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address"
LOG = f"{HCM}.access_log[0].typed_config.log_format.text_format_source.inline_string"
TLS = "transport_socket.typed_config"
REGEX = "virtual_hosts[0].routes[0].match.safe_regex.regex"
REWRITE = {"pattern": {"regex": "a"}, "substitution": "b"}

ROUTE_CASES: list[Case] = [
    ("regex", regex("^/a(b|c)+$"), ""),
    ("regex-classes", regex(r"[[:alpha:]]\pL\Qa.b\E(?i)x(?P<n>y)"), ""),
    ("regex-lookahead", regex("(?=a)"), REGEX),
    ("regex-lookbehind", regex("(?<!a)b"), REGEX),
    ("regex-backreference", regex(r"(a)\1"), REGEX),
    ("regex-open", regex("(a"), REGEX),
    ("regex-repeat", regex("a{1001}"), REGEX),
    ("regex-possessive", regex("a++"), REGEX),
    (
        "regex-of-header",
        route(match={**ANY, "headers": [{"name": "a", "string_match": {"safe_regex": {"regex": "["}}}]}),
        REGEX.replace("match.safe_regex", "match.headers[0].string_match.safe_regex"),
    ),
    ("weights", weights({"name": "c", "weight": 1}, {"name": "d", "weight": 0}), ""),
    ("weights-zero", weights({"name": "c", "weight": 0}, {"name": "d", "weight": 0}), WEIGHTED),
    ("weights-too-large", weights({"name": "c", "weight": 2**32 - 1}, {"name": "d", "weight": 1}), WEIGHTED),
    ("weight-missing", weights({"name": "c"}, {"name": "d", "weight": 1}), f"{WEIGHTED}[0].weight"),
    ("weight-by-header", weights({"cluster_header": "x", "weight": 1}), ""),
    ("weight-by-both", weights({"name": "c", "cluster_header": "x", "weight": 1}), f"{WEIGHTED}[0]"),
    ("weight-of-nothing", weights({"weight": 1}), f"{WEIGHTED}[0]"),
    ("domains", domains(("*", "a.com"), ("*.a.com", "a.*")), ""),
    (
        "domains-odd",
        domains(
            ("a.*.com", "**", "*a*", "[::1]:80"),
        ),
        "",
    ),
    ("domains-two-stars", domains(("*",), ("*",)), "virtual_hosts[1].domains[0]"),
    ("domains-twice", domains(("a.com", "a.com")), "virtual_hosts[0].domains[1]"),
    ("domains-case", domains(("a.com",), ("A.com",)), "virtual_hosts[1].domains[0]"),
    ("domains-suffix", domains(("*.a.com",), ("*.a.com",)), "virtual_hosts[1].domains[0]"),
    ("virtual-hosts-of-one-name", routes(virtual_hosts=[virtual_host("a", ("x",)), virtual_host("a", ("y",))]), ""),
    ("rewrite-prefix", to_c(prefix_rewrite="/x"), ""),
    ("rewrite-two", to_c(prefix_rewrite="/x", regex_rewrite=REWRITE), f"{ACTION}.regex_rewrite"),
    ("rewrite-and-host", to_c(prefix_rewrite="/x", host_rewrite_literal="a"), ""),
    ("mirror", to_c(request_mirror_policies=[{"cluster": "d"}]), ""),
    (
        "mirror-both",
        to_c(request_mirror_policies=[{"cluster": "d", "cluster_header": "x"}]),
        f"{ACTION}.request_mirror_policies[0]",
    ),
    ("mirror-none", to_c(request_mirror_policies=[{}]), f"{ACTION}.request_mirror_policies[0]"),
    (
        "upgrades",
        to_c(upgrade_configs=[{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT", "connect_config": {}}]),
        "",
    ),
    (
        "upgrades-twice",
        to_c(upgrade_configs=[{"upgrade_type": "websocket"}, {"upgrade_type": "WebSocket"}]),
        f"{ACTION}.upgrade_configs[1].upgrade_type",
    ),
    (
        "upgrade-connects",
        to_c(upgrade_configs=[{"upgrade_type": "websocket", "connect_config": {}}]),
        f"{ACTION}.upgrade_configs[0].connect_config",
    ),
    (
        "back-off",
        to_c(retry_policy={"retry_on": "5xx", "retry_back_off": {"base_interval": "1s", "max_interval": "1s"}}),
        "",
    ),
    (
        "back-off-less",
        to_c(retry_policy={"retry_back_off": {"base_interval": "2s", "max_interval": "1s"}}),
        f"{ACTION}.retry_policy.retry_back_off.max_interval",
    ),
    (
        "back-off-rounded",
        to_c(retry_policy={"retry_back_off": {"base_interval": "0.0009s", "max_interval": "0.0001s"}}),
        "",
    ),
    ("body", route({"direct_response": {"status": 200, "body": {"inline_string": "x" * 4096}}}), ""),
    ("body-large", route({"direct_response": BIG}), "virtual_hosts[0].routes[0].direct_response.body"),
    ("body-limit-raised", route({"direct_response": BIG}) | {"max_direct_response_body_size_bytes": 5000}, ""),
    ("header", route(request_headers_to_add=header("100%% %REQ(a)%")), ""),
    ("header-of-stream", route(request_headers_to_add=header("%PER_REQUEST_STATE(a)%")), ""),
    ("header-metadata", route(request_headers_to_add=header('%UPSTREAM_METADATA(["a", "b"])%')), ""),
    (
        "header-format",
        route(request_headers_to_add=header("50%")),
        "virtual_hosts[0].routes[0].request_headers_to_add[0].header.value",
    ),
    (
        "header-format-of-all",
        routes(response_headers_to_add=header("%BOGUS%")),
        "response_headers_to_add[0].header.value",
    ),
    (
        "header-format-of-host",
        routes(virtual_hosts=[virtual_host(request_headers_to_add=header("%BOGUS%"))]),
        "virtual_hosts[0].request_headers_to_add[0].header.value",
    ),
    (
        "header-format-of-weight",
        weights({"name": "c", "weight": 1, "response_headers_to_add": header("%BOGUS%")}),
        f"{WEIGHTED}[0].response_headers_to_add[0].header.value",
    ),
    (
        "header-host",
        route(request_headers_to_add=header("x", "Host")),
        "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key",
    ),
    (
        "header-pseudo",
        route(response_headers_to_add=header("x", ":status")),
        "virtual_hosts[0].routes[0].response_headers_to_add[0].header.key",
    ),
    (
        "header-host-removed",
        route(request_headers_to_remove=["host"]),
        "virtual_hosts[0].routes[0].request_headers_to_remove[0]",
    ),
    ("header-removed", route(request_headers_to_remove=["x-host"]), ""),
]

LISTENER_CASES: list[Case] = [
    ("address", listener(hcm()), ""),
    ("address-v6", listener(hcm(), address=address("::1")), ""),
    ("address-name", listener(hcm(), address=address("localhost")), "address.socket_address.address"),
    (
        "address-of-resolver",
        listener(hcm(), address=address("foo", resolver_name="envoy.ip")),
        "address.socket_address.address",
    ),
    (
        "address-more",
        listener(hcm(), additional_addresses=[{"address": address("foo")}]),
        "additional_addresses[0].address.socket_address.address",
    ),
    ("address-pipe", listener(hcm(), address={"pipe": {"path": "@x"}}), ""),
    ("compat", listener(hcm(), address=address("::", ipv4_compat=True)), ""),
    ("compat-mapped", listener(hcm(), address=address("::ffff:127.0.0.1", ipv4_compat=True)), ""),
    ("compat-v4", listener(hcm(), address=address("0.0.0.0", ipv4_compat=True)), "address.socket_address.ipv4_compat"),
    ("compat-v6", listener(hcm(), address=address("::1", ipv4_compat=True)), "address.socket_address.ipv4_compat"),
    ("chains", chains({"server_names": ["a"]}, {"server_names": ["b"]}, None), ""),
    ("chains-alike", chains({"server_names": ["a"]}, {"server_names": ["a"]}), "filter_chains[1].filter_chain_match"),
    ("chains-without", chains(None, {}), "filter_chains[1].filter_chain_match"),
    (
        "chains-overlap",
        chains({"server_names": ["a", "b"]}, {"server_names": ["c", "b"]}),
        "filter_chains[1].filter_chain_match",
    ),
    (
        "chains-case",
        chains({"server_names": ["A.com"]}, {"server_names": ["a.com"]}),
        "filter_chains[1].filter_chain_match",
    ),
    ("chains-wildcards", chains({"server_names": ["*.a.com"]}, {"server_names": ["a.com"]}), ""),
    (
        "chains-wildcard-alike",
        chains({"server_names": ["*.com"]}, {"server_names": [".com"]}),
        "filter_chains[1].filter_chain_match",
    ),
    ("chains-ports", chains({"destination_port": 1}, {"destination_port": 2}), ""),
    (
        "chains-port-alike",
        chains({"destination_port": 1}, {"destination_port": 1}),
        "filter_chains[1].filter_chain_match",
    ),
    ("chains-ranges", chains(ranges(("10.0.0.0", 8)), ranges(("10.0.0.0", 9))), ""),
    (
        "chains-range-alike",
        chains(ranges(("10.0.0.1", 8)), ranges(("10.0.0.2", 8))),
        "filter_chains[1].filter_chain_match",
    ),
    (
        "chains-range-long",
        chains(ranges(("10.0.0.1", 33)), ranges(("10.0.0.1", 32))),
        "filter_chains[1].filter_chain_match",
    ),
    ("chains-range-all", chains(ranges(("0.0.0.0", 0)), {}), ""),
    ("chains-range-mapped", chains(ranges(("::ffff:10.0.0.1", 128)), ranges(("10.0.0.1", 32))), ""),
    (
        "chains-range-name",
        chains(ranges(("foo", 8))),
        "filter_chains[0].filter_chain_match.prefix_ranges[0].address_prefix",
    ),
    (
        "chains-sources",
        chains(
            ranges(("10.0.0.1", 32), field="source_prefix_ranges"),
            ranges(("10.0.0.1", 32), field="direct_source_prefix_ranges"),
        ),
        "",
    ),
    (
        "chains-source-ports",
        chains({"source_ports": [1, 2]}, {"source_ports": [2]}),
        "filter_chains[1].filter_chain_match",
    ),
    ("chains-types", chains({"source_type": "EXTERNAL"}, {}), ""),
    ("chains-transport", chains({"transport_protocol": "tls"}, {"transport_protocol": "raw_buffer"}), ""),
    (
        "chains-protocols",
        chains({"application_protocols": ["h2"]}, {"application_protocols": ["h2", "http/1.1"]}),
        "filter_chains[1].filter_chain_match",
    ),
    ("chain-name-twice", chains({"server_names": ["a", "a"]}), "filter_chains[0].filter_chain_match.server_names[1]"),
    (
        "chain-range-twice",
        chains(ranges(("10.0.0.1", 8), ("10.0.0.2", 8))),
        "filter_chains[0].filter_chain_match.prefix_ranges[1]",
    ),
    ("chain-port-twice", chains({"source_ports": [1, 1]}), "filter_chains[0].filter_chain_match.source_ports[1]"),
    ("chain-wildcard", chains({"server_names": ["a*.com"]}), "filter_chains[0].filter_chain_match.server_names[0]"),
    ("chain-star", chains({"server_names": ["*"]}), "filter_chains[0].filter_chain_match.server_names[0]"),
    ("chain-star-dot", chains({"server_names": ["*."]}), ""),
    (
        "cidr",
        listener(
            hcm(
                typed(
                    "rbac",
                    HTTP + "rbac.v3.RBAC",
                    rules={
                        "policies": {
                            "a": {
                                "permissions": [{"any": True}],
                                "principals": [{"direct_remote_ip": {"address_prefix": "foo", "prefix_len": 8}}],
                            }
                        }
                    },
                ),
                ROUTER,
            )
        ),
        f'{HCM}.http_filters[0].typed_config.rules.policies["a"].principals[0].direct_remote_ip.address_prefix',
    ),
    ("no-filters", listener(hcm(http_filters=[])), ""),
    (
        "router-first",
        listener(hcm(ROUTER, typed("bridge", HTTP + "grpc_http1_bridge.v3.Config"))),
        f"{HCM}.http_filters[0]",
    ),
    ("router-twice", listener(hcm(ROUTER, ROUTER)), f"{HCM}.http_filters[0]"),
    ("router-missing", listener(hcm(CORS)), f"{HCM}.http_filters[0]"),
    ("router-disabled", listener(hcm(ROUTER | {"disabled": True})), f"{HCM}.http_filters[0].disabled"),
    ("router-in-struct", struct(ROUTER_TYPE, {}), ""),
    (
        "upgrade-filters",
        listener(hcm(upgrade_configs=[{"upgrade_type": "websocket", "filters": [CORS]}])),
        f"{HCM}.upgrade_configs[0].filters[0]",
    ),
    (
        "upgrade-twice",
        listener(hcm(upgrade_configs=[{"upgrade_type": "a"}, {"upgrade_type": "A"}])),
        f"{HCM}.upgrade_configs[1].upgrade_type",
    ),
    ("category-of-http", listener(hcm(TCP, ROUTER)), f"{HCM}.http_filters[0].typed_config"),
    ("category-of-network", listener(ROUTER), "filter_chains[0].filters[0].typed_config"),
    ("network-terminal-first", listener(TCP, hcm()), "filter_chains[0].filters[0]"),
    (
        "network-terminal-missing",
        listener(typed("sni", NETWORK + "sni_cluster.v3.SniCluster")),
        "filter_chains[0].filters[0]",
    ),
    ("struct", struct(ROUTER_TYPE, {"suppress_envoy_headers": True}), ""),
    ("struct-field", struct(ROUTER_TYPE, {"bogus": 1}), f"{HCM}.http_filters[0].typed_config.value.bogus"),
    (
        "struct-rule",
        struct(ROUTER_TYPE, {"strict_check_headers": ["bogus"]}),
        f"{HCM}.http_filters[0].typed_config.value.strict_check_headers[0]",
    ),
    ("jwt", jwt({"provider_name": "p"}), ""),
    (
        "jwt-provider",
        jwt({"provider_name": "q"}),
        f"{HCM}.http_filters[0].typed_config.rules[0].requires.provider_name",
    ),
    (
        "jwt-audiences",
        jwt({"provider_and_audiences": {"provider_name": "q"}}),
        f"{HCM}.http_filters[0].typed_config.rules[0].requires.provider_and_audiences.provider_name",
    ),
    (
        "jwt-any",
        jwt({"requires_any": {"requirements": [{"provider_name": "p"}, {"provider_name": "q"}]}}),
        f"{HCM}.http_filters[0].typed_config.rules[0].requires.requires_any.requirements[1].provider_name",
    ),
    (
        "jwt-map",
        jwt(requirement_map={"r": {"provider_name": "q"}}),
        f'{HCM}.http_filters[0].typed_config.requirement_map["r"].provider_name',
    ),
    (
        "jwt-requirement",
        jwt(rules=[{"match": ANY, "requirement_name": "r"}]),
        f"{HCM}.http_filters[0].typed_config.rules[0].requirement_name",
    ),
    (
        "jwt-state",
        jwt(filter_state_rules={"name": "x", "requires": {"a": {"provider_name": "q"}}}),
        f'{HCM}.http_filters[0].typed_config.filter_state_rules.requires["a"].provider_name',
    ),
    ("log", log_format("[%START_TIME%] %REQ(a?b):5%%%\n"), ""),
    ("log-inner-percent", log_format("%REQ(a%b)%"), ""),
    ("log-unknown", log_format("%BOGUS%"), LOG),
    ("log-lower", log_format("%bogus%"), LOG),
    ("log-open", log_format("%REQ(a)"), LOG),
    ("log-percent", log_format("100%"), LOG),
    ("log-line", log_format("%REQ(a\nb)%"), LOG),
    ("log-old", log_with(format="%BOGUS%"), f"{HCM}.access_log[0].typed_config.format"),
    (
        "log-json",
        log_with(log_format={"json_format": {"a": {"b": ["%PROTOCOL%", "%BOGUS%"]}}}),
        f'{HCM}.access_log[0].typed_config.log_format.json_format["a"]["b"][1]',
    ),
    ("log-json-fine", log_with(log_format={"json_format": {"a": {"b": ["%PROTOCOL%", 1, None]}}}), ""),
    (
        "log-formatter",
        log_with(
            log_format={
                "text_format_source": {"inline_string": "%REQ_WITHOUT_QUERY(a)%"},
                "formatters": [typed("f", r.TYPE + "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery")],
            }
        ),
        "",
    ),
    (
        "reply",
        listener(hcm(local_reply_config={"body_format": {"text_format_source": {"inline_string": "%BOGUS%"}}})),
        f"{HCM}.local_reply_config.body_format.text_format_source.inline_string",
    ),
    ("tls-none", downstream({}), "filter_chains[0].transport_socket.typed_config.common_tls_context"),
    (
        "tls-pair",
        downstream(
            {
                "tls_certificates": [
                    {"certificate_chain": {"inline_string": r.DEMO_CERT}, "private_key": {"inline_string": r.DEMO_KEY}}
                ]
            }
        ),
        "",
    ),
]

CLUSTER_CASES: list[Case] = [
    ("static", static_cluster("x"), ""),
    ("static-name", static_cluster("x", "foo.com"), HOST),
    ("static-zeros", static_cluster("x", "010.0.0.1"), HOST),
    ("static-short", static_cluster("x", "10.1"), HOST),
    ("static-brackets", static_cluster("x", "[::1]"), HOST),
    ("static-zone", static_cluster("x", "fe80::1%1"), ""),
    ("static-mapped", static_cluster("x", "::ffff:1.2.3.4"), ""),
    ("static-pipe", cluster_of("STATIC", host({"pipe": {"path": "/x"}})), ""),
    ("static-internal", cluster_of("STATIC", host({"envoy_internal_address": {"server_listener_name": "l"}})), ""),
    (
        "static-named-port",
        cluster_of("STATIC", host({"socket_address": {"address": "1.1.1.1", "named_port": "http"}})),
        HOST.replace("address.address", "address.named_port"),
    ),
    (
        "static-additional",
        cluster_of("STATIC", host(address(), additional_addresses=[{"address": address("foo")}])),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.additional_addresses[0].address.socket_address.address",
    ),
    (
        "static-health-check",
        cluster_of("STATIC", host(address(), health_check_config={"address": address("foo")})),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.health_check_config.address.socket_address.address",
    ),
    ("static-empty", cluster_of("STATIC"), ""),
    ("dns", cluster_of("STRICT_DNS", host(address("foo.com")), host(address("[::1]"))), ""),
    ("dns-named-port", cluster_of("STRICT_DNS", host({"socket_address": {"address": "a", "named_port": "http"}})), ""),
    (
        "dns-resolver",
        cluster_of("STRICT_DNS", host(address("a", resolver_name="x"))),
        HOST.replace("address.address", "address.resolver_name"),
    ),
    (
        "dns-health-check",
        cluster_of("STRICT_DNS", host(address("a"), health_check_config={"address": address("b")})),
        "",
    ),
    ("logical", cluster_of("LOGICAL_DNS", host(address("foo.com"))), ""),
    ("logical-two", cluster_of("LOGICAL_DNS", host(address("a")), host(address("b"))), "load_assignment"),
    ("logical-none", cluster_of("LOGICAL_DNS"), "load_assignment"),
    (
        "logical-additional",
        cluster_of("LOGICAL_DNS", host(address("a"), additional_addresses=[{"address": address("b")}])),
        "",
    ),
    ("original", cluster_of("ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED"), ""),
    ("original-policy", cluster_of("ORIGINAL_DST"), "lb_policy"),
    ("original-hosts", cluster_of("ORIGINAL_DST", host(address()), lb_policy="CLUSTER_PROVIDED"), "load_assignment"),
    ("eds-without-source", cluster_of("EDS"), "eds_cluster_config"),
    (
        "bound",
        static_cluster("x", upstream_bind_config={"source_address": {"address": "1.1.1.1", "port_value": 0}}),
        "",
    ),
    (
        "bound-name",
        static_cluster("x", upstream_bind_config={"source_address": {"address": "foo", "port_value": 0}}),
        "upstream_bind_config.source_address.address",
    ),
    ("tls", tls_cluster({}), ""),
    ("tls-nul", tls_cluster({}, sni="a\0b"), f"{TLS}.sni"),
    ("tls-alpn", tls_cluster({"alpn_protocols": ["x" * 256]}), f"{TLS}.common_tls_context.alpn_protocols[0]"),
    (
        "tls-group-is-cipher",
        tls_cluster({"tls_params": {"ecdh_curves": ["ECDHE-RSA-AES128-GCM-SHA256"]}}),
        f"{TLS}.common_tls_context.tls_params.ecdh_curves[0]",
    ),
    ("tls-groups", tls_cluster({"tls_params": {"ecdh_curves": ["X25519", "P-256:P-384"]}}), ""),
    (
        "tls-cipher-is-group",
        tls_cluster({"tls_params": {"cipher_suites": ["X25519"]}}),
        f"{TLS}.common_tls_context.tls_params.cipher_suites[0]",
    ),
    (
        "tls-cipher-13",
        tls_cluster({"tls_params": {"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}}),
        f"{TLS}.common_tls_context.tls_params.cipher_suites[0]",
    ),
    (
        "tls-ciphers",
        tls_cluster({"tls_params": {"cipher_suites": ["[AES128-SHA|AES256-SHA]", "ECDHE+AESGCM", "ALL"]}}),
        "",
    ),
    (
        "tls-hash",
        tls_cluster({"validation_context": {"verify_certificate_hash": ["a" * 64, ":".join(["AB"] * 32)]}}),
        "",
    ),
    (
        "tls-hash-letters",
        tls_cluster({"validation_context": {"verify_certificate_hash": ["z" * 64]}}),
        f"{TLS}.common_tls_context.validation_context.verify_certificate_hash[0]",
    ),
    (
        "tls-spki-letters",
        tls_cluster({"validation_context": {"verify_certificate_spki": ["z" * 44]}}),
        f"{TLS}.common_tls_context.validation_context.verify_certificate_spki[0]",
    ),
    (
        "tls-ca-garbage",
        tls_cluster({"validation_context": {"trusted_ca": {"inline_string": "x"}}}),
        f"{TLS}.common_tls_context.validation_context.trusted_ca.inline_string",
    ),
    ("tls-ca", tls_cluster({"validation_context": {"trusted_ca": {"inline_string": f"hello\n{r.DEMO_CERT}"}}}), ""),
]

EDS_HOST = "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address"
ENDPOINT_CASES: list[Case] = [
    ("endpoints", endpoints(host(address("1.1.1.1")), host({"pipe": {"path": "/x"}}), host(address("::1"))), ""),
    ("endpoints-name", endpoints(host(address("foo.com"))), EDS_HOST),
    (
        "endpoints-additional",
        endpoints(host(address(), additional_addresses=[{"address": address("foo")}])),
        EDS_HOST.replace("address.socket", "additional_addresses[0].address.socket"),
    ),
    ("endpoints-compat", endpoints(host(address("1.1.1.1", ipv4_compat=True))), ""),
]
OWN_CASES = [*ROUTE_CASES, *LISTENER_CASES, *CLUSTER_CASES, *ENDPOINT_CASES]
CASES = [
    *(*OWN_CASES, *semantic_cases.CASES, *format_cases.CASES, *unvalidated_cases.CASES),
    *combination_cases.CASES,
    *tls_cases.CASES,
    *lenient_cases.CASES,
]
CRASHES = semantic_cases.CRASHES | combination_cases.CRASHES | tls_cases.CRASHES
"""Cases with which Envoy 1.40 crashes when it reads them."""


def pair(chain: str, key: str, **fields: Any) -> r.Json:
    own = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    return {"@type": r.SECRET, "name": "s", "tls_certificate": own | fields}


def cut(pem: str) -> str:
    lines = pem.splitlines(keepends=True)
    return "".join((*lines[:3], *lines[5:]))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[r.Json, str]]:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    one, other = authority.server(), authority.server("other")
    chain, key, ca = one.cert_text, one.key_text, authority.cert.decode()
    crlf = chain.replace("\n", "\r\n"), key.replace("\n", "\r\n")
    at_key, at_chain = "tls_certificate.private_key.inline_string", "tls_certificate.certificate_chain.inline_string"
    return {
        "pair": (pair(chain, key), ""),
        "chain": (pair(chain + ca, key), ""),
        "text-around": (pair(f"subject: x\n{chain}\nend", f"# key\n{key}"), ""),
        "crlf": (pair(*crlf), ""),
        "parameters-before": (
            pair(chain, f"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{key}"),
            "",
        ),
        "other-key": (pair(chain, other.key_text), at_key),
        "chain-in-wrong-order": (pair(ca + chain, key), at_key),
        "garbage": (pair("x", key), at_chain),
        "no-key": (pair(chain, "x"), at_key),
        "swapped": (pair(key, key), at_chain),
        "cut-chain": (pair(cut(chain), key), at_chain),
        "cut-key": (pair(chain, key.replace("-----END PRIVATE KEY-----", "")), at_key),
        "not-base64": (pair(chain.replace("\nMII", "\n!!!"), key), at_chain),
        "ca": ({"@type": r.SECRET, "name": "s", "validation_context": {"trusted_ca": {"inline_string": ca}}}, ""),
        "ca-garbage": (
            {"@type": r.SECRET, "name": "s", "validation_context": {"trusted_ca": {"inline_string": key}}},
            "validation_context.trusted_ca.inline_string",
        ),
    }


def problems_of(resource: r.Json) -> list[Problem]:
    try:
        ingest(resource)
    except ChangesetRejectedError as error:
        return list(error.problems)
    return []


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[r.Json]], list[str]]]:
    """Ask a real Envoy about resources, two at a time."""

    def ask(resource: r.Json) -> str:
        return refusal(resource, tmp_path_factory.mktemp("envoy"))

    with ThreadPoolExecutor(2) as threads:
        yield lambda resources: list(threads.map(ask, resources))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_is_wrong_is_found_at_its_place_and_nothing_else(case: Case) -> None:
    _, resource, field = case
    assert [problem.field for problem in problems_of(resource)] == ([field] if field else [])


def test_a_real_envoy_says_the_same(tmp_path: Path, envoy: Callable[[list[r.Json]], list[str]]) -> None:
    asked = {name: resource for name, resource, _ in CASES if name != "eds-without-source"}
    alone = {name: asked.pop(name) for name in sorted(CRASHES | format_cases.CRASHES_LIVE | lenient_cases.FRESH)}
    said = refusals(tmp_path, asked) | dict(zip(alone, envoy([*alone.values()]), strict=True))
    differ = {
        name: said[name] or "Envoy takes it"
        for name, _, field in CASES
        if name in said and bool(field) != bool(said[name])
    }
    assert differ == {}
    assert all("backtrace" in said[name] for name in CRASHES)


@pytest.mark.parametrize("case", combination_cases.CRASHING_LIVE, ids=lambda case: case[0])
def test_what_ends_an_envoy_that_runs_is_refused(tmp_path: Path, case: Case) -> None:
    name, resource, field = case
    assert [problem.field for problem in problems_of(resource)] == [field]
    with pytest.raises((ChildFailedError, ConnectionError)):
        refusals(tmp_path, {name: resource})


def test_what_only_the_first_request_shows_is_refused(envoy: Callable[[list[r.Json]], list[str]]) -> None:
    resources = [resource for resource, _ in unvalidated_cases.STRICTER.values()]
    assert [len(problems_of(each)) for each in resources] == [1] * len(resources)
    assert envoy(resources) == [""] * len(resources)


def test_keys_and_certificates_are_judged_as_by_a_real_envoy(
    envoy: Callable[[list[r.Json]], list[str]], secrets: dict[str, tuple[r.Json, str]]
) -> None:
    said = dict(zip(secrets, envoy([resource for resource, _ in secrets.values()]), strict=True))
    ours = {name: [each.field for each in problems_of(resource)] for name, (resource, _) in secrets.items()}
    assert ours == {name: [field] if field else [] for name, (_, field) in secrets.items()}
    assert {name: bool(why) for name, why in said.items()} == {
        name: bool(field) for name, (_, field) in secrets.items()
    }


@pytest.mark.parametrize("iterations", [12_000_000, 2**31, 2**40])
def test_a_key_whose_password_is_stretched_for_long_is_left_to_envoy(
    iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialization, "load_pem_private_key", None)
    key = stretched_key(tls_cases.encrypted("abc"), iterations)
    assert problems_of(tls_cases.keyed(key, password={"inline_string": "abc"})) == []


def test_a_key_that_is_slow_to_compute_is_left_to_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "load_pem_private_key", None)
    dsa = bytes.fromhex("06072a8648ce380401")
    key = item(SEQUENCE, item(INTEGER, b"\0") + item(SEQUENCE, dsa + item(SEQUENCE, item(INTEGER, b"\1" * 9_000))))
    assert problems_of(tls_cases.keyed(pem("PRIVATE KEY", key))) == []
    large = pem("ENCRYPTED PRIVATE KEY", item(SEQUENCE, item(SEQUENCE, b"") + item(4, b"a" * 9_000)))
    assert problems_of(tls_cases.keyed(large, password={"inline_string": "abc"})) == []


def test_the_panic_of_a_library_is_no_end_of_a_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # as pyo3 names it
        pass

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("explicit panic")

    monkeypatch.setattr(x509, "load_der_x509_certificate", panic)
    monkeypatch.setattr(serialization, "load_pem_private_key", panic)
    assert problems_of(tls_cases.keyed(r.DEMO_KEY)) == []


@pytest.mark.parametrize(
    "text", ["-----BEGIN A-----" + "\n" * 100_000, "-----BEGIN A-----\n" * 100_000, "-----BEGIN " * 99_999]
)
def test_text_that_is_almost_pem_is_read_in_one_pass(text: str) -> None:
    began = time.process_time()
    assert [each.field for each in problems_of(tls_cases.authority(text))] == [tls_cases.CA_AT]
    assert time.process_time() - began < 5, "each of these took minutes"


def test_every_command_of_formats_is_known_to_a_real_envoy(envoy: Callable[[list[r.Json]], list[str]]) -> None:
    parameters = {
        "COMMON_DURATION": "DS_RX_BEG:DS_RX_END:ms",
        "METADATA": "ROUTE:a",
        "XFCC_VALUE": "URI",
        "CEL": "true",
        "TYPED_CEL": "true",
        "COALESCE": '{"operators": ["PROTOCOL"]}',
        "FILTER_STATE": "a",
        "UPSTREAM_FILTER_STATE": "a",
    }
    bare = sorted(COMMANDS - NEED_PARAMETERS)
    said = envoy([log_format("".join(f"%{name}%" for name in bare))])
    said += envoy([log_format(f"%{name}({parameters.get(name, 'a')})%") for name in sorted(NEED_PARAMETERS)])
    assert said == [""] * (1 + len(NEED_PARAMETERS))
    assert all(envoy([log_format(f"%{name}%") for name in sorted(NEED_PARAMETERS)])), "they need parameters"


def test_parameters_of_formats_are_judged_as_by_a_real_envoy(tmp_path: Path) -> None:
    forms = [f"%{name}{rest}%" for name in sorted(COMMANDS - NEED_PARAMETERS) for rest in ("(a)", ":5")]
    asked = {form: log_format(form) for form in (*forms, *format_cases.PARAMETERS) if form not in OF_OTHER_LOGS}
    said = refusals(tmp_path, asked)
    differ = {
        form: said[form] or "Envoy takes it"
        for form, log in asked.items()
        if bool(problems_of(log)) != bool(said[form])
    }
    assert differ == {}


OF_OTHER_LOGS = ("%HOST%",)
"""What a log of generic_proxy may have, and no other."""


def test_groups_are_those_of_a_real_envoy_and_of_older_ones(envoy: Callable[[list[r.Json]], list[str]]) -> None:
    known = sorted(GROUPS)
    said = envoy([tls_cluster({"tls_params": {"ecdh_curves": [name]}}) for name in known])
    refused = {name for name, why in zip(known, said, strict=True) if why}
    assert refused == {"P-224", "secp224r1", "X25519Kyber768Draft00", "CECPQ2"}


def test_ciphers_are_those_of_a_real_envoy_and_of_older_ones(envoy: Callable[[list[r.Json]], list[str]]) -> None:
    known = sorted(CIPHERS | {f"ALL:!{word}" for word in CIPHER_WORDS - {"ALL"}})
    said = envoy([tls_cluster({"tls_params": {"cipher_suites": [name]}}) for name in known])
    refused = {name for name, why in zip(known, said, strict=True) if why}
    assert refused == {"ALL:!FIPS", "ALL:!HIGH", "ALL:!SHA256", "ALL:!SHA384"}
    assert [name for name in known if problems_of(tls_cluster({"tls_params": {"cipher_suites": [name]}}))] == []


MADE: dict[str, r.Json] = {
    "bandwidth_limit.v3.BandwidthLimit": {"stat_prefix": "s"},
    "basic_auth.v3.BasicAuth": {"users": {"inline_string": "a:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="}},
    "buffer.v3.Buffer": {"max_request_bytes": 1},
    "compressor.v3.Compressor": {
        "compressor_library": typed("g", r.TYPE + "envoy.extensions.compression.gzip.compressor.v3.Gzip")
    },
    "csrf.v3.CsrfPolicy": {"filter_enabled": {"default_value": {}}},
    "decompressor.v3.Decompressor": {
        "decompressor_library": typed("g", r.TYPE + "envoy.extensions.compression.gzip.decompressor.v3.Gzip")
    },
    "dynamic_forward_proxy.v3.FilterConfig": {"dns_cache_config": {"name": "d"}},
    "ext_proc.v3.ExternalProcessor": {"grpc_service": {"envoy_grpc": {"cluster_name": "c"}}},
    "health_check.v3.HealthCheck": {"pass_through_mode": False},
    "local_ratelimit.v3.LocalRateLimit": {"stat_prefix": "s"},
    "ratelimit.v3.RateLimit": {
        "domain": "d",
        "stat_prefix": "s",
        "descriptors": [{"entries": [{"key": "a", "value": "b"}]}],
        "rate_limit_service": {"transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": "c"}}},
    },
    "connection_limit.v3.ConnectionLimit": {"stat_prefix": "s", "max_connections": 1},
    "ext_authz.v3.ExtAuthz": {
        "stat_prefix": "s",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "c"}},
    },
    "mongo_proxy.v3.MongoProxy": {"stat_prefix": "s"},
    "rbac.v3.RBAC": {"stat_prefix": "s"},
    "zookeeper_proxy.v3.ZooKeeperProxy": {"stat_prefix": "s"},
}
"""The fields that a filter needs, by the end of its type."""
MADE_OF_NETWORK: dict[str, r.Json] = {
    "local_ratelimit.v3.LocalRateLimit": {"stat_prefix": "s", "token_bucket": {"max_tokens": 1, "fill_interval": "1s"}},
}
NOT_OF_HTTP = {
    "rbac.v3.RBAC": ("stat_prefix",),
    "ext_authz.v3.ExtAuthz": ("stat_prefix",),
    "ratelimit.v3.RateLimit": ("descriptors", "stat_prefix"),
}


def alone(full_name: str) -> r.Json:
    """Return a listener in which a filter is the last of its chain."""
    of_http = ".filters.http." in full_name
    short = full_name.split(".filters.http." if of_http else ".filters.network.")[1]
    fields = dict((not of_http and MADE_OF_NETWORK.get(short)) or MADE.get(short, {}))
    for field in NOT_OF_HTTP.get(short, ()) if of_http else ():
        fields.pop(field, None)
    made = typed("x", r.TYPE + full_name, **fields)
    return listener(hcm(made)) if of_http else listener(made)


def test_filters_that_must_not_be_last_are_refused_by_a_real_envoy(envoy: Callable[[list[r.Json]], list[str]]) -> None:
    names = sorted(NOT_TERMINAL)
    said = dict(zip(names, envoy([alone(name) for name in names]), strict=True))
    assert {name: why for name, why in said.items() if "non-terminal filter" not in why} == {}


def test_filters_that_must_be_last_are_refused_elsewhere_by_a_real_envoy(
    envoy: Callable[[list[r.Json]], list[str]],
) -> None:
    made: dict[str, r.Json] = {
        "tcp_proxy.v3.TcpProxy": {"stat_prefix": "s", "cluster": "c"},
        "redis_proxy.v3.RedisProxy": {
            "stat_prefix": "s",
            "settings": {"op_timeout": "1s"},
            "prefix_routes": {"catch_all_route": {"cluster": "c"}},
        },
        "thrift_proxy.v3.ThriftProxy": {"stat_prefix": "s", "route_config": {"name": "r"}},
        "dubbo_proxy.v3.DubboProxy": {"stat_prefix": "s"},
        "generic_proxy.v3.GenericProxy": {
            "stat_prefix": "s",
            "codec_config": typed("d", NETWORK + "generic_proxy.codecs.dubbo.v3.DubboCodecConfig"),
            "filters": [typed("r", NETWORK + "generic_proxy.router.v3.Router")],
            "route_config": {"name": "r"},
        },
    }
    first = []
    names = sorted(TERMINAL)
    for name in names:
        if ".http_connection_manager." in name:
            first.append(listener(hcm(), TCP))
            continue
        fields = next((value for end, value in made.items() if name.endswith(end)), {})
        one = typed("x", r.TYPE + name, **fields)
        first.append(listener(hcm(one, ROUTER)) if ".filters.http." in name else listener(one, TCP))
    said = dict(zip(names, envoy(first), strict=True))
    assert {name: why for name, why in said.items() if "must be the last" not in why} == {}


def test_endpoints_in_encoded_form_are_checked_too() -> None:
    fine = as_any(ingest(endpoints(host(address("1.1.1.1")))))
    assert ingest_encoded(fine.type_url, fine.value).name == "e"
    wrong = fine.value.replace(b"1.1.1.1", b"1.1.1.x")
    for _ in range(2):
        with pytest.raises(ChangesetRejectedError) as caught:
            ingest_encoded(fine.type_url, wrong)
        assert [problem.field for problem in caught.value.problems] == [EDS_HOST]


def test_a_name_that_one_cluster_resolves_is_no_address_for_eds() -> None:
    """An endpoint that was found good in one place is checked anew in another."""
    dns = cluster_of("STRICT_DNS", host(address("cached.example")))
    assert problems_of(dns) == []
    assert [each.field for each in problems_of(endpoints(host(address("cached.example"))))] == [EDS_HOST]
    assert problems_of(dns) == []


def test_a_rule_says_nothing_of_what_a_misspelt_field_caused() -> None:
    misspelt = downstream({"tls_certificate": [{"certificate_chain": {"inline_string": "x"}}]})
    fields = [each.field for each in problems_of(misspelt)]
    assert fields == ["filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificate"]


def test_messages_in_metadata_are_read_but_mean_nothing() -> None:
    """Envoy shows them, and takes them as they are; ``tests/corpus/test_messages.py`` asks it about every type."""
    without_address = {"@type": r.LISTENER, "name": "l", "api_listener": {}} | {"address": address("a.name")}
    metadata = {"typed_filter_metadata": {"x": without_address}}
    assert problems_of(static_cluster("a", metadata=metadata)) == []


def test_a_message_in_an_any_that_can_not_be_decoded_is_one_problem() -> None:
    """Rules that look into it, as that of clusters into their HTTP options, do not end the reading."""
    made = as_any(ingest(grpc_checked(HTTP2)))
    cluster = load_schema().message_class("envoy.config.cluster.v3.Cluster").FromString(made.value)
    for packed in cluster.typed_extension_protocol_options.values():
        packed.value = b"\xff\xff"
    with pytest.raises(ChangesetRejectedError) as caught:
        ingest((made.type_url, cluster.SerializeToString()))
    assert "do not encode" in caught.value.problems[0].what
