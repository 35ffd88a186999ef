"""A real Envoy that is given one file of resources after another, and says of each whether and as what it takes it.

It subscribes to files (``path_config_source``), so it reads the very text that the product reads. Static hosts in its
bootstrap refer to each type of resource under a fixed name (``NAMES``).
"""

import asyncio
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from corpus.values import without_ports
from support import resources as r
from support.bootstrap import ANY_ADMIN, node
from support.envoy import EnvoyProcess
from support.processes import ChildFailedError

Json = dict[str, Any]

CLUSTERS = (
    "backend",
    "backend-v2",
    "backend-canary",
    "authz",
    "ratelimit",
    "accesslog",
    "tracing",
    "jwks",
    "sts",
    "tap",
    "xds",
    *"cd",
)
"""The clusters that every resource of the corpus may refer to."""
NAMES = {
    "routes": "main",
    "endpoints": "backend-eds",
    "extension_configs": "ext",
    "certificates": "pair",
    "validation_contexts": "trust",
    "runtimes": "layer",
}
"""The name that a resource of a kind must have in the corpus."""


@dataclass(frozen=True)
class Kind:
    """How a type of resource is given to Envoy, and found again in its config dump."""

    full_name: str
    stats: str
    """The prefix of the subscription's stats."""
    dump: str
    """The name of the message in the config dump, without ``ConfigDump``; empty if Envoy does not keep the resource."""
    empty: str
    """A file that Envoy takes before the first case."""


SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
PAIR = {
    "tls_certificate": {
        "certificate_chain": {"inline_string": r.DEMO_CERT},
        "private_key": {"inline_string": r.DEMO_KEY},
    }
}
TRUST = {"validation_context": {"trusted_ca": {"inline_string": r.DEMO_CERT}}}

KINDS = {
    "listeners": Kind("envoy.config.listener.v3.Listener", "listener_manager.lds", "Listeners", "[]"),
    "clusters": Kind("envoy.config.cluster.v3.Cluster", "cluster_manager.cds", "Clusters", "[]"),
    "routes": Kind(
        "envoy.config.route.v3.RouteConfiguration",
        "http.of_routes.rds.main",
        "Routes",
        f'[{{"@type": "{r.ROUTE}", "name": "main"}}]',
    ),
    "endpoints": Kind(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster.of_endpoints",
        "",
        f'[{{"@type": "{r.ENDPOINTS}", "cluster_name": "backend-eds"}}]',
    ),
    "extension_configs": Kind(
        "envoy.config.core.v3.TypedExtensionConfig",
        "extension_config_discovery.http_filter.ext",
        "Ecds",
        f'[{{"@type": "{r.EXTENSION}", "name": "ext", "typed_config": {{"@type": "{r.ROUTER}"}}}}]',
    ),
    "scoped_routes": Kind(
        "envoy.config.route.v3.ScopedRouteConfiguration", "http.of_scopes.scoped_rds.scopes", "ScopedRoutes", "[]"
    ),
    "virtual_hosts": Kind(
        "envoy.config.route.v3.VirtualHost",
        "http.of_routes.rds.main",
        "",
        f'[{{"@type": "{r.ROUTE}", "name": "main"}}]',
    ),
    "certificates": Kind(SECRET, "sds.pair", "", json.dumps([{"@type": r.SECRET, "name": "pair", **PAIR}])),
    "validation_contexts": Kind(SECRET, "sds.trust", "", json.dumps([{"@type": r.SECRET, "name": "trust", **TRUST}])),
    "runtimes": Kind(
        "envoy.service.runtime.v3.Runtime",
        "runtime",
        "",
        f'[{{"@type": "{r.RUNTIME}", "name": "layer", "layer": {{}}}}]',
    ),
}
"""The kinds of resources, by the directory of their cases. Envoy gets virtual hosts on demand by gRPC alone: here it is
given them in a route configuration."""


_BESIDE = {"validation_contexts": "certificates", "certificates": "validation_contexts"}
"""The kinds that Envoy judges together with a resource of another one, which has to be good."""
_IN_ANOTHER = {"virtual_hosts": "routes"}
"""The kinds that Envoy gets in a file of another one."""


@dataclass(frozen=True)
class Judgement:
    """What Envoy says of a file: its words if it refuses it, otherwise the resources as it has them."""

    refusal: str
    resources: tuple[Json, ...] = ()


class LiveEnvoy(EnvoyProcess):
    """An Envoy that reads files with one suffix: ``yaml`` by its YAML parser, ``json`` by protobuf's JSON parser."""

    def __init__(self, directory: Path, suffix: str) -> None:
        self.files = {kind: directory / f"{kind}.{suffix}" for kind in KINDS}
        for kind, path in self.files.items():
            path.write_text(f'{{"resources": {KINDS[kind].empty}}}')
        extra = ["--reject-unknown-dynamic-fields", "--drain-time-s", "1", "--log-format", "%v"]
        super().__init__(bootstrap(self.files), name=f"envoy-{suffix}", extra=extra)
        self.argv = ["env", "-C", str(self.directory), *self.argv]  # extensions make files that have relative paths

    async def judge(self, kind: str, text: str, *, shows: bool = True) -> Judgement:
        """Give Envoy a file and wait until it has taken or refused it; ``shows``: what it has then is asked for."""
        if kind in _BESIDE:
            await self._give(_BESIDE[kind], f'{{"resources": {KINDS[_BESIDE[kind]].empty}}}', shows=False)
        return await self._give(kind, text, shows=shows)

    async def _give(self, kind: str, text: str, *, shows: bool) -> Judgement:
        before, log_at = await self._counts(kind), len(self.log())
        path = self.files[_IN_ANOTHER.get(kind, kind)]
        if kind == "virtual_hosts":
            text = _around(text)
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)  # Envoy watches for renames alone
        done = await self._wait(
            lambda: self._counts(kind), lambda now: _ended(before, now), f"no verdict on {kind}", timeout_s=20.0
        )
        if done["update_success"] > before["update_success"]:
            return Judgement("", tuple(await self._taken(kind)) if shows else ())
        return Judgement(" ".join(self.log()[log_at:].split()) or "refused without a word")

    async def judge_each(self, kind: str, resources: list[Json]) -> dict[str, Judgement]:
        """Judge many resources of one type together, and those of a file that is refused again in halves."""
        full = [{"@type": r.TYPE + KINDS[kind].full_name, **resource} for resource in resources]
        found = await self.judge(kind, json.dumps({"resources": full}))
        if len(resources) > 1 and found.refusal:
            half = len(resources) // 2
            return await self.judge_each(kind, resources[:half]) | await self.judge_each(kind, resources[half:])
        taken = {each["name"]: Judgement("", (each,)) for each in found.resources}
        return {each["name"]: taken[each["name"]] if not found.refusal else found for each in resources}

    async def extensions(self) -> dict[tuple[str, str], str]:
        """Return the extensions that Envoy was built with: category and full name of a type → name."""
        (dump,) = [each for each in (await self.config_dump())["configs"] if "bootstrap" in each]
        found: dict[tuple[str, str], str] = {}
        for each in dump["bootstrap"]["node"]["extensions"]:
            for full_name in each.get("type_urls", ()):
                found.setdefault((each["category"], full_name), each["name"])
        return found

    async def _counts(self, kind: str) -> dict[str, int]:
        prefix = KINDS[kind].stats
        found = await self.stats(f"^{re.escape(prefix)}.update_(attempt|success|rejected|failure)$")
        return {name.removeprefix(prefix + "."): value for name, value in found.items()}

    async def _taken(self, kind: str) -> list[Json]:
        if not KINDS[kind].dump:
            return []
        dump = await self.config_dump()
        sections = [each for each in dump["configs"] if each["@type"].endswith(f".{KINDS[kind].dump}ConfigDump")]
        newest = {each["name"]: each for each in _resources(sections)}  # a warming resource comes after the active one
        return list(newest.values())


def _around(text: str) -> str:
    """Return a file of virtual hosts as one with a route configuration that has them."""
    hosts = [
        {key: value for key, value in each.items() if key != "@type"} for each in yaml.safe_load(text)["resources"]
    ]
    return json.dumps({"resources": [{"@type": r.ROUTE, "name": NAMES["routes"], "virtual_hosts": hosts}]})


def refusals(directory: Path, resources: dict[str, Json]) -> dict[str, str]:
    """Return why a real Envoy refuses each of these resources, by name, "" for those that it takes.

    It is given one after the other, in a tenth of the time of an Envoy for each. None may make a fresh one crash; one
    that has refused hundreds may, now and then, as it frees what it refused (Envoy 1.40), and another one goes on.
    """
    left, said = dict(resources), dict[str, str]()

    async def ask() -> None:
        async with LiveEnvoy(directory, "json") as envoy:
            await envoy.wait_live()
            for name, resource in resources.items():
                if name in left:
                    said[name] = (await envoy.judge(*_served(resource), shows=False)).refusal
                    del left[name]

    while left:
        before = len(left)
        try:
            asyncio.run(ask())
        except (ChildFailedError, ConnectionError):
            if len(left) == before:
                raise
    return said


_BY_TYPE = {
    r.TYPE + kind.full_name: name for name, kind in KINDS.items() if name in ("clusters", "listeners", "routes")
}


def _served(resource: Json) -> tuple[str, str]:
    """Return the kind of a resource and a file with it; endpoints stand in a cluster of their own."""
    if resource["@type"] == r.ENDPOINTS:
        return "endpoints", json.dumps({"resources": [resource | {"cluster_name": NAMES["endpoints"]}]})
    kind = _BY_TYPE[resource["@type"]]
    named = resource | {"name": NAMES.get(kind, resource["name"])}
    text = json.dumps({"resources": [named]})
    return kind, without_ports(text) if kind == "listeners" else text


def _ended(before: dict[str, int], now: dict[str, int]) -> bool:
    ends = ("update_success", "update_rejected", "update_failure")
    return any(now.get(end, 0) > before.get(end, 0) for end in ends)


def _resources(section: Any) -> list[Json]:
    """Return the resources in the dynamic parts of a section of the config dump."""
    if isinstance(section, list):
        return [resource for each in section for resource in _resources(each)]
    found: list[Json] = []
    for key, value in section.items():
        if key in ("listener", "cluster", "route_config", "ecds_filter"):
            found.append(value)
        elif key == "scoped_route_configs" and isinstance(value, list):
            found += value
        elif key.startswith("dynamic_") or key in ("active_state", "warming_state", "ecds_filters"):
            found += _resources(value)
    return found


def common_clusters() -> list[Json]:
    """Return the clusters that every resource of the corpus may refer to."""
    return [{"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name}} for name in CLUSTERS]


def bootstrap(files: dict[str, Path]) -> Json:
    """Return a bootstrap that subscribes to each file."""
    source = {
        kind: {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"} for kind, path in files.items()
    }
    of_endpoints = {
        "name": "of_endpoints",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source["endpoints"], "service_name": NAMES["endpoints"]},
    }
    router = {"name": "router", "typed_config": {"@type": r.ROUTER}}
    secrets = {
        kind: {"name": NAMES[kind], "sds_config": source[kind]} for kind in ("certificates", "validation_contexts")
    }
    tls = {
        "@type": r.UPSTREAM_TLS,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [secrets["certificates"]],
            "validation_context_sds_secret_config": secrets["validation_contexts"],
        },
    }
    of_secrets = {"name": "of_secrets", "type": "STATIC", "transport_socket": {"name": "tls", "typed_config": tls}}
    scopes = {
        "name": "scopes",
        "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "x-scope", "index": 0}}]},
        "rds_config_source": source["routes"],
        "scoped_rds": {"scoped_rds_config_source": source["scoped_routes"]},
    }
    discovered = {
        "name": "ext",
        "config_discovery": {"config_source": source["extension_configs"], "type_urls": EXTENSION_TYPES},
    }
    return {
        "node": node("corpus", "corpus"),
        "admin": ANY_ADMIN,
        "layered_runtime": {
            "layers": [
                {"name": "discovered", "rtds_layer": {"name": NAMES["runtimes"], "rtds_config": source["runtimes"]}}
            ]
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": source["clusters"],
            "lds_config": source["listeners"],
        },
        "static_resources": {
            "clusters": [*common_clusters(), of_endpoints, of_secrets],
            "listeners": [
                _http_listener(
                    "of_routes", {"rds": {"route_config_name": "main", "config_source": source["routes"]}}, router
                ),
                _http_listener("of_scopes", {"scoped_routes": scopes}, router),
                _http_listener("of_extensions", {"route_config": {"name": "none"}}, discovered, router),
            ],
        },
    }


EXTENSION_TYPES = [
    "type.googleapis.com/envoy.extensions.filters.http." + name
    for name in (
        "router.v3.Router",
        "lua.v3.Lua",
        "fault.v3.HTTPFault",
        "buffer.v3.Buffer",
        "rbac.v3.RBAC",
        "header_mutation.v3.HeaderMutation",
        "local_ratelimit.v3.LocalRateLimit",
        "cors.v3.Cors",
        "ext_authz.v3.ExtAuthz",
    )
]


def _http_listener(name: str, routes: Json, *filters: Json) -> Json:
    manager = {"@type": r.HTTP_MANAGER, "stat_prefix": name, "http_filters": list(filters), **routes}
    return {
        "name": name,
        "address": r.address(0),
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
