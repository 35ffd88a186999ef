"""A message that has not arrived whole: the pieces that came, joined once. It does not know frames."""

PIECE_BYTES_MIN = 1_024


class Partial:
    """What came of a message, and of those behind it. ``size`` is in bytes.

    A piece with fewer than ``PIECE_BYTES_MIN`` is joined with what comes next, so that many small ones do not take a
    multiple of their size.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self, piece: bytes) -> None:
        self._pieces = [piece]
        self.size = len(piece)

    def add(self, piece: bytes) -> None:
        """Take what came next."""
        self.size += len(piece)
        pieces = self._pieces
        if len(pieces[-1]) < PIECE_BYTES_MIN:
            pieces[-1] += piece
        else:
            pieces.append(piece)

    def whole(self, start: int = 0) -> bytes:
        """Return all that came, from ``start`` on, which is at most ``PIECE_BYTES_MIN``."""
        first, *others = self._pieces
        return b"".join((first[start:], *others))
