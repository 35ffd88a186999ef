"""The kinds of store that there are, by name: each made empty in a directory of its own."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from xds.store.entries import Store
from xds.store.memory import MemoryStore
from xds.store.sqlite import SqliteStore


async def _memory(directory: Path) -> Store:
    return MemoryStore()


async def _sqlite(directory: Path) -> Store:
    return await SqliteStore.open(directory / "store.db")


MAKERS: dict[str, Callable[[Path], Awaitable[Store]]] = {"memory": _memory, "sqlite": _sqlite}
