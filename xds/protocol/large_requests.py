"""Large requests, known again by comparison: what a whole fleet says alike is one object.

After a restart every sidecar names all it has, hundreds of kilobytes of names and versions, and those of a fleet are
alike but for their node, which encoders write first. They are looked up by their length and their last bytes, then
compared whole: to hash them costs several times as much, and needs a copy without the node.
"""

from collections import OrderedDict

TAIL_BYTES = 64
ALIKE_MAX = 8
"""Of requests of equal length that end alike, so many are known."""
AGE_MAX = 2
"""Requests that were not seen for so many periods are forgotten: after a storm they are of no use."""
LARGE_BYTES = 2_048

_Key = tuple[int, bytes]


class LargeRequests:
    """The large requests seen lately, without their nodes; beyond ``bytes_max`` the longest unseen are forgotten."""

    __slots__ = ("_ages", "_bytes", "_bytes_max", "_known")

    def __init__(self, *, bytes_max: int = 16 * 1024 * 1024) -> None:
        self._known: OrderedDict[_Key, list[bytes]] = OrderedDict()
        self._ages: dict[_Key, int] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def plain(self, data: bytes, node: tuple[int, int]) -> bytes:
        """Return a request without its node, which begins and ends there: the same object for equal ones kept."""
        node_start, node_end = node
        size = len(data) - node_end
        if node_start or size < LARGE_BYTES:
            return data[:node_start] + data[node_end:] if node_end else data
        key = (size, data[-TAIL_BYTES:])
        for plain in self._known.get(key, ()):
            if data.endswith(plain):
                self._known.move_to_end(key)
                self._ages[key] = 0
                return plain
        return data[node_end:]

    def keep(self, plain: bytes) -> None:
        """Have a request, without its node, known again."""
        size = len(plain)
        if size < LARGE_BYTES:
            return
        key = (size, plain[-TAIL_BYTES:])
        alike = self._known.setdefault(key, [])
        if any(each is plain for each in alike):
            return
        if len(alike) == ALIKE_MAX:
            self._bytes -= len(alike.pop(0))
        alike.append(plain)
        self._ages[key] = 0
        self._bytes += size
        while self._bytes > max(self._bytes_max, size):
            self._forget(next(iter(self._known)))

    def grow_old(self) -> None:
        """Forget the requests that nobody sent since this was called ``AGE_MAX`` times."""
        for key, age in list(self._ages.items()):
            if age >= AGE_MAX:
                self._forget(key)
            else:
                self._ages[key] = age + 1

    def _forget(self, key: _Key) -> None:
        self._bytes -= sum(map(len, self._known.pop(key)))
        del self._ages[key]

    @property
    def bytes_kept(self) -> int:
        """About what it all takes."""
        return self._bytes
