"""The effects of a NACK, on delta and SotW (docs/protocol.md#nack, and docs/envoy-behaviour.md#rejected-responses)."""

import pytest
from support.encoded import CDS, EDS, LDS, OTHER, RDS, SDS, TYPES, cluster, endpoints, resource, route, static
from support.hubs import DELTA, SOTW, Client, MakeWorld, World
from support.scenes import started, swap

from xds.model.groups import GroupTable, Rule
from xds.protocol.policy import Limits, Variant
from xds.protocol.status import Nacked

ALL = [CDS, EDS, LDS, RDS, SDS, OTHER]


def test_nack_is_recorded_with_its_nonce_versions_and_message(world: World, variant: Variant) -> None:
    world.publish(static("a", 7), static("b", 8))
    client = world.client(variant)
    client.subscribe(CDS)
    nonce = client.last(CDS).nonce
    client.nack(CDS, "no such lb policy")
    (event,) = world.events()
    assert isinstance(event, Nacked)
    assert (event.node_id, event.group, event.type_url, event.nonce) == ("n1", "default", CDS, nonce)
    assert (event.message, event.resources) == ("no such lb policy", {"a": "7", "b": "8"})
    assert ([each.name for each in event.upserts], len(event.key)) == (["a", "b"], 16)
    (stream,) = client.streams.values()
    assert stream.session is not None
    rejection = stream.session.rejections_of(stream.states[CDS].kind)[0]
    assert (rejection.nonce, rejection.message, rejection.versions) == (
        nonce, "no such lb policy", {"a": "7", "b": "8"},
    )  # fmt: skip
    assert (world.hub.counters.nacks, world.hub.counters.acks) == (1, 0)


def test_nack_of_a_removal_is_recorded_with_its_name(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    world.publish(remove=[endpoints("a")])
    client.nack(EDS)
    (event,) = world.events()
    assert event.resources == {"a": ""}


def test_nack_without_message_is_recorded_too(world: World, variant: Variant) -> None:
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS, "")
    assert [event.message for event in world.events()] == ["(no message)"]


@pytest.mark.parametrize("type_url", ALL)
def test_nack_is_followed_by_no_busy_loop(world: World, variant: Variant, type_url: str) -> None:
    world.publish(resource(type_url, "x"))
    client = world.client(variant)
    client.subscribe(type_url, "x")
    client.take()
    assert client.nack(type_url) == []
    world.advance(3_600)
    assert client.take() == []


@pytest.mark.parametrize("type_url", ALL)
def test_nack_rejected_version_is_sent_again_only_when_its_content_changes(
    world: World, variant: Variant, type_url: str
) -> None:
    world.publish(resource(type_url, "x"))
    client = world.client(variant)
    client.subscribe(type_url, "x")
    client.nack(type_url)
    world.publish(resource(SDS if type_url == OTHER else OTHER, "unrelated"))
    assert client.take() == []
    world.publish(resource(type_url, "x", 2))
    assert client.take() == [f"{TYPES[type_url]} #2 x@2"]


def test_nack_going_back_to_the_version_before_sends_it(world: World, variant: Variant) -> None:
    world.publish(static("a", 1))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2))
    client.nack(CDS)
    world.publish(static("a", 1))
    assert client.take() == ["CDS #3 a@1"]


def test_nack_other_resources_of_the_type_flow_on(world: World) -> None:
    world.publish(endpoints("bad"), endpoints("good"))
    client = world.client()
    client.subscribe(EDS, "bad", "good")
    client.nack(EDS)
    world.publish(endpoints("good", 2))
    assert client.take() == ["EDS #2 good@2"]


@pytest.mark.parametrize("rejected", [CDS, EDS, LDS, RDS, SDS])
def test_nack_other_types_flow_on(world: World, variant: Variant, rejected: str) -> None:
    client = world.client(variant)
    world.publish(*[resource(type_url, "x") for type_url in ALL])
    for type_url in ALL:
        client.subscribe(type_url, "x")
        client.ack_all()
    world.publish(resource(rejected, "x", 2))
    assert client.take() == [f"{TYPES[rejected]} #7 x@2"]
    client.nack(rejected)
    others = [type_url for type_url in ALL if type_url != rejected]
    world.publish(*[resource(type_url, "x", 3) for type_url in others])
    client.ack_all()
    assert {type_url: client.last(type_url).resources[0].version for type_url in others} == dict.fromkeys(others, "3")


def test_nack_what_changed_meanwhile_is_sent_after_it(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    world.publish(static("a", 2))
    assert client.nack(CDS) == ["CDS #2 a@2"]


def test_nack_subscribing_again_to_a_rejected_name_sends_it(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.nack(EDS)
    assert client.subscribe(EDS, "a") == ["EDS #2 a@1"]


def test_nack_with_an_unknown_nonce_is_none(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    assert client.request(CDS, nonce="x9", error="bad") == []
    assert world.events() == []


# --- On the next stream --------------------------------------------------------------------------------------------


def test_nack_names_in_it_are_unknown_on_reconnect_though_the_client_reports_them(world: World) -> None:
    """Envoy applied the removal of b in a rejected response, but still reports b.

    See docs/envoy-behaviour.md#rejected-responses.
    """
    client = _partly_applied(world)
    assert "b@3" in str(client.reconnect().take())


def test_nack_names_in_it_are_removed_on_reconnect_though_the_client_does_not_report_them(world: World) -> None:
    """Envoy added ok1 of a rejected response, but does not report it: it would stay for ever.

    See docs/envoy-behaviour.md#rejected-responses.
    """
    client = _partly_applied(world)
    assert client.reconnect().take() == ["LDS #1 b@3 -bad -ok1"]


def _partly_applied(world: World) -> Client:
    world.publish(resource(LDS, "a"), resource(LDS, "b", 3))
    client = world.client()
    client.subscribe(LDS)
    client.ack(LDS)
    world.publish(resource(LDS, "bad"), resource(LDS, "ok1"), remove=[resource(LDS, "b")])
    assert client.take() == ["LDS #2 bad@1 ok1@1 -b"]
    client.nack(LDS)
    client.close()
    world.publish(resource(LDS, "b", 3), remove=[resource(LDS, "bad"), resource(LDS, "ok1")])
    assert client.held[LDS] == {"a": "1", "b": "3"}
    return client


def test_nack_rejected_change_is_sent_again_on_reconnect_whatever_is_reported(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2))
    client.nack(CDS)
    world.publish(static("a", 1))
    client.nack(CDS)
    again = client.reconnect()
    assert again.take() == ["CDS #1 a@1"]


def test_nack_rejected_addition_that_still_exists_is_sent_again_on_reconnect(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("new"))
    client.nack(CDS)
    assert client.reconnect().take() == ["CDS #1 new@1"]


def test_nack_sotw_reconnect_with_equal_version_is_sent_everything(world: World) -> None:
    world.publish(static("a"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2))
    client.nack(CDS)
    world.publish(static("a", 1))
    client.nack(CDS)
    assert client.reconnect().take() == ["CDS #1 a@1"]


def test_nack_is_forgotten_once_a_newer_version_is_acked(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS)
    world.publish(static("a", 2))
    client.ack(CDS)
    assert client.reconnect().take() == []


def test_nack_is_forgotten_once_the_rejected_resource_is_gone_and_that_acked(world: World, variant: Variant) -> None:
    world.publish(static("a"), static("bad"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS)
    world.publish(static("a", 2), remove=[static("bad")])
    client.ack_all()
    assert client.reconnect().take() == []


def test_nack_is_forgotten_after_the_reconnect_that_heeded_it(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS)
    again = client.reconnect()
    assert again.take() == ["CDS #1 a@1"]
    again.ack(CDS)
    assert again.reconnect().take() == []


def test_nack_is_remembered_across_a_reconnect_without_an_answer(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS)
    again = client.reconnect()
    again.take()
    again.held[CDS] = {"a": "1"}
    assert again.reconnect().take() == ["CDS #1 a@1"]


def test_nack_of_one_node_is_not_held_against_another(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS)
    client.close()
    assert world.client(node="n2").subscribe(CDS, have={"a": "1"}) == []


@pytest.mark.parametrize("variant", [DELTA, SOTW])
def test_nack_is_remembered_when_the_old_stream_ends_after_the_new_one_began(world: World, variant: Variant) -> None:
    """The server notices a dead connection late: Envoy reconnects on another one long before."""
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2))
    client.nack(CDS)
    world.publish(static("a", 1))
    client.nack(CDS)
    assert client.reconnect(before_closing=True).take() == ["CDS #1 a@1"]


def test_nack_is_remembered_when_the_node_changes_groups_meanwhile(make_world: MakeWorld) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="default"),), extends={"other": "default"}))
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2))
    client.nack(CDS)
    world.publish(static("a", 1))
    client.nack(CDS)
    client.close()
    world.regroup(GroupTable(rules=(Rule(group="other"),), extends={"other": "default"}))
    assert client.reconnect().take() == ["CDS #1 a@1"]


def test_nack_doubts_are_kept_for_a_bounded_number_of_nodes(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(doubtful_nodes_max=1))
    world.publish(static("a"))
    first, second = world.client(node="n3"), world.client(node="n4")
    for client in (first, second):
        client.subscribe(CDS)
        client.nack(CDS)
        client.held[CDS] = {"a": "1"}
        client.close()
    assert [client.reconnect().take() for client in (first, second)] == [[], ["CDS #1 a@1"]]


# --- Rejected clusters and routes ----------------------------------------------------------------------------------


def test_nack_of_new_clusters_keeps_the_old_routes(world: World, variant: Variant) -> None:
    client = _swapping(world, variant)
    assert client.nack(CDS) == []
    world.advance(3_600)
    assert client.take() == []


def test_nack_of_new_clusters_a_fresh_client_still_gets_its_routes(world: World, variant: Variant) -> None:
    _swapping(world, variant).nack(CDS)
    fresh = world.client(variant, "n2")
    fresh.subscribe(CDS)
    fresh.subscribe(EDS, "b")
    fresh.nack(CDS)
    fresh.ack(EDS)
    assert fresh.subscribe(LDS) == ["LDS #3 l@1"]
    assert fresh.subscribe(RDS, "r") == ["RDS #4 r@2"]


def test_nack_of_new_clusters_the_routes_follow_once_they_are_mended(world: World, variant: Variant) -> None:
    client = _swapping(world, variant)
    client.nack(CDS)
    world.publish(cluster("b", 2))
    clusters = "b@2" if variant is DELTA else "a@1 b@2"
    assert client.take() == [f"CDS #6 {clusters}"]
    client.subscribe(EDS, "b")
    assert client.ack(CDS) == ["RDS #8 r@2"]
    client.ack(EDS)
    assert client.ack(RDS) == ["CDS #9 -a" if variant is DELTA else "CDS #9 b@2"]


def test_nack_of_new_clusters_other_routes_follow(world: World, variant: Variant) -> None:
    client = _swapping(world, variant)
    client.subscribe(RDS, "r", "r2")
    client.nack(CDS)
    client.ack_all()
    world.publish(route("r2", 1, "a"))
    (said,) = client.take()
    assert said.endswith(" r2@1")


def _swapping(world: World, variant: Variant) -> Client:
    """Return a client with a route to a, which will use b next, and which was just sent the cluster b."""
    client = started(world, variant)
    swap(world)
    assert client.take() == ["CDS #5 b@1" if variant is DELTA else "CDS #5 a@1 b@1"]
    return client


def test_nack_of_the_same_response_leads_to_the_same_shared_values_for_all_clients(world: World) -> None:
    """The nodes of a fleet reject the same response: the state after it is computed and kept once."""
    world.publish(static("a"), static("b"), route("r", 1, "a"), route("old", 1, "b"))
    clients = [world.client(node=f"n{number}") for number in range(3)]
    for client in clients:
        client.subscribe(RDS, "r", "old")
        client.ack_all()
    world.publish(route("r", 2, "b"), remove=[route("old", 1)])
    for client in clients:
        client.nack(RDS)
    states = [stream.states[RDS] for client in clients for stream in client.streams.values()]
    for what in ("nacked_names", "nacked_removals", "draining"):
        assert len({id(getattr(state, what)) for state in states}) == 1, what
        assert getattr(states[0], what)
    rejections = [
        stream.session.rejections_of(states[0].kind)[0] for client in clients for stream in client.streams.values()
    ]
    assert len({id(rejection.versions) for rejection in rejections}) == 1


def test_nack_of_one_node_costs_the_others_no_shortcut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ACK of a node with NACKed names is looked at in full, one of any other node is not."""
    world.publish(endpoints("a", 1))
    first, second, bad = clients = [world.client(node=name) for name in ("first", "second", "bad")]
    for client in clients:
        client.subscribe(EDS, "a")
        client.ack(EDS)
    world.publish(endpoints("a", 2))
    first.ack(EDS)
    second.ack(EDS)
    bad.nack(EDS)
    world.publish(endpoints("a", 3))
    short: list[bool] = []
    take_ack = world.hub.take_ack
    monkeypatch.setattr(world.hub, "take_ack", lambda *given: short.append(take_ack(*given)) or short[-1])
    first.ack(EDS)
    second.ack(EDS)  # its step is cached
    assert short == [False, True]
    bad.ack(EDS)
    assert short == [False, True, False]
    world.publish(endpoints("a", 4))
    for client in clients:
        client.ack(EDS)
    assert short[3:] == [False, True, True]  # it has accepted what it rejected


def test_nack_after_nack_of_new_clusters_ends_once_the_client_asks_for_their_endpoints(world: World) -> None:
    """In whichever rejected response a cluster was sent, a request for its endpoints shows that it was accepted."""
    world.publish(cluster("a"), endpoints("a"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "a")
    client.subscribe(RDS, "r")
    client.ack_all()
    for number in range(7):
        world.publish(cluster(f"new-{number}"), endpoints(f"new-{number}"))
        client.nack(CDS)
    for number in range(7):
        world.publish(route("r", number + 2, f"new-{number}"))
        assert client.take() == []  # held: the cluster may be missing
        said = client.subscribe(EDS, f"new-{number}") + client.ack(EDS)
        assert said[-1].endswith(f" r@{number + 2}")
        client.ack_all()
