"""NACKs that are not noted yet, because their responses are still to be searched for secrets."""

from collections import Counter, deque
from typing import NamedTuple

from xds.protocol.client_state import Answered
from xds.protocol.responses import Part
from xds.protocol.sessions import Session

UNEXAMINED_MAX, UNEXAMINED_BYTES_MAX = 1_000, 64 * 1024 * 1024
"""Maximum NACKs that are not noted yet, and bytes of their texts and of the rejected responses; at more, all are noted
at once."""


class Unexamined(NamedTuple):
    """A NACK that is not noted yet, since the rejected resources are still to be searched for secrets."""

    session: Session
    answered: Answered
    at: float

    @property
    def about(self) -> tuple[str, str]:
        """The id of its node, and its type."""
        return self.session.node.id, self.answered.kind.type_url


class UnexaminedNacks:
    """The NACKs that are not noted yet, oldest first."""

    __slots__ = ("_by_node_and_type", "_by_part", "_bytes", "_queue")

    def __init__(self) -> None:
        self._queue = deque[Unexamined]()
        self._by_node_and_type = Counter[tuple[str, str]]()
        self._by_part = Counter[Part]()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> Unexamined:
        """The oldest."""
        return self._queue[0]

    def has(self, node_id: str, type_url: str) -> bool:
        """Whether there is one of a node and type."""
        return bool(self._queue) and (node_id, type_url) in self._by_node_and_type

    def add(self, nack: Unexamined) -> None:
        """Add one."""
        self._queue.append(nack)
        self._by_node_and_type[nack.about] += 1
        part = nack.answered.part
        self._by_part[part] += 1
        self._bytes += len(nack.answered.error or "") + (len(part.message) if self._by_part[part] == 1 else 0)

    def drop_first(self) -> None:
        """Drop the oldest, which is noted now."""
        nack = self._queue.popleft()
        about, part = nack.about, nack.answered.part
        self._by_node_and_type[about] -= 1
        if not self._by_node_and_type[about]:
            del self._by_node_and_type[about]
        self._by_part[part] -= 1
        self._bytes -= len(nack.answered.error or "")
        if not self._by_part[part]:
            del self._by_part[part]
            self._bytes -= len(part.message)

    @property
    def are_too_many(self) -> bool:
        """Whether they are more, or take more, than may wait."""
        return len(self._queue) > UNEXAMINED_MAX or self._bytes > UNEXAMINED_BYTES_MAX
