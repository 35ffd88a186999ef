"""What a hub counts by group and type, and the times that it measures, on a clock of the test's."""

import pickle

from support.encoded import CDS, EDS, RTDS, cluster, endpoints, resource, static
from support.hubs import World

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, Node
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.protocol.hub import Hub
from xds.protocol.measures import COMMITS_MAX, GROUPS_MAX, NOBODY, OTHER, Commits, Measures
from xds.protocol.policy import Variant
from xds.telemetry.histogram import Histogram


def counts(world: World, group: str, type_url: str) -> tuple[int, int, int, int]:
    """Return requests, responses, ACKs and NACKs."""
    found = world.hub.measures.traffic[group, type_url]
    return found.requests, found.responses, found.acks, found.nacks


def publish(world: World, *resources: object, group: str = "default") -> None:
    """Publish a change that is committed now."""
    world.hub.note_commit(world.catalog.revision + 1, world.now)
    world.publish(*resources, group=group)  # type: ignore[arg-type]


def only(times: Histogram, *seconds: float) -> bool:
    """Return whether a histogram has exactly these times."""
    expected = Histogram()
    for each in seconds:
        expected.observe(each)
    return times.counts == expected.counts


def test_traffic_is_counted_by_group_and_type(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    world.publish(static("a"), endpoints("e"), group="other")
    here, there = world.client(variant), world.client(variant, node="n2", cluster="other")
    here.subscribe(CDS)
    here.ack(CDS)
    there.subscribe(CDS)
    there.nack(CDS)
    there.subscribe(EDS, "e")
    there.ack(EDS)
    assert counts(world, "default", CDS) == (2, 1, 1, 0)
    assert counts(world, "other", CDS) == (2, 1, 0, 1)
    assert counts(world, "other", EDS) == (2, 1, 1, 0)
    totals, all_of_it = world.hub.counters, world.hub.measures.totals()
    for name in ("requests", "responses", "response_bytes", "acks", "nacks"):
        assert all_of_it[name] == getattr(totals, name)
    assert (all_of_it["resources"], all_of_it["removals"]) == (totals.resources_sent, totals.removals_sent)


def test_refused_requests_are_of_no_group(world: World) -> None:
    client = world.client()
    client.subscribe(CDS)
    client.send(b"\xff")
    assert world.hub.measures.traffic[NOBODY].requests == 1
    assert world.hub.measures.totals()["requests"] == world.hub.counters.requests == 2


def test_a_change_is_timed_until_it_is_sent_and_until_each_client_accepts_it(world: World, variant: Variant) -> None:
    publish(world, static("a"))
    clients = [world.client(variant, node=f"n{number}") for number in range(3)]
    for client in clients:
        client.subscribe(CDS)
        client.ack(CDS)
    publish(world, static("a", 2))
    world.advance(0.04)
    clients[0].ack(CDS)
    clients[1].ack(CDS)
    world.advance(2)
    clients[2].ack(CDS)
    measures = world.hub.measures
    assert only(measures.accepted["default"], 0.04, 0.04, 2.04)
    assert only(measures.sent, 0, 0, 0)


def test_what_was_rejected_is_timed_from_its_commit_once_it_is_mended(world: World, variant: Variant) -> None:
    publish(world, static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    publish(world, static("a", 2))
    client.nack(CDS)
    assert not world.hub.measures.accepted
    world.advance(7)
    publish(world, static("a", 3))
    client.ack(CDS)
    assert only(world.hub.measures.accepted["default"], 7)


def test_a_client_has_synced_once_it_accepted_the_last_that_it_subscribed_to(world: World, variant: Variant) -> None:
    publish(world, cluster("a"), endpoints("a"), resource(RTDS, "s"))
    client = world.client(variant)
    client.subscribe(CDS)
    world.advance(0.2)
    client.subscribe(EDS, "a")
    client.ack_all()
    world.hub.settle(world.now)
    assert world.hub.measures.synced.count == 0, "it may go on to subscribe"
    world.advance(0.3)
    client.subscribe(RTDS, "s")
    client.ack_all()
    world.advance(3)
    world.hub.settle(world.now)
    assert only(world.hub.measures.synced, 0.5)
    client.subscribe(EDS, "b")
    client.ack_all()
    world.advance(3)
    world.hub.settle(world.now)
    assert world.hub.measures.synced.count == 1


def test_taken_measures_add_up_to_the_whole(world: World) -> None:
    publish(world, static("a"))
    client, whole = world.client(), Measures()
    client.subscribe(CDS)
    whole.add(pickle.loads(pickle.dumps(world.hub.take_measures())))
    client.ack(CDS)
    publish(world, static("a", 2))
    whole.add(world.hub.take_measures())
    client.ack(CDS)
    whole.add(world.hub.take_measures())
    assert whole.totals()["acks"] == world.hub.counters.acks == 2
    assert whole.totals()["requests"] == world.hub.counters.requests == 3
    assert whole.all_accepted().count == 1
    assert not world.hub.measures.traffic


def test_groups_and_types_beyond_the_bounds_are_counted_together() -> None:
    measures = Measures()
    for number in range(GROUPS_MAX + 5):
        measures.of(f"g{number}", CDS).acks += 1
    measures.of("g1", "type.googleapis.com/a.b.C").acks += 1
    measures.of("g1", "type.googleapis.com/a.b.D").acks += 1
    assert measures.traffic[OTHER, CDS].acks == 5
    assert measures.traffic["g1", OTHER].acks == 2
    assert len(measures.traffic) == GROUPS_MAX + 2


def test_commit_times_of_old_revisions_are_thinned_out_and_never_early() -> None:
    commits = Commits()
    for revision in range(1, 5 * COMMITS_MAX):
        commits.note(revision, float(revision))
    assert commits.at(5 * COMMITS_MAX - 1) == 5 * COMMITS_MAX - 1
    assert commits.at(5 * COMMITS_MAX) is None
    found = [commits.at(revision) for revision in range(1, 5 * COMMITS_MAX)]
    assert all(at is not None and at >= revision for revision, at in enumerate(found, 1))
    assert len(set(found)) <= COMMITS_MAX
    assert commits.at(1) is not None
    commits.note(5 * COMMITS_MAX - 1, 0.0)
    assert commits.at(5 * COMMITS_MAX - 1) == 5 * COMMITS_MAX - 1, "what was noted stays"


def test_a_client_that_subscribes_again_has_not_synced_yet_and_is_counted_once(world: World) -> None:
    publish(world, cluster("a"), endpoints("a"), resource(RTDS, "s"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.advance(3)
    client.subscribe(RTDS, "s")
    world.hub.settle(world.now)
    assert world.hub.measures.synced.count == 0
    client.ack_all()
    world.advance(3)
    world.hub.settle(world.now)
    assert world.hub.measures.synced.count == 1
    client.subscribe(EDS, "a")
    client.ack_all()
    world.advance(3)
    world.hub.settle(world.now)
    assert world.hub.measures.synced.count == 1


def test_equal_acks_in_a_row_are_all_counted(world: World) -> None:
    publish(world, static("a"))
    clients = [world.client(Variant.DELTA, f"n{number}", connection=f"tcp{number}") for number in range(8)]
    for client in clients:
        client.subscribe(CDS)
        client.ack(CDS)
    assert 1 <= world.hub.client_states < len(clients)
    for version in (2, 3):
        publish(world, static("a", version))
        for client in clients:
            client.ack(CDS)
    assert world.hub.counters.acks == 3 * len(clients)
    assert world.hub.measures.accepted["default"].count == 2 * len(clients)


def test_equal_acks_in_a_row_are_counted_together() -> None:
    """On a hub that nothing reads meanwhile: reading counts what is in a row."""
    catalog = Catalog()
    hub = Hub(catalog, knows_type=lambda _: True)

    def change(version: int) -> None:
        hub.publish(catalog.apply(Changeset(upserts={"default": [endpoints("a", version)]})))

    def answer_all() -> None:
        sent = [(stream, part.nonce) for stream in hub.take_ready() if (part := hub.poll(stream, 1.0)) is not None]
        assert len(sent) == len(streams)
        for stream, nonce in sent:
            hub.receive(stream, DeltaDiscoveryRequest(type_url=EDS, response_nonce=nonce).SerializeToString(), 1.0)

    change(1)
    streams = [hub.open(Variant.DELTA) for _ in range(8)]
    for number, stream in enumerate(streams):
        request = DeltaDiscoveryRequest(node=Node(id=f"n{number}"), type_url=EDS, resource_names_subscribe=["a"])
        hub.receive(stream, request.SerializeToString(), 1.0)
    answer_all()
    for version in (2, 3, 4):
        change(version)
        answer_all()
    assert (hub.counters.acks, hub.counters.requests) == (4 * 8, 5 * 8)
    assert hub.acceptance("default", 4) == (8, 0, 0)
