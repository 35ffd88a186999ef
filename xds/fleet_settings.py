"""Settings for what is remembered of the fleet: the nodes that were seen."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class FleetSettings(BaseModel):
    """The nodes that were seen: connected ones, and those that are gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forget_after_s: Annotated[float, Field(ge=0, le=366 * 86_400, allow_inf_nan=False)] = 3_600.0
    """How long a node that is gone is known; 0: not at all. What waits for all known nodes waits for those too."""
    nodes_max: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Known nodes; those that left first make room for new ones."""
    nodes_bytes_max: Annotated[int, Field(ge=MIB, le=16 * 1024 * MIB)] = 128 * MIB
    """Memory for the known nodes; the same."""
