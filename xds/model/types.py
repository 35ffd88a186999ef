"""The resource types with a short name or a policy. All other types of the schema are served too, without ordering.

How each type is sent is in ``xds.protocol.policy``.
"""

TYPE_PREFIX = "type.googleapis.com/"
WRAPPER = "envoy.service.discovery.v3.Resource"
WRAPPER_URL = TYPE_PREFIX + WRAPPER
"""The message around a resource that has more than its type says: a TTL, aliases, a name."""

CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTE = TYPE_PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
VIRTUAL_HOST = TYPE_PREFIX + "envoy.config.route.v3.VirtualHost"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = TYPE_PREFIX + "envoy.service.runtime.v3.Runtime"
EXTENSION_CONFIG = TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
LOCALITY_ENDPOINTS = TYPE_PREFIX + "envoy.config.endpoint.v3.LbEndpoint"
THRIFT_ROUTE = TYPE_PREFIX + "envoy.extensions.filters.network.thrift_proxy.v3.RouteConfiguration"
DUBBO_ROUTE = TYPE_PREFIX + "envoy.extensions.filters.network.dubbo_proxy.v3.MultipleRouteConfiguration"
GENERIC_ROUTE = TYPE_PREFIX + "envoy.extensions.filters.network.generic_proxy.v3.RouteConfiguration"
FROM_BOOTSTRAP = "a secret of Envoy's bootstrap"
"""What a name of a secret without a source refers to: nothing that is served."""
TOKEN_BUCKET = TYPE_PREFIX + "envoy.type.v3.TokenBucket"

SHORT_NAMES: dict[str, str] = {
    "clusters": CLUSTER,
    "endpoints": ENDPOINTS,
    "listeners": LISTENER,
    "routes": ROUTE,
    "scoped-routes": SCOPED_ROUTE,
    "virtual-hosts": VIRTUAL_HOST,
    "secrets": SECRET,
    "runtimes": RUNTIME,
    "extensions": EXTENSION_CONFIG,
    "locality-endpoints": LOCALITY_ENDPOINTS,
    "thrift-routes": THRIFT_ROUTE,
    "dubbo-routes": DUBBO_ROUTE,
    "generic-routes": GENERIC_ROUTE,
}
"""Short name, for operators, to type URL."""

DISCOVERY_SERVICES = {
    "cds": CLUSTER,
    "eds": ENDPOINTS,
    "lds": LISTENER,
    "rds": ROUTE,
    "srds": SCOPED_ROUTE,
    "vhds": VIRTUAL_HOST,
    "sds": SECRET,
    "rtds": RUNTIME,
    "ecds": EXTENSION_CONFIG,
    "leds": LOCALITY_ENDPOINTS,
}
"""The services by which Envoy gets the types, by their usual abbreviations."""
_MESSAGES = {url.rpartition(".")[2].lower(): url for url in reversed(SHORT_NAMES.values())}
"""Of several messages with one name, the first type's."""
ALIASES: dict[str, str] = {
    **{short.removesuffix("s"): url for short, url in SHORT_NAMES.items()},
    **DISCOVERY_SERVICES,
    **_MESSAGES,
    "assignments": ENDPOINTS,
    "assignment": ENDPOINTS,
    "vhosts": VIRTUAL_HOST,
    "vhost": VIRTUAL_HOST,
}
"""Further names of the types with a short name, in lower case: singular, discovery service, message."""

_SHORT_OF = {type_url: short for short, type_url in SHORT_NAMES.items()} | {FROM_BOOTSTRAP: "secrets"}


def short_name(type_url: str) -> str:
    """Return the short name of a type URL (``clusters``), or its message name if it has none."""
    return _SHORT_OF.get(type_url) or type_url.removeprefix(TYPE_PREFIX)


def type_url_of(word: str) -> str:
    """Return the type URL for a short name, an alias, a message name or a type URL.

    Short names and aliases may have any case, and ``_`` in place of ``-``.
    """
    plain = word.lower().replace("_", "-")
    if known := SHORT_NAMES.get(plain) or ALIASES.get(plain):
        return known
    return word if word.startswith(TYPE_PREFIX) else TYPE_PREFIX + word
