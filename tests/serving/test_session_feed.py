"""What is reported of sessions: when they begin, move and end, and what they had accepted by then."""

from types import SimpleNamespace
from typing import Any

import pytest
from support.encoded import CDS, EDS, cluster, endpoints, static
from support.hubs import DELTA, SOTW, World
from support.scenes import started
from support.waiting import wait_until

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.protocol.policy import Variant
from xds.protocol.sessions import Stream
from xds.registry.session_events import SessionBegan, SessionEnded, SessionEvent, SessionMoved
from xds.serving.session_feed import SessionFeed


class Watched(World):
    """A hub whose sessions are reported; ``reported`` passes on what there is."""

    def __init__(self, **options: Any) -> None:
        self.said: list[SessionEvent] = []
        self.feed = SessionFeed(self.said.extend)
        super().__init__(watch=self.feed, **options)

    def open(self, *arguments: Any) -> Stream:
        stream = super().open(*arguments)
        stream.owner = SimpleNamespace(peer_address="10.0.0.1:4000")
        return stream

    def reported(self) -> list[SessionEvent]:
        self.feed.flush()
        said = self.said[:]
        self.said.clear()
        return said


def accepted(world: Watched) -> list[int]:
    return [each.accepted_revision for each in world.reported() if isinstance(each, SessionEnded)]


@pytest.fixture(params=[DELTA, SOTW])
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


async def test_a_session_begins_and_ends_once_whatever_happens_in_between(variant: Variant) -> None:
    world = Watched()
    client = started(world, variant)
    (began,) = world.reported()
    assert isinstance(began, SessionBegan)
    assert (began.id, began.group, began.cluster, began.address) == ("n1", "default", "c1", "10.0.0.1:4000")
    world.publish(cluster("a", 2), endpoints("a", 2))
    client.ack_all()
    assert world.reported() == []
    client.close()
    (ended,) = world.reported()
    assert isinstance(ended, SessionEnded)
    assert (ended.session, ended.accepted_revision) == (began.session, world.hub.revision)
    assert world.feed.count == 2


@pytest.mark.parametrize("per_type", [False, True])
async def test_a_session_that_ends_has_accepted_what_it_answered(variant: Variant, per_type: bool) -> None:
    """All streams of a connection end one after the other: what the first of them owed counts."""
    world = Watched()
    client = started(world, variant, per_type=per_type)
    before = world.hub.revision
    world.publish(cluster("a", 2))
    client.close()
    assert accepted(world) == [before]
    world.publish(static("b"))
    late = world.client(variant, "n2", per_type=per_type)
    late.subscribe(CDS)
    late.nack(CDS)
    late.close()
    assert accepted(world) == [0]


async def test_a_stream_of_many_that_ended_earlier_does_not_count() -> None:
    world = Watched()
    client = started(world, DELTA, per_type=True)
    world.publish(endpoints("a", 2))  # never answered
    eds = next(stream for stream in client.streams.values() if EDS in stream.states)
    client._close(eds)
    client.streams = {key: stream for key, stream in client.streams.items() if stream is not eds}
    world.reported()
    client.close()
    assert accepted(world) == [world.hub.revision]


async def test_a_session_that_moves_is_reported_with_its_new_group() -> None:
    world = Watched()
    started(world)
    world.reported()
    world.catalog.apply(Changeset(upserts={"other": (static("x"),)}))
    world.regroup(GroupTable(rules=(Rule(group="other", id="n1"),), names=("other",)))
    (moved,) = world.reported()
    assert isinstance(moved, SessionMoved)
    assert moved.group == "other"


async def test_reports_are_passed_on_by_themselves() -> None:
    world = Watched()
    started(world)
    await wait_until(lambda: len(world.said), equals=1)
