"""An Envoy xDS control plane: versioned snapshots streamed as delta xDS, in an order that never costs a request.

To embed it: ``async with ControlPlane(Settings(...)) as control_plane: control_plane.apply(upsert=[...])``.
"""

from typing import TYPE_CHECKING, Any

from xds.version import __version__

if TYPE_CHECKING:
    from xds.app import ControlPlane
    from xds.config import Settings
    from xds.model.changeset import Applied
    from xds.model.groups import GroupTable, Rule
    from xds.model.problem import ChangesetRejectedError, Problem

_HOME = {
    "Applied": "xds.model.changeset",
    "ChangesetRejectedError": "xds.model.problem",
    "ControlPlane": "xds.app",
    "GroupTable": "xds.model.groups",
    "Problem": "xds.model.problem",
    "Rule": "xds.model.groups",
    "Settings": "xds.config",
}

__all__ = [
    "Applied",
    "ChangesetRejectedError",
    "ControlPlane",
    "GroupTable",
    "Problem",
    "Rule",
    "Settings",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``xds --help`` does not load gRPC."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
