"""Cases of what Envoy takes although it looks wrong, beside the like that it refuses."""

from typing import Any

from schema.semantic_cases import Case
from support import resources as r
from support.static_envoy import hcm, listener, typed, virtual_host

ANY = {"prefix": "/"}
FINE = {"direct_response": {"status": 200}}
REGEX = "virtual_hosts[0].routes[0].match.safe_regex.regex"
ACTION = "virtual_hosts[0].routes[0].route"
CHOOSING = {"on_no_match": {"action": typed("a", r.TYPE + "google.protobuf.StringValue", value="a")}}
RANGE = {"prefix_ranges": [{"address_prefix": "foo", "prefix_len": 8}]}
REDIS = r.TYPE + "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"


def routes(**fields: Any) -> r.Json:
    return {"@type": r.ROUTE, "name": "r"} | fields


def route(action: r.Json = FINE, match: r.Json = ANY, **fields: Any) -> r.Json:
    return routes(virtual_hosts=[virtual_host(routes=[{"match": match, **action, **fields}])])


def regex(text: str) -> r.Json:
    return route(match={"safe_regex": {"regex": text}})


def domains(*names: str) -> r.Json:
    return routes(virtual_hosts=[virtual_host(f"v{number}", (name,)) for number, name in enumerate(names)])


def upgrades(*names: str) -> r.Json:
    return route({"route": {"cluster": "c", "upgrade_configs": [{"upgrade_type": name} for name in names]}})


def body(size: int, limit: int) -> r.Json:
    made = {"direct_response": {"status": 200, "body": {"inline_string": "x" * size}}}
    return route(made) | {"max_direct_response_body_size_bytes": limit}


def chain(**match: Any) -> r.Json:
    return {"filters": [hcm()], "filter_chain_match": match}


def chains(*matches: r.Json, **fields: Any) -> r.Json:
    return listener(filter_chains=[chain(**each) for each in matches], **fields)


def default(**match: Any) -> r.Json:
    return listener(default_filter_chain=chain(**match))


def chosen(**match: Any) -> r.Json:
    return listener(filter_chains=[chain(**match) | {"name": "a"}], filter_chain_matcher=CHOOSING)


def redis(*prefixes: str) -> r.Json:
    made = {"routes": [{"prefix": each, "cluster": "c"} for each in prefixes], "case_insensitive": True}
    return listener(typed("redis", REDIS, stat_prefix="s", settings={"op_timeout": "1s"}, prefix_routes=made))


MATCH = "filter_chains[0].filter_chain_match"
REGEX_CASES: list[Case] = [
    ("regex-range-of-bytes", regex("[ü-á]"), ""),
    ("regex-letters", regex("(?i)ü[^a]€"), ""),
    ("regex-beyond-bytes", regex(r"\x{10ffff}"), REGEX),
    ("regex-name-of-bytes", regex("(?P<ü>a)"), REGEX),
]
LETTER_CASES: list[Case] = [
    ("domains-umlauts", domains("Ä.com", "ä.com"), ""),
    ("domains-kelvin", domains("\u212a.com", "k.com"), ""),
    ("domains-ascii-in-umlauts", domains("Aä.com", "aä.com"), "virtual_hosts[1].domains[0]"),
    ("upgrades-umlauts", upgrades("Ä", "ä"), ""),
    ("upgrades-ascii-in-umlauts", upgrades("Aä", "aä"), f"{ACTION}.upgrade_configs[1].upgrade_type"),
    ("names-umlauts", chains({"server_names": ["Ä.com"]}, {"server_names": ["ä.com"]}), ""),
    (
        "hcm-upgrades-umlauts",
        listener(hcm(upgrade_configs=[{"upgrade_type": "Ä"}, {"upgrade_type": "ä"}])),
        "",
    ),
    ("redis-umlauts", redis("Ä", "ä"), ""),
    ("redis-ascii", redis("A", "a"), "filter_chains[0].filters[0].typed_config.prefix_routes.routes[1].prefix"),
]
BODY_CASES: list[Case] = [
    ("body-without-limit", body(5_000, 0), ""),
    ("body-over-limit", body(11, 10), "virtual_hosts[0].routes[0].direct_response.body"),
]
CHAIN_CASES: list[Case] = [
    ("default-chain-star", default(server_names=["*"]), ""),
    ("default-chain-twice", default(server_names=["a", "a"]), ""),
    ("default-chain-suffix", default(address_suffix="a", suffix_len=3), ""),
    ("default-chain-range", default(**RANGE), ""),
    ("chosen-chain-star", chosen(server_names=["*"]), ""),
    ("chosen-chain-twice", chosen(server_names=["a", "a"]), ""),
    ("chosen-chain-range", chosen(**RANGE), ""),
    ("chosen-chain-suffix", chosen(address_suffix="a"), f"{MATCH}.address_suffix"),
    ("chain-suffix", chains({"address_suffix": "a"}), f"{MATCH}.address_suffix"),
    (
        "chain-range-of-sources",
        chains({"direct_source_prefix_ranges": RANGE["prefix_ranges"]}),
        f"{MATCH}.direct_source_prefix_ranges[0].address_prefix",
    ),
]
CASES = [*REGEX_CASES, *LETTER_CASES, *BODY_CASES, *CHAIN_CASES]
