"""The page at 10,000 nodes, in a real Chromium: the time of each page's load, its longest task, its memory over time.

Usage: python -m bench.page_scale [--nodes 10000] [--minutes 10] [--loads 10] [--output bench/results/page/scale.json]

A server with its workers, simulated sidecars of ``xds fleet``, and one browser share the machine, so figures of a busy
one are too high. A load is from the click to the end of the load event, with the assets in the browser's cache, as for
every page but the first. While the overview is open, a change is pushed every second; memory is the JavaScript heap
after a collection, and the number of DOM nodes.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from playwright.async_api import CDPSession, Page
from support import resources as r
from support.browser import browser, seen
from support.page_scene import Scene
from support.processes import Child
from support.server import XDS, XdsServer
from support.waiting import for_a_while

from xds.fleet.about import machine, tool_versions

LOAD_MS_MAX, TASK_MS_MAX = 200.0, 50.0
PAGES = (
    *("", "groups", "group?name=fleet", "nodes", "nodes?sort=state", "nodes?search=fleet-00099"),
    *("node?id=fleet-0000001", "resources?group=fleet", "resource?group=fleet&type=clusters&name=c-1", "revisions"),
    *("revision?n=2", "rollback?group=fleet&to=1", "servers", "audit"),
)
OBSERVE = """
window.longTasks = [];
new PerformanceObserver(list => list.getEntries().forEach(each => longTasks.push(each.duration)))
  .observe({ type: 'longtask', buffered: true });
"""


async def measure_page(page: Page, path: str, loads: int) -> dict[str, Any]:
    """Return the times of one page's loads, in ms, and its longest task."""
    times, longest = [], 0.0
    for _ in range(loads + 1):
        await page.goto(f"/page/{path}")
        await for_a_while(0.3, "tasks after the load event count too")
        entry = await page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
        times.append(entry["loadEventEnd"] - entry["startTime"])
        longest = max(longest, *(await page.evaluate("window.longTasks")), 0.0)
    warm = times[1:]
    return {
        "page": f"/page/{path}",
        "first_ms": round(times[0], 1),
        "median_ms": round(statistics.median(warm), 1),
        "max_ms": round(max(warm), 1),
        "longest_task_ms": round(longest, 1),
    }


async def memory(session: CDPSession) -> dict[str, Any]:
    """Return the page's memory after a collection."""
    await session.send("HeapProfiler.collectGarbage")
    found = {each["name"]: each["value"] for each in (await session.send("Performance.getMetrics"))["metrics"]}
    return {"heap_bytes": int(found["JSHeapUsedSize"]), "dom_nodes": int(found["Nodes"])}


async def measure_live(scene: Scene, page: Page, minutes: float) -> dict[str, Any]:
    """Return the memory of the overview over time, while a change is pushed every second."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    await page.goto("/page/")
    began, samples, pushed = time.monotonic(), [], 0
    await page.evaluate("window.kept = true; window.longTasks.length = 0")
    while (elapsed_s := time.monotonic() - began) < minutes * 60:
        if not samples or elapsed_s - samples[-1]["at_s"] >= 10:
            samples.append({"at_s": round(elapsed_s, 1), **await memory(session)})
        pushed += 1
        await scene.push("fleet", r.static_cluster("c-1", 1_000 + pushed % 60_000), message=f"change {pushed}")
        await for_a_while(1, "a change a second")
    assert await page.evaluate("window.kept === true"), "the page was loaded anew"
    shown = int((await page.inner_text("#served")).replace(",", ""))
    settled = [each["heap_bytes"] for each in samples[2:]] or [samples[-1]["heap_bytes"]]
    third = max(1, len(settled) // 3)
    return {
        "minutes": minutes,
        "changes": pushed,
        "revision_shown": shown,
        "heap_bytes_first_third": round(statistics.mean(settled[:third])),
        "heap_bytes_last_third": round(statistics.mean(settled[-third:])),
        "longest_task_ms": round(max(await page.evaluate("window.longTasks"), default=0.0), 1),
        "samples": samples,
    }


async def run(nodes: int, minutes: float, loads: int) -> dict[str, Any]:
    """Return all figures."""
    with tempfile.TemporaryDirectory() as directory:
        options = ("--store", f"sqlite:///{directory}/state.db")
        async with XdsServer(None, *options, settings={"access.audit_file": f"{directory}/audit"}) as server:
            await server.wait_ready(120)
            scene = Scene(server)
            for number in range(2):
                clusters = [r.static_cluster(f"c-{each}", 1_000 + number) for each in range(20)]
                await scene.push("fleet", *clusters, message=f"resources {number}")
            # Pushes that do not come keep the sidecars connected.
            argv = [str(XDS), "fleet", "--server", f"127.0.0.1:{server.port}", "--streams", str(nodes)]
            argv += ["--workers", "1", "--types", "clusters", "--pushes", "4000"]
            argv += ["--trigger-command", "true", "--timeout", "120m"]
            fleet = Child(argv, name="fleet").start()
            try:

                async def connected() -> int:
                    return int((await scene.api.get("/v1/nodes?limit=1&state=accepted")).json()["total"])

                await fleet.wait_for(
                    connected, lambda found: found == nodes, otherwise="did not connect", timeout_s=600
                )
                async with browser() as made, seen(made, scene.origin) as look:
                    await look.page.add_init_script(OBSERVE)
                    pages = [await measure_page(look.page, path, loads) for path in PAGES]
                    live = await measure_live(scene, look.page, minutes)
                    assert look.faults == [], look.faults
                still = await connected()
            finally:
                fleet.stop()
            await scene.close()
    return {
        "machine": machine(),
        "versions": tool_versions(),
        "nodes": nodes,
        "nodes_at_the_end": still,
        "pages": pages,
        "live": live,
    }


def main() -> int:
    """Measure, print, and write the result; return 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = asyncio.run(run(given.nodes, given.minutes, given.loads))
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{'page':60} {'first':>8} {'median':>8} {'max':>8} {'longest task':>13}  (ms, {given.nodes:,} nodes)")
    for each in found["pages"]:
        times = (each[key] for key in ("first_ms", "median_ms", "max_ms"))
        print(f"{each['page']:60}", *(f"{time:8.1f}" for time in times), f"{each['longest_task_ms']:13.1f}")
    live = found["live"]
    print(
        f"live: {live['changes']} changes in {live['minutes']:g} min, longest task {live['longest_task_ms']} ms,"
        f" heap {live['heap_bytes_first_third'] / 1e6:.2f} MB in the first third,"
        f" {live['heap_bytes_last_third'] / 1e6:.2f} MB in the last"
    )
    slow = [each for each in found["pages"] if each["median_ms"] > LOAD_MS_MAX or each["longest_task_ms"] > TASK_MS_MAX]
    grown = live["heap_bytes_last_third"] > 1.2 * live["heap_bytes_first_third"]
    return 1 if slow or grown or live["longest_task_ms"] > TASK_MS_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
