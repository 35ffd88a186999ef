"""Upgrades (``websocket``, …) and CONNECT: whether the route or the manager allows them, and with which filters."""

from collections.abc import Iterable, Sequence
from typing import Any

from xds.routing.answer import EndOfWayError, Outcome
from xds.routing.request import Request


def upgrade_of(request: Request) -> str:
    """Return what a normalized request asks to upgrade to, "" if it asks for nothing."""
    return "CONNECT" if request.method == "CONNECT" else request.header("upgrade") or ""


def filters_for(manager: Any, route: Any, request: Request) -> Sequence[Any]:
    """Return the HTTP filters of a request. Raises EndOfWayError if it asks for an upgrade that is not allowed.

    ``route`` is None if there is none. Only a route to clusters can allow an upgrade; what it says of a type counts
    more than what the manager says.
    """
    wanted = upgrade_of(request)
    if not wanted:
        return list(manager.http_filters)
    allowed = _allowed(route.route.upgrade_configs, wanted) if route is not None and route.HasField("route") else None
    of_manager = next((each for each in manager.upgrade_configs if each.upgrade_type.lower() == wanted.lower()), None)
    if allowed is None:
        allowed = of_manager is not None and _is_enabled(of_manager)
    if not allowed:
        what = f"neither the route nor the manager allows the upgrade to {wanted} (upgrade_configs)"
        raise EndOfWayError(Outcome(kind="error", what=what, status=403))
    return list(of_manager.filters if of_manager is not None and of_manager.filters else manager.http_filters)


def _allowed(configs: Iterable[Any], wanted: str) -> bool | None:
    return next((_is_enabled(each) for each in configs if each.upgrade_type.lower() == wanted.lower()), None)


def _is_enabled(config: Any) -> bool:
    return not config.HasField("enabled") or bool(config.enabled.value)
