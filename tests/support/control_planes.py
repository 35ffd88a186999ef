"""Queries of a control plane that runs in the test's own process."""

from support.waiting import wait_until
from support.wire import DeltaClient
from xds.app import App
from xds.embed import ControlPlane
from xds.model.types import CLUSTER


def app_of(control_plane: ControlPlane) -> App:
    """Return the parts of a control plane: its streams, its catalog, its worker processes."""
    return control_plane._app


def port_of(control_plane: ControlPlane) -> int:
    """Return the port of a started control plane."""
    assert control_plane.address is not None
    return control_plane.address.port


def served(control_plane: ControlPlane) -> dict[str, str]:
    """Return name → version of the clusters served."""
    view = app_of(control_plane).catalog.snapshots["default"].view(CLUSTER)
    return {name: found.version for name in view if (found := view.get(name)) is not None}


async def wait_streams(control_plane: ControlPlane, count: int, *, timeout_s: float = 20.0) -> None:
    """Wait until the hub has ``count`` streams."""
    await wait_until(lambda: len(app_of(control_plane).hub.streams), equals=count, timeout_s=timeout_s)


async def is_served(client: DeltaClient) -> bool:
    """Return whether a client is sent the one cluster ``a``; fails if its stream ends."""
    async with client:
        await client.subscribe(CLUSTER)
        return (await client.take()).names == {"a"}
