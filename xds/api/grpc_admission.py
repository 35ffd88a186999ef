"""Authorization of gRPC calls by their headers, before any of their message is read."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from xds.api.tokens import Token


class Admission(aio.ServerInterceptor):
    """Passes on the calls that have the token, and refuses others without reading their message.

    grpc.aio reads the message of a unary call before it runs its handler, but looks up the handler first. Refused calls
    get a handler that reads nothing: what they sent stays within HTTP/2's window of 64 KiB, which the server does not
    widen (``grpc.http2.bdp_probe`` 0: gRPC would widen it to megabytes, also for messages that are never read).
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        self._refusing: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a call: its own, or one that refuses it."""
        metadata = handler_call_details.invocation_metadata or ()
        shown = next((value for key, value in metadata if key == "authorization"), "")
        if self._token.admits(shown if isinstance(shown, str) else ""):
            handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
            return handler
        return self._refusing


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "show the token: authorization: Bearer TOKEN", nothing_made_after(0)
    )


def nothing_made_after(answered: int) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata of an ending stream, of which only the first ``answered`` messages were applied."""
    return ("xds-outcome", "none"), ("xds-answered", str(answered))
