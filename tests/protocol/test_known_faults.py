"""Faults that the simulation found: each test describes what must happen, and why.

Faults that are not fixed yet are listed in ``simulation.known``.
"""

from collections.abc import Iterable

import pytest
from support.encoded import CDS, EDS, LDS, RDS, SDS, cluster, endpoints, listener, resource, route, static
from support.hubs import DELTA, SOTW, Client, MakeWorld, World
from support.scenes import full

from xds.model.groups import GroupTable, Rule
from xds.model.resource import Reference
from xds.protocol.paging import NodeState
from xds.protocol.policy import Ordering, Variant
from xds.protocol.responses import Encoding
from xds.protocol.status import NodesQuery, nodes_page

HOLD_S, DRAIN_S = 20.0, 60.0
QUICK = Ordering(hold_timeout_s=HOLD_S, listener_drain_s=DRAIN_S)
SMALL = Encoding(response_bytes_max=100)
"""Of two resources, each is sent in a response of its own."""


def settle(client: Client, *bad: str) -> list[str]:
    """Answer all messages, rejecting those with a bad resource, and return them."""
    said = client.take()
    while waiting := [queue[0] for types in client.unanswered.values() for queue in types.values() if queue]:
        message = waiting[0]
        found = [name for name in (f"{each.name}@{each.version}" for each in message.resources) if name in bad]
        said += client.nack(message.type_url, f"{found} are bad") if found else client.ack(message.type_url)
    return said


def settle_for(world: World, client: Client, seconds: float, *bad: str) -> list[str]:
    """Answer all messages while time passes."""
    said = settle(client, *bad)
    for _ in range(int(seconds)):
        world.advance(1)
        said += settle(client, *bad)
    return said


def holding(world: World, variant: Variant, *, per_type: bool = False, routes: Iterable[str] = ()) -> Client:
    """Return a client that has received and ACKed everything."""
    client = world.client(variant, per_type=per_type)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(LDS)
    client.ack_all()
    for name in routes:
        client.subscribe(RDS, name)
        client.ack_all()
    return client


def clusters_sent(said: Iterable[str]) -> list[str]:
    """Return the lines about clusters, without the numbers of the responses."""
    return [line.split(" ", 2)[2] for line in said if line.startswith("CDS")]


def test_a_removed_route_that_drains_keeps_its_clusters_whatever_other_streams_of_its_node_say(
    make_world: MakeWorld,
) -> None:
    """Each per-type stream has its own route only. r and q are removed one after the other while the listener that uses
    them drains. The node reconnects before the listener has drained: a and b stay."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), static("b"), static("c"))
    world.publish(listener("l", 1, routes="r q"), route("r", 1, "a"), route("q", 1, "b"))
    client = holding(world, DELTA, per_type=True, routes=["r", "q"])
    world.publish(listener("l", 2, routes="p"), route("p", 1, "c"))
    client.subscribe(RDS, "p")
    client.ack_all()
    world.publish(remove=[static("a"), route("r", 1)])
    client.ack_all()
    world.publish(remove=[static("b"), route("q", 1)])
    client.ack_all()
    again = world.client(DELTA, per_type=True, connection="another")  # before the server notices the end of its streams
    again.request(CDS, have=client.held[CDS])
    again.request(LDS, have=client.held[LDS])
    again.request(RDS, subscribe=["p"], have={"p": "1"})
    again.request(RDS, subscribe=["q"])
    again.request(RDS, subscribe=["r"])
    assert clusters_sent(settle_for(world, again, 2 * HOLD_S)) == []
    said = again.unsubscribe(RDS, "q") + settle_for(world, again, 3 * DRAIN_S)
    assert clusters_sent(said) == ["-b"]
    said = again.unsubscribe(RDS, "r") + settle_for(world, again, 3 * DRAIN_S)
    assert clusters_sent(said) == ["-a"]


# --- Rejected clusters ---------------------------------------------------------------------------------------------


def test_a_bad_cluster_that_is_taken_away_is_out_of_the_next_response(world: World, variant: Variant) -> None:
    """The new snapshot without e is sent, since it differs from the rejected response; with e the client would reject
    it.

    No working route can need e: each response that had e was rejected. Routes follow once the fixed clusters are ACKed,
    and the clusters that they used before are removed last.
    """
    world.publish(static("b"), static("d"), static("e"))
    world.publish(listener("l1", routes="r1"), listener("l3", routes="r3"), route("r1", 1, "b"), route("r3", 1, "e"))
    client = world.client(variant)
    client.subscribe(CDS)
    settle(client, "e@1")
    client.subscribe(LDS)
    client.subscribe(RDS, "r1", "r3")
    settle(client, "e@1")
    world.publish(static("c"), route("r1", 2, "c"), listener("l1", 2, routes="r1"), remove=[static("b")])
    settle(client, "e@1")
    world.publish(route("r3", 2, "c"), remove=[static("e")])
    said = settle_for(world, client, 3 * HOLD_S, "e@1")
    assert client.held[RDS] == {"r1": "2", "r3": "2"}
    assert clusters_sent(said)[-1] == full(variant, "-e", "c@1 d@1")


def test_a_bad_cluster_that_is_gone_does_not_spoil_what_comes_after_it(world: World, variant: Variant) -> None:
    """A listener uses b, which the client never accepted. As no request through b works, its removal need not be held.

    The cluster that the listener uses next is fixed: the response with it must not contain b.
    """
    world.publish(static("a"), static("b"), listener("l", 1, clusters="b"))
    client = world.client(variant)
    client.subscribe(CDS)
    settle(client, "b@1")
    client.subscribe(LDS)
    settle(client, "b@1")
    world.publish(static("e", 1), listener("l", 2, clusters="e"), remove=[static("b")])
    settle(client, "b@1", "e@1")
    world.publish(static("e", 2))
    said = settle_for(world, client, 3 * HOLD_S, "b@1", "e@1")
    assert "LDS" in [line.split()[0] for line in said]
    assert client.held[LDS] == {"l": "2"}
    assert client.held[CDS]["e"] == "2"


@pytest.mark.parametrize(
    ("rejected_before", "returns"),
    [
        pytest.param(True, False, id="no return"),
        pytest.param(False, True, id="rejected once it is back"),
        pytest.param(True, True, id="rejected before, too"),
    ],
)
def test_endpoints_requested_before_a_cluster_came_do_not_show_that_it_was_accepted(
    world: World, rejected_before: bool, returns: bool
) -> None:
    """Envoy requests e1 in its first burst, for its cluster a. That does not show that it accepted e, which is sent
    later.

    The route keeps using a, which works, until e is fixed and ACKed; a stays until then.
    """
    world.publish(cluster("a", eds="e1"), endpoints("e1"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "e1")
    client.subscribe(LDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    if not rejected_before:
        client.close()
    world.publish(cluster("e", 1, eds="e1"), route("r", 2, "e"), remove=[cluster("a", eds="e1")])
    said = settle(client, "e@1") if rejected_before else []
    if returns:
        client = client.reconnect()
        said += settle(client, "e@1")
    said += settle_for(world, client, 3 * HOLD_S, "e@1")
    assert {line.split()[0] for line in said} == {"CDS", "EDS"}
    assert set(clusters_sent(said)) == {"e@1"}
    world.publish(cluster("e", 2, eds="e1"))
    said = settle(client, "e@1")
    assert [line.split(" ", 2)[2] for line in said if not line.startswith("EDS")] == ["e@2", "r@2", "-a"]


def test_a_removed_route_that_is_still_in_use_waits_for_its_clusters_when_it_comes_back(
    make_world: MakeWorld, variant: Variant
) -> None:
    """Envoy ignores the removal of a route (docs/envoy-behaviour.md#missing-and-removed), and stays subscribed while
    its listener drains.

    The older version therefore works, and the newer one, which refers to a rejected cluster, is held; c stays
    meanwhile.
    """
    world = make_world(ordering=QUICK)
    world.publish(static("c"), listener("l", routes="r"), route("r", 1, "c"))
    client = holding(world, variant, routes=["r"])
    world.publish(remove=[listener("l"), route("r", 1)])
    client.ack_all()
    world.advance(5)
    world.publish(static("e"), route("r", 2, "e"), listener("l2", routes="r"), remove=[static("c")])
    said = settle_for(world, client, 3 * HOLD_S, "e@1")
    assert [line for line in said if line.startswith("RDS")] == []
    assert clusters_sent(said) == [full(variant, "e@1", "c@1 e@1")]
    world.publish(static("e", 2))
    said = settle(client, "e@1")
    assert [line.split(" ", 2)[2] for line in said if line.startswith("RDS")] == ["r@2"]
    assert clusters_sent(said) == [full(variant, "e@2", "c@1 e@2"), full(variant, "-c", "e@2")]


def _returning(world: World, reported: bool) -> Client:
    """Return a client that was sent the removal of r@1, still drains it, and lost its stream.

    Without ``reported`` it is a new Envoy of the same node, which has nothing.
    """
    world.publish(static("c"), listener("l", routes="r"), route("r", 1, "c"))
    client = holding(world, DELTA, routes=["r"])
    world.publish(remove=[listener("l"), route("r", 1)])
    client.ack_all()
    client.close()
    world.publish(static("e"), route("r", 2, "e"), listener("l2", routes="r"), remove=[static("c")])
    again = world.client(connection="another")
    with world.burst():
        again.request(CDS, have={"c": "1"} if reported else {})
        again.request(LDS)
        again.request(RDS, subscribe=["r"])
    return again


def test_a_removed_route_that_drains_and_whose_node_returns_waits_for_its_clusters(make_world: MakeWorld) -> None:
    """As above on the next stream. r@1 is not reported, as it was removed, and works while the node subscribes to r."""
    world = make_world(ordering=QUICK)
    again = _returning(world, reported=True)
    said = settle_for(world, again, 2 * DRAIN_S, "e@1")
    assert [line for line in said if line.startswith("RDS")] == []
    assert clusters_sent(said) == ["e@1"]
    world.publish(static("e", 2))
    said = settle(again, "e@1")
    assert [line.split(" ", 2)[::2] for line in said if line[:3] in ("CDS", "RDS")] == [
        ["CDS", "e@2"],
        ["RDS", "r@2"],
        ["CDS", "-c"],
    ]


def test_a_listener_that_waits_for_its_clusters_comes_once_its_older_version_has_drained(make_world: MakeWorld) -> None:
    """l@1 was removed and works until it has drained. l@2 refers to a rejected cluster, and then takes nothing away."""
    world = make_world(ordering=QUICK)
    world.publish(static("c"), listener("l", clusters="c"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS, "l")
    client.ack_all()
    world.publish(remove=[listener("l")])
    client.ack_all()
    world.publish(static("e"), listener("l", 2, clusters="e"))
    said = settle_for(world, client, DRAIN_S / 2, "e@1")
    assert [line for line in said if line.startswith("LDS")] == []
    said = settle_for(world, client, DRAIN_S, "e@1")
    assert [line.split(" ", 2)[2] for line in said if line.startswith("LDS")] == ["l@2"]


def test_a_new_envoy_of_a_node_that_drained_a_route_is_sent_the_route(make_world: MakeWorld) -> None:
    """It has no older version that works, and its listener waits for the route."""
    world = make_world(ordering=QUICK)
    said = settle(_returning(world, reported=False), "e@1")
    assert [line.split(" ", 2)[2] for line in said if line.startswith("RDS")] == ["r@2"]


# --- What drains ---------------------------------------------------------------------------------------------------


def test_clusters_of_a_rejected_listener_go_once_it_is_replaced_and_has_drained(
    make_world: MakeWorld, variant: Variant, per_type: bool
) -> None:
    """Envoy may have applied part of the rejected response, so it may use l3. l3 drains at the latest from the ACK of a
    response without it. After the drain time nothing uses a."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), listener("l2", 1, routes="r"), route("r", 1), listener("l3", clusters="a"))
    client = world.client(variant, per_type=per_type)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(LDS)
    settle(client, "l2@1")
    world.publish(remove=[static("a"), listener("l3")])
    said = settle(client, "l2@1")
    world.publish(listener("l2", 2, routes="r"))
    said += settle_for(world, client, DRAIN_S - 1)
    assert clusters_sent(said) == []
    said = settle_for(world, client, 2)
    assert clusters_sent(said) == [full(variant, "-a", "(empty)")]


def test_a_route_that_is_acked_late_keeps_its_clusters_while_it_is_subscribed(
    make_world: MakeWorld, variant: Variant
) -> None:
    """The late ACK shows that the client has the route. Its listener is then removed and uses the route while it
    drains. The client stays subscribed to the route until then, after which a is removed."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), static("b"), listener("l", routes="r"), route("r", 1, "a"), listener("k", clusters="b"))
    client = holding(world, variant)
    client.subscribe(RDS, "r")
    world.advance(HOLD_S + 5)
    world.publish(listener("k", 2, clusters="b"), remove=[static("a"), listener("l"), route("r", 1)])
    world.advance(HOLD_S + 5)
    said = client.take() + client.ack(RDS)
    said += settle_for(world, client, 3 * DRAIN_S)
    assert clusters_sent(said) == []
    said = client.unsubscribe(RDS, "r") + settle(client)
    assert clusters_sent(said) == [full(variant, "-a", "b@1")]


@pytest.mark.parametrize("last", [False, True], ids=["another stays", "the last one"])
def test_a_listener_whose_removal_was_not_acked_drains_when_its_node_is_back_early(
    make_world: MakeWorld, variant: Variant, last: bool
) -> None:
    """The client applied the removal of l, so it does not report l when it reconnects. The old stream, whose end the
    server has not noticed, did not answer that removal. l may drain since then, so b stays for the drain time."""
    world = make_world(ordering=QUICK)
    world.publish(static("b"), listener("l", clusters="b"), *([] if last else [listener("k")]))
    client = holding(world, variant)
    world.publish(remove=[static("b"), listener("l")])
    client.take()
    (stream,) = client.streams.values()
    taken = client.last(LDS)
    client.held[LDS].pop("l")
    client.accepted[stream, LDS] = (taken.version, taken.nonce)
    again = client.reconnect(before_closing=True)
    said = settle_for(world, again, DRAIN_S - 1)
    assert clusters_sent(said) == []
    said = settle_for(world, again, 2)
    assert clusters_sent(said) == [full(variant, "-b", "(empty)")]


@pytest.mark.parametrize("early", [False, True], ids=["back later", "back before its end is noticed"])
def test_clusters_of_a_listener_that_was_rejected_once_go_after_a_return(
    make_world: MakeWorld, variant: Variant, early: bool
) -> None:
    """While l@2 is rejected, it is unknown how long l@1 is used. After the ACK of l@3 it drains, also if the client
    changes streams."""
    world = make_world(ordering=QUICK)
    world.publish(static("d"), static("e"), listener("l", 1, clusters="e"))
    client = holding(world, variant)
    world.publish(listener("l", 2, clusters="e"))
    settle(client, "l@2")
    world.publish(listener("l", 3, clusters="d"), remove=[static("e")])
    settle(client)
    world.advance(10)
    again = client.reconnect(before_closing=early)
    said = settle_for(world, again, DRAIN_S - 11)
    assert [line for line in clusters_sent(said) if line != full(variant, "", "d@1 e@1")] == []
    said = settle_for(world, again, 2)
    assert clusters_sent(said) == [full(variant, "-e", "d@1")]


@pytest.mark.parametrize("early", [False, True], ids=["back later", "back before its end is noticed"])
def test_clusters_of_a_listener_that_was_replaced_by_a_cut_response_go_after_a_return(
    make_world: MakeWorld, early: bool
) -> None:
    """As above: while the second part was unanswered, it was unknown how long l@1 is used; its ACK starts the drain
    time."""
    world = make_world(ordering=QUICK, encoding=SMALL)
    world.publish(static("d"), static("e"), listener("a", 1, clusters="d"), listener("l", 1, clusters="e"))
    client = holding(world, DELTA)
    world.publish(listener("a", 2, clusters="d"), listener("l", 3, clusters="d"), remove=[static("e")])
    settle(client)
    world.advance(10)
    again = client.reconnect(before_closing=early)
    assert clusters_sent(settle_for(world, again, DRAIN_S - 11)) == []
    assert clusters_sent(settle_for(world, again, 2)) == ["-e"]


@pytest.mark.parametrize(
    "names",
    [
        "r q",
        pytest.param("q r"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "in one burst"])
def test_a_draining_route_keeps_its_clusters_whichever_stream_asks_first(
    make_world: MakeWorld, at_once: bool, names: str
) -> None:
    """Each per-type stream reconnects by its own timer (docs/envoy-behaviour.md#per-type-streams). The client
    subscribes again to r, which was removed and which its draining listener uses: a stays meanwhile, although q was
    subscribed first."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), static("b"), listener("l", 1, routes="r"), route("r", 1, "a"))
    client = holding(world, DELTA, per_type=True, routes=["r"])
    world.publish(listener("l", 2, routes="q"), route("q", 1, "b"))
    client.subscribe(RDS, "q")
    client.ack_all()
    world.publish(remove=[static("a"), route("r", 1)])
    client.ack_all()
    world.advance(10)
    client.close()
    again = world.client(DELTA, per_type=True, connection="another")

    def comes_back() -> None:
        again.request(CDS, have=client.held[CDS])
        again.request(LDS, have=client.held[LDS])
        for name in names.split():
            again.request(RDS, subscribe=[name], have={"q": "1"} if name == "q" else None)

    if at_once:
        with world.burst():
            comes_back()
    else:
        comes_back()
    assert clusters_sent(settle_for(world, again, 3 * DRAIN_S)) == []
    said = again.unsubscribe(RDS, "r") + settle_for(world, again, HOLD_S)
    assert clusters_sent(said) == ["-a"]


@pytest.mark.parametrize("drops", [False, True], ids=["all names", "fewer names"])
def test_sotw_routes_of_a_client_that_asks_for_fewer_than_its_version_had_keep_their_clusters(
    make_world: MakeWorld, drops: bool
) -> None:
    """The client reports the version of the last response that it accepted, which had r2 too. It therefore has an
    unknown version of r1, which the removed and draining l1 uses. a stays as long as r1 is subscribed."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), static("b"), route("r1", 1, "a"), route("r2", 1, "b"))
    world.publish(listener("l1", routes="r1"), listener("l2", routes="r2"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(LDS)
    client.subscribe(RDS, "r1", "r2")
    client.ack_all()
    world.publish(remove=[listener("l2"), route("r2", 1)])
    client.ack_all()
    world.advance(DRAIN_S + 1)
    if drops:
        client.unsubscribe(RDS, "r2")
        client.ack_all()
    client.close()
    world.publish(remove=[static("a"), listener("l1"), route("r1", 1)])
    again = client.reconnect()
    said = settle_for(world, again, 3 * DRAIN_S)
    assert [line for line in clusters_sent(said) if "a@1" not in line] == []
    again.unsubscribe(RDS, *again.names[next(iter(again.streams.values())), RDS])
    settle_for(world, again, HOLD_S)
    assert clusters_sent([str(message) for message in again.messages])[-1] == "b@1"


@pytest.mark.parametrize(
    "on", [EDS, SDS, None], ids=["warms on endpoints", "warms on a secret", "warms on a health check"]
)
def test_routes_wait_for_clusters_that_their_client_is_yet_to_ask_for_on_its_return(
    world: World, on: str | None
) -> None:
    """While a cluster warms, an Envoy that reconnects requests all types but clusters
    (docs/envoy-behaviour.md#reconnect-while-warming).

    This does not mean that it gets its clusters elsewhere: it requested them on its last stream.
    """
    needs = [(on, "x")] if on else []
    world.publish(static("b"), listener("l", routes="r"), route("r", 1, "b"))
    client = holding(world, DELTA, routes=["r"])
    warming = resource(CDS, "c", refers=tuple(Reference(*one) for one in needs))
    world.publish(warming, *(resource(*one) for one in needs), route("r", 2, "c"), remove=[static("b")])
    for one in needs:
        client.subscribe(*one)
    client.close()
    again = world.client(connection="another")
    with world.burst():
        if on == EDS:
            again.request(EDS, subscribe=["x"])
        again.request(LDS, have={"l": "1"})
        again.request(RDS, subscribe=["r"], have={"r": "1"})
        if on == SDS:
            again.request(SDS, subscribe=["x"])
    said = again.take() + (again.ack(on) if on else [])
    world.advance(HOLD_S - 1)
    said += again.take()
    assert [line.split(" ", 2)[2] for line in said] == [name + "@1" for _, name in needs]
    said = again.request(CDS, have={"b": "1", "c": "1"}) + again.ack_all()
    assert [line.split(" ", 2)[2] for line in said if not line.startswith("EDS")] == ["r@2", "-b"]


def test_routes_wait_for_clusters_on_secrets_only_until_they_are_requested(world: World) -> None:
    """The history of the node ends once it subscribes to clusters: its next stream is answered at once."""
    world.publish(static("b"), listener("l", routes="r"), route("r", 1, "b"))
    client = holding(world, DELTA, routes=["r"])
    world.publish(resource(CDS, "c", refers=(Reference(SDS, "x"),)), resource(SDS, "x"))
    client.subscribe(SDS, "x")
    client.close()
    again = world.client(connection="another")
    again.request(CDS, have={"b": "1"})
    again.ack_all()
    again.close()
    world.publish(route("r", 2, "b"))
    static_clusters = world.client(connection="a third")
    static_clusters.request(LDS, have={"l": "1"})
    assert [line.split(" ", 2)[2] for line in static_clusters.request(RDS, subscribe=["r"], have={"r": "1"})] == ["r@2"]


@pytest.mark.parametrize("user_agent", ["envoy", "gRPC C++"])
@pytest.mark.parametrize("warming", [EDS, SDS, None])
def test_only_of_envoys_that_may_warm_without_asking_for_endpoints_anything_is_noted(
    world: World, warming: str | None, user_agent: str
) -> None:
    """Else a mass disconnect during a change would push what really drains out of the history."""
    world.publish(resource(CDS, "c", refers=(Reference(warming, "x"),) if warming else ()))
    client = world.client(user_agent=user_agent)
    client.subscribe(CDS)
    client.close()
    assert len(world.hub._draining) == (warming != EDS and user_agent == "envoy")


@pytest.mark.parametrize("per_type", [False, True], ids=["ADS", "per type"])
def test_what_was_noted_of_clusters_on_secrets_is_forgotten_once_they_are_asked_for(
    world: World, per_type: bool
) -> None:
    """Else every later first request of the node would be worked out for it alone."""
    world.publish(resource(CDS, "c", refers=(Reference(SDS, "x"),)), resource(SDS, "x"))
    client = world.client(per_type=per_type)
    client.subscribe(CDS)
    client.close()
    assert len(world.hub._draining) == 1
    world.client(per_type=per_type, connection="another").request(CDS)
    assert len(world.hub._draining) == 0


@pytest.mark.parametrize("comes_back", [False, True], ids=["it stays away", "it comes and goes"])
def test_a_draining_route_that_came_back_and_went_before_it_was_sent_keeps_its_clusters(
    make_world: MakeWorld, comes_back: bool
) -> None:
    """The node reconnects and subscribes to r without a version: it was sent the removal of r, which it ignores. r@2
    exists by then, waits for its cluster, and is removed before it was sent. The client therefore still has r@1, which
    uses a."""
    world = make_world(ordering=QUICK)
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "a")
    client.ack_all()
    client.subscribe(LDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(remove=[cluster("a"), endpoints("a"), listener("l"), route("r", 1)])
    client.ack_all()
    returning = [listener("l", 2, routes="r"), route("r", 2, "c")] if comes_back else []
    world.publish(cluster("c"), endpoints("c"), *returning)
    client.close()
    again = world.client(connection="another")
    with world.burst():
        again.request(EDS, subscribe=["a", "c"], have={"a": "1"})
        again.request(LDS)
        again.request(RDS, subscribe=["r"])
    world.publish(remove=[cluster("c"), endpoints("c"), *returning])
    again.ack(EDS)
    again.request(CDS, have={"a": "1", "c": "1"})
    settle_for(world, again, 3 * DRAIN_S)
    assert [name for message in again.messages if message.type_url == CDS for name in message.removed] == ["c"]
    said = again.unsubscribe(RDS, "r") + settle_for(world, again, HOLD_S)
    assert clusters_sent(said) == ["-a"]


def test_a_listener_of_a_rejected_response_that_goes_after_a_return_is_removed(
    make_world: MakeWorld, per_type: bool
) -> None:
    """Envoy applies the good part of rejected listeners (docs/envoy-behaviour.md#rejected-responses), and does not
    report it.

    The node was sent l3, so the removal of l3 is sent too. If the node has l3, it drains, and a stays for the drain
    time.
    """
    world = make_world(ordering=QUICK)
    world.publish(static("a"), listener("l2", clusters="a"), listener("l3", clusters="a"))
    client = world.client(per_type=per_type)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(LDS)
    settle(client, "l2@1")
    world.publish(remove=[listener("l2")])
    settle(client)
    client.close()
    world.publish(static("b"))
    again = world.client(per_type=per_type, connection="another")
    assert again.request(CDS, have={"a": "1"}) == ["CDS #1 b@1"]
    assert again.request(LDS) == []
    world.publish(remove=[listener("l3"), static("a")])
    said = settle_for(world, again, DRAIN_S - 1)
    assert said == ["LDS #2 -l3"]
    assert clusters_sent(settle_for(world, again, 2)) == ["-a"]


# --- Status --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "returns",
    [
        pytest.param(False, id="same streams"),
        pytest.param(
            True,
            id="new streams",
        ),
    ],
)
def test_a_client_that_accepted_all_that_there_is_is_told_so(make_world: MakeWorld, returns: bool) -> None:
    """The rejection of r does not concern the stream that subscribes to q, which has no NACKed name."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), listener("l", routes="r q"), route("r", 1, "a"), route("q", 1, "a"))
    client = holding(world, DELTA, per_type=True, routes=["q"])
    client.subscribe(RDS, "r")
    settle(client, "r@1")
    if returns:
        client = client.reconnect()
        settle(client, "r@1")
    assert [node.state for node in nodes_page(world.hub.streams, NodesQuery(), world.now).nodes] == [NodeState.REJECTED]
    world.publish(route("r", 2, "a"))
    settle_for(world, client, HOLD_S)
    assert client.held[RDS] == {"q": "1", "r": "2"}
    assert [node.state for node in nodes_page(world.hub.streams, NodesQuery(), world.now).nodes] == [NodeState.ACCEPTED]


def test_a_name_that_was_dropped_before_its_response_was_rejected_is_not_rejected(world: World) -> None:
    """The client neither has r1 nor subscribes to it, so no later ACK can concern it."""
    world.publish(static("a"), route("r1", 1, "a"), route("r2", 1, "a"))
    client = world.client()
    client.subscribe(RDS, "r1", "r2")
    client.unsubscribe(RDS, "r1")
    settle(client, "r2@1")
    world.publish(route("r2", 2, "a"))
    settle(client)
    assert client.held[RDS]["r2"] == "2"
    assert [node.state for node in nodes_page(world.hub.streams, NodesQuery(), world.now).nodes] == [NodeState.ACCEPTED]


@pytest.mark.parametrize("type_url", [CDS, LDS], ids=["CDS", "LDS"])
def test_a_client_whose_rejected_resource_was_taken_away_has_accepted_all(
    make_world: MakeWorld, variant: Variant, per_type: bool, type_url: str
) -> None:
    """The client has ACKed a response without the rejected resource, so it no longer has NACKed names."""
    world = make_world(ordering=QUICK)
    world.publish(resource(type_url, "good"), resource(type_url, "bad"))
    client = world.client(variant, per_type=per_type)
    client.subscribe(type_url)
    settle(client, "bad@1")
    assert [node.state for node in nodes_page(world.hub.streams, NodesQuery(), world.now).nodes] == [NodeState.REJECTED]
    world.publish(remove=[resource(type_url, "bad")])
    settle_for(world, client, HOLD_S, "bad@1")
    world.publish(resource(type_url, "good", 2))
    settle(client)
    assert client.held[type_url] == {"good": "2"}
    assert [node.state for node in nodes_page(world.hub.streams, NodesQuery(), world.now).nodes] == [NodeState.ACCEPTED]


# --- Endpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drains", [False, True], ids=["their cluster goes", "their cluster is kept"])
def test_rejected_endpoints_go_only_on_the_stream_that_requested_them(make_world: MakeWorld, drains: bool) -> None:
    """NACKed names belong to the node, but each stream is sent only resources and removals that it subscribes to.
    Otherwise its ACK would count as an ACK of a name that the node rejected on another stream."""
    world = make_world(ordering=QUICK)
    world.publish(cluster("a", eds="e3"), endpoints("e3"), route("r", 1, "a"), listener("l", 1, routes="r"))
    client = world.client(DELTA, per_type=True)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(EDS, "e3")
    settle(client, "e3@1")
    client.subscribe(LDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.advance(DRAIN_S)
    replaced = [route("r2", 1, "e"), listener("l", 2, routes="r2")] if drains else [route("r", 2, "e")]
    gone = [cluster("a", eds="e3"), endpoints("e3"), *([route("r", 1)] if drains else [])]
    world.publish(cluster("e", eds="e2"), endpoints("e2"), *replaced, remove=gone)
    client.ack(CDS)
    client.subscribe(EDS, "e2")
    settle(client, "e2@1")
    world.publish(cluster("a", eds="e3"), endpoints("e3", 2), endpoints("e2", 2))
    client.ack_all()
    assert words_by_name(client, EDS) == {
        "e2": ["e2@1", "e2@2"],
        "e3": ["e3@1", *([] if drains else ["-e3"]), "e3@2"],
    }


def words_by_name(client: Client, type_url: str) -> dict[str, list[str]]:
    """Return the messages of each per-type stream, by the name that it subscribed to first."""
    found: dict[str, list[str]] = {}
    for (url, name), stream in client.streams.items():
        for message in client.messages_on[stream] if url == type_url else ():
            found.setdefault(name, []).extend(f"{each.name}@{each.version}" for each in message.resources)
            found[name] += [f"-{gone}" for gone in message.removed]
    return found


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(False, id="still there"),
        pytest.param(True, id="gone"),
    ],
)
def test_endpoints_that_were_rejected_on_one_stream_are_answered_on_the_next(make_world: MakeWorld, gone: bool) -> None:
    """Envoy opens a new stream for the endpoints of a changed cluster, then closes the old one
    (docs/envoy-behaviour.md#per-type-streams).

    Every subscription is answered: with the resource, rejected or not, or with its removal. Otherwise the cluster waits
    for its fetch timeout. The cluster itself is removed once the client has answered.
    """
    world = make_world(ordering=QUICK)
    world.publish(static("x"), cluster("d", 1, eds="e2"), endpoints("e2", 1))
    client = world.client(per_type=True)
    client.subscribe(CDS)
    client.subscribe(EDS, "e2")
    client.ack_all()
    client.subscribe(LDS)
    client.ack_all()
    new = [cluster("d", 2, eds="e2"), endpoints("e2", 2), listener("l", clusters="d")]
    world.publish(*new)
    client.nack(EDS)
    if gone:
        world.publish(remove=new)
    old = client.streams.pop((EDS, "e2"))
    client.take()
    said = client.subscribe(EDS, "e2")
    world.hub.close(old)
    world.pump()
    client.unanswered.pop(old, None)
    assert [line.split(" ", 2)[2] for line in said + client.take()] == ["-e2" if gone else "e2@2"]
    said = settle_for(world, client, HOLD_S, "e2@2")
    assert clusters_sent(said) == (["-d"] if gone else [])


def test_endpoints_requested_late_come_as_they_are_now(world: World, variant: Variant) -> None:
    """Endpoints never wait. The client accepted clusters that were replaced meanwhile, and requests their endpoints. e1
    is sent in its newer version. e2 no longer exists: its held version, or its removal, lets the older b warm."""
    world.publish(cluster("b", 1, eds="e2"), cluster("d", 1, eds="e1"), endpoints("e1", 1), endpoints("e2", 1))
    client = world.client(variant)
    client.subscribe(CDS)
    world.publish(static("b", 2), remove=[cluster("d"), endpoints("e1"), endpoints("e2")])
    world.publish(cluster("d", 3, eds="e0"), endpoints("e0"), cluster("e", eds="e1"), endpoints("e1", 2))
    assert client.request(EDS, subscribe=["e1", "e2"]) in (["EDS #2 e1@2 e2@1"], ["EDS #2 e1@2 -e2"])


def test_endpoints_follow_the_part_of_a_cut_response_that_has_their_clusters(make_world: MakeWorld) -> None:
    """Envoy warms a changed cluster only with an assignment that arrives after it (docs/envoy-behaviour.md#warming),
    changed or not, and ACKs clusters when all are warm. The endpoints of the second part are therefore sent after the
    second part."""
    world = make_world(encoding=SMALL)
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(EDS, "a", "b")
    client.ack_all()
    world.publish(cluster("a", 2), cluster("b", 2))
    lines = client.take() + client.ack(EDS) + client.ack_all()
    said = [line.split(" ", 2)[::2] for line in lines]
    assert said.index(["CDS", "a@2"]) < _last_with(said, "EDS", "a@1")
    assert said.index(["CDS", "b@2"]) < _last_with(said, "EDS", "b@1")


def _last_with(said: list[list[str]], kind: str, word: str) -> int:
    return max(at for at, (of, words) in enumerate(said) if of == kind and word in words.split())


# --- SotW clients that reconnect with a version that the server does not know -----------------------------------------


def of_elsewhere(world: World) -> Client:
    """Return a SotW client that received all types from another server."""
    client = world.client(SOTW)
    with world.burst():
        client.request(CDS, have="0123456789abcdef")
        client.request(LDS, have="0123456789abcdee")
        client.request(RDS, subscribe=["r"], have="0123456789abcded")
    return client


def test_what_a_sotw_client_of_elsewhere_may_use_keeps_all_clusters_until_it_has_drained(make_world: MakeWorld) -> None:
    """This server does not know the client's listeners and routes, which may use any cluster that it has."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), static("b"), listener("l", clusters="a"))
    client = of_elsewhere(world)
    settle(client)
    world.publish(remove=[static("b")])
    assert clusters_sent(settle_for(world, client, 3 * DRAIN_S)) == []
    said = client.unsubscribe(RDS, "r") + settle_for(world, client, HOLD_S)
    assert clusters_sent(said) == ["a@1"]


def test_a_bad_update_of_a_cluster_of_elsewhere_that_is_then_taken_away_does_not_spoil_all_responses(
    make_world: MakeWorld,
) -> None:
    """It is unknown which version of b the client has. While the client may use it, b is sent once more and rejected
    again; then b is left out."""
    world = make_world(ordering=QUICK)
    world.publish(static("a"), static("b", 2), route("r", 1, "b"))
    clients = [of_elsewhere(world), of_elsewhere(world)]
    for client in clients:
        settle(client, "b@2")
    world.publish(static("c"), remove=[static("b", 2)])
    for client in clients:
        said = settle_for(world, client, 3 * HOLD_S, "b@2")
        assert [line for line in clusters_sent(said) if "b@2" not in line] == ["a@1 c@1"]
        assert client.held[CDS] == {"a": "1", "c": "1"}


def test_a_cluster_that_worked_and_was_rejected_since_is_kept_as_it_worked(world: World) -> None:
    """The update of a cluster is bad, then the cluster is removed while a route uses it: the working version stays."""
    world.publish(static("a"), static("b", 1), listener("l", routes="r"), route("r", 1, "b"))
    client = holding(world, SOTW, routes=["r"])
    world.publish(static("b", 2))
    settle(client, "b@2")
    world.publish(static("a", 2), route("r", 2, "a"), remove=[static("b", 2)])
    said = settle(client, "b@2")
    assert [line.split(" ", 2)[::2] for line in said] == [["CDS", "a@2 b@1"], ["RDS", "r@2"], ["CDS", "a@2"]]


def test_a_node_that_is_moved_is_sent_nothing_more_of_its_former_group(make_world: MakeWorld) -> None:
    """The client is moved while its clusters warm: the endpoints of its former group must not be sent."""
    tables = {group: GroupTable(rules=(Rule(group=group),)) for group in ("g1", "g2")}
    world = make_world(groups=tables["g1"])
    world.publish(cluster("a", eds="e"), endpoints("e", 1), listener("l", clusters="a"), group="g1")
    world.publish(static("b"), group="g2")
    client = world.client()
    client.subscribe(CDS)
    world.regroup(tables["g2"])
    assert client.subscribe(EDS, "e") == ["EDS #2 -e"]
    client.subscribe(LDS)
    said = client.ack_all()
    assert [line.split(" ", 2)[::2] for line in said] == [["CDS", "b@1"], ["LDS", "(empty)"], ["CDS", "-a"]]


# --- Good clusters that are rejected beside bad ones -----------------------------------------------------------------


def test_a_good_cluster_that_was_rejected_beside_a_bad_one_is_sent_alone(world: World) -> None:
    """Envoy applies the good part of a rejected response, and names the bad resources
    (docs/envoy-behaviour.md#rejected-responses). The good cluster is sent once more; after its ACK its route follows.
    Nothing else is sent again."""
    world.publish(static("a"), listener("l", routes="r q"), route("r", 1, "a"), route("q", 1, "a"))
    client = holding(world, DELTA, routes=["r", "q"])
    world.publish(static("good"), static("bad"), route("r", 2, "good"), route("q", 2, "bad"))
    client.take()
    assert client.nack(CDS, "Error adding/updating cluster(s) bad: unsupported lb policy") == ["CDS #6 good@1"]
    assert settle(client) == ["RDS #7 r@2"]
    world.publish(static("bad", 2))
    assert settle(client) == ["CDS #8 bad@2", "RDS #9 q@2"]


@pytest.mark.parametrize("named", [False, True], ids=["wildcard", "named"])
def test_a_good_cluster_that_was_rejected_beside_a_bad_one_and_is_gone_is_not_sent_alone(
    make_world: MakeWorld, named: bool
) -> None:
    """Its removal is held, as l@0 of an earlier stream may use it. A client that names it is owed an answer."""
    world = make_world(ordering=QUICK)
    world.publish(static("good"), static("bad"), listener("l", clusters="good"))
    client = world.client()
    with world.burst():
        client.request(CDS, subscribe=["*", "good"] if named else [])
        client.request(LDS, have={"l": "0"})
    with world.burst():
        client.nack(CDS, "Error adding/updating cluster(s) bad: unsupported lb policy")
        if named:
            client.request(CDS, subscribe=["good"])
        world.publish(remove=[static("good"), listener("l", clusters="good")])
    assert clusters_sent(client.take()) == (["good@1"] if named else [])
    assert clusters_sent(settle_for(world, client, 2 * DRAIN_S)) == ["-good"]


def test_a_name_that_is_unsubscribed_is_answered_also_while_a_rejected_cluster_is_missing(world: World) -> None:
    """The answer tells that nothing of this name is left, although the wildcard may want it (docs/protocol.md)."""
    world.publish(static("c"), static("bad"), listener("l", routes="r"), route("r", 1, "bad"))
    client = world.client()
    client.request(CDS, subscribe=["*", "x"])
    client.request(LDS)
    settle(client, "bad@1")
    client.request(RDS, subscribe=["r"])
    settle(client)
    assert clusters_sent(client.unsubscribe(CDS, "x")) == ["-x"]


@pytest.mark.parametrize("message", ["no such lb policy", "good: x, bad: y"], ids=["names none", "names all"])
def test_rejected_clusters_are_not_sent_again_where_none_is_known_to_be_good(world: World, message: str) -> None:
    world.publish(static("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = holding(world, DELTA, routes=["r"])
    world.publish(static("good"), static("bad"), route("r", 2, "good"))
    client.take()
    assert client.nack(CDS, message) == []


def test_a_cluster_that_is_rejected_alone_too_is_not_sent_again(world: World) -> None:
    world.publish(static("a"))
    client = holding(world, DELTA)
    world.publish(static("bad"), static("worse"))
    client.take()
    assert client.nack(CDS, "worse") == ["CDS #4 bad@1"]
    assert client.nack(CDS, "bad") == []


def test_a_good_cluster_beside_a_bad_one_is_not_sent_alone_where_a_later_response_has_it(world: World) -> None:
    """The answer to the first response is late and a second one is in flight: the answer to that one decides."""
    world.publish(static("a"))
    client = holding(world, DELTA)
    world.publish(static("good"), static("bad"))
    world.advance(HOLD_S + 1)
    world.publish(static("good", 2))
    assert clusters_sent(client.take()) == ["bad@1 good@1", "good@2"]
    assert client.nack(CDS, "bad") == []
    assert client.ack(CDS) == []


# --- What is not sent at once -----------------------------------------------------------------------------------------


def test_a_type_that_has_nothing_to_be_sent_does_not_hold_back_removals(world: World, variant: Variant) -> None:
    """The client unsubscribed from its only route. A change of that route is not sent, and the cluster is removed at
    once."""
    world.publish(static("a"), static("b"), route("r", 1, "a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    client.unsubscribe(RDS, "r")
    world.publish(remove=[static("a"), route("r", 1)])
    assert clusters_sent(settle(client)) == [full(variant, "-a", "b@1")]


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
def test_routes_wait_for_all_parts_of_a_response_with_their_clusters(make_world: MakeWorld, late: bool) -> None:
    """The client does not answer: after each hold timeout the next part is sent, and at last the routes."""
    world = make_world(encoding=Encoding(response_bytes_max=60))
    world.publish(static("x"), listener("l", 1, routes="r"), route("r", 1, "x"))
    client = holding(world, DELTA, routes=["r"])
    world.publish(static("a"), static("b"), static("c"), route("r", 2, "a b c"))
    said = client.take()
    for _ in range(3 if late else 0):
        assert "RDS" not in " ".join(said)
        world.advance(HOLD_S + 1)
        said += client.take()
    said += [] if late else settle(client)
    kinds = [line.split(" ", 2)[::2] for line in said if not line.startswith("EDS")]
    assert kinds[:4] == [["CDS", "a@1"], ["CDS", "b@1"], ["CDS", "c@1"], ["RDS", "r@2"]]


def test_removals_of_endpoints_wait_while_changes_of_clusters_are_under_way(world: World) -> None:
    """Clusters are in flight, and the next response removes one: its endpoints stay until it is removed."""
    world.publish(cluster("a"), cluster("b"), cluster("c"), *map(endpoints, "abc"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "a", "b", "c")
    client.ack_all()
    world.publish(cluster("a", 2))
    client.ack(EDS)
    world.publish(remove=[cluster("b"), endpoints("b")])
    world.publish(endpoints("c", 2))
    assert client.take()[-1].split(" ", 2)[::2] == ["EDS", "c@2"]
