"""Reads Envoy's ``/config_dump``, and compares it with the resources that a group's nodes should have. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from xds.model.problem import ChangesetRejectedError
from xds.model.resource import Resource
from xds.model.types import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    SCOPED_ROUTE,
    SECRET,
    short_name,
)
from xds.schema.fields import Field, field_changes
from xds.schema.ingest import ingest
from xds.schema.scrub import hider, secrets_of, secrets_written
from xds.schema.show import redacted, to_json

Json = dict[str, Any]
REDACTED_TEXTS = frozenset({"[redacted]", "W3JlZGFjdGVkXQ=="})
"""The placeholder of a secret, as text and as bytes."""
STATES = ("same", "differs", "missing", "warming", "rejected", "unused", "elsewhere", "static", "unread")
WRONG = frozenset({"differs", "missing", "warming", "rejected", "unread"})
"""The states in which an Envoy does not have what it should have."""
Key = tuple[str, str]
"""The type and the name of a resource."""
NO_NACKS: Mapping[Key, str] = {}
WILDCARD = (CLUSTER, LISTENER)
"""The types that Envoy subscribes to as a whole; of the others, it has what these refer to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A resource in a dump: ``kind`` is ``active``, ``warming``, ``draining``, ``static`` or ``rejected``."""

    type_url: str
    name: str
    kind: str
    version: str = ""
    content: Json = field(default_factory=dict)
    error: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One resource: what Envoy has of it, and what it should have. ``state`` is one of ``STATES``."""

    type_url: str
    name: str
    state: str
    version: str = ""
    wanted_version: str = ""
    fields: tuple[Field, ...] = ()
    error: str = ""

    def as_json(self) -> Json:
        """Return the form that the command prints."""
        told = {"type": short_name(self.type_url), "name": self.name, "state": self.state}
        told |= {key: value for key in ("version", "wanted_version", "error") if (value := getattr(self, key))}
        return told | ({"fields": [each.as_json() for each in self.fields]} if self.fields else {})


_ITEMS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "ClustersConfigDump": (
        CLUSTER,
        (
            ("static_clusters", "cluster", "static"),
            ("dynamic_active_clusters", "cluster", "active"),
            ("dynamic_warming_clusters", "cluster", "warming"),
        ),
    ),
    "RoutesConfigDump": (
        ROUTE,
        (("static_route_configs", "route_config", "static"), ("dynamic_route_configs", "route_config", "active")),
    ),
    "EndpointsConfigDump": (
        ENDPOINTS,
        (
            ("static_endpoint_configs", "endpoint_config", "static"),
            ("dynamic_endpoint_configs", "endpoint_config", "active"),
        ),
    ),
    "SecretsConfigDump": (
        SECRET,
        (
            ("static_secrets", "secret", "static"),
            ("dynamic_active_secrets", "secret", "active"),
            ("dynamic_warming_secrets", "secret", "warming"),
        ),
    ),
    "EcdsConfigDump": (EXTENSION_CONFIG, (("ecds_filters", "ecds_filter", "active"),)),
}
"""The parts of a dump: the type of their resources, and the lists in them, with a resource's key and its kind."""


class NoDumpError(ValueError):
    """The JSON is no config dump."""


def read_dump(dump: Any) -> list[Held]:
    """Return the resources in the JSON of ``/config_dump``. Raises NoDumpError."""
    if not isinstance(dump, dict) or not isinstance(dump.get("configs"), list):
        raise NoDumpError("it has no list `configs`, so it is not what Envoy's /config_dump answers")
    found: list[Held] = []
    for part in dump["configs"]:
        kind = str(part.get("@type", "")).rpartition(".")[2] if isinstance(part, dict) else ""
        if kind in _ITEMS:
            type_url, lists = _ITEMS[kind]
            for key, content, state in lists:
                found += (_held(type_url, item, content, state) for item in _listed(part, key))
        elif kind == "ListenersConfigDump":
            found += _listeners(part)
        elif kind == "ScopedRoutesConfigDump":
            for item in _listed(part, "dynamic_scoped_route_configs"):
                scopes = _listed(item, "scoped_route_configs")
                found += (_held(SCOPED_ROUTE, item | {"scope": each}, "scope", "active") for each in scopes)
    return found


def _listed(part: Json, key: str) -> list[Json]:
    listed = part.get(key, [])
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _held(type_url: str, item: Json, key: str, kind: str, name: str = "") -> Held:
    content = item.get(key) if isinstance(item.get(key), dict) else {}
    assert isinstance(content, dict)
    if type_url == ENDPOINTS:
        _endpoints(content)  # raises NoDumpError
    error = item.get("error_state") if isinstance(item.get("error_state"), dict) else None
    details = "" if error is None else str(error.get("details", "it rejected an update"))
    failed = None if error is None else error.get("failed_configuration")
    return Held(
        type_url=type_url,
        name=name or str(content.get("cluster_name" if type_url == ENDPOINTS else "name", item.get("name", ""))),
        kind=kind,
        version=str(item.get("version_info", "")),
        content=content,
        error=_without_secrets(details, type_url, (content, failed)) if details else "",
        at="" if error is None else str(error.get("last_update_attempt", "")),
    )


def _without_secrets(text: str, type_url: str, about: Iterable[Any]) -> str:
    """Return what Envoy says of a resource without the secrets of its versions in the dump."""
    secrets: list[str] = []
    for content in about:
        secrets += secrets_written(content)
        if isinstance(content, dict):
            with suppress(ChangesetRejectedError):
                resource = ingest({"@type": type_url, **content}, allow_unknown_types=True, allow_redacted=True)
                secrets += secrets_of(resource)
    return hider(secrets)(text)


def _listeners(part: Json) -> Iterator[Held]:
    for item in _listed(part, "static_listeners"):
        yield _held(LISTENER, item, "listener", "static")
    for item in _listed(part, "dynamic_listeners"):
        name = str(item.get("name", ""))
        for key, kind in (("active_state", "active"), ("warming_state", "warming"), ("draining_state", "draining")):
            if isinstance(item.get(key), dict):
                yield _held(LISTENER, item[key], "listener", kind, name)
        if isinstance(item.get("error_state"), dict):
            yield _held(LISTENER, {"error_state": item["error_state"]}, "listener", "rejected", name)


def types_not_in(held: Iterable[Held], wanted: Mapping[Key, Resource]) -> list[str]:
    """Return the types of resources that Envoy should have and of which a dump shows none, so that none is compared."""
    shown = {each.type_url for each in held}
    return sorted({type_url for type_url, _ in _used(wanted)} - shown - set(WILDCARD))


def compare(
    held: Iterable[Held], wanted: Mapping[Key, Resource], nacks: Mapping[Key, str] = NO_NACKS
) -> list[Compared]:
    """Return every resource that Envoy has or should have, by type and name.

    ``nacks`` are the messages of its NACKs, by what it still rejects: a dump has no errors of routes and of clusters.
    """
    by_key: dict[Key, dict[str, Held]] = {}
    for each in held:
        by_key.setdefault((each.type_url, each.name), {})[each.kind] = each
    # What comes by a service of its own is compared only where Envoy shows it.
    shown = {type_url for type_url, _ in by_key}
    used = _used(wanted)
    found: list[Compared] = []
    for key in sorted(by_key.keys() | {key for key in wanted if key[0] in shown or key[0] in WILDCARD}):
        found += _compare(key, by_key.get(key, {}), wanted.get(key), is_used=key in used, nack=nacks.get(key, ""))
    return found


def _used(wanted: Mapping[Key, Resource]) -> set[Key]:
    """Return the keys of what an Envoy subscribes to: clusters and listeners, and what they refer to."""
    used = {key for key in wanted if key[0] in (*WILDCARD, SCOPED_ROUTE)}
    waiting = list(used)
    while waiting:
        resource = wanted.get(waiting.pop())
        for each in () if resource is None else resource.references:
            key = (each.type_url, each.name)
            if key not in used and key in wanted:
                used.add(key)
                waiting.append(key)
    return used


def _compare(
    key: Key, kinds: Mapping[str, Held], wanted: Resource | None, *, is_used: bool, nack: str
) -> Iterator[Compared]:
    type_url, name = key
    version = "" if wanted is None else wanted.version
    has = kinds.get("active") or kinds.get("warming")
    rejected = next((each for each in kinds.values() if each.error), None)
    if rejected is None and nack and (has is None or has.version != version):
        rejected = Held(type_url=type_url, name=name, kind="rejected", error=nack)
    if rejected is not None:
        fields = _differences(type_url, has.content, wanted)[0] if has is not None and wanted is not None else []
        yield Compared(
            type_url=type_url,
            name=name,
            state="rejected",
            version="" if has is None else has.version,
            wanted_version=version,
            fields=tuple(fields),
            error=f"{rejected.error} ({rejected.at})" if rejected.at else rejected.error,
        )
        return
    if has is None:
        if "static" in kinds:
            yield Compared(type_url=type_url, name=name, state="static")
        elif "draining" in kinds and wanted is None:
            yield Compared(type_url=type_url, name=name, state="elsewhere", error="it drains")
        elif wanted is not None:
            state = "missing" if is_used else "unused"
            yield Compared(type_url=type_url, name=name, state=state, wanted_version=version)
        return
    if wanted is None:
        yield Compared(type_url=type_url, name=name, state="elsewhere", version=has.version)
        return
    fields, error = _differences(type_url, has.content, wanted)
    state = "unread" if error else "differs" if fields else "same"
    if type_url == SECRET and state == "same" and has.version and has.version != version:
        state, error = "differs", "the versions differ; what a secret holds is not shown"
    if has.kind == "warming":
        state = "warming"
    yield Compared(
        type_url=type_url,
        name=name,
        state=state,
        version=has.version,
        wanted_version=version,
        fields=tuple(fields),
        error=error,
    )


def _differences(type_url: str, content: Json, wanted: Resource) -> tuple[list[Field], str]:
    """Return the fields in which what Envoy has differs from what it should have, secrets left out."""
    if type_url == ENDPOINTS:
        return field_changes(_endpoints(content), _endpoints(to_json(wanted))), ""
    try:
        has = ingest(content | {"@type": type_url}, allow_unknown_types=True, allow_redacted=True)
    except ChangesetRejectedError as error:
        return [], f"what Envoy has can't be read: {error.problems[0].what}"
    changes = field_changes(to_json(redacted(has)), to_json(redacted(wanted)))
    return [each for each in changes if not (_is_redacted(each.before) or _is_redacted(each.after))], ""


def _is_redacted(value: Any) -> bool:
    return isinstance(value, str) and value in REDACTED_TEXTS


def _endpoints(assignment: Json) -> Json:
    """Return an assignment by addresses. Envoy shows its hosts, not the message that it got: defaults are filled in.

    Raises NoDumpError.
    """
    found: Json = {}
    for locality in _objects(assignment, "endpoints"):
        named = _object(locality, "locality")
        place = "/".join(str(named.get(key, "")) for key in ("region", "zone", "sub_zone"))
        for each in _objects(locality, "lb_endpoints"):
            address = _object(_object(each, "endpoint"), "address")
            socket = _object(address, "socket_address")
            where = f"{socket.get('address')}:{socket.get('port_value', 0)}" if socket else str(address)
            found[where] = {
                "locality": place.rstrip("/"),
                "priority": locality.get("priority", 0),
                "weight": each.get("load_balancing_weight", 1),
            }
    return found


def _object(part: Json, key: str) -> Json:
    """Return an object in a part of a dump, an empty one if there is none. Raises NoDumpError for something else."""
    found = part.get(key, {})
    if not isinstance(found, dict):
        raise NoDumpError(f"`{key}` is no object")
    return found


def _objects(part: Json, key: str) -> list[Json]:
    """Return a list of objects in a part of a dump, as ``_object`` does."""
    found = part.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise NoDumpError(f"`{key}` is no list of objects")
    return found
