"""What has to be known of a node wherever its next stream opens: told by one hub, taken in by the others.

After a NACK a node's claims can't be trusted (``nacked_names``), and after its stream it may go on using what it drains
(``draining_nodes``). With several processes on one port, a node may come back to any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from xds.model.groups import Node
from xds.protocol.draining import Draining
from xds.protocol.name_sets import NO_NAMES, NameSet

NodeKey = tuple[str, str]
"""A node's cluster and id, or what stands for them where they are long."""
KEY_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Something that happened to a node's trust, of one type: names it rejected, or accepted after all.

    ``draining`` is what it may still be using, None if that did not change; empty if what was noted is over. Times in
    it are of the machine's monotonic clock. It is taken ``instead`` of what was noted, or together with it.
    """

    node: NodeKey
    type_url: str
    rejected: NameSet = NO_NAMES
    accepted: NameSet = NO_NAMES
    draining: Draining | None = None
    instead: bool = False


Tell = Callable[[Memory], None]


def tell_nobody(memory: Memory) -> None:
    """Keep it to oneself: there is one process only."""


def node_key(node: Node) -> NodeKey:
    """Return what a node is remembered by. Of names above ``KEY_CHARS_MAX``, the rest is replaced by a digest."""
    return _short(node.cluster), _short(node.id)


def _short(name: str) -> str:
    if len(name) <= KEY_CHARS_MAX:
        return name
    return f"{name[: KEY_CHARS_MAX - 33]}~{blake2b(name.encode(), digest_size=16).hexdigest()}"
