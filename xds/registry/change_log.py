"""In which order known nodes changed, for other replicas that follow them."""

from collections.abc import Iterable


class ChangeLog:
    """The ids of nodes by the serial number of their last change. Pure; one entry per node."""

    __slots__ = ("_serials", "serial")

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._serials: dict[str, int] = {}
        """In the order of the serial numbers."""
        self.serial = 0
        """The number of the last change."""
        for node_id in ids:
            self.note(node_id)

    def note(self, node_id: str) -> None:
        """Note that a node changed."""
        self.serial += 1
        self._serials.pop(node_id, None)
        self._serials[node_id] = self.serial

    def forget(self, node_id: str) -> None:
        """Drop a node that is not known any more."""
        self._serials.pop(node_id, None)

    def since(self, serial: int, most: int) -> tuple[list[str], int]:
        """Return the ids of up to ``most`` nodes that changed after a number, oldest first, and the number reached."""
        found: list[str] = []
        for node_id in reversed(self._serials):
            if self._serials[node_id] <= serial:
                break
            found.append(node_id)
        found.reverse()
        if len(found) <= most:
            return found, self.serial
        return found[:most], self._serials[found[most - 1]]
