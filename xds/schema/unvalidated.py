"""Messages whose rules of the API Envoy does not check, since the extension reads them without validation.

The rules hold for none of their fields, and for none of the messages within. ``tests/schema/unvalidated_cases.py`` has
cases of each, about which a real Envoy is asked.
"""

_INPUTS = "envoy.extensions.matching.common_inputs.transport_socket.v3."

UNVALIDATED = frozenset(
    {
        "envoy.extensions.health_checkers.udp.v3.UdpHealthCheck",
        "envoy.extensions.http.cache.file_system_http_cache.v3.FileSystemHttpCacheConfig",
        "envoy.extensions.http.cache_v2.file_system_http_cache.v3.FileSystemHttpCacheV2Config",
        _INPUTS + "EndpointMetadataInput",
        _INPUTS + "FilterStateInput",
        _INPUTS + "LocalityMetadataInput",
        _INPUTS + "TransportSocketNameAction",
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
    }
)
"""Full names of types. Not here are those that Envoy validates when the first request needs them: it ends then."""
