"""What the HTTP connection manager does to a request before it routes it: its headers, scheme, path and host."""

import re
from dataclasses import replace
from typing import Any

from xds.routing.answer import EndOfWayError, Notes, Outcome
from xds.routing.fields import is_set, optional
from xds.routing.request import Request

_ESCAPED_SLASH = re.compile("%2f|%5c", re.IGNORECASE)
_ESCAPED_BY_ENVOY = re.compile('["<>^`{|}]')
"""Characters of a path that ``normalize_path`` escapes. It unescapes only what RFC 3986 calls unreserved."""
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_NOMINATED = frozenset({"close", "keep-alive", "upgrade", "te", "http2-settings"})
"""What ``connection`` says of the connection; other names in it are headers, which Envoy removes."""
_ENVOY = "x-envoy-"
_OF_CALLERS = frozenset(
    _ENVOY + name
    for name in (
        *("retriable-status-codes", "retriable-header-names", "retry-on", "retry-grpc-on", "max-retries"),
        *("upstream-alt-stat-name", "upstream-rq-timeout-ms", "upstream-rq-per-try-timeout-ms"),
        *("upstream-rq-timeout-alt-response", "expected-rq-timeout-ms", "force-trace", "ip-tags", "original-url"),
        "hedge-on-per-try-timeout",
    )
)
"""Headers that Envoy removes unless the request is internal."""
_OF_EDGES = frozenset(
    _ENVOY + name
    for name in ("decorator-operation", "downstream-service-cluster", "downstream-service-node", "original-path")
)
"""Headers that Envoy removes with ``use_remote_address``, unless the request is internal."""


def normalize(manager: Any, request: Request, notes: Notes) -> Request:
    """Return the request as the manager routes it. Raises EndOfWayError."""
    if optional(manager, "early_header_mutation_extensions"):
        notes.doubt("early_header_mutation_extensions", "headers are changed before the route is chosen")
    if is_set(manager, "path_normalization_options"):
        notes.doubt("path_normalization_options", "the path may be rewritten before the route is chosen")
    request = _with_headers(manager, request)
    scheme, proto = _scheme(manager, request, notes)
    path = "" if request.method == "CONNECT" else _path(manager, request.path)
    changed = {
        ":authority": _host(manager, request.host, request.port),
        ":path": path,
        ":scheme": scheme,
        "x-forwarded-proto": proto,
    }
    if path not in ("", request.path):
        notes.step("normalization", path, "the manager normalizes paths")
    rest = tuple(pair for pair in request.headers if pair[0] not in changed)
    return replace(request, headers=(*changed.items(), *rest))


def _error(what: str) -> EndOfWayError:
    return EndOfWayError(Outcome(kind="error", what=what, status=400))


def _with_headers(manager: Any, request: Request) -> Request:
    """Return the request without the headers that Envoy removes, and with those of which it is not known."""
    headers = request.headers
    action = manager.common_http_protocol_options.headers_with_underscores_action
    if action and any("_" in name for name, _ in headers):
        if action == 1:
            raise _error("a header has an underscore in its name, which headers_with_underscores_action refuses")
        headers = tuple(pair for pair in headers if "_" not in pair[0])
    tokens = [token.strip().lower() for name, value in headers if name == "connection" for token in value.split(",")]
    removed = _HOP_BY_HOP | (set(tokens) - _NOMINATED)
    upgrade = next((value for name, value in headers if name == "upgrade"), "")
    if "upgrade" in tokens and upgrade and upgrade.lower() != "h2c":
        removed -= {"connection", "upgrade"}
    kept = []
    for name, value in headers:
        if name == "te":
            if "trailers" in [each.strip().lower() for each in value.split(",")]:
                kept.append((name, "trailers"))
        elif name not in removed and not (name == "expect" and value.lower() == "100-continue"):
            kept.append((name, value))
    unsure = {name for name in _OF_CALLERS if request.values(name)}
    if manager.use_remote_address.value:
        unsure |= {name for name in _OF_EDGES if request.values(name)}
    unsure |= {"via"} if manager.via else set()
    unsure |= {"user-agent", "x-envoy-downstream-service-node"} if manager.add_user_agent.value else set()
    unsure |= {"x-forwarded-port"} if optional(manager, "append_x_forwarded_port") else set()
    return replace(request, headers=tuple(kept), unsure=request.unsure | unsure)


def _scheme(manager: Any, request: Request, notes: Notes) -> tuple[str, str]:
    """Return the scheme, and what ``x-forwarded-proto`` is."""
    own = "https" if request.is_tls else "http"
    if is_set(manager, "scheme_header_transformation"):
        overwritten = manager.scheme_header_transformation.scheme_to_overwrite
        if overwritten:
            return overwritten, overwritten
    given = request.header("x-forwarded-proto")
    if given is None or (manager.use_remote_address.value and not manager.xff_num_trusted_hops):
        return own, own
    if not given:
        raise EndOfWayError(
            Outcome(kind="error", what="x-forwarded-proto is empty, with which Envoy finds no route", status=404)
        )
    is_http2 = request.scheme in ("grpc", "grpcs")  # whose clients send the scheme
    if given.lower() != own and request.is_tls and not is_http2:
        notes.doubt("x-forwarded-proto", "over HTTP/1.1 it is the scheme too; over HTTP/2 the scheme is https")
    return own if is_http2 or given.lower() not in ("http", "https") else given.lower(), given


def _path(manager: Any, whole: str) -> str:
    path, mark, query = whole.partition("?")
    action, has_escaped = manager.path_with_escaped_slashes_action, _ESCAPED_SLASH.search(path) is not None
    if has_escaped and action == 2:
        raise _error("the path has an escaped slash, which path_with_escaped_slashes_action refuses")
    if action >= 3:
        path = re.sub("%2f", "/", path, flags=re.IGNORECASE)
        path = re.sub("%5c", lambda _: "\\", path, flags=re.IGNORECASE)
    if manager.normalize_path.value:
        path = _normalized(path)
    if manager.merge_slashes:
        path = re.sub("/{2,}", "/", path)
    if has_escaped and action == 3:
        what = "path_with_escaped_slashes_action redirects to the unescaped path"
        raise EndOfWayError(Outcome(kind="redirect", what=what, status=307, location=f"{path}{mark}{query}"))
    return f"{path}{mark}{query}"


def _normalized(path: str) -> str:
    """Return a path normalized by RFC 3986, section 6, as Envoy's ``normalize_path`` does."""
    if "%00" in path:
        raise _error("the path has %00, which normalize_path refuses")
    path = path.replace("\\", "/")
    unreserved = "-._~"

    def unescape(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        is_plain = character.isascii() and (character.isalnum() or character in unreserved)
        return character if is_plain else found[0]

    path = re.sub("%([0-9A-Fa-f]{2})", unescape, path)
    path = _ESCAPED_BY_ENVOY.sub(lambda found: f"%{ord(found[0]):02X}", path)
    kept: list[str] = []
    parts = path.split("/")[1:]
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if part == "..":
            kept[-1:] = []
        if part in (".", ".."):
            kept += [""] * is_last
        else:
            kept.append(part)
    return "/" + "/".join(kept)


def port_start(host: str) -> int:
    """Return where a host's port begins, with its colon: the last colon that is not within brackets; -1 without one."""
    at = host.rfind(":")
    return at if at > host.rfind("]") else -1


def _host(manager: Any, host: str, port: int) -> str:
    if manager.strip_trailing_host_dot:
        dot = host.rfind(".")
        if dot >= 0 and host[dot + 1 : dot + 2] in ("", ":"):
            host = host[:dot] + host[dot + 1 :]
    at = port_start(host)
    digits = host[at + 1 :].removeprefix("+")
    if at < 0 or not (digits.isascii() and digits.isdecimal() and int(digits[:12]) < 1 << 32):
        return host
    strips = manager.strip_any_host_port or (manager.strip_matching_host_port and int(digits) == port)
    return host[:at] if strips else host
