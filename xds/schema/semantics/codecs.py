"""Codecs of listeners: HTTP/3 on QUIC, and only there."""

from collections.abc import Iterator
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.filters import extension_type, inside, unpacked
from xds.schema.semantics.rule import Walks

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_SOCKETS = "envoy.extensions.transport_sockets."
_QUIC = _SOCKETS + "quic.v3.QuicDownstreamTransport"
_HINT = "for HTTP/3: address on UDP, udp_listener_config.quic_options, a QUIC transport socket, codec_type HTTP3"


def check_codecs(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check the transport sockets and the HTTP connection managers of a listener's chains."""
    if message.HasField("api_listener") or not message.HasField("address"):
        return
    is_udp = message.address.socket_address.protocol == message.address.socket_address.UDP
    is_quic = message.udp_listener_config.HasField("quic_options")  # on TCP, Envoy asks for HTTP/3 by it too
    if is_udp and not is_quic:
        return  # it may have no chains
    for chain, here in _chains(message, trail):
        if is_udp:
            _check_quic(chain, here, found)
        for index, each in enumerate(chain.filters):
            packed = each.typed_config
            manager = unpacked(packed, _HCM, walks)
            if manager is not None and (manager.codec_type == manager.HTTP3) != is_quic:
                place: Trail = (inside(packed, (((here, "filters"), index), "typed_config")), "codec_type")
                what = (
                    "must be HTTP3 in a listener on QUIC" if is_quic else "is HTTP3 in a listener that is not on QUIC"
                )
                found.add(place, what, _HINT)


def _chains(message: Any, trail: Trail) -> Iterator[tuple[Any, Trail]]:
    for index, chain in enumerate(message.filter_chains):
        yield chain, ((trail, "filter_chains"), index)
    if message.HasField("default_filter_chain"):
        yield message.default_filter_chain, (trail, "default_filter_chain")


def _check_quic(chain: Any, trail: Trail, found: Findings) -> None:
    full_name, here = extension_type(chain.transport_socket.typed_config), (trail, "transport_socket")
    if not chain.HasField("transport_socket"):
        found.add(here, "is required in a listener on QUIC", _QUIC)
    elif full_name.startswith(_SOCKETS) and full_name != _QUIC:
        found.add(here, f"must be a {_QUIC} in a listener on QUIC, but is a {full_name}")
