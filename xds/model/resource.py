"""One resource: encoded once when it is pushed or read, then only copied."""

from dataclasses import dataclass, field, fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, dataclass_transform

from xds.model.types import short_name


class Reference(NamedTuple):
    """A reference to another resource, which must exist. ``field`` is the path of the field with the name."""

    type_url: str
    name: str
    field: str = ""


C = TypeVar("C")


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def _record(cls: type[C]) -> type[C]:
    """Make a dataclass that the type checker treats as frozen.

    It is not frozen at run time: a frozen instance takes three times as long to make.
    """
    return dataclass(slots=True, eq=False, kw_only=True, weakref_slot=True)(cls)


@_record
class Resource:
    """A named, versioned, encoded resource; immutable, compared by identity.

    ``version`` is a short hash of the canonical content (body, TTL and aliases), so equal content has an equal version
    on every replica. ``encoded`` is the wire form of ``envoy.service.discovery.v3.Resource``, as delta xDS sends it;
    ``encoded[body_start:]`` up to ``body_end`` is the ``google.protobuf.Any`` within, as SotW sends it. ``heartbeat``
    is the same message without its body, set only when the resource has a TTL.
    ``labelled``: the version was given by the author, who may use it again for other content.
    ``source`` is where the resource was read from (``file:line``), for error messages.
    """

    type_url: str
    name: str
    version: str
    encoded: bytes
    body_start: int = 0
    body_end: int = 0
    ttl_s: float | None = None
    heartbeat: bytes = b""
    aliases: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    labelled: bool = False
    source: str = ""
    fingerprint: int = field(init=False)
    """A 64-bit hash of name and version. A set of resources is identified by the sum of theirs, modulo 2**64."""

    def __post_init__(self) -> None:
        text = f"{self.name}\0{self.version}".encode()
        made: Any = self
        made.fingerprint = int.from_bytes(blake2b(text, digest_size=8).digest())

    # Each worker process receives tens of thousands of resources when it starts, and then every change. The pickling of
    # dataclasses, field by field and with named tuples, takes three times as long.
    def __getstate__(self) -> tuple[Any, ...]:
        return (*_PLAIN(self), tuple(map(tuple, self.references)))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        made: Any = self
        (
            made.type_url,
            made.name,
            made.version,
            made.encoded,
            made.body_start,
            made.body_end,
            made.ttl_s,
            made.heartbeat,
            made.aliases,
            made.labelled,
            made.source,
            made.fingerprint,
            references,
        ) = state
        made.references = tuple(map(Reference._make, references))

    @property
    def body(self) -> bytes:
        """The encoded ``google.protobuf.Any`` that holds the resource."""
        return self.encoded[self.body_start : self.body_end]

    @property
    def is_version_only(self) -> bool:
        """Say whether only name and version are known: a client reported it from an earlier stream."""
        return not self.encoded

    def __repr__(self) -> str:
        return f"<{short_name(self.type_url)}/{self.name} @{self.version}>"


_PLAIN = attrgetter(*(each.name for each in fields(Resource) if each.name != "references"))
