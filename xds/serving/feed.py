"""What the parent process and its workers tell each other. It does not know how messages travel.

Both ends are one program on one machine and trust each other, so messages are pickled. A worker is told everything in
one ``Begin``, then each ``FeedChange`` in order; it tells its figures, and what of its nodes the others have to know.
"""

import pickle
from dataclasses import dataclass
from typing import Any

from xds.config import Settings
from xds.model.changeset import Changeset
from xds.protocol.node_history import HistoryEntry
from xds.protocol.status import Counters, NodesQuery


@dataclass(frozen=True, slots=True)
class Begin:
    """The first thing that a worker is told: how to serve, and all that is served, at which revision."""

    settings: Settings
    revision: int
    state: bytes
    """An encoded changeset: encoded once for all workers that begin at a revision."""
    entries: tuple[HistoryEntry, ...]


@dataclass(frozen=True, slots=True)
class FeedChange:
    """A changeset that made a revision."""

    revision: int
    changeset: Changeset


@dataclass(frozen=True, slots=True)
class Remember:
    """What happened to a node, told by the worker that saw it and passed on to the others."""

    entry: HistoryEntry


@dataclass(frozen=True, slots=True)
class Reload:
    """Read the TLS files again, changed or not."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new streams, end the open ones over so many seconds, then exit."""

    window_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker serves."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How a worker is doing: its totals, the streams that it has now, and the revision that it serves."""

    counters: Counters
    streams: int
    revision: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A CSDS request: from a worker to the parent, which asks all workers and puts their answers together.

    Without a message, the parent asks for a worker's figures, which come before the empty answer; with ``nodes``, how
    far its nodes are, which is answered with an encoded list of ``NodeSummary``.
    """

    number: int
    message: bytes | None
    nodes: NodesQuery | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the ``Ask`` of that number; ``refusal``: the name of the status, and the message, of an error."""

    number: int
    message: bytes = b""
    refusal: tuple[str, str] | None = None


def encode(message: object) -> bytes:
    """Return a message as bytes."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def decode(data: bytes) -> Any:
    """Return the message that the bytes are. They must come from ``encode`` in a process of ours."""
    return pickle.loads(data)  # noqa: S301 - our own process at the other end of a socket pair
