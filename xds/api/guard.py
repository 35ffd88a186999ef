"""Admits requests for ``/v1`` by their headers, before a route is looked up or a byte of a body is read.

A page in a browser can send requests to this port: from the page's own origin, or, if its author resolves the name of
the page's host to 127.0.0.1 (DNS rebinding), as if both had the same origin. So the ``Host`` must be a name of this
server, and an ``Origin`` must be that host. An IP address as ``Host`` can't be rebound: a browser sends it only if the
URL has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xds.access.audit import REJECTED
from xds.access.errors import ForbiddenError, UnauthenticatedError
from xds.address import Address
from xds.api.admission import CHANGES, GONE, Admission, Call
from xds.api.http_port import CERTIFICATES
from xds.api.json_answer import JsonAnswer
from xds.api.outcomes import NOBODY, UNKNOWN_CALL, http_outcome, role_of

SMALL_BODY_BYTES = 64 * 1024
"""A refused request with a larger body closes its connection, so that the body is not read in vain."""
DEFAULT_PORTS = {"http": 80, "https": 443}
CALL = "xds.call"
"""The key of a request's ``Call`` in its ASGI scope."""
TOLD = "xds.told"
"""The key of a request's ``Told`` in its ASGI scope."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
SHOWN_MAX = 200
MISDIRECTED = {421: "host", 403: "origin"}
"""The reasons of requests that are refused before it is asked who sends them, by the status of the answer."""


@dataclass(slots=True)
class Told:
    """What is counted and recorded of a request: the call that its route is, and the status of the answer."""

    call: str = UNKNOWN_CALL
    status: int = 499
    why: str = GONE
    """Why it was refused, if it was."""


class Hosts:
    """The accepted ``Host`` names of a server: ``localhost``, every IP address, and ``names``."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    def has(self, host: str) -> bool:
        """Return whether the value of a ``Host`` header, with or without a port, names this server."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        name = name.rstrip(".")
        return "*" in self._names or name in self._names or Address(name, 0).is_ip


class Guard:
    """Serves ``app`` to requests of known callers who may do something of the kind; others are refused with the reason.

    The scope of a request then has its ``Call``.

    Without ``hosts`` the host names are not checked: for an application that browsers can't reach.
    """

    def __init__(self, app: ASGIApp, admission: Admission, hosts: Hosts | None = None) -> None:
        self.app = app
        self._admission = admission
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the admin port has no websockets and no lifespan"
        headers = Headers(scope=scope)
        refusal = self._refusal(headers, scope)
        told = scope[TOLD] = Told()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.status = message["status"]
            await send(message)

        try:
            if refusal is None:
                await self.app(scope, receive, noting)
            else:
                status, why, ends = refusal
                more = {"www-authenticate": "Bearer"} if status == 401 else {}
                if ends or _has_large_body(headers):
                    more["connection"] = "close"
                await JsonAnswer({"error": why}, status, more)(scope, receive, noting)
        finally:
            role = role_of(scope[CALL].caller) if CALL in scope else NOBODY
            if CALL in scope and scope["method"] not in READING and told.status >= 400:
                self._record_unmade(scope[CALL], told)
            self._admission.measured.calls[told.call, role, http_outcome(told.status)] += 1

    def _record_unmade(self, call: Call, told: Told) -> None:
        """Record a change that was refused: its call, or its method and path if they are those of no call."""
        if told.call in CHANGES:
            self._admission.record_unmade(replace(call, what=told.call), told.why)
        elif not call.fate.is_told:
            self._admission.record(call, REJECTED, detail=told.why)

    def _refusal(self, headers: Headers, scope: Scope) -> tuple[int, str, bool] | None:
        """Return the status and text of a refusal, and whether it ends the connection.

        Return None, with the call in the scope, for a request that is admitted.
        """
        what = f"{scope['method']} {scope['path'][:SHOWN_MAX]}"
        shown = {
            "authorization": headers.get("authorization", ""),
            "certificates": scope.get("state", {}).get(CERTIFICATES, ()),
            "peer": peer_of(scope),
            "request_id": headers.get("x-request-id", ""),
        }
        if (misdirected := self._misdirected(headers, scope)) is not None:
            status, why = misdirected
            self._admission.record_misdirected(what, reason=MISDIRECTED[status], detail=why, **shown)
            return status, why, False
        try:
            call = self._admission.admit(what, **shown)
            if scope["method"] not in READING:
                self._admission.must_change(call)
        except UnauthenticatedError as error:
            return 401, str(error), error.ends_connection
        except ForbiddenError as error:
            return 403, str(error), False
        scope[CALL] = call
        return None

    def _misdirected(self, headers: Headers, scope: Scope) -> tuple[int, str] | None:
        """Return the status and text of a refusal for the host or the origin, None if both are as they should be."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and not self._hosts.has(host):
            return 421, f"this server is not known as {host[:200]!r}; name its host in the setting api.hosts"
        if origin is not None and is_of_another_origin(origin, scope["scheme"], host):
            return 403, f"a page of another origin ({origin[:200]!r}) may not ask this server"
        return None


def peer_of(scope: Scope) -> str:
    """Return where a request comes from, as gRPC calls have it: HOST:PORT, "" if that is not known."""
    client = scope.get("client")
    return "" if client is None else str(Address(client[0], client[1]))


def is_of_another_origin(origin: str, scheme: str, host: str) -> bool:
    """Return whether an ``Origin`` is not the requested host.

    A proxy may have terminated TLS, so the scheme may differ.
    """
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"{scheme}://{host}")
        if theirs.scheme not in DEFAULT_PORTS:
            return True
        # Without a port in ``Host``, it is the default port of the browser's scheme.
        ports = theirs.port or DEFAULT_PORTS[theirs.scheme], ours.port or DEFAULT_PORTS[theirs.scheme]
    except ValueError:
        return True
    return theirs.hostname != ours.hostname or ports[0] != ports[1]


def _has_large_body(headers: Headers) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdigit() or int(length) > SMALL_BODY_BYTES
