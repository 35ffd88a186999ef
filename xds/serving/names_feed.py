"""Messages between the parent and a worker in which a large set of names is sent once.

The nodes of a fleet reject the same resources: without this, each of 2,000 nodes that reject a response of 5,000
resources would send the half a megabyte of its names to every process. Both ends of a channel number the large sets
that pass in one direction, and keep the newest of them by the same rule; later messages have the number alone.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

from xds.protocol.subscription import NameSet

BYTES_MIN = 1_024
"""Sets with fewer packed bytes are sent each time."""
KEPT_BYTES_MAX = 4 * 1024 * 1024
"""The newest sets of a direction are kept up to so many packed bytes, at least one."""

Reference = tuple[int, bytes | None]
"""The number of a set, and its packed bytes if it is sent for the first time."""


class NamesEncoder:
    """The sending end of one direction of a channel. What it encodes must be sent at once, in order."""

    def __init__(self) -> None:
        self._numbers: dict[NameSet, int] = {}
        self._kept = _Kept()

    def encode(self, message: object) -> bytes:
        """Return a message as bytes for the decoder at the other end."""
        out = io.BytesIO()
        _Pickler(out, self._reference).dump(message)
        return out.getvalue()

    def _reference(self, found: object) -> Reference | None:
        if not isinstance(found, NameSet) or len(found.packed) < BYTES_MIN:
            return None
        number = self._numbers.get(found)
        if number is not None:
            return number, None
        number = self._numbers[found] = self._kept.next_number
        for dropped in self._kept.add(found):
            del self._numbers[dropped]
        return number, found.packed

    @property
    def bytes_kept(self) -> int:
        """The packed bytes of the sets that are kept."""
        return self._kept.bytes


class NamesDecoder:
    """The receiving end. It decodes the messages of ``xds.serving.feed.encode`` too."""

    def __init__(self) -> None:
        self._kept = _Kept()

    def decode(self, data: bytes) -> Any:
        """Return a decoded message. The bytes must come from a process of this server, each message in its order."""
        return _Unpickler(io.BytesIO(data), self._load).load()

    def _load(self, reference: Reference) -> NameSet:
        number, packed = reference
        if packed is None:
            return self._kept.by_number[number]
        found = NameSet(packed)
        self._kept.add(found)
        return found

    @property
    def bytes_kept(self) -> int:
        """The packed bytes of the sets that are kept."""
        return self._kept.bytes


class _Pickler(pickle.Pickler):
    """Sends what ``reference`` says of an object, or the object where that is None."""

    def __init__(self, out: io.BytesIO, reference: Callable[[object], Reference | None]) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self._reference = reference

    def persistent_id(self, obj: object) -> Reference | None:
        return self._reference(obj)


class _Unpickler(pickle.Unpickler):
    """Takes what a reference stands for from ``load``."""

    def __init__(self, data: io.BytesIO, load: Callable[[Reference], NameSet]) -> None:
        super().__init__(data)
        self._load = load

    def persistent_load(self, pid: Reference) -> NameSet:
        return self._load(pid)


class _Kept:
    """The newest large sets of one direction by number; alike at both ends."""

    def __init__(self) -> None:
        self.by_number: dict[int, NameSet] = {}
        self.next_number = 0
        self.bytes = 0

    def add(self, added: NameSet) -> list[NameSet]:
        """Add a set under the next number; return the oldest ones, which are dropped for it."""
        self.by_number[self.next_number] = added
        self.next_number += 1
        self.bytes += len(added.packed)
        dropped = []
        while self.bytes > KEPT_BYTES_MAX and len(self.by_number) > 1:
            dropped.append(self.by_number.pop(next(iter(self.by_number))))
            self.bytes -= len(dropped[-1].packed)
        return dropped
