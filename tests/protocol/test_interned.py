"""Equal values of streams are one object while any stream holds it."""

from support.encoded import CDS, static
from support.hubs import World

from xds.model.view import View
from xds.protocol.diff import UNSENT_KEPT, Interned


def view(world: World) -> View:
    world.publish(static("a"), static("b"))
    return world.catalog.snapshots["default"].view(CDS)


def test_a_fleet_that_changes_its_subscription_alike_shares_what_that_leaves_unsent(world: World) -> None:
    interned = Interned()
    before, after = interned.subscriptions.get(False, ["a"]), interned.subscriptions.get(False, ["a", "b"])
    first = interned.unsent.get(before, after, view(world))
    assert dict(first) == {"b": None}
    assert interned.unsent.get(before, after, world.catalog.snapshots["default"].view(CDS)) is first


def test_it_keeps_no_subscription_alive_that_no_stream_has(world: World) -> None:
    interned = Interned()
    of = view(world)
    for number in range(2 * UNSENT_KEPT):
        before, after = (
            interned.subscriptions.get(False, [f"{number}"]),
            interned.subscriptions.get(False, [f"{number}", "b"]),
        )
        interned.unsent.get(before, after, of)
    del before, after
    assert len(interned.subscriptions) == 0
    assert len(interned.unsent._last) == UNSENT_KEPT


def test_nodes_that_return_after_they_rejected_the_same_share_what_they_may_have(world: World) -> None:
    """Thousands may do so, each with 5,000 names."""
    world.publish(static("a"), static("b"))
    overrides = []
    for number in range(2):
        client = world.client(node=f"n{number}")
        client.subscribe(CDS)
        client.nack(CDS)
        again = client.reconnect()
        again.take()
        again.nack(CDS)
        with world.burst():
            once_more = again.reconnect()
            (stream,) = once_more.streams.values()
            overrides.append(stream.states[CDS].overrides)
    assert len(overrides[0]) == 2
    assert overrides[0] is overrides[1]
