"""One client's connection: bytes in, a look-up of what they lead to, bytes out. What is not known is taken apart."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import DecodeError

from bench.ladder.program.steps import advance, expire, receive
from bench.ladder.program.values import Rare, Step, Value, composed, payload_bytes
from bench.ladder.program.wire import (
    HELLO,
    OPENED,
    PATH,
    SETTINGS_ACK,
    UNIMPLEMENTED,
    WINDOW,
    LongKey,
    frames,
    without_node,
)
from bench.ladder.switches import (
    ALLOWANCES,
    CLOCK_EACH,
    COUNT_EACH,
    COUNTERS,
    CREDIT,
    CREDIT_TWICE,
    EVENT_EACH,
    EVENTS,
    IDLE,
    IDLE_BY_TICK,
    LIFETIME_COUNTED,
    NODE,
    ORDER,
    PAUSE,
    SERIAL_EACH,
    SERIALS,
)
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest
from xds.transport.http2 import frames as h2
from xds.transport.http2.faults import ConnectionFault
from xds.transport.http2.headers import HeaderDecoder

if TYPE_CHECKING:
    from bench.ladder.program.hub import Hub

READ_BYTES_MAX = 512
"""Larger reads are looked up message by message, since they seldom come in the same pieces."""
LONG_BYTES = 4_096
MESSAGE_BYTES_MAX = 64 << 20
CREDIT_LEAST = WINDOW // 2
CHORES = 2_000
CHORES_PER_TICK = 200
HOLD_TICKS = 20
QUIET_TICKS, CLOSED_TICKS = 60, 80
SHUT = -1
NEW, GREETED, OPEN = range(3)
OPENING_BYTES_MAX = 64 << 10
ANSWER = HELLO + SETTINGS_ACK + OPENED
PING = h2.frame(h2.PING, 0, 0, b"xds-ping")


class Opening:
    """What a client says before its first message, bytes that many clients begin with: what they make of windows."""

    __slots__ = ("connection_window", "stream_window")

    def __init__(self, stream_window: int, connection_window: int) -> None:
        self.stream_window, self.connection_window = stream_window, connection_window


class Fault(Exception):  # noqa: N818 - as ConnectionFault and StreamFault
    """The client broke HTTP/2 or gRPC; the connection ends with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Connection(asyncio.Protocol):
    """A connection with its one stream. ``room`` is how much may be written without a further look.

    It is the smaller of the stream's and the connection's window, or ``SHUT`` where anything else stands in the way:
    then ``spare`` is what ``room`` would be. ``lead`` is how much larger the connection's window is.
    """

    __slots__ = (
        "behind",
        "hub",
        "pieces",
        "stage",
        "tail",
        "transport",
        "value",
        "write",
        *(("again", "again_age") if SERIALS else ()),
        *(("chores", "chores_at") if ALLOWANCES else ()),
        *(("connection_credit", "connection_room") if CREDIT_TWICE else ()),
        *(("credit", "initial", "lead", "room", "spare", "unsent") if CREDIT else ()),
        *(("due",) if ORDER else ()),
        *(("heard",) if IDLE_BY_TICK else ()),
        *(("last",) if SERIAL_EACH else ()),
        *(("node",) if NODE else ()),
        *(("paused",) if PAUSE else ()),
        *(("quiet", "seen") if IDLE else ()),
        *(("sent_at",) if CLOCK_EACH else ()),
    )

    def __init__(self, hub: "Hub") -> None:
        self.hub = hub
        self.value: Value = hub.start(hub.group)
        self.tail: bytes | None = b""
        self.pieces: list[bytes] | None = None
        self.behind = False
        self.stage = NEW
        if SERIALS:
            self.again = self.again_age = 0
        if SERIAL_EACH:
            self.last = 0
        if ALLOWANCES:
            self.chores, self.chores_at = CHORES, hub.tick
        if CREDIT:
            self.room = self.initial = self.credit = WINDOW
            self.lead = self.spare = 0
            self.unsent = b""
        if CREDIT_TWICE:
            self.connection_room = self.connection_credit = WINDOW
        if ORDER:
            self.due = 0
        if NODE:
            self.node: tuple[str, Any] | None = None
        if PAUSE:
            self.paused = False
        if IDLE:
            self.quiet, self.seen = 0, self.value
        if IDLE_BY_TICK:
            self.heard = hub.tick
        if CLOCK_EACH:
            self.sent_at = 0.0

    # --- The event loop ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write
        self.hub.connections[self] = None
        if LIFETIME_COUNTED:
            self.value.streams += 1

    def data_received(self, data: bytes) -> None:
        before = self.value
        step = before.acks.get(data)
        if step is None or self.tail is not None:
            self.take(data)
            return
        if IDLE_BY_TICK:
            self.heard = self.hub.tick
        if CREDIT:
            self.credit = credit = self.credit - step.read
            if CREDIT_TWICE:
                self.connection_credit = connection_credit = self.connection_credit - step.read
                if connection_credit < CREDIT_LEAST:
                    self.grant()
            if credit < CREDIT_LEAST:
                self.grant()
        if COUNT_EACH:
            self.hub.acks += 1
        if CLOCK_EACH:
            self.hub.latency_s += self.hub.clock() - self.sent_at
        if EVENT_EACH:
            for effect in step.effects:
                self.hub.note(self, effect)
        after = step.after
        if LIFETIME_COUNTED:
            before.streams -= 1
            after.streams += 1
        self.value = after
        if after.at is not after.group.head:
            self.catch_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self.hub.lost(self)
        if LIFETIME_COUNTED:
            self.value.streams -= 1

    def pause_writing(self) -> None:
        if PAUSE:
            self.paused = True
            self.shut()

    def resume_writing(self) -> None:
        if PAUSE:
            self.paused = False
            self.open_up()

    # --- What is sent ------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Bring the client to its group's head, as far as it may go and there is room."""
        hub = self.hub
        while (step := hub.next_of(self.value)) is not None and self.deliver(step):
            pass

    def deliver(self, step: Step) -> bool:
        """Take a step that a new head leads to, with all that stands in its way looked at; say whether it was taken."""
        if CREDIT:
            spare = self.spare if self.room == SHUT else self.room
            if (spare <= 0 and step.size) or self.unsent or (PAUSE and self.paused):
                self.behind = True
                return False
        if SERIALS and step.frames and step.serial <= self.again:
            made = advance(self.hub.memory, self.value, self.hub.now)
            assert made is not None
            step = made
        self.follow(step)
        self.send(step.frames)
        if COUNTERS and not COUNT_EACH:
            self.hub.count(step, 1)
        return True

    def follow(self, step: Step) -> None:
        """Stand where a step leads, and do what the host has to do for it."""
        if LIFETIME_COUNTED:
            self.value.streams -= 1
            step.after.streams += 1
        rare = step.rare
        self.value = step.after
        if rare is not None:
            self.rare(rare)
        if SERIALS and self.again and self.value.age > self.again_age:
            self.again = 0
            self.open_up()
        if CLOCK_EACH:
            self.sent_at = self.hub.clock()

    def rare(self, rare: Rare) -> None:
        """Do what few steps need."""
        for old, new in rare.interests:
            if old is not None:
                old.streams.pop(self, None)
            new.streams[self] = None
        if ORDER and rare.arms:
            self.due = self.hub.tick + HOLD_TICKS
            self.hub.timed[self] = None
        if ALLOWANCES and rare.charge:
            self.chore(rare.charge)
        if SERIALS and rare.back:
            self.again, self.again_age = self.hub.memory.serial, self.hub.memory.ages
            self.shut()
        if EVENTS:
            for effect in rare.effects:
                self.hub.note(self, effect)

    def send(self, data: bytes) -> None:
        """Write DATA frames; what the windows have no room for is cut and waits."""
        if not CREDIT or not data:
            self.write(data)
            return
        size = payload_bytes(data)
        room = self.spare if self.room == SHUT else self.room
        if size <= room and not self.unsent:
            self.used(size)
            self.write(data)
            return
        self.unsent += b"".join([payload for _, _, _, payload, _ in frames(data)])
        self.shut()
        self.send_more()

    def send_more(self) -> None:
        """Write as much of what was cut as there is room for now."""
        if PAUSE and self.paused:
            return
        room = self.spare if self.room == SHUT else self.room
        if room > 0 and self.unsent:
            part = self.unsent[:room]
            self.unsent = self.unsent[room:]
            self.used(len(part))
            self.write(h2.data_frames(1, part))

    def used(self, size: int) -> None:
        """Take credit of the client's."""
        if self.room == SHUT:
            self.spare -= size
        else:
            self.room -= size
        if CREDIT_TWICE:
            self.connection_room -= size

    def shut(self) -> None:
        """Have each delivery look at what stands in its way."""
        if CREDIT and self.room != SHUT:
            self.spare, self.room = self.room, SHUT

    def open_up(self) -> None:
        """Undo ``shut`` where nothing is in the way any more, and send what waited."""
        if not CREDIT:
            return
        self.send_more()
        if self.unsent or (PAUSE and self.paused):
            return
        if self.room == SHUT and self.spare >= 0 and not (SERIALS and self.again):
            self.room = self.spare
        if self.behind:
            self.behind = False
            self.catch_up()

    def grant(self) -> None:
        """Give the client credit for what was read."""
        used = WINDOW - self.credit
        self.credit = WINDOW
        if CREDIT_TWICE:
            self.connection_credit = WINDOW
        self.write(h2.window_update(0, used) + h2.window_update(1, used))

    def widen(self, stream: int, more: int) -> None:
        """Take credit that the client gave: to the stream, or to the connection (stream 0)."""
        room = self.spare if self.room == SHUT else self.room
        windows = [room + max(0, self.lead), room + max(0, -self.lead)]
        windows[1 if stream else 0] += more
        if windows[1 if stream else 0] > h2.WINDOW_MAX:
            raise Fault(h2.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 (RFC 9113, 6.9.1)")
        if CREDIT_TWICE and not stream:
            self.connection_room += more
        self.lead = windows[0] - windows[1]
        self.spare = min(windows)
        if self.room != SHUT:
            self.room = self.spare
        if self.unsent or self.behind:
            self.open_up()

    # --- What is received --------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Take bytes whose meaning isn't known at once."""
        if IDLE:
            self.quiet = 0
        out: list[bytes] = []
        try:
            self.read(data, out)
        except Fault as fault:
            self.fail(fault.code, str(fault))
            return
        except (DecodeError, UnicodeDecodeError, ValueError, IndexError, ConnectionFault) as error:
            self.fail(h2.PROTOCOL_ERROR, str(error))
            return
        if out:
            self.write(b"".join(out) if len(out) > 1 else out[0])
        head = self.value.group.head
        if self.value.at is not head:
            self.catch_up()
        if CREDIT and self.credit < CREDIT_LEAST:
            self.grant()

    def read(self, data: bytes, out: list[bytes]) -> None:
        """Follow all that a read says; add what is to be written to ``out``."""
        if self.stage != OPEN:
            self.open(data, out)
            return
        before = self.value
        plain = self.tail is None and len(data) <= READ_BYTES_MAX
        plain = plain and before is not self.hub.start(before.group)  # a first request has a node, which is read
        if plain:
            known = before.reads.get(data)
            if known is not None and self.is_good(known):
                if CREDIT:
                    self.credit -= known.read
                self.answer(known, out)
                return
        steps, whole = self.walk(data if self.tail is None else self.tail + data, 0, out, keep=not plain)
        if plain and whole and steps:
            step = composed(steps)
            if CREDIT:
                step.read = len(data) - h2.HEADER_BYTES * len(steps)
            if not step.frames and step.head is None and step.rare is None:
                self.hub.memory.remember(before, "acks", data, step)
            elif step.rare is None or not step.rare.effects:
                self.hub.memory.remember(before, "reads", data, step)

    def is_good(self, step: Step) -> bool:
        """Say whether a remembered step is that of the present head, and its messages are new to this stream."""
        if step.head is not None and step.head is not self.value.group.head:
            return False
        return not (SERIALS and step.frames and step.serial <= self.again)

    def open(self, data: bytes, out: list[bytes]) -> None:
        """Take what a connection begins with: the preface, settings, and the stream's headers."""
        data = (self.tail or b"") + data
        hub = self.hub
        for size in hub.opening_sizes:
            known = hub.openings.get(data[:size])
            if known is not None:
                self.greet(known, out)
                self.walk(data, size, out, keep=True)
                return
        if len(data) < len(h2.PREFACE):
            self.tail = data
            return
        if not data.startswith(h2.PREFACE):
            raise Fault(h2.PROTOCOL_ERROR, "no HTTP/2 preface")
        found = Opening(WINDOW, WINDOW)
        for kind, flags, stream, payload, stop in frames(data, len(h2.PREFACE)):
            if kind == h2.HEADERS:
                if HeaderDecoder().read(_block(flags, payload)).path != PATH:
                    out.append(HELLO + UNIMPLEMENTED)
                    self.transport.write_eof()
                    return
                hub.keep_opening(data[:stop], found)
                self.greet(found, out)
                self.walk(data, stop, out, keep=True)
                return
            if kind == h2.SETTINGS and not flags & h2.ACK:
                found.stream_window = dict(_settings(payload)).get(h2.INITIAL_WINDOW_SIZE, found.stream_window)
            elif kind == h2.WINDOW_UPDATE and stream == 0:
                found.connection_window += int.from_bytes(payload, "big") & h2.WINDOW_MAX
        if len(data) > OPENING_BYTES_MAX:
            raise Fault(h2.ENHANCE_YOUR_CALM, "much was said before a request")
        self.tail = data
        if self.stage == NEW:  # some wait for it before they ask for anything
            self.stage = GREETED
            out.append(HELLO)

    def greet(self, opening: Opening, out: list[bytes]) -> None:
        """Begin the stream with the windows that the client opened with."""
        out.append(ANSWER if self.stage == NEW else ANSWER[len(HELLO) :])
        self.stage, self.tail = OPEN, None
        if CREDIT:
            self.initial = opening.stream_window
            self.lead = opening.connection_window - opening.stream_window
            self.room = min(opening.stream_window, opening.connection_window)
        if CREDIT_TWICE:
            self.connection_room = opening.connection_window

    def walk(self, data: bytes, at: int, out: list[bytes], *, keep: bool) -> tuple[list[Step], bool]:
        """Take frames one by one; return the steps, and whether there was nothing else and nothing is left over.

        ``keep`` remembers each message by itself, since the read as a whole will not come again.
        """
        steps: list[Step] = []
        plain, stop = True, at
        for kind, flags, stream, payload, stop in frames(data, at):  # noqa: B007 - the last one counts
            if kind == h2.DATA:
                if CREDIT:
                    self.credit -= len(payload)
                    if self.credit < 0:
                        raise Fault(h2.FLOW_CONTROL_ERROR, "more than the window that was given")
                    if self.credit < CREDIT_LEAST // 2:
                        self.grant()
                plain = self.data(flags, payload, steps, out, keep=keep) and plain
            else:
                plain = False
                self.control(kind, flags, stream, payload, out)
        self.tail = data[stop:] or (b"" if self.pieces else None)
        if self.tail is not None and len(self.tail) > h2.FRAME_BYTES_MAX + h2.HEADER_BYTES:
            raise Fault(h2.FRAME_SIZE_ERROR, "a frame larger than the limit")
        return steps, plain and self.tail is None

    def data(self, flags: int, payload: bytes, steps: list[Step], out: list[bytes], *, keep: bool) -> bool:
        """Take a DATA frame; say whether it was exactly one message."""
        if flags & h2.PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if self.pieces:
            self.pieces.append(payload)
            first = self.pieces[0]
            if len(first) >= 5 and sum(map(len, self.pieces)) < 5 + int.from_bytes(first[1:5], "big"):
                return False  # joined once, when all of it is there
            payload, self.pieces = b"".join(self.pieces), None
            one = False
        else:
            one = True
        if ALLOWANCES and not payload:
            self.chore(1)
        at = 0
        while len(payload) - at >= 5:
            size = int.from_bytes(payload[at + 1 : at + 5], "big")
            if payload[at] or size > MESSAGE_BYTES_MAX:
                raise Fault(h2.PROTOCOL_ERROR, "a message that is compressed or too large")
            if len(payload) - at - 5 < size:
                break
            step = self.message(payload[at + 5 : at + 5 + size], keep=keep)
            steps.append(step)
            self.answer(step, out)
            at += 5 + size
            one = one and at == len(payload)
        if at < len(payload):
            self.pieces = [payload[at:]]
            return False
        return one

    def message(self, message: bytes, *, keep: bool) -> Step:
        """Return what a request leads to."""
        hub = self.hub
        node, rest = without_node(message)
        if NODE:
            if self.node is None:
                if not node:
                    raise Fault(h2.PROTOCOL_ERROR, "the first request has no node")
                self.node = hub.nodes.read(node)
                self.join()
            elif node and hub.nodes.read(node) != self.node:
                raise Fault(h2.PROTOCOL_ERROR, "the node of a stream does not change")
        if len(rest) > LONG_BYTES:
            rest = LongKey(rest)
        value = self.value
        step = value.said.get(rest)
        if step is not None and self.is_good(step):
            return step
        step = receive(hub.memory, value, DeltaDiscoveryRequest.FromString(rest), hub.now)
        if keep and not (step.rare and step.rare.effects):
            hub.memory.remember(value, "said", rest, step)
        if EVENT_EACH and not step.frames:
            step.effects = (("ack", ""),)
        return step

    def join(self) -> None:
        """Stand at the beginning of the group that the node is in."""
        assert self.node is not None
        group = self.hub.group_of(*self.node)
        if LIFETIME_COUNTED:
            self.value.streams -= 1
            self.hub.start(group).streams += 1
        self.value = self.hub.start(group)
        if EVENTS:
            self.hub.by_node.setdefault(self.node[0], {})[self] = None

    def answer(self, step: Step, out: list[bytes]) -> None:
        """Follow a step that a request leads to; what it sends goes out with the rest of what this read leads to."""
        self.follow(step)
        if not step.frames:
            if COUNT_EACH:
                self.hub.acks += 1
            return
        if COUNTERS:
            self.hub.count(step, 1)
        if CREDIT:
            room = self.spare if self.room == SHUT else self.room
            if step.size > room or self.unsent or (PAUSE and self.paused):
                if out:
                    self.write(b"".join(out))
                    out.clear()
                self.send(step.frames)
                return
            self.used(step.size)
        out.append(step.frames)

    def control(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        """Take a frame that is not DATA."""
        if ALLOWANCES:
            self.chore(1)
        if kind == h2.SETTINGS and not flags & h2.ACK:
            out.append(SETTINGS_ACK)
            if CREDIT:
                for key, number in _settings(payload):
                    if key == h2.INITIAL_WINDOW_SIZE:
                        self.widen(1, number - self.initial)
                        self.initial = number
        elif kind == h2.PING and not flags & h2.ACK:
            out.append(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.WINDOW_UPDATE:
            if CREDIT:
                self.widen(stream, int.from_bytes(payload, "big") & h2.WINDOW_MAX)
        elif kind == h2.HEADERS:
            raise Fault(h2.REFUSED_STREAM, "one stream a connection is served here")
        elif kind == h2.RST_STREAM:
            self.transport.close()

    # --- Time, and ends ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Once a tick: ping a client that has said nothing for long, and close it if it does not answer."""
        if IDLE_BY_TICK:
            self.quiet = self.hub.tick - self.heard
        elif IDLE:
            value = self.value
            if value is not self.seen and all(each is None or not each.flying for each in value.types):
                self.quiet = 0  # it has answered since the last tick: the value is another one, and nothing is open
            else:
                self.quiet += 1
            self.seen = value
        if IDLE:
            if self.quiet == QUIET_TICKS:
                self.write(PING)
            elif self.quiet >= CLOSED_TICKS:
                self.transport.abort()

    def expire(self) -> None:
        """Go on without what the order waited for."""
        if ORDER:
            self.due = 0
            step = expire(self.hub.memory, self.value, self.hub.now)
            self.follow(step)
            self.send(step.frames)

    def chore(self, count: int) -> None:
        """Charge the client for what moves nothing; too much of it ends the connection."""
        self.chores -= count
        if self.chores < 0:
            tick = self.hub.tick
            self.chores = min(CHORES, (tick - self.chores_at) * CHORES_PER_TICK)
            self.chores_at = tick
            if self.chores <= 0:
                raise Fault(h2.ENHANCE_YOUR_CALM, "too many frames that do nothing")

    def fail(self, code: int, text: str) -> None:
        """End the connection, saying why."""
        self.write(h2.goaway_frame(1, code, text))
        self.transport.close()


def _settings(payload: bytes) -> list[tuple[int, int]]:
    pieces = [payload[at : at + 6] for at in range(0, len(payload), 6)]
    return [(int.from_bytes(piece[:2], "big"), int.from_bytes(piece[2:], "big")) for piece in pieces]


def _block(flags: int, payload: bytes) -> bytes:
    if not flags & h2.END_HEADERS:
        raise Fault(h2.PROTOCOL_ERROR, "headers in pieces are not read here")
    if flags & h2.PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & h2.PRIORITIZED else payload
