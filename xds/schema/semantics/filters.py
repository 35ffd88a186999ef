"""Filter chains end with a terminal filter; JWT requirements name providers; typed structs fit their type."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from xds.model.xdstp import XDSTP
from xds.schema.decode import Findings
from xds.schema.formats import ascii_lower
from xds.schema.paths import MapKey, Trail, path_of
from xds.schema.rules import shown
from xds.schema.semantics.http2_settings import check_http2
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.typed_structs import TYPED_STRUCTS, NotDescribedError, described

_HTTP = "envoy.extensions.filters.http."
_NETWORK = "envoy.extensions.filters.network."
_HCM = _NETWORK + "http_connection_manager.v3."
_JWT = _HTTP + "jwt_authn.v3."

_KINDS = {"HTTP": _HTTP, "network": _NETWORK, "listener": "envoy.extensions.filters.listener."}
"""Where the types of filters are, by the kind of filter."""

TERMINAL = frozenset(
    {
        *(_HTTP + name for name in ("router.v3.Router", "mcp_router.v3.McpRouter")),
        _HCM + "HttpConnectionManager",
        *(_NETWORK + name for name in ("tcp_proxy.v3.TcpProxy", "echo.v3.Echo", "direct_response.v3.Config")),
        *(_NETWORK + name for name in ("redis_proxy.v3.RedisProxy", "thrift_proxy.v3.ThriftProxy")),
        *(_NETWORK + name for name in ("dubbo_proxy.v3.DubboProxy", "generic_proxy.v3.GenericProxy")),
    }
)
"""Filters that must be the last of their chain."""
NOT_TERMINAL = frozenset(
    {
        *(
            _HTTP + name
            for name in (
                *("bandwidth_limit.v3.BandwidthLimit", "basic_auth.v3.BasicAuth", "buffer.v3.Buffer"),
                *("compressor.v3.Compressor", "cors.v3.Cors", "csrf.v3.CsrfPolicy", "decompressor.v3.Decompressor"),
                *("dynamic_forward_proxy.v3.FilterConfig", "ext_authz.v3.ExtAuthz", "ext_proc.v3.ExternalProcessor"),
                *("fault.v3.HTTPFault", "grpc_stats.v3.FilterConfig", "grpc_web.v3.GrpcWeb"),
                *("header_mutation.v3.HeaderMutation", "header_to_metadata.v3.Config", "health_check.v3.HealthCheck"),
                *("jwt_authn.v3.JwtAuthentication", "local_ratelimit.v3.LocalRateLimit", "lua.v3.Lua"),
                *("oauth2.v3.OAuth2", "on_demand.v3.OnDemand", "original_src.v3.OriginalSrc"),
                *("ratelimit.v3.RateLimit", "rbac.v3.RBAC", "set_filter_state.v3.Config", "set_metadata.v3.Config"),
                *("stateful_session.v3.StatefulSession",),
            )
        ),
        *(
            _NETWORK + name
            for name in (
                *("connection_limit.v3.ConnectionLimit", "ext_authz.v3.ExtAuthz", "local_ratelimit.v3.LocalRateLimit"),
                *("mongo_proxy.v3.MongoProxy", "ratelimit.v3.RateLimit", "rbac.v3.RBAC"),
                *("set_filter_state.v3.Config", "sni_cluster.v3.SniCluster", "zookeeper_proxy.v3.ZooKeeperProxy"),
            )
        ),
    }
)
"""Filters that must not be the last of their chain. Of all others it is not known here."""


def _type_of(holder: Any) -> str:
    """Return the message type of a filter's configuration, that inside a typed struct; "" if it is not there."""
    return extension_type(holder.typed_config) if holder.WhichOneof("config_type") == "typed_config" else ""


def extension_type(value: Any) -> str:
    """Return the message type of an extension in an Any, that inside a typed struct; "" if it is not there."""
    full_name = str(value.type_url.rpartition("/")[2])
    return full_name if full_name not in TYPED_STRUCTS else _typed_struct_type(value.value)


def _typed_struct_type(data: bytes) -> str:
    """Return the type that a typed struct names: its first field, which encoders write first."""
    if len(data) < 3 or data[0] != 0x0A:
        return ""
    size, start = data[1], 2
    if size >= _MORE:
        if data[2] >= _MORE:
            return ""  # no type has so long a name
        size, start = (size & (_MORE - 1)) | data[2] << 7, 3
    return data[start : start + size].decode(errors="replace").rpartition("/")[2]


_MORE = 0x80
"""The bit of a length's byte that says that another one follows."""


def unpacked(value: Any, full_name: str, walks: Walks) -> Any | None:
    """Return the extension in an Any, that inside a typed struct too, if it is of this type; else None.

    What can't be read is None too: the walk over the Any says so.
    """
    kind = value.type_url.rpartition("/")[2]
    if extension_type(value) != full_name or not walks.schema.has(full_name):
        return None
    made: Any = walks.schema.message_class(kind)
    try:
        message = made.FromString(value.value)
        return message if kind not in TYPED_STRUCTS else described(walks.schema, message, allow_unknown_types=True)
    except (DecodeError, NotDescribedError):
        return None


def names_no_type(value: Any, walks: Walks) -> bool:
    """Return whether an Any has a typed struct that does not say of which type it is."""
    kind = value.type_url.rpartition("/")[2]
    if kind not in TYPED_STRUCTS or not walks.schema.has(kind):
        return False
    made: Any = walks.schema.message_class(kind)
    try:
        return not made.FromString(value.value).type_url
    except DecodeError:
        return False


def inside(value: Any, trail: Trail) -> Trail:
    """Return the place of the fields of an extension in an Any, which are deeper in a typed struct."""
    return (trail, "value") if value.type_url.rpartition("/")[2] in TYPED_STRUCTS else trail


def check_order(filters: Any, kind: str, trail: Trail, found: Findings) -> None:
    """Check that terminal filters, and only those, are the last of a chain of HTTP or network filters."""
    last = len(filters) - 1
    for index, each in enumerate(filters):
        full_name = _type_of(each)
        here: Trail = (trail, index)
        if any(name != kind and full_name.startswith(prefix) for name, prefix in _KINDS.items()):
            continue  # ``categories`` refuses it
        if index < last and full_name in TERMINAL:
            found.add(here, f"is a terminal filter ({each.name}), which must be the last of its chain", "move it down")
        elif index == last and full_name in NOT_TERMINAL:
            hint = f"add {'a router' if full_name.startswith(_HTTP) else 'a proxy such as tcp_proxy'} after it"
            found.add(here, f"is the last filter of its chain, but not a terminal one ({each.name})", hint)


def _check_hcm(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_order(message.http_filters, "HTTP", (trail, "http_filters"), found)
    if message.http_filters:
        index = len(message.http_filters) - 1
        last = message.http_filters[index]
        if last.disabled and _type_of(last) in TERMINAL:
            found.add((((trail, "http_filters"), index), "disabled"), "must not be set for the last filter of a chain")
    check_http2(message, (trail, "http2_protocol_options"), found)
    if message.strip_matching_host_port and message.strip_any_host_port:
        found.add((trail, "strip_any_host_port"), "excludes strip_matching_host_port", "use one of both")
    for field, is_set in (
        ("use_remote_address", message.use_remote_address.value),
        ("xff_num_trusted_hops", message.xff_num_trusted_hops),
    ):
        if is_set and message.original_ip_detection_extensions:
            found.add((trail, "original_ip_detection_extensions"), f"excludes {field}", "use one of both")
    names: set[str] = set()
    for index, upgrade in enumerate(message.upgrade_configs):
        here = ((trail, "upgrade_configs"), index)
        check_order(upgrade.filters, "HTTP", (here, "filters"), found)
        if ascii_lower(upgrade.upgrade_type) in names:
            what = f"is {shown(upgrade.upgrade_type)}, which an upgrade before it has already"
            found.add((here, "upgrade_type"), what)
        names.add(ascii_lower(upgrade.upgrade_type))


def _check_rds(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if not message.HasField("config_source") and not message.route_config_name.startswith(XDSTP):
        hint = "for example config_source: {ads: {}, resource_api_version: V3}"
        found.add((trail, "config_source"), "is required", hint)


def _check_discovery(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check that a default config is of a type that may be discovered."""
    full_name = extension_type(message.default_config)
    allowed = [type_url.rpartition("/")[2] for type_url in message.type_urls]
    if message.HasField("default_config") and full_name not in allowed:
        found.add((trail, "default_config"), f"is of type {full_name}, which is not in type_urls")


def _check_session(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the name of a session state, by which Envoy finds it."""
    state = message.session_state
    full_name = extension_type(state.typed_config)
    wanted = SESSION_STATES.get(full_name, state.name)
    if message.HasField("session_state") and state.name != wanted:
        what = f"is {shown(state.name)}, but Envoy finds a session state of this type by the name {shown(wanted)}"
        found.add(((trail, "session_state"), "name"), what)


SESSION_STATES = {
    f"envoy.extensions.http.stateful_session.{kind}.v3.{name}": f"envoy.http.stateful_session.{kind}"
    for kind, name in (
        ("cookie", "CookieBasedSessionState"),
        ("envelope", "EnvelopeSessionState"),
        ("header", "HeaderBasedSessionState"),
    )
}
"""The name of each session state, by its type."""


def _check_filter_chain(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_order(message.filters, "network", (trail, "filters"), found)


def _check_jwt(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Every requirement names a provider, and every rule a requirement, of the same filter."""
    hint = f"its providers: {', '.join(sorted(message.providers)[:10]) or 'none'}"
    for requirement, place in _requirements(message, trail):
        for name, here in _provider_names(requirement, place):
            if name not in message.providers:
                found.add(here, f"names the provider {shown(name)}, which is not in providers", hint)
    for index, rule in enumerate(message.rules):
        name = rule.requirement_name
        if rule.WhichOneof("requirement_type") == "requirement_name" and name not in message.requirement_map:
            what = f"names {shown(name)}, which is not in requirement_map"
            found.add((((trail, "rules"), index), "requirement_name"), what)


def _requirements(message: Any, trail: Trail) -> Iterator[tuple[Any, Trail]]:
    for index, rule in enumerate(message.rules):
        if rule.WhichOneof("requirement_type") == "requires":
            yield rule.requires, (((trail, "rules"), index), "requires")
    for key in sorted(message.requirement_map):
        yield message.requirement_map[key], ((trail, "requirement_map"), MapKey(key))
    if message.HasField("filter_state_rules"):
        requires = message.filter_state_rules.requires
        for key in sorted(requires):
            yield requires[key], (((trail, "filter_state_rules"), "requires"), MapKey(key))


def _provider_names(requirement: Any, trail: Trail) -> Iterator[tuple[str, Trail]]:
    kind = requirement.WhichOneof("requires_type")
    if kind == "provider_name":
        yield requirement.provider_name, (trail, "provider_name")
    elif kind == "provider_and_audiences":
        yield requirement.provider_and_audiences.provider_name, ((trail, kind), "provider_name")
    elif kind in ("requires_any", "requires_all"):
        for index, each in enumerate(getattr(requirement, kind).requirements):
            yield from _provider_names(each, (((trail, kind), "requirements"), index))


def _check_typed_struct(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Read a typed struct as Envoy does: its value must be a message of the type that it names."""
    full_name = message.type_url.rpartition("/")[2]
    if not {"typed_config", "typed_per_filter_config"} & set(path_of(trail)[-2:]):
        return  # elsewhere Envoy leaves the struct to its reader
    if not walks.schema.has(full_name):
        return  # a type of a custom build
    here: Trail = (trail, "value")
    try:
        made = described(walks.schema, message, allow_unknown_types=found.allow_unknown_types)
    except NotDescribedError as error:
        for finding in error.findings:
            found.add(_extended(here, finding.path), finding.what, finding.hint)
        return
    inner = Findings(allow_unknown_types=found.allow_unknown_types, allow_redacted=found.allow_redacted)
    walks.canonical(made, _CHECK | _REFERENCES, here, inner)
    found.take(inner)


_CHECK, _REFERENCES = 1, 2
"""``plan.CHECK`` and ``plan.REFERENCES``."""


def _extended(trail: Trail, path: tuple[Any, ...]) -> Trail:
    for step in path:
        trail = (trail, step)
    return trail


FILTER_RULES: dict[str, Rule] = {
    _HCM + "HttpConnectionManager": _check_hcm,
    _HCM + "Rds": _check_rds,
    "envoy.config.core.v3.ExtensionConfigSource": _check_discovery,
    _HTTP + "stateful_session.v3.StatefulSession": _check_session,
    "envoy.config.listener.v3.FilterChain": _check_filter_chain,
    _JWT + "JwtAuthentication": _check_jwt,
    **dict.fromkeys(TYPED_STRUCTS, _check_typed_struct),
}
