"""What a call of the push API can end with. Unless it is OutcomeUnknownError, a change was then not made."""

from collections.abc import Iterable
from typing import Any, cast

import grpc

from xds._generated import snapshots_pb2 as pb
from xds.model.problem import Problem

NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed")
"""How gRPC's own text begins where a call found no connection to go out on."""


class ClientError(Exception):
    """The server did not do what was asked."""


class TokenError(ClientError):
    """The token can't be sent: it would go over the network in clear, or is no text that a header can carry."""


class RejectedError(ClientError):
    """The content is wrong; ``problems`` has all that is, as far as they fit into a gRPC header."""

    problems: tuple[Problem, ...]

    def __init__(self, message: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(message)
        self.problems = problems


class ConflictError(ClientError):
    """The server is at another revision than expected, or the id is that of another change.

    ``revision`` is where the server is, or what the other change made.
    """

    revision: int

    def __init__(self, message: str, revision: int) -> None:
        super().__init__(message)
        self.revision = revision


class NotFoundError(ClientError):
    """There is no such group, resource or revision, or the revision is no longer kept."""


class RefusedError(ClientError):
    """The caller may not do that: the token is missing or wrong, or a directory keeps what was to be changed."""


class TooLargeError(ClientError):
    """The change is larger than the server takes."""


class UnavailableError(ClientError):
    """The server, or its store, can't be reached."""


class OutcomeUnknownError(ClientError):
    """It can't be told whether the change was made: ask ``Client.find(id)``, or make it again with this ``id``."""

    id: str

    def __init__(self, message: str, change_id: str) -> None:
        super().__init__(message)
        self.id = change_id


def error_of(error: grpc.aio.AioRpcError, change_id: str = "") -> ClientError:
    """Return what a failed call means; ``change_id`` is that of the change that it was to make.

    A connection that is lost while the call waits ends with UNAVAILABLE too: whether the change was made is not known
    then, unless the server itself says (``xds-outcome: none``) that it was not.
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
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.FAILED_PRECONDITION:
            return RefusedError(details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooLargeError(details)
        case grpc.StatusCode.UNAVAILABLE if (
            not change_id or metadata.get("xds-outcome") == "none" or details.startswith(NEVER_SENT)
        ):
            return UnavailableError(details)
        case _ if change_id:
            return OutcomeUnknownError(f"{details} (id {change_id})", change_id)
        case _:
            return ClientError(details)


def problems_of(message: Any) -> tuple[Problem, ...]:
    """Return the problems of an ``api.v1.Problems``."""
    return tuple(
        Problem(what=each.what, hint=each.hint, group=each.group, resource=each.resource, field=each.field)
        for each in message.problems
    )
