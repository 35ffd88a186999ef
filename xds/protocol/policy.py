"""The two variants of the protocol, how resource types differ, the gRPC services, and the protocol's settings.

Unknown types get the policy ``GENERIC``. Source: the xDS protocol page, "Resource types", "Knowing when a requested
resource does not exist", "Eventual consistency considerations" and "RPC services and methods for each variant"; and
Envoy 1.40's behaviour where that page leaves it open.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from xds.model import types

# --- Variants and resource types -------------------------------------------------------------------------------------


class Variant(Enum):
    """The two forms of the protocol."""

    DELTA = "delta"
    SOTW = "sotw"


class Stage(IntEnum):
    """When a change of a type may go out, in make-before-break order. Types of stage FREE are never held."""

    MAKE = 0
    """Clusters: additions and updates first, removals last of all."""
    FREE = 1
    """Endpoints, secrets, runtimes and everything that nothing has to wait for."""
    LISTENERS = 2
    """Listeners: once every cluster of the snapshot is there."""
    ROUTES = 3
    """Routes, scopes, virtual hosts and extensions: after the listeners."""


class Missing(Enum):
    """What a delta client is told about a name that it subscribes to and that does not exist."""

    REMOVED = "at once, in removed_resources"
    SILENT = "nothing: Envoy would give up its fetch timeout and wait for ever"
    BODILESS = "a resource without a body, as VHDS answers an unknown host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One type's ways. ``full_state``: a SotW response carries all resources, and absence removes."""

    stage: Stage = Stage.FREE
    missing: Missing = Missing.REMOVED
    full_state: bool = False
    legacy_wildcard: bool = True
    """Whether a first request without names means all of the type."""
    keep_subscribed: bool = False
    """Whether a removal waits until the client unsubscribes by itself: Envoy answers 500 without the extension."""


GENERIC = Policy()

POLICIES: dict[str, Policy] = {
    types.CLUSTER: Policy(stage=Stage.MAKE, full_state=True),
    types.LISTENER: Policy(stage=Stage.LISTENERS, full_state=True),
    types.ROUTE: Policy(stage=Stage.ROUTES, missing=Missing.SILENT),
    types.SCOPED_ROUTE: Policy(stage=Stage.ROUTES, full_state=True),
    types.VIRTUAL_HOST: Policy(stage=Stage.ROUTES, missing=Missing.BODILESS, legacy_wildcard=False),
    types.EXTENSION_CONFIG: Policy(stage=Stage.ROUTES, missing=Missing.SILENT, keep_subscribed=True),
}


def policy_of(type_url: str) -> Policy:
    """Return the policy of a type."""
    return POLICIES.get(type_url, GENERIC)


# --- Services --------------------------------------------------------------------------------------------------------

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


# --- Settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """How long order may cost time. ``enabled`` False sends every change at once, at the price of failed requests.

    ``hold_timeout_s`` bounds every wait for a client's answer; ``listener_drain_s`` is how long a client goes on using
    the inline routes of a listener that it replaced (Envoy's ``--drain-time-s``).
    """

    enabled: bool = True
    hold_timeout_s: float = 20.0
    listener_drain_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one stream, or the memory of streams that ended, may take."""

    node_bytes_max: int = 64 * 1024
    subscriptions_max: int = 100_000
    types_max: int = 64
    names_bytes_max: int = 64 * 1024 * 1024
    doubtful_nodes_max: int = 10_000
    nacked_bytes_max: int = 64 * 1024 * 1024
    draining_bytes_max: int = 64 * 1024 * 1024
