"""Settings for what happens past capacity: how long new clients may wait, and how much memory is used."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024
Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class OverloadSettings(BaseModel):
    """What happens past capacity. Streams that are served stay; new ones wait, or are shed with UNAVAILABLE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    waiting_max: Annotated[int, Field(ge=1, le=2**31 - 1)] = 100_000
    """New clients that may wait for their first answer, per worker; further streams are shed."""
    wait_max_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 15.0
    """New streams are shed while a client has waited longer than this for its first answer; 0: no limit."""
    memory_bytes_max: Annotated[int, Field(ge=32 * MIB)] | None = None
    """Memory of the server, divided evenly among its processes. Default: the limit of the cgroup, as a whole."""
    slow_ratio: Ratio = 0.8
    """Share of the memory from which new clients get their first answers slowly."""
    slow_streams_per_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 20.0
    """How many new clients get their first answers per second and worker while memory is short."""
    shed_ratio: Ratio = 0.9
    """Share of the memory from which new streams are shed."""
    refuse_ratio: Ratio = 0.95
    """Share of the memory from which changes are refused, but for removals and for endpoints alone."""
    recovery_ratio: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.05
    """How far the memory must fall below one of these shares for its effect to end."""
    stall_ratio: Ratio = 0.2
    """Share of time that all processes of the cgroup stall for memory (PSI, 10 s), from which admission is slow."""
