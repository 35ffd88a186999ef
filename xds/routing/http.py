"""The HTTP connection manager: its routes, the virtual host, its filters."""

from collections.abc import Iterable
from typing import Any

from xds.model.types import ROUTE, SCOPED_ROUTE, VIRTUAL_HOST
from xds.routing.answer import EndOfWayError, Notes, Outcome, Passed
from xds.routing.fields import optional
from xds.routing.normalize import port_start
from xds.routing.request import Request
from xds.routing.resources import Resources
from xds.schema.formats import ascii_lower

_HTTP = "envoy.extensions.filters.http."
_PASSES = frozenset(
    _HTTP + name
    for name in (
        *("router.v3.Router", "compressor.v3.Compressor", "decompressor.v3.Decompressor", "grpc_web.v3.GrpcWeb"),
        *("grpc_stats.v3.FilterConfig", "header_to_metadata.v3.Config", "set_metadata.v3.Config", "tap.v3.Tap"),
        *("bandwidth_limit.v3.BandwidthLimit", "buffer.v3.Buffer", "original_src.v3.OriginalSrc"),
        *("file_system_buffer.v3.FileSystemBufferFilterConfig", "credential_injector.v3.CredentialInjector"),
        *(
            "upstream_codec.v3.UpstreamCodec",
            "dynamic_forward_proxy.v3.FilterConfig",
            "custom_response.v3.CustomResponse",
        ),
        "cdn_loop.v3.CdnLoopConfig",
    )
)
"""Filters that neither answer by themselves, as long as all is well, nor change how a request is routed."""
_ANSWERS = {
    _HTTP + name: words
    for name, words in (
        ("fault.v3.HTTPFault", "may abort or delay the request"),
        ("rbac.v3.RBAC", "may refuse the request"),
        ("local_ratelimit.v3.LocalRateLimit", "may refuse the request"),
        ("ratelimit.v3.RateLimit", "may refuse the request"),
        ("admission_control.v3.AdmissionControl", "may refuse the request"),
        ("jwt_authn.v3.JwtAuthentication", "may refuse the request, and route anew by what it finds in the token"),
        ("basic_auth.v3.BasicAuth", "may refuse the request"),
        ("api_key_auth.v3.ApiKeyAuth", "may refuse the request"),
        ("csrf.v3.CsrfPolicy", "may refuse the request"),
        ("health_check.v3.HealthCheck", "may answer the request"),
        ("oauth2.v3.OAuth2", "may redirect the request to a login"),
        ("cors.v3.Cors", "answers preflight requests"),
        ("cache.v3.CacheConfig", "may answer from its cache"),
        ("ext_authz.v3.ExtAuthz", "asks another service, which may refuse the request or change its headers and route"),
        (
            "ext_proc.v3.ExternalProcessor",
            "asks another service, which may answer, or change the request and its route",
        ),
        ("lua.v3.Lua", "runs a script, which may answer, or change the request and its route"),
        ("wasm.v3.Wasm", "runs a program, which may answer, or change the request and its route"),
        ("golang.v3alpha.Config", "runs a program, which may answer, or change the request and its route"),
        ("header_mutation.v3.HeaderMutation", "changes headers, after the route is chosen unless the route is cleared"),
        ("ip_tagging.v3.IPTagging", "sets x-envoy-ip-tags"),
        ("on_demand.v3.OnDemand", "may fetch a virtual host or cluster that is not there yet"),
        ("stateful_session.v3.StatefulSession", "may choose the endpoint"),
    )
}
"""What other filters may do that the resources don't decide."""
_DISABLED = "envoy.config.route.v3.FilterConfig"


def routes_of(resources: Resources, manager: Any, request: Request, notes: Notes) -> Any:
    """Return the route configuration that the manager uses for a request. Raises EndOfWayError."""
    kind = manager.WhichOneof("route_specifier")
    if kind == "route_config":
        notes.step("routes", f"route_config {manager.route_config.name!r}", "it is inline")
        return manager.route_config
    if kind == "rds":
        return _named_routes(resources, manager.rds.route_config_name, "the manager names it (RDS)", notes)
    if kind == "scoped_routes":
        return _scoped(resources, manager.scoped_routes, request, notes)
    raise EndOfWayError(Outcome(kind="error", what="the HTTP connection manager has no routes", status=404))


def _named_routes(resources: Resources, name: str, because: str, notes: Notes) -> Any:
    found = resources.get(ROUTE, name)
    if found is None:
        what = f"the group has no routes/{name}, so the listener waits for them, or answers 404"
        raise EndOfWayError(Outcome(kind="error", what=what, status=404))
    notes.step("routes", f"routes/{name}", because)
    return found


def _scoped(resources: Resources, scoped: Any, request: Request, notes: Notes) -> Any:
    for each in scoped.scope_key_builder.fragments:
        must_know(request, each.header_value_extractor.name, "the scope is chosen by")
    key = [_fragment(each.header_value_extractor, request) for each in scoped.scope_key_builder.fragments]
    said = ", ".join(map(repr, key))
    if scoped.HasField("scoped_rds"):
        scopes = resources.all(SCOPED_ROUTE)
    else:
        listed = scoped.scoped_route_configurations_list.scoped_route_configurations
        scopes = [(each.name, each) for each in listed]
    passed = []
    for name, scope in scopes:
        fragments = [each.string_key for each in scope.key.fragments]
        if None in key or fragments != key:
            passed.append(Passed(f"scoped-routes/{name}", f"its key is {', '.join(map(repr, fragments))}"))
            continue
        notes.step("scope", f"scoped-routes/{name}", f"the request's key is {said}", passed)
        if scope.on_demand:
            notes.doubt(f"scoped-routes/{name}", "it is loaded on demand")
        if scope.HasField("route_configuration"):
            notes.step("routes", f"route_configuration of {name}", "it is inline")
            return scope.route_configuration
        return _named_routes(resources, scope.route_configuration_name, "the scope names it", notes)
    notes.step("scope", "none", f"the request's key is {said}", passed)
    raise EndOfWayError(Outcome(kind="error", what=f"no scope has the key {said}", status=404))


def _fragment(extractor: Any, request: Request) -> str | None:
    value = request.header(extractor.name)
    if value is None:
        return None
    separator = extractor.element_separator
    elements = value.split(separator) if separator else [value]
    if extractor.WhichOneof("extract_type") == "element":
        pairs = (each.partition(extractor.element.separator) for each in elements)
        return next((text for key, _, text in pairs if key == extractor.element.key), None)
    return elements[extractor.index] if extractor.index < len(elements) else None


def choose_host(resources: Resources, routes: Any, request: Request, notes: Notes) -> Any:
    """Return the virtual host that takes the request's host. Raises EndOfWayError.

    Exact domains come first, then the longest ``*.suffix``, then the longest ``prefix.*``, then ``*``.
    """
    hosts = list(routes.virtual_hosts)
    if routes.HasField("vhds"):
        hosts += [each for name, each in resources.all(VIRTUAL_HOST) if name.startswith(f"{routes.name}/")]
        notes.doubt(f"routes/{routes.name}", "its virtual hosts come on demand (VHDS): this is what it may get")
    doubt_specifiers(f"routes/{routes.name}", routes, notes)
    for name in routes.internal_only_headers:
        if request.values(name):
            notes.doubt(f"routes/{routes.name}", f"the header {name} is removed from requests of outside")
    header = optional(routes, "vhost_header") or ":authority"
    wanted = _wanted_host(routes, header, hosts, request)
    best: tuple[tuple[int, int], str, Any] | None = None
    for each in hosts:
        for domain in each.domains:
            rank = _rank(ascii_lower(domain), wanted)
            if rank is not None and (best is None or rank > best[0]):
                best = (rank, domain, each)
    said = f"the host is {wanted!r}" if header == ":authority" else f"the header {header} is {wanted!r}"
    chosen = None if best is None else best[2]
    passed = [_passed_host(each, wanted, best) for each in hosts if each is not chosen]
    if best is None:
        notes.step("virtual host", "none", said, passed)
        raise EndOfWayError(Outcome(kind="error", what=f"no virtual host has the domain {wanted!r}", status=404))
    notes.step("virtual host", repr(best[2].name), f"its domain {best[1]!r} fits the host {wanted!r}", passed)
    return best[2]


def _wanted_host(routes: Any, header: str, hosts: list[Any], request: Request) -> str:
    """Return the text that virtual hosts are chosen by. Raises EndOfWayError."""
    must_know(request, header, "the virtual host is chosen by")
    value = request.header(header)
    if value is None and all(domain == "*" for each in hosts for domain in each.domains):
        value = ""  # Envoy does not look at it then
    if value is None:
        what = f"the request has no header {header}, by which the virtual host is chosen"
        raise EndOfWayError(Outcome(kind="error", what=what, status=404))
    at = port_start(value) if routes.ignore_port_in_host_matching else -1
    return ascii_lower(value[: at if at >= 0 else None])


def must_know(request: Request, header: str, says: str, *, tells: bool = False) -> None:
    """Raise EndOfWayError with an unknown outcome if a header is not known, or is hidden and compared.

    ``tells``: its value is only told, to who gave it.
    """
    if header.lower() in request.hidden and not tells:
        raise EndOfWayError(Outcome(kind="unknown", what=f"{says} the header {header}, whose values are hidden"))
    if header.lower() in request.unsure:
        what = f"{says} the header {header}, which Envoy may set, change or remove"
        raise EndOfWayError(Outcome(kind="unknown", what=what))


def doubt_specifiers(at: str, message: Any, notes: Notes) -> None:
    """Add a doubt if a route configuration, virtual host or route has extensions that may change the route."""
    for each in optional(message, "route_specifiers") or ():
        notes.doubt(at, f"the route specifier {each.DESCRIPTOR.name} may change the route")


def _rank(domain: str, host: str) -> tuple[int, int] | None:
    if domain == "*":
        return (0, 0)
    if domain == host:
        return (3, 0)
    if domain.startswith("*") and len(host) > len(domain) - 1 and host.endswith(domain[1:]):
        return (2, len(domain))
    if domain.endswith("*") and len(host) > len(domain) - 1 and host.startswith(domain[:-1]):
        return (1, len(domain))
    return None


def _passed_host(host: Any, wanted: str, best: Any) -> Passed:
    fits = [each for each in host.domains if _rank(ascii_lower(each), wanted) is not None]
    domains = ", ".join(list(host.domains)[:5]) + (", …" if len(host.domains) > 5 else "")
    return Passed(repr(host.name), f"{best[1]!r} fits better than {fits[0]!r}" if fits else f"its domains: {domains}")


def must_use_tls(host: Any, request: Request, notes: Notes) -> None:
    """Raise EndOfWayError if a virtual host redirects requests without TLS."""
    if request.header("x-forwarded-proto") == "https" or not host.require_tls:
        return
    location = f"https://{request.host}{request.path}"
    if host.require_tls == 1:
        notes.doubt(repr(host.name), "require_tls is EXTERNAL_ONLY: requests from outside are redirected to https")
        return
    what = f"the virtual host {host.name!r} requires TLS"
    raise EndOfWayError(Outcome(kind="redirect", what=what, status=301, location=location))


def doubt_filters(
    resources: Resources, filters: Iterable[Any], layers: list[Any], request: Request, notes: Notes
) -> None:
    """Add a doubt for each HTTP filter that may answer, or change the way; ``layers``: what may disable it, innermost
    last.
    """
    for filter_ in filters:
        type_name, _ = resources.extension(filter_)
        disabled = bool(optional(filter_, "disabled"))
        for layer in layers:
            config = layer.typed_per_filter_config.get(filter_.name)
            if config is None:
                continue
            is_plain = config.type_url.endswith(_DISABLED)
            disabled = bool(is_plain and optional(resources.unpack(config), "disabled"))
        if disabled or type_name in _PASSES:
            continue
        if type_name.endswith("cors.v3.Cors") and request.method != "OPTIONS":
            continue
        words = _ANSWERS.get(type_name, "may answer, or change the request and its route")
        notes.doubt(f"HTTP filter {filter_.name}", words if type_name else f"comes from elsewhere, and {words}")
