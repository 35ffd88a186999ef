"""Unified matchers: which inputs, custom matchers and actions fit the message around them, as a real Envoy says too."""

from collections.abc import Callable
from pathlib import Path

import pytest
from corpus import descriptors, examples, generated, hosts
from corpus.live import refusals
from support import resources as r
from support.static_envoy import hcm, listener, static_cluster, typed, virtual_host

from xds.model.problem import ChangesetRejectedError
from xds.schema.ingest import ingest
from xds.schema.semantics.categories import types_by_category
from xds.schema.semantics.matchers import FIELDS
from xds.schema.semantics.per_route import NOT_OF_ROUTES, OF_ROUTES

pytestmark = pytest.mark.envoy

HTTP = r.TYPE + "envoy.extensions.filters.http."
NETWORK = r.TYPE + "envoy.extensions.filters.network."
ROUTER = typed("router", r.ROUTER)
ROUTE = {"@type": r.TYPE + "envoy.config.route.v3.Route", "match": {"prefix": "/"}, "route": {"cluster": "c"}}
SKIP = {"@type": r.TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"}
NAME = {"@type": r.TYPE + "google.protobuf.StringValue", "value": "one"}
RBAC = {"@type": r.TYPE + "envoy.config.rbac.v3.Action", "name": "a", "action": "DENY"}
DATAGRAMS = {"@type": r.TYPE + "envoy.extensions.filters.udp.udp_proxy.v3.Route", "cluster": "c"}
SPECIFIER = r.TYPE + "envoy.extensions.router.cluster_specifiers.matcher.v3."
CLUSTER = {"@type": SPECIFIER + "ClusterAction", "cluster": "c"}
CALLS = {"@type": NETWORK + "generic_proxy.action.v3.RouteAction", "cluster": "c"}
SOCKET = {
    "@type": r.TYPE + "envoy.extensions.matching.common_inputs.transport_socket.v3.TransportSocketNameAction",
    "name": "plain",
}
LOCAL_REPLY = {
    "@type": r.TYPE + "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
    "body": {"inline_string": "a"},
}
FORWARD = {
    "@type": r.TYPE
    + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertConfig"
}


def of_host(matcher: r.Json) -> r.Json:
    return {"@type": r.ROUTE, "name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "matcher": matcher}]}


def of_chains(matcher: r.Json) -> r.Json:
    return listener(filter_chains=[{"name": "one", "filters": [hcm()]}], filter_chain_matcher=matcher)


def of_filter(matcher: r.Json) -> r.Json:
    buffer = typed("b", HTTP + "buffer.v3.Buffer", max_request_bytes=5)
    kind = r.TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
    return listener(hcm(typed("d", kind, extension_config=buffer, xds_matcher=matcher), ROUTER))


def of_http_rbac(matcher: r.Json) -> r.Json:
    return listener(hcm(typed("x", HTTP + "rbac.v3.RBAC", matcher=matcher), ROUTER))


def of_network_rbac(matcher: r.Json) -> r.Json:
    return listener(typed("x", NETWORK + "rbac.v3.RBAC", stat_prefix="s", matcher=matcher), hcm())


def of_datagrams(matcher: r.Json) -> r.Json:
    kind = r.TYPE + "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig"
    _, made = hosts._udp(typed("u", kind, stat_prefix="s", matcher=matcher))
    return {"@type": r.LISTENER} | made


def of_plugin(matcher: r.Json) -> r.Json:
    plugin = {"extension": typed("p", SPECIFIER + "MatcherClusterSpecifier", cluster_matcher=matcher)}
    one = {"match": {"prefix": "/"}, "route": {"inline_cluster_specifier_plugin": plugin}}
    return {"@type": r.ROUTE, "name": "r", "virtual_hosts": [virtual_host(routes=[one])]}


def of_calls(matcher: r.Json) -> r.Json:
    _, made = hosts._generic_routes(matcher)
    return {"@type": r.LISTENER} | made


def of_sockets(matcher: r.Json) -> r.Json:
    plain = {"name": "plain", "match": {}, "transport_socket": hosts.named(hosts.RAW)}
    return static_cluster("x", transport_socket_matches=[plain], transport_socket_matcher=matcher)


def of_responses(matcher: r.Json) -> r.Json:
    kind = HTTP + "custom_response.v3.CustomResponse"
    return listener(hcm(typed("x", kind, custom_response_matcher=matcher), ROUTER))


def of_client_certificates(matcher: r.Json) -> r.Json:
    return listener(hcm(ROUTER, forward_client_cert_matcher=matcher))


HOLDERS: dict[str, tuple[Callable[[r.Json], r.Json], r.Json]] = {
    "host": (of_host, ROUTE),
    "chains": (of_chains, NAME),
    "filter": (of_filter, SKIP),
    "http-rbac": (of_http_rbac, RBAC),
    "network-rbac": (of_network_rbac, RBAC),
    "datagrams": (of_datagrams, DATAGRAMS),
    "plugin": (of_plugin, CLUSTER),
    "calls": (of_calls, CALLS),
    "sockets": (of_sockets, SOCKET),
    "responses": (of_responses, LOCAL_REPLY),
    "client-certificates": (of_client_certificates, FORWARD),
}
"""What has a matcher, each with an action that fits."""
ACTIONS = (ROUTE, SKIP, NAME, RBAC, DATAGRAMS, CLUSTER, CALLS, SOCKET, LOCAL_REPLY, FORWARD)
INPUTS = sorted(
    {full_name for category, types in types_by_category().items() if category.endswith("input") for full_name in types}
    | types_by_category()["envoy.matching.common_inputs"]
)
NEEDS_MORE = ("Cel", "dynamic_modules", "DynamicMetadataInput", "RequestMatchInput", ".stats.")
"""Inputs that need a matcher of their own, or are not for resources: the corpus has them."""


def matcher(input_: r.Json, action: r.Json) -> r.Json:
    predicate = {"single_predicate": {"input": input_, "value_match": {"exact": "a"}}}
    on_match = {"action": {"name": "a", "typed_config": action}}
    return {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": on_match}]}}


def made(full_name: str) -> r.Json:
    value = examples.EXAMPLES.get(full_name)
    if value is None:
        value = generated.Maker().message(descriptors.message_types()[full_name])
    return {"name": "i", "typed_config": {"@type": r.TYPE + full_name, **value}}


def refused_by_us(resource: r.Json) -> str:
    try:
        ingest(resource)
    except ChangesetRejectedError as error:
        return str(error)
    return ""


def agree(directory: Path, resources: dict[str, r.Json]) -> dict[str, tuple[str, str]]:
    """Return those of which a real Envoy and the product do not say the same, with what each says."""
    ours = {name: refused_by_us(resource) for name, resource in resources.items()}
    said = refusals(directory, resources)
    return {name: (ours[name], said[name]) for name in resources if bool(ours[name]) != bool(said[name])}


def test_every_field_with_a_matcher_is_tried() -> None:
    tried = {place.rpartition(".")[0] for place in FIELDS}
    assert len(tried) == len(HOLDERS) + 2, "also ExtensionWithMatcherPerRoute, and a virtual host of the generic proxy"


def test_inputs_and_actions_are_those_that_a_real_envoy_takes(tmp_path: Path) -> None:
    cases: dict[str, r.Json] = {}
    for name, (holder, action) in HOLDERS.items():
        inputs = [each for each in INPUTS if not any(word in each for word in NEEDS_MORE)]
        cases |= {f"{name} {each}": holder(matcher(made(each), action)) for each in inputs}
        if name != "filter":  # there the actions depend on the filter inside
            for each in ACTIONS:
                cases[f"{name} {each['@type']}"] = holder(
                    {"on_no_match": {"action": {"name": "a", "typed_config": each}}}
                )
    assert agree(tmp_path, cases) == {}


def test_custom_matchers_are_of_their_category_at_every_depth(tmp_path: Path) -> None:
    header = made("envoy.type.matcher.v3.HttpRequestHeaderMatchInput")
    buffer = typed("b", HTTP + "buffer.v3.Buffer", max_request_bytes=5)
    wrong = {"single_predicate": {"input": header, "custom_match": buffer}}
    right = {"single_predicate": {"input": header, "value_match": {"exact": "a"}}}
    on_match = {"action": {"name": "a", "typed_config": ROUTE}}

    def listed(predicate: r.Json, then: r.Json = on_match) -> r.Json:
        return of_host({"matcher_list": {"matchers": [{"predicate": predicate, "on_match": then}]}})

    cases = {
        "predicate": listed(wrong),
        "not": listed({"not_matcher": wrong}),
        "or": listed({"or_matcher": {"predicate": [right, wrong]}}),
        "and": listed({"and_matcher": {"predicate": [right, right]}}),
        "inner": listed(right, {"matcher": {"matcher_tree": {"input": header, "custom_match": buffer}}}),
    }
    assert agree(tmp_path, cases) == {}
    assert [name for name, resource in cases.items() if refused_by_us(resource)] == ["predicate", "not", "or", "inner"]
    place = "matcher_list.matchers[0].predicate.or_matcher.predicate[1].single_predicate.custom_match.typed_config"
    assert place in refused_by_us(cases["or"])


def test_filters_stand_in_routes_and_in_listeners_as_a_real_envoy_has_it(tmp_path: Path) -> None:
    def config(full_name: str) -> r.Json:
        return made(full_name)["typed_config"]

    in_routes = {
        f"{full_name} in routes": {
            "@type": r.ROUTE,
            "name": "r",
            "virtual_hosts": [virtual_host(typed_per_filter_config={"a": config(full_name)})],
        }
        for full_name in (*NOT_OF_ROUTES, *OF_ROUTES)
    }
    in_listeners = {
        f"{full_name} in listeners": listener(hcm({"name": "a", "typed_config": config(full_name)}, ROUTER))
        for full_name in OF_ROUTES.values()
    }
    everything = in_routes | in_listeners
    assert {name: why for name, why in refusals(tmp_path, everything).items() if not why} == {}
    assert [name for name, resource in everything.items() if not refused_by_us(resource)] == []
