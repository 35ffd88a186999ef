"""etcd's leader killed, or paused as if cut off, while replicas write: nothing acknowledged is lost or doubled.

``XDS_ETCD_FAULTS`` sets how often.
"""

import asyncio
import itertools
import os
import random
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from support.etcd import Etcd

from xds.store.entries import Entry, Key, Stored
from xds.store.errors import OutcomeUnknownError, UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions

FAULTS = int(os.environ.get("XDS_ETCD_FAULTS", "2"))
FAULT_S = 2.0
STALL_MAX_S = 3.0
CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


@dataclass(frozen=True)
class Told:
    """An append that was acknowledged: when it was begun and answered, and its revision."""

    id: str
    begun: float
    answered: float
    revision: int


class Writers:
    """Append on several stores at once, trying again with the same id whatever happens, and note what was told."""

    def __init__(self, stores: list[EtcdStore]) -> None:
        self._stores = stores
        self._stop = asyncio.Event()
        self.told: list[Told] = []
        self.tries = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._write(number, store) for number, store in enumerate(self._stores)))

    async def stop(self) -> None:
        self._stop.set()

    async def _write(self, writer: int, store: EtcdStore) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            key = Key("default", CLUSTERS, f"w{writer}")
            entry = Entry(id=f"w{writer}-{number}", operations={key: b"%d" % number})
            begun = time.monotonic()
            revision = await self._persist(store, entry)
            self.told.append(Told(entry.id, begun, time.monotonic(), revision))
            await asyncio.sleep(0.002)

    async def _persist(self, store: EtcdStore, entry: Entry) -> int:
        while True:
            self.tries += 1
            try:
                return await store.append(entry)
            except (UnavailableError, OutcomeUnknownError):
                await asyncio.sleep(0.02)

    def stall_s(self) -> float:
        """Return the longest time without any acknowledgement."""
        times = sorted(each.answered for each in self.told)
        return max(later - earlier for earlier, later in itertools.pairwise(times))


async def whole_log(store: EtcdStore) -> list[Stored]:
    log: list[Stored] = []
    while page := await store.entries(len(log), 1_000):
        log += page
    return log


async def check(writers: Writers, stores: list[EtcdStore]) -> int:
    """Assert what is promised of the log, and that all stores have the same one; return how long it is."""
    newest = max(each.revision for each in writers.told)
    for store in stores:
        async with asyncio.timeout(10):
            await store._news.reach(newest)
    logs = [await whole_log(store) for store in stores]
    shortest = min(map(len, logs))
    assert all(log[:shortest] == logs[0][:shortest] for log in logs)
    log = max(logs, key=len)
    assert [stored.revision for stored in log] == list(range(1, len(log) + 1))
    kept = {stored.entry.id: stored.revision for stored in log}
    assert len(kept) == len(log), "nothing is doubled"
    for each in writers.told:
        assert kept[each.id] == each.revision, "what was acknowledged is there"
    # Linearizable: an append that began after another was acknowledged comes after it.
    acknowledged = sorted(writers.told, key=lambda each: each.answered)
    highest, at = 0, 0
    for each in sorted(writers.told, key=lambda each: each.begun):
        while at < len(acknowledged) and acknowledged[at].answered < each.begun:
            highest = max(highest, acknowledged[at].revision)
            at += 1
        assert each.revision > highest
    return len(log)


async def kill(etcd: Etcd, number: int) -> None:
    etcd.members[number].kill()
    await asyncio.sleep(FAULT_S)
    etcd.members[number].start()


async def pause(etcd: Etcd, number: int) -> None:
    """Have a member say and hear nothing for a while, as one that is cut off from everyone, and come back as it was."""
    etcd.members[number].signal(signal.SIGSTOP)
    await asyncio.sleep(FAULT_S)
    etcd.members[number].signal(signal.SIGCONT)


@pytest.mark.timeout(60 + 15 * FAULTS)
@pytest.mark.parametrize("fault", [kill, pause], ids=["leader-killed", "leader-partitioned"])
async def test_whatever_becomes_of_the_leader_nothing_acknowledged_is_lost_or_doubled(
    fault: Callable[[Etcd, int], Awaitable[None]],
) -> None:
    chance = random.Random()
    async with Etcd(3) as etcd:
        prefix = uuid.uuid4().hex
        options = EtcdOptions(endpoints=etcd.endpoints)
        stores = [await EtcdStore.open(options, prefix) for _ in range(3)]
        writers = Writers(stores)
        running = asyncio.create_task(writers.run())
        for _ in range(FAULTS):
            await asyncio.sleep(chance.uniform(0.5, 1.0))
            await fault(etcd, await etcd.leader())
            await asyncio.sleep(1.5)  # until it is a follower that has caught up: two lost of three is no majority
        await writers.stop()
        await asyncio.wait_for(running, 20)
        count = await check(writers, stores)
        for store in stores:
            await store.close()
    stall_s = writers.stall_s()
    print(f"{fault.__name__}: {FAULTS} faults, {len(writers.told)} acknowledged of {count} kept, stall {stall_s:.2f} s")
    assert stall_s <= STALL_MAX_S
