from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.publishing.publisher import Publisher
from xds.store.entries import Store
from xds.store.memory import MemoryStore


class Replica:
    """A publisher on a store, and what it has served: the catalog, and each revision with its changeset."""

    def __init__(self, store: Store) -> None:
        self.catalog = Catalog()
        self.served: list[tuple[int, Changeset]] = []
        self.publisher = Publisher(store, self.catalog, self._serve)

    def _serve(self, changeset: Changeset, revision: int) -> None:
        self.catalog.apply(changeset, revision=revision)
        self.served.append((revision, changeset))

    def names(self, group: str = "default") -> dict[str, str]:
        """Return name → version of what a group has itself."""
        return {each.name: each.version for each in self.catalog.own(group)}


@pytest.fixture
async def replica() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Start a replica on a store, by default on an empty one in memory: ``await replica()``."""
    async with AsyncExitStack() as stack:

        async def start(store: Store | None = None) -> Replica:
            made = Replica(store or MemoryStore())
            await made.publisher.start()
            stack.push_async_callback(made.publisher.stop)
            return made

        yield start
