"""The stores of a run: the product's own, on a simulated etcd, on SQLite with a disk that fails, or in memory."""

import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from simulation import content
from simulation.clock import Clock
from simulation.etcd_engine import Channel, EtcdEngine
from simulation.process import current

from xds.process import background
from xds.publishing import batch, codec, publisher, retention
from xds.store import cache, database_file, etcd, etcd_client, etcd_layout, memory, sqlite
from xds.store.cache import StateCache
from xds.store.entries import Store
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions
from xds.store.memory import MemoryStore
from xds.store.sqlite import SqliteStore

DIRECT, MEMORY, SQLITE, ETCD = "direct", "memory", "sqlite", "etcd"
"""The kinds of stores. ``direct``: changes reach the hubs without a store."""
SELDOM_S = 15.0
"""The interval of what runs every second in production: a run lasts hours of simulated time."""
SHM = Path("/dev/shm")  # a file system in memory, where there is one


class Engine:
    """What keeps a run's changes while the processes that use it come and go."""

    def __init__(self, kind: str, clock: Clock, chance: Random, *, caches: bool) -> None:
        self.kind, self.chance = kind, chance
        self.etcd = EtcdEngine(clock, chance, chance.choice((1, 3))) if kind == ETCD else None
        self.disk = Disk(chance) if kind == SQLITE else None
        self._caches = caches
        self._directory: Path | None = None
        self._copies = 0

    @property
    def directory(self) -> Path:
        """A directory of this run."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="simulation-", dir=SHM if SHM.is_dir() else None))
        return self._directory

    def open(self, number: int) -> Awaitable[Store]:
        """Open the store in the process that runs now, which is the replica with this number."""
        if self.etcd is not None:
            cached = StateCache(self.directory / f"{number}.cache") if self._caches else None
            options = EtcdOptions(endpoints=tuple(f"m{at}:2379" for at in range(len(self.etcd.members))))
            return EtcdStore.open(options, "xds", cache=cached, wait_s=0.0 if self._caches else 5.0)
        if self.disk is not None:
            return SqliteStore.open(self.directory / f"store-{self._copies}.db")
        return _made(MemoryStore())

    def crashed(self) -> None:
        """Leave what a killed process has written: the next one finds a copy of its files."""
        if self.disk is not None:
            self.disk.fails = False
            before = self.directory / f"store-{self._copies}.db"
            self._copies += 1
            for suffix in database_file.SUFFIXES[:2]:
                source = before.with_name(before.name + suffix)
                if source.exists():
                    shutil.copy(source, self.directory / f"store-{self._copies}.db{suffix}")

    def end(self) -> None:
        """Remove the files."""
        if self.disk is not None:
            self.disk.close()
        if self._directory is not None:
            shutil.rmtree(self._directory)


async def _made(store: Store) -> Store:
    return store


class Disk:
    """A disk of a SQLite store. While it ``fails``, commits fail, some of them after they were made."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.fails = False
        self._connections: list[sqlite3.Connection] = []

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        """Open a database on this disk."""
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql != "COMMIT" or not disk.fails or disk.chance.random() < 0.3:
                    return super().execute(sql, *parameters)
                if disk.chance.random() < 0.5:
                    super().execute(sql)
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error

        made = sqlite3.connect(*arguments, factory=Connection, **options)
        self._connections.append(made)
        return made

    def close(self) -> None:
        """Close what killed processes left open."""
        self.fails = False
        for connection in self._connections:
            connection.close()


@contextmanager
def simulated(engine: Engine, chance: Random, note_bug: Callable[[str], None] = lambda _bug: None) -> Iterator[None]:
    """Let the product's code use the engine, and clocks and random numbers of the run.

    ``note_bug`` is called with what the product logs as a bug of its own.
    """

    def uuid4() -> UUID:
        return UUID(int=chance.getrandbits(128), version=4)

    def channel(endpoint: str, options: EtcdOptions) -> Channel:
        assert engine.etcd is not None
        return Channel(engine.etcd, current(), options.endpoints.index(endpoint))

    clock = SimpleNamespace(
        monotonic=lambda: current().time(),
        time=lambda: current().wall_time(),
        time_ns=lambda: round(current().wall_time() * 1e9),
    )
    changes: list[tuple[Any, str, Any]] = [
        *((module, "uuid4", uuid4) for module in (publisher, etcd, etcd_layout, memory)),
        *((module, "time", clock) for module in (publisher, retention)),
        (codec, "restore", content.restore),
        (batch, "hider_of", lambda _resources: str),  # these bodies have no secrets
        (etcd_client, "_channel", channel),
        (etcd_client, "PROGRESS_S", SELDOM_S),
        (cache, "EVERY_S", SELDOM_S),
        (sqlite, "LOOK_EVERY_S", SELDOM_S),
        *((module, "log", Log(note_bug)) for module in (publisher, retention, etcd, etcd_layout, sqlite, background)),
    ]
    if engine.disk is not None:
        fake = SimpleNamespace(**{**vars(sqlite3), "connect": engine.disk.connect})
        changes.append((database_file, "sqlite3", fake))
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(patch.object(module, name, value))
        yield


class Log:
    """A log of the product, which keeps nothing but what it calls a bug of its own."""

    def __init__(self, note_bug: Callable[[str], None]) -> None:
        self._note_bug = note_bug

    def info(self, message: str, **fields: Any) -> None:
        """Take a message."""
        if "bug in this server" in message:
            self._note_bug(f"{message}: {fields.get('exc_info') or fields.get('extra')!r}")

    debug = warning = error = exception = info
