"""A store in etcd, shared by any number of control planes without a leader. Every write compares and sets the head key.

Each write is one etcd transaction, so readers never see a part of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from xds._generated import etcd_pb2
from xds._generated import store_pb2 as pb
from xds.process.background import Background
from xds.store.cache import StateCache
from xds.store.entries import Entry, EntrySummary, FoundEntry, State, Store, Stored, check, must_be_kept, replay
from xds.store.errors import (
    CompactedError,
    ConflictError,
    IdReusedError,
    NotAStoreError,
    NotYetError,
    OutcomeUnknownError,
    StoreError,
    UnavailableError,
    UnreadableError,
)
from xds.store.etcd_client import (
    AwayError,
    EtcdClient,
    EtcdOptions,
    LostReplyError,
    WatchCompactedError,
    end_of,
    get_op,
    put_op,
    unchanged_since,
)
from xds.store.etcd_layout import LOG_PAGE, EtcdLayout
from xds.store.log_index import LogIndex
from xds.store.records import (
    decode_batch,
    encode_base,
    encode_batch,
)
from xds.store.revision_notifier import RevisionNotifier

log = logging.getLogger("xds")
SETTLE_S = 1.8
"""How long to try to find out the outcome of a write whose reply was lost. A write that can't be made fails within two
seconds; the election of a leader takes less with the settings that docs/store.md recommends."""
RETRY_S = 0.2
REPLACED = "the store was replaced by another one, which is not read yet"


class EtcdStore(Store):
    """Follows etcd; holds the newest state and the metadata of all entries in memory. Create it with ``open``."""

    epoch: str = ""
    away: str = ""
    path: Path | None = None
    refusing: str = ""

    def __init__(self, client: EtcdClient, prefix: str, cache: StateCache | None) -> None:
        self._client = client
        self._layout = EtcdLayout(client, prefix)
        self._cache = cache
        self._head = pb.Head()
        self._head_mod = 0
        self._seen = 0  # the etcd revision up to which everything has been read
        self._now = State(0, {})
        self._index = LogIndex()
        self._notifier = RevisionNotifier(0)
        self._following: asyncio.Task[None] | None = None
        self.epoch = ""
        self.away = ""
        self._is_away_logged = False
        self._must_load = False
        self._creates = True

    @classmethod
    async def open(
        cls,
        options: EtcdOptions,
        prefix: str,
        *,
        cache: StateCache | None = None,
        background: Background | None = None,
        wait_s: float = 0.0,
        create: bool = True,
    ) -> "EtcdStore":
        """Open the store below ``prefix``; read its state from etcd, or from the cache if etcd can't be reached.

        If the cache is empty too, retry for ``wait_s``. Raises UnavailableError if etcd can't be reached even then, or
        refuses the requests, or has no store there and ``create`` is off.
        """
        background = background or Background()
        store = cls(EtcdClient(options), prefix, cache)
        store._creates = create
        try:
            await store._begin(wait_s)
        except BaseException:
            await store._client.close()
            raise
        store._following = background.keep("follow etcd", store._follow, on_death=store._on_death)
        if cache is not None:
            cache.begin(lambda: (store.epoch, store._now), background)
        return store

    async def _begin(self, wait_s: float) -> None:
        """Read the first state, from etcd or from the cache."""
        deadline = asyncio.get_running_loop().time() + wait_s
        is_first = True
        while True:
            try:
                await self._load()
                return
            except (UnavailableError, UnreadableError) as error:
                if is_first and self._cache is not None and (cached := await asyncio.to_thread(self._cache.read)):
                    self.epoch, self._now = cached
                    self._must_load = True  # a watch would deliver the later entries only
                    self._notifier.tell(self._now.revision)
                    self._note_away(error)
                    return
                if not isinstance(error, AwayError) or not wait_s:
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise UnavailableError(f"{error}, and did not for {wait_s:g} s") from None
                if is_first:
                    log.warning("waiting for etcd", extra={"problem": str(error), "wait_s": wait_s})
            is_first = False
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        if self._notifier.is_closed():
            return
        self._notifier.close()
        if self._cache is not None:
            await self._cache.end()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._client.close()

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def newest(self) -> int:
        self._must_be_open()
        if self.away or not self._head_mod:
            raise UnavailableError(self.away or "etcd was not reached yet")
        return (await self._read_present_head())[0].revision

    async def kept(self) -> tuple[int, int]:
        self._must_be_open()
        return self._oldest, self._notifier.revision

    async def find(self, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
        self._must_be_open()
        return {entry_id: self._index.ids[entry_id] for entry_id in ids if entry_id in self._index.ids}

    async def summaries(self, after: int, limit: int = 100) -> list[EntrySummary]:
        self._must_be_open()
        must_be_kept(after, oldest=self._oldest, newest=self._notifier.revision)
        return self._index.summaries(after, limit)

    async def state(self, revision: int | None = None) -> State:
        self._must_be_open()
        if revision is None or revision == self._notifier.revision:
            return State(self._now.revision, dict(self._now.resources), self._now.groups)
        return (await self._read_state(revision))[0]

    async def _read_state(self, revision: int) -> tuple[State, int]:
        """Return a state as etcd has it, and the etcd revision at which it was read."""
        must_be_kept(revision, oldest=self._oldest, newest=self._notifier.revision)
        head, at = await self._read_present_head()  # all is read at one etcd revision: other replicas compact meanwhile
        must_be_kept(revision, oldest=head.oldest, newest=head.revision)
        state = await self._layout.read_base(head, at)
        while state.revision < revision:  # by pages: all of the log may be much more than a state
            page = await self._layout.read_log(state.revision, head.revision, at, limit=LOG_PAGE)
            if not page:
                raise UnreadableError(f"etcd lacks the revisions after {state.revision}")
            state = replay(state, [each for each in page if each.revision <= revision])
        return state, at

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        self._must_be_open()
        must_be_kept(after, oldest=self._oldest, newest=self._notifier.revision)
        if after == self._notifier.revision:
            return []
        recent = self._index.recent.after(after, limit)
        if recent is not None:
            return recent
        head, at = await self._read_present_head()
        must_be_kept(after, oldest=head.oldest, newest=head.revision)
        return (await self._layout.read_log(after, head.revision, at, limit=limit))[:limit]

    def watch(self, after: int) -> AsyncIterator[Stored]:
        return self._notifier.follow(after, self.entries)

    async def _read_present_head(self) -> tuple[pb.Head, int]:
        """Return the head as it is in etcd now, not as one member or this replica knows it, and the etcd revision."""
        found = await self._client.range(self._layout.head_key)
        head = self._layout.head_of(found.kvs[0]) if found.kvs else pb.Head()
        if head.epoch != self.epoch:
            raise UnavailableError(REPLACED)
        return head, found.header.revision

    @property
    def _oldest(self) -> int:
        return self._head.oldest if self._head_mod else self._now.revision

    def _must_be_open(self) -> None:
        if self._notifier.is_closed():
            raise UnavailableError("the store is closed")

    # --- Writing -----------------------------------------------------------------------------------------------------

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        self._must_be_open()
        check(entry)
        while True:
            # In each turn: a former attempt whose reply was lost may be what was in conflict.
            found = self._index.ids.get(entry.id)
            if found is not None:
                if found.digest != entry.digest():
                    raise IdReusedError(entry.id, found.revision)
                return found.revision
            try:
                return await self.append_all(
                    [entry], self._notifier.revision if expected_revision is None else expected_revision
                )
            except ConflictError as error:
                if expected_revision is not None:
                    raise
                await self._reach(error.revision)
                await asyncio.sleep(0)

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        self._must_be_open()
        for entry in entries:
            check(entry)
            if entry.id in self._index.ids:
                raise IdReusedError(entry.id, self._index.ids[entry.id].revision)
        if self.away or not self._head_mod:
            raise UnavailableError(self.away or "etcd was not reached yet")
        if expected_revision != self._head.revision:
            raise ConflictError(expected_revision, self._head.revision)
        epoch = self.epoch
        await self._reach(expected_revision)
        record = await self._layout.record(entries, expected_revision + 1)
        try:
            return await self._commit(entries, expected_revision, record, epoch)
        except ConflictError:
            if record.pieces:
                with contextlib.suppress(UnavailableError):
                    await self._layout.delete_pieces(record.pieces)
            raise

    async def _commit(self, entries: Sequence[Entry], before: int, record: pb.Record, epoch: str) -> int:
        """Write a record after revision ``before`` of log ``epoch``; return the revision once the record is in etcd."""
        revision = before + len(entries)
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            if self._head.epoch != epoch:
                raise UnavailableError(REPLACED)
            if self._head.revision != before:  # another writer was first, as the watch has reported meanwhile
                raise ConflictError(before, self._head.revision)
            head = pb.Head()
            head.CopyFrom(self._head)
            head.revision, head.fence = revision, ""
            puts = [
                put_op(self._layout.log_key(revision), record.SerializeToString()),
                put_op(self._layout.head_key, head.SerializeToString()),
            ]
            compare = [
                unchanged_since(self._layout.head_key, self._head_mod),
                unchanged_since(self._layout.log_key(revision), 0),  # a record is never overwritten
            ]
            try:
                answer = await self._client.transact(compare, puts, [get_op(self._layout.head_key)])
            except LostReplyError as error:
                cause = f"etcd did not answer: {error}"
                if await self._settle(entries, before, record.write_id, deadline, cause, epoch):
                    await self._take_kept(entries, before)
                    return revision
                continue
            if answer.succeeded:
                self._advance(head, answer.header.revision)
                await self._take_kept(entries, before)
                return revision
            tried = compare[0].mod_revision
            self._take_reply(answer.responses[0].response_range.kvs, epoch)
            if self._head_mod == tried:
                key = self._layout.log_key(revision).decode()
                raise UnavailableError(f"etcd has something at {key} that its head does not know of: remove it")

    async def _take_kept(self, entries: Sequence[Entry], before: int) -> None:
        """Apply entries of ours that etcd has kept, or wait until the watch has delivered them.

        Raises nothing: an error would tell the writer that they were not kept.
        """
        if self._now.revision == before:
            self._take(decode_batch(encode_batch(entries, before + 1)))
            self._notifier.tell(self._now.revision)
        else:
            with contextlib.suppress(UnavailableError):
                await self._reach(before + len(entries))

    async def _settle(
        self, entries: Sequence[Entry], before: int, write_id: str, deadline: float, cause: str, epoch: str
    ) -> bool:
        """Return whether a write whose reply was lost was committed; if not, make sure that it never will be.

        Its record is recognised by its id: its values may have been encrypted anew since (``etcd_rekey``).
        The lost transaction compares the head's mod revision, so writing the head again makes it fail for good.
        Raises ConflictError if another writer was first, OutcomeUnknownError if etcd does not answer, has another log
        by now, or has compacted that revision.
        """
        loop = asyncio.get_running_loop()
        revision = before + len(entries)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    found = await self._client.range(self._layout.head_key)
                    head = self._take_reply(found.kvs, epoch)
                    if head.revision >= revision:
                        at = found.header.revision
                        kept = await self._client.range(self._layout.log_key(revision), revision=at)
                        if kept.kvs and self._layout.record_of(kept.kvs[0]).write_id == write_id:
                            return True
                        if not kept.kvs and head.oldest >= revision:
                            raise OutcomeUnknownError(entries[0].id, f"revision {revision} is no longer kept")
                    if head.revision != before:
                        raise ConflictError(before, head.revision)
                    fenced = pb.Head()
                    fenced.CopyFrom(head)
                    fenced.fence = uuid4().hex
                    compare = [unchanged_since(self._layout.head_key, found.kvs[0].mod_revision)]
                    puts = [put_op(self._layout.head_key, fenced.SerializeToString())]
                    answer = await self._client.transact(compare, puts, [])
                    if answer.succeeded:
                        self._advance(fenced, answer.header.revision)
                        return False
            except TimeoutError:
                raise OutcomeUnknownError(entries[0].id, cause) from None
            except (LostReplyError, UnavailableError, UnreadableError) as error:
                cause = str(error)
            if loop.time() > deadline or self._notifier.is_closed():
                raise OutcomeUnknownError(entries[0].id, cause)
            await asyncio.sleep(RETRY_S / 4)

    async def _reach(self, revision: int) -> None:
        """Wait until the watch has delivered a revision that etcd has."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._notifier.reach(revision)
            if self._notifier.revision < revision:
                self._must_be_open()
        except TimeoutError:
            raise UnavailableError(f"etcd has revision {revision}, but its watch does not tell it") from None

    async def compact(self, revision: int) -> int:
        self._must_be_open()
        if revision > self._notifier.revision:
            raise NotYetError(revision, self._notifier.revision)
        if revision <= self._oldest:
            return self._oldest
        epoch = self.epoch
        # The state is that of etcd, not the one in memory, whose values may have the key that they had when they were
        # read. Where values are rewritten meanwhile, this is left for next time. It is looked at before the state is
        # written as well, since replicas ask for this again and again while a conversion runs.
        try:
            state, at = await self._read_state(revision)
        except CompactedError as error:  # another replica has compacted more meanwhile
            return error.oldest
        rekeyed = await self._layout.rekeyed_at(at)
        base = encode_base(state)
        if await self._layout.rekeyed_at(0) != rekeyed or self._head.oldest >= revision:
            return self._head.oldest
        name, count = await self._layout.put_pieces(base)
        if await self._put_base(epoch, revision, name, count, rekeyed):
            return revision
        await self._layout.delete_pieces(name)
        return self._head.oldest

    async def _put_base(self, epoch: str, revision: int, name: str, count: int, rekeyed: int) -> bool:
        """Have the log begin at a revision, whose state is in pieces; return whether it does.

        It does not if another replica has compacted as much, or values were rewritten since etcd's revision
        ``rekeyed``.
        """
        rekeyed_key = self._layout.rekeyed_key
        while self._head.oldest < revision:
            if self._head.epoch != epoch:
                raise UnavailableError(REPLACED)
            old = pb.Head()
            old.CopyFrom(self._head)
            new = pb.Head()
            new.CopyFrom(old)
            new.oldest, new.base, new.base_pieces, new.fence = revision, name, count, ""
            compare = [unchanged_since(self._layout.head_key, self._head_mod), unchanged_since(rekeyed_key, rekeyed)]
            puts = [put_op(self._layout.head_key, new.SerializeToString())]
            try:
                answer = await self._client.transact(
                    compare, puts, [get_op(self._layout.head_key), get_op(rekeyed_key)]
                )
            except LostReplyError as error:
                raise UnavailableError(f"etcd: {error}") from None  # retried next time; some pieces may be left over
            if answer.succeeded:
                self._advance(new, answer.header.revision)
                self._index.forget(self._head.oldest)
                await self._layout.delete_log(revision)
                if old.base:
                    await self._layout.delete_pieces(old.base)
                return True
            head, mark = (each.response_range.kvs for each in answer.responses)
            self._take_reply(head, epoch)
            if (mark[0].mod_revision if mark else 0) != rekeyed:
                return False
        return False

    # --- From etcd ---------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Read the entries that are missing here, or the whole log; create the head if there is none."""
        while True:
            mod = self._head_mod
            kv, at = await self._read_head()
            head = self._layout.head_of(kv)
            if self._head_mod != mod:
                continue  # a write of ours was committed meanwhile, and may be missing in what was read
            is_rewound = bool(self.epoch) and (head.epoch != self.epoch or head.revision < self._now.revision)
            if mod and not is_rewound and head.oldest <= self._now.revision:
                self._take(await self._layout.read_log(self._now.revision, head.revision, at))
                break
            self.away = "all of it is read anew"  # refuses our own writes meanwhile
            base = await self._layout.read_base(head, at)
            entries = await self._layout.read_log(head.oldest, head.revision, at)
            if self._head_mod == mod:
                self._begin_at(head, kv.mod_revision, base, entries, is_rewound=is_rewound)
                break
        self._must_have(head)
        self._take_head(kv)
        self._seen = at
        self._index.forget(self._head.oldest)
        self._note_back()
        self._notifier.tell(self._now.revision)

    async def _read_head(self) -> tuple[etcd_pb2.KeyValue, int]:
        """Return the head, created if missing, and the etcd revision at which it was read."""
        key = self._layout.head_key
        found = await self._client.range(key)
        if not found.kvs:
            if not self._creates:
                raise NotAStoreError(f"etcd has no store at {key.decode(errors='backslashreplace')}")
            made = put_op(key, pb.Head(epoch=uuid4().hex).SerializeToString())
            with contextlib.suppress(LostReplyError):
                await self._client.transact([unchanged_since(key, 0)], [made], [])
            found = await self._client.range(key)
            if not found.kvs:
                raise AwayError("etcd does not answer (the first write below the prefix was not kept)")
        return found.kvs[0], found.header.revision

    def _begin_at(self, head: pb.Head, mod: int, base: State, entries: list[Stored], *, is_rewound: bool) -> None:
        had = self._now.revision
        if is_rewound:
            self._head_mod = 0  # the mod revisions of another log can't be compared with this one's
        self._advance(head, mod)
        self._index.clear()
        self._now = base
        self._take(entries)
        self.epoch = head.epoch
        if is_rewound or had > self._now.revision:
            self._notifier.reset(self._now.revision)

    def _on_death(self, why: str) -> None:
        """Read everything again that may have been missed."""
        self._must_load = True
        self._note_away(UnavailableError(f"following etcd failed by a bug in this server: {why}"))

    async def _follow(self) -> None:
        if self._must_load:
            await self._load_at_last()
            self._must_load = False
        while True:
            try:
                async for response in self._client.watch(
                    self._layout.prefix, end_of(self._layout.prefix), self._seen + 1
                ):
                    await self._take_response(response)
            except (WatchCompactedError, UnavailableError):
                pass
            except UnreadableError as error:
                self._note_away(error)
            await self._load_at_last()

    async def _load_at_last(self) -> None:
        """Read the entries that were missed, retrying until it succeeds: no watch delivers them later."""
        while True:
            try:
                await self._load()
                return
            except (UnavailableError, UnreadableError) as error:
                self._note_away(error)
            await asyncio.sleep(RETRY_S)

    def _note_away(self, error: StoreError) -> None:
        """Set ``away`` to the reason why etcd can't be followed. Log each outage once, and each unreadable key once."""
        why = str(error)
        if why != self.away and (not self._is_away_logged or isinstance(error, UnreadableError)):
            log.error("etcd can't be followed; what is known of it stays served", extra={"problem": why})
            self._is_away_logged = True
        self.away = why

    def _note_back(self) -> None:
        self.away = ""
        if self._is_away_logged:
            self._is_away_logged = False
            log.info("etcd is followed again", extra={"revision": self._now.revision})

    async def _take_response(self, response: etcd_pb2.WatchResponse) -> None:
        put = [event.kv for event in response.events if event.type == etcd_pb2.Event.PUT]
        heads = [kv for kv in put if kv.key == self._layout.head_key]
        head = self._layout.head_of(heads[-1]) if heads else self._head
        if head.epoch != self.epoch:
            await self._load()
            return
        for kv in put:
            if kv.key.startswith(self._layout.log_prefix):
                await self._take_record(kv, head)
        if heads:
            self._must_have(head)
            self._advance(head, heads[-1].mod_revision)
            self._index.forget(self._head.oldest)
        self._seen = max(self._seen, response.header.revision)
        self._note_back()
        if self._now.revision > self._notifier.revision:
            self._notifier.tell(self._now.revision)

    async def _take_record(self, kv: etcd_pb2.KeyValue, head: pb.Head) -> None:
        revision = self._layout.revision_of(kv.key)
        if revision is None:
            self._layout.ignore(kv.key)
        elif self._now.revision < revision <= head.revision:  # records beyond the head are not part of the log
            # Where etcd has compacted that revision, because the watch is late, all that is missing is read anew.
            self._take(await self._layout.decode(kv, kv.mod_revision))

    def _must_have(self, head: pb.Head) -> None:
        """Raise UnreadableError if records up to the head's revision are missing."""
        if self._now.revision < head.revision:
            key = self._layout.log_key(head.revision).decode()
            raise UnreadableError(f"etcd lacks a record: its log ends at revision {self._now.revision}, not at {key}")

    def _take_reply(self, kvs: Sequence[etcd_pb2.KeyValue], epoch: str) -> pb.Head:
        """Take in the head as it was read, and return it. Raises UnavailableError where it is gone, or another log's.

        A later one may be known already, by the watch.
        """
        if not kvs:
            raise UnavailableError(f"etcd has nothing at {self._layout.head_key.decode()}, where the store's head was")
        head = self._layout.head_of(kvs[0])
        if head.epoch != epoch:
            raise UnavailableError(REPLACED)
        self._advance(head, kvs[0].mod_revision)
        return head

    def _take_head(self, kv: etcd_pb2.KeyValue) -> None:
        self._advance(self._layout.head_of(kv), kv.mod_revision)

    def _advance(self, head: pb.Head, mod: int) -> None:
        """Set the present head, unless a later one is known: replies and watch events arrive in any order."""
        if mod > self._head_mod:
            self._head, self._head_mod = head, mod

    def _take(self, entries: Sequence[Stored]) -> None:
        """Apply the entries that follow the present state; skip those that it contains already."""
        new = [each for each in entries if each.revision > self._now.revision]
        if not new:
            return
        if new[0].revision != self._now.revision + 1:
            raise UnreadableError(f"etcd lacks a record: revision {new[0].revision} follows {self._now.revision}")
        self._now = replay(self._now, new)
        self._index.add(new)
