"""Every test here runs with each client (grpcio, grpc-go, grpc-java) against each transport."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from support import resources as r
from support import toolchains
from support.native_clients import (
    ClientProcess,
    Clients,
    GrpcioClients,
    RemoteClients,
    ToolchainMissingError,
    build_go,
    build_java,
)
from support.native_dial import Dialer

from xds.embed import ControlPlane, Settings

TRANSPORTS = ("grpcio", "native")
LANGUAGES = ("grpcio", "go", "java")
DRAIN = {"timeout_s": 0.2}

Serving = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The transport that serves."""
    return request.param


@pytest.fixture
def serving(transport: str) -> Serving:
    """Serve from this process, by default a cluster and its endpoints: ``async with serving(transport={…})``."""

    @asynccontextmanager
    async def serve(resources: list[r.Json] | None = None, **settings: Any) -> AsyncIterator[ControlPlane]:
        more = settings.pop("transport", {})
        made = {"listen": "127.0.0.1:0", "admin": "off", "drain": DRAIN, "transport": {"kind": transport, **more}}
        control_plane = ControlPlane(Settings.model_validate(made | settings))
        control_plane.replace({"default": [r.cluster("a"), r.assignment("a", 1)] if resources is None else resources})
        async with control_plane:
            yield control_plane

    return serve


@pytest.fixture(scope="session", params=LANGUAGES)
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    """The clients that are served; one process of each language for the whole run."""
    if request.param == "grpcio":
        yield GrpcioClients()
        return
    try:
        argv = [str(build_go())] if request.param == "go" else ["java", "-jar", str(build_java())]
    except ToolchainMissingError as missing:
        toolchains.without(missing)
    with ClientProcess(request.param, argv) as process:
        yield RemoteClients(request.param, process)
    assert process.complaints == []


@pytest.fixture
async def dial(clients: Clients) -> AsyncIterator[Dialer]:
    """What makes clients, which are closed at the end of the test."""
    dialer = Dialer(clients)
    yield dialer
    await dialer.close()


@pytest.fixture(params=("delta", "sotw"))
def variant(request: pytest.FixtureRequest) -> str:
    """The protocol's variant."""
    return request.param
