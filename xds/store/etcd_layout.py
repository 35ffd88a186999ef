"""The keys of a store in etcd, and how large values are split into pieces.

Below a prefix: ``head`` (a ``Head``), ``log/REVISION`` (a ``Record`` of the batch with that last revision), and
``pieces/NAME/N`` (a piece of a batch too large for one request, or of the base state at which the log begins).
``obsolete/NAME`` marks pieces that nothing refers to any more and that are to be deleted, and ``rekeyed`` is set
whenever values are rewritten with another key (``etcd_rekey``).
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

from google.protobuf.message import DecodeError

from xds._generated import etcd_pb2
from xds._generated import store_pb2 as pb
from xds.store.entries import Entry, State, Stored
from xds.store.errors import UnreadableError
from xds.store.etcd_client import EtcdClient, end_of
from xds.store.records import PIECE_BYTES, decode_base, decode_batch, encode_batch, pieces_of

log = logging.getLogger("xds")
LOG_PAGE = 200
REVISION_DIGITS = 20
UNKNOWN_KEYS_MAX = 100
"""Maximum keys that are not part of the store and are logged, each once."""


class EtcdLayout:
    """Reads and writes the keys below a prefix. Reads are at an etcd revision (``at``; 0: now).

    Raises UnavailableError, and UnreadableError if a value is damaged or of a later version.
    """

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self.prefix = prefix.strip("/").encode() + b"/"
        self._unknown_keys: set[bytes] = set()

    @property
    def head_key(self) -> bytes:
        return self.prefix + b"head"

    @property
    def rekeyed_key(self) -> bytes:
        """The key that is set in every transaction that rewrites values."""
        return self.prefix + b"rekeyed"

    @property
    def log_prefix(self) -> bytes:
        return self.prefix + b"log/"

    def log_key(self, revision: int) -> bytes:
        return self.log_prefix + b"%0*d" % (REVISION_DIGITS, revision)

    def revision_of(self, key: bytes) -> int | None:
        """Return the revision in a key of the log, None if the key has another form (see ``ignore``)."""
        digits = key.removeprefix(self.log_prefix)
        return int(digits) if len(digits) == REVISION_DIGITS and digits.isdigit() else None

    def ignore(self, key: bytes) -> None:
        """Log, once per key, that a key below the log's prefix is not part of the log."""
        if key not in self._unknown_keys and len(self._unknown_keys) < UNKNOWN_KEYS_MAX:
            self._unknown_keys.add(key)
            fields = {"key": key.decode(errors="backslashreplace")}
            log.error("etcd has a key in the store's log that is no part of it; it is ignored, remove it", extra=fields)

    def head_of(self, kv: etcd_pb2.KeyValue) -> pb.Head:
        """Return the head in a key's value."""
        try:
            return pb.Head.FromString(kv.value)
        except DecodeError as error:
            raise _unreadable(kv.key, str(error)) from None

    def record_of(self, kv: etcd_pb2.KeyValue) -> pb.Record:
        """Return the record in a key's value."""
        try:
            return pb.Record.FromString(kv.value)
        except DecodeError as error:
            raise _unreadable(kv.key, str(error)) from None

    async def record(self, entries: Sequence[Entry], first_revision: int) -> pb.Record:
        """Return the record to write to the log for entries. Its pieces, if any, have been written when it returns."""
        data, write_id = encode_batch(entries, first_revision), uuid4().hex
        if len(data) <= PIECE_BYTES:
            return pb.Record(batch=data, write_id=write_id)
        name, count = await self.put_pieces(data)
        return pb.Record(pieces=name, piece_count=count, write_id=write_id)

    async def decode(self, kv: etcd_pb2.KeyValue, at: int) -> list[Stored]:
        """Return the entries of a record: at least one, the last of which has the key's revision.

        ``at`` is an etcd revision at which the key was read, because its pieces may be deleted later. It should be
        recent: etcd compacts old ones, which can't be read any more.
        """
        record = self.record_of(kv)
        try:
            data = await self._read_pieces(record.pieces, record.piece_count, at) if record.pieces else record.batch
            entries = decode_batch(data)
        except DecodeError as error:
            raise _unreadable(kv.key, str(error)) from None
        if not entries or entries[-1].revision != self.revision_of(kv.key):
            raise _unreadable(kv.key, f"it ends at revision {entries[-1].revision if entries else None}")
        return entries

    async def read_log(self, after: int, newest: int, at: int, *, limit: int = 0) -> list[Stored]:
        """Return the entries after a revision, up to ``newest``; with ``limit``, at least that many if there are.

        Raises UnreadableError if a revision is missing.
        """
        entries: list[Stored] = []
        first, end = self.log_key(after + 1), end_of(self.log_prefix)
        while True:
            found = await self._client.range(first, end, revision=at, limit=min(limit or LOG_PAGE, LOG_PAGE))
            for kv in found.kvs:
                revision = self.revision_of(kv.key)
                if revision is None:
                    self.ignore(kv.key)
                    continue
                if revision > newest:
                    return entries
                for each in await self.decode(kv, at):
                    wanted = after + 1 + len(entries)
                    if each.revision > wanted:
                        raise UnreadableError(f"etcd lacks a record: revision {each.revision} follows {wanted - 1}")
                    if each.revision == wanted:
                        entries.append(each)
            if not found.more or (limit and len(entries) >= limit):
                return entries
            first = found.kvs[-1].key + b"\0"

    async def delete_log(self, revision: int) -> None:
        """Delete the records up to a revision, and their pieces."""
        first, end = self.log_key(0), self.log_key(revision + 1)
        while True:
            found = await self._client.range(first, end, limit=LOG_PAGE)
            for kv in found.kvs:
                with suppress(DecodeError):  # the pieces of an unreadable record can't be found
                    if pieces := pb.Record.FromString(kv.value).pieces:
                        await self.delete_pieces(pieces)
            if found.kvs:
                await self._client.delete(first, found.kvs[-1].key + b"\0")
            if not found.more:
                return

    async def read_base(self, head: pb.Head, at: int) -> State:
        """Return the state at which the log begins."""
        if not head.base:
            return State(head.oldest, {})
        try:
            return decode_base(await self._read_pieces(head.base, head.base_pieces, at), head.oldest)
        except DecodeError as error:
            raise _unreadable(self._piece_key(head.base, 0), str(error)) from None

    async def rekeyed_at(self, at: int) -> int:
        """Return the etcd revision at which values were last rewritten, as of the etcd revision ``at``; 0 if never."""
        found = await self._client.range(self.rekeyed_key, revision=at)
        return found.kvs[0].mod_revision if found.kvs else 0

    async def put_pieces(self, data: bytes) -> tuple[str, int]:
        """Write bytes as pieces; return their name and number."""
        name, pieces = uuid4().hex, pieces_of(data)
        for number, piece in enumerate(pieces):
            await self._client.put(self._piece_key(name, number), piece)
        return name, len(pieces)

    async def _read_pieces(self, name: str, count: int, at: int) -> bytes:
        parts = []
        for number in range(count):
            found = await self._client.range(self._piece_key(name, number), revision=at)
            if not found.kvs:
                raise UnreadableError(
                    f"etcd lacks {self._piece_key(name, number).decode()}, a piece of the store's data"
                )
            parts.append(found.kvs[0].value)
        return b"".join(parts)

    async def delete_pieces(self, name: str) -> None:
        """Delete the pieces with a name."""
        prefix = self.prefix + b"pieces/" + name.encode() + b"/"
        await self._client.delete(prefix, end_of(prefix))

    def obsolete_key(self, name: str) -> bytes:
        """Return the key that marks the pieces with a name as obsolete."""
        return self.prefix + b"obsolete/" + name.encode()

    async def delete_obsolete(self) -> None:
        """Delete the pieces that are marked as obsolete."""
        prefix = self.obsolete_key("")
        for kv in (await self._client.range(prefix, end_of(prefix), keys_only=True)).kvs:
            await self.delete_pieces(kv.key.removeprefix(prefix).decode())
            await self._client.delete(kv.key)

    async def piece_names(self) -> set[str]:
        """Return the names of all pieces."""
        prefix = self.prefix + b"pieces/"
        found = await self._client.range(prefix, end_of(prefix), keys_only=True)
        return {kv.key.removeprefix(prefix).partition(b"/")[0].decode() for kv in found.kvs}

    def _piece_key(self, name: str, number: int) -> bytes:
        return self.prefix + b"pieces/%s/%06d" % (name.encode(), number)


def _unreadable(key: bytes, why: str) -> UnreadableError:
    name = key.decode(errors="backslashreplace")
    return UnreadableError(
        f"the value of etcd's key {name} can't be read: it is damaged, or of a later version ({why})"
    )
