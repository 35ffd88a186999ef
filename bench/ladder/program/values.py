"""Where a client stands: an immutable value that all who stand there share, and the memory of what leads where.

A value is interned, so equal ones are one object. It remembers what bytes lead to (``acks``, ``reads``, ``said``) and
what the newest head leads to (``next``), so a step that any client took costs the others a look-up. Pure: nothing here
reads a clock or a socket.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary, ref

from bench.ladder.program.content import TYPES, Group, Head, Resource, View
from bench.ladder.switches import (
    CLOCK,
    CREDIT,
    EVENT_EACH,
    LIFETIME,
    LIFETIME_COUNTED,
    NACK,
    ORDER,
    SERIALS,
)
from xds.fleet.wire import length_field
from xds.transport.http2.frames import data_frames

RESPONSE_BYTES_MAX = 2 << 20
REMEMBERED_BYTES_MAX = 64 << 20
EDGE_BYTES = 300
"""What a remembered step takes beside its key and its message."""
LARGE_BYTES = 32 << 10
VALUES_MAX = 4_096
"""Before the rung ``lifetime``: so many values before all are forgotten."""
NAMES: frozenset[str] = frozenset()


class Interest:
    """What of a type is subscribed to; interned. ``streams`` are the connections that subscribe so, by group."""

    __slots__ = ("names", "streams", "wildcard")

    def __init__(self, wildcard: bool, names: frozenset[str]) -> None:
        self.wildcard, self.names = wildcard, names
        self.streams: dict[Any, None] = {}

    def has(self, name: str) -> bool:
        return self.wildcard or name in self.names


class Flight:
    """A response that was sent and not yet answered; ``sent_at`` is when its first copy went out, in ticks."""

    __slots__ = ("head", "index", "names", "nonce", "removed", *(("sent_at",) if CLOCK else ()))

    def __init__(self, index: int, head: Head, names: tuple[str, ...], removed: tuple[str, ...]) -> None:
        self.index, self.head, self.names, self.removed = index, head, names, removed
        self.nonce = ""
        if CLOCK:
            self.sent_at = 0.0


class TypeValue:
    """One type of a value: subscription, the view that was sent, overrides from it, and what is in flight.

    ``kept`` are clusters that are gone and not yet removed, and routes that are held back; ``unsure`` what was
    rejected.
    """

    __slots__ = (
        "flying",
        "interest",
        "sent",
        *(("kept",) if ORDER else ()),
        *(("unsure",) if NACK else ()),
        *(("__weakref__",) if LIFETIME else ()),
    )

    def __init__(self, interest: Interest, sent: View, flying: tuple[Flight, ...]) -> None:
        self.interest, self.sent, self.flying = interest, sent, flying
        if ORDER:
            self.kept: frozenset[str] = NAMES
        if NACK:
            self.unsure: frozenset[str] = NAMES

    def but(self, **changes: Any) -> "TypeValue":
        """Return the same, not interned yet, with changes."""
        made = TypeValue(self.interest, self.sent, self.flying)
        if ORDER:
            made.kept = self.kept
        if NACK:
            made.unsure = self.unsure
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    def key(self) -> tuple[object, ...]:
        """Return what tells it from others."""
        kept = self.kept if ORDER else None
        unsure = self.unsure if NACK else None
        return (self.interest, self.sent, self.flying, kept, unsure)


Types = tuple[TypeValue | None, ...]


class Value:
    """Where a client stands. ``next`` leads to the head ``ahead``; at the head ``at`` there is nothing to be sent."""

    __slots__ = (
        "acks",
        "ahead",
        "at",
        "group",
        "next",
        "reads",
        "said",
        "types",
        *(("age",) if SERIALS else ()),
        *(("own",) if NACK else ()),
        *(("streams",) if LIFETIME_COUNTED else ()),
        *(("__weakref__",) if LIFETIME else ()),
    )

    def __init__(self, group: Group, types: Types, age: int) -> None:
        self.group, self.types = group, types
        self.acks: dict[bytes, Step] = {}
        self.reads: dict[bytes, Step] = {}
        self.said: dict[bytes, Step] = {}
        self.at: Head | None = None
        self.ahead: Head | None = None
        self.next: Step | None = None
        if SERIALS:
            self.age = age
        if NACK:
            self.own = False  # a stream's alone, never remembered
        if LIFETIME_COUNTED:
            self.streams = 0


class Step:
    """What an event leads to: the value after it, and what is to be sent.

    ``head`` is the head that it was worked out with, None where it depends on none. ``size`` is what of ``frames``
    flow control counts, ``read`` what of the event does. ``rare`` is what the host has to do besides, if anything.
    """

    __slots__ = (
        "after",
        "frames",
        "head",
        "rare",
        *(("read", "size") if CREDIT else ()),
        *(("serial",) if SERIALS else ()),
        *(("effects",) if EVENT_EACH else ()),
    )

    def __init__(self, after: Value, frames: bytes, head: Head | None, rare: "Rare | None", serial: int) -> None:
        self.after, self.frames, self.head, self.rare = after, frames, head, rare
        if CREDIT:
            self.size = payload_bytes(frames)
            self.read = 0
        if SERIALS:
            self.serial = serial  # of the first message
        if EVENT_EACH:
            self.effects: tuple[tuple[str, str], ...] = ()


class Rare:
    """What most steps don't have: changed subscriptions, a deadline to arm, effects, a charge, a way back."""

    __slots__ = ("arms", "back", "charge", "effects", "interests")

    def __init__(self) -> None:
        self.interests: tuple[tuple[Interest | None, Interest], ...] = ()
        self.arms = self.back = False
        self.effects: tuple[tuple[str, str, str], ...] = ()
        self.charge = 0


class Message:
    """A response to be: of a type, with resources and names of removed ones; ``bare`` without bodies."""

    __slots__ = ("bare", "flight", "resources")

    def __init__(self, flight: Flight, resources: list[Resource], *, bare: bool = False) -> None:
        self.flight, self.resources, self.bare = flight, resources, bare


class Draft:
    """A step in the making: the types as they will be, and the messages."""

    __slots__ = ("arms", "effects", "group", "head", "messages", "own", "types")

    def __init__(self, value: Value, head: Head) -> None:
        self.group, self.head = value.group, head
        self.types = list(value.types)
        self.messages: list[Message] = []
        self.effects: list[tuple[str, str, str]] = []
        self.arms = False
        self.own = value.own if NACK else False

    def send(self, index: int, resources: list[Resource], removed: Iterable[str], *, bare: bool = False) -> None:
        """Add a response of a type, in several messages where it is large."""
        current = self.types[index]
        assert current is not None
        flying, removed = current.flying, tuple(removed)
        for part in _parts(resources):
            flight = Flight(index, self.head, tuple(resource.name for resource in part), removed)
            self.messages.append(Message(flight, part, bare=bare))
            flying, removed = (*flying, flight), ()
        self.types[index] = current.but(flying=flying)


def _parts(resources: list[Resource]) -> Iterable[list[Resource]]:
    part: list[Resource] = []
    size = 0
    for resource in resources:
        size += len(resource.field)
        if size > RESPONSE_BYTES_MAX and part:
            yield part
            part, size = [], len(resource.field)
        part.append(resource)
    yield part


class Memory:
    """All values that somebody stands at, and all steps that are remembered: within one budget of bytes."""

    def __init__(self) -> None:
        self._types: Any = WeakValueDictionary() if LIFETIME else {}
        self._values: Any = WeakValueDictionary() if LIFETIME else {}
        self._interests: dict[tuple[bool, frozenset[str]], Interest] = {}
        self._kept: deque[tuple[Any, str, bytes, int]] = deque()
        self._kept_bytes = 0
        self._large: list[tuple[Any, str, bytes]] = []
        self._serial = self._ages = 0

    @property
    def kept_bytes(self) -> int:
        """What the remembered steps take."""
        return self._kept_bytes

    @property
    def ages(self) -> int:
        """How many values there have been."""
        return self._ages

    @property
    def serial(self) -> int:
        """The number of the last response."""
        return self._serial

    def sizes(self) -> tuple[int, int]:
        """Return how many types' values and values there are."""
        return len(self._types), len(self._values)

    def interest(self, wildcard: bool, names: frozenset[str]) -> Interest:
        """Return the one interest in these names."""
        key = (wildcard, names)
        found = self._interests.get(key)
        if found is None:
            found = self._interests[key] = Interest(wildcard, names)
        return found

    def interests(self) -> Iterable[Interest]:
        """Return all interests that some stream has; forget the others."""
        unused = [key for key, interest in self._interests.items() if not interest.streams]
        if len(unused) > VALUES_MAX:
            for key in unused:
                del self._interests[key]
        return self._interests.values()

    def value(self, group: Group, types: Iterable[TypeValue | None], *, own: bool = False) -> Value:
        """Return the one value that is so; a new one of its stream's own where it is not to be shared."""
        interned = tuple(None if one is None else self._type(one) for one in types)
        if NACK and own:
            self._ages += 1
            made = Value(group, interned, self._ages)
            made.own = True
            return made
        key = (group, interned)
        found: Value | None = self._values.get(key)
        if found is None:
            if not LIFETIME and len(self._values) > VALUES_MAX:
                self._values.clear()
                self._types.clear()
            self._ages += 1
            found = self._values[key] = Value(group, interned, self._ages)
        return found

    def _type(self, made: TypeValue) -> TypeValue:
        key = made.key()
        found: TypeValue | None = self._types.get(key)
        if found is None:
            found = self._types[key] = made
        return found

    def finish(self, before: Value, draft: Draft, *, content: bool, now: float = 0.0) -> Step:
        """Stamp the draft's messages, and return the step. ``content``: what the head is made a difference."""
        first = self._serial + 1
        frames = b"".join([self._framed(message, now) for message in draft.messages])
        after = self.value(draft.group, draft.types, own=draft.own)
        rare = _rare(before, after, draft)
        if SERIALS and after.age < before.age and not (NACK and after.own):
            rare = rare or Rare()
            rare.back = True
        return Step(after, frames, draft.head if content else None, rare, first)

    def _framed(self, message: Message, now: float) -> bytes:
        self._serial += 1
        flight = message.flight
        flight.nonce = nonce = str(self._serial)
        if CLOCK:
            flight.sent_at = now
        fields = [length_field(1, str(flight.head.number).encode())]
        fields += [resource.bare if message.bare else resource.field for resource in message.resources]
        fields += [length_field(4, TYPES[flight.index].encode()), length_field(5, nonce.encode())]
        fields += [length_field(6, name.encode()) for name in flight.removed]
        body = b"".join(fields)
        return data_frames(1, b"\0" + len(body).to_bytes(4, "big") + body)

    def remember(self, value: Value, kind: str, key: bytes, step: Step) -> None:
        """Keep a step in ``acks``, ``reads`` or ``said`` of a value; forget the oldest ones beyond the budget."""
        if NACK and (value.own or step.after.own):
            return
        getattr(value, kind)[key] = step
        if LIFETIME:
            size = EDGE_BYTES + len(key) + len(step.frames)
            place = ref(value)
            self._kept.append((place, kind, key, size))
            self._kept_bytes += size
            if len(step.frames) + len(key) > LARGE_BYTES:
                self._large.append((place, kind, key))
            while self._kept_bytes > REMEMBERED_BYTES_MAX:
                place, kind, key, size = self._kept.popleft()
                self._kept_bytes -= size
                _forget(place, kind, key)

    def outdate(self) -> None:
        """Forget the large steps: the head that they lead to was replaced."""
        for place, kind, key in self._large:
            _forget(place, kind, key)
        self._large.clear()


def _forget(place: Any, kind: str, key: bytes) -> None:
    value = place()
    if value is not None:
        getattr(value, kind).pop(key, None)


def _rare(before: Value, after: Value, draft: Draft) -> Rare | None:
    changed = tuple(
        (None if old is None else old.interest, new.interest)
        for old, new in zip(before.types, after.types, strict=True)
        if new is not None and (old is None or old.interest is not new.interest)
    )
    if not (changed or draft.arms or draft.effects):
        return None
    rare = Rare()
    rare.interests, rare.arms, rare.effects = changed, draft.arms, tuple(draft.effects)
    rare.charge = 1 if changed else 0
    return rare


def payload_bytes(frames: bytes) -> int:
    """Return what flow control counts of DATA frames: all but their headers (RFC 9113, 6.9.1)."""
    at = size = 0
    while at < len(frames):
        length = int.from_bytes(frames[at : at + 3], "big")
        size += length
        at += 9 + length
    return size


def composed(steps: list[Step]) -> Step:
    """Return one step that does what several do one after the other."""
    if len(steps) == 1:
        return steps[0]
    rare = None
    if any(step.rare is not None for step in steps):
        rare = Rare()
        for step in steps:
            if step.rare is not None:
                rare.interests += step.rare.interests
                rare.effects += step.rare.effects
                rare.arms |= step.rare.arms
                rare.back |= step.rare.back
                rare.charge += step.rare.charge
    heads = [step.head for step in steps if step.head is not None]
    serial = 0
    if SERIALS:
        serial = min((step.serial for step in steps if step.frames), default=0)
    return Step(steps[-1].after, b"".join([step.frames for step in steps]), heads[-1] if heads else None, rare, serial)
