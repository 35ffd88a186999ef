"""What both transports need to admit clients by their tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from xds.identity.admission import Gate, RefusedTokenError
from xds.protocol.errors import Status, StreamRefusedError
from xds.transport.stream_expiry import StreamExpiry

OnRefusal = Callable[[str, RefusedTokenError], None]
"""Called with a client's address, and why its token was refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What a transport needs to admit clients by their tokens."""

    gate: Gate
    expiry: StreamExpiry
    on_refusal: OnRefusal


def refusal_of(error: RefusedTokenError) -> StreamRefusedError:
    """Return the status that answers a refused token."""
    return StreamRefusedError(Status.UNAVAILABLE if error.is_ours else Status.UNAUTHENTICATED, str(error))
