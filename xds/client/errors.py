"""The errors of the push API's client. With any other than OutcomeUnknownError, a change was not made.

Pushed endpoints are the exception: if their stream breaks, unanswered ones may have been applied.
"""

from collections.abc import Iterable
from typing import Any, cast

import grpc
from grpc import aio

from xds._generated import snapshots_pb2 as pb
from xds.model.problem import Problem

NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed")
"""How gRPC's message begins if a call was never sent because there is no connection."""


class ClientError(Exception):
    """A call failed."""


class TokenError(ClientError):
    """The token can't be sent: it would be sent in clear, or is not valid in a header."""


class RejectedError(ClientError):
    """The content is invalid; ``problems`` has all problems that fit into a gRPC header."""

    problems: tuple[Problem, ...]

    def __init__(self, message: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(message)
        self.problems = problems


class ConflictError(ClientError):
    """The server is not at the expected revision, or the id is that of another change.

    ``revision`` is the server's revision, or that of the other change; 0 if the caller may not know that one.
    """

    revision: int

    def __init__(self, message: str, revision: int) -> None:
        super().__init__(message)
        self.revision = revision


class NotFoundError(ClientError):
    """There is no such group, resource or revision, or the revision is no longer in the history."""


class RefusedError(ClientError):
    """The call is not allowed: the token is wrong or missing, a right is missing, or a directory manages the group."""


class TooLargeError(ClientError):
    """The change exceeds the server's limits."""


class UnavailableError(ClientError):
    """The server, or what it needs for the answer, can't be reached. ``is_answered``: the server itself says so."""

    is_answered: bool

    def __init__(self, message: str, *, is_answered: bool = False) -> None:
        super().__init__(message)
        self.is_answered = is_answered


class OutcomeUnknownError(ClientError):
    """The change may or may not have been made: call ``Client.find(id)``, or make it again with this ``id``.

    Endpoints pushed on a stream have no id: push them again.
    """

    id: str

    def __init__(self, message: str, change_id: str) -> None:
        super().__init__(message)
        self.id = change_id


def error_of(error: aio.AioRpcError, change_id: str = "") -> ClientError:
    """Return the client's error for a failed call; ``change_id`` is the id of its change, if any.

    UNAVAILABLE is also the status of a lost connection. The outcome of a change is then unknown, unless the server
    sent ``xds-outcome: none``, which says that nothing was changed.
    """
    details = error.details() or error.code().name
    pairs = cast("Iterable[tuple[str, Any]]", error.trailing_metadata() or ())
    metadata: dict[str, Any] = dict(pairs)
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return RejectedError(details, problems_of(pb.Problems.FromString(metadata.get("xds-problems-bin", b""))))
        case grpc.StatusCode.ABORTED:
            return ConflictError(details, int(metadata.get("xds-revision", 0)))
        case grpc.StatusCode.NOT_FOUND | grpc.StatusCode.OUT_OF_RANGE:
            return NotFoundError(details)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.FAILED_PRECONDITION:
            return RefusedError(details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooLargeError(details)
        case grpc.StatusCode.UNAVAILABLE if (
            not change_id or metadata.get("xds-outcome") == "none" or details.startswith(NEVER_SENT)
        ):
            return UnavailableError(details, is_answered=metadata.get("xds-outcome") == "none")
        case _ if change_id:
            return OutcomeUnknownError(f"{details} (id {change_id})", change_id)
        case _:
            return ClientError(details)


def maybe_made(error: Exception, *, sent: int, answered: int) -> int:
    """Return n: of the ``sent``, unanswered messages of a stream that ended, the first n may have been applied.

    ``answered`` came before them. The server says in ``xds-answered`` how many it answered, if it made none of the
    later ones. It may be more than arrived: gRPC drops answers that were not read when an error ends the call.
    """
    if not isinstance(error, aio.AioRpcError):
        return sent
    if (error.details() or "").startswith(NEVER_SENT):
        return 0
    metadata = dict(cast("Iterable[tuple[str, Any]]", error.trailing_metadata() or ()))
    if (total := str(metadata.get("xds-answered", ""))).isdecimal():  # a proxy may have written anything
        return min(sent, max(0, int(total) - answered))
    is_refused = not isinstance(error_of(error, "any"), OutcomeUnknownError)  # by gRPC itself, as what is too large
    return 0 if is_refused and sent == 1 else sent


def problems_of(message: Any) -> tuple[Problem, ...]:
    """Return the problems of an ``api.v1.Problems``."""
    return tuple(
        Problem(what=each.what, hint=each.hint, group=each.group, resource=each.resource, field=each.field)
        for each in message.problems
    )
