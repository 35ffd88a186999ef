"""Parses responses, each once for all sidecars that receive it.

Caches are tried in this order: the latest message of each size, which is compared and needs no hash; all messages, for
servers whose nonces are equal on every stream; messages without their nonce, for the others; and resources, for servers
that send them in another order on every stream. Each cache is emptied when it grows too large.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from xds._generated.xds_wire_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds.fleet.references import references
from xds.fleet.wire import Outgoing, delta_answer, length_field, messages, text
from xds.model.types import TYPE_PREFIX

KEPT_BYTES_MAX = 32 << 20
"""Maximum size of each cache of a process."""
KEY_BYTES_MAX = 256 << 10
"""Longer messages are compared with the latest or parsed: hashing costs as much, and keeping them more memory."""
ENTRY_BYTES = 500
"""The approximate cost of an entry besides its key."""
_RESOURCE = TYPE_PREFIX + "envoy.service.discovery.v3.Resource"


class MalformedError(ValueError):
    """A server sent a malformed discovery response. The text says what is wrong with it."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Held:
    """One version of one resource: ``digest`` covers name, version and content; ``names`` are its references."""

    version: str
    digest: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Content:
    """A response without its nonce. Responses equal except for order are one object, while it is cached."""

    type_url: str
    version: str
    added: tuple[tuple[str, Held], ...]
    removed: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Message:
    """A response as received: its content, its nonce, and its encoded ACK, equal for all sidecars (delta only)."""

    content: Content
    nonce: str
    ack: Outgoing | None
    _nack: Outgoing | None = field(default=None)

    def nack(self, reason: str) -> Outgoing:
        """Return the NACK of a delta response, encoded when first needed."""
        if self._nack is None:
            self._nack = Outgoing.of([delta_answer(self.content.type_url, self.nonce, reason)])
        return self._nack


class BoundedCache(dict[Any, Any]):
    """A cache bounded by the bytes of its keys, and emptied when these exceed ``bytes_max``."""

    __slots__ = ("bytes_kept", "bytes_max")

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        super().__init__()
        self.bytes_kept, self.bytes_max = 0, bytes_max

    def keep(self, key: Any, value: Any, key_bytes: int) -> None:
        """Add a value, whose key has ``key_bytes``."""
        self.bytes_kept += key_bytes + ENTRY_BYTES
        if self.bytes_kept > self.bytes_max:
            self.clear()
            self.bytes_kept = key_bytes + ENTRY_BYTES
        self[key] = value


class Parser:
    """Parses encoded responses of one protocol variant into messages."""

    def __init__(self, *, sotw: bool) -> None:
        self._sotw = sotw
        self._latest = BoundedCache()
        self._messages = BoundedCache()
        self._bodies = BoundedCache()
        self._resources = BoundedCache()
        self._held: WeakValueDictionary[bytes, Held] = WeakValueDictionary()
        self._contents: WeakValueDictionary[tuple[object, ...], Content] = WeakValueDictionary()

    def message(self, encoded: bytes) -> Message:
        """Parse a response. Raises MalformedError."""
        size = len(encoded)
        latest: tuple[bytes, Message] | None = self._latest.get(size)
        if latest is not None and latest[0] == encoded:
            return latest[1]
        known = self._known(encoded) if size <= KEY_BYTES_MAX else self._parse(encoded)
        self._latest.keep(size, (encoded, known), size)
        return known

    def _known(self, encoded: bytes) -> Message:
        known: Message | None = self._messages.get(encoded)
        if known is None:
            known = self._parse(encoded)
            self._messages.keep(encoded, known, len(encoded))
        return known

    def _parse(self, encoded: bytes) -> Message:
        try:
            response = (DiscoveryResponse if self._sotw else DeltaDiscoveryResponse).FromString(encoded)
            content = self._content(encoded, response)
        except (DecodeError, ValueError) as error:
            raise MalformedError(f"{len(encoded)} bytes are no discovery response: {error}") from None
        nonce = response.nonce
        ack = None if self._sotw else Outgoing.of([delta_answer(content.type_url, nonce)])
        return Message(content, nonce, ack)

    def _content(self, encoded: bytes, response: Any) -> Content:
        if len(encoded) > KEY_BYTES_MAX:
            return self._read(response)
        # The bytes without the nonce identify the content. Its offset is part of the key, as removing the same bytes at
        # another offset could leave equal bytes.
        before, cut, after = encoded.rpartition(length_field(5, response.nonce.encode()))
        rest = before + after if cut else encoded
        key = (len(before), rest)
        known: Content | None = self._bodies.get(key)
        if known is None:
            known = self._read(response)
            self._bodies.keep(key, known, len(rest))
        return known

    def _read(self, response: Any) -> Content:
        type_url = response.type_url
        added = [self._resource(type_url, encoded) for encoded in response.resources]
        removed = () if self._sotw else tuple(response.removed_resources)
        content = Content(
            type_url, response.version_info if self._sotw else response.system_version_info, tuple(added), removed
        )
        if len(dict(added)) < len(added):
            return content  # a name occurs twice: the last one counts, so order matters
        # Otherwise order does not matter, and may differ from stream to stream (Go's maps are unordered).
        total = sum(held.digest for _, held in added)
        return self._contents.setdefault((type_url, content.version, total, len(added), removed), content)

    def _resource(self, type_url: str, encoded: bytes) -> tuple[str, Held]:
        key = (type_url, encoded)
        known: tuple[str, Held] | None = self._resources.get(key)
        if known is None:
            known = self._read_sotw(type_url, encoded) if self._sotw else self._read_wrapped(type_url, encoded)
            self._resources.keep(key, known, len(encoded))
        return known

    def _read_sotw(self, type_url: str, encoded: bytes) -> tuple[str, Held]:
        body = _last(messages(encoded, 2))
        if text(encoded, 1) == _RESOURCE:
            return self._read_wrapped(type_url, body)
        name = text(body, 1)
        return name, self._keep(type_url, name, "", body)

    def _read_wrapped(self, type_url: str, encoded: bytes) -> tuple[str, Held]:
        name, version = text(encoded, 3), text(encoded, 1)
        return name, self._keep(type_url, name, version, _last(messages(_last(messages(encoded, 2)), 2)))

    def _keep(self, type_url: str, name: str, version: str, body: bytes) -> Held:
        digest = blake2b(b"\0".join((type_url.encode(), name.encode(), version.encode(), body)), digest_size=16)
        known = self._held.get(digest.digest())
        if known is None:
            number = int.from_bytes(digest.digest(), "big")
            known = Held(version, number, references(type_url, body))
            self._held[digest.digest()] = known
        return known


def _last(values: Iterable[bytes]) -> bytes:
    value = b""
    for value in values:  # noqa: B007 (the last one counts, by protobuf's rules)
        pass
    return value
