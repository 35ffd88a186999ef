"""Fuzz the HTTP/2 connection: ``python tests/http2/fuzz.py --frames 1000000 [--seed N] [--only CONNECTION] [--live]``.

Connections have a few to a few thousand frames each, of three kinds: *faithful*, where the ``h2`` library is the client
and raises on any error of the server; *sane*, with frames that a client could send, in any order; and *wild*, with
frames of random content and damaged ones. With ``--live`` these are sent to a server process over TCP.

The exit code is 1, with the seed that repeats the run, if the connection raises an exception, sends what it must not,
leaks a stream or memory, or is slow; for a faithful client, also if it ends the connection or a call has no answer.
"""

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, StreamEnded, StreamReset
from h2.settings import SettingCodes
from support import native_peer as p
from support import resources as r
from support.native_fuzz import LIVE, Application, Fault, Sayer, Watcher
from support.native_peer import Peer, delta_request, message, request_fields
from support.native_server import MIB, NativeServer, check_sound

from xds.transport.http2.limits import Http2Limits

RECEIVE_S_MAX = 2.0
GROWTH_BYTES = 64 * MIB
FRAMES_PER_CONNECTION = (5, 50, 500, 5_000)
LIVE_BATCH = 20
CHECKED_EVERY = 2_000
STIRRED = 0.02
"""Spontaneous actions of the application, per frame."""
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Tally:
    """Counts of what a run has covered.

    ``frames`` counts the random frames, ``made`` their kinds and the actions of faithful clients, ``ends`` the
    connections by how they ended.
    """

    frames: int = 0
    connections: int = 0
    streams: int = 0
    messages: int = 0
    written_bytes: int = 0
    slowest_s: float = 0.0
    made: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def add(self, server: Application, frames: int, how: str) -> None:
        """Count a connection that has ended."""
        self.connections += 1
        self.frames += frames
        self.streams += server.opened
        self.messages += server.messages
        self.ends[how] += 1

    def text(self) -> str:
        """Return the counts as text."""

        def counted(counts: Counter[str]) -> str:
            return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())

        if not self.made:
            return f"{self.frames:,} frames on {self.connections:,} connections over TCP: {counted(self.ends)}"
        return (
            f"{self.frames:,} frames by chance on {self.connections:,} connections ({counted(self.made)})\n"
            f"{self.streams:,} streams were opened, {self.messages:,} messages taken\n"
            f"{self.written_bytes / MIB:,.0f} MiB were answered: {counted(self.written)}\n"
            f"connections ended: {counted(self.ends)}\n"
            f"the slowest piece took {self.slowest_s * 1000:.1f} ms of CPU"
        )


Progress = Callable[[Tally], None]


def limits_by(chance: random.Random) -> Http2Limits:
    """Return random limits, from small to the defaults."""
    return Http2Limits(
        streams_max=chance.choice((1, 10, 1_000, 10_000)),
        message_bytes_max=chance.choice((20_000, 1 << 20)),
        stream_window=chance.choice((65_535, 64 * 1024, 1 << 20)),
        connection_window=chance.choice((65_535, 1 << 20)),
        chores=chance.choice((20, 2_000, 10**9)),
    )


def receive(server: Application, data: bytes, tally: Tally) -> None:
    """Pass bytes to the server, and check that it handles them quickly."""
    began = time.process_time()
    server.receive(data)
    spent_s = time.process_time() - began
    tally.slowest_s = max(tally.slowest_s, spent_s)
    if spent_s > RECEIVE_S_MAX:
        raise Fault(f"{len(data)} bytes took {spent_s:.1f} s of CPU")


# --- Sane and wild ---------------------------------------------------------------------------------------------------


def by_chance(chance: random.Random, tally: Tally, *, wild: bool) -> None:
    """A connection of random frames, split anywhere: mostly frames that a client may send, or mostly others."""
    server, sayer, watcher = Application(limits_by(chance)), Sayer(chance), Watcher()
    wildness = chance.choice((0.2, 0.5, 0.9) if wild else (0.0, 0.001, 0.01))
    most, frames = chance.choice(FRAMES_PER_CONNECTION[:2] if wild else FRAMES_PER_CONNECTION), 0
    waiting = p.PREFACE + p.settings_frame()
    while frames < most and not server.dead:
        frames += 1
        if chance.random() >= wildness:
            tally.made["sane"] += 1
            waiting += sayer.sane()
        else:
            kind, said = sayer.unlike()
            tally.made[kind] += 1
            waiting += said
        while waiting and (len(waiting) > 30_000 or chance.random() < 0.7):
            size = len(waiting) if chance.random() < 0.7 else chance.randrange(1, len(waiting) + 1)
            receive(server, waiting[:size], tally)
            waiting = waiting[size:]
            watch(server, watcher, tally)
        if chance.random() < STIRRED:
            server.stir(chance)
            watch(server, watcher, tally)
    ended = "GOAWAY " + ErrorCodes(watcher.goaway).name if watcher.goaway else "the client left"
    close(server, tally)
    tally.add(server, frames, ended)


def watch(server: Application, watcher: Watcher, tally: Tally) -> None:
    """Check what the server has written."""
    server.check()
    if server.out:
        tally.written_bytes += len(server.out)
        tally.written += watcher.look(bytes(server.out))
        server.out.clear()
    if server.dead != server.closed or server.dead != bool(watcher.goaway):
        raise Fault(f"dead {server.dead}, closed {server.closed}, told {watcher.goaway}")


def close(server: Application, tally: Tally) -> None:
    """Lose the connection, and check that nothing is left."""
    server.lost()
    server.lost()
    receive(server, p.PREFACE + p.settings_frame() + p.ping(), tally)
    server.check()
    if server.streams:
        raise Fault(f"{len(server.streams)} streams are left of a lost connection")


# --- Faithful --------------------------------------------------------------------------------------------------------


class Faithful:
    """A client on ``h2`` that follows every rule, and a server that must serve it."""

    def __init__(self, chance: random.Random, tally: Tally) -> None:
        self.chance = chance
        self.tally = tally
        self.server = Application(Http2Limits(chores=10**9))
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.server.out += self.server.limits.hello()
        self.open: dict[int, int] = {}  # stream → expected bytes
        self.unread: dict[int, int] = {}
        self.frames = 0
        self.exchange()

    def run(self) -> None:
        """Act as a client, then check that every call was answered in full."""
        acts = (
            self.call,
            self.say,
            self.say,
            self.read,
            self.finish,
            self.cancel,
            self.tune,
            self.ping,
            self.stop_or_go,
        )
        for _ in range(self.chance.choice(FRAMES_PER_CONNECTION[:3])):
            self.chance.choice(acts)()
            self.frames += 1
            self.exchange()
        self.server.resume()
        self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        for _ in range(1_000):
            self.exchange()
            if not self.open:
                break
            self.read(everything=True)
            for number in list(self.open):
                self.finish(number)
        if self.open:
            raise Fault(f"calls without an end: {self.open}")
        close(self.server, self.tally)
        self.tally.made["faithful"] += self.frames
        self.tally.add(self.server, 0, "faithful to the end")

    def exchange(self) -> None:
        """Exchange the bytes of both sides, in pieces, until neither sends more."""
        while True:
            said = self.client.data_to_send()
            while said:
                size = self.chance.choice((len(said), len(said), 1, 9, 100))
                receive(self.server, said[:size], self.tally)
                said = said[size:]
            self.server.check()
            if not self.server.out:
                return
            heard = bytes(self.server.out)
            self.server.out.clear()
            self.tally.written_bytes += len(heard)
            for event in self.client.receive_data(heard):
                self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            raise Fault(f"a faithful client is sent away: {event.error_code} {event.additional_data!r}")
        if isinstance(event, StreamReset):
            raise Fault(f"a faithful client's stream is reset: {event.error_code}")
        if isinstance(event, DataReceived):
            self.unread[event.stream_id] = self.unread.get(event.stream_id, 0) + event.flow_controlled_length
            if event.stream_id in self.open:
                self.open[event.stream_id] -= len(event.data)
        elif isinstance(event, StreamEnded) and (left := self.open.pop(event.stream_id, 0)):
            raise Fault(f"{left} bytes are missing on stream {event.stream_id}")

    def call(self) -> None:
        """Open a stream, unless many are open."""
        if len(self.open) < 30:
            number = self.client.get_next_available_stream_id()
            self.client.send_headers(number, request_fields())
            self.open[number] = 0

    def say(self) -> None:
        """Send a message that requests some bytes, if the windows allow it and the server does not queue too much."""
        if not self.open:
            return
        number = self.chance.choice(list(self.open))
        if self._ended(number) or self.open[number] > 0:
            return
        asked = self.chance.choice((0, 10, 3_000, 60_000))
        said = message(asked.to_bytes(2, "big") + bytes(self.chance.choice((0, 50, 9_000))))
        padding = self.chance.choice((None, None, None, 0, 200))
        window = self.client.local_flow_control_window(number)
        if len(said) + 2 + 2 * (padding or 0) <= min(window, self.client.max_outbound_frame_size):
            cut = self.chance.choice((len(said), len(said), self.chance.randrange(len(said))))
            self.client.send_data(number, said[:cut], pad_length=padding)
            if said[cut:]:
                self.client.send_data(number, said[cut:])
            self.open[number] += asked + 5

    def _ended(self, number: int) -> bool:
        return self.client.streams[number].state_machine.stream_closed_by is not None or not self._writable(number)

    def _writable(self, number: int) -> bool:
        return self.client.streams[number].state_machine.state.name in ("OPEN", "HALF_CLOSED_REMOTE")

    def read(self, *, everything: bool = False) -> None:
        """Return credit for bytes read: of one stream, a part, or all."""
        for number in (
            list(self.unread) if everything else self.chance.sample(list(self.unread), min(1, len(self.unread)))
        ):
            size = self.unread[number] if everything else self.chance.randrange(self.unread[number] + 1)
            self.unread[number] -= size
            if not self.unread[number]:
                del self.unread[number]
            if size:
                self.client.acknowledge_received_data(size, number)

    def finish(self, number: int = 0) -> None:
        """Half-close a stream, some with trailers."""
        number = number or (self.chance.choice(list(self.open)) if self.open else 0)
        if number and self._writable(number):
            if self.chance.random() < 0.2:
                self.client.send_headers(number, [("x-checksum", "1")], end_stream=True)
            else:
                self.client.end_stream(number)

    def cancel(self) -> None:
        """Reset a stream."""
        if self.open and self.chance.random() < 0.3:
            number = self.chance.choice(list(self.open))
            del self.open[number]
            if unread := self.unread.pop(number, 0):
                self.client.acknowledge_received_data(unread, number)
            self.client.reset_stream(number, ErrorCodes.CANCEL)

    def tune(self) -> None:
        """Change settings: the initial window, or the size of our header table."""
        sizes = {
            SettingCodes.INITIAL_WINDOW_SIZE: self.chance.choice((0, 10, 65_535, 1 << 20)),
            SettingCodes.HEADER_TABLE_SIZE: self.chance.choice((0, 100, 4_096, 1 << 16)),
        }
        self.client.update_settings({code: sizes[code] for code in self.chance.sample(list(sizes), 1)})

    def stop_or_go(self) -> None:
        """Stop reading from the socket, or resume."""
        if self.server.paused:
            self.server.resume()
        else:
            self.server.paused = self.chance.random() < 0.5

    def ping(self) -> None:
        """Send a PING."""
        self.client.ping(self.chance.randbytes(8))


# --- Live ------------------------------------------------------------------------------------------------------------


def live(server: NativeServer, frames: int, seed: int, progress: Progress = lambda tally: None) -> Tally:
    """Send a number of random frames over TCP, on as many connections as needed."""
    tally = Tally()
    while tally.frames < frames:
        number = tally.connections
        chance = random.Random(f"{seed}:live:{number}")
        wildness = chance.choice((0.0, 0.0, 0.001, 0.01))
        sayer, said = Sayer(chance), _live_frames(chance, wildness)
        with Peer(server.port) as peer:
            how, reading = "the client left", chance.random() < 0.8
            for _ in range(chance.choice(FRAMES_PER_CONNECTION) // LIVE_BATCH + 1):
                ended = peer.flood((said(sayer) for _ in range(LIVE_BATCH)), reading=reading)
                if ended.closed or ended.stalled:
                    how = "the server closed" if ended.closed else "neither would read"
                    break
                tally.frames += LIVE_BATCH
            else:
                if reading and not wildness:
                    with contextlib.suppress(ConnectionError):  # the server may answer with an error, or ignore it
                        peer.settled()
        tally.ends[how] += 1
        tally.connections += 1
        if tally.connections % 50 == 0:
            check_sound(server)
            progress(tally)
    check_sound(server)
    return tally


def _live_frames(chance: random.Random, wildness: float) -> Callable[[Sayer], bytes]:
    """Return the frame generator of one connection, with whole and damaged xDS requests among the data."""

    def made(sayer: Sayer) -> bytes:
        if chance.random() < wildness:
            return sayer.unlike()[1]
        if chance.random() >= 0.2:
            return sayer.sane()
        asked = bytearray(delta_request(node_id=f"n{chance.randrange(5)}"))
        if chance.random() < 0.5:
            asked[chance.randrange(5, len(asked))] ^= 1 << chance.randrange(8)
        opening = sayer.request()
        return opening + p.frame(p.DATA, 0, sayer.next_id - 2, bytes(asked))

    return made


# --- The whole -------------------------------------------------------------------------------------------------------


def fuzz(frames: int, seed: int, *, only: int | None = None, progress: Progress = lambda tally: None) -> Tally:
    """Fuzz in this process until a number of random frames were sent. Raises Fault, or the connection's exception."""
    tally, number = Tally(), 0 if only is None else only
    memory = 0
    while tally.frames < frames and (only is None or number == only):
        chance = random.Random(f"{seed}:{number}")
        try:
            if number % 32 == 0:
                Faithful(chance, tally).run()
            else:
                by_chance(chance, tally, wild=number % 32 > 1)
        except Exception as error:
            error.add_note(f"repeat it with: python tests/http2/fuzz.py --seed {seed} --only {number}")
            raise
        number += 1
        if number % CHECKED_EVERY == 0:
            memory = memory or memory_bytes()  # the first connection fills all caches
            check_kept(memory)
            progress(tally)
    check_kept(memory)
    return tally


def check_kept(before: int) -> None:
    """Raise Fault if connections or streams are still referenced, or memory has grown since ``before``."""
    gc.collect()
    if LIVE:
        raise Fault(f"{len(LIVE)} connections and streams are kept, such as {next(iter(LIVE))!r}")
    if before and memory_bytes() - before > GROWTH_BYTES:
        raise Fault(f"memory grew by {(memory_bytes() - before) / MIB:.0f} MiB")


def memory_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(tally: Tally, *, seed: int, took_s: float, growth_bytes: int, fault: str) -> dict[str, Any]:
    """Return a report of a run."""
    commit = subprocess.run(("git", "describe", "--always", "--dirty"), capture_output=True, text=True, cwd=ROOT)
    counts = {name: dict(getattr(tally, name).most_common()) for name in ("made", "ends", "written")}
    versions = {name: version(name) for name in ("h2", "hpack", "hyperframe", "uvloop")}
    inside = {
        "streams": tally.streams,
        "messages": tally.messages,
        "answered_bytes": tally.written_bytes,
        "slowest_piece_cpu_s": round(tally.slowest_s, 4),
    }
    return {
        "outcome": fault or "no fault",
        "frames": tally.frames,
        "seed": seed,
        "connections": tally.connections,
        **(inside if tally.made else {}),
        "memory_growth_bytes": growth_bytes,
        "took_s": round(took_s, 1),
        **counts,
        "versions": {"Python": platform.python_version(), "commit": commit.stdout.strip(), **versions},
    }


def main() -> int:
    """Run the fuzzer from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", type=int, help="the one connection that a failure named")
    parser.add_argument("--live", action="store_true", help="over TCP, to a server of its own")
    parser.add_argument("--seconds", type=int, default=3_600, help="give up after so long, as if it hung")
    parser.add_argument("--output", type=Path, help="write the outcome as JSON")
    arguments = parser.parse_args()
    faulthandler.dump_traceback_later(arguments.seconds, exit=True)
    began = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)

    def progress(tally: Tally) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {tally.frames:9,} of {arguments.frames:,} frames", flush=True)

    if arguments.live:
        with NativeServer(resources=[r.static_cluster("a", 1)], limits={"chores": 10**9}) as server:
            live(server, 200, arguments.seed)  # so that one-time allocations are done
            memory = server.memory_bytes()
            tally = live(server, arguments.frames, arguments.seed, progress)
            grown = server.memory_bytes() - memory
    else:
        memory = memory_bytes()
        tally = fuzz(arguments.frames, arguments.seed, only=arguments.only, progress=progress)
        grown = memory_bytes() - memory
    fault = "memory grew without bound" if grown > GROWTH_BYTES else ""
    took_s = time.monotonic() - began
    print(f"{tally.text()}\n{fault or 'no fault'} in {took_s:.1f} s, memory {grown / MIB:+.1f} MiB")
    if arguments.output is not None:
        made = report(tally, seed=arguments.seed, took_s=took_s, growth_bytes=grown, fault=fault)
        arguments.output.write_text(json.dumps(made, indent=1) + "\n")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
