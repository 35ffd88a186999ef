"""Who has which version of a resource: as each client's own inspection says, and counted over processes."""

import random
from collections import Counter

import pytest
from protocol.test_inspection_at_random import CLUSTERS, ROUTES, act
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints
from support.hubs import Client, World
from support.scenes import started

from xds.protocol.holders import EXAMPLES_MAX, Holders, HoldersQuery, Holding, find_holders
from xds.protocol.policy import Variant
from xds.protocol.status import sessions_of


def found(world: World, type_url: str, name: str, *groups: str) -> Holders:
    query = HoldersQuery(type_url=type_url, name=name, groups=groups or ("default",))
    return find_holders(sessions_of(world.hub.streams), query, world.hub.nacks.of)


def counts(holders: Holders) -> Counter[str | None]:
    return Counter({each.version: each.clients for each in holders.holdings})


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_the_inspection_of_each_client(
    world: World, variant: Variant, per_type: bool, seed: int
) -> None:
    chance = random.Random(seed)
    clients: list[Client] = [started(world, variant, per_type=per_type)]
    for number in range(2, 5):
        client = world.client(variant, f"n{number}", per_type=per_type)
        for type_url, names in ((CDS, ()), (EDS, CLUSTERS), (LDS, ()), (RDS, ROUTES)):
            client.subscribe(type_url, *names)
        clients.append(client)
    seen: set[str | None] = set()
    for version in range(2, 60):
        act(world, chance.choice(clients), chance, version)
        for type_url, name in ((CDS, "a"), (CDS, "b"), (EDS, "a"), (RDS, "r"), (LDS, "l"), (LDS, "none")):
            inspected = (
                world.hub.inspector(session, world.now).standing(type_url, name).accepted
                for session in sessions_of(world.hub.streams)
            )
            told = counts(found(world, type_url, name))
            assert told == Counter(inspected)
            seen |= set(told)
    assert len(seen) > 3


def test_clients_are_counted_by_group_and_version_with_some_of_their_nodes(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"))
    clients = [world.client(node=f"n{number}") for number in range(EXAMPLES_MAX + 2)]
    for client in clients:
        client.subscribe(CDS)
    assert found(world, CDS, "a").holdings[0].version == ""
    for client in clients[1:]:
        client.ack(CDS)
    none, some = found(world, CDS, "a").holdings
    assert (none.version, none.clients, none.examples) == ("", 1, ("n0",))
    assert (some.version, some.clients, some.examples) == ("1", 6, ("n1", "n2", "n3", "n4", "n5"))
    assert found(world, CDS, "a", "another").holdings == ()


def test_processes_are_joined() -> None:
    def one(version: str | None, clients: int, *examples: str) -> Holding:
        return Holding(group="g", version=version, clients=clients, examples=examples)

    several = [
        Holders(holdings=(one("1", 2, "a", "b"), one(None, 1, "c")), missing_workers=("w",)),
        Holders(holdings=(one("1", 9, "d", "e", "f", "h", "i"),), missing_replicas=("r",)),
    ]
    joined = Holders.joined(several)
    assert joined.holdings == (one(None, 1, "c"), one("1", 11, "a", "b", "d", "e", "f"))
    assert (joined.missing_workers, joined.missing_replicas) == (("w",), ("r",))
