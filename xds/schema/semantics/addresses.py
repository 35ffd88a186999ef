"""Addresses: where Envoy wants an IP address, and where it resolves a name."""

import ipaddress
import re
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.pool import load_schema
from xds.schema.rules import shown
from xds.schema.semantics.rule import Walks

IP_RESOLVERS = ("", "envoy.ip")
"""The values of ``resolver_name`` that take IP addresses only."""
_OCTET = "(?:[1-9]?[0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"
IPV4 = re.compile(r"\.".join([_OCTET] * 4))
"""An IPv4 address, as the usual case: ``is_address_text`` takes ten times as long."""
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")


def is_address_text(text: str) -> bool:
    """Return whether Envoy reads a text as an IP address: no brackets, no leading zeros, a zone only with IPv6."""
    address, percent, zone = text.partition("%")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    return not percent or (version == 6 and bool(zone))


def check_ip(address: Any, trail: Trail, found: Findings, *, hint: str = "") -> None:
    """Check a ``core.v3.Address`` that must be an IP address, a pipe or an internal address."""
    if address.WhichOneof("address") == "socket_address":
        check_socket_address(address.socket_address, (trail, "socket_address"), found, hint=hint)


def check_socket_address(address: Any, trail: Trail, found: Findings, *, hint: str = "") -> None:
    """Check a ``core.v3.SocketAddress`` that must be an IP address."""
    if address.resolver_name not in IP_RESOLVERS:
        if load_schema().is_packaged:
            what = f"is {shown(address.resolver_name)}, a resolver that Envoy does not have"
            found.add((trail, "resolver_name"), what, "leave it out")
        return
    text = address.address
    if text and not is_address_text(text):
        found.add((trail, "address"), f"must be an IP address, but is {shown(text)}", hint)
    elif address.WhichOneof("port_specifier") == "named_port":
        found.add((trail, "named_port"), "can't be resolved for an IP address", "give port_value")


def check_compat(address: Any, trail: Trail, found: Findings) -> None:
    """Check ``ipv4_compat`` of an address that Envoy listens on."""
    if address.WhichOneof("address") != "socket_address" or not address.socket_address.ipv4_compat:
        return
    text = address.socket_address.address
    if not is_address_text(text) or address.socket_address.resolver_name not in IP_RESOLVERS:
        return
    ip = ipaddress.ip_address(text.partition("%")[0])
    if ip.version == 4 or not (int(ip) == 0 or ip in _MAPPED):
        hint = "set it only with the address :: or an IPv4-mapped one"
        found.add(((trail, "socket_address"), "ipv4_compat"), f"must not be set with the address {text}", hint)


def check_pipe(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check a ``core.v3.Pipe``: a socket in the abstract namespace has no file mode."""
    if message.path.startswith("@") and message.mode:
        found.add((trail, "mode"), "must not be set for a socket in the abstract namespace (a path that begins with @)")


def network_text(text: str, length: int) -> str | None:
    """Return a CIDR range as Envoy compares it, None if the text is not an IP address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    kept = min(length, address.max_prefixlen)
    spare = address.max_prefixlen - kept
    return f"{address.version} {int(address) >> spare << spare:x}/{kept}"
