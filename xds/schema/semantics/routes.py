"""Routes: weights, domains, rewrites that exclude each other, mirrors, bodies, headers."""

import re
from typing import Any

from xds.schema.decode import Findings
from xds.schema.formats import ascii_lower
from xds.schema.paths import Trail
from xds.schema.rules import first_repeated, shown
from xds.schema.semantics.filters import extension_type, inside, unpacked
from xds.schema.semantics.intervals import check_intervals
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.semantics.texts import check_removed_headers, is_fixed

WEIGHTS_MAX = 2**32 - 1
BODY_BYTES_MAX = 4096
"""The largest body of a direct response, unless the route configuration has another limit."""
_ROUTE = "envoy.config.route.v3."
_REMOVED = ("request_headers_to_remove", "response_headers_to_remove")
_BODY_LIMIT = "max_direct_response_body_size_bytes"
_TEMPLATE_REWRITE = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"
_TEMPLATE_MATCH = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
_EXTRACTOR = (
    "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes"
    ".ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor"
)
VARIABLES_MAX = 5
"""How many variables Envoy takes in the template of a path."""
_REWRITES = ("prefix_rewrite", "regex_rewrite", "path_rewrite_policy", "path_rewrite")


def _is_set(message: Any, field: str) -> bool:
    known = message.DESCRIPTOR.fields_by_name.get(field)
    if known is None:
        return False
    return bool(message.HasField(field) if known.has_presence else getattr(message, field))


def _check_removed(message: Any, trail: Trail, found: Findings) -> None:
    check_removed_headers(message, _REMOVED, trail, found)


def _check_cluster_weight(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.name and message.cluster_header:
        found.add(trail, "must not have both name and cluster_header")
    elif not message.name and not message.cluster_header:
        found.add(trail, "must have one of name, cluster_header")
    if not message.HasField("weight"):
        found.add((trail, "weight"), "is required")
    _check_removed(message, trail, found)


def _check_weighted_clusters(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    total = sum(each.weight.value for each in message.clusters)
    if message.clusters and all(each.HasField("weight") for each in message.clusters) and total == 0:
        found.add((trail, "clusters"), "must have weights whose sum is greater than 0", "give a cluster a weight")
    if total > WEIGHTS_MAX:
        found.add((trail, "clusters"), f"must have weights whose sum is at most {WEIGHTS_MAX}, but is {total}")


def _check_route_configuration(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    _check_removed(message, trail, found)
    _check_plugins(message, trail, found)
    _check_domains(message.virtual_hosts, trail, found)
    bytes_max = getattr(message, _BODY_LIMIT).value if message.HasField(_BODY_LIMIT) else BODY_BYTES_MAX
    if bytes_max:  # 0 is no limit
        _check_bodies(message, trail, found, bytes_max)


def _check_plugins(message: Any, trail: Trail, found: Findings) -> None:
    """Each cluster specifier plugin that a route names is one of the route configuration."""
    known = {plugin.extension.name for plugin in message.cluster_specifier_plugins}
    for number, host in enumerate(message.virtual_hosts):
        for index, route in enumerate(host.routes):
            name = route.route.cluster_specifier_plugin
            if name and name not in known:
                place = ((((trail, "virtual_hosts"), number), "routes"), index)
                what = f"names {shown(name)}, which is not in cluster_specifier_plugins"
                found.add(((place, "route"), "cluster_specifier_plugin"), what)


def _check_virtual_host(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    _check_removed(message, trail, found)
    if trail is None:  # a resource of its own
        _check_own_domains(message, found)
    if message.HasField("matcher") and message.routes:
        found.add((trail, "matcher"), "excludes routes", "use one of both")


def _check_scope(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if not message.route_configuration_name and not message.HasField("route_configuration"):
        found.add(trail, "must have route_configuration_name or route_configuration")


def _check_route(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    _check_removed(message, trail, found)
    rewrites = extension_type(message.route.path_rewrite_policy.typed_config) == _TEMPLATE_REWRITE
    matches = extension_type(message.match.path_match_policy.typed_config) == _TEMPLATE_MATCH
    if rewrites and not matches:
        what = "rewrites by a template, but the match has no path_match_policy with one"
        found.add(((trail, "route"), "path_rewrite_policy"), what)
    elif rewrites:
        _check_templates(message, trail, found, walks)


def _check_templates(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check that a template that rewrites has the variables of that which matches."""
    packed = message.route.path_rewrite_policy.typed_config
    matcher = unpacked(message.match.path_match_policy.typed_config, _TEMPLATE_MATCH, walks)
    rewrite = unpacked(packed, _TEMPLATE_REWRITE, walks)
    if matcher is None or rewrite is None:
        return
    known = set(_VARIABLE.findall(matcher.path_template))
    unknown = [name for name in _VARIABLE.findall(rewrite.path_template_rewrite) if name not in known]
    if unknown:
        here = inside(packed, (((trail, "route"), "path_rewrite_policy"), "typed_config"))
        what = f"has the variable {shown(unknown[0])}, which path_match_policy lacks"
        found.add((here, "path_template_rewrite"), what, f"its variables: {', '.join(sorted(known)) or 'none'}")


_VARIABLE = re.compile(r"\{([^{}=]*)")


_SEGMENT = re.compile(r"/((?:\{[^{}]*\}|[^/{}])*)")
_TEMPLATE = re.compile(rf"(?:{_SEGMENT.pattern})+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,15}")
_NOT_IN_PATHS = re.compile(r"[^!-~]|[?#]")


def _template_problem(text: str) -> str:
    """Return what is wrong with the template of a path, that to rewrite with too."""
    if "//" in text or _TEMPLATE.fullmatch(text) is None:
        return "must begin with /, and have no empty part, and no { or } but around variables"
    wrong = _NOT_IN_PATHS.search(text)
    if wrong is not None:
        return f"has {shown(wrong[0])}, which does not stand in paths as it is"
    name = next((each for each in _VARIABLE.findall(text) if _NAME.fullmatch(each) is None), None)
    what = "must begin with a letter, and have at most 16 letters, digits and _"
    return "" if name is None else f"has the variable {shown(name)}, whose name {what}"


def _glob_problem(text: str) -> str:
    """Return what is wrong with the variables and globs of a template that matches."""
    is_over = False
    for segment in _SEGMENT.findall(text):
        variable, closed, rest = segment.partition("}")
        if closed and "{" in rest:
            return "has two variables in one part"
        name, equals, pattern = variable.partition("=")
        if closed and equals and not pattern:
            return f"has the variable {shown(name[name.index('{') + 1 :])} with an empty pattern"
        globs = {segment} & {"*", "**"}
        if closed and not rest and segment.startswith("{"):
            globs = {"*"} if not equals else set(pattern.split("/")) & {"*", "**"}
        if globs and is_over:
            return "has a glob or a variable after **, which must be the last"
        is_over = is_over or "**" in globs
    return ""


def _check_rewrite(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    text = message.path_template_rewrite
    what = _template_problem(text) or ("must have no patterns" if _PATTERN.search(text) else "")
    if what:
        found.add((trail, "path_template_rewrite"), what, "for example /v2/{name}")


_PATTERN = re.compile(r"\{[^{}]*=")


def _check_template(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    what = _template_problem(message.path_template) or _glob_problem(message.path_template)
    if what:
        found.add((trail, "path_template"), what, "for example /api/{version}/{rest=**}")
        return
    names = _VARIABLE.findall(message.path_template)
    twice = first_repeated(names)
    if twice is not None:
        found.add((trail, "path_template"), f"has the variable {shown(twice[1])} twice")
    elif len(names) > VARIABLES_MAX:
        found.add((trail, "path_template"), f"has {len(names)} variables, and Envoy takes at most {VARIABLES_MAX}")


def _check_extractor(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.index and not message.element_separator:
        found.add((trail, "element_separator"), "is required with an index above 0")


def _check_virtual_cluster(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if not message.headers:
        hint = "for example {name: ':path', string_match: {prefix: /api}}"
        found.add((trail, "headers"), "must have a matcher", hint)


def _check_domains(hosts: Any, trail: Trail, found: Findings) -> None:
    """Each domain belongs to one virtual host: Envoy compares them in lower case."""
    owners: dict[str, int] = {}
    for number, host in enumerate(hosts):
        for index, domain in enumerate(host.domains):
            key = ascii_lower(domain)
            if key in owners:
                here = ((((trail, "virtual_hosts"), number), "domains"), index)
                what = f"is {shown(domain)}, which the virtual host {shown(hosts[owners[key]].name)} has already"
                found.add(here, what, "a domain belongs to one virtual host")
            else:
                owners[key] = number


def _check_own_domains(host: Any, found: Findings) -> None:
    seen: set[str] = set()
    for index, domain in enumerate(host.domains):
        if ascii_lower(domain) in seen:
            found.add(((None, "domains"), index), f"is {shown(domain)}, which it has already")
        seen.add(ascii_lower(domain))


def _check_bodies(message: Any, trail: Trail, found: Findings, bytes_max: int) -> None:
    for number, host in enumerate(message.virtual_hosts):
        for index, route in enumerate(host.routes):
            if route.WhichOneof("action") != "direct_response" or not route.direct_response.HasField("body"):
                continue
            body = route.direct_response.body
            kind = body.WhichOneof("specifier")
            size = len(getattr(body, kind).encode() if kind == "inline_string" else body.inline_bytes)
            if size > bytes_max:
                place = (((trail, "virtual_hosts"), number), "routes")
                here = (((place, index), "direct_response"), "body")
                hint = f"raise {_BODY_LIMIT} of the route configuration"
                found.add(here, f"has {size} bytes, over the limit of {bytes_max}", hint)


def _check_route_action(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    rewrites = [field for field in _REWRITES if _is_set(message, field)]
    if len(rewrites) > 1:
        found.add((trail, rewrites[1]), f"excludes {rewrites[0]}", f"use one of {', '.join(rewrites)}")
    upgrades: set[str] = set()
    for index, upgrade in enumerate(message.upgrade_configs):
        here, name = (((trail, "upgrade_configs"), index), upgrade.upgrade_type)
        if ascii_lower(name) in upgrades:
            found.add((here, "upgrade_type"), f"is {shown(name)}, which an upgrade before it has already")
        upgrades.add(ascii_lower(name))
        if upgrade.HasField("connect_config") and ascii_lower(name) not in ("connect", "connect-udp"):
            found.add((here, "connect_config"), f"is for CONNECT, not for the upgrade {shown(name)}")


def _check_mirror(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if bool(message.cluster) == bool(message.cluster_header):
        found.add(trail, "must have exactly one of cluster, cluster_header")


def _check_redirects(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    for index, name in enumerate(message.response_headers_to_copy):
        if is_fixed(name):
            what = f"is {shown(name)}, which Envoy does not let be copied"
            found.add(((trail, "response_headers_to_copy"), index), what)


def _check_back_off(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_intervals(message, trail, found, least=1)


ROUTE_RULES: dict[str, Rule] = {
    _ROUTE + "RouteConfiguration": _check_route_configuration,
    _ROUTE + "VirtualHost": _check_virtual_host,
    _ROUTE + "ScopedRouteConfiguration": _check_scope,
    _ROUTE + "VirtualCluster": _check_virtual_cluster,
    _ROUTE + "Route": _check_route,
    _ROUTE + "WeightedCluster": _check_weighted_clusters,
    _ROUTE + "WeightedCluster.ClusterWeight": _check_cluster_weight,
    _ROUTE + "RouteAction": _check_route_action,
    _TEMPLATE_MATCH: _check_template,
    _TEMPLATE_REWRITE: _check_rewrite,
    _EXTRACTOR: _check_extractor,
    _ROUTE + "InternalRedirectPolicy": _check_redirects,
    _ROUTE + "RouteAction.RequestMirrorPolicy": _check_mirror,
    _ROUTE + "RetryPolicy.RetryBackOff": _check_back_off,
}
