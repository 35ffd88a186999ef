"""A store whose values are encrypted before they reach the store that it wraps, and decrypted when they are read.

So whatever the wrapped store writes has no value in plain: its file and -wal, the values that an operation replaced,
etcd's values and staged pieces, local copies, backups. Every value is encrypted, not only those with secrets: to find
the secrets of a cluster takes 20 µs and to encrypt it 5, and what counts as a secret may change after it was stored.

In plain remain: names of groups, types and resources, group rules, ids, authors, messages, times, sizes. The digest of
a change is encrypted too, since it would let a short secret be guessed.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from xds.store.entries import Entry, EntrySummary, FoundEntry, Key, State, Store, Stored, check
from xds.store.errors import IdReusedError, UnavailableError
from xds.store.keys import KeyRing, KeysError, KeySource
from xds.store.sealing import MissingKeyError, Sealer, is_sealed, key_id_of

log = logging.getLogger("xds")
T = TypeVar("T")
THREAD_BYTES_MIN = 256 * 1024
THREAD_VALUES_MIN = 500
"""Work from which on values are encrypted and decrypted on a thread, so that streams continue meanwhile."""
READ_AGAIN_S = 5.0
"""The minimum time between two readings of the keys that a value with an unknown key causes."""
PAGE = 500


class Contents(NamedTuple):
    """What a store has. ``values_by_key`` counts the values of the newest and the oldest state, and of all changes
    between them, by the id of the key that they are encrypted with, "" for none."""

    resources: int
    groups: int
    changes: int
    values_by_key: Counter[str]


class SealedStore(Store):
    """A ``Store``. Without keys, values are passed on as they are, and encrypted ones can't be read."""

    def __init__(self, inner: Store, source: KeySource, ring: KeyRing) -> None:
        self.inner = inner
        self._source = source
        self._sealer = Sealer(ring)
        self._read_at = float("-inf")
        self._unreadable = ""
        self.plain_count = 0
        """How many of the resources that were last read as a whole are stored in plain although there is a key."""

    # --- What it has of the wrapped store ----------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        return self.inner.epoch

    @property
    def away(self) -> str:
        return self.inner.away

    @property
    def path(self) -> Path | None:
        return self.inner.path

    @property
    def refusing(self) -> str:
        return self.inner.refusing or self._unreadable

    async def newest(self) -> int:
        return await self.inner.newest()

    async def kept(self) -> tuple[int, int]:
        return await self.inner.kept()

    async def summaries(self, after: int, limit: int = 100) -> list[EntrySummary]:
        return await self.inner.summaries(after, limit)

    async def compact(self, revision: int) -> int:
        return await self.inner.compact(revision)

    async def backup(self, path: Path) -> int:
        return await self.inner.backup(path)

    async def close(self) -> None:
        await self.inner.close()

    # --- Keys --------------------------------------------------------------------------------------------------------

    @property
    def plain_values(self) -> str:
        """Say how many stored resources are not encrypted, "" if all are, or there is no key."""
        if not self.plain_count:
            return ""
        return (
            f"{self.plain_count} resources were stored before there was a key and are not encrypted: xds store encrypt"
        )

    @property
    def has_keys(self) -> bool:
        """Whether keys are configured."""
        return self._source != KeySource()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys, the encrypting one first."""
        return self._sealer.ring.ids

    async def read_keys(self) -> bool:
        """Read the keys again; return whether the key that encrypts is another one. Raises KeysError.

        Keys that are gone from the source remain known to this process, which may hold values of them.
        """
        ring = await asyncio.to_thread(self._source.read)
        before = self._sealer.ring
        if ring.keys:
            merged = ring.extended_by(before)
            if merged != before:
                self._sealer = Sealer(merged)
        return self._sealer.ring.ids[:1] != before.ids[:1]

    async def survey(self) -> "Contents":
        """Read all of the store, and count what it has. Values whose key is known are decrypted.

        Raises UnreadableError for a value that is damaged.
        """
        values_by_key: Counter[str] = Counter()
        after, _ = await self.inner.kept()
        state = await self.inner.state()
        for each in (state, await self.inner.state(after)):
            await asyncio.to_thread(self._count, each.resources.items(), values_by_key)
        changes = 0
        while page := await self.inner.entries(after, PAGE):
            after, changes = page[-1].revision, changes + len(page)
            for stored in page:
                await asyncio.to_thread(self._count, stored.entry.operations.items(), values_by_key)
        return Contents(len(state.resources), len({key.group for key in state.resources}), changes, values_by_key)

    def _count(self, values: Iterable[tuple[Key, bytes | None]], values_by_key: Counter[str]) -> None:
        for key, value in values:
            if value is not None:
                key_id = key_id_of(value)
                values_by_key[key_id] += 1
                if key_id in self.key_ids:
                    self._sealer.open(value, "value", *key)

    # --- Writing -----------------------------------------------------------------------------------------------------

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        check(entry)
        (sealed,) = await self._sealed([entry])
        try:
            return await self.inner.append(sealed, expected_revision)
        except IdReusedError:
            found = (await self.find([entry.id])).get(entry.id)
            if found is None or found.digest != entry.digest():
                raise
            return found.revision

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        if self._unreadable:
            raise UnavailableError(self._unreadable)
        for entry in entries:
            check(entry)
        return await self.inner.append_all(await self._sealed(entries), expected_revision)

    async def _sealed(self, entries: Sequence[Entry]) -> list[Entry]:
        sealer = self._sealer
        if not sealer.is_on:
            return list(entries)
        values = sum(len(entry.operations) for entry in entries)
        size = sum(entry.size_bytes for entry in entries)
        return await _perhaps_on_thread(lambda: [_sealed(entry, sealer) for entry in entries], values, size)

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def find(self, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
        found = await self.inner.find(ids)

        def opened(sealer: Sealer) -> dict[str, FoundEntry]:
            return {
                entry_id: FoundEntry(each.revision, sealer.open(each.digest, "digest", entry_id))
                for entry_id, each in found.items()
            }

        return await self._opened(opened, len(found))

    async def state(self, revision: int | None = None) -> State:
        state = await self.inner.state(revision)
        if revision is None and self._sealer.is_on:
            self.plain_count = sum(not is_sealed(value) for value in state.resources.values())
        return await self._opened(lambda sealer: _opened_state(state, sealer), len(state.resources))

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        return await self._opened_all(await self.inner.entries(after, limit))

    async def watch(self, after: int) -> AsyncIterator[Stored]:
        async for stored in self.inner.watch(after):
            try:
                (opened,) = await self._opened_all([stored])
            except MissingKeyError as error:
                self._unreadable = str(error)
                raise
            self._unreadable = ""
            yield opened

    async def _opened_all(self, page: Sequence[Stored]) -> list[Stored]:
        values = sum(len(stored.entry.operations) for stored in page)
        return await self._opened(lambda sealer: [_opened(stored, sealer) for stored in page], values)

    async def _opened(self, work: Callable[[Sealer], T], values: int) -> T:
        """Decrypt values. For an unknown key, the keys are read again once: another replica may have got it first."""
        try:
            return await _perhaps_on_thread(lambda: work(self._sealer), values, 0)
        except MissingKeyError:
            now = asyncio.get_running_loop().time()
            if not self.has_keys or now - self._read_at < READ_AGAIN_S:
                raise
            self._read_at = now
            try:
                await self.read_keys()
            except KeysError as error:
                log.warning("the keys of the store can't be read again", extra={"problem": str(error)})
            return await _perhaps_on_thread(lambda: work(self._sealer), values, 0)


def _sealed(entry: Entry, sealer: Sealer) -> Entry:
    operations = {
        key: None if value is None else sealer.seal(value, "value", *key) for key, value in entry.operations.items()
    }
    return replace(entry, operations=operations, request=sealer.seal(entry.digest(), "digest", entry.id))


def _opened(stored: Stored, sealer: Sealer) -> Stored:
    entry = stored.entry
    operations = {
        key: None if value is None else sealer.open(value, "value", *key) for key, value in entry.operations.items()
    }
    return Stored(
        stored.revision,
        replace(entry, operations=operations, request=sealer.open(entry.request, "digest", entry.id)),
    )


def _opened_state(state: State, sealer: Sealer) -> State:
    resources = {key: sealer.open(value, "value", *key) for key, value in state.resources.items()}
    return State(state.revision, resources, state.groups)


async def _perhaps_on_thread(work: Callable[[], T], values: int, size_bytes: int) -> T:
    if values >= THREAD_VALUES_MIN or size_bytes >= THREAD_BYTES_MIN:
        return await asyncio.to_thread(work)
    return work()
