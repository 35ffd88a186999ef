"""The protocols of clusters: what their health checks and transport sockets must have for them."""

from collections.abc import Iterator
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.rules import shown
from xds.schema.semantics.filters import extension_type, inside, unpacked
from xds.schema.semantics.http2_settings import check_http2
from xds.schema.semantics.rule import Walks

HTTP3 = 2
"""``envoy.type.v3.CodecClientType.HTTP3``."""
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
"""The type of HTTP options, and the key under which clusters have them."""
_ALTERNATES = "alternate_protocols_cache_options"
_SOCKETS = "envoy.extensions.transport_sockets."
_QUIC = _SOCKETS + "quic.v3.QuicUpstreamTransport"
_QUIC_NAME = "envoy.transport_sockets.quic"
_RAW = _SOCKETS + "raw_buffer.v3.RawBuffer"


def check_upstream(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check the parts of a cluster that depend on the protocols that it speaks."""
    options = http_options(message, walks)
    if walks.schema.is_packaged:
        for index, match in enumerate(message.transport_socket_matches):
            if not match.HasField("transport_socket"):
                found.add((((trail, "transport_socket_matches"), index), "transport_socket"), "is required")
    if message.health_checks:
        _check_health_checks(message, options, trail, found)
    if options is None:
        check_http2(message, (trail, "http2_protocol_options"), found)
        return
    for holder, here in _http2_holders(options, options_place(message, trail)):
        check_http2(holder, (here, "http2_protocol_options"), found)
    which = options.WhichOneof("upstream_protocol_options")
    if which == "auto_config":
        _check_auto(message, options.auto_config, trail, found)
        return
    speaks_http3 = which == "explicit_http_config" and options.explicit_http_config.HasField("http3_protocol_options")
    if speaks_http3:
        _check_quic(message, trail, found)


def http_options(message: Any, walks: Walks) -> Any | None:
    """Return the cluster's ``HttpProtocolOptions``, None if it has none."""
    packed = message.typed_extension_protocol_options
    for key in packed:
        options = unpacked(packed[key], OPTIONS, walks)
        if options is not None:
            return options
    return None


def options_place(message: Any, trail: Trail) -> Trail:
    """Return the place of the fields of a cluster's ``HttpProtocolOptions``."""
    packed = message.typed_extension_protocol_options
    here: Trail = ((trail, "typed_extension_protocol_options"), MapKey(OPTIONS))
    return inside(packed[OPTIONS], here) if OPTIONS in packed else here


def _speaks_http2(message: Any, options: Any | None) -> bool:
    """Return whether a cluster may use HTTP/2."""
    if options is None:
        return bool(message.HasField("http2_protocol_options"))
    which = options.WhichOneof("upstream_protocol_options")
    if which == "explicit_http_config":
        return bool(options.explicit_http_config.HasField("http2_protocol_options"))
    if which == "use_downstream_protocol_config":
        return bool(options.use_downstream_protocol_config.HasField("http2_protocol_options"))
    return True


def _check_health_checks(message: Any, options: Any | None, trail: Trail, found: Findings) -> None:
    names: set[str] = set()
    for index, check in enumerate(message.health_checks):
        here: Trail = ((trail, "health_checks"), index)
        kind = check.WhichOneof("health_checker")
        if kind == "grpc_health_check" and not _speaks_http2(message, options):
            hint = "give the cluster http2_protocol_options in its HttpProtocolOptions"
            found.add((here, kind), "needs a cluster that speaks HTTP/2", hint)
        speaks_http3 = kind == "http_health_check" and check.http_health_check.codec_client_type == HTTP3
        if speaks_http3 and not _may_be_quic(message.transport_socket):
            what = "is HTTP3, which needs a QUIC transport socket: without one, Envoy 1.40 crashes"
            found.add(((here, kind), "codec_client_type"), what)
        if len(message.health_checks) > 1 and not check.name:
            found.add((here, "name"), "is required where a cluster has several health checks")
        elif check.name and check.name in names:
            found.add((here, "name"), f"is {shown(check.name)}, which a health check before it has already")
        names.add(check.name)


def _check_quic(message: Any, trail: Trail, found: Findings) -> None:
    """Check the transport socket of a cluster that speaks HTTP/3."""
    socket, here = message.transport_socket, (trail, "transport_socket")
    if not _may_be_quic(socket):
        found.add(here, f"must be a {_QUIC}, as the cluster speaks HTTP/3")
    elif extension_type(socket.typed_config) == _QUIC and socket.name != _QUIC_NAME:
        what = f"must be {_QUIC_NAME} in a cluster that speaks HTTP/3, but is {shown(socket.name)}"
        found.add((here, "name"), what)


def _http2_holders(options: Any, trail: Trail) -> Iterator[tuple[Any, Trail]]:
    """Yield the message with the HTTP/2 options that a cluster uses, and its place."""
    which = options.WhichOneof("upstream_protocol_options")
    if which is not None:
        yield getattr(options, which), (trail, which)


def _may_be_quic(socket: Any) -> bool:
    full_name = extension_type(socket.typed_config)
    return full_name == _QUIC or (bool(full_name) and not full_name.startswith(_SOCKETS))


def _check_auto(message: Any, auto: Any, trail: Trail, found: Findings) -> None:
    """Check that all of a cluster's transport sockets can choose a protocol by ALPN."""
    if auto.HasField("http3_protocol_options") and extension_type(message.transport_socket.typed_config) == _QUIC:
        _check_quic(message, trail, found)
    if auto.HasField("http3_protocol_options") and not auto.HasField(_ALTERNATES):
        place: Trail = (options_place(message, trail), "auto_config")
        found.add((place, _ALTERNATES), "is required with http3_protocol_options")
    what = "chooses no protocol by ALPN, which auto_config of HttpProtocolOptions needs"
    hint = "give a TLS socket, or explicit_http_config in place of auto_config"
    if not message.HasField("transport_socket") or extension_type(message.transport_socket.typed_config) == _RAW:
        found.add((trail, "transport_socket"), what, hint)
    for index, match in enumerate(message.transport_socket_matches):
        if extension_type(match.transport_socket.typed_config) == _RAW:
            found.add((((trail, "transport_socket_matches"), index), "transport_socket"), what, hint)
