from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from support import resources as r
from support.control_planes import app_of
from support.running import runs

from xds.embed import ControlPlane, Settings

Serving = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture
def serving() -> Serving:
    """Serve from two worker processes, and check that none is left: ``async with serving(csds=True)``."""

    @asynccontextmanager
    async def serve(
        groups: dict[str, list[r.Json]] | None = None, *, workers: int = 2, rules: Any = None, **settings: Any
    ) -> AsyncIterator[ControlPlane]:
        given = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "log": {"format": "json"}} | settings
        given["transport"] = {"workers": workers} | settings.get("transport", {})
        control_plane = ControlPlane(Settings.model_validate(given))
        control_plane.replace(groups if groups is not None else {"default": [r.static_cluster("a", 1)]}, rules=rules)
        pids: list[int] = []
        try:
            async with control_plane:
                pids = app_of(control_plane).worker_pids
                assert len(pids) == workers
                yield control_plane
                pids += app_of(control_plane).worker_pids
        finally:
            assert not [pid for pid in pids if runs(pid)]

    return serve
