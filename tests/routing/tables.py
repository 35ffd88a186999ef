"""Realistic route tables, and the requests that are sent through them: for a real Envoy, and for ``xds.routing``."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from support import resources as r
from support.resources import Json

UPSTREAMS = ("web", "web-canary", "cart", "search", "api", "api-v2", "legacy")
TEMPLATE_MATCH = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
TEMPLATE_REWRITE = "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"
HEADER_INPUT = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
ROUTE_ACTION = "type.googleapis.com/envoy.config.route.v3.Route"


@dataclass(frozen=True, slots=True)
class Case:
    """One request: its URL, method and headers."""

    url: str
    method: str = "GET"
    headers: tuple[str, ...] = field(default=())


def to(cluster: str, match: Json, **action: object) -> Json:
    """Return a route to a cluster."""
    return {"match": match, "route": {"cluster": cluster, **action}}


def says(match: Json, status: int = 200, body: str = "") -> Json:
    """Return a route that answers by itself."""
    return {
        "match": match,
        "direct_response": {"status": status, **({"body": {"inline_string": body}} if body else {})},
    }


def redirects(match: Json, **action: object) -> Json:
    """Return a route that redirects."""
    return {"match": match, "redirect": action}


def header(name: str, **matcher: object) -> Json:
    """Return a header matcher."""
    return {"name": name, **matcher}


def regex(text: str) -> Json:
    """Return a regular expression."""
    return {"regex": text}


def template(pattern: str) -> Json:
    """Return a match by a path template."""
    config = {"@type": TEMPLATE_MATCH, "path_template": pattern}
    return {"path_match_policy": {"name": "template", "typed_config": config}}


def template_rewrite(pattern: str) -> Json:
    """Return a rewrite by a path template."""
    return {"name": "rewrite", "typed_config": {"@type": TEMPLATE_REWRITE, "path_template_rewrite": pattern}}


SHOP = [
    to("cart", {"path": "/cart"}),
    to("cart", {"path_separated_prefix": "/cart"}, prefix_rewrite="/v1/cart"),
    to("search", {"prefix": "/search", "query_parameters": [{"name": "q", "present_match": True}]}),
    to("search", {"prefix": "/Find", "case_sensitive": False}, prefix_rewrite="/search"),
    to("web-canary", {"prefix": "/", "headers": [header("x-canary", string_match={"exact": "yes"})]}),
    to("api", {"safe_regex": regex("/items/[0-9]+(/reviews)?")}, host_rewrite_literal="items.internal"),
    to(
        "api",
        {"prefix": "/download/"},
        regex_rewrite={"pattern": regex("^/download/(\\w+)/(\\w+)"), "substitution": "/files/\\2/of/\\1"},
    ),
    redirects({"path": "/old"}, path_redirect="/new"),
    redirects({"prefix": "/secure"}, https_redirect=True),
    redirects({"prefix": "/moved/"}, host_redirect="moved.example", prefix_rewrite="/", response_code="FOUND"),
    redirects({"prefix": "/short"}, path_redirect="/long?fixed=1", strip_query=True, response_code="SEE_OTHER"),
    redirects({"prefix": "/strip"}, strip_query=True, port_redirect=8443, response_code="TEMPORARY_REDIRECT"),
    redirects(
        {"prefix": "/rx/"},
        regex_rewrite={"pattern": regex("/rx/(.*)"), "substitution": "/\\1/rx"},
        scheme_redirect="https",
        response_code="PERMANENT_REDIRECT",
    ),
    says({"path": "/robots.txt"}, 200, "no"),
    says({"prefix": "/teapot"}, 418),
    to("web", {"prefix": "/"}),
]
API = [
    to("api-v2", {"prefix": "/v2/", "headers": [header("x-beta", present_match=True)]}, prefix_rewrite="/"),
    to("api", {**template("/users/{user}/posts/*")}, path_rewrite_policy=template_rewrite("/posts-of/{user}")),
    to("api", {**template("/media/{file=**}.m3u8")}),
    to("api-v2", {"prefix": "/", "grpc": {}}),
    to("api", {"prefix": "/v1"}, host_rewrite_header="x-host"),
    to("legacy", {"path": "/exact"}, prefix_rewrite="/rewritten"),
    to("legacy", {"safe_regex": regex("/rx.*")}, prefix_rewrite="/whole"),
    {"match": {"prefix": "/by-header"}, "route": {"cluster_header": "x-cluster"}},
    {
        "match": {"prefix": "/split"},
        "route": {
            "weighted_clusters": {"clusters": [{"name": "web", "weight": 80}, {"name": "web-canary", "weight": 20}]}
        },
    },
    to("nowhere", {"prefix": "/missing"}),
    to("nowhere", {"prefix": "/lost"}, cluster_not_found_response_code="NOT_FOUND"),
]
BY_TENANT = {
    "matcher_tree": {
        "input": {"name": "tenant", "typed_config": {"@type": HEADER_INPUT, "header_name": "x-tenant"}},
        "prefix_match_map": {
            "map": {
                "gold": {
                    "action": {"name": "gold", "typed_config": {"@type": ROUTE_ACTION, **to("api-v2", {"prefix": "/"})}}
                },
                "go": {
                    "action": {"name": "go", "typed_config": {"@type": ROUTE_ACTION, **to("api", {"prefix": "/x"})}}
                },
            }
        },
    },
    "on_no_match": {"action": {"name": "rest", "typed_config": {"@type": ROUTE_ACTION, **to("web", {"prefix": "/"})}}},
}
HOSTS: list[Json] = [
    {"name": "shop", "domains": ["shop.example", "www.shop.example:8080"], "routes": SHOP},
    {"name": "api", "domains": ["api.*", "*.api.example"], "routes": API},
    {
        "name": "longer suffix",
        "domains": ["*.eu.api.example", "*-eu.api.example"],
        "routes": [says({"prefix": "/"}, 201)],
    },
    {"name": "longer prefix", "domains": ["api.internal.*"], "routes": [says({"prefix": "/"}, 202)]},
    {"name": "tls", "domains": ["tls.example"], "require_tls": "ALL", "routes": [to("web", {"prefix": "/"})]},
    {"name": "tenants", "domains": ["tenants.example"], "matcher": BY_TENANT},
    {"name": "case", "domains": ["CASE.Example"], "routes": [says({"prefix": "/"}, 203)]},
]
SHOP_PATHS = (
    *(
        "/",
        "/cart",
        "/cart/",
        "/cart/3?x=1",
        "/cartoon",
        "/search",
        "/search?q=",
        "/search?x=1&q=2",
        "/find/me",
        "/FINDER?a",
    ),
    *(
        "/items/5",
        "/items/5/reviews",
        "/items/5/reviewsx",
        "/items/",
        "/download/a/b/c?d",
        "/download/a",
        "/old",
        "/old?a=1",
    ),
    *(
        "/secure/x?y=1",
        "/moved/on?x",
        "/short?x=1",
        "/strip?x=1",
        "/rx/a/b?c=d",
        "/robots.txt",
        "/robots.txt?x",
        "/teapot/1",
    ),
    *("/%63art", "/cart;v=1", "/a//b/../c"),
)
API_PATHS = (
    *("/v2/x", "/users/ann/posts/4", "/users/ann/posts/4/5", "/users/ann/posts/", "/media/a/b/c.m3u8", "/media/.m3u8"),
    *("/v1/x", "/exact?x=1", "/rx/abc?d", "/by-header", "/split", "/missing", "/lost", "/none"),
)
HOSTS_ASKED = (
    *("shop.example", "SHOP.example", "www.shop.example", "www.shop.example:8080", "shop.example:8080", "api.example"),
    *(
        "v1.api.example",
        "a.eu.api.example",
        "x-eu.api.example",
        "eu.api.example",
        "api.internal.example",
        "api.",
        "api.x",
    ),
    *("tls.example", "tenants.example", "case.example", "other.example", ".api.example", "[::1]", "127.0.0.1"),
)
MATCHERS: tuple[Json, ...] = (
    {"present_match": True},
    {"present_match": False},
    {"present_match": True, "invert_match": True},
    {"present_match": False, "invert_match": True},
    {"present_match": False, "treat_missing_header_as_empty": True},
    {},
    {"invert_match": True},
    {"string_match": {"exact": "abc"}},
    {"string_match": {"exact": "ABC", "ignore_case": True}},
    {"string_match": {"exact": "abc"}, "invert_match": True},
    {"string_match": {"exact": "abc"}, "invert_match": True, "treat_missing_header_as_empty": True},
    {"string_match": {"exact": ""}, "treat_missing_header_as_empty": True},
    {"string_match": {"prefix": "ab"}},
    {"string_match": {"suffix": "C", "ignore_case": True}},
    {"string_match": {"contains": "b"}},
    {"string_match": {"contains": "a,b"}},
    {"string_match": {"safe_regex": {"regex": "a.c|[0-9]+"}}},
    {"range_match": {"start": "1", "end": "10"}},
    {"range_match": {"start": "-5", "end": "0"}, "invert_match": True},
)
VALUES: tuple[tuple[str, ...], ...] = (
    *((), ("abc",), ("ABC",), ("xabc",), ("",), ("9",), ("10",), ("-5",), ("+3",), ("3.0",), ("a", "b"), ("a,b",)),
)
QUERIES: tuple[Json, ...] = (
    {"present_match": True},
    {"present_match": False},
    {},
    {"string_match": {"exact": "abc"}},
    {"string_match": {"exact": ""}},
    {"string_match": {"prefix": "a", "ignore_case": True}},
    {"string_match": {"safe_regex": {"regex": ".+"}}},
)
QUERY_TEXTS = (
    "",
    "?",
    "?x",
    "?x=",
    "?x=abc",
    "?x=ABC",
    "?x=b&x=abc",
    "?y=1&x=abc",
    "?X=abc",
    "?x=a%62c",
    "?x==abc",
    "?&x=abc#x",
)
COOKIES: tuple[Json, ...] = (
    {"string_match": {"exact": "abc"}},
    {"string_match": {"exact": "abc"}, "invert_match": True},
    {"string_match": {"prefix": "a"}},
)
COOKIE_TEXTS: tuple[tuple[str, ...], ...] = (
    *((), ("k=abc",), ("a=1; k=abc",), ("k=abc; k=x",), ("k=x; k=abc",), ('k="abc"',), ("k",), ("k=",), ("K=abc",)),
    *(("a=1", "k=abc"), ("kk=abc",), ("k = abc",), ("a=1;k=abc",)),
)


def named(routes: list[Json]) -> list[Json]:
    """Return routes that say their number in a response header, with the path and host that go upstream."""
    return [
        {
            **each,
            "response_headers_to_add": [
                {"header": {"key": key, "value": value}}
                for key, value in (
                    ("x-route", str(number)),
                    ("x-path", "%REQ(:PATH)%"),
                    ("x-authority", "%REQ(:AUTHORITY)%"),
                )
            ],
        }
        for number, each in enumerate(routes)
    ]


def table(name: str = "shop", hosts: "list[Json] | None" = None, **fields: object) -> Json:
    """Return a route configuration whose virtual hosts say their names in a response header."""
    made = []
    for host in HOSTS if hosts is None else hosts:
        said = {"response_headers_to_add": [{"header": {"key": "x-virtual-host", "value": host["name"]}}]}
        made.append(host | said | ({"routes": named(host["routes"])} if "routes" in host else {}))
    return {"@type": r.ROUTE, "name": name, "virtual_hosts": made, **fields}


def matcher_hosts() -> list[Json]:
    """Return virtual hosts with a pair of routes for each matcher: with it, and without."""

    def pairs(field: str, name: str, matchers: tuple[Json, ...]) -> list[Json]:
        made = []
        for number, each in enumerate(matchers):
            path = {"prefix": f"/{number}/"}
            made += [says({**path, field: [{"name": name, **each}]}, 200), says(path, 201)]
        return made

    return [
        {"name": "headers", "domains": ["headers.example"], "routes": pairs("headers", "x-h", MATCHERS)},
        {"name": "queries", "domains": ["queries.example"], "routes": pairs("query_parameters", "x", QUERIES)},
        {"name": "cookies", "domains": ["cookies.example"], "routes": pairs("cookies", "k", COOKIES)},
    ]


def matcher_cases() -> Iterator[Case]:
    """Yield a request for each matcher and each value."""
    for number, values in product(range(len(MATCHERS)), VALUES):
        yield Case(f"http://headers.example/{number}/", headers=tuple(f"x-h: {value}" for value in values))
    for number, query in product(range(len(QUERIES)), QUERY_TEXTS):
        yield Case(f"http://queries.example/{number}/{query.partition('#')[0]}")
    for number, texts in product(range(len(COOKIES)), COOKIE_TEXTS):
        yield Case(f"http://cookies.example/{number}/", headers=tuple(f"cookie: {text}" for text in texts))


def shop_cases() -> Iterator[Case]:
    """Yield the requests of the shop's table."""
    for path in SHOP_PATHS:
        yield Case(f"http://shop.example{path}")
    for path in ("/", "/cart", "/other"):
        yield Case(f"http://shop.example{path}", headers=("x-canary: yes",))
        yield Case(f"http://shop.example{path}", headers=("x-canary: yes", "x-canary: no"))
    for path in API_PATHS:
        yield Case(f"http://v1.api.example{path}")
        yield Case(f"http://v1.api.example{path}", headers=("x-beta: ", "x-host: h.example", "x-cluster: legacy"))
        yield Case(f"http://v1.api.example{path}", method="POST", headers=("content-type: application/grpc+proto",))
    yield Case("http://v1.api.example/by-header", headers=("x-cluster: gone",))
    for host in HOSTS_ASKED:
        yield Case("http://any.example/x?y=1", headers=(f"host: {host}",))
    for tenant in ("gold", "golden", "gone", "g", ""):
        yield Case("http://tenants.example/x", headers=(f"x-tenant: {tenant}",))
        yield Case("http://tenants.example/", headers=(f"x-tenant: {tenant}",))
    yield Case("http://tls.example/x", headers=("x-forwarded-proto: https",))
    yield Case("http://shop.example/secure/x", headers=("host: shop.example:80",))
    yield Case("http://shop.example/strip?x", headers=("host: shop.example:80",))
