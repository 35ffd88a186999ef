from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.publishing.behind import Log
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.publishing.publisher import Publisher
from xds.store.entries import Store
from xds.store.memory import MemoryStore


class Replica:
    """A publisher on a store, the catalog that it serves, and each served revision with its changeset."""

    def __init__(self, store: Store, **given: Any) -> None:
        self.catalog = Catalog()
        self.served: list[tuple[int, Changeset]] = []
        self.fails_with: Exception | None = None
        """What serving the next changeset fails with, once."""
        self.publisher = Publisher(store, self.catalog, self._serve, **given)

    def _serve(self, changeset: Changeset, revision: int) -> None:
        if self.fails_with is not None:
            error, self.fails_with = self.fails_with, None
            raise error
        self.catalog.apply(changeset, revision=revision)
        self.served.append((revision, changeset))

    def names(self, group: str = "default") -> dict[str, str]:
        """Return name → version of a group's own resources."""
        return {each.name: each.version for each in self.catalog.own(group)}


@pytest.fixture
def log() -> Log:
    """A log for stores that may be ``Behind``."""
    return Log()


@pytest.fixture
async def replica() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Starts a replica on a store, by default an empty one in memory; ``given`` is for its ``Publisher``."""
    async with AsyncExitStack() as stack:

        async def start(store: Store | None = None, **given: Any) -> Replica:
            made = Replica(store or MemoryStore(), **given)
            await made.publisher.start()
            stack.push_async_callback(made.publisher.stop)
            return made

        yield start
