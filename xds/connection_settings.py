"""The settings of connections: how many may be open, and how long a client may say nothing."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Timeout = Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)]


class ConnectionSettings(BaseModel):
    """How many connections the admin port takes, and how long a client may be silent."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    admin_max: Annotated[int, Field(ge=32, le=2**31 - 1)] = 1_000
    """Connections of the admin port; above it, the one that is silent longest is closed for a new one."""
    headers_timeout_s: Timeout = 5.0
    """Admin port: within so long a client sends the headers of its (next) request, TLS included."""
    body_timeout_s: Timeout = 60.0
    """Admin port: within so long after its headers a request's body is complete."""
    unread_timeout_s: Timeout = 30.0
    """Admin port: a client that reads nothing of what it asked for is cut off after so long."""
