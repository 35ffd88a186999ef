"""Who is driven in turns: each rung of the ladder, its other ways, and the product."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.compare.rows import certificates
from bench.compare.servers import OURS_WORKER, Kind, Resources, Running, free_ports, running, shown, started
from bench.ladder.rungs import RUNGS, Rung, Way

PRODUCT = "the product"
PRODUCT_TLS = "the product, mutual TLS"


@dataclass(frozen=True, slots=True)
class Participant:
    """A server: a rung, with another way of it if named; or the product where ``rung`` is empty."""

    name: str
    rung: str = ""
    way: str = ""
    tls: bool = False

    @contextlib.contextmanager
    def serving(self, resources: Resources) -> Iterator[tuple[Running, tuple[str, ...]]]:
        """Run it until the block ends; yield it, and what the fleet needs besides. Raises ServerFailedError."""
        of_server, of_fleet = _tls() if self.tls else ((), ())
        if not self.rung:
            with running(OURS_WORKER, resources, *of_server) as server:
                yield server, of_fleet
            return
        port, admin_port = free_ports(2)
        argv = [sys.executable, "-m", "bench.ladder.serve", f"--rung={self.rung}", f"--way={self.way}"]
        argv += [*resources.arguments(), f"--port={port}", f"--admin-port={admin_port}", *of_server]
        with started(self.name, argv, {}) as process:
            kind = Kind(self.name, "ladder", self.rung)
            yield Running(kind, process.pid, port, admin_port, shown(argv)), of_fleet


def ladder() -> list[Participant]:
    """Return the rungs, from the lowest up."""
    return [Participant(rung.name, rung.name, tls=rung.switch == "TLS") for rung in RUNGS]


def way(rung: Rung, other: Way) -> Participant:
    """Return a rung done in another way."""
    return Participant(f"{rung.name}: {other.name}", rung.name, other.name, tls=rung.switch == "TLS")


def products() -> list[Participant]:
    """Return the product with one worker, in plaintext and with mutual TLS."""
    return [Participant(PRODUCT), Participant(PRODUCT_TLS, tls=True)]


@cache
def _tls() -> tuple[tuple[str, ...], tuple[str, ...]]:
    directory = tempfile.TemporaryDirectory(prefix="xds-bench-tls-")
    _kept.append(directory)
    return certificates(Path(directory.name))


_kept: list["tempfile.TemporaryDirectory[str]"] = []
"""Of this process: they are removed at its end."""
