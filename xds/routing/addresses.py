"""The addresses of listeners, and which of them take a connection to an address and port."""

import ipaddress
from typing import Any

from xds.routing.fields import optional

_UDP = 1
_WILDCARDS = {"0.0.0.0": 4, "::": 6}  # noqa: S104 - what listeners say, nothing is bound here


def said_addresses(listener: Any) -> list[str]:
    """Return the addresses of a listener in words."""
    return [_said(each) for each in _all(listener)]


def is_at(listener: Any, address: str | None, port: int) -> bool:
    """Return whether a listener is bound to exactly this address, and port of TCP."""
    return any(address is not None and _same(each.address, address) for each in _sockets(listener, port))


def takes(listener: Any, address: str | None, port: int) -> bool:
    """Return whether a listener takes connections to an address and port of TCP; None is any address."""
    if address is None:
        return has_port(listener, port)
    return is_at(listener, address, port) or is_wildcard_at(listener, address, port)


def is_wildcard_at(listener: Any, address: str | None, port: int) -> bool:
    """Return whether a listener is at a port on all addresses of the kind of this one; None is any kind."""
    for each in _sockets(listener, port):
        version = _WILDCARDS.get(str(_parsed(each.address) or each.address))
        if version is None:
            continue
        versions = {version} | ({4} if version == 6 and each.ipv4_compat else set())
        if address is None or ipaddress.ip_address(address).version in versions:
            return True
    return False


def has_port(listener: Any, port: int) -> bool:
    """Return whether a listener is at a port of TCP, at whichever address."""
    return bool(_sockets(listener, port))


def is_bound(listener: Any) -> bool:
    """Return whether a listener takes connections itself, and not only those that another one hands over."""
    return not (listener.HasField("bind_to_port") and not listener.bind_to_port.value)


def said(address: str, port: int) -> str:
    """Return an address and port in words."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _said(address: Any) -> str:
    kind = address.WhichOneof("address")
    if kind == "socket_address":
        udp = " (UDP)" if address.socket_address.protocol == _UDP else ""
        return said(address.socket_address.address, address.socket_address.port_value) + udp
    if kind == "pipe":
        return str(address.pipe.path)
    return f"internal {address.envoy_internal_address.server_listener_name}" if kind else ""


def _all(listener: Any) -> list[Any]:
    return [listener.address, *(each.address for each in optional(listener, "additional_addresses") or ())]


def _sockets(listener: Any, port: int) -> list[Any]:
    sockets = [each.socket_address for each in _all(listener) if each.HasField("socket_address")]
    return [each for each in sockets if each.port_value == port and each.protocol != _UDP]


def _parsed(text: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _same(one: str, other: str) -> bool:
    parsed = _parsed(one)
    return one == other if parsed is None else parsed == _parsed(other)
