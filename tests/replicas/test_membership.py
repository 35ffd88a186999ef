"""The replicas find each other by keys under leases, in a real etcd."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest
from support.etcd import Etcd
from support.waiting import stays, wait_until

from xds.process.background import Background
from xds.replicas.membership import MEMBER, MEMBERS_MAX, VALUE_BYTES_MAX, Member, Membership
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdClient, EtcdOptions

ROUND_S = 0.05
FORGET_S = 2.0


def member(name: str, *, api: str = "", started_at_ms: int = 1) -> Member:
    return Member(
        instance=uuid4().hex,
        name=name,
        api=api or f"{name}.test:18001",
        tls=False,
        epoch="e",
        version="1.0",
        started_at_ms=started_at_ms,
    )


class Scene:
    """Memberships below one prefix of an etcd."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.prefix = uuid4().hex
        self.options = EtcdOptions(endpoints=etcd.endpoints)
        self.client = EtcdClient(self.options)
        self.open: list[Membership] = []

    async def join(self, me: Member, *, forget_after_s: float = FORGET_S) -> Membership:
        made = Membership(
            EtcdClient(self.options),
            self.prefix,
            lambda: me,
            forget_after_s=forget_after_s,
            ttl_s=1,
            round_s=ROUND_S,
        )
        await made.start(Background())
        self.open.append(made)
        return made

    async def keys(self) -> list[bytes]:
        found = await self.client.range(self.prefix.encode(), (self.prefix + "0").encode())
        return [kv.key for kv in found.kvs]

    async def close(self) -> None:
        for each in self.open:
            await each.stop()
        await self.client.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Etcd() as etcd:
        made = Scene(etcd)
        yield made
        await made.close()


def names(membership: Membership) -> dict[str, bool]:
    """Return the other replicas, and whether each has a lease."""
    return {known.member.name: known.lost_at is None for known in membership.others.values()}


def crash(membership: Membership) -> None:
    """End a membership as ``kill -9`` does."""
    assert membership._keeping is not None
    membership._keeping.cancel()
    membership._keeping = None


async def test_replicas_find_each_other_and_one_that_ends_is_forgotten_at_once(scene: Scene) -> None:
    first = await scene.join(member("a"))
    assert names(first) == {}
    second = await scene.join(member("b"))
    assert names(second) == {"a": True}
    await wait_until(lambda: names(first), equals={"b": True})
    await second.stop()
    await wait_until(lambda: names(first), equals={}, timeout_s=1.0)
    await wait_until(scene.keys, lambda keys: len(keys) == 1)  # etcd deletes the other with its lease


async def test_a_replica_that_crashed_is_silent_and_forgotten_after_a_while(scene: Scene) -> None:
    first, second = await scene.join(member("a")), await scene.join(member("b"))
    await wait_until(lambda: names(first), equals={"b": True})
    crash(second)
    await wait_until(lambda: names(first), equals={"b": False})
    began = asyncio.get_running_loop().time()
    await wait_until(lambda: names(first), equals={})
    assert asyncio.get_running_loop().time() - began > FORGET_S / 2


async def test_a_replica_that_starts_again_at_its_address_takes_the_place_of_the_former(scene: Scene) -> None:
    first = await scene.join(member("a"))
    crash(await scene.join(member("b", api="b.test:1", started_at_ms=1)))
    await wait_until(lambda: names(first), equals={"b": True})
    await scene.join(member("b", api="b.test:1", started_at_ms=2))
    await wait_until(lambda: names(first), equals={"b": True})
    await wait_until(lambda: len(first.others), equals=1)
    await stays(lambda: names(first), equals={"b": True}, for_s=2.0)


async def test_a_silent_replica_that_is_back_has_its_lease_again(scene: Scene) -> None:
    first, me = await scene.join(member("a")), member("b")
    crash(await scene.join(me))
    await wait_until(lambda: names(first), equals={"b": False})
    await scene.join(me)
    await wait_until(lambda: names(first), equals={"b": True})


async def test_while_etcd_is_away_all_that_were_known_stay_so_and_lost_leases_are_made_anew(scene: Scene) -> None:
    first, second = await scene.join(member("a")), await scene.join(member("b"))
    await wait_until(lambda: names(first), equals={"b": True})
    crash(second)
    scene.etcd.members[0].kill()
    await wait_until(lambda: first.away)
    assert names(first) == {"b": True}  # nobody knows better
    scene.etcd.start()
    await scene.etcd.wait_ready()
    await wait_until(lambda: first.away, equals="")
    await wait_until(lambda: names(first), equals={"b": False})
    below = f"{scene.prefix}/replicas".encode()
    await scene.client.delete(below + b"/", below + b"0")
    await wait_until(scene.keys, lambda keys: len(keys) == 1)  # a key that was removed is put again


async def test_a_start_does_not_wait_for_an_etcd_that_does_not_answer(scene: Scene) -> None:
    nobody = Membership(
        EtcdClient(EtcdOptions(endpoints=("127.0.0.1:1",))), "p", lambda: member("a"), forget_after_s=1.0
    )
    async with asyncio.timeout(5.0):
        await nobody.start(Background())
        assert nobody.away
        await nobody.stop()


async def test_keys_that_can_not_be_read_are_ignored(scene: Scene) -> None:
    first = await scene.join(member("a"))
    good = member("b")
    below = f"{scene.prefix}/replicas/".encode()
    wrong = [
        b"",
        b"no json",
        b"[]",
        b"{}",
        MEMBER.dump_json(replace(good, name="a\x1b[2J")),
        MEMBER.dump_json(replace(good, name="")),
        MEMBER.dump_json(replace(good, api="unix:/x y")),
        MEMBER.dump_json(replace(good, started_at_ms=-1)),
        MEMBER.dump_json(replace(good, version="v" * 65)),
        MEMBER.dump_json(good)[:-1] + b', "more": "' + b"x" * VALUE_BYTES_MAX + b'"}',
    ]
    for number, value in enumerate(wrong):
        await scene.client.put(below + b"%d" % number, value)
    await scene.client.put(below + b"other", MEMBER.dump_json(good))  # a key that is not its own
    await scene.client.put(below + good.instance.encode(), MEMBER.dump_json(good))
    await wait_until(lambda: names(first), equals={"b": True})
    newer = MEMBER.dump_json(good)[:-1] + b', "of_a_later_version": 1}'
    await scene.client.put(below + good.instance.encode(), newer)
    await stays(lambda: names(first), equals={"b": True}, for_s=0.3)


async def test_no_more_than_so_many_replicas_are_remembered(scene: Scene) -> None:
    first = await scene.join(member("a"), forget_after_s=60.0)
    below = f"{scene.prefix}/replicas/".encode()
    for round_ in range(2):
        made = [member(f"r{round_}-{number}") for number in range(MEMBERS_MAX + 20)]
        for each in made:
            await scene.client.put(below + each.instance.encode(), MEMBER.dump_json(each))
        await wait_until(lambda: len(first.others), lambda count: count >= MEMBERS_MAX - 1)
        await scene.client.delete(below, below[:-1] + b"0")
        await wait_until(lambda: set(names(first).values()), equals={False})
        assert len(first.others) <= MEMBERS_MAX


async def test_the_store_does_not_mind_the_keys(scene: Scene) -> None:
    store = await EtcdStore.open(scene.options, scene.prefix)
    first = await scene.join(member("a"))
    second = await scene.join(member("b"))
    await wait_until(lambda: names(first), equals={"b": True})
    await second.stop()
    late = await EtcdStore.open(scene.options, scene.prefix)
    assert (store.away, late.away, await late.kept()) == ("", "", (0, 0))
    await store.close()
    await late.close()
