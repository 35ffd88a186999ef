"""The gRPC services of xDS and their methods. It does not know what serves them.

Source: the xDS protocol page, "RPC services and methods for each variant".
"""

from dataclasses import dataclass

from xds.model import types
from xds.protocol.state import Variant

PREFIX = "envoy.service."


@dataclass(frozen=True, slots=True)
class Method:
    """One streaming method: ``path`` is ``/service/method``; ``type_url`` is empty where all types are served."""

    service: str
    name: str
    variant: Variant
    type_url: str

    @property
    def path(self) -> str:
        """The HTTP/2 path of the method."""
        return f"/{self.service}/{self.name}"


_SERVICES = (
    ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources", "", (Variant.DELTA, Variant.SOTW)),
    ("cluster.v3.ClusterDiscoveryService", "Clusters", types.CLUSTER, (Variant.DELTA, Variant.SOTW)),
    ("endpoint.v3.EndpointDiscoveryService", "Endpoints", types.ENDPOINTS, (Variant.DELTA, Variant.SOTW)),
    ("endpoint.v3.LocalityEndpointDiscoveryService", "LocalityEndpoints", types.LOCALITY_ENDPOINTS, (Variant.DELTA,)),
    ("listener.v3.ListenerDiscoveryService", "Listeners", types.LISTENER, (Variant.DELTA, Variant.SOTW)),
    ("route.v3.RouteDiscoveryService", "Routes", types.ROUTE, (Variant.DELTA, Variant.SOTW)),
    ("route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", types.SCOPED_ROUTE, (Variant.DELTA, Variant.SOTW)),
    ("route.v3.VirtualHostDiscoveryService", "VirtualHosts", types.VIRTUAL_HOST, (Variant.DELTA,)),
    ("secret.v3.SecretDiscoveryService", "Secrets", types.SECRET, (Variant.DELTA, Variant.SOTW)),
    ("runtime.v3.RuntimeDiscoveryService", "Runtime", types.RUNTIME, (Variant.DELTA, Variant.SOTW)),
    (
        "extension.v3.ExtensionConfigDiscoveryService",
        "ExtensionConfigs",
        types.EXTENSION_CONFIG,
        (Variant.DELTA, Variant.SOTW),
    ),
)

METHODS: tuple[Method, ...] = tuple(
    Method(PREFIX + service, ("Delta" if variant is Variant.DELTA else "Stream") + name, variant, type_url)
    for service, name, type_url, variants in _SERVICES
    for variant in variants
)

SERVICES: tuple[str, ...] = tuple(dict.fromkeys(method.service for method in METHODS))
