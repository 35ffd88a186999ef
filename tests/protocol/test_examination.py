"""A large response that is rejected is searched for secrets in pieces; its NACKs are noted for operators after that."""

from collections.abc import Callable, Sequence

import pytest
from support.encoded import CDS, static
from support.hubs import World

from xds.model.resource import Resource
from xds.protocol import unexamined
from xds.protocol.hub import EXAMINED_AT_ONCE
from xds.protocol.status import Event, Nacked

MANY = 3 * EXAMINED_AT_ONCE


@pytest.fixture
def searched(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the resources that were searched, each when it was searched first."""
    found: dict[str, None] = {}
    names: list[str] = []

    def hider(resources: Sequence[Resource]) -> Callable[[str], str]:
        new = [each.name for each in resources if each.name not in found]
        found.update(dict.fromkeys(new))
        names.extend(new)
        return lambda text: text.replace("secret", "[redacted]")

    monkeypatch.setattr(world.hub, "_hider", hider)
    world.publish(*(static(f"c{number}") for number in range(MANY)))
    return names


def messages_of(events: list[Event]) -> list[tuple[str, str]]:
    return [(each.node_id, each.message) for each in events if isinstance(each, Nacked)]


def examine(world: World) -> None:
    while world.hub.examine_some(EXAMINED_AT_ONCE):
        pass


def test_a_large_rejected_response_is_searched_piece_by_piece_and_then_its_nacks_are_noted(
    world: World, searched: list[str]
) -> None:
    clients = [world.client(node=f"n{number}") for number in range(2)]
    for client in clients:
        client.subscribe(CDS)
        client.nack(CDS, "a secret")
    assert (searched, world.hub.counters.nacks, messages_of(world.events())) == ([], 2, [])
    assert world.hub.is_examining
    world.hub.examine_some(7)
    assert len(searched) == 7
    world.hub.examine_some(7)
    assert len(searched) == 14
    examine(world)
    assert len(searched) == MANY
    assert messages_of(world.events()) == [("n0", "a [redacted]"), ("n1", "a [redacted]")]
    assert not world.hub.is_examining
    assert not world.hub.examine_some(EXAMINED_AT_ONCE)
    (stream,) = clients[0].streams.values()
    assert stream.session is not None
    assert stream.session.rejections_of(stream.states[CDS].kind)[0].message == "a [redacted]"
    assert world.hub._nacked.reason(stream.session.node, CDS) == "a [redacted]"
    assert [each.message for each in world.hub.nacks.of(stream.session.node)] == ["a [redacted]"]


def test_several_nacks_of_a_node_are_noted_in_their_order(world: World, searched: list[str]) -> None:
    for message in ("first", "second"):
        client = world.client()
        client.subscribe(CDS)
        client.nack(CDS, message)
    assert searched == []
    examine(world)
    assert messages_of(world.events()) == [("n1", "first"), ("n1", "second")]


def test_a_node_that_returns_before_that_is_known_to_have_rejected_the_names(world: World, searched: list[str]) -> None:
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS)
    client.take()
    again = client.reconnect()
    assert len(again.last(CDS).resources) == MANY
    assert searched == []


def test_what_the_node_accepts_before_that_stays_accepted(world: World, searched: list[str]) -> None:
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS, "no")
    again = client.reconnect()
    again.ack(CDS)
    assert messages_of(world.events()) == [("n1", "no")]
    (record,) = world.hub.nacks.of(next(iter(again.streams.values())).session.node)  # type: ignore[union-attr]
    assert record.settled == set(record.response.names)
    assert not world.hub._nacked.by_node


def test_what_was_accepted_at_another_process_meanwhile_is_not_rejected_again(
    world: World, searched: list[str]
) -> None:
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS, "no")
    node = next(iter(client.streams.values())).session.node  # type: ignore[union-attr]
    world.hub._nacked.accept(node, CDS, world.hub._nacked.of(node, CDS))
    examine(world)
    assert not world.hub._nacked.by_node


def test_the_nacks_that_are_to_be_noted_are_bounded(
    world: World, searched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unexamined, "UNEXAMINED_MAX", 3)
    for number in range(4):
        client = world.client(node=f"n{number}")
        client.subscribe(CDS)
        client.nack(CDS, "no")
        assert world.hub.is_examining is (number < 3)
    assert len(messages_of(world.events())) == 4


def test_their_bytes_are_bounded_and_a_response_that_several_reject_counts_once(
    world: World, searched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [world.client(node=f"n{number}") for number in range(4)]
    for client in clients:
        client.subscribe(CDS)
    size = len(next(iter(clients[0].unanswered.values()))[CDS][0].part.message)
    monkeypatch.setattr(unexamined, "UNEXAMINED_BYTES_MAX", size + len("no" * 3))
    for number, client in enumerate(clients):
        client.nack(CDS, "no")
        assert world.hub.is_examining is (number < 3)
    assert len(messages_of(world.events())) == 4
