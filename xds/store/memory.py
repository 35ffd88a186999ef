"""A store in memory: what embedding programs and tests use, and what every other store is held to."""

from collections.abc import AsyncIterator

from xds.store.entries import Entry, Key, State, Store, Stored, check, must_be_kept
from xds.store.errors import ConflictError, IdReusedError, NotYetError, UnavailableError
from xds.store.news import News


class MemoryStore(Store):
    """Keeps everything until the process ends."""

    def __init__(self) -> None:
        self._base = State(0, {})
        self._kept: list[Stored] = []
        self._ids: dict[str, Stored] = {}
        self._news = News(0)

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        self._must_be_open()
        check(entry)
        before = self._ids.get(entry.id)
        if before is not None:
            if before.entry.digest() != entry.digest():
                raise IdReusedError(entry.id, before.revision)
            return before.revision
        newest = self._news.revision
        if expected_revision is not None and expected_revision != newest:
            raise ConflictError(expected_revision, newest)
        stored = Stored(newest + 1, entry)
        self._kept.append(stored)
        self._ids[entry.id] = stored
        self._news.tell(stored.revision)
        return stored.revision

    async def state(self, revision: int | None = None) -> State:
        self._must_be_open()
        revision = self._news.revision if revision is None else revision
        self._must_be_kept(revision)
        return self._state_at(revision)

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        self._must_be_open()
        self._must_be_kept(after)
        at = after - self._base.revision
        return self._kept[at : at + limit]

    def watch(self, after: int) -> AsyncIterator[Stored]:
        return self._news.follow(after, self.entries)

    async def compact(self, revision: int) -> int:
        self._must_be_open()
        if revision > self._news.revision:
            raise NotYetError(revision, self._news.revision)
        if revision > self._base.revision:
            base = self._state_at(revision)
            forgotten = self._kept[: revision - self._base.revision]
            del self._kept[: len(forgotten)]
            for stored in forgotten:
                del self._ids[stored.entry.id]
            self._base = base
        return self._base.revision

    async def close(self) -> None:
        self._news.close()

    def _state_at(self, revision: int) -> State:
        resources: dict[Key, bytes] = dict(self._base.resources)
        groups = self._base.groups
        for stored in self._kept[: revision - self._base.revision]:
            for key, encoded in stored.entry.operations.items():
                if encoded is None:
                    resources.pop(key, None)
                else:
                    resources[key] = encoded
            groups = groups if stored.entry.groups is None else stored.entry.groups
        return State(revision, resources, groups)

    def _must_be_open(self) -> None:
        if self._news.is_closed():
            raise UnavailableError("the store is closed")

    def _must_be_kept(self, revision: int) -> None:
        must_be_kept(revision, oldest=self._base.revision, newest=self._news.revision)
