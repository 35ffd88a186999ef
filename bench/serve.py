"""Serve the workload of the comparison with this control plane: delta ADS on one port, GET /push on another.

    python bench/serve.py --transport native --workers 0 --port 18000 --admin-port 18001 --clusters 100 --routes 10

A push changes one endpoint assignment, round robin, and is answered when the change was handed to the streams. The
programs in ``bench/peers`` serve the same resources by the same options. All settings are the defaults of the product.
"""

import argparse
import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from xds.config import TransportSettings
from xds.embed import ControlPlane, Settings
from xds.process.memory import return_large_blocks, settle_memory
from xds.reporting.logs import configure_logging
from xds.schema.pool import load_schema

TYPE = "type.googleapis.com/"
READY = "ready"


class Workload:
    """The resources that every server of the comparison serves: N clusters with an assignment each, and routes."""

    def __init__(self, *, clusters: int, routes: int, endpoints: int) -> None:
        if clusters < 1 or endpoints < 1 or not 0 <= routes <= clusters:
            raise ValueError("clusters and endpoints must be at least 1, and routes from 0 to the number of clusters")
        self.clusters = clusters
        self.routes = routes
        self.endpoints = endpoints
        self.version = 0
        self._assignment = load_schema().message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")

    def initial(self) -> Iterator[Any]:
        """Yield every resource as it is before the first push."""
        for number in range(self.clusters):
            yield _cluster(number)
            yield self._make_assignment(number)
        for number in range(self.routes):
            yield _route(number)

    def next_change(self) -> Any:
        """Return the assignment that the next push changes, as a message: nothing to parse stands in the way."""
        self.version += 1
        return self._make_assignment(self.version % self.clusters)

    def _make_assignment(self, number: int) -> Any:
        version = self.version
        assignment: Any = self._assignment(cluster_name=f"cluster-{number}")
        locality = assignment.endpoints.add()
        for k in range(self.endpoints):
            address = locality.lb_endpoints.add().endpoint.address.socket_address
            address.address = f"10.{number % 250}.{k % 250}.{version % 250}"
            address.port_value = 1000 + version % 60000
        return assignment


def _cluster(number: int) -> dict[str, Any]:
    return {
        "@type": TYPE + "envoy.config.cluster.v3.Cluster",
        "name": f"cluster-{number}",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"resource_api_version": "V3", "ads": {}}},
    }


def _route(number: int) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": f"cluster-{number}"}}
    return {
        "@type": TYPE + "envoy.config.route.v3.RouteConfiguration",
        "name": f"route-{number}",
        "virtual_hosts": [{"name": "vh", "domains": ["*"], "routes": [route]}],
    }


class PushPort(asyncio.Protocol):
    """Answers a connection's one request with one push; of the request it reads the first line and where it ends."""

    def __init__(self, control_plane: ControlPlane, workload: Workload) -> None:
        self._control_plane = control_plane
        self._workload = workload
        self._head = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Push once the request is complete, and close."""
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        found = self._head.startswith(b"GET /push ")
        if found:
            self._control_plane.apply(upsert=[self._workload.next_change()])
        status = b"200 OK" if found else b"404 Not Found"
        self._transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self._transport.close()


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings: the product's defaults, but for what the comparison is about."""
    transport = {"kind": options.transport}
    if options.workers or "workers" in TransportSettings.model_fields:
        transport["workers"] = options.workers
    return Settings(
        listen=f"127.0.0.1:{options.port}",
        admin="off",
        transport=transport,
        tls={
            name: path for name in ("cert", "key", "client_ca") if (path := getattr(options, f"tls_{name}")) is not None
        },
    )


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    workload = Workload(clusters=options.clusters, routes=options.routes, endpoints=options.endpoints)
    control_plane = ControlPlane(settings_of(options))
    control_plane.apply(upsert=workload.initial())
    settle_memory()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with control_plane:
        server = await loop.create_server(lambda: PushPort(control_plane, workload), "127.0.0.1", options.admin_port)
        print(READY, flush=True)
        await ended.wait()
        server.close()


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 serves in this one")
    parser.add_argument("--port", type=int, default=18000, help="of delta ADS")
    parser.add_argument("--admin-port", type=int, default=18001, help="of GET /push")
    parser.add_argument("--clusters", type=int, default=100, help="EDS clusters, and as many assignments")
    parser.add_argument("--routes", type=int, default=10, help="route configurations")
    parser.add_argument("--endpoints", type=int, default=10, help="of each assignment")
    for name in ("cert", "key", "client-ca"):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE")
    options = parser.parse_args()
    configure_logging()
    return_large_blocks()
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
