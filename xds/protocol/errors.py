"""What ends a stream, with the gRPC status that says so. It does not know how a transport sends a status."""

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


class StreamRefusedError(Exception):
    """The peer asked for what it can't have; its stream ends with ``status`` and this message, others go on."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
