"""A store in memory, for embedding programs and tests; the reference for all other stores."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from xds.store.entries import (
    Entry,
    EntrySummary,
    FoundEntry,
    State,
    Store,
    Stored,
    check,
    must_be_kept,
    replay,
    summary_of,
)
from xds.store.errors import ConflictError, IdReusedError, NotYetError, UnavailableError
from xds.store.revision_notifier import RevisionNotifier


class MemoryStore(Store):
    """Holds everything until the process ends."""

    epoch: str = ""
    away: str = ""
    path: Path | None = None
    refusing: str = ""

    def __init__(self) -> None:
        self.epoch = uuid4().hex
        self._base = State(0, {})
        self._kept: list[Stored] = []
        self._ids: dict[str, Stored] = {}
        self._notifier = RevisionNotifier(0)

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        self._must_be_open()
        check(entry)
        before = self._ids.get(entry.id)
        if before is not None:
            if before.entry.digest() != entry.digest():
                raise IdReusedError(entry.id, before.revision)
            return before.revision
        return await self.append_all(
            [entry], self._notifier.revision if expected_revision is None else expected_revision
        )

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        self._must_be_open()
        for entry in entries:
            check(entry)
            if entry.id in self._ids:
                raise IdReusedError(entry.id, self._ids[entry.id].revision)
        newest = self._notifier.revision
        if expected_revision != newest:
            raise ConflictError(expected_revision, newest)
        for entry in entries:
            newest += 1
            stored = Stored(newest, entry)
            self._kept.append(stored)
            self._ids[entry.id] = stored
        self._notifier.tell(newest)
        return newest

    async def find(self, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
        self._must_be_open()
        kept = [(entry_id, self._ids[entry_id]) for entry_id in ids if entry_id in self._ids]
        return {entry_id: FoundEntry(stored.revision, stored.entry.digest()) for entry_id, stored in kept}

    async def newest(self) -> int:
        self._must_be_open()
        return self._notifier.revision

    async def kept(self) -> tuple[int, int]:
        self._must_be_open()
        return self._base.revision, self._notifier.revision

    async def summaries(self, after: int, limit: int = 100) -> list[EntrySummary]:
        return [summary_of(stored) for stored in await self.entries(after, limit)]

    async def state(self, revision: int | None = None) -> State:
        self._must_be_open()
        revision = self._notifier.revision if revision is None else revision
        self._must_be_kept(revision)
        return self._state_at(revision)

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        self._must_be_open()
        self._must_be_kept(after)
        at = after - self._base.revision
        return self._kept[at : at + limit]

    def watch(self, after: int) -> AsyncIterator[Stored]:
        return self._notifier.follow(after, self.entries)

    async def compact(self, revision: int) -> int:
        self._must_be_open()
        if revision > self._notifier.revision:
            raise NotYetError(revision, self._notifier.revision)
        if revision > self._base.revision:
            base = self._state_at(revision)
            forgotten = self._kept[: revision - self._base.revision]
            del self._kept[: len(forgotten)]
            for stored in forgotten:
                del self._ids[stored.entry.id]
            self._base = base
        return self._base.revision

    async def close(self) -> None:
        self._notifier.close()

    def _state_at(self, revision: int) -> State:
        base = self._base
        copy = State(base.revision, dict(base.resources), base.groups)
        return replay(copy, self._kept[: revision - base.revision])

    def _must_be_open(self) -> None:
        if self._notifier.is_closed():
            raise UnavailableError("the store is closed")

    def _must_be_kept(self, revision: int) -> None:
        must_be_kept(revision, oldest=self._base.revision, newest=self._notifier.revision)
