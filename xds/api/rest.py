"""The push API over HTTP, under ``/v1``: FastAPI around ``Operations``."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

import structlog
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from xds.access.audit import RECORDS_MAX, AuditFilter
from xds.api import bodies, rest_page
from xds.api.admission import Admission
from xds.api.answers import (
    EXPECTED,
    BodyTooLargeError,
    after_cursor,
    caller_json,
    convergence_json,
    details_json,
    difference_json,
    error_answer,
    event_json,
    header_value,
    list_json,
    nodes_json,
    published_json,
    resources_json,
    status_json,
    summary_json,
)
from xds.api.convergence import KNOWN, Goal
from xds.api.guard import CALL, TOLD, Guard, Hosts, Told
from xds.api.intake import Intake, TooSlowError
from xds.api.json_answer import JsonAnswer
from xds.api.media_types import PROTOBUF, YAML, media_type_of
from xds.api.messages import snapshot_message
from xds.api.node_answers import differences_of_node_json, explanations_json, resources_of_node_json
from xds.api.node_answers import size_of as size_of_node
from xds.api.operations import HISTORY_MAX, GroupInfo, Operations, ResourceDifference, SnapshotAnswer, size_of
from xds.api.permitted import Permitted
from xds.api.rest_intake import TakingIn
from xds.api.rest_schema import BODIES, ERRORS, NAMES
from xds.api.rules import rules_of, rules_update_of
from xds.api.run_in_thread import read_in_thread, run_in_thread
from xds.api.shown import resource_any, resource_json
from xds.api.tracing import Tracing, WithTraces
from xds.api.watched import EncodedChanges
from xds.limits import LimitHits
from xds.model.closest import closest
from xds.model.problem import ChangesetRejectedError
from xds.model.resource import Resource
from xds.model.types import TYPE_PREFIX, short_name
from xds.model.xdstp import canonical
from xds.protocol.inspection import InspectQuery
from xds.protocol.paging import NodeState, Sort
from xds.protocol.status import NODES_MAX, NodesQuery
from xds.publishing.changes import Change, Published
from xds.publishing.edits import RULES
from xds.reporting.escaping import json_text, yaml_text
from xds.routing.answer import answer_json
from xds.routing.request import read_request
from xds.sources.groups_file import groups_json
from xds.store.entries import ID_CHARACTERS_MAX, Stored
from xds.store.errors import ConflictError
from xds.version import __version__

log = structlog.get_logger("xds")
Revision = Annotated[int | None, Query(ge=0, le=2**63 - 1, description="As it was at that revision.")]
IfMatch = Annotated[
    str | None,
    Header(
        description="A revision, such as an ETag: refused if the groups that the change concerns, or for rules the"
        " groups and rules, changed after it."
    ),
]
ExistingGroupsOnly = Annotated[bool, Query(description="Refuse (404) to create the group for the resource.")]
ChangeId = Annotated[
    str,
    Query(
        alias="id",
        max_length=ID_CHARACTERS_MAX,
        description="The same id twice is one change: to be given again where the reply was lost.",
    ),
]
Redact = Annotated[bool, Query(description="Hide keys, passwords and generic secrets.")]
Of = Literal["connected", "known"]
HUNG_UP = 499
"""nginx's status for a client that has disconnected: nobody reads it, but an answer needs a status."""
EVENT_STREAM = "text/event-stream"
EVENTS_BYTES = 32 * 1024
"""Events of a watch that are sent together, if there are so many."""
ITEM_BYTES = 150
"""Bytes that a problem, or a resource that a change concerned, takes in an answer."""


def rest_api(
    operations: Operations,
    admission: Admission,
    *,
    body_bytes_max: int,
    body_timeout_s: float = 60.0,
    intake: Intake | None = None,
    hosts: Hosts | None = None,
    tracing: Tracing | None = None,
) -> Guard:
    """Return the ASGI application that serves ``/v1``. Without ``hosts`` any host name is accepted."""
    app = FastAPI(
        title="xds push API",
        version=__version__,
        openapi_url=None,  # FastAPI makes and encodes the document on the event loop
        docs_url=None,  # FastAPI's page loads scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
        dependencies=[Depends(_check_query)],
    )
    _add_errors(app)
    intake = intake or Intake(2 * body_bytes_max)
    api = _Rest(operations, admission, body_bytes_max, intake.hits)
    api.add_changes(app)
    api.add_reading(app)
    api.add_history(app)
    api.add_routing(app)
    api.add_convergence(app)
    api.add_groups(app)
    api.add_nodes(app)
    api.add_access(app)
    _add_documents(app)
    taking_in = TakingIn(
        _Routable(app if tracing is None else WithTraces(app, tracing)),
        intake,
        body_bytes_max=body_bytes_max,
        body_timeout_s=body_timeout_s,
    )
    return Guard(taking_in, admission, hosts)


def _check_query(request: Request) -> None:
    """Raise RequestValidationError for query parameters that the route does not have: ignored, they might be a typo."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = sorted(_query_parameters(route.dependant))
    problems = []
    for name in sorted(set(request.query_params) - set(known))[:10]:
        close = closest(name, known)
        does = f"did you mean {close[0]}?" if close else f"it has {', '.join(known) or 'none'}"
        text = f"this request has no such parameter; {does}"
        problems.append({"loc": ("query", name[:100]), "msg": text, "type": "extra"})
    if problems:
        raise RequestValidationError(problems)


def _query_parameters(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*map(_query_parameters, dependant.dependencies))


class _Routable:
    """Serves ``app`` with a path that the patterns of routes match only where handlers find its segments.

    Names may have line ends, which ``.`` does not match in the patterns, and escaped slashes, which separate nothing.
    Handlers take names from the raw path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = "/".join(part.replace("/", " ") for part in _segments(scope)).replace("\n", " ")
        await self._app({**scope, "path": path}, receive, send)


def _add_documents(app: FastAPI) -> None:
    documents = rest_page.Documents(app.openapi)

    async def document(_: Request) -> Response:
        return Response(await documents.text(), media_type="application/json")

    async def page(request: Request) -> Response:
        text = await documents.page(str(request.base_url).rstrip("/"))
        return HTMLResponse(text, headers={"content-security-policy": rest_page.POLICY})

    app.add_route("/v1/openapi.json", document, include_in_schema=False)
    app.add_route("/v1/docs", page, include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    async def expected(request: Request, error: Exception) -> Response:
        _note_call(request)
        request.scope[TOLD].why = str(error)
        # The rest of the body is not read.
        headers = {"connection": "close"} if isinstance(error, TooSlowError | BodyTooLargeError) else {}
        status = 412 if isinstance(error, ConflictError) and "if-match" in request.headers else None

        def made() -> Response:
            answer = error_answer(error)
            return JsonAnswer(answer.body, status or answer.http, headers)

        problems = len(error.problems) if isinstance(error, ChangesetRejectedError) else 0
        return await run_in_thread(problems * ITEM_BYTES, made)

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        told = [{"what": each["msg"], "field": ".".join(map(str, each["loc"]))} for each in error.errors()]
        _note_call(request)
        request.scope[TOLD].why = "; ".join(f"{each['field']}: {each['what']}" for each in told)
        return JsonAnswer({"error": "the request is malformed", "problems": told}, 422)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        _note_call(request)
        request.scope[TOLD].why = str(error.detail)
        return JsonAnswer({"error": error.detail}, error.status_code, error.headers)

    async def fault(request: Request, error: Exception) -> Response:
        request.scope[TOLD].why = "internal error"
        log.error("a request failed by a bug in this server; please report it", exc_info=error)
        return JsonAnswer({"error": "internal error"}, 500)

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=HUNG_UP)

    for kind in EXPECTED:
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, fault)


def _within(request: Request) -> list[str]:
    """Return the unescaped segments of the path below ``/v1``."""
    return _segments(request.scope)[2:]


def _segments(scope: Scope) -> list[str]:
    """Return the unescaped segments of a path; a slash within one is escaped in the path."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return [unquote(part) for part in raw.decode("latin-1").partition("?")[0].split("/")]


def _media_type(request: Request) -> str:
    return media_type_of(request.headers.get("content-type", ""))[0]


def _expected(if_match: str | None) -> int | None:
    """Return the revision of an ``If-Match`` header. Raises HTTPException."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise HTTPException(400, "If-Match: give a revision, as in If-Match: 41")
    return int(text)


@dataclass(frozen=True, slots=True)
class _Asks:
    """What the headers and the query of a write say of it."""

    if_match: str | None
    id: str

    def of(self, change: Change) -> Change:
        """Return a change with the revision that it expects and its id. Raises HTTPException."""
        expected = _expected(self.if_match)
        if expected is not None:
            if change.expected_revision not in (None, expected):
                raise HTTPException(400, "If-Match and expected_revision name different revisions: give one of them")
            change = replace(change, expected_revision=expected)
        if self.id:
            if change.id not in ("", self.id):
                raise HTTPException(400, "the query and the body give different ids: give one of them")
            change = replace(change, id=self.id)
        return change


async def _asks(if_match: IfMatch = None, change_id: ChangeId = "") -> _Asks:
    return _Asks(if_match, change_id)


Asks = Annotated[_Asks, Depends(_asks)]


def _etag(revision: int) -> dict[str, str]:
    return {"etag": f'"{revision}"'}


CALLS = {
    ("POST", "/v1/groups/{group}/changesets"): "Apply",
    ("POST", "/v1/changesets"): "ApplyGroups",
    ("PUT", "/v1/groups/{group}/snapshot"): "Replace",
    ("PUT", "/v1/groups/{group}/resources/{type}/{name:path}"): "PutResource",
    ("DELETE", "/v1/groups/{group}/resources/{type}/{name:path}"): "DeleteResource",
    ("POST", "/v1/groups/{group}/rollback"): "Rollback",
    ("GET", "/v1/groups/{group}/snapshot"): "GetSnapshot",
    ("GET", "/v1/groups/{group}/resources"): "ListResources",
    ("GET", "/v1/groups/{group}/resources/{type}/{name:path}"): "GetResource",
    ("GET", "/v1/groups/{group}/diff"): "Diff",
    ("GET", "/v1/groups/{group}/route"): "FindRoute",
    ("GET", "/v1/revisions"): "History",
    ("GET", "/v1/revisions/{revision}"): "GetRevision",
    ("GET", "/v1/revisions/{revision}/convergence"): "WaitForConvergence",
    ("GET", "/v1/watch"): "Watch",
    ("GET", "/v1/groups"): "ListGroups",
    ("PUT", "/v1/groups"): "PutRules",
    ("PATCH", "/v1/groups"): "UpdateRules",
    ("GET", "/v1/groups/{group}"): "GetGroup",
    ("PUT", "/v1/groups/{group}"): "PutGroup",
    ("DELETE", "/v1/groups/{group}"): "DeleteGroup",
    ("GET", "/v1/status"): "GetStatus",
    ("GET", "/v1/nodes"): "ListNodes",
    ("GET", "/v1/nodes/{id:path}/resources"): "InspectNode",
    ("GET", "/v1/nodes/{id:path}/diff"): "InspectNode",
    ("GET", "/v1/nodes/{id:path}/explain"): "ExplainNode",
    ("GET", "/v1/nodes/{id:path}"): "GetNode",
    ("POST", "/v1/rebalance"): "Rebalance",
    ("GET", "/v1/audit"): "ListAudit",
    ("GET", "/v1/whoami"): "WhoAmI",
}
"""Each route to its call in ``admission.NEEDS``. A route without one answers with an error."""
OF_GROUP = "/v1/groups/{group}"
SHORT_BODY_BYTES_MAX = 128 * 1024
"""Bytes of a body that has only a few fields, each with all its characters escaped."""
WAIT_S_MAX = 300.0
"""The longest time that an answer may wait for nodes."""


def _permitted(operations: Operations, admission: Admission, request: Request) -> Permitted:
    """Return the operations for the caller of a request. Raises ForbiddenError if the caller may not make it."""
    call = replace(request.scope[CALL], what=_note_call(request))
    admission.must_be_permitted(call, call.fate.groups[0] if call.fate.groups else None)
    return Permitted(operations, admission, call)


def _note_call(request: Request) -> str:
    """Note which call a request is, and of which group, if its route is known; return the call."""
    told: Told = request.scope[TOLD]
    route: str = getattr(request.scope.get("route"), "path", "")
    if (what := CALLS.get((request.method, route))) is not None:
        told.call = what
        request.scope[CALL].fate.groups = (_within(request)[1],) if route.startswith(OF_GROUP) else ()
    return told.call


async def _made(operations: Permitted, published: Published) -> Response:
    size_bytes = sum(ITEM_BYTES + len(key.name) for key in (*published.changed, *published.unchanged))
    headers = _told_headers(operations, published.revision)
    return await run_in_thread(size_bytes, lambda: JsonAnswer(published_json(published), headers=headers))


def _told(operations: Permitted, content: Any, revision: int | None = None) -> Response:
    revision = content.get("revision") if revision is None and isinstance(content, dict) else revision
    return JsonAnswer(content, headers=_told_headers(operations, revision))


async def _told_aside(
    operations: Permitted, size_bytes: int, content: Callable[[], Any], revision: int | None = None
) -> Response:
    """Answer with content that is made, and written, on a thread if it is large."""
    headers = _told_headers(operations, revision)
    return await run_in_thread(size_bytes, lambda: JsonAnswer(content(), headers=headers))


def _differences_json(found: list[ResourceDifference], *, secrets: bool) -> dict[str, Any]:
    return {"differences": [difference_json(each, secrets=secrets) for each in found]}


def _told_headers(operations: Permitted, revision: int | None) -> dict[str, str]:
    headers = {"x-xds-epoch": header_value(operations.epoch)} | ({} if revision is None else _etag(revision))
    if operations.stale_because:
        headers["x-xds-stale"] = "true"
    return headers


class _Rest:
    def __init__(self, operations: Operations, admission: Admission, body_bytes_max: int, hits: LimitHits) -> None:
        self._permit = partial(_permitted, operations, admission)
        self._hits = hits
        self._body_bytes_max = body_bytes_max
        self._encoded = EncodedChanges(_event)

    async def _short(self, model: type[bodies.B], request: Request) -> bodies.B:
        """Return what a body with a few fields says. Raises BodyTooLargeError above ``SHORT_BODY_BYTES_MAX``."""
        data, media_type = await self._body(request, bytes_max=SHORT_BODY_BYTES_MAX), _media_type(request)
        return await read_in_thread(len(data), lambda: bodies.read_body(model, bodies.document_of(data, media_type)))

    async def _body(self, request: Request, *, bytes_max: int | None = None) -> bytes:
        most = self._body_bytes_max if bytes_max is None else min(bytes_max, self._body_bytes_max)
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                self._hits.add("body")
                raise BodyTooLargeError(f"the body has more than the {most:,} bytes allowed")
            parts.append(part)
        return b"".join(parts)

    # --- Changes -----------------------------------------------------------------------------------------------------

    def add_changes(self, app: FastAPI) -> None:
        @app.post("/v1/groups/{group}/changesets", **BODIES["changeset"])
        async def apply_changeset(group: str, request: Request, asks: Asks) -> Response:
            """Set and remove resources: all of it, or none."""
            operations = self._permit(request)
            group = _within(request)[1]
            data, media_type = await self._body(request), _media_type(request)
            change, version = await read_in_thread(len(data), lambda: bodies.changeset_change(group, data, media_type))
            return await _made(operations, await operations.publish(asks.of(change), version=version))

        @app.post("/v1/changesets", **BODIES["changesets"])
        async def apply_changesets(request: Request, asks: Asks) -> Response:
            """Change several groups, and parts of the rules, at one revision: all of it, or none."""
            operations = self._permit(request)
            data, media_type = await self._body(request), _media_type(request)
            known = frozenset(operations.group_names)
            change, version = await read_in_thread(len(data), lambda: bodies.groups_change(data, media_type, known))
            return await _made(operations, await operations.publish(asks.of(change), version=version))

        @app.put("/v1/groups/{group}/snapshot", **BODIES["snapshot"])
        async def replace_snapshot(group: str, request: Request, asks: Asks) -> Response:
            """Make a group have these resources and no others."""
            operations = self._permit(request)
            group = _within(request)[1]
            data, media_type = await self._body(request), _media_type(request)
            change, version = await read_in_thread(len(data), lambda: bodies.snapshot_change(group, data, media_type))
            return await _made(operations, await operations.publish(asks.of(change), version=version))

        @app.put("/v1/groups/{group}/resources/{type}/{name:path}", **BODIES["resource"])
        async def put_resource(
            request: Request, asks: Asks, existing_groups_only: ExistingGroupsOnly = False
        ) -> Response:
            """Set one resource, in a new group if there is none of the name."""
            operations = self._permit(request)
            _, group, _, word, name = _five(_within(request))
            type_url = bodies.known_type(word)
            data, written = await self._body(request), request.headers.get("content-type", "")
            resource = await read_in_thread(len(data), lambda: bodies.resource_of(type_url, name, group, data, written))
            change = Change(upserts={group: (resource,)}, creates_groups=not existing_groups_only)
            return await _made(operations, await operations.publish(asks.of(change)))

        @app.delete("/v1/groups/{group}/resources/{type}/{name:path}", **NAMES)
        async def delete_resource(request: Request, asks: Asks) -> Response:
            """Remove one resource; that it is not there is no error."""
            operations = self._permit(request)
            _, group, _, word, name = _five(_within(request))
            change = Change(removals={group: ((bodies.known_type(word), canonical(name)),)})
            return await _made(operations, await operations.publish(asks.of(change)))

        @app.post("/v1/groups/{group}/rollback", **BODIES["rollback"])
        async def roll_back(group: str, request: Request, asks: Asks) -> Response:
            """Make a group as it was at a revision, at a new one."""
            operations = self._permit(request)
            group = _within(request)[1]
            body = await self._short(bodies.RollbackBody, request)
            like = asks.of(bodies.about(body))
            return await _made(operations, await operations.rollback(group, body.to, like))

    # --- Reading -----------------------------------------------------------------------------------------------------

    def add_reading(self, app: FastAPI) -> None:
        @app.get("/v1/groups/{group}/snapshot")
        async def read_snapshot(
            group: str,
            request: Request,
            revision: Revision = None,
            type: Annotated[str | None, Query(description="Only of this type.")] = None,  # noqa: A002
            redact: Redact = True,
        ) -> Response:
            """Return all that a group has itself, as JSON, or as the Accept header has it: YAML, or protobuf."""
            operations = self._permit(request)
            group = _within(request)[1]
            type_url = None if type is None else bodies.known_type(type)
            found = await operations.snapshot(group, revision, type_url, secrets=not redact)
            accepted, epoch = request.headers.get("accept", ""), operations.epoch
            answer = partial(_snapshot_answer, group, found, accepted, epoch, secrets=not redact)
            return await run_in_thread(found.size_bytes, answer)

        @app.get("/v1/groups/{group}/resources")
        async def list_resources(
            group: str,
            request: Request,
            revision: Revision = None,
            type: Annotated[str | None, Query(description="Only of this type.")] = None,  # noqa: A002
            prefix: Annotated[str, Query(description="Only names that begin with this.")] = "",
            limit: Annotated[int, Query(ge=0, le=2**31 - 1, description="At most this many; 0: all.")] = 0,
        ) -> Response:
            """Return the names of the resources that a group has itself, without their content."""
            operations = self._permit(request)
            type_url = None if type is None else bodies.known_type(type)
            found = await operations.listed(_within(request)[1], revision, type_url, prefix=prefix, limit=limit)
            size_bytes = ITEM_BYTES * len(found.resources)
            return await _told_aside(operations, size_bytes, partial(list_json, found), found.changed_at)

        @app.get("/v1/groups/{group}/resources/{type}/{name:path}", **NAMES)
        async def read_resource(request: Request, revision: Revision = None, redact: Redact = True) -> Response:
            """Return one resource that a group has itself."""
            operations = self._permit(request)
            _, group, _, word, name = _five(_within(request))
            at = operations.group_revision(group) if revision is None else revision
            found: Resource = await operations.resource(
                group, bodies.known_type(word), name, revision, secrets=not redact
            )
            accepted = request.headers.get("accept", "")
            if PROTOBUF in accepted:
                body = resource_any(found, secrets=not redact)
                media_type = f'{PROTOBUF}; messageType="{body.type_url.removeprefix(TYPE_PREFIX)}"'
                return Response(body.value, headers=_etag(at), media_type=media_type)
            headers = {"x-xds-version": header_value(found.version), **_etag(at)}
            return _answer_in(accepted, resource_json(found, secrets=not redact), headers)

    # --- History -----------------------------------------------------------------------------------------------------

    def add_history(self, app: FastAPI) -> None:
        @app.get("/v1/groups/{group}/diff")
        async def diff(
            group: str,
            request: Request,
            before: Annotated[int, Query(alias="from", ge=0, le=2**63 - 1)],
            after: Annotated[int | None, Query(alias="to", ge=0, le=2**63 - 1)] = None,
            redact: Redact = True,
        ) -> Response:
            """Return what a group's resources differ in between two revisions, or since one."""
            operations = self._permit(request)
            found = await operations.diff(_within(request)[1], before, after, secrets=not redact)
            told = partial(_differences_json, found, secrets=not redact)
            return await _told_aside(operations, size_of(found, lambda each: each.size_bytes), told)

        @app.get("/v1/revisions")
        async def history(
            request: Request,
            limit: Annotated[int, Query(ge=1, le=HISTORY_MAX)] = 100,
            before: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
            id: Annotated[str | None, Query(description="Only the change with that id.")] = None,  # noqa: A002
            group: Annotated[str, Query(description="Only changes of this group's own resources.")] = "",
        ) -> Response:
            """Return the changes that are kept, newest first; or whether the change with an id is one of them."""
            operations = self._permit(request)
            if id is not None:
                made = await operations.find(id)
                return _told(operations, {"revisions": [] if made is None else [{"revision": made, "id": id}]})
            found = await operations.history(limit=limit, before=before, group=group)
            return _told(operations, {"revisions": [summary_json(summary) for summary in found]}, operations.revision)

        @app.get("/v1/revisions/{revision}")
        async def read_revision(
            revision: Annotated[int, PathParameter(ge=0, le=2**63 - 1)], request: Request, redact: Redact = True
        ) -> Response:
            """Return one change of the history: every resource, and the rules, before and after it."""
            operations = self._permit(request)
            found = await operations.show(revision, secrets=not redact)
            told = partial(details_json, found, secrets=not redact)
            return await _told_aside(operations, found.size_bytes, told, found.summary.revision)

        @app.get("/v1/watch", response_class=StreamingResponse)
        async def watch(
            request: Request,
            after: Annotated[int, Query(alias="from", ge=0, le=2**63 - 1, description="Begin after it.")],
            last_event_id: Annotated[str | None, Header()] = None,
        ) -> Response:
            """Stream every change after a revision, in order and without end, as server-sent events."""
            operations = self._permit(request)
            if last_event_id and last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 20:
                after = max(after, int(last_event_id))
            await operations.must_be_kept(after)
            return StreamingResponse(_events(operations, after, self._encoded), media_type=EVENT_STREAM)

    # --- Routing -----------------------------------------------------------------------------------------------------

    def add_routing(self, app: FastAPI) -> None:
        @app.get("/v1/groups/{group}/route")
        async def find_route(
            group: str,
            request: Request,
            url: Annotated[str, Query(description="http, https, grpc, grpcs; tcp and tls without HTTP.")] = "",
            method: Annotated[str, Query(description="GET by default, POST for gRPC.")] = "",
            header: Annotated[list[str], Query(description="name: value; several times for several.")] = [],  # noqa: B006
            listener: Annotated[str, Query(description="Its name; by default the one at the URL's port.")] = "",
            address: Annotated[str, Query(description="The connection's destination IP.")] = "",
            source: Annotated[str, Query(description="The client's IP, or IP:PORT.")] = "",
            revision: Revision = None,
        ) -> Response:
            """Return which way a request would take through the resources that a group's nodes see."""
            operations = self._permit(request)
            group = _within(request)[1]
            asked = read_request(url, method=method, headers=header, listener=listener, address=address, source=source)
            at, answer = await operations.route(group, asked, revision)
            return _told(operations, {"group": group, "revision": at, **answer_json(answer)})

    # --- Convergence -------------------------------------------------------------------------------------------------

    def add_convergence(self, app: FastAPI) -> None:
        @app.get("/v1/revisions/{revision}/convergence")
        async def read_convergence(
            request: Request,
            revision: Annotated[int, PathParameter(ge=0, le=2**63 - 1)],
            group: str | None = None,
            quorum: Annotated[float, Query(ge=0, le=1, description="The share of the nodes that is enough.")] = 1.0,
            rejected_max: Annotated[int, Query(ge=0, le=2**31 - 1, description="Nodes that may reject it.")] = 0,
            wait_s: Annotated[float, Query(ge=0, le=WAIT_S_MAX, description="Answer once it is decided.")] = 0.0,
            of: Annotated[str, Query(description="Which nodes count: known or connected ones.")] = KNOWN,
        ) -> Response:
            """Return how many nodes have accepted a revision, as server-sent events if they are accepted."""
            operations = self._permit(request)
            goal = Goal(revision=revision, group=group, quorum=quorum, rejected_max=rejected_max, of=of)
            if EVENT_STREAM in request.headers.get("accept", ""):
                return StreamingResponse(_convergence_events(operations, goal, wait_s), media_type=EVENT_STREAM)
            async for found in operations.converge(goal, wait_s):
                last = found
            return _told(operations, convergence_json(last), operations.revision)

    # --- Groups ------------------------------------------------------------------------------------------------------

    def add_groups(self, app: FastAPI) -> None:
        @app.get("/v1/groups")
        async def list_groups(request: Request) -> Response:
            """Return all groups, and the rules by which nodes belong to them."""
            operations = self._permit(request)
            groups = [_group_json(each) for each in operations.groups()]
            return _told(
                operations,
                {"revision": operations.revision, "groups": groups, "rules": groups_json(operations.table)},
                operations.group_revision(RULES),
            )

        @app.put("/v1/groups", **BODIES["rules"])
        async def put_rules(request: Request, asks: Asks) -> Response:
            """Replace the rules, and what extends what; written as in groups.yaml."""
            operations = self._permit(request)
            data, media_type, known = await self._body(request), _media_type(request), frozenset(operations.group_names)
            rules = await read_in_thread(len(data), lambda: rules_of(bodies.document_of(data, media_type), known))
            return await _made(operations, await operations.edit_rules(rules, asks.of(Change())))

        @app.patch("/v1/groups", **BODIES["rules_update"])
        async def update_rules(request: Request, asks: Asks) -> Response:
            """Replace those parts of the rules that are given; add_external is added to what is external already."""
            operations = self._permit(request)
            data, media_type, known = await self._body(request), _media_type(request), frozenset(operations.group_names)
            rules = await read_in_thread(
                len(data), lambda: rules_update_of(bodies.document_of(data, media_type), known)
            )
            return await _made(operations, await operations.edit_rules(rules, asks.of(Change())))

        @app.get("/v1/groups/{group}")
        async def read_group(group: str, request: Request) -> Response:
            """Return one group."""
            operations = self._permit(request)
            return _told(operations, _group_json(operations.group(_within(request)[1])))

        @app.put("/v1/groups/{group}", **BODIES["group"])
        async def put_group(group: str, request: Request, asks: Asks) -> Response:
            """Make a group, or have it extend another one."""
            operations = self._permit(request)
            group = _within(request)[1]
            body = await self._short(bodies.GroupBody, request)
            like = asks.of(bodies.about(body))
            return await _made(operations, await operations.put_group(group, body.extends, like))

        @app.delete("/v1/groups/{group}")
        async def delete_group(group: str, request: Request, asks: Asks) -> Response:
            """Remove a group and all it has."""
            operations = self._permit(request)
            return await _made(operations, await operations.delete_group(_within(request)[1], asks.of(Change())))

    # --- Nodes -------------------------------------------------------------------------------------------------------

    def add_nodes(self, app: FastAPI) -> None:
        @app.get("/v1/status")
        async def read_status(request: Request) -> Response:
            """Return how the fleet stands: each group's nodes by state, and the server's parts."""
            operations = self._permit(request)
            return _told(operations, status_json(await operations.status()), operations.revision)

        @app.get("/v1/nodes")
        async def list_nodes(
            request: Request,
            group: str | None = None,
            state: NodeState | None = None,
            search: Annotated[str, Query(max_length=200, description="In the id, cluster, address, version, …")] = "",
            sort: Sort = Sort.ID,
            limit: Annotated[int, Query(ge=1, le=NODES_MAX)] = 100,
            cursor: Annotated[str, Query(description="`next` of the page before.")] = "",
            of: Annotated[Of, Query(description="known: also nodes that are gone.")] = "connected",
            types: Annotated[bool, Query(description="With how far each type is.")] = True,
        ) -> Response:
            """Return how far nodes are, in pages: an entry for each of their connections."""
            operations = self._permit(request)
            query = NodesQuery(
                group=group,
                state=state,
                search=search,
                known=of == "known",
                sort=sort,
                after=after_cursor(sort, cursor),
                limit=limit,
                types=types,
            )
            found = await operations.nodes(query)
            return _told(operations, nodes_json(found, found.after(query)))

        self._add_node(app)

    def _add_node(self, app: FastAPI) -> None:
        @app.get("/v1/nodes/{id:path}/resources")
        async def read_node_resources(
            id: str,  # noqa: A002
            request: Request,
            type: Annotated[str | None, Query(description="Only of this type.")] = None,  # noqa: A002
        ) -> Response:
            """Return each resource of a node: the version sent, accepted and wanted, and what a change waits for."""
            if (node_id := _node_of(request)) is None:
                return await read_node(id, request)
            operations = self._permit(request)
            query = InspectQuery(id=node_id, type_url=bodies.known_type(type) if type else "")
            return _told(operations, resources_of_node_json(await operations.inspect(query), node_id))

        @app.get("/v1/nodes/{id:path}/diff")
        async def diff_node(
            id: str,  # noqa: A002
            request: Request,
            type: Annotated[str | None, Query(description="Only of this type.")] = None,  # noqa: A002
        ) -> Response:
            """Return the resources that a node has in another version than it should, field by field."""
            if (node_id := _node_of(request)) is None:
                return await read_node(id, request)
            operations = self._permit(request)
            query = InspectQuery(id=node_id, type_url=bodies.known_type(type) if type else "", differs=True)
            found = await operations.inspect(query)
            told = await run_in_thread(size_of_node(found), lambda: differences_of_node_json(found, node_id))
            return _told(operations, told)

        @app.get("/v1/nodes/{id:path}/explain")
        async def explain_node(
            id: str,  # noqa: A002
            request: Request,
            type: Annotated[str, Query(description="The type of the resource.")] = "",  # noqa: A002
            name: Annotated[str, Query(max_length=10_000, description="The name of the resource.")] = "",
        ) -> Response:
            """Return why a node has a resource, or not, step by step, each with what to do."""
            if (node_id := _node_of(request)) is None:
                return await read_node(id, request)
            operations = self._permit(request)
            found = await operations.explain(node_id, bodies.known_type(type), name)
            return _told(operations, explanations_json(found))

        @app.get("/v1/nodes/{id:path}")
        async def read_node(id: str, request: Request) -> Response:  # noqa: A002
            """Return how far one node is: an entry for each of its connections."""
            operations = self._permit(request)
            node_id = "/".join(_within(request)[1:])
            return _told(operations, nodes_json(await operations.node(node_id)))

    # --- Access ------------------------------------------------------------------------------------------------------

    def add_access(self, app: FastAPI) -> None:
        @app.post("/v1/rebalance", **BODIES["rebalance"])
        async def rebalance(request: Request) -> Response:
            """End a share of this replica's xDS connections, so that their clients connect anew, to any replica."""
            operations = self._permit(request)
            body = await self._short(bodies.RebalanceBody, request)
            return _told(operations, {"connections": await operations.rebalance(body.share, body.over_s)})

        @app.get("/v1/whoami")
        async def who_am_i(request: Request) -> Response:
            """Return who the caller is to this server, and what it may do."""
            operations = self._permit(request)
            return _told(operations, caller_json(operations.call.caller))

        @app.get("/v1/audit")
        async def list_audit(
            request: Request,
            who: Annotated[str, Query(max_length=1_000, description="Only of this identity; a glob.")] = "",
            group: Annotated[str, Query(max_length=200, description="Only about this group; a glob.")] = "",
            since: Annotated[int | None, Query(ge=0, le=10**11, description="Only since these Unix seconds.")] = None,
            outcome: Annotated[str, Query(max_length=20, description="Only with this outcome.")] = "",
            limit: Annotated[int, Query(ge=1, le=RECORDS_MAX)] = 100,
        ) -> Response:
            """Return records of this server's audit log, newest first. For admin only."""
            operations = self._permit(request)
            wanted = AuditFilter(who=who, group=group, since_s=since, outcome=outcome, limit=limit)
            return _told(operations, {"records": await operations.audit(wanted)})


def _node_of(request: Request) -> str | None:
    """Return the node of a path below it, None if the last segment is a part of the id: it has an escaped slash."""
    parts = _within(request)
    return "/".join(parts[1:-1]) if len(parts) > 2 else None


async def _events(operations: Permitted, after: int, encoded: EncodedChanges) -> AsyncIterator[str | bytes]:
    epoch = operations.epoch
    yield f": epoch {epoch}\n\n"
    try:
        async for page in operations.watch(after, values=False):
            parts: list[bytes] = []
            size_bytes = 0
            for stored in page:
                parts.append(await encoded.of(stored, epoch, is_whole=operations.sees_whole_changes))
                size_bytes += len(parts[-1])
                if size_bytes > EVENTS_BYTES or stored is page[-1]:  # each that is sent costs as much as encoding it
                    yield b"".join(parts)
                    parts, size_bytes = [], 0
    except EXPECTED as error:
        yield f"event: error\ndata: {json_text(error_answer(error).body)}\n\n"


async def _convergence_events(operations: Permitted, goal: Goal, wait_s: float) -> AsyncIterator[str]:
    try:
        async for found in operations.converge(goal, wait_s):
            yield f"event: convergence\ndata: {json_text(convergence_json(found))}\n\n"
    except EXPECTED as error:
        yield f"event: error\ndata: {json_text(error_answer(error).body)}\n\n"


def _group_json(group: GroupInfo) -> dict[str, Any]:
    resources = {short_name(type_url): count for type_url, count in group.resources.items()}
    return {
        "name": group.name,
        "extends": group.extends,
        "kept": group.kept,
        "resources": resources,
        "revision": group.revision,
    }


def _event(stored: Stored) -> bytes:
    return f"id: {stored.revision}\nevent: change\ndata: {json_text(event_json(stored))}\n\n".encode()


def _snapshot_answer(group: str, found: SnapshotAnswer, accepted: str, epoch: str, *, secrets: bool) -> Response:
    headers = _etag(found.changed_at)
    if PROTOBUF in accepted:
        message = snapshot_message(found, epoch, secrets=secrets)
        return Response(message.SerializeToString(), headers=headers, media_type=PROTOBUF)
    content = {
        "group": group,
        "revision": found.revision,
        "changed_at": found.changed_at,
        "epoch": epoch,
        "resources": resources_json(found.resources, secrets=secrets),
    }
    return _answer_in(accepted, content, headers)


def _answer_in(accepted: str, content: Any, headers: dict[str, str] | None = None) -> Response:
    """Return content as JSON, or as YAML if ``accepted`` names it."""
    if "yaml" in accepted:
        return Response(yaml_text(content), headers=headers, media_type=YAML)
    return JsonAnswer(content, headers=headers)


def _five(parts: list[str]) -> tuple[str, str, str, str, str]:
    """Return the segments groups, GROUP, resources, TYPE, NAME; the name may contain unescaped slashes."""
    if len(parts) < 5 or not parts[4]:
        raise HTTPException(404, "write /v1/groups/GROUP/resources/TYPE/NAME")
    return parts[0], parts[1], parts[2], parts[3], "/".join(parts[4:])
