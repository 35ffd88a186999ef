"""Time to read resources, in turns: an assignment of 10 endpoints, one of a single endpoint, and a directory.

    python bench/reading.py [--rounds N] [--clusters N]

Prints the median and the least of each, in microseconds, and the seconds for the directory's YAML and JSON form.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from xds.model import types
from xds.schema.ingest import ingest
from xds.sources.directory import DirectoryReader

Measured = tuple[float, float]


def assignment(name: str, endpoints: int) -> dict[str, Any]:
    """Return an assignment with so many endpoints."""
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": f"10.0.{n // 250}.{n % 250 + 1}", "port_value": 8080}}}}
        for n in range(endpoints)
    ]
    locality = {"region": "r", "zone": "z"}
    return {
        "@type": types.ENDPOINTS,
        "cluster_name": name,
        "endpoints": [{"locality": locality, "lb_endpoints": hosts}],
    }


def cluster(name: str) -> dict[str, Any]:
    """Return an EDS cluster with the usual fields."""
    return {
        "@type": types.CLUSTER,
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "circuit_breakers": {"thresholds": [{"max_connections": 1000, "max_requests": 1000}]},
    }


def median_us(read: Callable[[], Any], rounds: int) -> Measured:
    """Return the median and the least time of a call, in microseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        read()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times), min(times)


def load_s(clusters: int, suffix: str) -> float:
    """Return the seconds to read a directory of so many clusters and assignments."""
    with tempfile.TemporaryDirectory() as directory:
        for start in range(0, clusters, 500):
            names = [f"c{number}" for number in range(start, min(start + 500, clusters))]
            value = {"resources": [make for name in names for make in (cluster(name), assignment(name, 10))]}
            text = json.dumps(value) if suffix == "json" else yaml.dump(value, Dumper=yaml.CSafeDumper)
            (Path(directory) / f"{start}.{suffix}").write_text(text)
        begin = time.perf_counter()
        DirectoryReader(directory).read()
        return time.perf_counter() - begin


def main() -> None:
    """Run the measurements."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=2000)
    arguments.add_argument("--clusters", type=int, default=0)
    options = arguments.parse_args()
    for endpoints in (1, 10, 100):
        item = assignment("web", endpoints)
        median, least = median_us(lambda item=item: ingest(item), max(options.rounds // endpoints, 50))
        print(f"ingest of {endpoints} endpoints: median {median:.1f} µs, least {least:.1f} µs")
    item = cluster("web")
    median, least = median_us(lambda: ingest(item), options.rounds)
    print(f"ingest of a cluster: median {median:.1f} µs, least {least:.1f} µs")
    if options.clusters:
        for suffix in ("yaml", "json"):
            print(
                f"{options.clusters} clusters and assignments from {suffix}: {load_s(options.clusters, suffix):.2f} s"
            )


if __name__ == "__main__":
    main()
