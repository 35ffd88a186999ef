"""The admin port: health, readiness and metrics over HTTP.

It runs in the event loop that ``start`` is called in, and installs no signal handlers and no logging.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from xds.address import Address, BindError
from xds.api.call_turns import turn_to_begin
from xds.api.http_port import HEAD_BYTES_MAX, HttpLimits, HttpServer
from xds.api.json_answer import JsonAnswer
from xds.limits import LimitHits
from xds.process.background import Background
from xds.reporting.escaping import visible
from xds.transport.certificates import server_context
from xds.transport.tls import TlsFiles
from xds.transport.tls_failures import OnTlsFailure, ignore_failure

SCRAPES_MAX = 8
"""Metrics requests that are answered concurrently."""
SPARE = 24
"""Connections kept free of push API and metrics requests, so that health checks always get one."""
STOP_GRACE_S = 1

_INDEX = """\
xds admin port

/healthz   200 while the process works
/readyz    200 while new streams are welcome, else 503 and why not
/metrics   Prometheus metrics
"""
_API_INDEX = """\
/v1        the push API; /v1/docs describes it, /v1/openapi.json is for programs
"""

_PAGE_INDEX = """\
/page/     the fleet, its resources and their history, for browsers
"""


class AdminServer:
    """Serve ``/healthz``, ``/readyz``, ``/metrics`` and a list of these at ``/``, between ``start`` and ``stop``.

    ``healthy`` returns whether the process works; ``ready`` whether new streams are accepted, and the reason, which is
    shown either way; ``metrics`` returns Prometheus text; ``tls`` is the certificate file and its key file, and
    ``client_ca`` the CAs of client certificates; ``on_tls_failure`` is called with each TLS handshake that failed. All
    are called in the event loop and must not block it. Health and readiness are answered however many connections and
    requests of other kinds there are.
    """

    def __init__(
        self,
        address: Address,
        *,
        healthy: Callable[[], bool],
        ready: Callable[[], tuple[bool, str]],
        metrics: Callable[[], Awaitable[bytes]],
        tls: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
        limits: HttpLimits | None = None,
        background: Background | None = None,
        on_tls_failure: OnTlsFailure = ignore_failure,
    ) -> None:
        assert not address.is_unix, "Settings refuses a unix socket here"
        self._address = address
        self._tls = tls
        self._client_ca = client_ca
        self._on_tls_failure = on_tls_failure
        self._limits = limits or HttpLimits()
        self._app = admin_app(healthy=healthy, ready=ready, metrics=metrics, hits=self._limits.hits)
        self._background = background or Background()
        self._listening: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._server: HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stopping = False

    def serve_api(self, api: ASGIApp, *, has_page: bool = False) -> None:
        """Serve ``api`` on all other paths from now on. ``has_page``: it has a page, to which ``/`` sends browsers."""
        self._app.state.has_api = True
        self._app.state.has_page = has_page
        self._app.router.default = BoundedRequests(
            api, requests_max(self._limits.connections_max), self._limits.hits
        )  # a Mount does not match paths that contain a line feed

    async def start(self) -> Address:
        """Listen, and return the address, with the chosen port where it was 0. Raises BindError, or OSError for TLS."""
        assert self._serving is None, "started once"
        if self._tls is not None:
            self._context = self._tls_context(*self._tls)
        self._listening = await _listen(self._address)
        bound = Address(self._address.host, self._listening.getsockname()[1])
        self._make_server()
        self._serving = self._background.keep("serve the admin port", self._serve, may_end=lambda: self._stopping)
        return bound

    def _make_server(self) -> HttpServer:
        """Return a new server for the port, with its own descriptor of the socket, which it closes when it ends."""
        assert self._listening is not None
        config = uvicorn.Config(
            InTurns(self._app),
            lifespan="off",
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            log_config=None,
            access_log=False,
            server_header=False,
            log_level="error",  # with warnings, each malformed request would write a line
            timeout_graceful_shutdown=STOP_GRACE_S,
        )
        self._server = HttpServer(
            config, self._listening.dup(), self._limits, self._on_tls_failure, tls=lambda: self._context
        )
        return self._server

    def _tls_context(self, cert: Path, key: Path) -> ssl.SSLContext:
        """Read the TLS files. Raises OSError; ssl.SSLError is one."""
        files = TlsFiles(cert=cert, key=key, client_ca=self._client_ca)
        # Probes and Prometheus have no certificate. Who shows one must show a valid one.
        return server_context(files, "http/1.1", keeps_chain=self._client_ca is not None, verify_mode=ssl.CERT_OPTIONAL)

    async def _serve(self) -> None:
        server = self._server or self._make_server()
        try:
            await server.serve()
        finally:
            server.let_go()
            if not self._stopping:
                self._server = None

    def reload_certificates(self) -> bool:
        """Reload the TLS files for new connections; return whether there are any. Raises OSError, keeping the old.

        The context is another one: CAs can't be taken out of a context, and sessions of the former one can't be
        resumed with it.
        """
        if self._tls is None or self._context is None:
            return False
        self._context = self._tls_context(*self._tls)
        return True

    async def stop(self) -> None:
        """Close the port and its connections; requests in progress get a second. Does nothing if not started."""
        if self._serving is None or self._listening is None:
            return
        self._stopping = True
        if self._server is None:  # it failed and was waiting to be restarted
            self._serving.cancel()
        else:
            self._server.should_exit = True
        await asyncio.gather(self._serving, return_exceptions=True)
        self._listening.close()
        self._server = self._serving = self._listening = None


def admin_app(
    *,
    healthy: Callable[[], bool],
    ready: Callable[[], tuple[bool, str]],
    metrics: Callable[[], Awaitable[bytes]],
    hits: LimitHits | None = None,
) -> Starlette:
    """Return the admin port's ASGI application."""

    async def index(request: Request) -> Response:
        state = request.app.state
        if state.has_page and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/page/", 307, {"cache-control": "no-store", "vary": "accept"})
        return _plain(_INDEX + _API_INDEX * state.has_api + _PAGE_INDEX * state.has_page)

    async def healthz(_: Request) -> Response:
        return _plain("ok\n") if healthy() else _plain("not healthy\n", 503)

    async def readyz(_: Request) -> Response:
        is_ready, reason = ready()
        return _plain(f"{visible(reason) or ('ready' if is_ready else 'not ready')}\n", 200 if is_ready else 503)

    async def prometheus(_: Request) -> Response:
        return Response(await metrics(), headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"})

    routes = {"/": index, "/healthz": healthz, "/readyz": readyz, "/metrics": prometheus}
    app = Starlette(routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in routes.items()])
    scrapes = app.routes[-1]
    assert isinstance(scrapes, Route)
    scrapes.app = BoundedRequests(scrapes.app, SCRAPES_MAX, hits)
    app.state.has_api = app.state.has_page = False
    return app


def requests_max(connections_max: int) -> int:
    """Return how many requests may be under way: each occupies its connection, and some are left for health checks."""
    return max(1, connections_max - SCRAPES_MAX - SPARE)


class InTurns:
    """Serves ``app`` with requests that begin in their turns; health checks begin at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope.get("path") != "/healthz":
            await turn_to_begin(str(scope.get("client")))
        await self._app(scope, receive, send)


class BoundedRequests:
    """Serves ``app`` with at most ``at_once`` requests at a time; others are asked to try again."""

    def __init__(self, app: ASGIApp, at_once: int, hits: LimitHits | None = None) -> None:
        self._app = app
        self._hits = hits or LimitHits()
        self._left = at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not self._left:
            self._hits.add("requests_admin")
            error = {"error": "too many requests are under way; try again"}
            await JsonAnswer(error, 503, {"retry-after": "1", "connection": "close"})(scope, receive, send)
            return
        self._left -= 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._left += 1


async def not_loaded_yet(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer for the push API while it is loaded: a 404 would say that there is no such group or resource."""
    error = {"error": "the push API is being loaded; this request changed nothing, try again"}
    await JsonAnswer(error, 503, {"retry-after": "1", "connection": "close"})(scope, receive, send)


def _plain(text: str, status: int = 200) -> Response:
    return PlainTextResponse(text, status, headers={"cache-control": "no-store", "x-content-type-options": "nosniff"})


async def _listen(address: Address) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family)
    except UnicodeError:
        raise BindError("admin", address, OSError("not the name of a host")) from None
    except OSError as error:
        raise BindError("admin", address, error) from None
