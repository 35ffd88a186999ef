"""What a pushed change costs: until it is durable, until 1,000 streams have it, how many a second, a cold start.

python bench/push.py [--store sqlite etcd] [--seconds 60] [--write]

With ``--write``, bench/results/push/, which the report takes in. etcd has to be installed for its rows.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import uvloop  # noqa: E402
from support import resources as r  # noqa: E402
from support.etcd import Etcd  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.processes import stop_all  # noqa: E402
from support.server import XdsServer  # noqa: E402

from xds.client import Client  # noqa: E402
from xds.schema.ingest import ingest  # noqa: E402

STREAMS, CLUSTERS, CHANGES = 1_000, 100, 200
LARGE = 10_000
RATE = 12_500
CLIENTS = 4


def assignment(number: int, turn: int, endpoints: int = 10) -> r.Json:
    hosts = [f"10.{turn % 250}.{number % 250}.{host + 1}" for host in range(endpoints)]
    return r.assignment(f"cluster-{number}", *range(8_000, 8_000 + endpoints), hosts=hosts)


def content(clusters: int) -> list[r.Json]:
    return [one for number in range(clusters) for one in (r.cluster(f"cluster-{number}"), assignment(number, 0))]


@asynccontextmanager
async def served(store: str, *options: str) -> AsyncIterator[XdsServer]:
    """Run ``xds serve`` on a store of its own."""
    async with AsyncExitStack() as stack:
        server = XdsServer(None, *options)
        if store == "etcd":
            etcd = await stack.enter_async_context(Etcd())
            server.argv += ["--store", etcd.url()]
        await stack.enter_async_context(server)
        await server.wait_ready(60)
        yield server


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p99": ordered[int(len(ordered) * 0.99)], "most": ordered[-1]}


async def durable(client: Client) -> dict[str, float]:
    """Make changes one after the other; each returns once it is on disk and served."""
    taken = []
    for turn in range(CHANGES):
        started = time.perf_counter()
        await client.apply(upsert=[assignment(turn % CLUSTERS, turn + 1)])
        taken.append((time.perf_counter() - started) * 1000)
    return quantiles(taken)


async def last_of_streams(server: XdsServer, client: Client) -> dict[str, float]:
    """Have 1,000 streams connected and push to all of them; the fleet says when the last one had it."""
    turn = 1_000

    async def push(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        await reader.readuntil(b"\r\n\r\n")
        turn += 1
        await client.apply(upsert=[assignment(turn % CLUSTERS, turn)])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    trigger = await asyncio.start_server(push, "127.0.0.1", port)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fleet.json"
        fleet = await asyncio.create_subprocess_exec(
            *[str(Path(sys.executable).parent / "xds"), "fleet", "--server", f"127.0.0.1:{server.port}"],
            *["--streams", str(STREAMS), "--types", "clusters,endpoints", "--trigger", f"http://127.0.0.1:{port}/"],
            *["--pushes", "50", "--warmup-pushes", "5", "--push-gap-ms", "50", "--json", str(path)],
            stdout=asyncio.subprocess.DEVNULL,
        )
        await fleet.wait()
        trigger.close()
        (series,) = json.loads(path.read_text())["steps"][-1]["pushes"]
    return quantiles([push["latency"]["last_ms"] for push in series["pushes"]])


async def sustained(server: XdsServer, seconds: float) -> dict[str, float]:
    """Have a few clients, each a process, push single assignments at a set rate, and count what is acknowledged."""
    program = [sys.executable, __file__, "--client", f"127.0.0.1:{server.api_port}", "--seconds", str(seconds)]
    clients = [await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE) for _ in range(CLIENTS)]
    told = [json.loads((await client.communicate())[0]) for client in clients]
    return {
        "asked a second": float(RATE),
        "acknowledged a second": sum(each["count"] / each["took_s"] for each in told),
        "p50, ms": statistics.median(each["p50"] for each in told),
        "p99, ms": max(each["p99"] for each in told),
    }


async def push_steadily(address: str, seconds: float) -> None:
    """One client of ``sustained``: what it pushes is encoded before, as a controller's is; it says how it went."""
    encoded = []
    for number in range(CLUSTERS * 10):
        made = ingest(assignment(number % CLUSTERS, number, endpoints=1))
        encoded.append(made)
    interval = CLIENTS / RATE
    taken: list[float] = []

    async with Client(address) as client, client.pushing_endpoints() as push:
        started = time.perf_counter()
        for number in range(int(seconds / interval)):
            due = started + number * interval
            if (wait := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(wait)
            sent = time.perf_counter()
            future = await push(encoded[number % len(encoded)])
            future.add_done_callback(lambda _, sent=sent: taken.append((time.perf_counter() - sent) * 1000))
        await push.finish()
    took_s = time.perf_counter() - started
    print(json.dumps({"count": len(taken), "took_s": took_s, **quantiles(taken)}))


async def cold_start(store: str) -> dict[str, float]:
    """Fill a store, stop the server, and start it again: from the exec to serving."""
    async with served(store) as server:
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=60) as client:
            everything = content(LARGE)
            for at in range(0, len(everything), 2_000):
                await client.apply(upsert=everything[at : at + 2_000])
        taken = []
        for _ in range(3):
            await asyncio.to_thread(server.stop)
            server.start()
            await server.wait_ready(60)
            taken.append(time.monotonic() - server.started_at)
    return {"from exec to serving, s": statistics.median(taken), "most": max(taken)}


async def measure(stores: list[str], seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for store in stores:
        found = results[store] = {}
        async with served(store) as server, Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(upsert=content(CLUSTERS))
            print(f"{store}: {CHANGES} changes, one after the other", flush=True)
            found["commit to durable and served, ms"] = await durable(client)
            print(f"{store}: to the last of {STREAMS} streams", flush=True)
            found[f"commit to the last of {STREAMS:,} streams, ms"] = await last_of_streams(server, client)
            print(f"{store}: {RATE:,} changes a second for {seconds:g} s", flush=True)
            found["single endpoint changes"] = await sustained(server, seconds)
        print(f"{store}: cold start with {LARGE:,} clusters and assignments of 10 endpoints", flush=True)
        found["cold start"] = await cold_start(store)
    return results


def report(results: dict[str, Any], seconds: float) -> str:
    lines = ["## Pushing", "", "By `make bench-push` (`python bench/push.py --write`).", ""]
    lines += [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()};"
    ]
    lines += [f"{CLIENTS} clients, each a process, for {seconds:g} s where changes are sustained.", ""]
    lines += ["| store | what | |", "|---|---|---|"]
    for store, found in results.items():
        for what, figures in found.items():
            lines.append(
                f"| {store} | {what} | {', '.join(f'{name} {value:,.4g}' for name, value in figures.items())} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", nargs="+", default=["sqlite", "etcd"], choices=["sqlite", "etcd"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--client", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        uvloop.run(push_steadily(options.client, options.seconds))
        return
    try:
        results = uvloop.run(measure(options.store, options.seconds))
    finally:
        stop_all()
    text = report(results, options.seconds)
    print(text)
    if options.write:
        (ROOT / "bench/results/push/push.json").write_text(json.dumps(results, indent=1) + "\n")
        (ROOT / "bench/results/push/push.md").write_text(text)


if __name__ == "__main__":
    main()
