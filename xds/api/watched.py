"""Changes as watches are sent them: each is encoded once for all watches, as far as the room goes."""

from collections.abc import Callable

from xds.api.run_in_thread import run_in_thread
from xds.store.entries import Stored

ENCODED_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of encoded changes that are kept for further watches."""
OPERATION_BYTES = 150
"""What an operation takes in an event, without its resource."""


class EncodedChanges:
    """Encodes changes with ``encode``, and keeps the last encoded ones, ``bytes_max`` in all."""

    def __init__(self, encode: Callable[[Stored], bytes], bytes_max: int = ENCODED_BYTES_MAX) -> None:
        self._encode = encode
        self._bytes_max = bytes_max
        self._kept: dict[tuple[str, int], bytes] = {}
        self._kept_bytes = 0

    async def of(self, stored: Stored, epoch: str, *, is_whole: bool) -> bytes:
        """Return an encoded change; one that is not told as a whole is encoded for its watch alone."""
        kept = self._kept.get((epoch, stored.revision)) if is_whole else None
        if kept is not None:
            return kept
        size_bytes = max(stored.entry.size_bytes, OPERATION_BYTES * len(stored.entry.operations))
        encoded = await run_in_thread(size_bytes, lambda: self._encode(stored))
        if is_whole:
            self._keep((epoch, stored.revision), encoded)
        return encoded

    def _keep(self, key: tuple[str, int], encoded: bytes) -> None:
        if key in self._kept or len(encoded) > self._bytes_max // 4:
            return
        self._kept[key] = encoded
        self._kept_bytes += len(encoded)
        while self._kept_bytes > self._bytes_max:
            self._kept_bytes -= len(self._kept.pop(next(iter(self._kept))))
