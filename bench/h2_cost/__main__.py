"""``python -m bench.h2_cost``: measure in turns, print, and keep the figures if asked to."""

import argparse
import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import bench.h2_cost
from bench.compare.__main__ import machine, our_versions
from bench.compare.floor import Floor
from bench.compare.servers import ROOT
from bench.h2_cost.participants import Exchange, Participant, Wire, open_stream
from bench.h2_cost.table import ALONE, FRAMED, H2, SEND, SERVED, WITH_UPDATE, render
from bench.in_turns.ratios import in_order
from xds.process.descriptors import make_all_room

RESULT = ROOT / "bench" / "results" / "http2" / "h2-cost.json"
STREAMS, ROUNDS = 1_000, 60
WARM_UP_ROUNDS = 3
FURTHER_CONNECTIONS, FURTHER_STREAMS = 10, 50
"""``h2`` allows 100 streams a connection unless told otherwise."""


def measure(streams: int, rounds: int) -> list[dict[str, dict[str, float]]]:
    """Return, for each round, the µs of a delivery's parts by participant: ``send``, and the read by what is in it.

    Raises ValueError where a participant did not write the frame that it should, or did not take a message.
    """
    participants = {name: Participant(name) for name in (SERVED, FRAMED, H2)}
    connected = {name: [each.connected() for _ in range(streams)] for name, each in participants.items()}
    gc.collect()
    gc.freeze()
    gc.disable()
    found = []
    try:
        for number in range(WARM_UP_ROUNDS + rounds):
            pushes = [Exchange(2 * number + 1), Exchange(2 * number + 2)]
            taken = {
                name: _push(participants[name], connected[name], pushes) for name in in_order(list(connected), number)
            }
            found.append({name: taken[name] for name in connected})
    finally:
        gc.enable()
        gc.unfreeze()
    return found[WARM_UP_ROUNDS:]


def _push(
    participant: Participant, connected: Sequence[tuple[Any, Wire]], pushes: Sequence[Exchange]
) -> dict[str, float]:
    """Push twice: the ACK comes alone, then with a WINDOW_UPDATE."""
    counted = participant.taken.count
    sends_us, figures = [], {}
    for exchange, name in zip(pushes, (ALONE, WITH_UPDATE), strict=True):
        sends_us.append(_timed(lambda: _deliver_all(connected, exchange)) / len(connected))  # noqa: B023
        if any(wire.last != exchange.framed for _, wire in connected):
            raise ValueError(f"{participant.name} did not write the frame that it should")
        read = exchange.ack if name == ALONE else exchange.ack_with_update
        figures[name] = _timed(lambda: _receive_all(connected, read)) / len(connected)  # noqa: B023
    if participant.taken.count - counted != len(pushes) * len(connected):
        raise ValueError(f"{participant.name} did not take every message")
    return {SEND: statistics.mean(sends_us), **figures}


def _deliver_all(connected: Sequence[tuple[Any, Wire]], exchange: Exchange) -> None:
    message, framed = exchange.message, exchange.framed
    for connection, _ in connected:
        connection.deliver(message, framed)


def _receive_all(connected: Sequence[tuple[Any, Wire]], read: bytes) -> None:
    for connection, _ in connected:
        connection.data_received(read)


def _timed(work: Callable[[], None]) -> float:
    """Return the µs that the work takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6


def memory(name: str, count: int) -> dict[str, float]:
    """Return the bytes of a connection with its one stream, and of each further stream on it."""
    participant = Participant(name)
    warm = participant.connected()[0]
    open_stream(warm, 3)
    gc.collect()
    tracemalloc.start()
    try:
        at_first = tracemalloc.get_traced_memory()[0]
        connected = [participant.connected() for _ in range(count)]
        gc.collect()
        with_one = tracemalloc.get_traced_memory()[0]
        fewer = connected[:FURTHER_CONNECTIONS]
        for connection, _ in fewer:
            for number in range(FURTHER_STREAMS):
                open_stream(connection, 3 + 2 * number)
        gc.collect()
        with_more = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return {
        "connection_bytes": (with_one - at_first) / count,
        "stream_bytes": (with_more - with_one) / len(fewer) / FURTHER_STREAMS,
    }


def run(streams: int, rounds: int) -> dict[str, Any]:
    """Measure; return what is kept of it."""
    exchange = Exchange(1)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {**our_versions(), **{name: version(name) for name in ("h2", "hyperframe")}},
        "streams": streams,
        "send_recv_us": Floor.measured(streams).us,
        "message_bytes": len(exchange.message),
        "ack_bytes": len(exchange.ack),
        "memory": {name: memory(name, streams) for name in (SERVED, FRAMED, H2)},
        "rounds": measure(streams, rounds),
    }


def main() -> int:
    """Measure, print, and keep it if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.h2_cost",
        description=bench.h2_cost.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=STREAMS, help=f"default {STREAMS:,}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--write", action="store_true", help="keep the figures, for bench/RESULTS.md")
    options = parser.parse_args()
    make_all_room()
    kept = run(options.streams, options.rounds)
    print(render(kept), end="")
    if options.write:
        RESULT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
