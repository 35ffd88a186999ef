"""One gRPC stream as the protocol sees it, and the limits of what it takes and waits. It does not know sockets."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.protocol.errors import StreamRefusedError
from xds.protocol.state import TypeState, Variant

if TYPE_CHECKING:
    from xds.protocol.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """How long order may cost time. ``enabled`` False sends every change at once, at the price of failed requests.

    ``hold_timeout_s`` bounds every wait for a client's answer; ``listener_drain_s`` is how long a client goes on using
    the inline routes of a listener that it replaced (Envoy's ``--drain-time-s``).
    """

    enabled: bool = True
    hold_timeout_s: float = 20.0
    listener_drain_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one stream, or the memory of streams that ended, may take."""

    node_bytes_max: int = 64 * 1024
    subscriptions_max: int = 100_000
    types_max: int = 64
    names_bytes_max: int = 64 * 1024 * 1024
    doubtful_nodes_max: int = 10_000
    nacked_bytes_max: int = 64 * 1024 * 1024
    draining_bytes_max: int = 64 * 1024 * 1024


class Stream:
    """One gRPC stream: its types, in the order in which they are sent. ``type_url`` is empty on an aggregated one."""

    __slots__ = (
        "__weakref__",
        "connection",
        "due",
        "names_bytes",
        "queued",
        "refusal",
        "session",
        "settled",
        "states",
        "type_url",
        "variant",
        "warm",
    )

    def __init__(self, variant: Variant, type_url: str, connection: str) -> None:
        self.variant = variant
        self.type_url = type_url
        self.connection = connection
        self.session: Session | None = None
        self.states: dict[str, TypeState] = {}
        self.queued = False
        self.due: TypeState | None = None
        """The one type that it was queued for, if it was for one only."""
        self.names_bytes = 0
        """At most so much memory its names take (``requests.check_names_bytes``)."""
        self.settled = False
        """Nothing more is to be sent after the last message, until something happens."""
        self.warm = False
        """Its client said what it has from an earlier stream: little is to be sent to it."""
        self.refusal: StreamRefusedError | None = None

    @property
    def aggregated(self) -> bool:
        """Say whether the stream carries all types (ADS)."""
        return not self.type_url

    def add(self, state: TypeState) -> None:
        """Take in a type, keeping the order of stages."""
        stage = state.policy.stage
        in_order = all(other.policy.stage <= stage for other in self.states.values())
        self.states[state.type_url] = state
        if not in_order:
            self.states = dict(sorted(self.states.items(), key=lambda item: item[1].stage))
