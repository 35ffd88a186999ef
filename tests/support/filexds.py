"""Converts a directory in the product's format to Envoy's file-based xDS, for an Envoy without a control plane.

It reads directories independently of the product, so that an Envoy can check resources before any of the product's
code has touched them.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from support import resources as r
from support.bootstrap import ANY_ADMIN, node

Key = tuple[str, str]


def read_group(directory: Path, group: str = "default") -> list[r.Json]:
    """Return the resources of a group's nodes: its own over those of the groups it extends."""
    extends = {name: (spec or {}).get("extends") for name, spec in _groups(directory).get("groups", {}).items()}
    merged: dict[Key, r.Json] = {}
    line = [group]
    while (base := extends.get(line[-1])) is not None:
        line.append(base)
    for member in reversed(line):
        merged |= {(resource["@type"], r.name_of(resource)): resource for resource in _read_own(directory, member)}
    return list(merged.values())


def groups_in(directory: Path) -> list[str]:
    """Return the groups for which a directory has resources."""
    named = sorted(child.name for child in directory.iterdir() if child.is_dir() and any(child.rglob("*.y*ml")))
    return named + (["default"] if _read_own(directory, "default") else [])


def _groups(directory: Path) -> Mapping[str, Any]:
    path = directory / "groups.yaml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def _read_own(directory: Path, group: str) -> list[r.Json]:
    files = directory.glob("*.y*ml") if group == "default" else (directory / group).rglob("*.y*ml")
    own = [path for path in sorted(files) if path != directory / "groups.yaml"]
    return [resource for path in own for resource in yaml.safe_load(path.read_text())["resources"]]


def move_ports(resources: Iterable[r.Json], ports: Mapping[int, int]) -> list[r.Json]:
    """Return copies with each ``port_value`` replaced by ``ports``; others stay."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        if isinstance(value, dict):
            made = {key: moved(one) for key, one in value.items()}
            return made | (
                {"port_value": ports.get(value["port_value"], value["port_value"])} if "port_value" in value else {}
            )
        return value

    return [moved(resource) for resource in resources]


def ports_in(resources: Iterable[r.Json], type_url: str) -> set[int]:
    """Return the port numbers named in resources of a type."""
    return {
        int(port)
        for one in resources
        if one["@type"] == type_url
        for port in re.findall(r"'port_value': (\d+)", str(one))
    }


def file_bootstrap(directory: Path, resources: Iterable[r.Json]) -> r.Json:
    """Write resources as file-based xDS into ``directory`` and return the bootstrap of an Envoy that reads them.

    Clusters and listeners are written to one file each. Endpoints, routes and secrets have a file for each resource,
    since Envoy treats all of a file's resources as the answer to its one subscription. Every ``ads: {}`` is replaced by
    the path of its resource.
    """
    every = list(resources)
    paths = {(one["@type"], r.name_of(one)): _path(directory, one) for one in every}
    rewritten = [_rewritten(one, paths) for one in every]
    for one in rewritten:
        if one["@type"] not in (r.CLUSTER, r.LISTENER):
            r.write_file(_path(directory, one), [one])
    dynamic = {}
    for field, type_url in (("cds_config", r.CLUSTER), ("lds_config", r.LISTENER)):
        path = directory / f"{field}.yaml"
        r.write_file(path, [one for one in rewritten if one["@type"] == type_url])
        dynamic[field] = {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
    return {"node": node("file", "file"), "admin": ANY_ADMIN, "dynamic_resources": dynamic}


def _path(directory: Path, resource: r.Json) -> Path:
    return directory / resource["@type"].rsplit(".", 1)[-1] / f"{r.name_of(resource)}.yaml"


def _rewritten(resource: r.Json, paths: Mapping[Key, Path]) -> r.Json:
    def source(type_url: str, name: str) -> r.Json:
        return {"path_config_source": {"path": str(paths[type_url, name])}, "resource_api_version": "V3"}

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(one) for one in value]
        if not isinstance(value, dict):
            return value
        made = {key: walk(one) for key, one in value.items()}
        if "sds_config" in made:
            made["sds_config"] = source(r.SECRET, made["name"])
        if "route_config_name" in made and "config_source" in made:
            made["config_source"] = source(r.ROUTE, made["route_config_name"])
        if "eds_cluster_config" in made:
            eds = made["eds_cluster_config"]
            eds["eds_config"] = source(r.ENDPOINTS, eds.get("service_name", made["name"]))
        return made

    return walk(resource)
