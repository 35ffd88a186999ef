"""Fifty writers of every kind of change at once: the history that they record is linearizable.

On SQLite, and through two replicas on one etcd. ``XDS_WRITES`` sets how many writes each of them makes, and
``XDS_SEED`` which.
"""

import os
import random
import time
from pathlib import Path

import pytest
from support.etcd import Etcd
from support.server import XdsServer
from support.slow_link import SlowLink
from support.write_history import check
from support.writers import Writers, entries_of

from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions
from xds.store.sqlite import SqliteStore

WRITERS = 50
LATE_S = 0.02
"""How much later than its neighbour the second replica hears from etcd."""
WRITES = int(os.environ.get("XDS_WRITES", "20"))
SEED = int(os.environ.get("XDS_SEED", str(random.randrange(1_000_000))))
WHOLE_LOG = {"store.history_max": 10_000_000}
TIMEOUT_S = 120 + 3 * WRITES


@pytest.mark.timeout(TIMEOUT_S)
async def test_fifty_writers_on_sqlite_leave_a_linearizable_history(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    async with XdsServer(None, "--store", f"sqlite:///{file}", settings=WHOLE_LOG) as server:
        await server.wait_ready()
        writers = Writers([server], seed=SEED, count=WRITERS, writes=WRITES)
        started = time.monotonic()
        await writers.run()
        took_s = time.monotonic() - started
    store = await SqliteStore.open(file)
    figures = check(writers.calls, await entries_of(store))
    await store.close()
    told = f"sqlite, seed {SEED}, {WRITERS} writers, {took_s:.1f} s: {figures}"
    print(f"{told}: linearizable, 0 lost, 0 doubled")
    assert figures.unknown == 0


@pytest.mark.timeout(TIMEOUT_S)
async def test_fifty_writers_at_two_replicas_leave_a_linearizable_history() -> None:
    """The second learns late what the first has acknowledged: what it says of an older state would show."""
    async with Etcd() as etcd, SlowLink(etcd.clients[0], LATE_S) as link:
        await link.wait_ready()
        near, far = etcd.url(), f"etcd://127.0.0.1:{link.port}/xds"
        replicas = [XdsServer(None, "--store", url, settings=WHOLE_LOG) for url in (near, far)]
        async with replicas[0] as one, replicas[1] as two:
            for server in (one, two):
                await server.wait_ready()
            writers = Writers([one, two], seed=SEED, count=WRITERS, writes=WRITES)
            started = time.monotonic()
            await writers.run()
            took_s = time.monotonic() - started
        store = await EtcdStore.open(EtcdOptions(endpoints=etcd.endpoints), "xds")
        figures = check(writers.calls, await entries_of(store))
        await store.close()
    print(
        f"etcd, 2 replicas, seed {SEED}, {WRITERS} writers, {took_s:.1f} s: {figures}: linearizable, 0 lost, 0 doubled"
    )
    assert figures.unknown == 0
