"""Raises the limit of open files, and divides it among the ports' connections."""

import os
import resource
from dataclasses import dataclass

RESERVE = 64
"""Descriptors that are kept from clients: for the store, files that are reloaded, and short-lived files."""
RESERVE_PER_WORKER = 8
"""Descriptors per worker process that is started: its channel, and pipes until it runs."""
ROOM_MIN = 12
"""The minimum connections of a port, even if the limit leaves no room for them."""


@dataclass(frozen=True, slots=True)
class ConnectionRoom:
    """The maximum connections of each port of a process."""

    xds: int
    api: int
    admin: int


def make_room(needed: int) -> None:
    """Raise the limit of open files to ``needed`` if it is lower; child processes inherit it.

    Raises ValueError with what to do if the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    if soft == infinite or soft >= needed:
        return
    if hard != infinite and hard < needed:
        raise ValueError(
            f"each worker process needs {needed:,} open files, and may have {hard:,}; "
            f"run `ulimit -n {needed}` first, or use more --workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def make_all_room() -> int:
    """Raise the limit of open files to the hard limit, and return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def share_room(wanted: ConnectionRoom, *, workers: int = 0) -> ConnectionRoom:
    """Raise the limit of open files, and return how many of the wanted connections each port of this process can have.

    With ``workers``, the xDS connections are theirs and do not count here. The limit, less open files and a reserve, is
    divided among the ports, so that a worker can be replaced and the store can open its files at any number of clients.
    """
    limit = make_all_room()
    if limit == resource.RLIM_INFINITY:
        return wanted
    free = limit - len(os.listdir("/proc/self/fd")) - RESERVE - RESERVE_PER_WORKER * workers
    part = max(ROOM_MIN, free // (2 if workers else 4))
    api, admin = min(wanted.api, part), min(wanted.admin, part)
    return ConnectionRoom(wanted.xds if workers else min(wanted.xds, max(ROOM_MIN, free - api - admin)), api, admin)


def worker_room(wanted: int) -> int:
    """Return how many of the wanted xDS connections a worker process can have."""
    return share_room(ConnectionRoom(wanted, 0, 0)).xds
