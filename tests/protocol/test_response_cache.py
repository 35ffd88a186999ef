"""The response cache: streams that need the same update are sent the same bytes, encoded once."""

import gc
from sys import getsizeof

from support.encoded import CDS, EDS, RTDS, SDS, endpoints, resource, static
from support.hubs import DELTA, Client, World

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.protocol.policy import Variant
from xds.protocol.status import Counters


def _fleet(world: World, variant: Variant, type_url: str, *names: str) -> list[Client]:
    clients = [world.client(variant, f"n{number}") for number in range(3)]
    for client in clients:
        client.subscribe(type_url, *names)
    return clients


def test_cohort_first_answers_are_the_very_same_bytes(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    clients = _fleet(world, variant, CDS)
    assert len({id(client.messages[0].part.message) for client in clients}) == 1
    assert len({client.messages[0].nonce for client in clients}) == 1


def test_cohort_changes_are_the_very_same_bytes(world: World, variant: Variant) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    clients = _fleet(world, variant, EDS, "a", "b")
    for client in clients:
        client.ack(EDS)
    for version in range(2, 5):
        world.publish(endpoints("a", version))
        assert len({id(client.messages[-1].part.message) for client in clients}) == 1
        assert [client.ack_all() for client in clients] == [[f"EDS #{version} a@{version}"]] * 3


def test_cohort_names_in_another_order_are_the_same(world: World, variant: Variant) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    first, second = world.client(variant), world.client(variant, "n2")
    first.subscribe(EDS, "a", "b")
    second.subscribe(EDS, "b", "a")
    assert first.messages[0].part is second.messages[0].part


def test_cohort_of_equal_content_after_different_ways_is_one_again(world: World, variant: Variant) -> None:
    world.publish(endpoints("a"))
    quick, slow = world.client(variant), world.client(variant, "n2")
    for client in (quick, slow):
        client.subscribe(EDS, "a")
    quick.ack(EDS)
    world.publish(endpoints("a", 2))
    quick.ack(EDS)
    slow.ack_all()
    world.publish(endpoints("a", 3))
    assert quick.last(EDS).part is slow.last(EDS).part


def test_cohort_another_subscription_is_another(world: World, variant: Variant) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    first, second = world.client(variant), world.client(variant, "n2")
    first.subscribe(EDS, "a")
    second.subscribe(EDS, "a", "b")
    assert (first.take(), second.take()) == ([], [])
    assert first.messages[0].part is not second.messages[0].part


def test_cohort_delta_and_sotw_are_two(world: World) -> None:
    world.publish(static("a"))
    clients = [world.client(variant) for variant in Variant]
    for client in clients:
        client.subscribe(CDS)
    assert clients[0].messages[0].part is not clients[1].messages[0].part


def test_cohort_nack_of_one_does_not_concern_the_others(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    first, second = world.client(variant), world.client(variant, "n2")
    for client in (first, second):
        client.subscribe(CDS)
    first.nack(CDS)
    second.ack(CDS)
    assert [event.node_id for event in world.events()] == ["n1"]
    assert second.reconnect().take() == []


def test_cohort_responses_kept_are_bounded_by_their_number() -> None:
    world = World()
    world.hub.response_cache.entries_max = 2
    client = world.client()
    client.subscribe(SDS)
    client.ack_all()
    for version in range(5):
        world.publish(resource(SDS, "s", version))
        assert client.ack_all() == [f"SDS #{version + 2} s@{version}"]
    assert len(world.hub.response_cache) == 2


def test_cohort_responses_kept_are_bounded_by_their_bytes() -> None:
    world = World()
    world.hub.response_cache.bytes_max = 20_000  # a message counts twice: transports keep it framed too
    client = world.client()
    client.subscribe(SDS)
    client.ack_all()
    for version in range(9):
        world.publish(resource(SDS, "s", version, padding=3_000))
        client.ack_all()
    assert len(world.hub.response_cache) in (2, 3)
    world.publish(resource(SDS, "s", 9, padding=50_000))
    client.ack_all()
    assert len(world.hub.response_cache) == 1


def test_cohort_large_responses_are_forgotten_once_their_view_is_replaced() -> None:
    world = World()
    world.publish(resource(SDS, "s", 0, padding=40_000), static("a"))
    client = world.client()
    client.subscribe(SDS)
    client.ack_all()
    assert len(world.hub.response_cache) == 1
    for version in range(1, 4):
        world.publish(resource(SDS, "s", version, padding=40_000))
        client.ack_all()
        assert len(world.hub.response_cache) == 1, "that to the newest view"
    assert 3 * 40_000 < world.hub.response_cache.outdated_bytes < 3 * 41_000
    newcomer = world.client(node="n2")
    newcomer.subscribe(SDS)
    assert [each.version for each in newcomer.messages[0].part.upserts] == ["3"]


def test_cohort_large_responses_are_kept_while_only_other_types_or_groups_change() -> None:
    world = World()
    world.publish(resource(SDS, "s", 0, padding=40_000))
    first, second = world.client(), world.client(node="n2")
    first.subscribe(SDS)
    first.ack_all()
    world.publish(static("a"))
    world.publish(resource(SDS, "s", 1), group="other")
    second.subscribe(SDS)
    assert second.messages[0].part is first.messages[0].part


def test_cohort_large_responses_are_forgotten_too_where_a_view_is_replaced_and_its_content_is_the_same() -> None:
    world = World(groups=GroupTable(rules=(Rule(group="b"),), extends={"b": "default"}))
    world.publish(resource(SDS, "s", 0, padding=40_000), group="b")
    client = world.client()
    client.subscribe(SDS)
    client.ack_all()
    assert len(world.hub.response_cache) == 1
    shadowed = Changeset(upserts={"default": (resource(SDS, "s", 1),), "b": (static("c"),)})
    world.hub.publish(world.catalog.apply(shadowed))
    assert (client.take(), len(world.hub.response_cache)) == ([], 0)
    newcomer = world.client(node="n2")
    newcomer.subscribe(SDS)
    assert [each.version for each in newcomer.messages[0].part.upserts] == ["0"]


def test_cohort_small_responses_to_many_names_are_not_large() -> None:
    world = World()
    world.publish(*(resource(SDS, f"s{number}", 0) for number in range(1_000)))
    client = world.client()
    client.subscribe(SDS, *(f"s{number}" for number in range(1_000)))
    client.ack_all()
    had_bytes = world.hub.response_cache.outdated_bytes
    for version in range(1, 4):
        world.publish(resource(SDS, "s7", version))
        client.ack_all()
    assert len(world.hub.response_cache) == 3
    assert world.hub.response_cache.outdated_bytes - had_bytes < 100_000, "that of the first answer, and no more"


def test_cohort_large_responses_that_are_forgotten_for_their_number_are_forgotten_everywhere() -> None:
    world = World()
    world.hub.response_cache.entries_max = 1
    client = world.client()
    world.publish(*(resource(SDS, name, 0, padding=40_000) for name in ("a", "b")))
    for name in ("a", "b"):
        client.subscribe(SDS, name)
        client.ack_all()
    world.publish(*(resource(SDS, name, 1) for name in ("a", "b")))
    assert client.take() == ["SDS #3 a@1 b@1"]


def test_cohort_subscriptions_no_stream_has_any_more_are_forgotten(world: World) -> None:
    world.publish(endpoints("a"))
    world.hub.response_cache.entries_max = 1
    client = world.client()
    client.subscribe(EDS, *(f"name{number}" for number in range(50)))
    client.ack_all()
    client.close()
    other = world.client(node="n2")
    other.subscribe(EDS, "a")
    gc.collect()
    assert len(world.hub._interned.subscriptions) <= 2


def test_cohort_stream_that_ends_does_not_take_the_others_changes_along(world: World, variant: Variant) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    one, both, same = (world.client(variant, f"n{number}") for number in range(3))
    one.subscribe(EDS, "a")
    both.subscribe(EDS, "a", "b")
    same.subscribe(EDS, "a", "b")
    for client in (one, both, same):
        client.ack(EDS)
    one.close()
    world.publish(endpoints("a", 2))
    assert (one.take(), both.take(), same.take()) == ([], ["EDS #2 a@2"], ["EDS #2 a@2"])


def test_cohort_equal_subscriptions_are_one_object_that_says_what_it_is(world: World) -> None:
    first, second = world.client(), world.client(node="n2")
    first.subscribe(EDS, "b", "a", "*")
    second.subscribe(EDS, "*", "a", "b")
    subscriptions = {stream.states[EDS].subscription for stream in world.hub.streams}
    assert [repr(subscription) for subscription in subscriptions] == ["<Subscription * ['a', 'b']>"]


def test_counters_say_what_was_done(world: World, variant: Variant) -> None:
    world.publish(static("a"), static("b"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2))
    client.nack(CDS)
    world.publish(static("a", 3), remove=[static("b")])
    client.ack_all()
    client.close()
    sizes = sum(len(message.part.message) for message in client.messages)
    delta = variant is Variant.DELTA
    assert world.hub.counters == Counters(
        streams_opened=1,
        streams_closed=1,
        requests=5,
        responses=4,
        response_bytes=sizes,
        resources_sent=4 if delta else 2 + 2 + 2 + 1,
        removals_sent=1 if delta else 0,
        acks=3,
        nacks=1,
    )


def test_counters_count_heartbeats(world: World, variant: Variant) -> None:
    world.publish(resource(RTDS, "s", ttl_s=9))
    client = world.client(variant)
    client.subscribe(RTDS, "s")
    client.ack(RTDS)
    world.advance(9)
    assert len(client.take()) == 3
    assert world.hub.counters.heartbeats == 3


# --- What names take -------------------------------------------------------------------------------------------------


def with_names(world: World, number: int, size: int = 100_000) -> None:
    client = world.client(node=f"n{number}")
    client.subscribe(EDS, *(f"{number}-{index}-" + "x" * size for index in range(5)))
    client.close()
    world._of.clear()


def test_names_in_the_keys_of_responses_are_bounded_in_bytes(world: World) -> None:
    response_cache = world.hub.response_cache
    response_cache.names_bytes_max = 2_000_000
    for number in range(20):
        with_names(world, number)
        assert response_cache._names_bytes <= 2_000_000
    assert 0 < len(response_cache) < 5
    assert response_cache._names_bytes == sum(
        {
            response.subscription: response.subscription.names_bytes for response in response_cache._entries.values()
        }.values()
    ) + sum(response.names_bytes for response in response_cache._entries.values())


def test_unused_responses_with_large_names_are_evicted(world: World) -> None:
    with_names(world, 1)
    entries = len(world.hub.response_cache)
    for _ in range(3):
        assert len(world.hub.response_cache) == entries
        world.hub.evict_idle()
    assert len(world.hub.response_cache) == world.hub.response_cache._names_bytes == 0
    assert not world.hub._large.bytes_kept


def test_unused_small_responses_are_evicted_and_made_again(world: World) -> None:
    """Otherwise clients that come once, and views that were replaced, fill a worker's memory up to the bound."""
    world.publish(endpoints("a"))
    for number in range(20):
        world.client(node=f"n{number}").subscribe(EDS, "a", f"b{number}")
    assert len(world.hub.response_cache) == 20
    for _ in range(3):
        world.client(node="again").subscribe(EDS, "a", "b7")
        world.hub.evict_idle()
    assert len(world.hub.response_cache) == 1
    assert world.client(node="late").subscribe(EDS, "a", "b3") == ["EDS #1 a@1 -b3"]


def test_responses_with_large_names_that_are_given_again_stay(world: World) -> None:
    names = [f"{index}-" + "x" * 20_000 for index in range(5)]
    for number in range(6):
        world.client(node=f"n{number}").subscribe(EDS, *names)
        world.hub.evict_idle()
        if number > 2:  # other responses come between: this one is not the last of its type
            world.client(node=f"o{number}").subscribe(EDS, "a")
    assert len({client.messages[0].nonce for client in world.clients if client.node.id.startswith("n")}) == 1


def test_unused_large_responses_are_evicted(world: World) -> None:
    world.publish(*(endpoints("x" * 100 + str(number)) for number in range(400)))
    client = world.client()
    client.subscribe(EDS)
    assert len(world.hub.response_cache) == 1
    for _ in range(3):
        world.hub.evict_idle()
    assert len(world.hub.response_cache) == 0


def test_the_table_of_streams_takes_what_those_that_are_open_take(world: World) -> None:
    streams = [world.hub.open(DELTA) for _ in range(10_000)]
    for stream in streams[10:]:
        world.hub.close(stream)
    before = getsizeof(world.hub.streams)
    world.hub.evict_idle()
    assert getsizeof(world.hub.streams) < before / 10
    assert list(world.hub.streams) == streams[:10]


def test_a_large_response_that_comes_between_others_is_young_again(world: World) -> None:
    """The response is not the last of its type, so it is found by its key; it stays while clients are sent it."""
    names = [f"{index}-" + "x" * 20_000 for index in range(5)]
    world.hub.step_cache.bytes_max = 0
    for number in range(5):
        world.client(node=f"n{number}").subscribe(EDS, *names)
        world.client(node=f"o{number}").subscribe(EDS, "a")
        world.hub.evict_idle()
    assert len({client.messages[0].nonce for client in world.clients if client.node.id.startswith("n")}) == 1
