"""First requests, known by their bytes: what a whole fleet sends alike is parsed and compared once.

After a restart every sidecar names all it has, hundreds of kilobytes of names and versions, and those of a fleet are
alike but for their node, which encoders write first. They are looked up by their length and their last bytes, then
compared whole: to hash them costs several times as much, and needs a copy without the node. It does not know streams.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest
from xds.model.view import View
from xds.protocol.diff import Exceptions
from xds.protocol.interest import Interest
from xds.protocol.interned import Interned
from xds.protocol.requests import Changes, Request, begin_delta, decode
from xds.protocol.state import TypeState, Variant

ENTRY_BYTES = 1_024
"""What an opening takes beside its own bytes, which it is kept by and parsed from."""
FIELD_BYTES = 64
"""What a name takes in the request that is kept, and in the subscription made of it, beside its bytes."""
VIEWS_MAX = 4
AGE_MAX = 2
"""Openings that were not seen for so many periods are forgotten: after a storm they are of no use."""
TAIL_BYTES = 64
ALIKE_MAX = 8
"""Of openings of equal length that end alike, so many are known."""

_Key = tuple[int, bytes]


class _Begun(NamedTuple):
    """What ``begin_delta`` made of a type's state."""

    interest: Interest
    view: View | None
    exceptions: Exceptions
    asked: frozenset[str]
    owed: bool


@dataclass(slots=True, eq=False)
class Opening:
    """One request, without its node, and what it comes to by the view that it is compared with."""

    data: bytes
    request: DeltaDiscoveryRequest
    kept: bool = False
    """It is one of those seen lately."""
    age: int = 0
    """How often ``Openings.grow_old`` was called since it was seen last."""
    changes: Changes = field(default_factory=dict)
    """What it makes of subscriptions, on streams of which it is not the first request."""
    begun: OrderedDict[tuple[View, bool], _Begun] = field(default_factory=OrderedDict)

    @property
    def size_bytes(self) -> int:
        """What it takes, all in all."""
        request = self.request
        names = len(request.resource_names_subscribe) + len(request.resource_names_unsubscribe)
        return 2 * len(self.data) + FIELD_BYTES * (names + len(request.initial_resource_versions)) + ENTRY_BYTES


class Openings:
    """The openings seen lately; those longest unused are forgotten beyond ``bytes_max`` of them in all."""

    __slots__ = ("_bytes", "_bytes_max", "_known")

    def __init__(self, *, bytes_max: int = 16 * 1024 * 1024) -> None:
        self._known: OrderedDict[_Key, list[Opening]] = OrderedDict()
        self._bytes_max = bytes_max
        self._bytes = 0

    def read(self, variant: Variant, data: bytes, node_end: int) -> tuple[Request, Opening | None]:
        """Return a request, its node in it, and the opening that it is, None if it is none; ``keep`` one that is taken.

        ``node_end`` is where its node ends (``end_of_node``). Of an opening only the node is sure to be in the returned
        request; the rest is in ``Opening.request``.
        """
        if variant is Variant.SOTW:
            return decode(variant, data), None
        key = _key(data, node_end)
        for opening in self._known.get(key, ()):
            if data.endswith(opening.data):
                self._known.move_to_end(key)
                opening.age = 0
                return (decode(variant, data[:node_end]) if node_end else opening.request), opening
        request = decode(variant, data)
        if request.response_nonce:
            return request, None  # a later request, most likely not to come again
        plain = data[node_end:]
        alone = decode(variant, plain) if node_end else request
        assert isinstance(alone, DeltaDiscoveryRequest)
        if alone.HasField("node"):
            return request, None  # written by another encoder
        return request, Opening(plain, alone)

    def keep(self, opening: Opening) -> None:
        """Have an opening that was taken, and is not kept yet, known again."""
        opening.kept = True
        key = _key(opening.data, 0)
        alike = self._known.setdefault(key, [])
        if len(alike) == ALIKE_MAX:
            self._bytes -= alike.pop(0).size_bytes
        alike.append(opening)
        self._known.move_to_end(key)
        self._bytes += opening.size_bytes
        while self._bytes > max(self._bytes_max, opening.size_bytes):
            oldest = next(iter(self._known))
            self._bytes -= self._known[oldest].pop(0).size_bytes
            if not self._known[oldest]:
                del self._known[oldest]

    def grow_old(self) -> None:
        """Forget the openings that nobody sent since this was called ``AGE_MAX`` times."""
        for key, alike in list(self._known.items()):
            for opening in alike:
                opening.age += 1
            old = [opening for opening in alike if opening.age > AGE_MAX]
            if old:
                self._bytes -= sum(opening.size_bytes for opening in old)
                alike[:] = [opening for opening in alike if opening.age <= AGE_MAX]
            if not alike:
                del self._known[key]


def _key(data: bytes, node_end: int) -> _Key:
    return len(data) - node_end, data[max(node_end, len(data) - TAIL_BYTES) :]


def begin(
    state: TypeState,
    opening: Opening | None,
    request: DeltaDiscoveryRequest,
    interned: Interned,
    view: View,
    distrusted: frozenset[str] | None,
) -> None:
    """Do as ``begin_delta`` does, from what that came to before if this opening was compared with this view."""
    if opening is None or distrusted:
        begin_delta(state, request, interned, view, distrusted)
        return
    key = (view, distrusted is None)
    begun = opening.begun.get(key)
    if begun is None:
        begin_delta(state, request, interned, view, distrusted)
        opening.begun[key] = _Begun(state.interest, state.view, state.exceptions, state.asked, state.owed)
        if len(opening.begun) > VIEWS_MAX:
            opening.begun.popitem(last=False)
        return
    state.started = state.dirty = True
    state.interest, state.view, state.exceptions, state.asked, state.owed = begun
