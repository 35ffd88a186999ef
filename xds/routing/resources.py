"""The resources of a group as messages, decoded when they are first needed."""

from collections.abc import Callable, Iterable
from typing import Any

from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import EXTENSION_CONFIG
from xds.model.xdstp import canonical
from xds.schema import pool
from xds.schema.pool import Schema
from xds.schema.redact import redact, secrets_in


class Resources:
    """The resources that a group's nodes see, by type URL and name."""

    def __init__(
        self,
        schema: Schema,
        *,
        find: Callable[[str, str], Resource | None],
        of_type: Callable[[str], Iterable[Resource]],
    ) -> None:
        self._schema = schema
        self._find = find
        self._of_type = of_type
        self._decoded: dict[tuple[str, str], Any] = {}
        self._listed: dict[str, list[tuple[str, Any]]] = {}
        self._hides_secrets = False

    @classmethod
    def seen(cls, schema: Schema, snapshot: Snapshot) -> "Resources":
        """Return what the nodes of a snapshot's group see."""

        def of_type(type_url: str) -> Iterable[Resource]:
            view = snapshot.view(type_url)
            return (found for name in view if (found := view.get(name)) is not None)

        return cls(schema, find=lambda type_url, name: snapshot.view(type_url).get(name), of_type=of_type)

    @classmethod
    def of(cls, schema: Schema, resources: Iterable[Resource]) -> "Resources":
        """Return the given resources."""
        by_type: dict[str, dict[str, Resource]] = {}
        for each in resources:
            by_type.setdefault(each.type_url, {})[each.name] = each
        return cls(
            schema,
            find=lambda type_url, name: by_type.get(type_url, {}).get(name),
            of_type=lambda type_url: by_type.get(type_url, {}).values(),
        )

    @property
    def secret_headers(self) -> frozenset[str]:
        """Headers whose values are secrets."""
        return frozenset(self._schema.secret_fields.headers)

    def hiding_secrets(self) -> "Resources":
        """Return the same resources, of which ``shown`` hides what is a secret."""
        made = Resources(self._schema, find=self._find, of_type=self._of_type)
        made._hides_secrets = True
        return made

    def shown(self, message: Any) -> Any:
        """Return a message as an answer may tell it: the same object unless something in it is hidden."""
        if not self._hides_secrets or not secrets_in(self._schema, message):
            return message
        made = type(message)()
        made.CopyFrom(message)
        redact(self._schema, made)
        return made

    def hides(self, message: Any) -> bool:
        """Return whether something in a message is hidden."""
        return self.shown(message) is not message

    def get(self, type_url: str, name: str) -> Any:
        """Return a resource's message, None if the group has none of the name."""
        found = self._find(type_url, canonical(name))
        return None if found is None else self._decode(found)

    def all(self, type_url: str) -> list[tuple[str, Any]]:
        """Return the names and messages of all resources of a type, sorted by name."""
        if type_url not in self._listed:
            found = sorted(self._of_type(type_url), key=lambda each: each.name)
            self._listed[type_url] = [(each.name, self._decode(each)) for each in found]
        return self._listed[type_url]

    def names(self, type_url: str) -> list[str]:
        """Return the names of all resources of a type."""
        return sorted(each.name for each in self._of_type(type_url))

    def unpack(self, any_message: Any) -> Any:
        """Return the message in an Any, None if it is empty or its type is not known."""
        full_name = any_message.type_url.rpartition("/")[2]
        if not full_name or not self._schema.has(full_name):
            return None
        return self._schema.message_class(full_name).FromString(any_message.value)

    def extension(self, filter_: Any) -> tuple[str, Any]:
        """Return the type name of a filter's config, and its message: inline, or of the group's extension configs.

        ``("", None)`` if it comes from elsewhere.
        """
        packed = filter_.typed_config
        if filter_.WhichOneof("config_type") == "config_discovery":
            found = self.get(EXTENSION_CONFIG, filter_.name)
            default = filter_.config_discovery.default_config
            packed = found.typed_config if found is not None else default
        return packed.type_url.rpartition("/")[2], self.unpack(packed)

    def _decode(self, resource: Resource) -> Any:
        key = (resource.type_url, resource.name)
        if key not in self._decoded:
            body: Any = self._schema.message_class(pool.ANY).FromString(resource.body)
            self._decoded[key] = self.unpack(body)
        return self._decoded[key]
