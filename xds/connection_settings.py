"""Settings for connections: how many may be open, and how long a client may be silent."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Timeout = Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)]


class ConnectionSettings(BaseModel):
    """How many connections each port accepts, and how long a client may be silent.

    A port accepts fewer connections if the limit of open files (``ulimit -Hn``) requires it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    xds_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 100_000
    """Connections of the xDS port, per worker; at the limit, one without a stream is closed for a new one."""
    api_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 1_000
    """Connections of the gRPC push API; further ones are closed at once."""
    admin_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 1_000
    """Connections of the admin port; at the limit, the one that was silent longest is closed for a new one, or the one
    that reads slowest."""
    headers_timeout_s: Timeout = 5.0
    """Admin port: how long a client may take to send the headers of its first request, TLS included, and those of each
    further one from its first byte. Push API: how long until it speaks HTTP/2, TLS included."""
    unread_timeout_s: Timeout = 30.0
    """Admin port: a client that reads nothing of its response for this long is disconnected, or less than 16 KiB of one
    that is complete."""
    handshake_timeout_s: Timeout = 20.0
    """xDS port: how long a client may take to complete the HTTP/2 preface, TLS included."""
    idle_timeout_s: Timeout = 300.0
    """All ports: a connection without a stream or a request for this long is closed."""
    age_max_s: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 0.0
    """xDS port: about the age (a tenth more or less) at which a connection is closed, to balance replicas; 0: never."""
    age_grace_s: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 10.0
    """How long the end of an aged or moved connection waits for the answers to responses under way."""
