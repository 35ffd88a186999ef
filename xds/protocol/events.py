"""What happens on streams that an operator may have to act on. The core only notes it; the edges log and count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from xds.protocol.response import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """A node rejected a response. ``resources`` maps the names in it to the versions that it was sent."""

    node_id: str
    group: str
    type_url: str
    nonce: str
    message: str
    resources: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A node did not answer a response within the hold timeout."""

    node_id: str
    group: str
    type_url: str
    nonce: str
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A stream was ended for what it asked. ``node_id`` is empty if it had not said who it is."""

    node_id: str
    status: str
    message: str


def nacked(node_id: str, group: str, type_url: str, part: Part, message: str) -> Nacked:
    """Return the event of a rejected part."""
    return Nacked(
        node_id=node_id, group=group, type_url=type_url, nonce=part.nonce, message=message, resources=part.versions
    )


def overdue(node_id: str, group: str, type_url: str, nonce: str, waited_s: float) -> Overdue:
    """Return the event of an answer that did not come."""
    return Overdue(node_id=node_id, group=group, type_url=type_url, nonce=nonce, waited_s=waited_s)


Event = Nacked | Overdue | Refused


@dataclass(slots=True)
class Counters:
    """Totals since the start, for metrics."""

    streams_opened: int = 0
    streams_closed: int = 0
    streams_refused: int = 0
    requests: int = 0
    responses: int = 0
    response_bytes: int = 0
    resources_sent: int = 0
    removals_sent: int = 0
    heartbeats: int = 0
    acks: int = 0
    nacks: int = 0
    overdue: int = 0

    @classmethod
    def sum(cls, counters: Iterable["Counters"]) -> "Counters":
        """Return the totals of several."""
        total = cls()
        for one in counters:
            for name in (each.name for each in fields(cls)):
                setattr(total, name, getattr(total, name) + getattr(one, name))
        return total

    def count(self, part: Part, times: int = 1) -> None:
        """Count a message that was sent, to so many streams."""
        self.responses += times
        self.response_bytes += times * len(part.message)
        self.resources_sent += times * len(part.upserts)
        self.removals_sent += times * len(part.removals)
        self.heartbeats += times * part.is_heartbeat
