"""grpcio's own xDS client (``xds:///``), the main client besides Envoy: SotW, and never by wildcard.

Calls run all the time, in a process of their own; a single failed call fails the test.
"""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support import resources as r
from support.echo import EchoClient, EchoUpstreams
from support.server import XDS, XdsServer

TARGET = "svc1"


def path_to(cluster: str, *ports: int) -> list[r.Json]:
    """Return the minimum for a gRPC client: an API listener, a route, a cluster and its endpoints."""
    return [
        r.api_listener(TARGET, "r1"),
        r.route("r1", routes=[r.prefix("", cluster)], domains=[TARGET]),
        r.cluster(cluster, service_name=f"{cluster}-eds", lb_policy="ROUND_ROBIN"),
        r.assignment(f"{cluster}-eds", *ports),
    ]


@asynccontextmanager
async def served(directory: Path, resources: list[r.Json]) -> AsyncIterator[tuple[XdsServer, EchoClient]]:
    """Serve resources to a client that makes calls, with the bootstrap that the command prints."""
    r.write_directory(directory, resources)
    async with XdsServer(directory) as server:
        await server.wait_ready()
        argv = [XDS, "bootstrap", "--grpc", "--node-id", "grpc-1", "--cluster", "c1"]
        argv += ["--server", f"127.0.0.1:{server.port}", "--region", "r", "--zone", "z"]
        bootstrap = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
        async with EchoClient(f"xds:///{TARGET}", bootstrap) as client:
            yield server, client


async def test_the_first_call_is_answered_at_once(tmp_path):
    async with EchoUpstreams("a") as up, served(tmp_path, path_to("ca", up.ports["a"])) as (server, client):
        report = await client.wait_served_by({"a"})
        assert report.failed == {}, report.samples
        assert report.first_ms is not None
        print(f"channel to first answer: {report.first_ms:.0f} ms")
        metrics = await server.wait_metrics(server.is_quiet)
    assert report.first_ms < 1_000
    counted = {name: metrics[f"xds_{name}_total"] for name in ("streams_opened", "resources_sent", "nacks")}
    assert counted == {"streams_opened": 1, "resources_sent": 4, "nacks": 0}


async def test_a_change_of_endpoints_reaches_it_and_no_call_fails(tmp_path):
    async with EchoUpstreams("a", "b") as up, served(tmp_path, path_to("ca", up.ports["a"])) as (server, client):
        await client.wait_served_by({"a"})
        for names in (("a", "b"), ("b",), ("a",)):
            r.write_directory(tmp_path, [r.assignment("ca-eds", *(up.ports[name] for name in names))])
            report = await client.wait_served_by(set(names))
        assert report.failed == {}, report.samples
        assert (await server.metrics())["xds_nacks_total"] == 0


async def test_a_route_to_a_new_cluster_with_removal_of_the_old_one_fails_no_call(tmp_path):
    async with EchoUpstreams("a", "b") as up, served(tmp_path, path_to("ca", up.ports["a"])) as (server, client):
        await client.wait_served_by({"a"})
        for _ in range(5):
            for name in ("b", "a"):
                r.write_directory(tmp_path, path_to(f"c{name}", up.ports[name]))
                report = await client.wait_served_by({name})
        assert report.failed == {}, report.samples
        assert (await server.metrics())["xds_nacks_total"] == 0


async def test_a_server_restart_fails_no_call_and_sends_nothing(tmp_path):
    async with EchoUpstreams("a", "b") as up, served(tmp_path, path_to("ca", up.ports["a"])) as (server, client):
        await client.wait_served_by({"a"})
        server.kill()
        await client.wait_served_by({"a"}, calls=100)
        server.start()
        await server.wait_ready()
        metrics = await server.wait_metrics(lambda said: said["xds_requests_total"] >= 4, timeout_s=30.0)
        assert metrics["xds_resources_sent_total"] == 0
        await client.wait_served_by({"a"})
        r.write_directory(tmp_path, [r.assignment("ca-eds", up.ports["b"])])
        report = await client.wait_served_by({"b"})
        assert report.failed == {}, report.samples


async def test_a_name_that_comes_later_makes_the_calls_work(tmp_path):
    """Calls fail until it exists, as gRPC waits 15 s for an unanswered name; then they work without a new channel."""
    async with EchoUpstreams("a") as up, served(tmp_path, [r.cluster("c"), r.assignment("c")]) as (server, client):
        await server.wait_metrics(lambda said: said["xds_requests_total"] >= 1)
        r.write_directory(tmp_path, path_to("ca", up.ports["a"]))
        report = await client.wait_served_by({"a"}, timeout_s=20.0)
        assert set(report.failed) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, report.samples
