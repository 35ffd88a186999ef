"""What has to be known of a node wherever its next stream opens: told by one hub, taken in by the others.

After a NACK a node's claims can't be trusted (``doubts``), and after its stream it may go on using what it drains
(``leftovers``). With several processes on one port, a node may come back to any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from xds.protocol.state import Lingering

NOTHING: frozenset[str] = frozenset()
NodeKey = tuple[str, str]
"""A node's cluster and id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Something that happened to a node's trust, of one type: names it rejected, or accepted after all.

    ``lingering`` is what it may still be using after its stream, None if that did not change; empty if it is with its
    next stream now. Times in it are of the machine's monotonic clock.
    """

    node: NodeKey
    type_url: str
    rejected: frozenset[str] = NOTHING
    accepted: frozenset[str] = NOTHING
    lingering: Lingering | None = None


Tell = Callable[[Memory], None]


def tell_nobody(memory: Memory) -> None:
    """Keep it to oneself: there is one process only."""
