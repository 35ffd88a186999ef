"""The error that ends a stream, and its gRPC status."""

from enum import IntEnum


class Status(IntEnum):
    """The gRPC status codes that this server answers with."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class StreamRefusedError(Exception):
    """The peer's stream ends with ``status`` and ``message``: it sent an invalid request, or a limit is reached.

    ``limit`` names that limit (``xds/limits.py``). ``node_id`` is the id that the request claims, if it was read that
    far. Other streams go on.
    """

    def __init__(self, status: Status, message: str, *, limit: str = "", node_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.limit = limit
        self.node_id = node_id
