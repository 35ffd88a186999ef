"""The page as an ASGI application, under ``/page`` of the admin port: who may see it, its routes, its headers.

A browser sends no ``Authorization`` header by itself, so a sign-in is a cookie that stands for a token
(``xds.page.sessions``). Beside it, every rule of the API holds: the names of the host, the rights of the caller, what
is redacted. A form is accepted from the page's own origin only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from jinja2 import Environment
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from xds.access.errors import UnauthenticatedError
from xds.api.admission import Admission, Call
from xds.api.answers import EXPECTED, error_answer
from xds.api.guard import MISDIRECTED, SHOWN_MAX, Hosts, is_of_another_origin, peer_of
from xds.api.http_port import CERTIFICATES
from xds.api.operations import Operations
from xds.api.permitted import Permitted
from xds.page import fleet_views, history_views, resource_views
from xds.page.forms import Forms, LateFormError
from xds.page.live import Live, TooManyError, stamp_of
from xds.page.rendering import ROOT, Asset, address, environment, load_assets
from xds.page.sessions import SESSION_S, Sessions
from xds.page.visit import Answer, PageNotFoundError, Visit, WrongRequestError

log = structlog.get_logger("xds")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: nothing inline, and nothing from elsewhere."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send forms with the origin null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
SIGN_IN = "sign-in"
LIVE = "live"
EVENT_STREAM = "text/event-stream"
SHARED_TEMPLATES = ("base.html", "parts.html", "error.html", "again.html", "sign_in.html")
"""Those that any request may need."""
View = Callable[[Visit], Awaitable[Answer]]

VIEWS: Mapping[tuple[str, str], tuple[str, View]] = {
    ("GET", ""): ("WaitForConvergence", fleet_views.overview),
    ("GET", "groups"): ("ListGroups", fleet_views.groups),
    ("GET", "group"): ("GetGroup", fleet_views.group),
    ("GET", "nodes"): ("ListNodes", fleet_views.nodes),
    ("GET", "node"): ("GetNode", fleet_views.node),
    ("GET", "node-diff"): ("InspectNode", fleet_views.node_diff),
    ("GET", "explain"): ("ExplainNode", fleet_views.explain),
    ("GET", "servers"): ("WaitForConvergence", fleet_views.servers),
    ("GET", "resources"): ("ListResources", resource_views.resources),
    ("GET", "resource"): ("GetResource", resource_views.resource),
    ("GET", "revisions"): ("History", history_views.revisions),
    ("GET", "revision"): ("GetRevision", history_views.revision),
    ("GET", "rollback"): ("Rollback", history_views.confirm_rollback),
    ("POST", "rollback"): ("Rollback", history_views.rollback),
    ("GET", "audit"): ("ListAudit", history_views.audit),
}
"""Each page to the call of the API that it makes, whose rights it needs, and to what makes it."""


def page_app(
    operations: Operations,
    admission: Admission,
    *,
    hosts: Hosts | None = None,
    clock: Callable[[], float] = time.monotonic,
    forms: Forms | None = None,
) -> "Page":
    """Return the page. Without ``hosts`` any host name is accepted; ``clock`` is that of sign-ins, in seconds."""
    return Page(operations, admission, hosts, Sessions(clock), forms or Forms())


class WithPage:
    """Serves the page at its paths, and ``api`` at all others."""

    def __init__(self, api: ASGIApp, page: "Page") -> None:
        self._api, self._page = api, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        is_page = path == ROOT or path.startswith(f"{ROOT}/")
        await (self._page if is_page else self._api)(scope, receive, send)


class Page:
    """The ASGI application."""

    def __init__(
        self,
        operations: Operations,
        admission: Admission,
        hosts: Hosts | None,
        sessions: Sessions,
        forms: Forms,
    ) -> None:
        self._operations = operations
        self._admission = admission
        self._hosts = hosts
        self._sessions = sessions
        self._forms = forms
        self._live = Live(admission)
        self._assets: Mapping[str, Asset] = {}
        self._templates: Environment | None = None
        self._compiled: set[str] = set()
        self._loading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._templates is None:
            await self._load()
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Exception as error:
            log.error("a request failed by a bug in this server; please report it", exc_info=error)
            response = self._error(request, 500, "internal error")
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("cache-control", "no-store")
        await response(scope, receive, send)

    async def _load(self) -> None:
        """Read assets and shared templates at the first request: who does not look at the page does not pay for it."""
        async with self._loading:
            if self._templates is None:
                self._assets = await asyncio.to_thread(load_assets)
                templates = environment(self._assets)
                await asyncio.to_thread(lambda: [templates.get_template(name) for name in SHARED_TEMPLATES])
                self._templates, self._compiled = templates, set(SHARED_TEMPLATES)

    async def _compile(self, name: str) -> None:
        """Compile a template before its first use: all of them take 0.3 s, too long for the first page to wait."""
        if name not in self._compiled:
            assert self._templates is not None
            await asyncio.to_thread(self._templates.get_template, name)
            self._compiled.add(name)

    # --- Who is asking -----------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        headers, method = request.headers, request.method
        host = headers.get("host", "")
        if self._hosts is not None and not self._hosts.has(host):
            text = f"this server is not known as {host[:200]!r}; name its host in the setting api.hosts"
            return self._misdirected(request, 421, text)
        if method not in ("GET", "HEAD", "POST"):
            return self._error(request, 405, "the page answers GET and POST only")
        if method == "POST" and not _is_own_form(headers, request.scope["scheme"]):
            return self._misdirected(request, 403, "this form was not sent by a page of this server")
        path = request.url.path.removeprefix(ROOT)
        if path == "":
            return RedirectResponse(address(""), 308)
        page = path[1:]
        if page.startswith("assets/"):
            return self._asset(request, page.removeprefix("assets/"))
        if page == SIGN_IN and method == "POST":
            return await self._sign_in(request)
        if page == "sign-out" and method == "POST":
            return self._sign_out(request)
        return await self._answer_caller(request, "GET" if method == "HEAD" else method, page)

    async def _answer_caller(self, request: Request, method: str, page: str) -> Response:
        try:
            call = self._admitted(request, f"{method} {ROOT}/{page}"[:SHOWN_MAX])
        except UnauthenticatedError as error:
            response = self._unknown_caller(request, page, str(error))
            if error.ends_connection:
                response.headers["connection"] = "close"
            return response
        if page == SIGN_IN:
            return RedirectResponse(_own_path(request.query_params.get("next", "")), 303)
        if page == LIVE and method == "GET":
            return self._stream(request, call)
        return await self._view(request, call, method, page)

    def _admitted(self, request: Request, what: str) -> Call:
        """Return the call of a request. Raises UnauthenticatedError, with the text "" if nothing was shown."""
        shown = self._shown(request)
        if not shown["authorization"] and not shown["certificates"] and self._admission.asks_for_credentials:
            why = "your sign-in has ended" if request.cookies.get(_cookie_of(request)) else ""
            raise UnauthenticatedError(why, reason="no credentials")
        return self._admission.admit(what, **shown)

    def _shown(self, request: Request) -> dict[str, Any]:
        """Return what a request shows of its caller."""
        session = request.cookies.get(_cookie_of(request), "")
        return {
            "authorization": request.headers.get("authorization", "") or self._sessions.authorization(session),
            "certificates": _certificates_of(request),
            "peer": peer_of(request.scope),
            "request_id": request.headers.get("x-request-id", ""),
        }

    def _lasting(self, request: Request) -> Callable[[], bool]:
        """Return what says whether the sign-in lasts that a request came with; without one, it always says so."""
        session = request.cookies.get(_cookie_of(request), "")
        if request.headers.get("authorization", "") or not self._sessions.authorization(session):
            return lambda: True
        return lambda: bool(self._sessions.authorization(session))

    def _misdirected(self, request: Request, status: int, text: str) -> Response:
        """Answer a request that is refused for its host or its origin, and record it."""
        what = f"{request.method} {request.url.path}"[:SHOWN_MAX]
        reason, shown = MISDIRECTED[status], self._shown(request)
        self._admission.record_misdirected(what, reason=reason, detail=text, **shown)
        return self._error(request, status, text)

    def _unknown_caller(self, request: Request, page: str, why: str) -> Response:
        if page == LIVE or request.headers.get("x-part"):
            return Response("sign in", 401, media_type="text/plain")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method != "POST" and not why:
            # A browser does not send a strict cookie with a link from another site: it does so from our own page.
            return self._render(request, None, Answer("again.html", {"again": _path_of(request)}))
        if page == SIGN_IN:
            return self._sign_in_form(
                request, _own_path(request.query_params.get("next", "")), why, 401 if why else 200
            )
        if why or request.method == "POST":
            return self._sign_in_form(request, _path_of(request) if request.method != "POST" else address(""), why, 401)
        return RedirectResponse(address(SIGN_IN, next=_path_of(request)), 303)

    # --- Signing in --------------------------------------------------------------------------------------------------

    def _sign_in_form(self, request: Request, after: str, why: str, status: int) -> Response:
        return self._render(request, None, Answer("sign_in.html", {"after": after, "why": why}, status))

    async def _sign_in(self, request: Request) -> Response:
        try:
            form = await self._forms.read_sign_in(request)
        except WrongRequestError as error:
            return self._error(request, 400, str(error))
        except LateFormError as error:
            return self._late(request, error)
        after, token = _own_path(form.get("next", "")), form.get("token", "").strip()
        if not token:
            return self._sign_in_form(request, after, "enter a token", 400)
        authorization = f"Bearer {token}"
        try:
            call = self._admission.admit(
                "SignIn",
                authorization=authorization,
                certificates=_certificates_of(request),
                peer=peer_of(request.scope),
                request_id="",
            )
        except UnauthenticatedError as error:
            return self._sign_in_form(request, after, str(error), 401)
        self._admission.record(call)
        made = self._sessions.open(authorization, call.caller.credential or call.caller.identity)
        response = RedirectResponse(after, 303)
        _set_cookie(response, request, made, SESSION_S)
        return response

    def _sign_out(self, request: Request) -> Response:
        self._sessions.close(request.cookies.get(_cookie_of(request), ""))
        response = RedirectResponse(address(SIGN_IN), 303)
        _set_cookie(response, request, "", 0)
        return response

    # --- Pages -------------------------------------------------------------------------------------------------------

    async def _view(self, request: Request, call: Call, method: str, page: str) -> Response:
        found = VIEWS.get((method, page))
        if found is None:
            is_other = page == LIVE or any(name == page for _, name in VIEWS)
            return self._error(request, 405 if is_other else 404, "there is no such page", call)
        what, view = found
        call = Call(what, call.caller, call.peer, call.request_id, call.authorization, call.certificates)
        visit = Visit(request, Permitted(self._operations, self._admission, call), self._admission, call)
        try:
            self._admission.must_be_permitted(call)
            if method == "POST":
                form = await self._forms.read(request)
                visit = Visit(request, visit.operations, self._admission, call, form)
            # Before what is shown is read: a change meanwhile makes the page read itself again.
            stamp = await stamp_of(visit.operations) if method == "GET" else ""
            answer = await view(visit)
        except (WrongRequestError, PageNotFoundError) as error:
            self._record_unmade(method, call, str(error))
            return self._error(request, 404 if isinstance(error, PageNotFoundError) else 400, str(error), call)
        except LateFormError as error:
            self._record_unmade(method, call, str(error))
            return self._late(request, error, call)
        except EXPECTED as error:
            told = error_answer(error)
            self._record_unmade(method, call, told.message)
            return self._error(request, told.http, told.message, call, told.more.get("problems", ()))
        if answer.location:
            return RedirectResponse(answer.location, 303)
        await self._compile(answer.template)
        return self._render(request, visit, answer, stamp)

    def _late(self, request: Request, error: LateFormError, call: Call | None = None) -> Response:
        response = self._error(request, 408, str(error), call)
        response.headers["connection"] = "close"
        return response

    def _record_unmade(self, method: str, call: Call, why: str) -> None:
        if method == "POST":  # GET only asks whether to make the change
            self._admission.record_unmade(call, why)

    def _stream(self, request: Request, call: Call) -> Response:
        """Answer with the events of the page. HEAD gets the headers of that answer, and begins no stream."""
        try:
            permitted = Permitted(self._operations, self._admission, call)
            events = self._live.events(call, permitted, self._lasting(request))
        except TooManyError:
            return Response("too many pages are open", 503, {"retry-after": "15"}, "text/plain")
        if request.method == "HEAD":
            return StreamingResponse(iter(()), media_type=EVENT_STREAM)
        return StreamingResponse(events, media_type=EVENT_STREAM)

    def _asset(self, request: Request, name: str) -> Response:
        asset = self._assets.get(name)
        if asset is None:
            return self._error(request, 404, "there is no such file")
        is_tagged = request.query_params.get("v") == asset.tag
        kept = "public, max-age=31536000, immutable" if is_tagged else "no-cache"
        return Response(asset.data, media_type=asset.media_type, headers={"cache-control": kept})

    # --- Rendering ---------------------------------------------------------------------------------------------------

    def _error(
        self, request: Request, status: int, text: str, call: Call | None = None, problems: Any = ()
    ) -> Response:
        visit = None
        if call is not None:
            visit = Visit(request, Permitted(self._operations, self._admission, call), self._admission, call)
        content = {"code": status, "text": text, "problems": problems, "is_change": request.method == "POST"}
        return self._render(request, visit, Answer("error.html", content, status))

    def _render(self, request: Request, visit: Visit | None, answer: Answer, stamp: str = "") -> Response:
        assert self._templates is not None
        about: dict[str, Any] = {"page": request.url.path.removeprefix(f"{ROOT}/"), "caller": None}
        if visit is not None:
            about |= {
                "caller": visit.call.caller,
                "is_signed_in": bool(request.cookies.get(_cookie_of(request))) and bool(visit.call.caller.identity),
                "is_open": not self._admission.asks_for_credentials,
                "served": visit.operations.revision,
                "stale": visit.operations.stale_because,
                "now_ms": int(time.time() * 1000),
                "stamp": stamp,
            }
        text = self._templates.get_template(answer.template).render(about | dict(answer.content))
        return Response(text.encode("utf-8", "replace"), answer.status, media_type="text/html; charset=utf-8")


def _is_own_form(headers: Headers, scheme: str) -> bool:
    """Return whether a form was sent by a page of this origin: browsers say so with every form, other programs may."""
    origin = headers.get("origin")
    if origin is not None:
        return not is_of_another_origin(origin, scheme, headers.get("host", ""))
    return headers.get("sec-fetch-site") == "same-origin"


def _own_path(path: str) -> str:
    """Return the path of a page that follows a sign-in; the overview for anything else than one of ours."""
    is_ours = path.startswith(f"{ROOT}/") and "\\" not in path and path.isprintable() and path.isascii()
    return path if is_ours else address("")


def _path_of(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _certificates_of(request: Request) -> tuple[bytes, ...]:
    """Return the certificate that TLS has verified and the intermediates that came with it; () without one."""
    shown: tuple[bytes, ...] = request.scope.get("state", {}).get(CERTIFICATES, ())
    return shown


def _cookie_of(request: Request) -> str:
    """Return the cookie's name. It has the port: cookies of one host are not separated by ports."""
    port = request.url.port
    return f"xds_page_{port}" if port else "xds_page"


def _set_cookie(response: Response, request: Request, value: str, age_s: int) -> None:
    response.set_cookie(
        _cookie_of(request),
        value,
        max_age=age_s,
        path=ROOT,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
