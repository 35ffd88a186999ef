"""The route of a virtual host that takes a request: the first that matches, as Envoy tries them in order."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import re2

from xds.routing.answer import EndOfWayError, Notes, Outcome, Passed
from xds.routing.fields import is_set, optional
from xds.routing.http import doubt_specifiers
from xds.routing.matching import (
    YES,
    Verdict,
    all_of,
    full_match,
    match_cookie,
    match_header,
    match_query,
)
from xds.routing.request import Request
from xds.routing.resources import Resources
from xds.routing.unified import evaluate
from xds.schema.formats import ascii_lower

_TEMPLATE = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
_SEGMENT = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]"
_PARTS = re2.compile(r"\{(\w+)(?:=([^}]*))?\}|(\*\*)|(\*)|([^{}*]+)")
_DENOMINATORS = (100, 10_000, 1_000_000)


def choose_route(resources: Resources, routes: Any, host: Any, request: Request, notes: Notes) -> Any:
    """Return the route that takes the request. Raises EndOfWayError.

    A route of which that is not known is a doubt, and the next is tried.
    """
    doubt_specifiers(repr(host.name), host, notes)
    candidates = list(_candidates(resources, host, request, notes))
    passed: list[Passed] = []
    for label, route in candidates:
        shown = resources.shown(route.match)
        verdict = all_of(_conditions(resources, routes, route.match, shown, request))
        if verdict.is_match:
            notes.step("route", label, _because(shown), passed)
            doubt_specifiers(label, route, notes)
            if route.match.HasField("runtime_fraction") and route.match.runtime_fraction.runtime_key:
                notes.doubt(label, f"the runtime key {route.match.runtime_fraction.runtime_key} may say otherwise")
            return route
        if verdict.is_match is None:
            notes.doubt(label, f"it may take the request ({said_action(resources.shown(route))}): {verdict.why}")
        passed.append(Passed(f"{label} ({_because(shown)})", verdict.why))
    notes.step("route", "none", f"{len(candidates)} routes were tried", passed)
    raise EndOfWayError(Outcome(kind="error", what=f"no route of {host.name!r} matches", status=404))


def _candidates(resources: Resources, host: Any, request: Request, notes: Notes) -> Iterator[tuple[str, Any]]:
    if not is_set(host, "matcher"):
        for number, route in enumerate(host.routes):
            yield f"routes[{number}]" + (f" {route.name!r}" if route.name else ""), route
        return

    def read(packed: Any) -> tuple[bool, str | None]:
        message = resources.unpack(packed)
        if not packed.type_url.endswith("envoy.type.matcher.v3.HttpRequestHeaderMatchInput") or message is None:
            return False, None
        name, value = message.header_name.lower(), request.joined(message.header_name)
        return name not in request.unsure and (value is None or name not in request.hidden), value

    found = evaluate(host.matcher, read, resources.hides)
    if found.unknown:
        what = f"which route of {host.name!r} takes it is not known: {found.unknown}"
        raise EndOfWayError(Outcome(kind="unknown", what=what))
    if found.action is None:
        return
    action = resources.unpack(found.action.typed_config)
    short = found.action.typed_config.type_url.rpartition(".")[2]
    if action is None or short not in ("Route", "RouteList"):
        what = f"the matcher of {host.name!r} has an action of another kind, {found.action.name!r}"
        raise EndOfWayError(Outcome(kind="unknown", what=what))
    listed = action.routes if short == "RouteList" else [action]
    notes.step("matcher", found.action.name or "an action", "the virtual host's matcher names it")
    for number, route in enumerate(listed):
        yield f"route {number} of the matcher's action" + (f" {route.name!r}" if route.name else ""), route


def _conditions(resources: Resources, routes: Any, match: Any, shown: Any, request: Request) -> Iterable[Verdict]:
    """Yield the verdict of each condition of a RouteMatch. ``shown``: the match without what is hidden."""
    if shown is not match and shown.WhichOneof("path_specifier") and _path_of(shown) != _path_of(match):
        yield Verdict(None, "its path is hidden")
    else:
        yield _match_path(resources, routes, match, request)
    if match.HasField("grpc"):
        content = request.header("content-type") or ""
        is_grpc = content == "application/grpc" or content.startswith("application/grpc+")
        yield YES if is_grpc else Verdict(False, "it is not gRPC (content-type)")
    yield from _matched(match_header, match, shown, "headers", request)
    yield from _matched(match_query, match, shown, "query_parameters", request)
    yield from _matched(match_cookie, match, shown, "cookies", request)
    if match.HasField("runtime_fraction"):
        yield _match_fraction(match.runtime_fraction)
    if match.HasField("tls_context"):
        yield Verdict(None, "tls_context: whether the client shows a certificate is not known")
    if match.dynamic_metadata:
        yield Verdict(None, "dynamic_metadata: filters set it")
    if optional(match, "filter_state"):
        yield Verdict(None, "filter_state: filters set it")


def _path_of(match: Any) -> Any:
    return getattr(match, match.WhichOneof("path_specifier"))


def _matched(
    matches: Callable[[Any, Request, bool], Verdict], match: Any, shown: Any, field: str, request: Request
) -> Iterator[Verdict]:
    """Yield the verdicts of the matchers of a field."""
    for each, told in zip(optional(match, field) or (), optional(shown, field) or (), strict=True):
        yield matches(each, request, shown is not match and told != each)


def _match_fraction(fraction: Any) -> Verdict:
    share = fraction.default_value.numerator / _DENOMINATORS[fraction.default_value.denominator]
    key = f" unless the runtime key {fraction.runtime_key} says otherwise" if fraction.runtime_key else ""
    if share >= 1:
        return YES
    if share == 0 and not key:
        return Verdict(False, "runtime_fraction is 0%")
    return Verdict(None, f"runtime_fraction takes {share * 100:g}% of the requests{key}")


def _path_to_match(routes: Any, request: Request) -> str:
    """Return the part of the path that routes look at."""
    path = request.path.partition("?")[0].partition("#")[0]
    return re.sub(r";[^/]*", "", path) if optional(routes, "ignore_path_parameters_in_path_matching") else path


def _match_path(resources: Resources, routes: Any, match: Any, request: Request) -> Verdict:
    kind = match.WhichOneof("path_specifier")
    if kind == "connect_matcher":
        return YES if request.method == "CONNECT" else Verdict(False, "the method is not CONNECT")
    if request.method == "CONNECT":
        return Verdict(False, "CONNECT has no path")
    path = _path_to_match(routes, request)
    if kind == "safe_regex":
        is_match = full_match(match.safe_regex.regex, path)
    elif kind == "path_match_policy":
        type_name = match.path_match_policy.typed_config.type_url.rpartition("/")[2]
        if type_name != _TEMPLATE:
            return Verdict(None, f"path_match_policy is of the kind {type_name}")
        regex = template_regex(resources.unpack(match.path_match_policy.typed_config).path_template)
        is_match = full_match(regex, path)
    else:
        is_match = _match_text(kind, getattr(match, kind or "prefix"), path, is_case_sensitive(match))
    return YES if is_match else Verdict(False, f"the path is {path!r}")


def is_case_sensitive(match: Any) -> bool:
    """Return whether a RouteMatch looks at the case of the path."""
    return not match.HasField("case_sensitive") or bool(match.case_sensitive.value)


def _match_text(kind: str | None, wanted: str, path: str, is_case_sensitive: bool) -> bool:
    if not is_case_sensitive:
        wanted, path = ascii_lower(wanted), ascii_lower(path)
    if kind == "path":
        return path == wanted
    if kind == "path_separated_prefix":
        return path == wanted or path.startswith(f"{wanted}/")
    return path.startswith(wanted)


def template_regex(template: str) -> str:
    """Return the regular expression of a path template: ``*`` is one segment, ``**`` any number of them."""
    made = ""
    for found in _PARTS.finditer(template):
        name, pattern, texts, segment, literal = found.groups()
        if name:
            made += f"(?P<{name}>{template_regex(pattern or '*')})"
        elif texts:
            made += _SEGMENT.replace("]", "/]") + "*"
        elif segment:
            made += _SEGMENT + "+"
        else:
            made += str(re2.escape(literal))
    return made


def _because(match: Any) -> str:
    kind = match.WhichOneof("path_specifier")
    if kind == "connect_matcher":
        text = "connect_matcher"
    elif kind == "safe_regex":
        text = f"safe_regex {match.safe_regex.regex!r}"
    elif kind == "path_match_policy":
        text = f"path_match_policy {match.path_match_policy.name!r}"
    else:
        text = f"{kind} {getattr(match, kind)!r}" if kind else "no path_specifier"
    counts = [(len(match.headers), "header"), (len(match.query_parameters), "query parameter")]
    counts.append((len(optional(match, "cookies") or ()), "cookie"))
    parts = [f"{number} {word}{'s' if number > 1 else ''}" for number, word in counts if number]
    parts += [each for each in ("grpc", "runtime_fraction", "tls_context") if match.HasField(each)]
    return ", ".join([text, *parts])


def said_action(route: Any) -> str:
    """Return what a route does, in a few words."""
    kind = route.WhichOneof("action")
    if kind == "route":
        specifier = route.route.WhichOneof("cluster_specifier")
        if specifier == "cluster":
            return f"to the cluster {route.route.cluster}"
        if specifier == "weighted_clusters":
            return "to " + ", ".join(
                each.name or each.cluster_header for each in route.route.weighted_clusters.clusters
            )
        return f"by {specifier}"
    if kind == "direct_response":
        return f"it answers {route.direct_response.status}"
    return {"redirect": "it redirects"}.get(kind or "", f"{kind}")
