"""Every example configuration, served by ``xds serve`` to a real Envoy of each of its groups."""

import shutil
from pathlib import Path

import pytest
import yaml
from support import resources as r
from support.envoy import EnvoyProcess
from support.filexds import groups_in, move_ports, ports_in, read_group
from support.forms import DELTA_ADS, SOTW_ADS
from support.ports import free_port
from support.server import XdsServer

SNAPSHOTS = Path(__file__).parents[2] / "snapshots"
EXAMPLES = sorted(path.name for path in SNAPSHOTS.iterdir() if (path / "README.md").exists())
NODES: dict[str, r.Json] = {
    "default": {"id": "n1", "cluster": "edge"},
    "prod": {"id": "n1", "cluster": "shop"},
    "prod-eu": {"id": "n1", "cluster": "shop", "locality": {"region": "eu-west"}},
    "staging": {"id": "staging-1", "cluster": "shop"},
}
"""A node of each group, as the examples' rules say."""

pytestmark = pytest.mark.envoy


def copied(name: str, directory: Path) -> Path:
    """Copy an example with its listeners moved to free ports."""
    source = SNAPSHOTS / name
    shutil.copytree(source, directory, dirs_exist_ok=True)
    ports: dict[int, int] = {}
    for path in sorted(directory.rglob("*.yaml")):
        if path.name == "groups.yaml":
            continue
        resources = yaml.safe_load(path.read_text())["resources"]
        for port in ports_in(resources, r.LISTENER):
            ports.setdefault(port, free_port())
        r.write_file(path, move_ports(resources, ports))
    return directory


def wanted(directory: Path, group: str) -> dict[str, set[str]]:
    """Return the names of the clusters, listeners and routes that a group's Envoys are to have."""
    resources = read_group(directory, group)
    kinds = {"clusters": r.CLUSTER, "listeners": r.LISTENER, "routes": r.ROUTE}
    return {kind: {r.name_of(x) for x in resources if x["@type"] == type_url} for kind, type_url in kinds.items()}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_envoy_of_each_group_goes_live_on_what_is_served_and_rejects_nothing(name, tmp_path):
    directory = copied(name, tmp_path)
    async with XdsServer(directory) as server:
        await server.wait_ready()
        for group in groups_in(SNAPSHOTS / name):
            if group == "base":  # which others extend, and no node belongs to
                continue
            for form in (DELTA_ADS, SOTW_ADS):
                async with EnvoyProcess(form.bootstrap(server.port) | {"node": NODES[group]}) as envoy:
                    await envoy.wait_live()
                    found = await envoy.dynamic_names()
                    assert {kind: found[kind] for kind in ("clusters", "listeners", "routes")} == wanted(
                        directory, group
                    )
                    assert await envoy.nacks() == 0
        assert server.events("nack") == []
