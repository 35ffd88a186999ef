"""Serve one rung of the ladder: ``python -m bench.ladder.serve --rung credit --port 18000 --admin-port 18001``."""

import argparse
from importlib import import_module
from pathlib import Path

from bench.ladder import folding
from bench.ladder.rungs import RUNGS, switches_of


def options_of() -> argparse.Namespace:
    """Parse the command line, a worker's too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rung", choices=[rung.name for rung in RUNGS], default=RUNGS[-1].name)
    parser.add_argument("--way", default="", help="another way of what the rung does")
    parser.add_argument("--port", type=int, default=18000, help="of delta ADS")
    parser.add_argument("--admin-port", type=int, default=18001, help="of GET /push")
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--routes", type=int, default=10)
    parser.add_argument("--endpoints", type=int, default=10)
    for name in ("cert", "key", "client-ca"):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--listening", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Load the program with what the rung has, and run it."""
    options = options_of()
    folding.install(switches_of(options.rung, options.way))
    import_module("bench.ladder.program.main").main(options)


if __name__ == "__main__":
    main()
