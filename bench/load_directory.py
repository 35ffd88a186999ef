"""Load 10,000 clusters and their assignments (100,000 endpoints) from a directory, and say what it takes.

python bench/load_directory.py [--clusters N] [--endpoints N] [--per-file N] [--json]
"""

import argparse
import gc
import json
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import google.protobuf
import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from xds.model.changeset import Changeset
from xds.sources.directory import DirectoryReader

CLUSTER = """\
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: cluster-{number}
  type: EDS
  connect_timeout: 1s
  lb_policy: LEAST_REQUEST
  eds_cluster_config:
    eds_config:
      ads: {{}}
      resource_api_version: V3
"""
ASSIGNMENT = """\
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: cluster-{number}
  endpoints:
  - locality: {{region: eu, zone: eu-1}}
    lb_endpoints:
"""
ENDPOINT = """\
    - endpoint:
        address:
          socket_address:
            address: 10.{high}.{low}.{last}
            port_value: {port}
"""


def main() -> None:
    """Generate, load cold, load warm, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="per cluster")
    parser.add_argument("--per-file", type=int, default=100, help="resources per file")
    parser.add_argument("--json", action="store_true", help="write JSON files instead of YAML")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="xds-load-") as directory:
        root = Path(directory)
        generate(root, options.clusters, options.endpoints, options.per_file, as_json=options.json)
        measure(root, console)


def generate(root: Path, clusters: int, endpoints: int, per_file: int, *, as_json: bool) -> None:
    """Write the files, each kind of resource in files of its own."""
    for start in range(0, clusters, per_file):
        numbers = range(start, min(start + per_file, clusters))
        write(root / f"clusters-{start:06}", [CLUSTER.format(number=number) for number in numbers], as_json=as_json)
        texts = [assignment(number, endpoints) for number in numbers]
        write(root / f"endpoints-{start:06}", texts, as_json=as_json)


def assignment(number: int, endpoints: int) -> str:
    """Return one endpoint assignment's text."""
    parts = [
        ENDPOINT.format(high=number >> 8 & 255, low=number & 255, last=last % 256, port=8000 + last)
        for last in range(endpoints)
    ]
    return ASSIGNMENT.format(number=number) + "".join(parts)


def write(path: Path, texts: list[str], *, as_json: bool) -> None:
    """Write one file of resources."""
    text = "resources:\n" + "".join(texts)
    if as_json:
        path.with_suffix(".json").write_text(json.dumps(yaml.load(text, yaml.CSafeLoader), indent=1))
    else:
        path.with_suffix(".yaml").write_text(text)


def measure(root: Path, console: Console) -> None:
    """Load cold, then warm with nothing and with one file changed."""
    files = sorted(root.iterdir())
    size_mb = sum(file.stat().st_size for file in files) / 1e6
    versions = f"Python {platform.python_version()}, PyYAML {yaml.__version__}, protobuf {google.protobuf.__version__}"
    console.print(f"{platform.machine()}, {versions}; {len(files)} files, {size_mb:.1f} MB")
    time.sleep(0.1)  # so that the files' times can be trusted, as those of files that lie there are
    columns = (TextColumn("loading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    before_mb = memory_mb()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("load", total=None)
        reader = DirectoryReader(root, progress=lambda done, total: progress.update(task, completed=done, total=total))
        changeset = timed(console, "cold", reader)
    count = sum(map(len, changeset.upserts.values()))
    gc.collect()
    console.print(
        f"{count:,} resources; memory {memory_mb() - before_mb:.0f} MB more than before (peak {peak_mb():.0f} MB)"
    )
    timed(console, "warm, nothing changed", reader)
    edited = next(file for file in files if file.name.startswith("endpoints"))
    edited.write_text(edited.read_text().replace("8000", "9000", 1))
    kept = {id(each) for each in changeset.upserts["default"]}
    again = timed(console, "warm, one file edited", reader)
    console.print(f"{sum(id(each) not in kept for each in again.upserts['default'])} resource objects are new")


def timed(console: Console, name: str, reader: DirectoryReader) -> Changeset:
    """Read, and print how long it took."""
    start = time.perf_counter()
    changeset = reader.read()
    console.print(f"{name}: {time.perf_counter() - start:.3f} s")
    return changeset


def memory_mb() -> float:
    """Return what this process has resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak_mb() -> Any:
    """Return the most it ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
