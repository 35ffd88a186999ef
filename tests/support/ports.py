"""Free loopback ports for servers that need their port before they start.

Servers that can bind port 0 should do so: another process may bind the port after the check here.
Ports are below the kernel's ephemeral range, so that no outgoing connection uses them meanwhile. Each test process of
those that run side by side (pytest-xdist) has its own share of them.
"""

import os
import random
import socket
from pathlib import Path

PORT_MIN = 15_000
PORT_MAX = 32_000  # Linux hands out ephemeral ports from 32768
SHARES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % SHARES
ESTABLISHED = "01"

_given: set[int] = set()


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on and that this process has not got before."""
    count = (PORT_MAX - PORT_MIN) // SHARES
    first = random.randrange(count)
    for step in range(count):
        port = PORT_MIN + SHARE * count + (first + step) % count
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port of {count:,} between {PORT_MIN} and {PORT_MAX}")


def free_ports(count: int) -> list[int]:
    """Return ``count`` different free ports."""
    return [free_port() for _ in range(count)]


def is_free(port: int) -> bool:
    """Return whether a server could bind the port on 127.0.0.1 and on all addresses."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def unread_bytes(port: int) -> int:
    """Return the bytes received at a TCP port that its process has not read (proc(5), net/tcp)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    at_port = (line for line in lines if int(line[1].split(":")[1], 16) == port and line[3] == ESTABLISHED)
    return sum(int(line[4].split(":")[1], 16) for line in at_port)
