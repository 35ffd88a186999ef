"""One resource: encoded once when it enters, then only copied. It does not know groups, snapshots or streams."""

from dataclasses import dataclass, field, fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any, NamedTuple

from xds.model.types import short_name


class Reference(NamedTuple):
    """That a resource names another one, which must then exist: ``field`` is where the name stands."""

    type_url: str
    name: str
    field: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Resource:
    """A named, versioned, encoded resource; immutable, compared by identity.

    ``version`` is a short hash of the canonical content (body, TTL and aliases), so equal content has an equal version
    on every replica. ``encoded`` is the wire form of ``envoy.service.discovery.v3.Resource``, as delta xDS sends it;
    ``encoded[body_start:]`` up to ``body_end`` is the ``google.protobuf.Any`` within, as SotW sends it. ``heartbeat``
    is the same message without its body, set only when the resource has a TTL.
    ``labelled`` says that the version is its author's own, which may come again with other content.
    ``source`` says where it was written (``file:line``), for error messages.
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
    """64 bits over name and version; a set of resources is told apart by the sum of theirs, modulo 2**64."""

    def __post_init__(self) -> None:
        text = f"{self.name}\0{self.version}".encode()
        object.__setattr__(self, "fingerprint", int.from_bytes(blake2b(text, digest_size=8).digest()))

    def __getstate__(self) -> tuple[Any, ...]:
        return _STATE(self)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for put, value in zip(_SET, state, strict=True):
            put(self, value)

    @property
    def body(self) -> bytes:
        """The encoded ``google.protobuf.Any`` that holds the resource."""
        return self.encoded[self.body_start : self.body_end]

    @property
    def is_claim(self) -> bool:
        """Say whether only name and version are known: a client has it from a server that is no more."""
        return not self.encoded

    def __repr__(self) -> str:
        return f"<{short_name(self.type_url)}/{self.name} @{self.version}>"


# Tens of thousands go to each worker process at its start: those of dataclasses take twice as long.
_NAMES = [each.name for each in fields(Resource)]
_STATE = attrgetter(*_NAMES)
_SET = tuple(getattr(Resource, name).__set__ for name in _NAMES)
