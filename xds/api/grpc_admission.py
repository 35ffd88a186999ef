"""Admission of gRPC calls by their headers, before any of their message is read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import grpc
import structlog
from grpc import aio

from xds.access.errors import ForbiddenError, UnauthenticatedError
from xds.api.admission import Admission, Call
from xds.api.call_turns import turn_to_begin
from xds.api.operations import Operations
from xds.api.outcomes import FAILED, GONE, NOBODY, OK, UNKNOWN_CALL, grpc_outcome, role_of
from xds.api.permitted import Permitted
from xds.transport.grpcio_clients import address_text, close_soon
from xds.transport.grpcio_tls import certificates_of

log = structlog.get_logger("xds")
REQUEST_ID = "x-request-id"
FAULT = grpc.StatusCode.INTERNAL, "internal error"


class RefusedCallError(Exception):
    """A call is refused by its headers: what it is to be aborted with."""

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.refusal = status, text, nothing_made_after(0)


class GrpcAdmission(aio.ServerInterceptor):
    """Gives admitted calls their operations, and refuses others without reading their message.

    grpc.aio reads the message of a unary call before it runs its handler. So all handlers are those of streams, which
    read on demand: what a refused call sent stays within HTTP/2's window of 64 KiB, which the server does not widen
    (``grpc.http2.bdp_probe`` 0: gRPC would widen it to megabytes, also for messages that are never read).
    """

    def __init__(self, operations: Operations, admission: Admission) -> None:
        self._operations = operations
        self._admission = admission
        self._roles: dict[Any, str] = {}
        """The role of the caller of each open call, by its context."""
        self._unknown: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(self._refuse_unknown)

    def operations(self, what: str, context: Any) -> Permitted:
        """Return the operations for the caller of a call. Raises RefusedCallError."""
        try:
            call = self._admit(what, context)
            self._admission.must_be_permitted(call)
        except UnauthenticatedError as error:
            raise RefusedCallError(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        except ForbiddenError as error:
            raise RefusedCallError(grpc.StatusCode.PERMISSION_DENIED, str(error)) from None
        return Permitted(self._operations, self._admission, call)

    def recording_unmade(self, operations: Permitted) -> "AbstractContextManager[None]":
        """Record a call that changes nothing because of an error that is raised inside."""
        return self._admission.recording_unmade(operations.call)

    def lapse_of(self, operations: Permitted) -> "AbstractContextManager[asyncio.Future[None]]":
        """Yield a future that gets an error once the credentials of a call are not what they were."""
        return self._admission.lapse_of(operations.call)

    def _admit(self, what: str, context: Any) -> Call:
        authorization = request_id = ""
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and not authorization and isinstance(value, str):
                authorization = value
            elif key == REQUEST_ID and isinstance(value, str):
                request_id = value
        try:
            call = self._admission.admit(
                what,
                authorization=authorization,
                certificates=certificates_of(context),
                peer=address_text(context.peer()),
                request_id=request_id,
            )
        except UnauthenticatedError as error:
            if error.ends_connection:
                close_soon([context.peer()])
            raise
        self._roles[context] = role_of(call.caller)
        return call

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a call; of a method that does not exist, one that tells it to known callers only."""
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
        if handler is None:
            return self._counted(UNKNOWN_CALL, self._unknown)
        return self._counted(handler_call_details.method.rpartition("/")[2], handler)

    def _counted(self, what: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return a handler that counts its call when it ends."""
        if handler.stream_unary is not None:
            answer = handler.stream_unary

            async def answering(requests: Any, context: Any) -> Any:
                try:
                    with self._counting(what, context):
                        await turn_to_begin(context.peer())
                        return await answer(requests, context)
                except aio.BaseError:  # an abort, or the client has left
                    raise
                except Exception as error:
                    _log_fault(error)
                return await context.abort(*FAULT)

            return grpc.stream_unary_rpc_method_handler(answering, response_serializer=handler.response_serializer)
        answers = handler.stream_stream

        async def streaming(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                with self._counting(what, context):
                    await turn_to_begin(context.peer())
                    async for each in answers(requests, context):
                        yield each
                return
            except aio.BaseError:  # an abort, or the client has left
                raise
            except Exception as error:
                _log_fault(error)
            await context.abort(*FAULT)

        return grpc.stream_stream_rpc_method_handler(streaming, response_serializer=handler.response_serializer)

    @contextmanager
    def _counting(self, what: str, context: Any) -> Iterator[None]:
        outcome = FAILED
        try:
            yield
            outcome = OK
        except aio.AbortError:
            outcome = grpc_outcome(context.code())
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = GONE
            raise
        finally:
            self._admission.measured.calls[what, self._roles.pop(context, NOBODY), outcome] += 1

    async def _refuse_unknown(self, _: Any, context: Any) -> AsyncIterator[Any]:
        try:
            self._admit("unknown method", context)
        except UnauthenticatedError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error), nothing_made_after(0))
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the push API has no such method", nothing_made_after(0))
        yield  # never: it is a stream of answers, as a handler of streams has to be


def _log_fault(error: Exception) -> None:
    """Log an error that no call expects; gRPC would tell its text to the caller."""
    log.error("a request failed by a bug in this server; please report it", exc_info=error)


def nothing_made_after(answered: int) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata of an ending stream, of which only the first ``answered`` messages were applied."""
    return ("xds-outcome", "none"), ("xds-answered", str(answered))
