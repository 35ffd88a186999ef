"""The way of a request through the resources of a group: listener, filter chain, routes, clusters, endpoints."""

from dataclasses import replace
from typing import Any

from xds.routing.actions import outcome_of
from xds.routing.answer import Answer, EndOfWayError, Notes, Outcome
from xds.routing.clusters import way_of
from xds.routing.http import choose_host, doubt_filters, must_use_tls, routes_of
from xds.routing.listeners import choose_chain, choose_listener
from xds.routing.normalize import normalize
from xds.routing.request import Request
from xds.routing.resources import Resources
from xds.routing.routes import choose_route
from xds.routing.upgrades import filters_for
from xds.schema.secret_fields import CREDENTIAL_PARAMETERS

_NETWORK = "envoy.extensions.filters.network."
_MANAGER = _NETWORK + "http_connection_manager.v3.HttpConnectionManager"
_TCP_PROXY = _NETWORK + "tcp_proxy.v3.TcpProxy"
_TLS_SOCKETS = (".DownstreamTlsContext", ".StartTlsConfig", ".QuicDownstreamTransport")


def find_way(resources: Resources, request: Request, *, hides_secrets: bool = True) -> Answer:
    """Return the way of a request. What the resources don't decide is a doubt, or makes the outcome unknown.

    With ``hides_secrets``, matchers of credentials are not evaluated: an answer could tell what they want.
    """
    notes = Notes()
    if hides_secrets:
        resources = resources.hiding_secrets()
        request = replace(request, hidden=resources.secret_headers, hidden_parameters=CREDENTIAL_PARAMETERS)
    try:
        outcome = _way(resources, request, notes)
    except EndOfWayError as error:
        outcome = error.outcome
    return notes.answer(request.about, outcome)


def _way(resources: Resources, request: Request, notes: Notes) -> Outcome:
    listener = choose_listener(resources, request, notes)
    if listener.HasField("api_listener"):
        packed = listener.api_listener.api_listener
        type_name, manager = packed.type_url.rpartition("/")[2], resources.unpack(packed)
        if type_name != _MANAGER or manager is None:
            return Outcome(
                kind="unknown", what=f"its api_listener is {type_name or 'empty'}, no HTTP connection manager"
            )
        notes.doubt(f"listeners/{listener.name}", "it is an api_listener, for gRPC clients: they route by its manager")
        return _by_http(resources, manager, request, notes)
    chain = choose_chain(resources, listener, request, notes)
    _check_tls(chain, request, notes)
    for filter_ in chain.filters:
        type_name, config = resources.extension(filter_)
        if type_name == _MANAGER and config is not None:
            if request.scheme in ("tcp", "tls"):
                what = "the filter chain speaks HTTP: ask with an http or https URL"
                return Outcome(kind="error", what=what)
            return _by_http(resources, config, request, notes)
        if type_name == _TCP_PROXY and config is not None:
            return _by_tcp(resources, config, notes)
        notes.doubt(f"filter {filter_.name}", "may close the connection, or change where it goes")
    return Outcome(kind="unknown", what="the filter chain has neither an HTTP connection manager nor a TCP proxy")


def _check_tls(chain: Any, request: Request, notes: Notes) -> None:
    """Add a doubt, or raise EndOfWayError, if the filter chain does not speak TLS where the client does, or must."""
    socket = chain.transport_socket.typed_config.type_url
    has_tls = socket.endswith(_TLS_SOCKETS)
    is_http = any(_MANAGER in each.typed_config.type_url for each in chain.filters)
    if request.is_tls and not has_tls and is_http:
        what = "the filter chain does not terminate TLS, so it can't read the request"
        raise EndOfWayError(Outcome(kind="error", what=what, status=400))
    if not request.is_tls and has_tls and not socket.endswith(_TLS_SOCKETS[1]):
        raise EndOfWayError(Outcome(kind="error", what="the filter chain wants TLS, so it closes the connection"))
    if socket and not has_tls and not socket.endswith(".RawBuffer"):
        notes.doubt("transport_socket", f"{chain.transport_socket.name} may refuse the connection")


def _by_http(resources: Resources, manager: Any, request: Request, notes: Notes) -> Outcome:
    request = normalize(manager, request, notes)
    routes = routes_of(resources, manager, request, notes)
    layers = [routes]
    try:
        host = choose_host(resources, routes, request, notes)
        layers.append(host)
        must_use_tls(host, request, notes)
        route = choose_route(resources, routes, host, request, notes)
        layers.append(route)
        filters = filters_for(manager, route, request)
    except EndOfWayError as error:
        outcome = error.outcome
        filters = manager.http_filters  # they may answer requests without a route too
        if outcome.kind == "redirect":
            filters = filters_for(manager, None, request)  # a refused upgrade counts more
    else:
        outcome = outcome_of(resources, [routes, host], route, request, notes)
    doubt_filters(resources, filters, layers, request, notes)
    if outcome.status is not None and manager.local_reply_config.mappers:
        notes.doubt("local_reply_config", "its mappers may change the status, headers and body of Envoy's own answer")
    _note_clusters(outcome, notes)
    return outcome


def _by_tcp(resources: Resources, proxy: Any, notes: Notes) -> Outcome:
    subset = proxy.metadata_match if proxy.HasField("metadata_match") else None
    if proxy.WhichOneof("cluster_specifier") == "weighted_clusters":
        total = sum(each.weight for each in proxy.weighted_clusters.clusters)
        parts = [(each.name, each.weight / total) for each in proxy.weighted_clusters.clusters if each.weight]
    else:
        parts = [(proxy.cluster, 1.0)]
    if proxy.HasField("on_demand"):
        notes.doubt("tcp_proxy", "it fetches clusters on demand")
    ways = tuple(way_of(resources, notes, name, share=share, subset=subset) for name, share in parts)
    said = ", ".join(f"{each.name} ({each.share:.2%})" if each.share < 1 else each.name for each in ways)
    what = f"the connection goes to {said} (TCP)"
    if not any(each.found for each in ways):
        what += ", which the group does not have: Envoy closes the connection"
    outcome = Outcome(kind="clusters", what=what, clusters=ways)
    _note_clusters(outcome, notes)
    return outcome


def _note_clusters(outcome: Outcome, notes: Notes) -> None:
    for each in outcome.clusters:
        found = f"{each.kind}, {each.policy}".strip(", ") if each.found else "the group lacks it"
        notes.step("cluster", f"clusters/{each.name}", found if each.share == 1 else f"{found}; {each.share:.2%}")
