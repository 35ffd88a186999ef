"""What a response says, parsed once for however many sidecars get it. It does not know who has what.

Three caches stand before the parser: the latest message of each size, which is compared with and costs no hash; all
messages, for servers whose nonces are equal on every stream; and messages without their nonce, for the others. Each is
dropped whole when it has grown too large.
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
"""What the caches of a process may hold on to, each."""
LATEST_MAX = 16
"""Sizes of which the latest message is kept: sidecars that connect together get few different ones."""
KEY_BYTES_MAX = 4 << 20
"""Longer messages are looked up by their digest, which costs twice as much, so that few of them don't fill a cache."""
ENTRY_BYTES = 500
"""What an entry costs besides its key, about."""
_RESOURCE = TYPE_PREFIX + "envoy.service.discovery.v3.Resource"


class MalformedError(ValueError):
    """A server sent what is no discovery response. The text says what is wrong with it."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Held:
    """One version of one resource: ``digest`` covers name, version and content; ``names`` is what it refers to."""

    version: str
    digest: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A response without its nonce. Equal ones are the same object for as long as they are remembered."""

    type_url: str
    version: str
    added: tuple[tuple[str, Held], ...]
    removed: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Message:
    """A response as received: its content and nonce, and the answer to it, equal for all that ACK it (delta only)."""

    content: Content
    nonce: str
    ack: Outgoing | None
    _nack: Outgoing | None = field(default=None)

    def nack(self, reason: str) -> Outgoing:
        """Return the rejection of a delta response, made when it is first needed."""
        if self._nack is None:
            self._nack = Outgoing.of([delta_answer(self.content.type_url, self.nonce, reason)])
        return self._nack


class Bounded(dict[Any, Any]):
    """A cache by bytes that is emptied when its keys are too many; what was in it is only made again."""

    __slots__ = ("bytes_kept", "bytes_max")

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        super().__init__()
        self.bytes_kept, self.bytes_max = 0, bytes_max

    def keep(self, key: Any, value: Any, key_bytes: int) -> None:
        """Remember a value."""
        self.bytes_kept += key_bytes + ENTRY_BYTES
        if self.bytes_kept > self.bytes_max:
            self.clear()
            self.bytes_kept = key_bytes + ENTRY_BYTES
        self[key] = value


class Parser:
    """Turns encoded responses into messages, of one variant."""

    def __init__(self, *, sotw: bool) -> None:
        self._sotw = sotw
        self._latest: dict[int, tuple[bytes, Message]] = {}
        self._messages = Bounded()
        self._contents = Bounded()
        self._held: WeakValueDictionary[bytes, Held] = WeakValueDictionary()

    def message(self, encoded: bytes) -> Message:
        """Parse a response. Raises MalformedError."""
        size = len(encoded)
        latest = self._latest.get(size)
        if latest is not None and latest[0] == encoded:
            return latest[1]
        known = self._known(encoded)
        if size <= KEY_BYTES_MAX:
            if len(self._latest) >= LATEST_MAX:
                self._latest.clear()
            self._latest[size] = encoded, known
        return known

    def _known(self, encoded: bytes) -> Message:
        key = encoded if len(encoded) <= KEY_BYTES_MAX else _digest(encoded)
        known: Message | None = self._messages.get(key)
        if known is None:
            known = self._parse(encoded)
            self._messages.keep(key, known, len(key))
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
        # What is left when the nonce is cut out names the content. Where it stood is part of the key, as the same bytes
        # could have been cut out elsewhere.
        before, cut, after = encoded.rpartition(length_field(5, response.nonce.encode()))
        rest = before + after if cut else encoded
        key = (len(before), rest if len(rest) <= KEY_BYTES_MAX else _digest(rest))
        known: Content | None = self._contents.get(key)
        if known is None:
            known = self._read_sotw(response) if self._sotw else self._read_delta(response)
            self._contents.keep(key, known, len(key[1]))
        return known

    def _read_delta(self, response: DeltaDiscoveryResponse) -> Content:
        type_url = response.type_url
        added = tuple(self._resource(type_url, encoded) for encoded in response.resources)
        return Content(type_url, response.system_version_info, added, tuple(response.removed_resources))

    def _read_sotw(self, response: DiscoveryResponse) -> Content:
        added: list[tuple[str, Held]] = []
        for encoded in response.resources:
            body = _last(messages(encoded, 2))
            if text(encoded, 1) == _RESOURCE:
                added.append(self._resource(response.type_url, body))
            else:
                added.append((text(body, 1), self._keep(response.type_url, text(body, 1), "", body)))
        return Content(response.type_url, response.version_info, tuple(added), ())

    def _resource(self, type_url: str, encoded: bytes) -> tuple[str, Held]:
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


def _digest(encoded: bytes) -> bytes:
    return blake2b(encoded, digest_size=16).digest()


def _last(values: Iterable[bytes]) -> bytes:
    value = b""
    for value in values:  # noqa: B007 (the last one counts, as protobuf has it)
        pass
    return value
