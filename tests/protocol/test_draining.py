"""Draining resources: which clusters the older versions that a client may still use refer to, and until when."""

from hypothesis import given
from hypothesis import strategies as st
from support.encoded import CDS, LDS, RDS, listener, route, static
from support.hubs import World

from xds.protocol.diff import InitialVersions
from xds.protocol.draining import (
    NEVER,
    NOTHING_DRAINS,
    VERSIONS_MAX,
    add_all_draining,
    add_draining,
    clusters_used,
    end_draining_by,
    merge_draining,
    next_end,
    unexpired_draining,
    without_draining,
)


def test_versions_that_use_the_same_clusters_are_one_until_the_last_of_them_ends() -> None:
    draining = NOTHING_DRAINS
    for version in range(1_000):
        draining = add_draining(draining, listener("l", version, clusters="a"), until=float(version))
    assert dict(draining) == {"l": ((frozenset("a"), 999.0),)}


def test_a_version_that_uses_no_clusters_is_left_out() -> None:
    assert add_draining(NOTHING_DRAINS, listener("l", 1, routes="r"), until=5.0) is NOTHING_DRAINS


def test_a_version_of_which_only_the_name_is_known_may_use_any_cluster() -> None:
    draining = add_all_draining(
        NOTHING_DRAINS, [InitialVersions().get(LDS, "l", "1"), listener("m", 1, clusters="a")], until=5.0
    )
    assert (clusters_used(draining), next_end(draining)) == (None, 5.0)
    assert clusters_used(without_draining(draining, ["l"])) == {"a"}


def test_versions_of_a_name_are_bounded_and_none_of_their_clusters_is_lost() -> None:
    draining = NOTHING_DRAINS
    for version in range(100):
        draining = add_draining(draining, route("r", version, f"c{version}"), until=float(version))
    assert len(draining["r"]) == VERSIONS_MAX
    assert clusters_used(draining) == {f"c{version}" for version in range(100)}
    reported = add_draining(NOTHING_DRAINS, InitialVersions().get(RDS, "r", "1"), until=0.5)
    assert clusters_used(merge_draining(draining, reported)) is None
    assert len(merge_draining(draining, reported)["r"]) == VERSIONS_MAX


def test_an_end_applies_to_the_versions_of_its_names_alone() -> None:
    draining = add_all_draining(
        NOTHING_DRAINS, [route("r", 1, "a"), route("r", 2, "b"), route("s", 1, "c")], until=NEVER
    )
    assert next_end(draining) == NEVER
    draining = end_draining_by(draining, ["r", "none"], 10.0)
    draining = add_draining(draining, route("r", 3, "d"), until=20.0)
    assert next_end(draining) == 10.0
    assert clusters_used(unexpired_draining(draining, 9.0)) == {"a", "b", "c", "d"}
    assert clusters_used(unexpired_draining(draining, 10.0)) == {"c", "d"}
    assert clusters_used(unexpired_draining(draining, 20.0)) == {"c"}
    assert unexpired_draining(end_draining_by(draining, draining, 10.0), 20.0) == NOTHING_DRAINS
    assert without_draining(draining, ["none"]) is draining


kept = st.lists(st.tuples(st.sampled_from("rs"), st.sampled_from("abc"), st.sampled_from([1.0, 2.0])), max_size=6)


@given(kept, kept, st.sampled_from([0.0, 1.0, 2.0]))
def test_a_merge_has_the_versions_of_both(ours, theirs, now) -> None:
    def made(versions):
        draining = NOTHING_DRAINS
        for name, uses, until in versions:
            draining = add_draining(draining, route(name, 1, uses), until)
        return draining

    one, other = made(ours), made(theirs)
    both = merge_draining(one, other)
    for name in "rs":
        expected = {uses for each, uses, until in ours + theirs if each == name and until > now}
        found = without_draining(unexpired_draining(both, now), {"r", "s"} - {name})
        assert clusters_used(found) == expected
    assert merge_draining(NOTHING_DRAINS, other) is other


def test_what_drained_is_forgotten_at_its_time_though_no_cluster_ever_changes(world: World) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    (stream,) = client.streams.values()
    for version in range(2, 50):
        world.publish(listener("l", version, clusters="a b"[: 1 + 2 * (version % 2)]))
        client.ack_all()
        assert len(stream.states[LDS].draining["l"]) <= 2
    world.advance(599)
    assert stream.states[LDS].draining
    world.advance(2)
    state = stream.states[LDS]
    assert (state.draining, state.drain_at) == (NOTHING_DRAINS, NEVER)


def test_a_route_that_is_rejected_again_and_again_keeps_what_each_version_uses_and_no_more(world: World) -> None:
    world.publish(static("a"), static("b"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    (stream,) = client.streams.values()
    for version in range(2, 200):
        world.publish(route("r", version, "ab"[version % 2]))
        client.take()
        client.nack(RDS)
    assert {uses for uses, _ in stream.states[RDS].draining["r"]} == {frozenset("a"), frozenset("b")}
    world.publish(route("r", 1_000, "a"))
    client.ack_all()
    assert not stream.states[RDS].draining
