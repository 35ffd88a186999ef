"""The ladder: its rungs from the lowest to the highest, and the other ways of doing what a rung does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """One step up: all below it, and one thing more. ``ways`` are the dearer ones, by their switch."""

    name: str
    switch: str
    does: str
    """What it does, and how, in a sentence."""
    ways: tuple["Way", ...] = ()


@dataclass(frozen=True, slots=True)
class Way:
    """Another way of a rung, switched on instead of the kept one or beside it."""

    name: str
    switch: str
    does: str


RUNGS = (
    Rung(
        "values",
        "",
        "where a client stands is an immutable, interned value; what known bytes or a publish lead to is learnt once",
    ),
    Rung(
        "slices",
        "SLICES",
        "a fan-out is done 32 streams at a time, with the event loop between",
        (
            Way("of 8", "SLICES_OF_8", "8 at a time"),
            Way("of 128", "SLICES_OF_128", "128 at a time"),
        ),
    ),
    Rung(
        "credit",
        "CREDIT",
        "HTTP/2 flow control both ways: one number each, the smaller of the stream's and the connection's window; what "
        "does not fit is cut",
        (Way("two windows", "CREDIT_TWICE", "the stream's and the connection's windows are counted separately"),),
    ),
    Rung(
        "idle",
        "IDLE",
        "silent connections are pinged, then closed: a sweep sees by the value's identity who has answered since",
        (Way("by tick", "IDLE_BY_TICK", "each read notes a coarse tick in its connection"),),
    ),
    Rung(
        "pause",
        "PAUSE",
        "pause_writing, partial sends and what waits for them: folded into the one number that the window is",
        (Way("by flag", "PAUSE_BY_FLAG", "a flag of its own is tested before each delivery"),),
    ),
    Rung("allowances", "ALLOWANCES", "frames and requests that move nothing are charged, on the way of unknown bytes"),
    Rung(
        "counters",
        "COUNTERS",
        "deliveries and bytes are counted once a slice; ACKs are what was delivered less what is in flight, when asked",
        (Way("each", "COUNT_EACH", "each delivery and each ACK adds to counters"),),
    ),
    Rung(
        "clock",
        "CLOCK",
        "the clock is read once a slice and kept with what is in flight; deadlines are coarse ticks",
        (Way("each", "CLOCK_EACH", "each delivery and each ACK reads the clock and keeps it in its connection"),),
    ),
    Rung(
        "node",
        "NODE",
        "a first request's node is cut out by its bytes before the rest is looked up; what nodes share is read once",
        (Way("parsed", "NODE_PARSED", "the node is parsed by protobuf, for each client"),),
    ),
    Rung("ACK with names", "ACK_WITH_NAMES", "a request may be an ACK and change the subscription at once"),
    Rung("order", "ORDER", "make before break: holds, kept clusters and their removal, deadlines; in `step` alone"),
    Rung("TTL", "TTL", "heartbeats by one timer for each set of names and view, not for each stream"),
    Rung("NACK", "NACK", "a rejected response is settled and remembered; its value is the stream's own"),
    Rung(
        "serials",
        "SERIALS",
        "no nonce is sent twice on a stream: only a stream that went back to an older value has to look",
        (Way("each", "SERIAL_EACH", "each delivery compares and keeps the stream's last serial"),),
    ),
    Rung(
        "lifetime",
        "LIFETIME",
        "values live while a stream or a remembered step refers to them; one budget in bytes over all remembered steps",
        (Way("counted", "LIFETIME_COUNTED", "each step counts the value's streams up and down"),),
    ),
    Rung("workers", "WORKERS", "streams are served by another process, which is told of changes through a socket pair"),
    Rung(
        "events",
        "EVENTS",
        "what a node was sent, accepted and rejected can be asked: read off its value; only rejections are told of",
        (Way("each", "EVENT_EACH", "each ACK is told to a table of nodes"),),
    ),
    Rung(
        "TLS",
        "TLS",
        "mutual TLS on memory BIOs, written and flushed 2 KB at a time; read first as much as an ACK takes",
        (
            Way("by uvloop", "TLS_BY_LOOP", "uvloop's own TLS"),
            Way("one buffer", "TLS_ONE_BUFFER", "all is read into one buffer of 16 KB, and copied out of it"),
        ),
    ),
)

LAST = next(rung.name for rung in reversed(RUNGS) if rung.switch != "TLS")
"""The last rung in plaintext, which the product in plaintext is compared with."""


def switches_of(rung: str, way: str = "") -> frozenset[str]:
    """Return what is switched on for a rung, with one of its other ways if named. Raises KeyError."""
    names = [each.name for each in RUNGS]
    if rung not in names:
        raise KeyError(f"there is no rung {rung!r}; there are {', '.join(names)}")
    upto = RUNGS[: names.index(rung) + 1]
    on = {each.switch for each in upto if each.switch}
    if way:
        on.add({each.name: each.switch for each in upto[-1].ways}[way])
    return frozenset(on)
