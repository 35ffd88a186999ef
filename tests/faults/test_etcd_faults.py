"""etcd's leader killed, cut off or paused, while replicas write: nothing acknowledged is lost or doubled.

``XDS_ETCD_FAULTS`` sets how often, ``XDS_REPLICA_STREAMS`` how many streams there are.
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
from support import resources as r
from support.etcd import Etcd, wait_known
from support.server import XdsServer
from support.waiting import for_a_while, wait_until
from support.worker_fleet import Fleet, wait_followed

from xds.client import Client
from xds.schema.ingest import ingest
from xds.store.entries import Entry, Key, Stored
from xds.store.errors import OutcomeUnknownError, UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions

FAULTS = int(os.environ.get("XDS_ETCD_FAULTS", "2"))
STREAMS = int(os.environ.get("XDS_REPLICA_STREAMS", "200"))
FAULT_S = 2.0
PATIENCE_S = 60.0
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
            await for_a_while(0.002, "the pace of a writer")

    async def _persist(self, store: EtcdStore, entry: Entry) -> int:
        async def attempt() -> int:
            self.tries += 1
            return await store.append(entry)

        refused = (UnavailableError, OutcomeUnknownError)
        return await wait_until(attempt, timeout_s=PATIENCE_S, poll_s=0.02, ignoring=refused)

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
        await wait_known(store, newest)
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
    await for_a_while(FAULT_S, "the fault lasts")
    etcd.members[number].start()


async def cut_off(etcd: Etcd, number: int) -> None:
    """Let nothing pass between a member and the others for a while. It still answers its clients."""
    held_back = etcd.network.held_back
    etcd.network.cut_off(number)
    await for_a_while(FAULT_S, "the fault lasts")
    etcd.network.heal()
    assert etcd.network.held_back > held_back, "it was cut off"


async def pause(etcd: Etcd, number: int) -> None:
    """Have a member say and hear nothing for a while, and come back as it was."""
    etcd.members[number].signal(signal.SIGSTOP)
    await for_a_while(FAULT_S, "the fault lasts")
    etcd.members[number].signal(signal.SIGCONT)


@pytest.mark.timeout(60 + 15 * FAULTS)
@pytest.mark.parametrize("fault", [kill, cut_off, pause], ids=["leader-killed", "leader-cut-off", "leader-paused"])
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
            await for_a_while(chance.uniform(0.5, 1.0), "the fault comes at any moment")
            await fault(etcd, await etcd.leader())
            await etcd.wait_whole()  # two lost of three is no majority
        await writers.stop()
        await asyncio.wait_for(running, 20)
        count = await check(writers, stores)
        for store in stores:
            await store.close()
    stall_s = writers.stall_s()
    print(f"{fault.__name__}: {FAULTS} faults, {len(writers.told)} acknowledged of {count} kept, stall {stall_s:.2f} s")
    assert stall_s <= STALL_MAX_S


@pytest.mark.timeout(120 + 15 * FAULTS)
async def test_streams_stay_and_are_told_every_change_whatever_becomes_of_etcd() -> None:
    """Two replicas with streams, changes on both; the leader is killed or cut off, and in the end all are killed."""
    chance = random.Random()
    acknowledged: dict[str, r.Json] = {}
    async with Etcd(3) as etcd:
        options = ("--store", etcd.url(uuid.uuid4().hex))
        async with XdsServer(None, *options) as one, XdsServer(None, *options) as two:
            servers = [one, two]
            for server in servers:
                await server.wait_ready()
            async with (
                Fleet(one.port, STREAMS // 2, r.CLUSTER) as first,
                Fleet(two.port, STREAMS // 2, r.CLUSTER) as second,
                Client(f"127.0.0.1:{one.api_port}", patience_s=30) as at_one,
                Client(f"127.0.0.1:{two.api_port}", patience_s=30) as at_two,
            ):
                followers = [*first.followers, *second.followers]
                stop = asyncio.Event()

                async def push(client: Client, writer: str) -> None:
                    for number in itertools.count():
                        if stop.is_set():
                            return
                        cluster = r.static_cluster(f"{writer}{number % 10}", number + 1)
                        await client.apply(upsert=[cluster])
                        acknowledged[cluster["name"]] = cluster
                        await for_a_while(STREAMS / 800, "what one process of Python can take in")

                pushing = [asyncio.create_task(push(at_one, "a")), asyncio.create_task(push(at_two, "b"))]
                for number in range(FAULTS):
                    await for_a_while(chance.uniform(0.5, 1.0), "the fault comes at any moment")
                    await (kill, cut_off)[number % 2](etcd, await etcd.leader())
                    await etcd.wait_whole()
                for member in etcd.members:
                    member.kill()
                for server in servers:
                    await server.wait_metrics(lambda metrics: metrics["xds_stale"] == 1)
                etcd.start()
                await for_a_while(FAULT_S, "writers go on after the last fault")
                stop.set()
                await asyncio.gather(*pushing)
                expected = {name: ingest(cluster).version for name, cluster in acknowledged.items()}
                await wait_followed(followers, expected)
                dropped = sum(follower.streams - 1 for follower in followers)
                again = [each for follower in followers for each in follower.repeated]
    print(f"{FAULTS} faults and etcd away once: {dropped} of {len(followers)} streams dropped, {len(again)} sent again")
    assert (dropped, again) == (0, [])
