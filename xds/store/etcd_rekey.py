"""Convert the values of a store in etcd while control planes use it: see ``rekey``.

Each record of the log is rewritten in place, by a transaction that fails if the record was changed or deleted
meanwhile; control planes that have read it ignore the event. The base is replaced as by a compaction. New entries are
written with the writers' own keys, so the passes are repeated until one finds nothing to convert.
"""

from dataclasses import replace

from xds._generated import etcd_pb2
from xds._generated import store_pb2 as pb
from xds.store.entries import Entry, State
from xds.store.errors import NotAStoreError, UnavailableError
from xds.store.etcd_client import EtcdClient, EtcdOptions, LostReplyError, end_of, put_op, unchanged_since
from xds.store.etcd_layout import LOG_PAGE, EtcdLayout
from xds.store.records import encode_base
from xds.store.rekey import Convert, Progress

PASSES_MAX = 20
"""Passes over the log after which writers are taken to use another key than the newest."""


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

    async def run(self) -> Progress:
        done = Progress()
        head, _ = await self._head()
        await self._layout.delete_log(head.oldest)  # what a compaction that was cut short has left
        for _ in range(PASSES_MAX):
            found = Progress()
            pieces = await self._layout.piece_names()
            self._pieces = set()
            await self._convert_base(found)
            await self._convert_log(found)
            await self._layout.delete_obsolete()
            done.follow(found)
            if not found.converted:
                done.leftovers = tuple(sorted((pieces & await self._layout.piece_names()) - self._pieces))
                return done
        raise UnavailableError(
            f"a control plane goes on writing values with another key, after {PASSES_MAX} passes: give all of them the "
            "newest key as their first one, and run this again"
        )

    async def _head(self) -> tuple[pb.Head, int]:
        found = await self._client.range(self._layout.head_key)
        if not found.kvs:
            raise NotAStoreError(f"etcd has no store at {self._layout.head_key.decode(errors='backslashreplace')}")
        return self._layout.head_of(found.kvs[0]), found.kvs[0].mod_revision

    async def _convert_base(self, found: Progress) -> None:
        while True:
            head, mod = await self._head()
            if not head.base:
                return
            base = await self._layout.read_base(head, 0)
            self._pieces.add(head.base)
            counted = Progress()
            resources = {
                key: counted.convert(self._convert, value, "value", *key) for key, value in base.resources.items()
            }
            if not counted.converted:
                found.add(counted)
                return
            name, count = await self._layout.put_pieces(encode_base(State(base.revision, resources, base.groups)))
            old = head.base
            head.base, head.base_pieces, head.fence = name, count, ""
            if await self._put(self._layout.head_key, mod, head.SerializeToString(), old):
                found.add(counted)
                return
            await self._layout.delete_pieces(name)

    async def _convert_log(self, found: Progress) -> None:
        head, _ = await self._head()
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
        while True:
            stored = await self._layout.decode(kv, kv.mod_revision)
            old = pb.Record.FromString(kv.value)
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
                return
            if record.pieces:
                await self._layout.delete_pieces(record.pieces)
            again = await self._client.range(kv.key)
            if not again.kvs:
                return  # compacted meanwhile
            kv = again.kvs[0]

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
        puts = [put_op(key, value)]
        if obsolete:
            puts.append(put_op(self._layout.obsolete_key(obsolete), b""))
        try:
            answer = await self._client.transact([unchanged_since(key, mod)], puts, [])
        except LostReplyError as error:
            raise UnavailableError(f"etcd: {error}; run this again") from None
        return bool(answer.succeeded)
