"""HTTP connection managers that change a request before they route it, or refuse it, with requests for each."""

from routing.tables import Case, header, redirects, regex, says, table, to
from support import resources as r
from support.resources import Json

Scene = tuple[Json, list[Case]]
"""A manager, and the requests that are sent to it."""
MATCHER_TYPE = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
SUBSETS: dict[str, Json] = {
    "subsets-off": {},
    "subsets-any": {
        "fallback_policy": "NO_FALLBACK",
        "subset_selectors": [{"keys": ["stage"], "fallback_policy": "ANY_ENDPOINT"}],
    },
    "subsets-none": {
        "fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [{"keys": ["stage"], "fallback_policy": "NO_FALLBACK"}],
    },
    "subsets-keys": {
        "subset_selectors": [
            {
                "keys": ["stage", "zone"],
                "fallback_policy": "KEYS_SUBSET",
                "fallback_keys_subset": ["zone"],
            },
            {"keys": ["zone"], "fallback_policy": "ANY_ENDPOINT"},
        ]
    },
    "subsets-list": {"list_as_any": True, "subset_selectors": [{"keys": ["tags"]}]},
    "subsets-no-list": {"subset_selectors": [{"keys": ["tags"]}]},
}
"""Clusters with one endpoint, by what they say of subsets."""
METADATA = {"stage": "prod", "tags": ["a", "b"]}
HOSTS = (
    *("shop.example.", "shop.example.:8080", "shop.example:8080.", "shop.example:", "shop.example..", "shop.example.:"),
    *("shop.example:x", "[::1].:80", "[::1]:80", "[::1]", "shop.example:+80", "shop.example:080", "a:b:80"),
    "shop.example:99999999999",
)
PROTOS: tuple[tuple[str, ...], ...] = (
    (),
    *((f"x-forwarded-proto: {each}",) for each in ("http", "https", "HTTPS", "ftp", "")),
    *(("x-forwarded-proto: http", "x-forwarded-proto: https"), ("x-forwarded-proto: https",) * 2),
)
SENT = (
    *("te: gzip", "te: gzip, trailers", "keep-alive: 5", "proxy-connection: x", "upgrade: h2c", "upgrade: websocket"),
    *("expect: x", "trailer: x", "connection: close, x-nominated", "connection: keep-alive", "x-envoy-foo: 1"),
    *("x-envoy-attempt-count: 4", "x-envoy-original-path: /a", "x-envoy-decorator-operation: x"),
    *("x-envoy-downstream-service-cluster: x", "x-envoy-downstream-service-node: x", "x-forwarded-port: 3"),
    *("x-client-trace-id: a", "x-forwarded-host: q", "via: 1.1 x"),
)
"""Headers of which Envoy removes some."""
REPEATED = (
    *("accept", "accept-encoding", "accept-language", "access-control-request-headers"),
    *("access-control-request-method", "authorization", "cache-control", "content-encoding", "content-type", "date"),
    *("expect", "forwarded", "grpc-accept-encoding", "grpc-encoding", "grpc-timeout", "if-match", "if-modified-since"),
    *("if-none-match", "if-range", "if-unmodified-since", "origin", "pragma", "proxy-authorization", "proxy-status"),
    *("range", "referer", "traceparent", "user-agent", "via", "x-api-key", "x-b3-traceid", "x-client-trace-id"),
    *("x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-user", "x-envoy-attempt-count", "x-envoy-original-path"),
    *("x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node"),
    *("x-envoy-original-dst-host",),
)
UPGRADES: tuple[tuple[str, ...], ...] = (
    (),
    ("connection: upgrade",),
    ("upgrade: websocket",),
    *(("connection: upgrade", f"upgrade: {each}") for each in ("websocket", "WebSocket", "other", "h2c", "off")),
    ("connection: keep-alive, Upgrade", "upgrade: websocket"),
)


def one(*routes: Json, **fields: object) -> list[Json]:
    """Return one virtual host with these routes."""
    return [{"name": "all", "domains": ["*"], "routes": list(routes), **fields}]


def manager(hosts: list[Json], routes: "Json | None" = None, **fields: object) -> Json:
    """Return a manager with these virtual hosts, and more fields of the routes and of itself."""
    return r.http_manager(inline=table("inline", hosts, **(routes or {}), validate_clusters=False), **fields)


def _hosts() -> list[Json]:
    return [
        {"name": "star", "domains": ["*"], "routes": [says({"prefix": "/"}, 210)]},
        {"name": "shop", "domains": ["shop.example", "[::1]"], "routes": [says({"prefix": "/"}, 211)]},
        {"name": "port", "domains": ["shop.example:8080"], "routes": [says({"prefix": "/"}, 212)]},
        {"name": "bare", "domains": ["shop.example:"], "routes": [says({"prefix": "/"}, 213)]},
    ]


def host_scenes() -> dict[str, Scene]:
    """Return managers that take ports and dots off the host, or choose virtual hosts by another header."""
    cases = [Case("http://any.example/", headers=(f"host: {host}",)) for host in HOSTS]
    by_header = [
        Case("http://any.example/", headers=headers)
        for headers in (
            *((), ("x-host: shop.example",), ("x-host: q",), ("x-host: ",), ("x-host: shop.example", "x-host: y")),
            ("x-host: SHOP.example:80",),
        )
    ]
    ignoring = {"ignore_port_in_host_matching": True}
    return {
        "dots": (manager(_hosts(), strip_trailing_host_dot=True), cases),
        "dots-ports": (manager(_hosts(), strip_trailing_host_dot=True, strip_any_host_port=True), cases),
        "ports": (manager(_hosts(), strip_any_host_port=True), cases),
        "ignored-ports": (manager(_hosts(), ignoring), cases),
        "vhost-header": (manager(_hosts(), {"vhost_header": "x-host"}), by_header),
        "vhost-header-port": (manager(_hosts(), {"vhost_header": "x-host", **ignoring}), by_header),
        "vhost-header-star": (manager(_hosts()[:1], {"vhost_header": "x-host"}), by_header),
    }


def path_scenes() -> dict[str, Scene]:
    """Return managers that normalize paths, and one that leaves out path parameters."""
    plain = [f"/a{chr(code)}b" for code in range(33, 127) if chr(code) not in "?#"]
    escaped = [f"/a%{code:02x}b" for code in (*range(128), 0xC3, 0xFF)]
    other = ("/a%zzb", "/a%", "/a%4", "/a%c3%A4", "/%2e%2E/x", "/a/%2e", "/a/.%2e", "/a/b/...", "/a/b/../../../c")
    routes = [
        to("web", {"safe_regex": regex("/rx.*")}, prefix_rewrite="/whole"),
        to("web", {"path": "/exact"}, prefix_rewrite="/rewritten"),
        to("web", {"prefix": "/Pre/x", "case_sensitive": False}, prefix_rewrite="/p"),
        to("web", {"path_separated_prefix": "/sep"}, prefix_rewrite="/s"),
        redirects({"prefix": "/to/x"}, prefix_rewrite="/t"),
        redirects({"safe_regex": regex("/re.*")}, prefix_rewrite="/whole"),
    ]
    paths = ("/rx/a;v=1", "/rx/a;v=1/b?q", "/exact;v=1?x", "/pre;a=b/x/y", "/PRE/x;a=b/y", "/sep;x=1/y", "/sep/y")
    paths += ("/to;a=b/x/y?q", "/to/x;a/y", "/re/a;v=1/b?q")
    substituted = (
        *(("(sub0)", "a\\0b\\1"), ("(sub1)", "\\9"), ("(sub2)", "a\\xb"), ("sub3", "a\\"), ("sub4", "a\\\\b")),
        *(
            ("sub5|x*", "-"),
            ("sub6(x)?", "<\\1>"),
            ("^/|sub7", "/"),
            ("(sub8)|(y)", "\\2"),
            ("b*", "/"),
            ("(?i)SUB10", "a"),
        ),
    )
    changing = [
        to("web", {"prefix": f"/sub{number}/"}, regex_rewrite={"pattern": regex(pattern), "substitution": text})
        for number, (pattern, text) in enumerate(substituted)
    ]
    changed = [Case(f"http://any.example/sub{number}/axxyb/sub{number}?q") for number in range(len(substituted))]
    ignoring = {"ignore_path_parameters_in_path_matching": True}
    return {
        "paths": (
            manager(one(to("web", {"prefix": "/"})), normalize_path=True),
            [Case(f"http://any.example{path}") for path in (*plain, *escaped, *other)],
        ),
        "substitutions": (manager(one(*changing)), changed),
        "parameters": (manager(one(*routes), ignoring), [Case(f"http://any.example{path}") for path in paths]),
    }


def scheme_scenes() -> dict[str, Scene]:
    """Return managers that believe ``x-forwarded-proto``, or set it."""
    https = {"string_match": {"exact": "https"}}
    routes = [
        redirects({"prefix": "/r"}, path_redirect="/n"),
        says({"prefix": "/d"}, 201),
        says({"prefix": "/s", "headers": [header(":scheme", **https)]}, 211),
        says({"prefix": "/p", "headers": [header("x-forwarded-proto", **https)]}, 212),
        says({"prefix": "/"}, 210),
    ]
    hosts = one(*routes)
    hosts.append(
        {"name": "tls", "domains": ["tls.example"], "require_tls": "ALL", "routes": [says({"prefix": "/"}, 214)]}
    )
    urls = ("h.example/s", "h.example/p", "h.example/r", "h.example/d", "tls.example/")
    cases = [Case(f"http://{url}", headers=headers) for url in urls for headers in PROTOS]
    cases += [
        Case("http://h.example/r", headers=(f"host: h.example:{port}", *headers))
        for port in (80, 443)
        for headers in PROTOS
    ]
    managers: dict[str, Json] = {
        "proto": {},
        "proto-edge": {"use_remote_address": True},
        "proto-hops": {"use_remote_address": True, "xff_num_trusted_hops": 1},
        "proto-https": {"scheme_header_transformation": {"scheme_to_overwrite": "https"}},
        "proto-http": {"scheme_header_transformation": {"scheme_to_overwrite": "http"}},
    }
    return {name: (manager(hosts, **fields), cases) for name, fields in managers.items()}


def header_scenes() -> dict[str, Scene]:
    """Return managers that remove headers, and one that has several of one name."""
    names = [*(text.partition(":")[0] for text in SENT), "x-nominated"]
    present = [says({"path": f"/{name}", "headers": [header(name, present_match=True)]}, 210) for name in names]
    present.append(says({"path": "/value", "headers": [header("te", string_match={"exact": "trailers"})]}, 212))
    removed = [Case(f"http://any.example/{text.partition(':')[0]}", headers=(text,)) for text in SENT]
    removed.append(Case("http://any.example/x-nominated", headers=("connection: close, x-nominated", "x-nominated: a")))
    removed.append(Case("http://any.example/value", headers=("te: gzip, trailers",)))
    under = one(
        *(
            says({"prefix": "/", "headers": [header(name, present_match=True)]}, 210 + at)
            for at, name in enumerate(("x_user", "x-user"))
        ),
        says({"prefix": "/"}, 213),
    )
    underscores = [Case("http://any.example/", headers=each) for each in ((), ("x_user: a",), ("x-user: a",))]
    joined = [
        says({"path": f"/{name}", "headers": [header(name, string_match={"exact": "a,b"})]}, 210) for name in REPEATED
    ]
    joined += [
        says({"path": f"/{name}", "headers": [header(name, string_match={"exact": "b"})]}, 211) for name in REPEATED
    ]
    twice = [Case(f"http://any.example/{name}", headers=(f"{name}: a", f"{name}: b")) for name in REPEATED]
    rest = says({"prefix": "/"}, 212)

    def of_underscores(action: str) -> Json:
        return manager(under, common_http_protocol_options={"headers_with_underscores_action": action})

    return {
        "removed": (manager(one(*present, rest)), removed),
        "underscores-allowed": (of_underscores("ALLOW"), underscores),
        "underscores-dropped": (of_underscores("DROP_HEADER"), underscores),
        "underscores-refused": (of_underscores("REJECT_REQUEST"), underscores),
        "repeated": (manager(one(*joined, rest)), twice),
    }


def upgrade_scenes() -> dict[str, Scene]:
    """Return managers and routes that allow upgrades and CONNECT, or don't."""
    configs = [{"upgrade_type": "websocket"}, {"upgrade_type": "off", "enabled": False}]
    routes = [
        to("web", {"prefix": "/on"}, upgrade_configs=configs),
        to("web", {"prefix": "/off"}, upgrade_configs=[{"upgrade_type": "WebSocket", "enabled": False}]),
        to("web", {"connect_matcher": {}}, upgrade_configs=[{"upgrade_type": "CONNECT", "connect_config": {}}]),
        to("web", {"path": "/plain"}),
        says({"path": "/says"}, 210),
        redirects({"path": "/redirects"}, path_redirect="/n"),
    ]
    paths = ("/on", "/off", "/plain", "/says", "/redirects", "/none")
    cases = [Case(f"http://any.example{path}", headers=headers) for path in paths for headers in UPGRADES]
    to_connect = [Case(f"http://any.example{port}/", method="CONNECT") for port in ("", ":81")]
    cases += to_connect
    cases += [Case("http://tls.example/", headers=headers) for headers in UPGRADES]
    hosts = one(*routes)
    hosts.append({"name": "tls", "domains": ["tls.example"], "require_tls": "ALL", "routes": routes[:1]})
    connect = [to("web", {"connect_matcher": {}}), to("web", {"prefix": "/"})]
    return {
        "upgrades": (manager(hosts), cases),
        "upgrades-allowed": (manager(hosts, upgrade_configs=configs), cases),
        "connect-refused": (manager(one(*connect)), to_connect),
        "connect-none": (manager(one(connect[1]), upgrade_configs=[{"upgrade_type": "CONNECT"}]), to_connect),
    }


def value_scenes() -> dict[str, Scene]:
    """Return managers that take a value of a header for something, and weighted clusters with a host."""

    def weighted(**action: object) -> Json:
        clusters = [{"name": "web", "weight": 1, "host_rewrite_literal": "own.internal"}]
        return {"weighted_clusters": {"clusters": clusters}, **action}

    routes = [
        {"match": {"prefix": "/cluster"}, "route": {"cluster_header": "x-v"}},
        to("web", {"prefix": "/host"}, host_rewrite_header="x-v"),
        {"match": {"prefix": "/own"}, "route": weighted()},
        {"match": {"prefix": "/both"}, "route": weighted(host_rewrite_literal="route.internal")},
        {"match": {"prefix": "/by-header"}, "route": weighted(host_rewrite_header="x-v")},
    ]
    cases = [
        Case(f"http://any.example/{path}", headers=headers)
        for path in ("cluster", "host", "own", "both", "by-header")
        for headers in ((), ("x-v: web",), ("x-v: web", "x-v: api"), ("x-v: ",))
    ]
    return {"values": (manager(one(*routes)), cases)}


def _plain(message: Json) -> Json:
    return {key: value for key, value in message.items() if key != "@type"}


def scope_scene() -> Scene:
    """Return a manager whose scopes are chosen by a part of a header."""
    key = {"name": "x-s", "element_separator": ";", "element": {"key": "t", "separator": "="}}
    scopes = [
        {
            "name": f"scope {text!r}",
            "route_configuration": _plain(table(f"of {text!r}", one(says({"prefix": "/"}, status)))),
            "key": {"fragments": [{"string_key": text}]},
        }
        for text, status in (("x", 210), ("", 211), ("y=z", 212))
    ]
    made = r.http_manager("unused") | {
        "scoped_routes": {
            "name": "scopes",
            "scope_key_builder": {"fragments": [{"header_value_extractor": key}]},
            "scoped_route_configurations_list": {"scoped_route_configurations": scopes},
        }
    }
    del made["rds"]
    texts = (("t=x",), ("t",), ("a=b;t=x",), ("t=x", "t=q"), ("a", "t=x"), ("t=a;t=x",), ("",), ("t=",), ("t=y=z",), ())
    return made, [Case("http://any.example/", headers=tuple(f"x-s: {text}" for text in each)) for each in texts]


def nested_scenes() -> dict[str, Scene]:
    """Return virtual hosts whose matcher has another one, which may find nothing."""

    def action(status: int) -> Json:
        route = {"@type": "type.googleapis.com/envoy.config.route.v3.Route", **says({"prefix": "/"}, status)}
        return {"action": {"name": str(status), "typed_config": route}}

    def of(name: str) -> Json:
        return {"name": name, "typed_config": {"@type": MATCHER_TYPE, "header_name": name}}

    inner = {"matcher": {"matcher_tree": {"input": of("x-b"), "exact_match_map": {"map": {"1": action(210)}}}}}
    single = {"input": of("x-a"), "value_match": {"exact": "gold"}}
    trees: dict[str, Json] = {
        "exact": {
            "matcher_tree": {"input": of("x-a"), "exact_match_map": {"map": {"gold": inner, "a,b": action(213)}}}
        },
        "prefix": {
            "matcher_tree": {"input": of("x-a"), "prefix_match_map": {"map": {"gold": inner, "go": action(212)}}}
        },
        "list": {"matcher_list": {"matchers": [{"predicate": {"single_predicate": single}, "on_match": inner}]}},
    }
    sent = (("x-a: gold",), ("x-a: gold", "x-b: 1"), ("x-a: no",), (), ("x-a: a", "x-a: b"), ("x-a: goal",))
    cases = [Case("http://any.example/", headers=headers) for headers in sent]
    return {
        f"nested-{name}": (
            manager([{"name": "all", "domains": ["*"], "matcher": tree | {"on_no_match": action(211)}}]),
            cases,
        )
        for name, tree in trees.items()
    }


def subset_clusters(port: int) -> list[Json]:
    """Return the clusters of ``SUBSETS``, each with one endpoint."""
    made = []
    for name, config in SUBSETS.items():
        cluster = r.static_cluster(name, port) | {"lb_subset_config": config}
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] = {
            "filter_metadata": {"envoy.lb": METADATA}
        }
        made.append(cluster)
    return made


def subset_scene() -> Scene:
    """Return a manager with a route for each cluster with subsets and each subset that may be asked for."""
    asked: tuple[Json, ...] = (
        *({}, {"stage": "prod"}, {"stage": "x"}, {"zone": "x"}, {"stage": "prod", "zone": "x"}, {"tags": "a"}),
        *({"tags": "x"}, {"tags": ["a", "b"]}),
    )
    routes, cases = [], []
    for name in SUBSETS:
        for number, wanted in enumerate(asked):
            match = {"metadata_match": {"filter_metadata": {"envoy.lb": wanted}}} if wanted else {}
            routes.append(to(name, {"path": f"/{name}/{number}"}, **match))
            cases.append(Case(f"http://any.example/{name}/{number}"))
    return manager(one(*routes)), cases


def scenes() -> dict[str, Scene]:
    """Return all managers, by the names of their listeners."""
    made = host_scenes() | path_scenes() | scheme_scenes() | header_scenes() | upgrade_scenes() | value_scenes()
    return made | nested_scenes() | {"scopes": scope_scene(), "subsets": subset_scene()}


PRIORITIES = {"pp-few": ("HUUU", "HUUU"), "pp-none": ("U", "U"), "pp-degraded": ("DU", "H"), "pp-both": ("HU", "H")}
"""Clusters by the health of the endpoints of their priorities: healthy, unhealthy, degraded."""
HEALTHS = {"H": "HEALTHY", "U": "UNHEALTHY", "D": "DEGRADED"}


def priority_clusters(ports: list[int]) -> list[Json]:
    """Return the clusters of ``PRIORITIES``; each priority has one port."""
    made = []
    for name, priorities in PRIORITIES.items():
        cluster = r.static_cluster(name, 1)
        cluster["load_assignment"]["endpoints"] = [
            {
                "priority": priority,
                "lb_endpoints": [
                    member | {"health_status": HEALTHS[letter]}
                    for letter in letters
                    for member in r.assignment(name, ports[priority])["endpoints"][0]["lb_endpoints"]
                ],
            }
            for priority, letters in enumerate(priorities)
        ]
        made.append(cluster)
    return made


def priority_manager() -> Json:
    """Return a manager with a route to each of them."""
    return manager(one(*(to(name, {"path": f"/{name}"}) for name in PRIORITIES)))


def _within(prefix: str, length: int) -> Json:
    return {"source_prefix_ranges": [{"address_prefix": prefix, "prefix_len": length}]}


SOURCE_PORTS = {"sources": 20_417, "local-sources": 20_437, "source-ports": 20_457}
"""By listener, the source port that its chains look at. A source is used once: it may not be free again at once."""
SOURCES: dict[str, tuple[Json, ...]] = {
    "sources": (
        *(
            _within("127.0.0.0", 8),
            _within("127.1.0.0", 16),
            _within("127.2.0.0", 16) | {"source_ports": [SOURCE_PORTS["sources"]]},
        ),
        _within("127.1.1.0", 24) | {"source_type": "EXTERNAL"},
    ),
    "local-sources": (
        *({"source_type": "SAME_IP_OR_LOOPBACK", **_within("127.3.0.0", 16)}, _within("127.0.0.0", 8)),
        {"source_type": "EXTERNAL"},
    ),
    "source-ports": ({"source_ports": [SOURCE_PORTS["source-ports"]]}, _within("127.1.0.0", 16)),
}
"""Listeners by what their filter chains want of the source."""


def source_listeners() -> list[Json]:
    """Return the listeners of ``SOURCES``; each chain answers with its number."""
    made = []
    for name, matches in SOURCES.items():
        chains = [
            {
                "name": f"{name} {number}",
                "filter_chain_match": match,
                "filters": [{"name": "http", "typed_config": manager(one(says({"prefix": "/"}, 200, str(number))))}],
            }
            for number, match in enumerate(matches)
        ]
        made.append({"@type": r.LISTENER, "name": name, "address": r.address(0), "filter_chains": chains})
    return made
