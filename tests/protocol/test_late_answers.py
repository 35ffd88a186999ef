"""Answers that arrive after their hold timeout: each applies to its response."""

import pytest
from support.encoded import CDS, LDS, RDS, cluster, listener, route, static
from support.hubs import DELTA, SOTW, Client, MakeWorld, World

from xds.protocol.policy import Ordering, Variant
from xds.protocol.status import Nacked
from xds.protocol.type_state import IN_FLIGHT_MAX, TypeState

HOLD_S = 20.0


def given_up(world: World, client: Client, type_url: str) -> str:
    """Let the hold timeout of the last response pass; return its nonce."""
    nonce = client.last(type_url).nonce
    client.unanswered.clear()
    client.take()
    world.advance(HOLD_S + 5)
    return nonce


def state_of(client: Client, type_url: str) -> TypeState:
    (state,) = [stream.states[type_url] for stream in client.streams.values() if type_url in stream.states]
    return state


def answer(
    client: Client, variant: Variant, type_url: str, nonce: str, error: str = "", version: str = ""
) -> list[str]:
    return client.request(type_url, nonce=nonce, **({"error": error} if error else {}), **_version(variant, version))


def _version(variant: Variant, version: str) -> dict[str, str]:
    return {"have": version} if variant is SOTW else {}


def with_route(world: World, variant: Variant = DELTA) -> Client:
    world.publish(static("a"), static("b"), static("c"), route("r", 1, "a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    return client


def test_a_late_nack_keeps_the_clusters_of_the_version_before_it(world: World) -> None:
    client = with_route(world)
    world.publish(route("r", 2, "b"))
    late = given_up(world, client, RDS)
    world.publish(route("r", 3, "c"))
    last = client.last(RDS).nonce
    client.unanswered.clear()
    client.request(RDS, nonce=late, error="bad 2")
    client.request(RDS, nonce=last, error="bad 3")
    client.take()
    world.publish(remove=[static("a")])
    assert client.take() == []  # it uses r@1, which uses a


def test_a_late_nack_of_a_new_cluster_counts_it_as_absent(world: World) -> None:
    client = with_route(world)
    world.publish(static("new"))
    late = given_up(world, client, CDS)
    world.publish(static("c", 2))
    last = client.last(CDS).nonce
    client.unanswered.clear()
    client.request(CDS, nonce=late, error="new is bad")
    client.request(CDS, nonce=last)
    client.take()
    world.publish(route("r", 2, "new"))
    assert client.take() == []


def test_a_late_ack_of_a_new_cluster_lets_routes_go_to_it(world: World) -> None:
    client = with_route(world)
    world.publish(static("new"))
    late = given_up(world, client, CDS)
    world.publish(static("c", 2))
    last = client.last(CDS).nonce
    client.unanswered.clear()
    client.request(CDS, nonce=late)
    client.request(CDS, nonce=last)
    client.take()
    world.publish(route("r", 2, "new"))
    assert client.take() == ["RDS #7 r@2"] or client.messages[-1].type_url == RDS


@pytest.mark.parametrize("after_s", [5, 25], ids=["in time", "late"])
def test_a_listener_that_a_late_ack_removed_drains(make_world: MakeWorld, after_s: float) -> None:
    world = make_world(ordering=Ordering(hold_timeout_s=HOLD_S, listener_drain_s=60))
    world.publish(static("a"), static("keep"), listener("l", 1, clusters="a"), listener("m", 1, clusters="keep"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(remove=[listener("l", 1)])
    world.advance(after_s)
    world.publish(listener("m", 2, clusters="keep"), remove=[static("a")])
    client.ack_all()
    assert "a" in client.held[CDS]
    world.advance(61)
    client.ack_all()
    assert "a" not in client.held[CDS]


@pytest.mark.parametrize("variant", [DELTA, SOTW], ids=["delta", "sotw"])
def test_a_late_nack_is_recorded_once(world: World, variant: Variant) -> None:
    client = with_route(world, variant)
    world.publish(route("r", 2, "b"))
    late = given_up(world, client, RDS)
    world.publish(route("r", 3, "c"))
    world.events()
    answer(client, variant, RDS, late, "bad 2")
    answer(client, variant, RDS, late, "bad 2")
    (event,) = world.events()
    assert isinstance(event, Nacked)
    assert (event.nonce, event.message) == (late, "bad 2")


@pytest.mark.parametrize("took", [1, 2, 3], ids=["none", "first", "both"])
def test_on_sotw_the_version_shows_which_unanswered_responses_were_accepted(world: World, took: int) -> None:
    """Envoy answers only the last of several responses. If it rejects that one, its version shows what it accepted."""
    client = with_route(world, SOTW)
    versions = [client.accepted[next(iter(client.streams.values())), RDS][0]]
    for version in (2, 3):
        world.publish(route("r", version, "bc"[version - 2]))
        given_up(world, client, RDS)
        versions.append(client.last(RDS).version)
    world.publish(route("r", 4, "a"))
    client.request(RDS, subscribe=["r"], nonce=client.last(RDS).nonce, error="bad 4", have=versions[took - 1])
    uses = {cluster for pairs in state_of(client, RDS).draining.values() for used, _ in pairs for cluster in used or ()}
    assert uses == {1: {"a", "b", "c"}, 2: {"b", "c"}, 3: {"c"}}[took]


def test_an_ack_applies_to_all_earlier_responses(world: World) -> None:
    client = with_route(world)
    world.publish(route("r", 2, "b"))
    given_up(world, client, RDS)
    world.publish(route("r", 3, "c"))
    client.request(RDS, nonce=client.last(RDS).nonce)
    state = state_of(client, RDS)
    assert (state.in_flight, dict(state.draining), state.nacked_names.names) == ((), {}, frozenset())


def test_a_nack_leaves_what_was_never_answered_before_unsure(world: World) -> None:
    client = with_route(world)
    world.publish(route("r", 2, "b"))
    given_up(world, client, RDS)
    world.publish(route("r", 3, "c"))
    client.request(RDS, nonce=client.last(RDS).nonce, error="bad")
    assert {uses for uses, _ in state_of(client, RDS).draining["r"]} == {frozenset("a"), frozenset("b")}


def test_a_late_ack_does_not_end_what_a_newer_response_still_replaces(world: World) -> None:
    world.publish(static("a"), static("b"), static("c"), listener("l", 1, clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(listener("l", 2, clusters="b"))
    late = given_up(world, client, LDS)
    world.publish(listener("l", 3, clusters="c"))
    client.request(LDS, nonce=late)
    assert {end for _, end in state_of(client, LDS).draining["l"]} == {float("inf")}
    client.ack_all()
    assert {end for _, end in state_of(client, LDS).draining["l"]} == {world.now + 600.0}


def test_responses_that_are_never_answered_are_bounded(world: World) -> None:
    client = with_route(world)
    client.unanswered.clear()
    client.take()
    for version in range(2, 2 + 3 * IN_FLIGHT_MAX):
        world.publish(route("r", version, "a"))
        world.advance(HOLD_S + 1)
    said = client.take()
    assert len(said) == IN_FLIGHT_MAX
    assert len(state_of(client, RDS).in_flight) == IN_FLIGHT_MAX
    assert client.request(RDS, nonce=client.last(RDS).nonce) == [
        f"RDS #{2 + IN_FLIGHT_MAX + 1} r@{1 + 3 * IN_FLIGHT_MAX}"
    ]


def test_another_type_goes_on_while_one_is_never_answered(world: World) -> None:
    client = with_route(world)
    client.take()
    for version in range(2, 3 + IN_FLIGHT_MAX):
        world.publish(route("r", version, "a"))
        world.advance(HOLD_S + 1)
    client.take()
    world.publish(cluster("d", eds=None))
    assert [line.split(maxsplit=2)[2] for line in client.take() if line.startswith("CDS")] == ["d@1"]
