"""One gRPC stream as the protocol sees it, and the session of a client's streams: who it is, and where it stands."""

from collections.abc import Mapping
from typing import Any

from xds.model.groups import Node
from xds.model.snapshot import Snapshot
from xds.protocol.draining import NEVER
from xds.protocol.errors import StreamRefusedError
from xds.protocol.standing import NO_MARKS, Marks, Source, Standing
from xds.protocol.state import Kind, Rejection, TypeState, Variant


class Session:
    """One client's streams: one aggregated stream, or all per-type streams of a node on one connection.

    ``at`` is where the client stands; ``marks`` the types that were changed since and that it was not told of.
    """

    __slots__ = (
        "at",
        "group",
        "is_grpc",
        "marks",
        "newest",
        "node",
        "node_hash",
        "per_type",
        "rejections",
        "since",
        "slots",
        "streams",
        "timer",
    )

    def __init__(
        self,
        node: Node,
        group: str,
        newest: Snapshot,
        at: Standing,
        *,
        is_grpc: bool,
        per_type: bool,
        since: float,
    ) -> None:
        self.node = node
        self.group = group
        self.newest = newest
        """The snapshot that it is brought to."""
        self.is_grpc = is_grpc
        self.per_type = per_type
        self.since = since
        """When its first stream said who it is."""
        self.at = at
        self.marks: Marks = NO_MARKS
        self.streams: list[Stream] = []
        self.slots = 0
        """How many streams it has had."""
        self.timer = NEVER
        """When it is to be looked at, at the latest."""
        self.node_hash = 0
        """Of the bytes that described the node, so that equal ones need not be read again."""
        self.rejections: dict[Kind, Rejection] | None = None
        """The last rejection of each type."""

    def add(self, stream: "Stream") -> None:
        """Take in a stream."""
        stream.session, stream.slot = self, self.slots
        stream.source = Source(stream.variant, stream.slot, stream.type_url, self.is_grpc)
        self.slots += 1
        self.streams.append(stream)

    def rejection(self, kind: Kind) -> Rejection | None:
        """Return the last rejection of a type."""
        return self.rejections.get(kind) if self.rejections is not None else None


class Stream:
    """One gRPC stream. ``type_url`` is empty on an aggregated one; ``slot`` tells it from its session's others."""

    __slots__ = (
        "__weakref__",
        "connection",
        "names_bytes",
        "owner",
        "queued",
        "refusal",
        "session",
        "slot",
        "source",
        "type_url",
        "variant",
        "warm",
    )

    def __init__(self, variant: Variant, type_url: str, connection: str) -> None:
        self.variant = variant
        self.type_url = type_url
        self.connection = connection
        self.session: Session | None = None
        self.owner: Any = None
        """Whose stream it is: the transport's end of it, of no account here."""
        self.slot = 0
        self.source = Source(variant, 0, type_url, is_grpc=False)
        self.queued = False
        self.names_bytes = 0
        """At most so much memory its names take (``Hub``)."""
        self.warm = False
        """Its client said what it has from an earlier stream: little is to be sent to it."""
        self.refusal: StreamRefusedError | None = None

    @property
    def aggregated(self) -> bool:
        """Say whether the stream carries all types (ADS)."""
        return not self.type_url

    @property
    def settled(self) -> bool:
        """Say whether nothing more is to be sent until something happens."""
        session = self.session
        return session is None or (session.at.settled and not session.marks)

    @property
    def states(self) -> Mapping[str, TypeState]:
        """Where the client stands in each type of this stream, in the order in which they are sent. Read-only."""
        if self.session is None:
            return {}
        return {state.type_url: state for state in self.session.at.types if state.kind.slot == self.slot}
