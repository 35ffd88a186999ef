"""The address of a server: ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/PATH``."""

import errno
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Self

UNIX_PREFIX = "unix:"
UNIX_PATH_BYTES_MAX = 107
"""The size of ``sun_path`` on Linux, less its terminating NUL."""

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_HOW = "write HOST:PORT, [IPv6]:PORT or unix:/PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a unix socket (then ``host`` is empty and ``port`` 0).

    ``str()`` returns the form that ``parse`` reads, which gRPC accepts too.
    """

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. Raises ValueError with what is wrong and what to write instead."""
        if text.startswith(UNIX_PREFIX):
            return cls._parse_unix(text.removeprefix(UNIX_PREFIX))
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port; {_HOW}")
        if not host or host == "*":
            raise ValueError(f"{text!r} names no host; write 0.0.0.0:{port} or [::]:{port} for every interface")
        if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
            raise ValueError(f"{text!r}: the port {port!r} is not a number from 0 to 65535; {_HOW}")
        return cls(_parse_host(host, text), int(port))

    @classmethod
    def _parse_unix(cls, path: str) -> Self:
        if not path.startswith("/"):
            raise ValueError(f"{UNIX_PREFIX + path!r} is not an absolute path; write unix:/PATH, as unix:/run/xds.sock")
        if len(path.encode()) > UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"the path of {UNIX_PREFIX + path!r} is longer than {UNIX_PATH_BYTES_MAX} bytes, a unix socket's limit"
            )
        return cls("", 0, path)

    @property
    def is_unix(self) -> bool:
        """Whether this is a unix socket."""
        return bool(self.path)

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address, which needs no DNS look-up."""
        return _ip_of(self.host) is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: a unix socket, ``localhost``, 127.0.0.0/8 or ::1."""
        ip = _ip_of(self.host)
        return self.is_unix or self.host == "localhost" or (ip is not None and ip.is_loopback)

    @property
    def reachable(self) -> "Address":
        """The address to connect to from this machine: loopback if this one means every interface."""
        ip = _ip_of(self.host)
        if ip is None or not ip.is_unspecified:
            return self
        return Address("127.0.0.1" if ip.version == 4 else "::1", self.port)

    def __str__(self) -> str:
        if self.is_unix:
            return UNIX_PREFIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BindError(OSError):
    """A server can't listen on an address. The text says which, why, and what to do.

    Expected error: show the text and exit with 1.
    """

    def __init__(self, what: str, address: Address, cause: OSError) -> None:
        reasons = {
            errno.EADDRINUSE: "is in use by another process; stop that one or choose another port (0: any free one)",
            errno.EADDRNOTAVAIL: "is not an address of this machine; 0.0.0.0 or [::] stands for all that are",
            errno.EACCES: "is not allowed to this user; ports below 1024 need CAP_NET_BIND_SERVICE",
        }
        reason = reasons.get(cause.errno or 0, f"can't be listened on: {cause.strerror or cause}")
        super().__init__(cause.errno, f"the {what} address {address} {reason}")

    def __str__(self) -> str:
        return str(self.strerror)


def host_names(value: Any) -> Any:
    """Parse host names from a list or a comma-separated text; ``*`` means any. Raises ValueError."""
    names = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    for name in names if isinstance(names, list | tuple) else ():
        if not isinstance(name, str) or not (name == "*" or _HOST_NAME.fullmatch(name)):
            raise ValueError(f"{name!r} is not the name of a host; write names without scheme and port, as xds.example")
    return names


def _ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _parse_host(host: str, text: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if bracketed or ":" in bare:
        ip = _ip_of(bare)
        if ip is None or ip.version != 6:
            raise ValueError(f"{text!r}: {bare!r} is not an IPv6 address; {_HOW}")
        if not bracketed:
            raise ValueError(
                f"{text!r} is ambiguous; put the IPv6 address in brackets: [{bare}]:{text.rpartition(':')[2]}"
            )
        return bare
    if any(character.isspace() or character in "/@" for character in bare):
        raise ValueError(f"{text!r}: {bare!r} is not a host; {_HOW}, with no scheme and no path")
    return bare
