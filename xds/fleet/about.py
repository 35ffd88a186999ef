"""Describes the machine and the programs of a run, and resolves the target's address."""

import asyncio
import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xds.address import Address


class UnknownTargetError(Exception):
    """The target's name can't be resolved."""


def tool_versions() -> dict[str, str]:
    """Return the versions of the programs that take part in the measurement."""
    found = {"python": platform.python_version()}
    for package in ("xds-control-plane", "uvloop", "protobuf", "hpack"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def machine() -> dict[str, Any]:
    """Return a description of the machine: figures of different machines don't compare."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


async def resolve(server: Address) -> tuple[str, int] | str:
    """Return the IP address and port, or the path, that sidecars connect to. Raises UnknownTargetError."""
    if server.is_unix:
        return server.path
    try:
        found = await asyncio.get_running_loop().getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnknownTargetError(f"{server.host} can't be resolved: {error}") from None
    # IPv4 first: only its loopback network has many source addresses.
    address = min(found, key=lambda one: one[0] != socket.AF_INET)[4]
    return str(address[0]), int(address[1])
