"""The figures of ``python -m bench.h2_cost`` as a section of bench/RESULTS.md. It measures nothing."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.in_turns.ratios import Ratio

SERVED, FRAMED, H2 = "served", "framed", "h2"
"""Who takes turns."""
SEND, ALONE, WITH_UPDATE = "send", "an ACK alone", "an ACK and a WINDOW_UPDATE"
"""The parts of a delivery: the message out, and the read that answers it, by what is in it."""
TITLE = "## The `h2` library in place of this project's HTTP/2"


def render(kept: Mapping[str, Any] | None) -> str:
    """Return the figures as a section of bench/RESULTS.md; None: there are none."""
    lines = ["Not measured: `make bench-h2`."] if kept is None else _lines(kept)
    return "\n".join([TITLE, "", *lines]) + "\n"


def _lines(kept: Mapping[str, Any]) -> Iterator[str]:
    rounds, versions, memory = kept["rounds"], kept["versions"], kept["memory"]
    shown = {
        SERVED: "ours, as the server uses it",
        FRAMED: "ours, each frame made and read anew",
        H2: f"`h2` {versions['h2']}",
    }
    totals = {
        name: {read: [each[name][SEND] + each[name][read] for each in rounds] for read in (ALONE, WITH_UPDATE)}
        for name in shown
    }
    medians = {name: statistics.median(totals[name][ALONE]) for name in shown}
    times = {name: Ratio.of(totals[name][ALONE], totals[H2][ALONE]).median for name in (SERVED, FRAMED)}
    yield (
        f"Without sockets and xDS, a delivery and its ACK take **{medians[H2]:.1f} µs through `h2`**, "
        f"{medians[SERVED]:.2f} µs through this project's HTTP/2 as the server uses it, and {medians[FRAMED]:.2f} µs "
        f"where it makes and reads each frame anew: {times[SERVED]:.1f} and {times[FRAMED]:.1f} times less. "
        f"One `send()` and one `recv()` took {kept['send_recv_us']:.1f} µs in the same run."
    )
    yield ""
    yield (
        f"By `make bench-h2` (`python -m bench.h2_cost --write`), in turns in one run: {kept['streams']:,} connections "
        f"with one stream each; a message of {kept['message_bytes']} bytes goes out, a frame with an ACK of "
        f"{kept['ack_bytes']} bytes comes in. µs, the median of {len(rounds)} rounds with the smallest and the largest "
        "in brackets; ratios with the interval that holds the median ratio 19 times in 20."
    )
    yield ""
    yield f"| | the message out | a delivery, {ALONE} | `h2` : this | a delivery, {WITH_UPDATE} | `h2` : this |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, title in shown.items():
        cells = [_spread([each[name][SEND] for each in rounds])]
        for read in (ALONE, WITH_UPDATE):
            ratio = "1" if name == H2 else _ratio(Ratio.of(totals[name][read], totals[H2][read]))
            cells += [_spread(totals[name][read]), ratio]
        yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield "Memory that Python allocates (1 KB is 1,000 bytes):"
    yield ""
    yield "| | a connection with one stream, KB | each further stream, KB |"
    yield "|---|---:|---:|"
    for name, title in shown.items():
        sizes = [memory[name][part] / 1000 for part in ("connection_bytes", "stream_bytes")]
        yield f"| {title} | {sizes[0]:.2f} | {sizes[1]:.2f} |"
    yield ""
    place = ", ".join(f"{name} {value}" for name, value in {**kept["machine"], **versions}.items())
    yield f"{kept['date']}: {place}."


def _ratio(found: Ratio) -> str:
    interval = "" if found.low is None or found.high is None else f" ({found.low:.1f}–{found.high:.1f})"
    return f"{found.median:.1f}{interval}"


def _spread(found: Sequence[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"
