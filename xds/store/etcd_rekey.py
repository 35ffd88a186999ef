"""Convert the values of a store in etcd while control planes use it: see ``rekey``.

Each record of the log is rewritten in place, by a transaction that fails if the record was changed or deleted
meanwhile; control planes that have read it ignore the event. The base is replaced as by a compaction. Each of these
transactions sets the key ``rekeyed``, by which a compaction that has read earlier values notices. New entries are
written with the writers' own keys, so the passes are repeated until one finds nothing to convert. They end: writers
with the right key leave nothing to do but what compactions move meanwhile, and what others write is noticed.
"""

from dataclasses import replace

from xds._generated import etcd_pb2
from xds._generated import store_pb2 as pb
from xds.store.entries import Entry, State, Stored
from xds.store.errors import NotAStoreError, UnavailableError
from xds.store.etcd_client import EtcdClient, EtcdOptions, LostReplyError, end_of, put_op, unchanged_since
from xds.store.etcd_layout import LOG_PAGE, EtcdLayout
from xds.store.records import encode_base
from xds.store.rekey import Convert, Progress
from xds.store.sealing import key_id_of

STALE_PASSES_MAX = 20
"""Passes that find changes which were written with another key since the conversion began: then someone goes on so."""


async def convert_etcd(options: EtcdOptions, prefix: str, convert: Convert) -> Progress:
    """Convert all values of the store below a prefix. Raises StoreError; what was converted by then stays so.

    The old versions of the keys remain in etcd until it compacts them and is defragmented.
    """
    client = EtcdClient(options)
    try:
        return await _Conversion(client, EtcdLayout(client, prefix), convert).run()
    finally:
        await client.close()


class _Conversion:
    def __init__(self, client: EtcdClient, layout: EtcdLayout, convert: Convert) -> None:
        self._client, self._layout, self._convert = client, layout, convert
        self._pieces: set[str] = set()
        """The names of all pieces that the log and its base refer to, as the last pass found them."""
        self._began_at = 0
        """The etcd revision at which the conversion began."""
        self._stale = ""
        """What was written with another key since then, as the last pass found it."""

    async def run(self) -> Progress:
        done = Progress()
        head, _, self._began_at = await self._head()
        await self._layout.delete_log(head.oldest)  # what a compaction that was cut short has left
        stale_passes, was_clean = 0, False
        while stale_passes < STALE_PASSES_MAX:
            found = Progress()
            self._stale = ""
            pieces = await self._layout.piece_names()
            self._pieces = set()
            base = await self._convert_base(found)
            await self._convert_log(found)
            await self._layout.delete_obsolete()
            done.follow(found)
            is_clean = not found.converted
            # A compaction may have moved values from the log to the base after the base was looked at, but not twice.
            if is_clean and (was_clean or (await self._head())[0].base == base):
                done.leftovers = tuple(sorted((pieces & await self._layout.piece_names()) - self._pieces))
                return done
            was_clean = is_clean
            stale_passes += bool(self._stale)
        raise UnavailableError(
            f"a control plane goes on writing values with another key ({self._stale}): give all of them the newest key "
            "as their first one, or none to decrypt, and run this again"
        )

    async def _head(self) -> tuple[pb.Head, int, int]:
        """Return the head, and the etcd revisions at which it was set and read."""
        found = await self._client.range(self._layout.head_key)
        if not found.kvs:
            raise NotAStoreError(f"etcd has no store at {self._layout.head_key.decode(errors='backslashreplace')}")
        return self._layout.head_of(found.kvs[0]), found.kvs[0].mod_revision, found.header.revision

    async def _convert_base(self, found: Progress) -> str:
        """Convert the base, and return its name."""
        while True:
            head, mod, at = await self._head()
            if not head.base:
                return ""
            base = await self._layout.read_base(head, at)
            self._pieces.add(head.base)
            counted = Progress()
            resources = {
                key: counted.convert(self._convert, value, "value", *key) for key, value in base.resources.items()
            }
            if not counted.converted:
                found.add(counted)
                return str(head.base)
            name, count = await self._layout.put_pieces(encode_base(State(base.revision, resources, base.groups)))
            old = head.base
            head.base, head.base_pieces, head.fence = name, count, ""
            if await self._put(self._layout.head_key, mod, head.SerializeToString(), old):
                found.add(counted)
                return name
            await self._layout.delete_pieces(name)

    async def _convert_log(self, found: Progress) -> None:
        head, _, _ = await self._head()
        first, end = self._layout.log_key(head.oldest + 1), end_of(self._layout.log_prefix)
        while True:
            page = await self._client.range(first, end, limit=LOG_PAGE)
            for kv in page.kvs:
                if self._layout.revision_of(kv.key) is not None:
                    await self._convert_record(kv, found)
            if not page.more:
                return
            first = page.kvs[-1].key + b"\0"

    async def _convert_record(self, kv: etcd_pb2.KeyValue, found: Progress) -> None:
        # A record with pieces is read anew, and they at the same etcd revision. etcd may have compacted the one at
        # which the record was set, and that of the page as well where many large records are converted.
        must_read, at = bool(self._layout.record_of(kv).pieces), 0
        while True:
            if must_read:
                read = await self._client.range(kv.key)
                if not read.kvs:
                    return  # compacted meanwhile
                kv, at = read.kvs[0], read.header.revision
            must_read = True
            old = self._layout.record_of(kv)
            stored = await self._layout.decode(kv, at)
            self._pieces.add(old.pieces)
            counted = Progress()
            entries = [self._converted_entry(each.entry, counted) for each in stored]
            if not counted.converted:
                found.add(counted)
                return
            record = await self._layout.record(entries, stored[0].revision)
            record.write_id = old.write_id
            if await self._put(kv.key, kv.mod_revision, record.SerializeToString(), old.pieces):
                found.add(counted)
                if kv.create_revision > self._began_at:
                    self._stale = _described(stored[-1])
                return
            if record.pieces:
                await self._layout.delete_pieces(record.pieces)

    def _converted_entry(self, entry: Entry, counted: Progress) -> Entry:
        operations = {
            key: None if value is None else counted.convert(self._convert, value, "value", *key)
            for key, value in entry.operations.items()
        }
        return replace(
            entry, operations=operations, request=counted.convert(self._convert, entry.request, "digest", entry.id)
        )

    async def _put(self, key: bytes, mod: int, value: bytes, obsolete: str) -> bool:
        """Replace a value that has not changed since, and mark its pieces as obsolete; return whether it was replaced.

        Raises UnavailableError.
        """
        puts = [put_op(key, value), put_op(self._layout.rekeyed_key, b"")]
        if obsolete:
            puts.append(put_op(self._layout.obsolete_key(obsolete), b""))
        try:
            answer = await self._client.transact([unchanged_since(key, mod)], puts, [])
        except LostReplyError as error:
            raise UnavailableError(f"etcd: {error}; run this again") from None
        return bool(answer.succeeded)


def _described(stored: Stored) -> str:
    """Say which change was written with which key, and by whom."""
    entry = stored.entry
    key_ids = sorted({key_id_of(value) for value in (entry.request, *entry.operations.values()) if value is not None})
    keys = " and ".join(f"the key {each}" if each else "no key" for each in key_ids)
    return f"revision {stored.revision}{f' by {entry.author}' if entry.author else ''} with {keys}"
