"""Admission of gRPC calls by their headers, before any of their message is read."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
from grpc import aio

from xds.access.errors import ForbiddenError, UnauthenticatedError
from xds.api.admission import Admission, Call
from xds.api.operations import Operations
from xds.api.permitted import Permitted

REQUEST_ID = "x-request-id"


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
        certificates = context.auth_context().get("x509_pem_cert")
        return self._admission.admit(
            what,
            authorization=authorization,
            certificate=certificates[0] if certificates else None,
            peer=_peer(context.peer()),
            request_id=request_id,
        )

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a call; of a method that does not exist, one that tells it to known callers only."""
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
        return handler or self._unknown

    async def _refuse_unknown(self, _: Any, context: Any) -> None:
        try:
            self._admit("unknown method", context)
        except UnauthenticatedError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error), nothing_made_after(0))
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the push API has no such method", nothing_made_after(0))


def _peer(told: str) -> str:
    """Return gRPC's name of a peer (``ipv4:127.0.0.1:5000``, ``ipv6:%5B::1%5D:5000``) as HOST:PORT."""
    return told.partition(":")[2].replace("%5B", "").replace("%5D", "") or told


def nothing_made_after(answered: int) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata of an ending stream, of which only the first ``answered`` messages were applied."""
    return ("xds-outcome", "none"), ("xds-answered", str(answered))
