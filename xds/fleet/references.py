"""Finds the names that a resource makes Envoy subscribe to: a cluster's endpoints, a listener's routes.

Field numbers are those of Envoy's API (``envoy.config.cluster.v3.Cluster`` and so on). Only the fields with these names
are read; all others are ignored.
"""

from xds.fleet.wire import fields, messages, text
from xds.model.types import CLUSTER, LISTENER, TYPE_PREFIX

_EDS = 3
_HTTP_CONNECTION_MANAGER = (
    TYPE_PREFIX + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
_PATH, _PATH_CONFIG_SOURCE = 1, 8


def references(type_url: str, body: bytes) -> tuple[str, ...]:
    """Return the names that a resource makes Envoy subscribe to, sorted; () for types without references.

    A cluster refers to an assignment, a listener to route configurations. Raises ValueError if the body is malformed.
    """
    if type_url == CLUSTER:
        return _assignment(body)
    if type_url == LISTENER:
        return tuple(sorted(_route_configurations(body)))
    return ()


def _assignment(cluster: bytes) -> tuple[str, ...]:
    name, service, is_eds, from_file = "", "", False, False
    for number, value in fields(cluster):
        if number == 1 and isinstance(value, bytes):
            name = value.decode()
        elif number == 2:
            is_eds = value == _EDS
        elif number == 3 and isinstance(value, bytes):
            service = text(value, 2)
            from_file = any(_is_file(source) for source in messages(value, 1))
    return (service or name,) if is_eds and not from_file else ()


def _is_file(config_source: bytes) -> bool:
    return any(number in (_PATH, _PATH_CONFIG_SOURCE) for number, _ in fields(config_source))


def _route_configurations(listener: bytes) -> set[str]:
    managers: list[bytes] = []
    for number, value in fields(listener):
        if not isinstance(value, bytes):
            continue
        if number in (3, 25):  # a filter chain, the default filter chain
            managers += [typed for filter_ in messages(value, 3) for typed in messages(filter_, 4)]
        elif number == 19:  # an API listener
            managers += messages(value, 1)
    return {
        route
        for typed in managers
        if text(typed, 1) == _HTTP_CONNECTION_MANAGER
        for manager in messages(typed, 2)
        for rds in messages(manager, 3)
        if not any(_is_file(source) for source in messages(rds, 1))
        if (route := text(rds, 2))
    }
