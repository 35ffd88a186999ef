"""One client in full: what it was sent, accepted and should have, and what each change waits for."""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import DELTA, Client, MakeWorld, World
from support.scenes import start, started, swap

from xds.model.groups import Node
from xds.protocol.inspection import NACKS_MAX, How, Inspector, NackedNames, NackRecord, Standing, Wait, accepted_before
from xds.protocol.nack_history import NackHistory
from xds.protocol.policy import Ordering, Variant
from xds.protocol.status import Progress


def inspector(world: World) -> Inspector:
    (session,) = {stream.session for stream in world.hub.streams if stream.session is not None}
    return world.hub.inspector(session, world.now)


def of(world: World, type_url: str, name: str) -> Standing:
    return inspector(world).standing(type_url, name)


def versions(standing: Standing) -> tuple[str, str | None, str]:
    return standing.sent, standing.accepted, standing.wanted


def waits(standing: Standing) -> list[Wait]:
    return [each.why for each in standing.waits]


def test_what_was_accepted_is_sent_accepted_and_wanted(world: World, variant: Variant, per_type: bool) -> None:
    started(world, variant, per_type=per_type)
    for type_url, name, how in ((CDS, "a", How.WILDCARD), (EDS, "a", How.NAME), (RDS, "r", How.NAME)):
        found = of(world, type_url, name)
        assert (found.how, versions(found), found.progress, found.waits) == (how, ("1", "1", "1"), Progress.ACKED, ())
    assert list(inspector(world).differences()) == []
    everything = [(each.type_url, each.name) for each in inspector(world).standings()]
    assert everything == [(CDS, "a"), (EDS, "a"), (LDS, "l"), (RDS, "r")]


def test_what_is_not_answered_is_sent_and_not_accepted(world: World, variant: Variant) -> None:
    started(world, variant)
    world.publish(endpoints("a", 2))
    found = of(world, EDS, "a")
    assert (versions(found), found.progress, waits(found)) == (("2", "1", "2"), Progress.SENT, [Wait.ANSWER])
    world.publish(endpoints("a", 3))
    found = of(world, EDS, "a")
    assert (versions(found), waits(found)) == (("2", "1", "3"), [Wait.ANSWER, Wait.EARLIER_ANSWER])


def test_what_several_responses_brought_is_not_accepted_before_any_is_answered(
    make_world: MakeWorld, variant: Variant
) -> None:
    world = make_world(ordering=Ordering(hold_timeout_s=10))
    world.publish(static("a"), static("b"))
    client = world.client(variant)
    client.subscribe(CDS)
    for version in (2, 3, 4):
        world.advance(11)
        world.publish(static("a", version))
        assert versions(of(world, CDS, "a")) == (str(version), "", str(version))
        assert versions(of(world, CDS, "b"))[1] == ""
    client.ack(CDS)
    assert (of(world, CDS, "a").accepted, of(world, CDS, "b").accepted) == ("1", "1")
    client.nack(CDS, "a: odd")
    assert of(world, CDS, "a").accepted == "1"
    client.ack_all()
    assert (of(world, CDS, "a").accepted, of(world, CDS, "b").accepted) == ("4", "1")


def test_a_route_waits_for_the_clusters_that_it_needs_and_a_cluster_for_the_route(
    world: World, variant: Variant
) -> None:
    client = started(world, variant)
    swap(world)
    held = of(world, RDS, "r")
    assert (versions(held), held.progress) == (("1", "1", "2"), Progress.HELD)
    ((why, names, left_s),) = held.waits
    assert (why, "b" in names, left_s is not None) == (Wait.CLUSTERS_ANSWER, True, True)
    kept = of(world, CDS, "a")
    assert (kept.wanted, Wait.STILL_USED in waits(kept), Wait.CLUSTERS_ANSWER in waits(kept)) == ("", True, True)
    client.ack_all()
    assert versions(of(world, RDS, "r")) == ("2", "2", "2")
    gone = of(world, CDS, "a")
    assert (versions(gone), gone.progress) == (("", "", ""), Progress.MISSING)


def test_a_rejected_version_is_wanted_and_the_one_before_it_is_what_the_client_has(
    world: World, variant: Variant
) -> None:
    client = started(world, variant)
    world.publish(route("r", 2, "a"))
    client.nack(RDS, "odd")
    found = of(world, RDS, "r")
    assert (versions(found), found.progress, waits(found)) == (("2", "1", "2"), Progress.NACKED, [Wait.REJECTED])
    world.publish(route("r", 3, "a"))
    client.nack(RDS, "odd again")
    assert versions(of(world, RDS, "r")) == ("3", "1", "3"), "the second was sent after the first was rejected"
    (held,) = inspector(world).differences()
    assert (held.type_url, held.name, held.has_version) == (RDS, "r", "1")
    assert held.wanted is not None
    assert held.wanted.version == "3"
    world.publish(route("r", 4, "a"))
    client.ack_all()
    assert versions(of(world, RDS, "r")) == ("4", "4", "4")


def test_a_route_waits_for_a_cluster_that_the_client_rejected(world: World) -> None:
    client = started(world, DELTA)
    world.publish(cluster("b"), endpoints("b"))
    client.nack(CDS, "b: odd")
    world.publish(route("r", 2, "b"))
    found = of(world, RDS, "r")
    assert [(each.why, each.names) for each in found.waits] == [(Wait.MISSING_CLUSTERS, ("b",))]


def test_what_is_not_subscribed_is_told_apart_from_what_does_not_exist(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"), endpoints("other"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "a", "none")
    client.ack_all()
    assert (of(world, EDS, "other").how, of(world, EDS, "other").wanted) == (How.NOT, "1")
    assert (of(world, RDS, "r").how, of(world, RDS, "r").wanted) == (How.NO_TYPE, "1")
    missing = of(world, EDS, "none")
    assert (missing.how, missing.progress, versions(missing)) == (How.NAME, Progress.MISSING, ("", "", ""))


def test_looking_changes_nothing(world: World, variant: Variant, per_type: bool) -> None:
    client = started(world, variant, per_type=per_type)
    swap(world)
    (session,) = {stream.session for stream in world.hub.streams if stream.session is not None}
    before, marks = session.client_state, session.marks
    list(inspector(world).standings())
    list(inspector(world).differences())
    assert (session.client_state, session.marks) == (before, marks)
    assert client.ack_all() or per_type


def test_nacks_are_kept_after_the_stream_has_ended_and_only_so_many(world: World) -> None:
    client = started(world, DELTA)
    for version in range(2, NACKS_MAX + 5):
        world.publish(route("r", version, "a"))
        client.nack(RDS, f"odd {version}")
    client.reconnect()
    found = world.hub.nacks.of_id("n1")
    assert [each.message for each in found] == [f"odd {number}" for number in range(NACKS_MAX + 4, 4, -1)]
    assert found[0].response.names == ("r",)
    assert world.hub.nacks.of_id("n2") == []


@pytest.mark.parametrize("limit", ["NODES_MAX", "BYTES_MAX"])
def test_the_history_of_nacks_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(f"xds.protocol.nack_history.{limit}", {"NODES_MAX": 3, "BYTES_MAX": 3_000}[limit])
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    clients: list[Client] = []
    for number in range(9):
        client = world.client(DELTA, f"n{number}")
        start(client)
        clients.append(client)
    world.publish(route("r", 2, "a"))
    for client in clients:
        client.nack(RDS, "odd")
    kept = [number for number in range(9) if world.hub.nacks.of_id(f"n{number}")]
    assert kept
    assert len(kept) < 9
    assert kept == list(range(9 - len(kept), 9))
    assert world.hub.nacks.bytes_kept <= 3_000 or limit == "NODES_MAX"


def test_an_empty_history_has_nothing() -> None:
    history = NackHistory()
    assert (history.of(Node(id="n")), len(history), history.bytes_kept) == ([], 0, 0)


def test_what_is_accepted_after_nacks_is_within_the_bytes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"c{number:02}" for number in range(50)]
    world.publish(*map(static, names))
    clients = [world.client(DELTA, f"n{number}", connection=f"tcp{number}") for number in range(10)]
    for client in clients:
        client.subscribe(CDS)
        client.nack(CDS, "odd")
    history = world.hub.nacks
    monkeypatch.setattr("xds.protocol.nack_history.BYTES_MAX", history.bytes_kept)
    most = history.bytes_kept
    world.publish(*(static(name, 2) for name in names))
    for client in clients:
        client.ack_all()
        assert history.bytes_kept <= most
    assert 0 < len(history) < 10


def test_what_a_client_had_before_ends_where_a_response_between_was_not_rejected() -> None:
    """x@4 is rejected; x@3 is of a response that nobody has answered, so that x@2, rejected before, tells no more."""

    def nacked(version: str, before: str) -> NackRecord:
        names = NackedNames(("x",), 1, {"x": version}, {"x": before})
        return NackRecord(0.0, "default", EDS, names, "bad", version, 1)

    assert accepted_before([nacked("4", "3"), nacked("2", "1")], EDS, "x") == "3"
    assert accepted_before([nacked("4", "3"), nacked("3", "2")], EDS, "x") == "2"
    assert accepted_before([nacked("4", "3"), nacked("3", "2")], EDS, "y") is None
