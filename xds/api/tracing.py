"""Traces of the push API's calls: where a call begins and ends. Who keeps traces implements ``Tracing``."""

from collections.abc import Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import grpc
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xds.api.answers import EXPECTED, error_answer

PATH_CHARACTERS_MAX = 200
CONTEXT_HEADERS = ("traceparent", "tracestate")
"""The headers of W3C's Trace Context, over REST and in gRPC's metadata."""


class OpenCall(Protocol):
    """A call that is traced."""

    def rename(self, name: str, attributes: Mapping[str, str | int]) -> None:
        """Set the name, and add attributes, once they are known."""

    def fail(self, description: str) -> None:
        """Note that the server failed."""


class Tracing(Protocol):
    """Traces calls, and the changes that they make."""

    def call(
        self, name: str, context: Mapping[str, str], attributes: Mapping[str, str | int]
    ) -> AbstractContextManager[OpenCall]:
        """Trace a call of a caller with a trace context, until the end of the block."""


class WithTraces:
    """Serves ``app``, a router, and traces each request. Names follow OpenTelemetry's conventions for HTTP servers."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"][:PATH_CHARACTERS_MAX],
            "url.scheme": scope.get("scheme", "http"),
        }
        with self._tracing.call(method, _context(scope), attributes) as call:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_answer(call, scope, message["status"])
                await send(message)

            await self._app(scope, receive, note)


def _context(scope: Scope) -> dict[str, str]:
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return {name: found[name] for name in CONTEXT_HEADERS if name in found}


def _note_answer(call: OpenCall, scope: Scope, status: int) -> None:
    route: BaseRoute | Any = scope.get("route")
    path = getattr(route, "path", "")
    attributes: dict[str, str | int] = {"http.response.status_code": status}
    if path:
        attributes["http.route"] = path
    call.rename(f"{scope['method']} {path}".strip(), attributes)
    if status >= 500:
        call.fail(f"status {status}")


async def traced(tracing: Tracing, service: str, method: str, context: Any, answer: Coroutine[Any, Any, Any]) -> Any:
    """Return the answer of a gRPC call, and trace it. Names follow OpenTelemetry's conventions for RPC."""
    metadata = context.invocation_metadata() or ()
    given = {key: value for key, value in metadata if key in CONTEXT_HEADERS and isinstance(value, str)}
    attributes: dict[str, str | int] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    failure: Exception | None = None
    with tracing.call(f"{service}/{method}", given, attributes) as call:
        try:
            answered = await answer
        except EXPECTED as error:
            refusal, failure = error_answer(error), error
            call.rename(f"{service}/{method}", {"rpc.grpc.status_code": grpc.StatusCode[refusal.grpc].value[0]})
            if refusal.http >= 500:
                call.fail(refusal.grpc)
        else:
            call.rename(f"{service}/{method}", {"rpc.grpc.status_code": 0})
    if failure is not None:
        raise failure
    return answered
