"""A real Envoy that is given one file of resources after another, and says of each whether and as what it takes it.

It subscribes to files (``path_config_source``), so it reads the very text that the product reads. Static hosts in its
bootstrap refer to each type of resource under a fixed name (``NAMES``).
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import resources as r
from support.bootstrap import ANY_ADMIN, node
from support.envoy import EnvoyProcess

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
)
"""The clusters that every resource of the corpus may refer to."""
NAMES = {"routes": "main", "endpoints": "backend-eds", "extension_configs": "ext"}
"""The name that a resource of a type must have in the corpus."""


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
}


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

    async def judge(self, kind: str, text: str) -> Judgement:
        """Give Envoy a file and wait until it has taken or refused it."""
        before, log_at = await self._counts(kind), len(self.log())
        path = self.files[kind]
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)  # Envoy watches for renames alone
        done = await self._wait(
            lambda: self._counts(kind), lambda now: _ended(before, now), f"no verdict on {kind}", timeout_s=20.0
        )
        if done["update_success"] > before["update_success"]:
            return Judgement("", tuple(await self._taken(kind)))
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
    discovered = {
        "name": "ext",
        "config_discovery": {"config_source": source["extension_configs"], "type_urls": EXTENSION_TYPES},
    }
    return {
        "node": node("corpus", "corpus"),
        "admin": ANY_ADMIN,
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
            "clusters": [*common_clusters(), of_endpoints],
            "listeners": [
                _http_listener(
                    "of_routes", {"rds": {"route_config_name": "main", "config_source": source["routes"]}}, router
                ),
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
