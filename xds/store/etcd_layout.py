"""Where a store's parts are in etcd, and what is too large for one request, in pieces.

Below a prefix: ``head`` (a ``Head``), ``log/REVISION`` (a ``Record`` of the batch whose last revision that is),
``pieces/NAME/N`` (what is too large for one request) and, as pieces, the base that the log begins at.
"""

from collections.abc import Sequence
from uuid import uuid4

from xds._generated import store_pb2 as pb
from xds.store.entries import Entry, State, Stored
from xds.store.errors import UnavailableError
from xds.store.etcd_client import EtcdClient, end_of
from xds.store.records import PIECE_BYTES, decode_base, decode_batch, encode_batch, pieces_of

LOG_PAGE = 200


class EtcdLayout:
    """Reads and writes the parts below a prefix, as of an etcd revision (0: now). Raises UnavailableError."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self.prefix = prefix.strip("/").encode() + b"/"

    @property
    def head_key(self) -> bytes:
        return self.prefix + b"head"

    @property
    def log_prefix(self) -> bytes:
        return self.prefix + b"log/"

    def log_key(self, revision: int) -> bytes:
        return self.log_prefix + b"%020d" % revision

    async def record(self, entries: Sequence[Entry], first_revision: int) -> pb.Record:
        """Return what is to stand in the log for entries; pieces of it are put already."""
        data = encode_batch(entries, first_revision)
        if len(data) <= PIECE_BYTES:
            return pb.Record(batch=data)
        name, count = await self.put_pieces(data)
        return pb.Record(pieces=name, piece_count=count)

    async def decode(self, value: bytes, at: int) -> list[Stored]:
        """Return the entries that a record in the log is."""
        record = pb.Record.FromString(value)
        if not record.pieces:
            return decode_batch(record.batch)
        return decode_batch(await self._read_pieces(record.pieces, record.piece_count, at))

    async def read_log(self, after: int, at: int, *, limit: int = 0) -> list[Stored]:
        """Return the entries after a revision; once there are ``limit`` of them, no more."""
        entries: list[Stored] = []
        first, end = self.log_key(after + 1), end_of(self.log_prefix)
        while True:
            found = await self._client.range(first, end, revision=at, limit=min(limit or LOG_PAGE, LOG_PAGE))
            for kv in found.kvs:
                entries += [each for each in await self.decode(kv.value, at) if each.revision > after]
            if not found.more or (limit and len(entries) >= limit):
                return entries
            first = found.kvs[-1].key + b"\0"

    async def delete_log(self, revision: int) -> None:
        """Remove the records up to a revision, and their pieces."""
        first, end = self.log_key(0), self.log_key(revision + 1)
        while True:
            found = await self._client.range(first, end, limit=LOG_PAGE)
            for kv in found.kvs:
                record = pb.Record.FromString(kv.value)
                if record.pieces:
                    await self.delete_pieces(record.pieces)
            if found.kvs:
                await self._client.delete(first, found.kvs[-1].key + b"\0")
            if not found.more:
                return

    async def read_base(self, head: pb.Head, at: int) -> State:
        """Return the state that the log begins at."""
        if not head.base:
            return State(head.oldest, {})
        return decode_base(await self._read_pieces(head.base, head.base_pieces, at), head.oldest)

    async def put_pieces(self, data: bytes) -> tuple[str, int]:
        """Put bytes in pieces, and return their name and how many they are."""
        name, pieces = uuid4().hex, pieces_of(data)
        for number, piece in enumerate(pieces):
            await self._client.put(self._piece_key(name, number), piece)
        return name, len(pieces)

    async def _read_pieces(self, name: str, count: int, at: int) -> bytes:
        parts = []
        for number in range(count):
            found = await self._client.range(self._piece_key(name, number), revision=at)
            if not found.kvs:
                raise UnavailableError(f"etcd lacks a piece of what it keeps ({name} {number})")
            parts.append(found.kvs[0].value)
        return b"".join(parts)

    async def delete_pieces(self, name: str) -> None:
        """Remove pieces."""
        prefix = self.prefix + b"pieces/" + name.encode() + b"/"
        await self._client.delete(prefix, end_of(prefix))

    def _piece_key(self, name: str, number: int) -> bytes:
        return self.prefix + b"pieces/%s/%06d" % (name.encode(), number)
