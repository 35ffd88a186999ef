"""The fields that hold format strings, and headers whose values are ones."""

from collections.abc import Iterator
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.semantics.texts import check_format, check_header, check_header_option, struct_texts

_CORE = "envoy.config.core.v3."
_ROUTE = "envoy.config.route.v3."
_TRACE = "envoy.config.trace.v3."
_LOG = "envoy.extensions.access_loggers."
_HTTP = "envoy.extensions.filters.http."
_NETWORK = "envoy.extensions.filters.network."
_HCM = _NETWORK + "http_connection_manager.v3."
_RESPONSES = "envoy.extensions.http.custom_response."
_BOTH = ("request_headers_to_add", "response_headers_to_add")
_OPERATIONS = ("operation", "upstream_operation")

FORMATS: dict[str, tuple[str, ...]] = {
    _CORE + "SubstitutionFormatString": ("text_format", "text_format_source.inline_string", "json_format"),
    _CORE + "HealthCheck.GrpcHealthCheck": ("initial_metadata",),
    _CORE + "HealthCheck.HttpHealthCheck": ("request_headers_to_add",),
    _CORE + "GrpcService": ("initial_metadata",),
    "envoy.config.common.mutation_rules.v3.HeaderMutation": ("append",),
    _ROUTE + "RouteConfiguration": _BOTH,
    _ROUTE + "VirtualHost": _BOTH,
    _ROUTE + "Route": _BOTH,
    _ROUTE + "WeightedCluster.ClusterWeight": _BOTH,
    _ROUTE + "RouteAction": ("path_rewrite", "host_rewrite"),
    _ROUTE + "RedirectAction": ("path_rewrite",),
    _ROUTE + "Tracing": _OPERATIONS,
    _TRACE + "OpenTelemetryConfig": ("http_service.request_headers_to_add",),
    _TRACE + "ZipkinConfig": ("collector_service.request_headers_to_add",),
    "envoy.type.tracing.v3.CustomTag": ("value",),
    "envoy.extensions.clusters.reverse_connection.v3.ReverseConnectionClusterConfig": (
        *("host_id_format", "tenant_id_format"),
    ),
    _LOG + "file.v3.FileAccessLog": ("format", "json_format", "typed_json_format"),
    _LOG + "fluentd.v3.FluentdAccessLogConfig": ("record",),
    _LOG + "open_telemetry.v3.OpenTelemetryAccessLogConfig": (
        *("body", "attributes", "http_service.request_headers_to_add"),
    ),
    _LOG + "stats.v3.Config.Tag": ("value_format",),
    _LOG + "stats.v3.Config.Histogram": ("value_format",),
    _LOG + "stats.v3.Config.Counter": ("value_format",),
    _LOG + "stats.v3.Config.Gauge": ("value_format",),
    _HTTP + "ext_authz.v3.AuthorizationRequest": ("headers_to_add",),
    _HTTP + "ext_proc.v3.ExtProcHttpService": ("http_service.request_headers_to_add",),
    _HTTP + "local_ratelimit.v3.LocalRateLimit": (
        *("request_headers_to_add_when_not_enforced", "response_headers_to_add"),
    ),
    _HTTP + "oauth2.v3.OAuth2Config": ("redirect_uri", "original_request_uri"),
    _HTTP + "ratelimit.v3.RateLimit": ("response_headers_to_add",),
    _RESPONSES + "local_response_policy.v3.LocalResponsePolicy": ("response_headers_to_add",),
    _RESPONSES + "redirect_policy.v3.RedirectPolicy": _BOTH,
    _HCM + "HttpConnectionManager.Tracing": _OPERATIONS,
    _HCM + "ResponseMapper": ("headers_to_add",),
    _NETWORK + "ratelimit.v3.RateLimit": ("descriptors.entries.value",),
    _NETWORK + "tcp_proxy.v3.TcpProxy.TunnelingConfig": ("hostname", "headers_to_add"),
    "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.UdpTunnelingConfig": (
        *("proxy_host", "target_host", "headers_to_add"),
    ),
}
"""Full names of messages to their fields with format strings, or the paths to these.

A field that holds headers has format strings in their values, and names that Envoy may not let be changed. With a
wrong one in ``initial_metadata`` of a ``GrpcService``, Envoy refuses the resource, crashes, or goes without the
service, which depends on what uses it.
"""
_ANY_NAME = frozenset({_CORE + "HttpService"})
"""Messages whose headers may have any name, and may be appended in any way."""


def _rule(paths: tuple[str, ...]) -> Rule:
    split = [path.split(".") for path in paths]

    def check(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
        has_formatters = "formatters" in message.DESCRIPTOR.fields_by_name and len(message.formatters) > 0
        for path in split:
            for holder, value, here in _values(message, path, trail):
                _check(holder, value, here, found, has_formatters)

    return check


def _values(message: Any, path: list[str], trail: Trail) -> Iterator[tuple[Any, Any, Trail]]:
    """Yield each value at the end of a path that is set, with the message that has it, and its place."""
    field = message.DESCRIPTOR.fields_by_name.get(path[0])
    if field is None or (field.has_presence and not message.HasField(path[0])):
        return  # another schema may lack it
    value, here = getattr(message, path[0]), (trail, path[0])
    places = [(each, (here, index)) for index, each in enumerate(value)] if field.is_repeated else [(value, here)]
    for each, place in places:
        if len(path) > 1:
            yield from _values(each, path[1:], place)
        else:
            yield message, each, place


def _check(holder: Any, value: Any, trail: Trail, found: Findings, has_formatters: bool) -> None:
    if isinstance(value, str):
        check_format(value, trail, found, has_formatters=has_formatters)
        return
    kind = value.DESCRIPTOR.name
    if kind == "Struct":
        for text, here in struct_texts(value, trail):
            check_format(text, here, found, has_formatters=has_formatters)
    elif kind == "HeaderValueOption" and holder.DESCRIPTOR.full_name in _ANY_NAME:
        check_header(value.header, (trail, "header"), found, any_name=True)
    elif kind == "HeaderValueOption":
        check_header_option(value, trail, found, has_formatters=has_formatters)
    elif kind == "HeaderValue":
        check_header(value, trail, found)
    elif value.ListFields():
        _check_telemetry(value, trail, found, has_formatters)


def _check_telemetry(value: Any, trail: Trail, found: Findings, has_formatters: bool) -> None:
    """Check a value of an OpenTelemetry log: texts, and lists of them by number or name."""
    if value.DESCRIPTOR.name == "KeyValueList":
        for index, each in enumerate(value.values):
            _check_telemetry(each.value, (((trail, "values"), index), "value"), found, has_formatters)
        return
    kind = value.WhichOneof("value")
    if kind == "string_value":
        check_format(value.string_value, (trail, kind), found, has_formatters=has_formatters)
    elif kind == "kvlist_value":
        _check_telemetry(value.kvlist_value, (trail, kind), found, has_formatters)
    elif kind == "array_value":
        for index, each in enumerate(value.array_value.values):
            _check_telemetry(each, (((trail, kind), "values"), index), found, has_formatters)
    else:
        found.add(trail, "must be text, a list or a list of pairs", "write a number as text: string_value")


def _check_mutation(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check a change of a query parameter."""
    if message.HasField("append") == bool(message.remove):
        found.add(trail, "must have exactly one of append, remove")
        return
    if not message.HasField("append"):
        return
    record, here = message.append.record, ((trail, "append"), "record")
    if not message.append.HasField("record"):
        found.add(here, "is required", "for example {key: a, value: b}")
    elif record.value.WhichOneof("kind") != "string_value":
        found.add((here, "value"), "must be text", "put it in quotes")
    else:
        check_format(record.value.string_value, (here, "value"), found)


FORMAT_RULES: dict[str, Rule] = {
    **{message: _rule(paths) for message, paths in FORMATS.items()},
    _CORE + "KeyValueMutation": _check_mutation,
}
"""The rules of these fields, by message type."""
