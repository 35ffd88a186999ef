"""Many faithful delta ADS streams in a process of their own: the time of each push's receipt, and lost streams.

Run as a ``support.processes.Worker``: each line of stdin is a JSON command, answered on stdout. Each sidecar subscribes
to all clusters and to ``names`` assignments, and ACKs everything. An assignment carries the number of its push in a
host name (``push-41.``), and push N changes assignment N modulo ``names``; so a receipt of push 41 is one of every
older push of the same name that the server merged with it. Times are those of CLOCK_MONOTONIC, which processes share.

A newcomer is an additional sidecar that connects, waits until it has all it subscribed to, and disconnects. Every other
newcomer reconnects after an outage: it lists 3,000 resources that it has, which takes several HTTP/2 windows.
"""

import asyncio
import base64
import contextlib
import gc
import json
import re
import resource
import struct
import sys
import time
from array import array
from collections import Counter
from typing import Any

import uvloop

from support import resources as r
from support.native_peer import (
    ACK,
    DATA,
    END_HEADERS,
    FRAME_BYTES_MAX,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
    request_fields,
    settings_frame,
    window_update,
)
from support.native_peer import INITIAL_WINDOW_SIZE as INITIAL_WINDOW
from support.waiting import until_due
from support.wire import wire

WINDOW_BYTES = 8 << 20
CREDIT_BYTES = 1 << 20
NEWCOMER_INTERVAL_S = 0.5
NEWCOMER_TIMEOUT_S = 30.0
CLAIMS = 3_000
CLAIM_CHARS = 80
KNOWN_MAX = 4_096
LINE_BYTES_MAX = 1 << 20
_PUSH = re.compile(rb"push-(\d+)\.")


def headers_frame() -> bytes:
    """Return the HEADERS of a delta ADS stream, in literals without indexing (RFC 7541, 6.2.2)."""
    block = b""
    for name, value in request_fields():
        block += b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
    return frame(HEADERS, END_HEADERS, 1, block)


OPENING = (
    PREFACE + settings_frame({INITIAL_WINDOW: WINDOW_BYTES}) + window_update(0, WINDOW_BYTES - 65_535) + headers_frame()
)


def request(**fields: Any) -> bytes:
    """Return a delta request as a gRPC message."""
    return message(wire.DeltaDiscoveryRequest(**fields).SerializeToString())


def framed(data: bytes) -> bytes:
    """Return data in DATA frames of the default size."""
    pieces = [data[at : at + FRAME_BYTES_MAX] for at in range(0, len(data), FRAME_BYTES_MAX)]
    return b"".join(frame(DATA, 0, 1, piece) for piece in pieces)


class Crowd:
    """The sidecars of this process and their receipts."""

    def __init__(self, port: int, names: int) -> None:
        self.port, self.names = port, names
        self.assignments = [f"c{number}" for number in range(names)]
        self.receipts: dict[int, array[float]] = {}
        self.dropped: Counter[str] = Counter()
        self.known: dict[bytes, tuple[bytes, int, int, tuple[int, ...]]] = {}
        self.sidecars: list[Sidecar] = []

    def requests(self, node_id: str, *, returning: bool) -> bytes:
        """Return a sidecar's first requests."""
        node = wire.Node(id=node_id, cluster="good")
        has = {f"had-{number}-".ljust(CLAIM_CHARS, "h"): "1" for number in range(CLAIMS)} if returning else {}
        clusters = request(node=node, type_url=r.CLUSTER, initial_resource_versions=has)
        return clusters + request(type_url=r.ENDPOINTS, resource_names_subscribe=self.assignments)

    def understood(self, data: bytes) -> tuple[bytes, int, int, tuple[int, ...]]:
        """Return the ACK of a response, its numbers of clusters and assignments, and the pushes in it."""
        found = self.known.get(data)
        if found is None:
            said = wire.DeltaDiscoveryResponse.FromString(data)
            pushes = tuple(int(number) for number in _PUSH.findall(data))
            count = len(said.resources)
            clusters, assignments = (count, 0) if said.type_url == r.CLUSTER else (0, count)
            ack = framed(request(type_url=said.type_url, response_nonce=said.nonce))
            found = (ack, clusters, assignments, pushes)
            if len(self.known) >= KNOWN_MAX:
                self.known.clear()
            self.known[data] = found
        return found


class Sidecar(asyncio.Protocol):
    """One node on one stream. ``synced`` is done once it has all it subscribed to."""

    def __init__(self, crowd: Crowd, node_id: str, *, newcomer: bool = False, returning: bool = False) -> None:
        self.crowd, self.node_id, self.newcomer, self.returning = crowd, node_id, newcomer, returning
        self.unsent = b""
        self.windows = [65_535, 65_535]
        self.synced: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.clusters = self.assignments = self.uncredited = 0
        self.newest = [0] * crowd.names
        self.buffer = b""
        self.body = b""
        self.leaving = False
        self.why = "closed"
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface and the first requests."""
        self.transport = transport
        self.unsent = self.crowd.requests(self.node_id, returning=self.returning)
        self.transport.write(OPENING + self._allowed())

    def _allowed(self) -> bytes:
        """Return the part of the first requests that the windows allow now. ACKs are small and are not counted."""
        room = min(*self.windows, len(self.unsent))
        piece, self.unsent = self.unsent[:room], self.unsent[room:]
        self.windows = [window - room for window in self.windows]
        return framed(piece)

    def data_received(self, data: bytes) -> None:
        """Process frames, answer them, and record receipts."""
        now = time.monotonic()
        buffer, at, out = self.buffer + data if self.buffer else data, 0, []
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if end > len(buffer):
                break
            kind, flags, stream, payload = buffer[at + 3], buffer[at + 4], buffer[at + 8], buffer[at + 9 : end]
            at = end
            if kind == DATA:
                self.uncredited += len(payload)
                self._message(payload, now, out)
            elif kind == SETTINGS and not flags & ACK:
                for key, value in struct.iter_unpack(">HI", payload):
                    self.windows[1] += value - 65_535 if key == INITIAL_WINDOW else 0
                out.append(frame(SETTINGS, ACK, 0) + self._allowed())
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, payload))
            elif kind == WINDOW_UPDATE and self.unsent:
                self.windows[min(1, stream)] += int.from_bytes(payload, "big")
                out.append(self._allowed())
            elif kind in (GOAWAY, RST_STREAM):
                code = payload[4:8] if kind == GOAWAY else payload
                self.why = f"{'GOAWAY' if kind == GOAWAY else 'RST_STREAM'} {int.from_bytes(code, 'big')}"
            elif kind == HEADERS and flags & 1:
                self.why = "trailers"
                self.transport.close()
        self.buffer = buffer[at:]
        if self.uncredited > CREDIT_BYTES:
            out += [window_update(0, self.uncredited), window_update(1, self.uncredited)]
            self.uncredited = 0
        if out:
            self.transport.write(b"".join(out))

    def _message(self, payload: bytes, now: float, out: list[bytes]) -> None:
        self.body += payload
        while len(self.body) >= 5 and len(self.body) >= (end := 5 + int.from_bytes(self.body[1:5], "big")):
            whole, self.body = self.body[5:end], self.body[end:]
            ack, clusters, assignments, pushes = self.crowd.understood(whole)
            out.append(ack)
            self.clusters += clusters
            self.assignments += assignments
            if not self.newcomer:
                self._note(pushes, now)
            names = self.crowd.names
            if not self.synced.done() and self.clusters >= names and self.assignments >= names:
                self.synced.set_result(now)

    def _note(self, pushes: tuple[int, ...], now: float) -> None:
        crowd = self.crowd
        for number in pushes:
            name = number % crowd.names
            for each in range(self.newest[name] + crowd.names, number + 1, crowd.names) if self.newest[name] else ():
                crowd.receipts.setdefault(each, array("d")).append(now)
            self.newest[name] = max(number, self.newest[name])

    def connection_lost(self, error: Exception | None) -> None:
        """Record an end that this side did not cause."""
        if not self.leaving and not self.newcomer:
            self.crowd.dropped[f"{self.why} {error or ''}".strip()] += 1
        if not self.synced.done():
            self.synced.set_exception(ConnectionError(f"{self.node_id}: {self.why} {error or ''}"))
            self.synced.exception()

    def leave(self) -> None:
        """Close the connection."""
        self.leaving = True
        if self.transport is not None:
            self.transport.abort()


class Commands:
    """The commands of this process."""

    def __init__(self) -> None:
        self.crowd = Crowd(0, 1)
        self.newcomers: list[tuple[float, float | None]] = []
        self._arriving: asyncio.Task[None] | None = None
        self._visits: set[asyncio.Task[None]] = set()

    async def connect(self, port: int, count: int, names: int) -> dict[str, Any]:
        """Connect ``count`` sidecars and wait until all are synced."""
        crowd = self.crowd = Crowd(port, names)
        loop = asyncio.get_running_loop()
        for start in range(0, count, 50):
            batch = [Sidecar(crowd, f"good-{number}") for number in range(start, min(count, start + 50))]
            await asyncio.gather(*(loop.create_connection(lambda each=each: each, "127.0.0.1", port) for each in batch))
            await asyncio.gather(*(each.synced for each in batch))
            crowd.sidecars += batch
        gc.collect()
        gc.freeze()
        return {"synced": len(crowd.sidecars)}

    async def newcomers_begin(self) -> dict[str, Any]:
        """Start to connect two newcomers a second."""
        self._arriving = asyncio.create_task(self._arrive())
        return {}

    async def _arrive(self) -> None:
        number, due = 0, time.monotonic()
        while True:
            number += 1
            visit = asyncio.create_task(self._visit(f"newcomer-{number}", returning=number % 2 == 0))
            self._visits.add(visit)
            visit.add_done_callback(self._visits.discard)
            due += NEWCOMER_INTERVAL_S
            await until_due(due)

    async def _visit(self, node_id: str, *, returning: bool) -> None:
        sidecar, took = Sidecar(self.crowd, node_id, newcomer=True, returning=returning), None
        started = time.monotonic()
        try:
            async with asyncio.timeout(NEWCOMER_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(lambda: sidecar, "127.0.0.1", self.crowd.port)
                took = await sidecar.synced - started
        except (OSError, TimeoutError):
            pass
        sidecar.leave()
        self.newcomers.append((started, took))

    async def newcomers_end(self) -> dict[str, Any]:
        """Stop the newcomers; return the time of each and how long it took to sync (None: it did not)."""
        if self._arriving is not None:
            self._arriving.cancel()
        await asyncio.gather(*self._visits)
        return {"newcomers": self.newcomers}

    async def state(self) -> dict[str, Any]:
        """Return the open streams, the lost ones with reasons, and the CPU time of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        open_now = sum(not each.transport.is_closing() for each in self.crowd.sidecars)
        return {"open": open_now, "dropped": dict(self.crowd.dropped), "cpu_s": used.ru_utime + used.ru_stime}

    async def receipts(self, pushes: list[int]) -> dict[str, Any]:
        """Return the times of each push's receipts, encoded, and forget them."""
        found = {str(each): self.crowd.receipts.pop(each, array("d")) for each in pushes}
        return {"receipts": {number: base64.b64encode(times.tobytes()).decode() for number, times in found.items()}}

    async def counts(self, pushes: list[int]) -> dict[str, Any]:
        """Return the number of receipts of each push so far."""
        return {"counts": [len(self.crowd.receipts.get(each, ())) for each in pushes]}


async def answer_commands(commands: Commands) -> None:
    """Answer commands until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        answer = await getattr(commands, asked.pop("command"))(**asked)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(answer_commands(Commands()))
