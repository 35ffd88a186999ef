"""Raw clients for attackers: HTTP/2 that respects flow control and no other rule, and HTTP/1.1 by hand.

They use asyncio throughout, so that one process attacks on many connections. They send invalid data without checks.
"""

import asyncio
import contextlib
import struct
from collections import Counter
from typing import Any, Self

from support.native_peer import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_MAX,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    request_fields,
    settings_frame,
    window_update,
)
from support.native_peer import INITIAL_WINDOW_SIZE as INITIAL_WINDOW

Fields = list[tuple[str, str]]
WINDOW_BYTES = 8 << 20
CONNECT_TIMEOUT_S = 10.0


class Tally:
    """Counts of an attacker's requests and of their answers."""

    def __init__(self) -> None:
        self.connections = self.requests = self.sent_bytes = self.received_bytes = 0
        self.answers: Counter[str] = Counter()

    def as_json(self) -> dict[str, Any]:
        """Return the counts as JSON for the parent process."""
        return {
            "connections": self.connections,
            "requests": self.requests,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "answers": dict(self.answers.most_common(12)),
        }


def literal(fields: Fields) -> bytes:
    """Return a header block of literals without indexing (RFC 7541, 6.2.2)."""
    out = bytearray()
    for name, value in fields:
        out += b"\0" + _string(name) + _string(value)
    return bytes(out)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    out, size = bytearray((127,)), size - 127
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + data


class Http2(asyncio.Protocol):
    """One HTTP/2 connection. ``over`` has a future for the end of each stream; ``ended`` is that of the connection."""

    def __init__(self, tally: Tally, *, reading: bool = True) -> None:
        self.tally = tally
        self.reading = reading
        self.transport: Any = None
        self.ended = asyncio.get_running_loop().create_future()
        self.over: dict[int, asyncio.Future[str]] = {}
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.window = 65_535
        self.initial = 65_535
        self.windows: dict[int, int] = {}
        self.next_stream = 1
        self._moved = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._buffer = b""
        self._body = b""
        self._uncredited = 0

    @classmethod
    async def dial(cls, port: int, tally: Tally, *, reading: bool = True, hello: bytes | None = None) -> Self:
        """Connect, and send the preface and SETTINGS, or ``hello``. Raises OSError, TimeoutError."""
        made = cls(tally, reading=reading)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().create_connection(lambda: made, "127.0.0.1", port)
        tally.connections += 1
        if hello is None:
            hello = PREFACE + settings_frame({INITIAL_WINDOW: WINDOW_BYTES}) + window_update(0, WINDOW_BYTES - 65_535)
        made.write(hello)
        if not reading:
            made.transport.pause_reading()
        return made

    # --- Out ---------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        if not self.transport.is_closing():
            self.tally.sent_bytes += len(data)
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the kernel has accepted most of the written bytes, or the connection has ended."""
        await self._writable.wait()

    def open(self, path: str, *, end: bool = False, extra: Fields | None = None, **replaced: str) -> int:
        """Send the HEADERS of the next stream and return its number."""
        number, self.next_stream = self.next_stream, self.next_stream + 2
        self.windows[number] = self.initial
        self.over[number] = asyncio.get_running_loop().create_future()
        self.tally.requests += 1
        block = literal([*request_fields(path, **replaced), *(extra or [])])
        self.write(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), number, block))
        return number

    async def send(self, number: int, data: bytes, *, end: bool = False, until: float = float("inf")) -> bool:
        """Send data as the windows allow; return False if the stream, the connection or the time ended before."""
        rest, loop = memoryview(data), asyncio.get_running_loop()
        while rest:
            room = min(len(rest), self.window, self.windows.get(number, 0), 256 * 1024)
            if self.ended.done() or number not in self.windows or loop.time() > until:
                return False
            if room <= 0:
                self._moved.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(1.0, max(0.01, until - loop.time()))):
                        await self._moved.wait()
                continue
            piece, rest = rest[:room], rest[room:]
            self.window -= room
            self.windows[number] -= room
            out = bytearray()
            for at in range(0, room, FRAME_BYTES_MAX):
                part = piece[at : at + FRAME_BYTES_MAX]
                last = end and not rest and at + FRAME_BYTES_MAX >= room
                out += struct.pack(">I", len(part))[1:] + bytes((DATA, END_STREAM if last else 0))
                out += struct.pack(">I", number) + part
            self.write(bytes(out))
            await self.drained()
        return not self.ended.done()

    async def answered(self, number: int, timeout_s: float = 5.0) -> str:
        """Wait for the end of a stream, and return how it ended."""
        over = self.over[number]
        done, _ = await asyncio.wait({over, self.ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        said = over.result() if over in done else self.ended.result() if done else "no answer"
        self.tally.answers[said] += 1
        return said

    async def next_message(self, timeout_s: float = 30.0) -> bytes | None:
        """Return the next gRPC message of any stream, None at the end of the connection or after ``timeout_s``."""
        getting = asyncio.ensure_future(self.messages.get())
        await asyncio.wait({getting, self.ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        return None

    def close(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    # --- In ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=1 << 20)

    def pause_writing(self) -> None:
        """Stop sending data."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Resume sending data."""
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Wake all waiters."""
        if not self.ended.done():
            self.ended.set_result(f"closed {type(error).__name__ if error else ''}".strip())
        self._writable.set()
        self._moved.set()

    def data_received(self, data: bytes) -> None:
        """Process the received frames."""
        self.tally.received_bytes += len(data)
        buffer, at, credit = self._buffer + data if self._buffer else data, 0, 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if end > len(buffer):
                break
            number = int.from_bytes(buffer[at + 5 : at + 9], "big")
            credit += self._frame(buffer[at + 3], buffer[at + 4], number, buffer[at + 9 : end])
            at = end
        self._buffer = buffer[at:]
        self._uncredited += credit
        if self._uncredited > 256 * 1024:
            self.write(window_update(0, self._uncredited))
            self._uncredited = 0

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> int:
        if kind == DATA:
            self._take(payload)
            if payload:
                self.write(window_update(number, len(payload)))
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if number == 0:
                self.window += more
            elif number in self.windows:
                self.windows[number] += more
            self._moved.set()
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            if not self.ended.done():
                self.ended.set_result(f"GOAWAY {int.from_bytes(payload[4:8], 'big')}")
            self._moved.set()
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.windows.pop(number, None)
            over = self.over.get(number)
            if over is not None and not over.done():
                over.set_result("trailers" if kind != RST_STREAM else f"reset {int.from_bytes(payload, 'big')}")
            self._moved.set()
        return len(payload) if kind == DATA else 0

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            key, value = struct.unpack_from(">HI", payload, at)
            if key == INITIAL_WINDOW:
                for each in self.windows:
                    self.windows[each] += value - self.initial
                self.initial = value
        self.write(frame(SETTINGS, ACK, 0))
        self._moved.set()

    def _take(self, payload: bytes) -> None:
        self._body += payload
        while len(self._body) >= 5 and len(self._body) >= (end := 5 + int.from_bytes(self._body[1:5], "big")):
            self.messages.put_nowait(self._body[5:end])
            self._body = self._body[end:]


async def http1(
    port: int, head: str, body: bytes = b"", *, tally: Tally, until: float = float("inf"), timeout_s: float = 10.0
) -> str:
    """Send one HTTP/1.1 request on a new connection, its body until it is refused; return the status."""
    loop = asyncio.get_running_loop()
    status = "no answer"
    tally.requests += 1
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        tally.answers[f"not connected: {type(error).__name__}"] += 1
        return status
    tally.connections += 1
    answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    try:
        writer.write(head.encode("latin-1"))
        tally.sent_bytes += len(head)
        for at in range(0, len(body), 256 * 1024):
            if answer.done() or loop.time() > until:
                break
            piece = body[at : at + 256 * 1024]
            writer.write(piece)
            tally.sent_bytes += len(piece)
            await writer.drain()
        async with asyncio.timeout(timeout_s):
            status = (await answer).decode("latin-1").split()[1]
    except (OSError, asyncio.IncompleteReadError, TimeoutError, IndexError, asyncio.LimitOverrunError) as error:
        status = type(error).__name__
    finally:
        answer.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await answer
        writer.transport.abort()
    tally.answers[status] += 1
    return status
