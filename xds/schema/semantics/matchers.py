"""Unified matchers: the inputs, custom matchers and actions that fit the message around them.

The messages of ``xds.type.matcher.v3`` are the same everywhere. What may stand in them is known to the code that has
the matcher, so these rules are those of the message around it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.semantics.categories import is_known_of, may_be, refuse, types_by_category
from xds.schema.semantics.filters import extension_type
from xds.schema.semantics.rule import Rule, Walks

_COMMON = "envoy.matching.common_inputs"
_HTTP_INPUT = "envoy.matching.http.input"
_NETWORK_INPUT = "envoy.matching.network.input"
_MATCHERS = ("envoy.matching.input_matchers",)
_TREES = ("envoy.matching.http.custom_matchers", "envoy.matching.network.custom_matchers")
_TYPE = "envoy.type.matcher.v3."
_INPUTS = "envoy.extensions.matching.common_inputs."
_NETWORK = "envoy.extensions.filters.network."
_HTTP = "envoy.extensions.filters.http."
_ROUTE = "envoy.config.route.v3."
_UDP = "envoy.extensions.filters.udp.udp_proxy.v3."

_OF_CONNECTIONS = frozenset(
    _INPUTS + name
    for name in (
        *(f"network.v3.{name}Input" for name in ("DestinationIP", "DestinationPort", "DirectSourceIP", "FilterState")),
        *(f"network.v3.{name}Input" for name in ("NetworkNamespace", "ServerName", "SourceIP", "SourcePort")),
        *(f"ssl.v3.{name}Input" for name in ("DnsSan", "Subject", "UriSan")),
    )
)
_OF_REQUESTS = _OF_CONNECTIONS | {
    _INPUTS + "network.v3.DynamicMetadataInput",
    _TYPE + "HttpRequestHeaderMatchInput",
    "xds.type.matcher.v3.HttpAttributesCelMatchInput",
}
_OF_DATAGRAMS = frozenset(
    f"{_INPUTS}network.v3.{name}Input"
    for name in ("DestinationIP", "DestinationPort", "NetworkNamespace", "SourceIP", "SourcePort")
)
_OF_ROUTES = frozenset({_TYPE + "HttpRequestHeaderMatchInput", _INPUTS + "network.v3.FilterStateInput"})


@dataclass(frozen=True, slots=True)
class Fits:
    """What may stand in the matcher of one field. ``only`` and ``actions``: full names of types, all if None."""

    inputs: tuple[str, ...]
    """Categories."""
    only: frozenset[str] | None = None
    """The inputs of these categories that the code takes, beside those of every matcher."""
    actions: frozenset[str] | None = None
    action_categories: tuple[str, ...] = ()


_RBAC_ACTION = frozenset({"envoy.config.rbac.v3.Action"})
_HTTP_RBAC = Fits((_HTTP_INPUT, _COMMON), _OF_REQUESTS, _RBAC_ACTION)
_NETWORK_RBAC = Fits((_NETWORK_INPUT, _COMMON), _OF_CONNECTIONS, _RBAC_ACTION)
_GENERIC = Fits(
    ("envoy.matching.generic_proxy_request_input.input", _COMMON),
    actions=frozenset({_NETWORK + "generic_proxy.action.v3.RouteAction"}),
)
_OF_HTTP = Fits((_HTTP_INPUT, _COMMON))

FIELDS: Mapping[str, Fits] = {
    "envoy.config.cluster.v3.Cluster.transport_socket_matcher": Fits(
        ("envoy.matching.transport_socket.input", _COMMON),
        actions=frozenset({_INPUTS + "transport_socket.v3.TransportSocketNameAction"}),
    ),
    "envoy.config.listener.v3.Listener.filter_chain_matcher": Fits(
        (_NETWORK_INPUT, _COMMON),
        actions=frozenset({"google.protobuf.StringValue", "envoy.config.core.v3.SubstitutionFormatString"}),
    ),
    "envoy.config.route.v3.VirtualHost.matcher": Fits(
        (_HTTP_INPUT, _COMMON), _OF_ROUTES, frozenset({_ROUTE + "Route", _ROUTE + "RouteList"})
    ),
    "envoy.extensions.common.matching.v3.ExtensionWithMatcher.xds_matcher": _OF_HTTP,
    "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute.xds_matcher": _OF_HTTP,
    _HTTP + "custom_response.v3.CustomResponse.custom_response_matcher": Fits(
        (_HTTP_INPUT, _COMMON), action_categories=("envoy.http.custom_response",)
    ),
    _HTTP + "rbac.v3.RBAC.matcher": _HTTP_RBAC,
    _HTTP + "rbac.v3.RBAC.shadow_matcher": _HTTP_RBAC,
    _NETWORK + "generic_proxy.v3.RouteConfiguration.routes": _GENERIC,
    _NETWORK + "generic_proxy.v3.VirtualHost.routes": _GENERIC,
    _NETWORK + "http_connection_manager.v3.HttpConnectionManager.forward_client_cert_matcher": Fits(
        (_HTTP_INPUT, _COMMON), action_categories=("envoy.http.forward_client_cert_details",)
    ),
    _NETWORK + "rbac.v3.RBAC.matcher": _NETWORK_RBAC,
    _NETWORK + "rbac.v3.RBAC.shadow_matcher": _NETWORK_RBAC,
    _UDP + "UdpProxyConfig.matcher": Fits((_NETWORK_INPUT, _COMMON), _OF_DATAGRAMS, frozenset({_UDP + "Route"})),
    "envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier.cluster_matcher": Fits(
        (_HTTP_INPUT, _COMMON),
        actions=frozenset({"envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction"}),
    ),
}
"""The fields with a matcher, and what fits. ``tests/schema/test_matchers.py`` asks a real Envoy about each."""

Part = tuple[str, Any, Trail]
"""A role (``input``, ``matcher``, ``tree`` or ``action``), the extension in it, and its place."""


def _parts(matcher: Any, trail: Trail) -> Iterator[Part]:
    kind = matcher.WhichOneof("matcher_type")
    if kind == "matcher_list":
        for index, each in enumerate(matcher.matcher_list.matchers):
            here: Trail = (((trail, kind), "matchers"), index)
            yield from _of_predicate(each.predicate, (here, "predicate"))
            yield from _on_match(each.on_match, (here, "on_match"))
    elif kind == "matcher_tree":
        yield from _of_tree(matcher.matcher_tree, (trail, kind))
    if matcher.HasField("on_no_match"):
        yield from _on_match(matcher.on_no_match, (trail, "on_no_match"))


def _of_tree(tree: Any, trail: Trail) -> Iterator[Part]:
    yield "input", tree.input, (trail, "input")
    kind = tree.WhichOneof("tree_type")
    if kind == "custom_match":
        yield "tree", tree.custom_match, (trail, kind)
    elif kind is not None:
        found = getattr(tree, kind).map
        for key in sorted(found):
            yield from _on_match(found[key], (((trail, kind), "map"), MapKey(key)))


def _of_predicate(predicate: Any, trail: Trail) -> Iterator[Part]:
    kind = predicate.WhichOneof("match_type")
    if kind == "single_predicate":
        single = predicate.single_predicate
        yield "input", single.input, ((trail, kind), "input")
        if single.HasField("custom_match"):
            yield "matcher", single.custom_match, ((trail, kind), "custom_match")
    elif kind == "not_matcher":
        yield from _of_predicate(predicate.not_matcher, (trail, kind))
    elif kind is not None:
        for index, each in enumerate(getattr(predicate, kind).predicate):
            yield from _of_predicate(each, (((trail, kind), "predicate"), index))


def _on_match(on_match: Any, trail: Trail) -> Iterator[Part]:
    kind = on_match.WhichOneof("on_match")
    if kind == "action":
        yield "action", on_match.action, (trail, kind)
    elif kind == "matcher":
        yield from _parts(on_match.matcher, (trail, kind))


def _check_part(fits: Fits, part: Part, found: Findings, walks: Walks) -> None:
    role, extension, trail = part
    full_name, here = extension_type(extension.typed_config), (trail, "typed_config")
    if role == "action":
        if fits.action_categories and not may_be(full_name, fits.action_categories, walks):
            refuse(full_name, fits.action_categories, here, found)
        if fits.actions is not None and full_name not in fits.actions and is_known_of(full_name, walks):
            what = f"is of type {full_name}, which is no action of this matcher"
            found.add(here, what, f"only {' or '.join(sorted(fits.actions))} may stand here")
        return
    wanted = {"input": fits.inputs, "matcher": _MATCHERS, "tree": _TREES}[role]
    if not may_be(full_name, wanted, walks):
        refuse(full_name, wanted, here, found)
    elif role == "input" and fits.only is not None and _is_left_out(full_name, fits, walks):
        what = f"is of type {full_name}, an input that this matcher does not have"
        found.add(here, what, f"it has {', '.join(sorted(fits.only))}")


def _is_left_out(full_name: str, fits: Fits, walks: Walks) -> bool:
    assert fits.only is not None
    is_common = full_name in types_by_category()[_COMMON] or ".dynamic_modules." in full_name
    return full_name not in fits.only and not is_common and is_known_of(full_name, walks)


def _rule(fields: Mapping[str, Fits]) -> Rule:
    def check(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
        for field, fits in fields.items():
            if message.HasField(field):
                for part in _parts(getattr(message, field), (trail, field)):
                    _check_part(fits, part, found, walks)

    return check


def _rules() -> dict[str, Rule]:
    by_message: dict[str, dict[str, Fits]] = {}
    for place, fits in FIELDS.items():
        message, _, field = place.rpartition(".")
        by_message.setdefault(message, {})[field] = fits
    return {message: _rule(fields) for message, fields in by_message.items()}


MATCHER_RULES: dict[str, Rule] = _rules()
