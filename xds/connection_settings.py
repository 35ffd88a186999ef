"""The settings of connections: how many may be open, and how long a client may say nothing."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Timeout = Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)]


class ConnectionSettings(BaseModel):
    """How many connections each port takes, and how long a client may be silent.

    A port has fewer connections where the limit of open files does not allow so many (``ulimit -Hn``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    xds_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 100_000
    """Connections of the xDS port, in each worker; above it, one that has no stream is closed for a new one."""
    api_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 1_000
    """Connections of the gRPC push API; further ones are closed at once."""
    admin_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 1_000
    """Connections of the admin port; above it, the one that is silent longest is closed for a new one."""
    headers_timeout_s: Timeout = 5.0
    """Admin port and push API: within so long a client sends the headers of its (next) request, TLS included."""
    unread_timeout_s: Timeout = 30.0
    """Admin port: a client that reads nothing of what it asked for is cut off after so long."""
    handshake_timeout_s: Timeout = 20.0
    """xDS port: within so long a client has shown that it speaks HTTP/2, TLS included."""
    idle_timeout_s: Timeout = 300.0
    """xDS port and push API: a connection without a stream is closed after so long."""
