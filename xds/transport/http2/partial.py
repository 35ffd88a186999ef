"""Collects a message that arrives in pieces, which are joined once."""

PIECE_BYTES_MIN = 1_024


class Partial:
    """The bytes received of an incomplete message and of any messages after it. ``size`` is in bytes.

    A piece shorter than ``PIECE_BYTES_MIN`` is joined with the next, so that many small pieces do not take a multiple
    of their size in memory.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self, piece: bytes) -> None:
        self._pieces = [piece]
        self.size = len(piece)

    def add(self, piece: bytes) -> None:
        """Append a piece."""
        self.size += len(piece)
        pieces = self._pieces
        if len(pieces[-1]) < PIECE_BYTES_MIN:
            pieces[-1] += piece
        else:
            pieces.append(piece)

    def whole(self, start: int = 0) -> bytes:
        """Return all bytes from ``start`` on, which must lie within the first piece."""
        first, *others = self._pieces
        return b"".join((first[start:], *others))
