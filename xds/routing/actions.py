"""What a route does with a request: it redirects, answers, or chooses clusters and rewrites path and host."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import re2

from xds.routing.answer import ClusterWay, EndOfWayError, Notes, Outcome
from xds.routing.clusters import way_of
from xds.routing.fields import is_set, optional
from xds.routing.http import must_know
from xds.routing.request import Request
from xds.routing.resources import Resources
from xds.routing.routes import is_case_sensitive, template_regex
from xds.schema.formats import ascii_lower

_NOT_FOUND = {0: 503, 1: 404, 2: 500}
_DIGITS = "0123456789"
_REDIRECTS = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}
_TEMPLATE_REWRITE = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"


def outcome_of(resources: Resources, outer: Sequence[Any], route: Any, request: Request, notes: Notes) -> Outcome:
    """Return what becomes of a request that a route takes. ``outer``: the route configuration, and the virtual host."""
    kind, shown = route.WhichOneof("action"), resources.shown(route)
    if kind and getattr(shown, kind) != getattr(route, kind):
        notes.doubt(kind, "parts of it are hidden, so what comes of them is not shown as it is")
    if kind == "redirect":
        return _redirect(resources, route.match, shown.redirect, request, notes)
    if kind == "direct_response":
        return _answer(shown.direct_response, request, notes)
    if kind == "route":
        return _forward(resources, outer, route, shown, request, notes)
    if kind == "non_forwarding_action":
        return Outcome(kind="error", what="the route does not forward (for gRPC servers): Envoy can't use it")
    return Outcome(kind="unknown", what=f"the route's action is {kind}")


def _answer(response: Any, request: Request, notes: Notes) -> Outcome:
    body = response.body
    source = body.WhichOneof("specifier")
    text = ""
    if source == "inline_string":
        text = body.inline_string
    elif source == "inline_bytes":
        text = body.inline_bytes.decode("utf-8", "replace")
    elif source:
        notes.doubt("direct_response", f"its body comes from a {source} on Envoy's machine")
    if is_set(response, "body_format"):
        notes.doubt("direct_response", "its body is formatted by body_format")
    what = f"Envoy answers {response.status} itself"
    location = ""
    if response.status == 201 or 300 <= response.status < 400:  # Envoy then says where, which is here
        location = f"{request.header(':scheme')}://{request.host}{request.path}"
    return Outcome(kind="direct_response", what=what, status=response.status, body=text, location=location)


def _redirect(resources: Resources, match: Any, action: Any, request: Request, notes: Notes) -> Outcome:
    path = request.path
    if action.WhichOneof("path_rewrite_specifier") in ("prefix_rewrite", "regex_rewrite"):
        path = rewritten(resources, match, action, request)
    elif optional(action, "path_rewrite"):
        notes.doubt("redirect", "path_rewrite is a format of the request, which is not evaluated")
    proto = request.header("x-forwarded-proto") or "http"
    scheme = "https" if action.https_redirect else action.scheme_redirect or request.header(":scheme") or "http"
    port = f":{action.port_redirect}" if action.port_redirect else ""
    host = action.host_redirect or _redirect_host(request.host, proto, scheme, port)
    before, mark, query = path.partition("?")
    if action.path_redirect:
        keeps = mark and "?" not in action.path_redirect and not action.strip_query
        path = action.path_redirect + (f"?{query}" if keeps else "")
    elif action.strip_query:
        path = before
    location = f"{scheme}://{host}{port}{path}"
    status = _REDIRECTS[action.response_code]
    return Outcome(kind="redirect", what=f"Envoy redirects to {location}", status=status, location=location)


def _redirect_host(host: str, proto: str, scheme: str, port: str) -> str:
    """Return the request's host, without its port if the redirect has another or another scheme's default."""
    name, colon, own = host.rpartition(":")
    if not colon or not own.isdigit():
        return host
    is_default = scheme != proto and own == {"http": "80", "https": "443"}.get(proto.lower())
    return name if port or is_default else host


def rewritten(resources: Resources, match: Any, action: Any, request: Request) -> str:
    """Return the request's path after ``prefix_rewrite``, ``regex_rewrite`` or ``path_rewrite_policy`` of an action."""
    path, mark, query = request.path.partition("?")
    rest = mark + query
    if action.prefix_rewrite:
        kind = match.WhichOneof("path_specifier")
        taken = getattr(match, kind) if kind in ("prefix", "path", "path_separated_prefix") else path
        begins = path.startswith(taken)
        if not is_case_sensitive(match):
            begins = ascii_lower(path).startswith(ascii_lower(taken))
        return (str(action.prefix_rewrite) + path[len(taken) :] if begins else path) + rest
    if action.HasField("regex_rewrite"):
        pattern, substitution = action.regex_rewrite.pattern.regex, action.regex_rewrite.substitution
        return substituted(pattern, substitution, path) + rest
    policy = optional(action, "path_rewrite_policy")
    if policy is not None and policy.typed_config.type_url.endswith(_TEMPLATE_REWRITE):
        template = resources.unpack(policy.typed_config).path_template_rewrite
        source = resources.unpack(match.path_match_policy.typed_config).path_template
        found = re2.fullmatch(template_regex(source), path)
        if found is not None:
            values = found.groupdict()
            return str(re2.sub(r"\{(\w+)\}", lambda one: values.get(one[1]) or "", template)) + rest
    return request.path


def substituted(pattern: str, substitution: str, text: str) -> str:
    """Return a text in which all matches of an RE2 pattern are replaced, as ``RE2::GlobalReplace`` does it.

    ``\\1`` is a group. Nothing is replaced if the pattern has no such group, and no empty match right after another.
    """
    regex = re2.compile(pattern)
    escaped = re.findall(r"\\(.)", substitution, re.DOTALL)
    if any(each in _DIGITS and int(each) > regex.groups for each in escaped):
        return text
    made, at, last_end = "", 0, -1
    while at <= len(text) and (found := regex.search(text, at)) is not None:
        start, end = found.span()
        made += text[at:start]
        if start == end == last_end:
            made += text[at : at + 1]
            at += 1
            continue
        made += _expanded(substitution, found)
        at = last_end = end
    return made + text[at:]


def _expanded(substitution: str, found: Any) -> str:
    """Return a substitution with the groups of a match; it ends where a backslash is followed by something else."""
    made, at = "", 0
    while at < len(substitution):
        if substitution[at] != "\\":
            made += substitution[at]
            at += 1
            continue
        following = substitution[at + 1 : at + 2]
        if following and following in _DIGITS:
            made += found[int(following)] or ""
        elif following == "\\":
            made += following
        else:
            break
        at += 2
    return made


def _forward(
    resources: Resources, outer: Sequence[Any], route: Any, shown: Any, request: Request, notes: Notes
) -> Outcome:
    """Return the clusters of a route, and what goes upstream. ``shown``: the route without what is hidden."""
    action = route.route
    clusters = _clusters(resources, action, request, notes)
    status = _NOT_FOUND.get(action.cluster_not_found_response_code, 503)
    names = ", ".join(f"{each.name} ({each.share:.2%})" if each.share < 1 else each.name for each in clusters)
    missing = [each for each in clusters if not each.found]
    path = _path_upstream(resources, route.match, shown.route, request, notes)
    host = _host_upstream(shown.route, request, notes)
    if host:  # it counts more than a weighted cluster's own
        clusters = [replace(each, host="") for each in clusters]
    what = f"it goes to {'one of the clusters' if len(clusters) > 1 else 'the cluster'} {names}"
    if missing and len(missing) == len(clusters):
        what += f", which the group does not have: Envoy answers {status}"
    return Outcome(
        kind="clusters",
        what=what,
        status=status if missing and len(missing) == len(clusters) else None,
        clusters=tuple(clusters),
        path=path,
        host=host or request.host,
        about=_about(outer, shown.route),
    )


def _path_upstream(resources: Resources, match: Any, action: Any, request: Request, notes: Notes) -> str:
    if optional(action, "path_rewrite"):
        notes.doubt("route", "path_rewrite is a format of the request, which is not evaluated")
    policy = optional(action, "path_rewrite_policy")
    if policy and policy.name and not policy.typed_config.type_url.endswith(_TEMPLATE_REWRITE):
        notes.doubt("route", f"path_rewrite_policy {policy.name} is not evaluated")
    return rewritten(resources, match, action, request)


def _host_upstream(action: Any, request: Request, notes: Notes) -> str:
    """Return the host that a route sends upstream, "" for that of the request."""
    kind = action.WhichOneof("host_rewrite_specifier")
    if kind == "host_rewrite_literal":
        return str(action.host_rewrite_literal)
    if kind == "host_rewrite_header":
        if action.host_rewrite_header.lower() in request.unsure:
            notes.doubt("route", f"the header {action.host_rewrite_header}, which is the host, may be changed by Envoy")
        return request.header(action.host_rewrite_header) or ""
    if kind == "host_rewrite_path_regex":
        regex = action.host_rewrite_path_regex
        return substituted(regex.pattern.regex, regex.substitution, request.path.partition("?")[0])
    if kind == "auto_host_rewrite" and action.auto_host_rewrite.value:
        return "the host name of the endpoint"
    return "a format of the request" if kind == "host_rewrite" else ""


def _clusters(resources: Resources, action: Any, request: Request, notes: Notes) -> list[ClusterWay]:
    kind = action.WhichOneof("cluster_specifier")
    subset = action.metadata_match if action.HasField("metadata_match") else None
    if kind == "cluster":
        return [way_of(resources, notes, action.cluster, subset=subset)]
    if kind == "cluster_header":
        must_know(request, action.cluster_header, "the cluster is chosen by", tells=True)
        name = request.header(action.cluster_header)
        if not name:
            what = f"the request has no header {action.cluster_header}, which names the cluster"
            status = _NOT_FOUND.get(action.cluster_not_found_response_code, 503)
            raise EndOfWayError(Outcome(kind="error", what=what, status=status))
        return [way_of(resources, notes, name, subset=subset)]
    if kind == "weighted_clusters":
        return _weighted(resources, action.weighted_clusters, request, subset, notes)
    name = action.cluster_specifier_plugin or action.inline_cluster_specifier_plugin.extension.name
    raise EndOfWayError(Outcome(kind="unknown", what=f"the cluster specifier plugin {name!r} chooses the cluster"))


def _weighted(resources: Resources, weighted: Any, request: Request, subset: Any, notes: Notes) -> list[ClusterWay]:
    if weighted.runtime_key_prefix:
        notes.doubt("weighted_clusters", f"the runtime keys {weighted.runtime_key_prefix}.* may change the weights")
    if header := optional(weighted, "header_name"):
        notes.doubt("weighted_clusters", f"the header {header} chooses, if it is a number")
    total = sum(each.weight.value for each in weighted.clusters)
    ways: list[ClusterWay] = []
    for each in weighted.clusters:
        if not each.weight.value:
            continue
        share = each.weight.value / total
        merged = _merged(subset, each.metadata_match if each.HasField("metadata_match") else None)
        if not each.name:
            must_know(request, each.cluster_header, "a cluster is chosen by", tells=True)
        name = each.name or request.header(each.cluster_header)
        if not name:
            note = f"the request has no header {each.cluster_header}, which names the cluster: it fails"
            ways.append(
                ClusterWay(name=f"that of the header {each.cluster_header}", share=share, found=False, note=note)
            )
            continue
        way = way_of(resources, notes, name, share=share, subset=merged)
        ways.append(replace(way, host=each.host_rewrite_literal))
    return ways


def _merged(outer: Any, inner: Any) -> Any:
    """Return the metadata criteria of a route and of one of its weighted clusters, whose own ones win."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    made = type(outer)()
    made.CopyFrom(outer)
    for key, value in inner.filter_metadata["envoy.lb"].fields.items():
        made.filter_metadata["envoy.lb"].fields[key].CopyFrom(value)
    return made


def _about(outer: Sequence[Any], action: Any) -> dict[str, str]:
    """Return further settings. Retries and mirrors of a route count more than those around it."""
    timeout = _seconds(action.timeout) if action.HasField("timeout") else 15.0
    made = {"timeout": f"{timeout:g}s" if timeout else "none"}
    if action.HasField("idle_timeout"):
        made["idle_timeout"] = f"{_seconds(action.idle_timeout):g}s"
    policies = [each.retry_policy for each in (action, outer[1]) if each.HasField("retry_policy")]
    if policies:
        policy = policies[0]
        number = policy.num_retries.value if policy.HasField("num_retries") else 1
        made["retries"] = f"{number} on {policy.retry_on or 'nothing'}"
    for field, said in _SAID.items():
        if value := getattr(action, field):
            made[field] = said(value)
    mirrors = [each for message in (action, *reversed(outer)) if (each := optional(message, _MIRRORS))]
    if mirrors:
        made[_MIRRORS] = ", ".join(each.cluster or each.cluster_header for each in mirrors[0])
    return made


_MIRRORS = "request_mirror_policies"
_SAID: dict[str, Callable[[Any], str]] = {
    "hash_policy": lambda found: ", ".join(each.WhichOneof("policy_specifier") or "" for each in found),
    "upgrade_configs": lambda found: ", ".join(each.upgrade_type for each in found),
}


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
