"""Room for as many connections as a process is to have: the limit of open files. It opens none."""

import os
import resource
from dataclasses import dataclass

RESERVE = 64
"""Descriptors that clients can't take: for the store, files that are read again, and what is open for a moment."""
RESERVE_PER_WORKER = 8
"""For a worker process that is started: its channel, and pipes until it runs."""
ROOM_MIN = 12
"""Connections that a port has even where the limit leaves no room for them."""


@dataclass(frozen=True, slots=True)
class ConnectionRoom:
    """How many connections each port of a process may have."""

    xds: int
    api: int
    admin: int


def make_room(needed: int) -> None:
    """Raise the limit of open files, if it is lower, as far as the system allows; child processes inherit it.

    Raises ValueError saying what to do where that is not enough.
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
    """Raise the limit of open files as far as the system allows; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def share_room(wanted: ConnectionRoom, *, workers: int = 0) -> ConnectionRoom:
    """Return how many of the wanted connections each port of this process can have, all limits being raised.

    With ``workers`` these have the xDS port's. The limit of open files, less what is open and a reserve, is shared out:
    however many clients there are, a worker can be replaced, and the store can open its files.
    """
    limit = make_all_room()
    if limit == resource.RLIM_INFINITY:
        return wanted
    free = limit - len(os.listdir("/proc/self/fd")) - RESERVE - RESERVE_PER_WORKER * workers
    part = max(ROOM_MIN, free // (2 if workers else 4))
    api, admin = min(wanted.api, part), min(wanted.admin, part)
    return ConnectionRoom(wanted.xds if workers else min(wanted.xds, max(ROOM_MIN, free - api - admin)), api, admin)


def worker_room(wanted: int) -> int:
    """Return how many of the wanted connections a worker process can have."""
    return share_room(ConnectionRoom(wanted, 0, 0)).xds
