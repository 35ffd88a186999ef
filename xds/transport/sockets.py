"""Listening sockets, made so that a second server on the same address fails to start. It knows no streams."""

import errno
import socket
import stat
from pathlib import Path

from xds.address import Address, BindError

BACKLOG = 16_384
"""Connections that may wait to be accepted, as far as the kernel lets us (net.core.somaxconn)."""


def listen(address: Address, *, count: int = 1) -> list[socket.socket]:
    """Return ``count`` sockets that listen on one address, among which the kernel shares out the connections.

    On a unix path all are the same socket. Raises BindError, also when anybody else listens there already.
    """
    try:
        if address.is_unix:
            return [_listen_unix(address.path)] * count
        family, where = _resolve(address)
        if count == 1:
            return [_listen_tcp(family, where, shared=False)]
        # With SO_REUSEPORT a second server would share our clients. One socket without it shows whether there is one.
        probe = _listen_tcp(family, where, shared=False)
        where = (where[0], probe.getsockname()[1])
        probe.close()
        return [_listen_tcp(family, where, shared=True) for _ in range(count)]
    except UnicodeError:
        raise BindError("xDS", address, OSError("not the name of a host")) from None
    except OSError as error:
        raise BindError("xDS", address, error) from None


def bound(address: Address, listening: socket.socket) -> Address:
    """Return the address with the port that was bound where it was 0."""
    return address if address.is_unix else Address(address.host, listening.getsockname()[1])


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    return family, (str(where[0]), int(where[1]))


def _listen_tcp(family: socket.AddressFamily, where: tuple[str, int], *, shared: bool) -> socket.socket:
    everywhere = where[0] == "::" and socket.has_dualstack_ipv6()
    listening = socket.create_server(
        where, family=family, backlog=BACKLOG, reuse_port=shared, dualstack_ipv6=everywhere
    )
    listening.setblocking(False)
    return listening


def _listen_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that is no more; a live one's stays, and so does what is not a socket."""
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
