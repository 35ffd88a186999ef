"""The address at which other replicas reach this one's push API."""

import socket
from collections.abc import Callable, Sequence

from xds.address import Address
from xds.replica_settings import ReplicaSettings

UNREACHABLE = "the gRPC push API listens on {address} only, which other machines can't reach"
NO_API = "the gRPC push API is off (api.listen)"


def advertised(
    settings: ReplicaSettings,
    listen: Address | None,
    etcd: Sequence[str],
    *,
    local_ip: "Callable[[Address], str] | None" = None,
) -> tuple[Address | None, str]:
    """Return the address to give to other replicas; or None, and why there is none.

    ``listen`` is the address of the push API, with its port; ``etcd`` has HOST:PORT of each member. An etcd on loopback
    is taken for one whose replicas are all on this machine. ``local_ip`` returns the IP address of this machine from
    which an address is reached.
    """
    assert settings.advertise != "off", "asked only where replicas are used"
    if settings.advertise != "auto":
        return Address.parse(settings.advertise), ""
    if listen is None:
        return None, NO_API
    members = [Address.parse(each) for each in etcd]
    is_on_one_machine = all(each.is_loopback for each in members)
    if listen.is_unix or (listen.is_loopback and not is_on_one_machine):
        return None, UNREACHABLE.format(address=listen)
    if listen.reachable == listen:  # a certain interface
        return listen, ""
    if is_on_one_machine:
        return listen.reachable, ""
    return Address((local_ip or _local_ip)(members[0]), listen.port), ""


def _local_ip(far: Address) -> str:
    """Return the IP address of this machine from which another one is reached; the host's name if there is no route.

    Connecting a datagram socket sends nothing: it has the kernel choose the route.
    """
    try:
        family, kind, protocol, _, to = socket.getaddrinfo(far.host, far.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(to)
            host: str = probe.getsockname()[0]
            return host
    except OSError:
        return socket.gethostname()
