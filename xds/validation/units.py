"""Units: each resource as a static bootstrap holds it, and the bootstrap around any set of units."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import RLock
from typing import Any

from xds.model.problem import Problem
from xds.model.resource import Resource
from xds.model.types import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    RUNTIME,
    SCOPED_ROUTE,
    SECRET,
    VIRTUAL_HOST,
    short_name,
)
from xds.schema.pool import Schema, load_schema
from xds.schema.scrub import hider_of
from xds.schema.semantics.filters import TERMINAL
from xds.validation.inline import Inliner, UnjudgeableError

Key = tuple[str, str]
"""Type URL and name of a resource."""

ORDER = (SECRET, ENDPOINTS, VIRTUAL_HOST, ROUTE, SCOPED_ROUTE, EXTENSION_CONFIG, CLUSTER, LISTENER)
"""The types that are judged: each before those into which it is inlined, so that a fault is told of the right one."""

HOLDER = "xds-validation"
"""Prefix of the names of what is made to hold a resource that nothing holds."""
_PREFIX = "type.googleapis.com/"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_UPSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_SDS = "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig"
_INTERNAL = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"


_ALL_OF_TYPE = ""
"""The name in a key that stands for all resources of a type."""


@dataclass(slots=True, eq=False)
class Unit:
    """One resource, ready to be judged. What Envoy gets of it is made when it is asked for."""

    resource: Resource
    clusters_named: frozenset[str] = frozenset()
    """Clusters that Envoy may ask for; they need not have content."""
    digest: bytes = b""
    is_made: bool = False
    clusters: list[Any] = field(default_factory=list)
    listeners: list[Any] = field(default_factory=list)
    secrets: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The resource's type and name."""
        return self.resource.type_url, self.resource.name

    def seal(self, salt: bytes) -> None:
        """Compute the digest of all that Envoy gets for this unit."""
        digest = blake2b(salt, digest_size=16)
        for part in (*self.clusters, *self.listeners, *(self.secrets[name] for name in sorted(self.secrets))):
            data = part.SerializeToString(deterministic=True)
            digest.update(b"%d:" % len(data))
            digest.update(data)
        self.digest = digest.digest()


@dataclass(frozen=True, slots=True)
class Seen:
    """What was made of a resource, and of what: while all of that is the same object, so is the result."""

    digest: bytes
    """Empty if there was nothing to judge."""
    clusters_named: frozenset[str]
    warnings: tuple[Problem, ...]
    salt: bytes
    depends_on: tuple[tuple[Key, object], ...]
    """What else was looked up, and what was found. The resource itself is none: it would be remembered for ever."""


Memory = MutableMapping[Resource, Seen]
"""What was made of the resources of one group, by resource."""


class Assembly:
    """Makes units and bootstraps of one group's resources. ``faulty``: resources to leave out of others.

    With a ``memory``, a resource is read only if it, or what is inlined into it, is new. Nothing may be faulty then.
    """

    def __init__(self, resources: Iterable[Resource], group: str = "", memory: Memory | None = None) -> None:
        self.schema: Schema = load_schema()
        self.group = group
        self.faulty: set[Key] = set()
        self.warnings: list[Problem] = []
        self._memory = memory
        self._resources: dict[str, dict[str, Resource]] = {}
        for each in resources:
            self._resources.setdefault(each.type_url, {})[each.name] = each
        self._sorted: dict[str, tuple[Resource, ...]] = {}
        self._rewritten: dict[Key, Any | None] = {}
        self._secrets_in: dict[Key, set[str]] = {}
        self._hide: Callable[[str], str] | None = None
        self._looked_up: set[Key] = set()
        """What the unit that is being made depends on so far."""
        self._looked_up_by: dict[Key, set[Key]] = {}
        self._lock = RLock()
        """Held while anything is made: the threads of a judge make what they need of the same assembly."""
        self.salt = b"".join(each.version.encode() for each in self.of_type(RUNTIME))
        """The runtime values, which are part of every bootstrap."""

    def hide(self, words: str) -> str:
        """Return what Envoy says of these resources without the secrets in them."""
        if self._hide is None:
            self._hide = hider_of(each for known in self._resources.values() for each in known.values())
        return self._hide(words)

    def of_type(self, type_url: str) -> tuple[Resource, ...]:
        """Return the resources of a type, by name."""
        found = self._sorted.get(type_url)
        if found is None:
            known = self._resources.get(type_url, {})
            found = self._sorted[type_url] = tuple(known[name] for name in sorted(known))
        return found

    def units(self, type_url: str, names: Collection[str] | None = None) -> Iterator[Unit]:
        """Yield the units of a type, or those with one of ``names``.

        Units of types before it in ``ORDER`` must have been judged.
        """
        for resource in self.of_type(type_url):
            if names is not None and resource.name not in names:
                continue
            seen = self._memory.get(resource) if self._memory is not None else None
            if seen is not None and self._is_the_same(seen):
                self.warnings += seen.warnings
                unit = Unit(resource, seen.clusters_named, seen.digest)
            else:
                unit = Unit(resource)
                seen = self._see(unit)
                if self._memory is not None:
                    self._memory[resource] = seen
            if unit.digest:
                yield unit

    def dependencies(self, type_url: str, names: Collection[str]) -> dict[str, set[str]]:
        """Return, by type, the names of what the named resources are judged with, and so may be faulty instead."""
        found: dict[str, set[str]] = {each: set() for each in ORDER}
        for resource in self.of_type(type_url):
            if resource.name not in names:
                continue
            for (other, name), _ in self._see(Unit(resource)).depends_on:
                if other in found:
                    found[other] |= {name} if name != _ALL_OF_TYPE else {each.name for each in self.of_type(other)}
        return found

    def _see(self, unit: Unit) -> Seen:
        """Make what Envoy gets of a new unit, and return what is to be remembered of it."""
        self._looked_up, warned = set(), len(self.warnings)
        if unit.resource.type_url not in (CLUSTER, ENDPOINTS, SECRET):
            unit.clusters_named = frozenset(self._clusters_named(unit.resource, set()))
        if self.make(unit):
            unit.seal(self.salt)
        return Seen(
            unit.digest,
            unit.clusters_named,
            tuple(self.warnings[warned:]),
            self.salt,
            tuple((key, self._look_up(key)) for key in self._looked_up if key != unit.key),
        )

    def _is_the_same(self, seen: Seen) -> bool:
        return seen.salt == self.salt and all(
            found is self._look_up(key) if key[1] != _ALL_OF_TYPE else found == self._look_up(key)
            for key, found in seen.depends_on
        )

    def _look_up(self, key: Key) -> object:
        type_url, name = key
        return self.of_type(type_url) if name == _ALL_OF_TYPE else self._resources.get(type_url, {}).get(name)

    def make(self, unit: Unit) -> bool:
        """Make what Envoy gets of a unit. Return whether there is anything to judge. Thread-safe."""
        with self._lock:
            return self._make(unit)

    def addresses(self, unit: Unit) -> list[bytes]:
        """Return the addresses of a listener, encoded, at which Envoy has no other listener."""
        if not unit.is_made:
            self.make(unit)
        found: list[bytes] = []
        for listener in unit.listeners:
            for address in (listener.address, *(each.address for each in listener.additional_addresses)):
                socket = address.socket_address
                is_taken = address.WhichOneof("address") == "socket_address" and socket.port_value
                if is_taken and not listener.HasField("api_listener"):
                    found.append(address.SerializeToString(deterministic=True))
        return found

    def _make(self, unit: Unit) -> bool:
        type_url, name = unit.key
        message = self._message(type_url, name)
        if message is None:
            return False
        for secret in sorted(self._secrets_in[type_url, name]):
            unit.secrets[secret] = self._message(SECRET, secret)
        unit.is_made = True
        mark = blake2b(name.encode(), digest_size=8).hexdigest()
        return _MAKERS[type_url](self, unit, message, f"{HOLDER}-{short_name(type_url)}-{mark}")

    def bootstrap(self, units: Iterable[Unit], stubs: Iterable[str]) -> bytes:
        """Return an encoded bootstrap with units, and clusters without content for other names."""
        made: Any = self.schema.message_class("envoy.config.bootstrap.v3.Bootstrap")()
        made.node.id, made.node.cluster = HOLDER, self.group or "default"
        made.admin.address.pipe.path = f"@{HOLDER}-admin"  # without an admin interface, Envoy crashes at a tap
        made.cluster_manager.local_cluster_name = HOLDER
        static = made.static_resources
        present: set[str] = set()
        secrets: dict[str, Any] = {}
        for unit in units:
            if not unit.is_made:
                self.make(unit)
            for cluster in unit.clusters:
                static.clusters.add().CopyFrom(cluster)
                present.add(cluster.name)
            for listener in unit.listeners:
                static.listeners.add().CopyFrom(listener)
            secrets |= unit.secrets
        for name in sorted({HOLDER, *stubs} - present):
            static.clusters.add(name=name)
        for name in sorted(secrets):
            static.secrets.add().CopyFrom(secrets[name])
        source = made.dynamic_resources.ads_config
        source.api_type, source.transport_api_version = 3, 2  # DELTA_GRPC, V3
        source.grpc_services.add().envoy_grpc.cluster_name = HOLDER
        self._add_runtime(made)
        extension = made.bootstrap_extensions.add(name=HOLDER)
        extension.typed_config.type_url = _PREFIX + _INTERNAL
        data: bytes = made.SerializeToString()
        return data

    def _add_runtime(self, bootstrap: Any) -> None:
        for resource in self.of_type(RUNTIME):
            message = self._message(RUNTIME, resource.name)
            if message is not None:
                layer = bootstrap.layered_runtime.layers.add(name=resource.name)
                layer.static_layer.CopyFrom(message.layer)

    def _clusters_named(self, resource: Resource, seen: set[Key]) -> set[str]:
        """Return the clusters that a resource refers to, or what it refers to."""
        found: set[str] = set()
        for each in resource.references:
            key = (each.type_url, each.name)
            if each.type_url == CLUSTER:
                found.add(each.name)
            elif key not in seen:
                seen.add(key)
                self._looked_up.add(key)
                other = self._resources.get(each.type_url, {}).get(each.name)
                if other is not None:
                    found |= self._clusters_named(other, seen)
        return found

    def problem(self, resource: Resource, what: str, field_path: str = "", hint: str = "") -> Problem:
        """Return a problem of a resource, with its place."""
        file, colon, line = resource.source.rpartition(":")
        known = bool(colon) and line.isdecimal()
        return Problem(
            what=what,
            hint=hint,
            file=file if known else resource.source,
            line=int(line) if known else 0,
            group=self.group,
            resource=f"{short_name(resource.type_url)}/{resource.name}",
            field=field_path,
        )

    def _message(self, type_url: str, name: str) -> Any | None:
        """Return the rewritten message of a resource; None if it is unknown, faulty or can't be judged."""
        key = (type_url, name)
        if key in self.faulty:
            return None
        with self._lock:
            if key not in self._rewritten:
                around, self._looked_up = self._looked_up, {key}
                resource = self._resources.get(type_url, {}).get(name)
                self._rewritten[key] = None if resource is None else self._rewrite(resource)
                self._looked_up_by[key], self._looked_up = self._looked_up, around
            self._looked_up |= self._looked_up_by[key]
            return self._rewritten[key]

    def _names(self, type_url: str) -> list[str]:
        self._looked_up.add((type_url, _ALL_OF_TYPE))
        return [each.name for each in self.of_type(type_url)]

    def _rewrite(self, resource: Resource) -> Any | None:
        full_name = resource.type_url.rpartition("/")[2]
        if not self.schema.has(full_name):
            return None
        packed: Any = self.schema.message_class("google.protobuf.Any").FromString(resource.body)
        inliner = Inliner(self.schema, self._message, self._names)
        message = inliner.read(full_name, packed.value)
        try:
            inliner.rewrite(message)
        except UnjudgeableError as error:
            self.warnings.append(self.problem(resource, f"was not judged by Envoy: {error}"))
            message = None
        self.warnings += [self.problem(resource, text, place) for place, text in inliner.warnings]
        self._secrets_in[resource.type_url, resource.name] = inliner.secrets
        return message

    # --- One maker per type; each returns whether there is anything to judge -----------------------------------------

    def _of_cluster(self, unit: Unit, message: Any, _: str) -> bool:
        eds = message.type == 3 and message.WhichOneof("cluster_discovery_type") == "type"
        if eds:
            assignment = self._message(ENDPOINTS, message.eds_cluster_config.service_name or message.name)
            if assignment is not None:
                copy: Any = self.schema.message_class(message.DESCRIPTOR.full_name)()
                copy.CopyFrom(message)
                message = copy
                message.type = 0  # STATIC
                message.ClearField("eds_cluster_config")
                message.load_assignment.CopyFrom(_without_leds(assignment))
        unit.clusters.append(message)
        return True

    def _of_endpoints(self, unit: Unit, message: Any, name: str) -> bool:
        cluster: Any = self.schema.message_class("envoy.config.cluster.v3.Cluster")(name=name)
        cluster.load_assignment.CopyFrom(_without_leds(message))
        unit.clusters.append(cluster)
        return True

    def _of_secret(self, unit: Unit, message: Any, name: str) -> bool:
        kind = message.WhichOneof("type")
        if kind not in ("tls_certificate", "validation_context"):
            return False  # Envoy reads the others where they are used
        context: Any = self.schema.message_class(_UPSTREAM_TLS)()
        if kind == "tls_certificate":
            context.common_tls_context.tls_certificate_sds_secret_configs.add(name=unit.resource.name)
        else:
            named = self.schema.message_class(_SDS)(name=unit.resource.name)
            context.common_tls_context.validation_context_sds_secret_config.CopyFrom(named)
        cluster: Any = self.schema.message_class("envoy.config.cluster.v3.Cluster")(name=name)
        socket = self.schema.message_class("envoy.config.core.v3.TransportSocket")(name="envoy.transport_sockets.tls")
        cluster.transport_socket.CopyFrom(socket)
        _pack(cluster.transport_socket.typed_config, context)
        unit.clusters.append(cluster)
        unit.secrets[unit.resource.name] = message
        return True

    def _of_route(self, unit: Unit, message: Any, name: str) -> bool:
        routes: Any = self.schema.message_class(message.DESCRIPTOR.full_name)()
        routes.CopyFrom(message)
        if routes.HasField("vhds"):
            routes.ClearField("vhds")
            for other in self._names(VIRTUAL_HOST):
                host = self._message(VIRTUAL_HOST, other) if other.startswith(f"{message.name}/") else None
                if host is not None:
                    routes.virtual_hosts.add().CopyFrom(host)
        unit.listeners.append(self._holder(routes, name))
        return True

    def _of_virtual_host(self, unit: Unit, message: Any, name: str) -> bool:
        routes: Any = self.schema.message_class("envoy.config.route.v3.RouteConfiguration")()
        routes.virtual_hosts.add().CopyFrom(message)
        unit.listeners.append(self._holder(routes, name))
        return True

    def _of_scoped_route(self, unit: Unit, message: Any, name: str) -> bool:
        if not message.HasField("route_configuration"):
            return False
        unit.listeners.append(self._holder(message.route_configuration, name))
        return True

    def _of_extension(self, unit: Unit, message: Any, name: str) -> bool:
        """An extension config is judged as the kind of filter that its type's name tells."""
        full_name = message.typed_config.type_url
        if ".filters.http." in full_name:
            routes: Any = self.schema.message_class("envoy.config.route.v3.RouteConfiguration")()
            unit.listeners.append(self._holder(routes, name, message))
        elif ".filters.network." in full_name:
            listener = self._listener(name)
            listener.filter_chains.add().filters.add(name=message.name).typed_config.CopyFrom(message.typed_config)
            self._end(listener.filter_chains[0], full_name)
            unit.listeners.append(listener)
        else:
            return False
        return True

    def _of_listener(self, unit: Unit, message: Any, _: str) -> bool:
        unit.listeners.append(message)
        return True

    def _listener(self, name: str) -> Any:
        listener: Any = self.schema.message_class("envoy.config.listener.v3.Listener")(name=name)
        listener.address.pipe.path = f"@{name}"
        return listener

    def _holder(self, routes: Any, name: str, extension: Any = None) -> Any:
        """Return a listener with routes, and with an HTTP filter before its router if one is given."""
        manager: Any = self.schema.message_class(_HCM)(stat_prefix=name)
        manager.route_config.CopyFrom(routes)
        if not manager.route_config.HasField("validate_clusters"):
            manager.route_config.validate_clusters.value = False
        is_terminal = False
        if extension is not None:
            added = manager.http_filters.add(name=extension.name)
            added.typed_config.CopyFrom(extension.typed_config)
            is_terminal = extension.typed_config.type_url.endswith((_ROUTER, "McpRouter"))
        if not is_terminal:
            router = manager.http_filters.add(name="router")
            router.typed_config.type_url = _PREFIX + _ROUTER
        listener = self._listener(name)
        _pack(listener.filter_chains.add().filters.add(name="hcm").typed_config, manager)
        return listener

    def _end(self, chain: Any, full_name: str) -> None:
        if full_name.rpartition("/")[2] not in TERMINAL:
            echo = chain.filters.add(name="echo")
            echo.typed_config.type_url = _PREFIX + "envoy.extensions.filters.network.echo.v3.Echo"


_Maker = Callable[[Assembly, Unit, Any, str], bool]
_MAKERS: Mapping[str, _Maker] = {
    SECRET: Assembly._of_secret,
    ENDPOINTS: Assembly._of_endpoints,
    VIRTUAL_HOST: Assembly._of_virtual_host,
    ROUTE: Assembly._of_route,
    SCOPED_ROUTE: Assembly._of_scoped_route,
    EXTENSION_CONFIG: Assembly._of_extension,
    CLUSTER: Assembly._of_cluster,
    LISTENER: Assembly._of_listener,
}


def _pack(target: Any, message: Any) -> None:
    target.type_url = _PREFIX + message.DESCRIPTOR.full_name
    target.value = message.SerializeToString(deterministic=True)


def _without_leds(assignment: Any) -> Any:
    """Return an assignment without localities that LEDS delivers, which only EDS may have."""
    if not any(each.HasField("leds_cluster_locality_config") for each in assignment.endpoints):
        return assignment
    copy = type(assignment)()
    copy.CopyFrom(assignment)
    for each in copy.endpoints:
        each.ClearField("leds_cluster_locality_config")
    return copy
