"""Listening sockets, made so that a second server on the same address fails to start."""

import errno
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xds.address import Address, BindError

BACKLOG = 16_384
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn may allow fewer."""


def listen(address: Address) -> socket.socket:
    """Return a socket that listens on the address. Raises BindError, also if another process listens there."""
    (taken,) = take(address, count=1)
    open_all(address, [taken])
    return taken


def take(address: Address, *, count: int) -> list[socket.socket]:
    """Return ``count`` sockets on one address, among which the kernel distributes the connections.

    Clients are refused until ``open_all``. On a unix path all are the same socket, and clients wait instead: a refusing
    socket would look like that of a dead server. Raises BindError as ``listen`` does.
    """
    with _bind_errors(address):
        if address.is_unix:
            return [_take_unix(address.path)] * count
        family, where = _resolve(address)
        if count == 1:
            return [_take_tcp(family, where, shared=False)]
        where = (where[0], _unused_port(family, where))
        return [_take_tcp(family, where, shared=True) for _ in range(count)]


def open_all(address: Address, taken: Sequence[socket.socket]) -> None:
    """Let clients connect. Raises BindError if another process began to listen on the address meanwhile."""
    with _bind_errors(address):
        if len(taken) > 1 and not address.is_unix:
            _unused_port(taken[0].family, taken[0].getsockname()[:2])
        for each in taken:
            each.listen(BACKLOG)


def bound(address: Address, listening: socket.socket) -> Address:
    """Return the address with the port that was bound where it was 0."""
    return address if address.is_unix else Address(address.host, listening.getsockname()[1])


@contextmanager
def _bind_errors(address: Address) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise BindError("xDS", address, OSError("not the name of a host")) from None
    except OSError as error:
        raise BindError("xDS", address, error) from None


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    return family, (str(where[0]), int(where[1]))


def _unused_port(family: socket.AddressFamily, where: tuple[str, int]) -> int:
    """Return the port if no process listens there; raise OSError if one does.

    With SO_REUSEPORT a second server would share our clients: a socket without it shows whether there is one.
    """
    with _take_tcp(family, where, shared=False) as probe:
        probe.listen()
        return int(probe.getsockname()[1])


def _take_tcp(family: socket.AddressFamily, where: tuple[str, int], *, shared: bool) -> socket.socket:
    everywhere = where[0] == "::" and socket.has_dualstack_ipv6()
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not everywhere)
        taken.bind(where)
    except OSError:
        taken.close()
        raise
    taken.setblocking(False)
    return taken


def _take_unix(path: str) -> socket.socket:
    _remove_stale(path)
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        taken.bind(path)
        taken.listen(BACKLOG)
    except OSError:
        taken.close()
        raise
    taken.setblocking(False)
    return taken


def _remove_stale(path: str) -> None:
    """Remove the socket file of a dead server. Those of live servers and files that are no sockets stay."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "in use")
