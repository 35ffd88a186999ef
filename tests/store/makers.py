"""Functions that create an empty store, by kind, each in its own directory."""

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from support.etcd import Etcd

from xds.store.entries import Store
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions
from xds.store.keys import KeyRing, KeySource, new_key
from xds.store.memory import MemoryStore
from xds.store.sealed import SealedStore
from xds.store.sqlite import SqliteStore

_etcd: list[Etcd] = []


async def _memory(directory: Path) -> Store:
    return MemoryStore()


async def _sqlite(directory: Path) -> Store:
    return await SqliteStore.open(directory / "store.db")


async def _etcd_store(directory: Path) -> Store:
    """Create a store below its own prefix, in one etcd that all tests of a run share."""
    if not _etcd:
        etcd = Etcd()
        etcd.start()
        _etcd.append(etcd)
    await _etcd[0].wait_ready()
    return await EtcdStore.open(EtcdOptions(endpoints=_etcd[0].endpoints), f"test/{uuid.uuid4().hex}")


async def _sealed(inner: Awaitable[Store]) -> Store:
    return SealedStore(await inner, KeySource(), KeyRing((new_key(), new_key())))


MAKERS: dict[str, Callable[[Path], Awaitable[Store]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "etcd": _etcd_store,
    "sealed-memory": lambda directory: _sealed(_memory(directory)),
    "sealed-sqlite": lambda directory: _sealed(_sqlite(directory)),
    "sealed-etcd": lambda directory: _sealed(_etcd_store(directory)),
}
"""The stores that the conformance suite runs on."""
