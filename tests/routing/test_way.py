"""What ``find_way`` says without an Envoy beside it: listeners, TCP, clusters of each kind, doubts, hidden headers."""

import json
from typing import Any

import pytest
from routing.tables import BY_TENANT, redirects, says, table, to
from support import resources as r
from support.resources import Json
from support.schemas import older_api

from xds.model.problem import ChangesetRejectedError
from xds.routing.answer import CLUSTERS_MAX, Answer, answer_json
from xds.routing.evaluate import find_way
from xds.routing.request import read_request
from xds.routing.resources import Resources
from xds.schema.ingest import ingest
from xds.schema.pool import Schema, load_schema, packaged_schema
from xds.schema.union import encode_set

AGGREGATE = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_ROUTE, _LISTENER = "envoy.config.route.v3.", "envoy.config.listener.v3.Listener."
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3."
LATER = (
    *(_ROUTE + f"RouteConfiguration.{name}" for name in ("vhost_header", "ignore_path_parameters_in_path_matching")),
    *(_ROUTE + f"{name}.route_specifiers" for name in ("RouteConfiguration", "VirtualHost", "Route")),
    *(_ROUTE + f"RouteMatch.{name}" for name in ("cookies", "filter_state")),
    *(_ROUTE + f"RouteAction.{name}" for name in ("path_rewrite", "path_rewrite_policy", "host_rewrite")),
    *(_ROUTE + name for name in ("RedirectAction.path_rewrite", "DirectResponseAction.body_format")),
    *(_ROUTE + name for name in ("VirtualHost.matcher", "HeaderMatcher.treat_missing_header_as_empty")),
    *(_LISTENER + name for name in ("fcds_config", "filter_chain_matcher", "additional_addresses")),
    *(_MANAGER + name for name in ("HttpFilter.disabled", "HttpConnectionManager.early_header_mutation_extensions")),
)
"""Fields that Envoy 1.20 did not have."""
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
ORIGINAL_DST = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
FILTERS = "type.googleapis.com/envoy.extensions.filters.http."


def way(resources: list[Json], url: str, **asked: Any) -> Answer:
    found = find_way(Resources.of(load_schema(), (ingest(each) for each in resources)), read_request(url, **asked))
    json.dumps(answer_json(found))
    return found


def doubts(answer: Answer) -> list[str]:
    return [f"{each.at}: {each.what}" for each in answer.doubts]


def http(*routes: Json, port: int = 80, **fields: Any) -> list[Json]:
    """Return a listener whose routes are these."""
    hosts = [{"name": "all", "domains": ["*"], "routes": list(routes)}]
    return [r.listener("ingress", port, "main"), table("main", hosts, **fields), r.static_cluster("web", 1001)]


def aggregate(name: str, *clusters: str) -> Json:
    """Return a cluster of other clusters."""
    return {
        "@type": r.CLUSTER,
        "name": name,
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "aggregate", "typed_config": {"@type": AGGREGATE, "clusters": list(clusters)}},
    }


def test_a_listener_is_chosen_by_port_and_address() -> None:
    listeners = [r.tcp_listener("a", 5432, "x"), r.tcp_listener("b", 5433, "x"), r.static_cluster("x", 1)]
    found = way(listeners, "tcp://127.0.0.1:5433")
    assert [(each.stage, each.what) for each in found.steps] == [
        *(("listener", "listeners/b"), ("filter chain", "filter_chains[0]"), ("cluster", "clusters/x")),
    ]
    assert found.steps[0].passed[0].because == "it is at 127.0.0.1:5432"
    assert found.is_certain
    found = way(listeners, "tcp://10.0.0.9:5433")
    assert "no listener of the group takes connections to 10.0.0.9:5433" in found.outcome.what
    found = way([*listeners, r.tcp_listener("c", 5433, "x")], "tcp://db.example:5433")
    assert doubts(found) == ["listeners/b: others are at port 5433 too (c): give the address"]


@pytest.mark.parametrize(
    ("host", "socket", "is_taken"),
    [
        ("[::1]", {"address": "0.0.0.0"}, False),
        ("127.0.0.1", {"address": "0.0.0.0"}, True),
        ("127.0.0.1", {"address": "::"}, False),
        ("127.0.0.1", {"address": "::", "ipv4_compat": True}, True),
        ("[::1]", {"address": "::"}, True),
        ("[0:0:0:0:0:0:0:1]", {"address": "::1"}, True),
        ("[::1]", {"address": "0:0::1"}, True),
        ("[::2]", {"address": "::1"}, False),
        ("127.0.0.1", {"address": "127.0.0.1", "protocol": "UDP"}, False),
    ],
)
def test_a_listener_takes_connections_to_its_addresses(host: str, socket: Json, is_taken: bool) -> None:
    listener = r.tcp_listener("l", 80, "x") | {"address": {"socket_address": {"port_value": 80, **socket}}}
    if socket.get("protocol") == "UDP":
        listener |= {"udp_listener_config": {}, "filter_chains": []}
    found = way([listener, r.static_cluster("x", 1)], f"tcp://{host}:80")
    assert (found.outcome.kind == "clusters") is is_taken, found.outcome.what


def test_errors_name_addresses_as_they_are_written() -> None:
    listener = r.tcp_listener("l", 80, "x") | {"address": r.address(80, "::1")}
    assert way([listener], "tcp://[::2]:80").outcome.what == (
        "no listener of the group takes connections to [::2]:80; it has l ([::1]:80)"
    )
    assert "is at port 81: give the port" in way([listener], "tcp://[::1]:81").outcome.what


def test_a_listener_that_does_not_bind_is_taken_last_and_with_a_doubt() -> None:
    unbound = r.tcp_listener("a", 443, "x") | {"bind_to_port": False}
    bound = r.tcp_listener("b", 443, "y") | {"address": r.address(443, "0.0.0.0")}
    clusters = [r.static_cluster("x", 1), r.static_cluster("y", 1)]
    found = way([unbound, *clusters], "tcp://127.0.0.1:443")
    assert (found.outcome.clusters[0].name, "does not bind to its port" in doubts(found)[0]) == ("x", True)
    found = way([unbound, bound, *clusters], "tcp://127.0.0.1:443")
    assert (found.outcome.clusters[0].name, found.is_certain) == ("y", True)


def chains(*matches: Json, **fields: Any) -> list[Json]:
    """Return a listener with a chain to each of the clusters a, b, … and these clusters."""
    names = [chr(ord("a") + number) for number in range(len(matches))]
    listener = r.tcp_listener("l", 80, "x") | {"address": r.address(80, "0.0.0.0")}
    made = []
    for name, match in zip(names, matches, strict=True):
        filters = r.tcp_listener("l", 80, name)["filter_chains"][0]["filters"]
        made.append({"name": name, "filters": filters, "filter_chain_match": match})
    return [listener | {"filter_chains": made, **fields}, *(r.static_cluster(name, 1) for name in names)]


TENS = [{"address_prefix": "10.0.0.0", "prefix_len": 8}]


@pytest.mark.parametrize(
    ("match", "given", "said"),
    [
        ({"source_prefix_ranges": TENS}, {"source": "10.0.0.1"}, "give the source"),
        ({"direct_source_prefix_ranges": TENS}, {"source": "10.0.0.1"}, "give the source"),
        ({"source_type": "EXTERNAL"}, {"source": "10.0.0.1"}, "give the source"),
        ({"source_ports": [5000]}, {"source": "10.0.0.1:5000"}, "give the source with its port"),
        ({"source_ports": [5000]}, {"source": "[fe80::1]:5000"}, "give the source with its port"),
        ({"prefix_ranges": TENS}, {"address": "10.0.0.1"}, "give the address"),
    ],
)
def test_what_is_not_known_of_a_connection_is_said(match: Json, given: Json, said: str) -> None:
    criterion = next(iter(match))
    wanted = f"listeners/l: {criterion} decides among filter chains: {said}"
    for others in ((), ({},)):
        resources = chains(match, *others)
        assert doubts(way(resources, "tcp://db.example:80"))[0] == wanted
        found = way(resources, "tcp://db.example:80", **given)
        assert (found.outcome.clusters[0].name, found.is_certain) == ("a", True)


@pytest.mark.parametrize(
    ("source", "chosen"), [("127.0.0.1", "a"), ("::1", "a"), ("10.0.0.5", "a"), ("127.0.0.2", "b"), ("10.0.0.6", "b")]
)
def test_only_the_loopback_and_the_own_address_are_local(source: str, chosen: str) -> None:
    resources = chains({"source_type": "SAME_IP_OR_LOOPBACK"}, {"source_type": "EXTERNAL"})
    found = way(resources, "tcp://10.0.0.5:80", source=source)
    assert found.outcome.clusters[0].name == chosen


def test_why_a_filter_chain_is_out_is_said_exactly() -> None:
    wider = {"source_prefix_ranges": TENS}
    narrower = {"source_prefix_ranges": [{"address_prefix": "10.1.0.0", "prefix_len": 16}]}
    other = {"source_prefix_ranges": [{"address_prefix": "11.0.0.0", "prefix_len": 8}]}
    found = way(chains(wider, narrower, other), "tcp://127.0.0.1:80", source="10.1.0.1")
    assert [each.because for each in found.steps[1].passed] == [
        "source_prefix_ranges 10.0.0.0/8 fits, but another chain's fits better: the source is 10.1.0.1",
        "source_prefix_ranges 11.0.0.0/8: the source is 10.1.0.1",
    ]
    found = way(chains({"source_type": "EXTERNAL"}, {}), "tcp://10.0.0.1:80", source="127.0.0.1")
    assert found.steps[1].passed[0].because == "source_type EXTERNAL: the source is 127.0.0.1"


@pytest.mark.parametrize(
    ("priorities", "said"),
    [
        (
            ("HUUU", "HUUU"),
            "50% to priority 0, 50% to priority 1 as far as the resources say; fewer than 50% of priority 0 and 1",
        ),
        (
            ("U", "U"),
            "50% to priority 0, 50% to priority 1 as far as the resources say; no endpoint is healthy: all its",
        ),
        (("D", "H"), "0% to priority 0, 100% to priority 1 as"),
        (
            ("DU", "U"),
            "100% to priority 0, 0% to priority 1 as far as the resources say",
        ),
        (("HU", "H"), "70% to priority 0, 30% to priority 1 as far as the resources say"),
        (("UU",), "no endpoint is healthy: all its endpoints get requests (panic mode)"),
        (("HUUU",), "fewer than 50% of priority 0 are healthy: all its endpoints get requests (panic mode)"),
    ],
)
def test_priorities_share_the_requests_by_their_health(priorities: tuple[str, ...], said: str) -> None:
    assigned = r.assignment("web")
    words = {"H": "HEALTHY", "U": "UNHEALTHY", "D": "DEGRADED"}
    assigned["endpoints"] = [
        {
            "priority": priority,
            "lb_endpoints": [
                each | {"health_status": words[letter]}
                for letter, each in zip(
                    letters,
                    r.assignment("web", *range(1, 1 + len(letters)))["endpoints"][0]["lb_endpoints"],
                    strict=True,
                )
            ],
        }
        for priority, letters in enumerate(priorities)
    ]
    (found,) = way(
        [*http(to("web", {"prefix": "/"}))[:2], r.cluster("web"), assigned], "http://a.example/"
    ).outcome.clusters
    assert found.note.startswith(said)


@pytest.mark.parametrize("header", [":method: POST", ":path: /x", ":scheme: https"])
def test_what_the_url_and_the_method_say_is_no_header(header: str) -> None:
    with pytest.raises(ChangesetRejectedError, match="is no header here"):
        read_request("http://a.example/", headers=[header])
    assert read_request("http://a.example/", headers=[":authority: b"]).host == "b"


def test_the_method_of_grpc_is_post() -> None:
    assert [read_request(url).method for url in ("grpc://a/x/Y", "http://a/")] == ["POST", "GET"]
    assert read_request("grpc://a/x/Y", method="POST").method == "POST"
    with pytest.raises(ChangesetRejectedError, match="is not the method of gRPC"):
        read_request("grpc://a/x/Y", method="GET")


def test_a_restored_destination_hands_a_connection_over() -> None:
    outbound = r.tcp_listener("outbound", 15001, "passthrough") | {"use_original_dst": True}
    service = r.tcp_listener("10.0.0.5_443", 443, "x") | {"bind_to_port": False, "address": r.address(443, "10.0.0.5")}
    resources = [outbound, service, r.static_cluster("x", 1), r.static_cluster("passthrough", 2)]
    found = way(resources, "tcp://10.0.0.5:443", listener="outbound")
    assert (found.steps[1].what, found.outcome.clusters[0].name) == ("listeners/10.0.0.5_443", "x")
    found = way(resources, "tcp://10.0.0.6:443", listener="outbound")
    assert found.outcome.clusters[0].name == "passthrough"


def test_connections_without_http_are_told_apart_by_their_server_name() -> None:
    listener = r.tcp_listener("tls", 443, "other")
    chains = listener["filter_chains"]
    for name, sni in (("db", "db.example"), ("any", "*.example")):
        chain = json.loads(json.dumps(chains[-1]).replace('"other"', f'"{name}"'))
        chains.insert(0, chain | {"filter_chain_match": {"server_names": [sni]}})
    resources = [listener, *(r.static_cluster(each, 1) for each in ("db", "any", "other"))]
    hosts = ("db.example", "x.example", "a.test", "127.0.0.1")
    chosen = [way(resources, f"tls://{host}").outcome.clusters[0].name for host in hosts]
    assert chosen == ["db", "any", "other", "other"]


def test_clusters_of_each_kind_say_where_their_endpoints_are() -> None:
    original = {"@type": r.CLUSTER, "name": "two", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    failing = r.assignment("one", 1, 2)
    failing["endpoints"][0]["lb_endpoints"][0]["health_status"] = "UNHEALTHY"
    failing["endpoints"].append({"priority": 1, "lb_endpoints": r.assignment("x", 3)["endpoints"][0]["lb_endpoints"]})
    resources = [
        *http(to("web", {"prefix": "/"}))[:2],
        aggregate("web", "one", "two"),
        r.cluster("one"),
        failing,
        original,
    ]
    (found,) = way(resources, "http://a.example/").outcome.clusters
    assert [each.kind for each in found.through] == ["EDS", "ORIGINAL_DST"]
    assert [(each.address, each.health, each.priority) for each in found.through[0].endpoints] == [
        *(("127.0.0.1:1", "unhealthy", 0), ("127.0.0.1:2", "healthy", 0), ("127.0.0.1:3", "healthy", 1)),
    ]
    assert "70% to priority 0, 30% to priority 1" in found.through[0].note
    lacking = way([*http(to("one", {"prefix": "/"}))[:2], r.cluster("one")], "http://a.example/").outcome.clusters[0]
    assert "the group has no endpoints/one" in lacking.note


@pytest.mark.parametrize(
    ("wanted", "addresses", "said"),
    [
        ({"stage": "canary"}, ["127.0.0.1:2"], "the subset stage=canary"),
        ({"stage": "none"}, ["127.0.0.1:1", "127.0.0.1:2"], "no subset of the cluster is stage=none"),
        ({}, ["127.0.0.1:1", "127.0.0.1:2"], "the route asks for no subset"),
    ],
)
def test_a_subset_is_chosen_by_the_routes_metadata(wanted: Json, addresses: list[str], said: str) -> None:
    cluster = r.static_cluster("web", 1, 2)
    for stage, member in zip(
        ("prod", "canary"), cluster["load_assignment"]["endpoints"][0]["lb_endpoints"], strict=True
    ):
        member["metadata"] = {"filter_metadata": {"envoy.lb": {"stage": stage}}}
    cluster["lb_subset_config"] = {"fallback_policy": "ANY_ENDPOINT", "subset_selectors": [{"keys": ["stage"]}]}
    match = {"metadata_match": {"filter_metadata": {"envoy.lb": wanted}}} if wanted else {}
    (found,) = way([*http(to("web", {"prefix": "/"}, **match))[:2], cluster], "http://a/").outcome.clusters
    assert [each.address for each in found.endpoints] == addresses
    assert said in found.note


def test_what_the_resources_do_not_decide_is_said() -> None:
    fraction = {"default_value": {"numerator": 5, "denominator": "HUNDRED"}, "runtime_key": "canary"}
    routes = [
        to("web", {"prefix": "/", "runtime_fraction": fraction}),
        to("web", {"prefix": "/", "headers": [{"name": "x-request-id", "present_match": True}]}),
        to("web", {"prefix": "/", "tls_context": {"presented": True}}),
        says({"prefix": "/"}, 204),
    ]
    resources = http(*routes)
    manager = resources[0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][:0] = [
        {"name": "lua", "typed_config": {"@type": FILTERS + "lua.v3.Lua"}},
        {"name": "cors", "typed_config": {"@type": FILTERS + "cors.v3.Cors"}},
        {"name": "off", "disabled": True, "typed_config": {"@type": FILTERS + "lua.v3.Lua"}},
    ]
    found = way(resources, "http://a.example/")
    assert (found.outcome.status, found.is_certain) == (204, False)
    assert [each.partition(" (")[0].partition(": runs")[0] for each in doubts(found)] == [
        *(f"routes[{number}]: it may take the request" for number in range(3)),
        "HTTP filter lua",
    ]
    assert "runtime_fraction takes 5% of the requests unless the runtime key canary says otherwise" in doubts(found)[0]


def test_matchers_of_headers_with_credentials_are_not_evaluated() -> None:
    secret = {"prefix": "/", "headers": [{"name": "authorization", "string_match": {"exact": "Bearer hidden"}}]}
    resources = http(to("web", secret), redirects({"prefix": "/"}, host_redirect="login.example"))
    for value in ("Bearer hidden", "Bearer other"):
        found = way(resources, "http://a.example/", headers=[f"authorization: {value}"])
        assert "what it must be is hidden" in doubts(found)[0]
        assert "Bearer" not in json.dumps(answer_json(found))
    assert way(resources, "http://a.example/").is_certain, "without the header it can't match"


@pytest.mark.parametrize(
    ("match", "with_it", "without"),
    [
        ({"cookies": [{"name": "s", "string_match": {"exact": "hidden"}}]}, ["cookie: s=hidden"], ["cookie: t=hidden"]),
        (
            {"query_parameters": [{"name": "api_key", "string_match": {"exact": "hidden"}}]},
            "?api_key=hidden",
            "?a=hidden",
        ),
    ],
)
def test_matchers_of_other_credentials_are_not_evaluated(match: Json, with_it: Any, without: Any) -> None:
    resources = http(to("web", {"prefix": "/", **match}), redirects({"prefix": "/"}, host_redirect="login.example"))

    def found(part: Any) -> Answer:
        asked = {"headers": part} if isinstance(part, list) else {}
        return way(resources, "http://a.example/" + ("" if asked else part), **asked)

    assert "what it must be is hidden" in doubts(found(with_it))[0]
    assert found(without).is_certain
    for part in (with_it, without):
        assert "'hidden'" not in json.dumps(answer_json(found(part))).replace("is 'hidden'", "")


@pytest.mark.parametrize(
    "matcher",
    [
        {"name": "authorization", "string_match": {"exact": "Bearer hidden"}},
        {"name": "authorization", "string_match": {"safe_regex": {"regex": "Bearer hidden"}}, "invert_match": True},
        {"name": "x-api-key", "range_match": {"start": "4711", "end": "4712"}},
    ],
)
def test_what_a_missing_header_with_credentials_must_be_is_hidden(matcher: Json) -> None:
    routes = [to("web", {"prefix": "/", "headers": [matcher | {"treat_missing_header_as_empty": True}]})]
    found = way(http(*routes, says({"prefix": "/"}, 204)), "http://a.example/")
    assert "what it must be is hidden" in doubts(found)[0]
    told = json.dumps(answer_json(found))
    assert ("Bearer" in told, "4711" in told) == (False, False)


def test_keys_of_scopes_that_are_credentials_are_hidden() -> None:
    scopes = {
        "name": "scopes",
        "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "X-Api-Key", "index": 0}}]},
        "rds_config_source": r.ads(),
        "scoped_rds": {"scoped_rds_config_source": r.ads()},
    }
    manager = r.http_manager("unused") | {"scoped_routes": scopes}
    del manager["rds"]
    scope = r.scoped_route("one", "main", "hidden") | {"key": {"fragments": [{"string_key": "hidden"}]}}
    resources = [r.filter_listener("ingress", 80, "http", manager), scope, table("main", [])]
    for headers in ([], ["x-api-key: other"], ["x-api-key: hidden"]):
        found = way(resources, "http://a.example/", headers=headers)
        assert found.outcome.kind == "unknown"
        assert "'hidden'" not in json.dumps(answer_json(found))


REDACTED_FIELDS = (
    "envoy.config.core.v3.DataSource.inline_string",
    "envoy.type.matcher.v3.StringMatcher.exact",
    "envoy.config.route.v3.RouteMatch.prefix",
    "envoy.config.route.v3.RedirectAction.path_redirect",
    "xds.type.matcher.v3.StringMatcher.exact",
)


def test_what_the_settings_hide_is_hidden() -> None:
    schema = Schema(packaged_schema())
    schema.hide(REDACTED_FIELDS, [])
    matching = {"path": "/", "headers": [{"name": "x-a", "string_match": {"exact": "hidden"}}]}
    by_path = redirects({"path": "/r"}, path_redirect="/hidden")
    routes = [to("web", matching), to("web", {"prefix": "/hidden"}), by_path, says({"path": "/"}, 200, "hidden")]

    def found(url: str, *headers: str, **hosts: Any) -> str:
        resources = Resources.of(schema, (ingest(each) for each in http(*routes)))
        return json.dumps(answer_json(find_way(resources, read_request(url, headers=headers))))

    told = found("http://a.example/", "x-a: other")
    assert ("x-a: it carries" in told, "its path is hidden" in told, "parts of it are hidden" in told) == (True,) * 3
    for text in (told, found("http://a.example/r")):
        assert 'hidden"' not in text.replace('is hidden"', "").replace('are hidden"', "")
        assert "[redacted]" in text


@pytest.mark.parametrize(("count", "named"), [(4, 1), (1, 1)])
def test_an_aggregate_that_has_itself_is_followed_once(count: int, named: int) -> None:
    resources = [*http(to("web", {"prefix": "/"}))[:2], aggregate("web", *["web"] * count)]
    found = way(resources, "http://a.example/")
    (cluster,) = found.outcome.clusters
    assert ([each.note for each in cluster.through], cluster.through[0].through) == (
        *(["it has itself among its clusters"] * named, ()),
    )
    assert not found.is_certain


def test_the_clusters_of_one_answer_are_bounded() -> None:
    names = [f"c{number}" for number in range(12)]
    layers = [
        aggregate(f"{name}-{depth}", *(f"{each}-{depth + 1}" for each in names)) for name in names for depth in (0, 1)
    ]
    leaves = [r.static_cluster(f"{name}-2", 1) for name in names]
    resources = [
        *http(to("web", {"prefix": "/"}))[:2],
        aggregate("web", *(f"{each}-0" for each in names)),
        *layers,
        *leaves,
    ]
    text = json.dumps(answer_json(way(resources, "http://a.example/")))
    assert 90 < text.count('"endpoints_total": 1') + text.count("the first of these") <= CLUSTERS_MAX
    assert "its endpoints are not listed here" in text


def test_a_listener_filter_restores_the_destination_without_handing_over() -> None:
    original = {"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": ORIGINAL_DST}}
    inbound = r.tcp_listener("inbound", 15006, "web") | {"listener_filters": [original]}
    other = r.tcp_listener("0.0.0.0_8080", 8080, "other") | {"address": r.address(8080, "0.0.0.0")}
    resources = [inbound, other, r.static_cluster("web", 1), r.static_cluster("other", 1)]
    found = way(resources, "tcp://10.0.0.5:8080", listener="inbound")
    assert (found.outcome.clusters[0].name, found.is_certain) == ("web", True)
    found = way(resources, "tcp://web.example:8080", listener="inbound")
    assert doubts(found) == ["listeners/inbound: it restores the original destination: give that by its address"]


@pytest.mark.parametrize("api", [{}, {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": "web"}])
def test_an_api_listener_without_an_http_connection_manager_is_unknown(api: Json) -> None:
    listener = {"@type": r.LISTENER, "name": "api", "api_listener": {"api_listener": api} if api else {}}
    assert way([listener], "http://a.example/", listener="api").outcome.kind == "unknown"


def test_a_matcher_of_unknown_inputs_leaves_the_outcome_unknown() -> None:
    matcher = json.loads(json.dumps(BY_TENANT).replace("x-tenant", "x-forwarded-for"))
    hosts = [{"name": "all", "domains": ["*"], "matcher": matcher}]
    found = way([r.listener("ingress", 80, "main"), table("main", hosts)], "http://a.example/")
    assert (found.outcome.kind, found.is_certain) == ("unknown", False)


def test_mappers_of_local_replies_are_a_doubt() -> None:
    status = {"comparison": {"op": "EQ", "value": {"default_value": 404, "runtime_key": "x"}}}
    mapper = {"filter": {"status_code_filter": status}, "status_code": 299}
    resources = http(to("web", {"path": "/there"}))
    resources[0]["filter_chains"][0]["filters"][0]["typed_config"]["local_reply_config"] = {"mappers": [mapper]}
    found = way(resources, "http://a.example/")
    assert (found.outcome.status, "its mappers may change" in doubts(found)[0]) == (404, True)
    assert way(resources, "http://a.example/there").is_certain


def test_headers_that_envoy_may_remove_are_not_known() -> None:
    named = [{"name": name, "present_match": True} for name in ("x-envoy-retry-on", "x-envoy-original-path")]
    routes = [says({"prefix": "/", "headers": [each]}, 200 + at) for at, each in enumerate(named)]
    resources = http(*routes, says({"prefix": "/"}, 204))
    assert way(resources, "http://a.example/").is_certain
    found = way(resources, "http://a.example/", headers=["x-envoy-retry-on: 5xx"])
    assert (found.outcome.status, "Envoy may set, change or remove it" in doubts(found)[0]) == (204, True)
    asked = {"headers": ["x-envoy-original-path: /a"]}
    assert (way(resources, "http://a.example/", **asked).outcome.status, way(resources, "http://a/").is_certain) == (
        201,
        True,
    )
    resources[0]["filter_chains"][0]["filters"][0]["typed_config"]["use_remote_address"] = True
    assert not way(resources, "http://a.example/", **asked).is_certain


def test_a_cluster_of_a_header_that_envoy_may_change_is_unknown() -> None:
    resources = http({"match": {"prefix": "/"}, "route": {"cluster_header": "x-forwarded-for"}})
    assert way(resources, "http://a.example/", headers=["x-forwarded-for: web"]).outcome.kind == "unknown"


def test_a_weighted_cluster_whose_header_is_missing_is_said() -> None:
    clusters = [{"name": "web", "weight": 1}, {"cluster_header": "x-c", "weight": 1}]
    resources = http({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters}}})
    found = way(resources, "http://a.example/").outcome.clusters
    assert [(each.name, each.found) for each in found] == [("web", True), ("that of the header x-c", False)]
    assert "has no header x-c" in found[1].note
    (_, found_by_header) = way(resources, "http://a.example/", headers=["x-c: web"]).outcome.clusters
    assert (found_by_header.name, found_by_header.found) == ("web", True)


def test_retries_and_mirrors_around_a_route_count_too() -> None:
    retries = {"retry_policy": {"retry_on": "5xx", "num_retries": 3}}
    own = to("web", {"path": "/own"}, retry_policy={"retry_on": "reset"}, request_mirror_policies=[{"cluster": "own"}])
    hosts = [{"name": "all", "domains": ["*"], "routes": [own, to("web", {"prefix": "/"})], **retries}]
    for outer, inner, mirror in (
        ({"cluster": "outer"}, None, "outer"),
        ({"cluster": "outer"}, {"cluster": "in"}, "in"),
    ):
        mirrors = {"request_mirror_policies": [inner]} if inner else {}
        routes = table("main", [hosts[0] | mirrors], request_mirror_policies=[outer])
        resources = [r.listener("ingress", 80, "main"), routes, r.static_cluster("web", 1)]
        about = way(resources, "http://a.example/").outcome.about
        assert (about["retries"], about["request_mirror_policies"]) == ("3 on 5xx", mirror)
        about = way(resources, "http://a.example/own").outcome.about
        assert (about["retries"], about["request_mirror_policies"]) == ("1 on reset", "own")


def test_a_connection_to_a_cluster_that_is_not_there_is_not_certain() -> None:
    found = way([r.tcp_listener("a", 5432, "nope")], "tcp://127.0.0.1:5432")
    assert ("Envoy closes the connection" in found.outcome.what, found.is_certain) == (True, False)
    assert doubts(found) == ["clusters/nope: the group lacks it; only Envoy's own bootstrap may have it"]


def test_tls_is_looked_at() -> None:
    found = way(http(to("web", {"prefix": "/"}), port=443), "https://a.example/")
    assert (found.outcome.kind, "does not terminate TLS" in found.outcome.what) == ("error", True)


def test_an_older_envoys_schema_may_lack_later_fields() -> None:
    schema = Schema(encode_set(older_api("1.20.0", lacks=LATER).files))
    routes = [to("none", {"prefix": "/x", "headers": [{"name": "a"}]}), to("web", {"prefix": "/"}, prefix_rewrite="/y")]
    for url, there in (("http://a.example/", "clusters"), ("http://a.example/x", "clusters")):
        resources = Resources.of(schema, (ingest(each) for each in http(*routes, redirects({"path": "/r"}))))
        found = find_way(resources, read_request(url))
        assert (found.outcome.kind, found.outcome.clusters[0].name) == (there, "web")
    resources = Resources.of(schema, (ingest(each) for each in http(redirects({"prefix": "/"}), says({"prefix": "/"}))))
    assert find_way(resources, read_request("http://a.example/")).outcome.status == 301


def test_what_may_change_a_route_is_a_doubt() -> None:
    routes = table("main", [{"name": "all", "domains": ["*"], "routes": [to("web", {"prefix": "/"})]}])
    resources = [*http(port=80)[:1], routes | {"internal_only_headers": ["x-internal"]}, r.static_cluster("web", 1)]
    assert way(resources, "http://a.example/").is_certain
    found = way(resources, "http://a.example/", headers=["x-internal: 1"])
    assert doubts(found) == ["routes/main: the header x-internal is removed from requests of outside"]


def test_virtual_hosts_on_demand_are_those_of_the_group() -> None:
    routes = table("main", []) | {"vhds": {"config_source": r.ads()}}
    hosts = [r.virtual_host("main/a", "web", ["a.example"]), r.virtual_host("other/a", "x", ["*"])]
    resources = [r.listener("ingress", 80, "main"), routes, *hosts, r.static_cluster("web", 1)]
    found = way(resources, "http://a.example/")
    assert (found.outcome.clusters[0].name, "VHDS" in doubts(found)[0]) == ("web", True)
    assert way(resources, "http://b.example/").outcome.status == 404


@pytest.mark.parametrize(
    "url", ["a.example", "http://a b/", "http://a:99999/", "http://[::1/", "tcp://a.example", "http://a/\x07"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ChangesetRejectedError):
        read_request(url)
