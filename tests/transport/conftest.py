from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from support import resources as r
from support.transports import KINDS, settings_on

from xds.embed import ControlPlane
from xds.model.identity import Peer
from xds.protocol.hub import Hub

Serving = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture(params=KINDS)
def transport(request: pytest.FixtureRequest) -> str:
    """The transport that serves: what both have to do is tested on both."""
    return request.param


@pytest.fixture
def serving(transport: str) -> Serving:
    """Serve from this process, by default a cluster and its endpoints: ``async with serving(reflection=True)``."""

    @asynccontextmanager
    async def serve(resources: list[r.Json] | None = None, **settings: Any) -> AsyncIterator[ControlPlane]:
        control_plane = ControlPlane(settings_on(transport, **settings))
        control_plane.replace({"default": [r.cluster("a"), r.assignment("a", 1)] if resources is None else resources})
        async with control_plane:
            yield control_plane

    return serve


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> list[Peer]:
    """The peers of all streams that are opened."""
    seen: list[Peer] = []
    real: Callable[..., Any] = Hub.open

    def opened(hub: Hub, *given: Any, peer: Peer, **named: Any) -> Any:
        seen.append(peer)
        return real(hub, *given, peer=peer, **named)

    monkeypatch.setattr(Hub, "open", opened)
    return seen
