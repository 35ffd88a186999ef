"""Tokens of clients on the grpcio transport."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc import aio

from xds.identity.admission import RefusedTokenError, TokenAdmission
from xds.protocol.policy import METHODS
from xds.transport.grpcio_clients import address_text
from xds.transport.tokens import Tokens, refusal_of

HEALTH = "/grpc.health.v1.Health/"
_XDS = frozenset(method.path for method in METHODS)


def authorization_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the ``authorization`` metadata of a call; several values are joined, as gRPC does it."""
    return ",".join(str(value) for key, value in metadata or () if key == "authorization")


async def admitted(tokens: Tokens, context: Any) -> TokenAdmission:
    """Return the admission of a call's client. Raises StreamRefusedError."""
    try:
        return await tokens.gate.admitted(authorization_of(context.invocation_metadata()))
    except RefusedTokenError as error:
        tokens.on_refusal(address_text(context.peer()), error)
        raise refusal_of(error) from None


class TokenCheck(aio.ServerInterceptor):
    """Refuses calls without a valid token, but those of health checks, and xDS streams, which check it themselves."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a call: its own, or one that refuses it without reading its messages."""
        path = handler_call_details.method
        if path not in _XDS and not path.startswith(HEALTH):
            try:
                await self._tokens.gate.admitted(authorization_of(handler_call_details.invocation_metadata))
            except RefusedTokenError as error:
                return self._refusing(error)
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
        return handler

    def _refusing(self, error: RefusedTokenError) -> "grpc.RpcMethodHandler[Any, Any]":
        refusal = refusal_of(error)
        code = next(each for each in grpc.StatusCode if each.value[0] == refusal.status.value)

        async def refuse(_: Any, context: Any) -> None:
            self._tokens.on_refusal(address_text(context.peer()), error)
            await context.abort(code, refusal.message)

        return grpc.stream_stream_rpc_method_handler(refuse)
