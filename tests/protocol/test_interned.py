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
