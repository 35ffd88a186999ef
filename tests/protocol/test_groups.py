"""Groups that change while streams are open, and the resources sent to each group's nodes.

See docs/protocol.md#groups and docs/protocol.md#order."""

from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import MakeWorld, World
from support.scenes import full, started

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.protocol.policy import Variant
from xds.protocol.responses import Encoding

ALL_TO_DEFAULT = GroupTable(rules=(Rule(group="default"),))
TO_CANARY = GroupTable(rules=(Rule(group="canary", id="n1"), Rule(group="default")))
DENIED = GroupTable(rules=(Rule(group="default", id="n2"),), deny_unmatched=True)


def test_group_each_node_is_sent_its_own(world: World, variant: Variant) -> None:
    world.publish(static("d"))
    world.publish(static("c"), group="canary")
    mine, other = world.client(variant, cluster="canary"), world.client(variant, "n2", cluster="elsewhere")
    assert (mine.subscribe(CDS), other.subscribe(CDS)) == (["CDS #1 c@1"], ["CDS #1 d@1"])


def test_group_change_of_one_does_not_reach_another(world: World, variant: Variant) -> None:
    world.publish(static("d"))
    world.publish(static("c"), group="canary")
    mine, other = world.client(variant, cluster="canary"), world.client(variant, "n2")
    mine.subscribe(CDS)
    other.subscribe(CDS)
    mine.ack_all(), other.ack_all()
    world.publish(static("d", 2))
    assert (mine.take(), other.take()) == ([], ["CDS #2 d@2"])


def test_group_change_of_a_base_reaches_what_extends_it(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="canary"),), extends={"canary": "default"}))
    world.publish(static("a"), static("b"))
    world.publish(static("b", 2), group="canary")
    client = world.client(variant)
    assert client.subscribe(CDS) == ["CDS #1 a@1 b@2"]
    client.ack(CDS)
    world.publish(static("a", 2), static("b", 3))
    assert client.take() == [full(variant, "CDS #2 a@2", "CDS #2 a@2 b@2")]


def test_group_chosen_by_metadata(make_world: MakeWorld, variant: Variant) -> None:
    rules = (Rule(group="canary", metadata={"stage": "canary"}), Rule(group="default"))
    world = make_world(groups=GroupTable(rules=rules))
    world.publish(static("c"), group="canary")
    assert world.client(variant, metadata={"stage": "canary"}).subscribe(CDS) == ["CDS #1 c@1"]


def test_group_that_takes_a_node_now_brings_its_resources_in_order(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    client = started(world, variant)
    upserts = (cluster("b"), endpoints("b"), listener("l", routes="r"), route("r", 2, "b"))
    world.publish(*upserts, group="canary")
    assert client.take() == []
    world.regroup(TO_CANARY)
    assert client.take() == [full(variant, "CDS #5 b@1", "CDS #5 a@1 b@1")]
    client.subscribe(EDS, "b")
    assert client.ack(CDS) == ["RDS #7 r@2"]
    client.ack(EDS)
    assert client.ack(RDS)[0] == full(variant, "CDS #8 -a", "CDS #8 b@1")


def test_group_that_takes_a_node_now_is_the_one_whose_changes_it_is_sent(
    make_world: MakeWorld, variant: Variant
) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    world.publish(static("a"))
    world.publish(static("a"), group="canary")
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.regroup(TO_CANARY)
    assert client.take() == []
    world.publish(static("a", 2))
    assert client.take() == []
    world.publish(static("a", 3), group="canary")
    assert client.take() == ["CDS #2 a@3"]


def test_group_moves_all_per_type_streams_of_a_session(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    client = started(world, variant, per_type=True)
    upserts = (cluster("a"), endpoints("a", 2), listener("l", routes="r"), route("r", 2, "a"))
    world.publish(*upserts, group="canary")
    world.regroup(TO_CANARY)
    assert sorted(line.split()[0] + line.split()[2] for line in client.take()) == ["EDSa@2", "RDSr@2"]


def test_group_moved_and_changed_in_one_changeset(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    applied = world.catalog.apply(Changeset(groups=TO_CANARY, upserts={"canary": (static("a", 2),)}))
    world.hub.publish(applied)
    world.pump()
    assert client.take() == ["CDS #2 a@2"]


def test_group_none_takes_any_more_is_permission_denied(
    make_world: MakeWorld, variant: Variant, per_type: bool
) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    client = world.client(variant, per_type=per_type)
    client.subscribe(CDS)
    client.subscribe(LDS)
    stays = world.client(variant, "n2")
    stays.subscribe(CDS)
    client.ack_all(), stays.ack_all()
    world.regroup(DENIED)
    refusal = "END PERMISSION_DENIED: no group takes node 'n1' now"
    assert client.take() == [refusal] * (2 if per_type else 1)
    world.publish(static("a"))
    assert (client.take(), stays.take()) == ([], ["CDS #2 a@1"])


def test_group_denied_and_taken_again_before_its_stream_ended_goes_on(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    with world.burst():
        world.regroup(DENIED)
        world.regroup(ALL_TO_DEFAULT)
        world.publish(static("a"))
    assert client.take() == ["CDS #2 a@1"]


def test_group_rules_that_change_nothing_for_a_node_send_nothing(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=ALL_TO_DEFAULT)
    client = started(world, variant)
    world.regroup(GroupTable(rules=(Rule(group="other", id="nobody"), Rule(group="default"))))
    assert client.take() == []


def test_group_nack_names_the_group(make_world: MakeWorld) -> None:
    world = make_world(groups=TO_CANARY)
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS)
    assert [event.group for event in world.events()] == ["canary"]


def test_group_stream_opened_before_a_change_is_published_gets_it_in_order(world: World, variant: Variant) -> None:
    """The catalog may have changes that are not published yet: a new stream is sent the published snapshot first."""
    client = started(world, variant)
    applied = world.apply(static("b"), route("r", 2, "b"), remove=[cluster("a")])
    fresh = world.client(variant, "n2")
    assert fresh.subscribe(CDS) == ["CDS #1 a@1"]
    fresh.ack(CDS)
    assert client.take() == []
    world.hub.publish(applied)
    world.pump()
    assert client.take() == [full(variant, "CDS #5 b@1", "CDS #5 a@1 b@1")]
    assert fresh.take() == [full(variant, "CDS #2 b@1", "CDS #2 a@1 b@1")]


def test_group_left_and_entered_again_between_two_parts_of_clusters_brings_listeners_after_the_last(
    make_world: MakeWorld,
) -> None:
    world = make_world(groups=ALL_TO_DEFAULT, encoding=Encoding(response_bytes_max=60))
    world.publish(static("old"), listener("l", clusters="old"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    client.subscribe(LDS)
    client.ack(LDS)
    world.publish(static("a"), static("b"), listener("l", 2, clusters="b"))
    assert client.take() == ["CDS #3 a@1"]
    with world.burst():
        world.regroup(TO_CANARY)
        world.regroup(ALL_TO_DEFAULT)
    assert client.ack(CDS) == ["CDS #4 b@1"]
    assert client.ack(CDS) == ["LDS #5 l@2"]
