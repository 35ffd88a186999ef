"""The request whose way is asked for, read from a URL and headers."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from xds.model.problem import ChangesetRejectedError, Problem

URL_CHARACTERS_MAX = 8_192
HEADERS_MAX = 100
PORTS = {"http": 80, "https": 443, "tls": 443, "grpc": 80, "grpcs": 443, "tcp": 0}
_TLS = frozenset({"https", "grpcs", "tls"})
_KEPT = "!#$%&'()*+,/:;=?@[]~{}|^`\"\\<>"
_GIVEN_OTHERWISE = {
    ":method": "the method is an argument of its own",
    ":path": "the path is that of the URL",
    ":scheme": "the scheme is that of the URL",
}
_PSEUDO = {"host": ":authority"}
_JOINED = frozenset(
    {
        *("accept", "accept-encoding", "access-control-request-headers", "access-control-request-method"),
        *("authorization", "cache-control", "content-encoding", "content-type", "expect", "grpc-accept-encoding"),
        *(
            "grpc-timeout",
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "if-unmodified-since",
            "origin",
            "pragma",
            "proxy-status",
        ),
        *("referer", "user-agent", "via", "x-client-trace-id", "x-forwarded-for", "x-forwarded-host"),
        *("x-forwarded-port", "x-forwarded-proto", "x-request-id", "x-envoy-attempt-count"),
        *("x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node"),
        *("x-envoy-original-path",),
    }
)
"""Headers that Envoy keeps as one value; of others each value is matched by itself."""
SET_BY_ENVOY = frozenset(
    {"x-request-id", "x-forwarded-for", "x-envoy-internal", "x-envoy-external-address", "x-forwarded-client-cert"}
)
"""Request headers that Envoy sets, changes or removes itself before it routes, by what the resources don't say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it arrives at Envoy. ``headers`` have lower-case names, the pseudo headers among them.

    ``address`` and ``source`` are the connection's destination and source, None if they are not known. ``listener`` is
    the listener's name, "" for the one at ``port``.
    """

    scheme: str
    port: int
    headers: tuple[tuple[str, str], ...]
    server_name: str = ""
    alpn: tuple[str, ...] = ()
    is_tls: bool = False
    listener: str = ""
    address: str | None = None
    source: str | None = None
    source_port: int | None = None
    hidden: frozenset[str] = frozenset()
    """Headers whose matchers are not evaluated, as their values are secrets that an answer could tell."""
    hidden_parameters: frozenset[str] = frozenset()
    """The same of parameters of the query."""
    unsure: frozenset[str] = SET_BY_ENVOY
    """Headers of which it is not known what Envoy makes of them before it routes."""
    about: dict[str, str] = field(default_factory=dict)

    def values(self, name: str) -> list[str]:
        """Return the values of a header, in order, as Envoy has them: of some headers it joins the values."""
        name = _PSEUDO.get(name.lower(), name.lower())
        found = [value for key, value in self.headers if key == name]
        if found and name == "cookie":
            return ["; ".join(found)]
        return [",".join(found)] if found and name in _JOINED else found

    def header(self, name: str) -> str | None:
        """Return the first value of a header, None without it."""
        return next(iter(self.values(name)), None)

    def joined(self, name: str) -> str | None:
        """Return the values of a header, joined with commas; None without it."""
        found = self.values(name)
        return ",".join(found) if found else None

    @property
    def path(self) -> str:
        """The path with its query."""
        return self.header(":path") or ""

    @property
    def host(self) -> str:
        """The host, with the port where the client sends it."""
        return self.header(":authority") or ""

    @property
    def method(self) -> str:
        """The method."""
        return self.header(":method") or ""


def read_request(
    url: str,
    *,
    method: str = "",
    headers: Iterable[str] = (),
    listener: str = "",
    address: str = "",
    source: str = "",
) -> Request:
    """Return the request of a URL and of headers like ``name: value``. Raises ChangesetRejectedError.

    ``http``, ``https``, ``grpc``, ``grpcs`` URLs, and ``tcp`` and ``tls`` for connections without HTTP. A client sends
    the URL's host as ``Host`` and, over TLS, as the server name (SNI) unless it is an address. ``method`` "" is GET, or
    POST for gRPC. ``source`` is an address, also with a port.
    """
    problems: list[Problem] = []
    scheme, host, port, path = _parts(url, problems)
    given = list(_headers(headers, problems))
    source, source_port = _source(source)
    for name, text in (("address", address), ("source", source)):
        if text and not _is_address(text):
            problems.append(Problem(what=f"{text!r} is no IP address", field=name))
    is_grpc = scheme in ("grpc", "grpcs")
    method = method or ("POST" if is_grpc else "GET")
    if is_grpc and method != "POST":
        problems.append(Problem(what=f"{method[:64]!r} is not the method of gRPC, which is POST", field="method"))
    if not method or not method.isascii() or not method.isprintable() or " " in method or len(method) > 64:
        problems.append(Problem(what=f"{method[:64]!r} is no method", field="method", hint="GET, POST, …"))
    if problems:
        raise ChangesetRejectedError(problems)
    if is_grpc and not any(name == "content-type" for name, _ in given):
        given.append(("content-type", "application/grpc"))
    bare = f"[{host}]" if ":" in host else host
    authority = next((value for name, value in given if name in ("host", ":authority")), "")
    is_bare = port == PORTS[scheme] and method != "CONNECT"
    pseudo = [
        (":authority", authority or (bare if is_bare else f"{bare}:{port}")),
        (":method", method),
        (":path", path),
        (":scheme", "https" if scheme in _TLS else "http"),
    ]
    rest = [(name, value) for name, value in given if name not in ("host", *(key for key, _ in pseudo))]
    return Request(
        scheme=scheme,
        port=port,
        headers=(*pseudo, *rest),
        server_name="" if scheme not in _TLS or _is_address(host) else host.lower(),
        alpn=() if scheme not in _TLS or scheme == "tls" else ("h2",) if is_grpc else ("h2", "http/1.1"),
        is_tls=scheme in _TLS,
        listener=listener,
        address=address or (host if _is_address(host) else None),
        source=source or None,
        source_port=source_port,
        about={"url": url, "method": method} | ({"listener": listener} if listener else {}),
    )


def _parts(url: str, problems: list[Problem]) -> tuple[str, str, int, str]:
    """Return scheme, host, port, and path with query."""
    hint = "for example https://shop.example/cart?id=1"
    if len(url) > URL_CHARACTERS_MAX:
        problems.append(Problem(what=f"has more than {URL_CHARACTERS_MAX:,} characters", field="url"))
        return "http", "", 0, "/"
    try:
        if not url.isprintable() or " " in url:
            raise ValueError
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        problems.append(Problem(what=f"{url!r} is no URL", field="url", hint=hint))
        return "http", "", 0, "/"
    if parts.scheme not in PORTS:
        what = f"{url!r} does not begin with {', '.join(f'{each}://' for each in PORTS)}"
        problems.append(Problem(what=what, field="url", hint=hint))
    elif not host:
        problems.append(Problem(what=f"{url!r} has no host", field="url", hint=hint))
    elif not host.isascii():
        problems.append(Problem(what=f"{host!r} is not ASCII", field="url", hint="write it in its xn-- form"))
    elif parts.scheme == "tcp" and not port:
        problems.append(Problem(what=f"{url!r} has no port", field="url", hint="tcp://10.0.0.1:5432"))
    query = f"?{parts.query}" if "?" in url.partition("#")[0] else ""
    path = quote((parts.path or "/") + query, safe=_KEPT)
    return parts.scheme, host, port or PORTS.get(parts.scheme, 0), path


def _headers(headers: Iterable[str], problems: list[Problem]) -> Iterable[tuple[str, str]]:
    listed = list(headers)
    if len(listed) > HEADERS_MAX:
        problems.append(Problem(what=f"{len(listed)} headers, more than the {HEADERS_MAX} allowed", field="header"))
        return
    for text in listed:
        start = 1 if text.startswith(":") else 0
        name, colon, value = text[start:].partition(":")
        name = (":" * start + name).strip().lower()
        if not colon or not name.strip(":") or not name.isascii() or not name.isprintable() or " " in name:
            problems.append(Problem(what=f"{text[:80]!r} is no header", field="header", hint="x-user: ann"))
        elif name in _GIVEN_OTHERWISE:
            problems.append(Problem(what=f"{name!r} is no header here", field="header", hint=_GIVEN_OTHERWISE[name]))
        elif not value.strip().isprintable() or len(value) > URL_CHARACTERS_MAX:
            problems.append(Problem(what=f"the value of {name!r} is not printable, or too long", field="header"))
        else:
            yield name, value.strip()


def _source(text: str) -> tuple[str, int | None]:
    """Return the address and the port of ``IP``, ``IP:PORT`` or ``[IP]:PORT``."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (is_bracketed or ":" not in host) or not (port.isascii() and port.isdecimal()):
        return text, None
    return (host[1:-1] if is_bracketed else host), int(port[:6])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
