"""How the known resource types differ on the wire. It does not know streams; unknown types get ``GENERIC``.

Source: the xDS protocol page, "Resource types", "Knowing when a requested resource does not exist", "Eventual
consistency considerations"; and what Envoy 1.40 does, where that page leaves it open.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from xds.model import types


class Stage(IntEnum):
    """When a change of a type may go out, in make-before-break order. Types of stage FREE are never held."""

    MAKE = 0
    """Clusters: additions and updates first, removals last of all."""
    FREE = 1
    """Endpoints, secrets, runtimes and everything that nothing has to wait for."""
    LISTENERS = 2
    """Listeners: once every cluster of the snapshot is there."""
    ROUTES = 3
    """Routes, scopes, virtual hosts and extensions: after the listeners."""


class Missing(Enum):
    """What a delta client is told about a name that it subscribes to and that does not exist."""

    REMOVED = "at once, in removed_resources"
    SILENT = "nothing: Envoy would give up its fetch timeout and wait for ever"
    BODILESS = "a resource without a body, as VHDS answers an unknown host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One type's ways. ``full_state``: a SotW response carries all resources, and absence removes."""

    stage: Stage = Stage.FREE
    missing: Missing = Missing.REMOVED
    full_state: bool = False
    legacy_wildcard: bool = True
    """Whether a first request without names means all of the type."""
    keep_subscribed: bool = False
    """Whether a removal waits until the client unsubscribes by itself: Envoy answers 500 without the extension."""


GENERIC = Policy()

POLICIES: dict[str, Policy] = {
    types.CLUSTER: Policy(stage=Stage.MAKE, full_state=True),
    types.LISTENER: Policy(stage=Stage.LISTENERS, full_state=True),
    types.ROUTE: Policy(stage=Stage.ROUTES, missing=Missing.SILENT),
    types.SCOPED_ROUTE: Policy(stage=Stage.ROUTES, full_state=True),
    types.VIRTUAL_HOST: Policy(stage=Stage.ROUTES, missing=Missing.BODILESS, legacy_wildcard=False),
    types.EXTENSION_CONFIG: Policy(stage=Stage.ROUTES, missing=Missing.SILENT, keep_subscribed=True),
}


def policy_of(type_url: str) -> Policy:
    """Return the policy of a type."""
    return POLICIES.get(type_url, GENERIC)
