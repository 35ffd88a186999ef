"""Removals in a rejected response are repeated in the next response of their type, never in one of their own."""

import pytest
from support.encoded import CDS, EDS, LDS, OTHER, RDS, SDS, TYPES, VHDS, listener, resource, static
from support.hubs import DELTA, SOTW, Client, World

BY_NAME = (EDS, RDS)


def holding_two(world: World, type_url: str) -> Client:
    world.publish(resource(type_url, "keep"), resource(type_url, "old"))
    client = world.client(DELTA)
    client.subscribe(type_url, *(("keep", "old") if type_url in BY_NAME else ()))
    client.ack_all()
    return client


def removed(world: World, client: Client, type_url: str) -> None:
    world.publish(remove=[resource(type_url, "old")])
    world.advance(30)
    assert client.take()[-1].endswith(" -old")
    client.nack(type_url)


@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS, SDS, OTHER], ids=lambda each: TYPES[each])
def test_a_rejected_removal_goes_again_with_the_next_response(world: World, type_url: str) -> None:
    client = holding_two(world, type_url)
    removed(world, client, type_url)
    world.advance(3_600)
    assert client.take() == []  # no loop of NACKs
    world.publish(resource(type_url, "keep", 2))
    (said,) = client.take()
    assert said.endswith(" keep@2 -old")
    client.ack_all()
    assert client.held[type_url] == {"keep": "2"}
    world.publish(resource(type_url, "keep", 3))
    assert client.take()[-1].endswith(" keep@3")


@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS, SDS, OTHER], ids=lambda each: TYPES[each])
def test_a_removal_that_is_rejected_again_goes_once_more(world: World, type_url: str) -> None:
    client = holding_two(world, type_url)
    removed(world, client, type_url)
    for version in (2, 3, 4):
        world.publish(resource(type_url, "keep", version))
        assert client.take()[-1].endswith(f" keep@{version} -old")
        client.nack(type_url)
    world.publish(resource(type_url, "keep", 5))
    client.ack_all()
    assert client.held[type_url] == {"keep": "5"}


def test_a_removal_beside_a_bad_update_goes_with_the_mended_one(world: World) -> None:
    world.publish(resource(OTHER, "a"), resource(OTHER, "old"))
    client = world.client()
    client.subscribe(OTHER)
    client.ack_all()
    world.publish(resource(OTHER, "a", 2), remove=[resource(OTHER, "old")])
    assert client.take() == ["OTHER #2 a@2 -old"]
    client.nack(OTHER)
    world.publish(resource(OTHER, "a", 3))
    assert client.take() == ["OTHER #3 a@3 -old"]


def test_what_is_there_again_is_not_removed(world: World) -> None:
    client = holding_two(world, OTHER)
    removed(world, client, OTHER)
    world.publish(resource(OTHER, "old", 2))
    assert client.take() == ["OTHER #3 old@2"]
    client.ack_all()
    world.publish(resource(OTHER, "keep", 2))
    assert client.take() == ["OTHER #4 keep@2"]


def test_what_is_unsubscribed_is_not_removed(world: World) -> None:
    client = holding_two(world, EDS)
    removed(world, client, EDS)
    client.unsubscribe(EDS, "old")
    world.publish(resource(EDS, "keep", 2))
    assert client.take() == ["EDS #3 keep@2"]


def test_a_listener_whose_rejected_removal_is_accepted_drains(world: World) -> None:
    world.publish(static("a"), listener("l", 1, clusters="a"), listener("m", 1))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(remove=[listener("l", 1)])
    client.take()
    client.nack(LDS)
    world.publish(listener("m", 2), remove=[static("a")])
    assert client.take() == ["LDS #4 m@2 -l"]
    client.ack_all()
    world.advance(599)
    assert (client.take(), "a" in client.held[CDS]) == ([], True)
    world.advance(2)
    assert client.take()[-1].endswith(" -a")


def test_a_virtual_host_whose_rejected_removal_is_accepted_uses_no_cluster(world: World) -> None:
    """It is gone at once, unlike a route configuration. Before, every cluster was kept for ever."""
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(VHDS, "r/none")
    client.nack(VHDS)
    again = client.reconnect(CDS)
    again.subscribe(VHDS, "r/none")
    again.ack_all()
    world.publish(remove=[static("a")])
    world.advance(30)
    assert again.take() == ["CDS #3 -a"]


def test_sotw_responses_have_all_resources_so_no_removal_is_repeated(world: World) -> None:
    world.publish(static("a"), static("old"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack_all()
    world.publish(remove=[static("old")])
    world.advance(30)
    client.take()
    client.nack(CDS)
    world.publish(static("a", 2))
    assert client.take() == ["CDS #3 a@2"]  # on full-state SotW, absence removes old


def test_a_removal_of_a_name_that_is_requested_again_is_sent_once(world: World) -> None:
    client = world.client()
    assert client.subscribe(SDS, "none") == ["SDS #1 -none"]
    assert client.nack(SDS, subscribe=["none"]) == ["SDS #2 -none"]
    client.nack(SDS)
    world.publish(resource(SDS, "none"))
    assert client.take() == ["SDS #3 none@1"]
