"""The variants of the protocol, the policy of each resource type, the gRPC services, and the settings.

Types without an entry in ``POLICIES`` have the policy ``GENERIC``. Source: docs/protocol.md#types,
docs/protocol.md#missing-resources, docs/protocol.md#order and docs/protocol.md#services; and docs/envoy-behaviour.md,
where these leave a choice.
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
    """When changes of a type may be sent, in make-before-break order."""

    CLUSTERS = 0
    """Clusters: additions and updates first, removals last."""
    UNORDERED = 1
    """Endpoints, secrets, runtimes and all other types: never held."""
    LISTENERS = 2
    """Listeners: once the client has every cluster of the snapshot."""
    ROUTES = 3
    """Routes, scopes, virtual hosts and extensions: after the listeners."""


class Missing(Enum):
    """The answer to a delta client that subscribes to a name which does not exist."""

    REMOVED = "at once, in removed_resources"
    SILENT = "none, so that Envoy's initial_fetch_timeout ends the wait"
    BODILESS = "a resource without a body, as VHDS requires for an unknown host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How resources of one type are sent."""

    stage: Stage = Stage.UNORDERED
    missing: Missing = Missing.REMOVED
    full_state: bool = False
    """Whether each SotW response has all resources, so that the client removes those that are not in it."""
    legacy_wildcard: bool = True
    """Whether a first request without names subscribes to the wildcard."""
    expires_on_sotw: bool = True
    """Whether SotW clients are sent the TTL: Envoy 1.40 crashes when it runs out (docs/envoy-behaviour.md#ttl)."""
    keep_subscribed: bool = False
    """Whether a removal waits until the client unsubscribes: without the extension, Envoy answers requests with 500."""


GENERIC = Policy()
_ROUTES = Policy(stage=Stage.ROUTES, missing=Missing.SILENT, expires_on_sotw=False)

POLICIES: dict[str, Policy] = {
    types.CLUSTER: Policy(stage=Stage.CLUSTERS, full_state=True),
    types.ENDPOINTS: Policy(expires_on_sotw=False),
    types.LISTENER: Policy(stage=Stage.LISTENERS, full_state=True),
    types.ROUTE: _ROUTES,
    types.THRIFT_ROUTE: _ROUTES,
    types.DUBBO_ROUTE: _ROUTES,
    types.GENERIC_ROUTE: _ROUTES,
    types.SCOPED_ROUTE: Policy(stage=Stage.ROUTES, full_state=True, expires_on_sotw=False),
    types.VIRTUAL_HOST: Policy(stage=Stage.ROUTES, missing=Missing.BODILESS, legacy_wildcard=False),
    types.EXTENSION_CONFIG: Policy(stage=Stage.ROUTES, missing=Missing.SILENT, keep_subscribed=True),
    types.SECRET: Policy(expires_on_sotw=False),
}


def policy_of(type_url: str) -> Policy:
    """Return the policy of a type."""
    return POLICIES.get(type_url, GENERIC)


# --- Services --------------------------------------------------------------------------------------------------------

PREFIX = "envoy.service."


@dataclass(frozen=True, slots=True)
class Method:
    """One streaming method. ``type_url`` is empty for the aggregated service."""

    service: str
    name: str
    variant: Variant
    type_url: str

    @property
    def path(self) -> str:
        """The HTTP/2 path: ``/service/method``."""
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
    """The settings of make-before-break ordering."""

    enabled: bool = True
    """False sends every change at once; requests may then fail during a change."""
    hold_timeout_s: float = 20.0
    """Maximum time that changes wait for a client's answer."""
    listener_drain_s: float = 600.0
    """How long a client uses the inline routes of a listener that it replaced (Envoy's ``--drain-time-s``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one stream, of all streams, and of the node history that is kept after streams end."""

    node_bytes_max: int = 64 * 1024
    subscriptions_max: int = 100_000
    types_max: int = 64
    names_bytes_max: int = 64 * 1024 * 1024
    worker_names_bytes_max: int = 512 * 1024 * 1024
    """Memory for the subscribed names of all streams, in bytes; equal subscriptions count once."""
    doubtful_nodes_max: int = 10_000
    nacked_bytes_max: int = 64 * 1024 * 1024
    draining_bytes_max: int = 64 * 1024 * 1024
