"""The messages between the parent process and its workers.

Both ends are one program on one machine and trust each other, so messages are pickled. The parent sends a worker
everything in one ``Begin``, then each ``FeedChange`` in order. A worker sends its figures, and the history of its nodes
that other workers need.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xds.model.changeset import Changeset
from xds.protocol.holders import HoldersQuery
from xds.protocol.inspection import InspectQuery
from xds.protocol.measures import Measures
from xds.protocol.node_history import HistoryEntry
from xds.protocol.status import Counters, NodesQuery
from xds.registry.session_events import SessionEvent
from xds.serving.memory_watch import MemoryState
from xds.telemetry.process_figures import ProcessFigures
from xds.transport.tls import TlsFiles

if TYPE_CHECKING:
    from xds.config import Settings


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a worker: the settings, and everything that is served, at a revision."""

    settings: "Settings"
    tls: TlsFiles | None
    """The files of the xDS port's TLS, None without TLS."""
    revision: int
    state: bytes
    """An encoded changeset, shared by all workers that begin at this revision."""
    entries: tuple[HistoryEntry, ...]
    schema: bytes | None = None
    """The descriptor set of the parent's schema, None if it is the packaged one."""
    processes: int = 1
    """The processes of the server, the parent included: they share the memory."""
    name: str = ""
    """What the worker is called where operators read."""


@dataclass(frozen=True, slots=True)
class FeedChange:
    """The changeset of a revision."""

    revision: int
    changeset: Changeset
    committed_at: float | None = None
    """When it was committed, on the monotonic clock, which all processes of a machine share."""


@dataclass(frozen=True, slots=True)
class PublishedTo:
    """A worker has published a revision to its streams: those that begin from now on are sent it."""

    revision: int


@dataclass(frozen=True, slots=True)
class Remember:
    """An entry of a node's history, sent by the worker that serves the node and forwarded to the others."""

    entry: HistoryEntry


@dataclass(frozen=True, slots=True)
class Sessions:
    """What happened to the sessions of a worker, in order."""

    events: list[SessionEvent]


@dataclass(frozen=True, slots=True)
class Probe:
    """Close the connections of these sessions whose clients do not answer: their nodes have newer streams."""

    sessions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Reload:
    """Reload the TLS files, whether they have changed or not."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept no new streams, end the open ones over ``window_s`` seconds, then exit."""

    window_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker serves."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The metrics of a worker: its totals, its open streams, the revision that it serves, limits, and memory."""

    counters: Counters
    streams: int
    revision: int
    tls_failures: Mapping[str, int] = field(default_factory=dict)
    """Refused handshakes and client certificates, by reason."""
    limit_hits: dict[str, int] = field(default_factory=dict)
    memory: MemoryState = field(default_factory=MemoryState)
    measures: Measures = field(default_factory=Measures)
    """What was counted and measured since the last figures."""
    process: ProcessFigures = field(default_factory=lambda: ProcessFigures(name=""))
    client_states: int = 0
    """The number of different states that clients share."""


@dataclass(frozen=True, slots=True)
class Move:
    """End a share of the connections at random times within ``over_s`` seconds."""

    share: float
    over_s: float


@dataclass(frozen=True, slots=True)
class DebtsQuery:
    """The parent requests what clients owe; the answer is an encoded ``ProcessDebts``."""

    doubled: frozenset[str] = frozenset()
    """The ids of nodes with several sessions, each of which is to be told."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that is answered with an ``Answer`` of the same number."""

    number: int
    what: bytes | NodesQuery | InspectQuery | HoldersQuery | Move | DebtsQuery | None
    """What is requested, and so what the answer is.

    - bytes: a CSDS request and its answer. A worker sends it to the parent, which sends it to all workers and joins
      their answers.
    - NodesQuery: an encoded ``NodesFound``.
    - InspectQuery: an encoded ``Inspection``.
    - HoldersQuery: an encoded ``Holders``.
    - Move: the encoded number of connections that will be moved.
    - DebtsQuery: an encoded ``ProcessDebts``.
    - None: the figures, which are sent before the empty answer.
    """


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the ``Ask`` of the same number."""

    number: int
    message: bytes = b""
    refusal: tuple[str, str] | None = None
    """The status name and the message of an error."""


def encode(message: object) -> bytes:
    """Return a message as bytes."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def decode(data: bytes) -> Any:
    """Return a decoded message. The bytes must come from ``encode`` in a process of this server."""
    return pickle.loads(data)  # noqa: S301 - our own process at the other end of a socket pair
