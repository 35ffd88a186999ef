from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from support import resources as r

from xds import ControlPlane, Settings

Serving = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@asynccontextmanager
async def _serving(resources: list[r.Json] | None = None, **settings: Any) -> AsyncIterator[ControlPlane]:
    made = Settings.model_validate({"listen": "127.0.0.1:0", "admin": "off", **settings})
    control_plane = ControlPlane(made)
    control_plane.replace({"default": [r.cluster("a"), r.assignment("a", 1)] if resources is None else resources})
    async with control_plane:
        yield control_plane


@pytest.fixture
def serving() -> Serving:
    """Serve from this process, by default a cluster and its endpoints: ``async with serving(reflection=True)``."""
    return _serving
