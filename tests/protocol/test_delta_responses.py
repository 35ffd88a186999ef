"""Changes while a response is unanswered are coalesced, and large responses are split.

See docs/protocol.md#in-flight, docs/protocol.md#versions and docs/protocol.md#response-size."""

from dataclasses import replace

import pytest
from support.encoded import CDS, EDS, LDS, OTHER, RDS, SDS, TYPES, cluster, endpoints, resource, static
from support.hubs import DELTA, Client, MakeWorld, World

from xds.model.resource import Resource
from xds.model.view import FINGERPRINT_MASK as MASK
from xds.protocol.policy import Variant
from xds.protocol.responses import Encoding, state_version

SMALL = Encoding(response_bytes_max=1_000)

# --- One response at a time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS, SDS, OTHER])
def test_delta_ten_changes_while_unacked_are_one_response(world: World, variant: Variant, type_url: str) -> None:
    world.publish(resource(type_url, "x"))
    client = world.client(variant)
    client.subscribe(type_url, "x")
    for version in range(2, 12):
        world.publish(resource(type_url, "x", version))
    name = TYPES[type_url]
    assert client.take() == []
    assert client.ack(type_url) == [f"{name} #2 x@11"]
    assert client.ack(type_url) == []


def test_delta_what_was_added_and_removed_while_unacked_is_not_sent(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    world.publish(static("b"))
    world.publish(remove=[static("b")])
    assert client.ack(CDS) == []


def test_delta_changes_back_to_what_was_sent_are_no_response(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    world.publish(static("a", 2))
    world.publish(static("a", 1))
    assert client.ack(CDS) == []


def test_delta_each_type_has_its_own_unacked_response(world: World, variant: Variant) -> None:
    world.publish(resource(SDS, "s"), resource(OTHER, "o"))
    client = world.client(variant)
    client.subscribe(SDS, "s")
    client.subscribe(OTHER, "o")
    world.publish(resource(SDS, "s", 2), resource(OTHER, "o", 2))
    assert client.take() == []
    assert client.ack(OTHER) == ["OTHER #3 o@2"]
    assert client.ack(SDS) == ["SDS #4 s@2"]


def test_delta_slow_reader_is_sent_the_last_state_when_it_can_take_more(world: World, variant: Variant) -> None:
    world.publish(resource(SDS, "s"))
    client = world.client(variant)
    client.subscribe(SDS, "s")
    client.ack(SDS)
    with world.burst():  # the transport does not poll: its client does not read
        for version in range(2, 50):
            world.publish(resource(SDS, "s", version))
    assert client.take() == ["SDS #2 s@49"]


# --- The version ---------------------------------------------------------------------------------------------------


def labelled(made: Resource, version: str) -> Resource:
    return replace(made, version=version, labelled=True)


def test_delta_version_is_the_authors_own_where_all_that_changed_has_it(world: World, variant: Variant) -> None:
    world.publish(static("a"), static("b"), endpoints("x"), endpoints("y"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(EDS, "x", "y")
    client.ack_all()
    world.publish(labelled(static("a", 2), "build-7"), labelled(endpoints("x", 2), "build-7"))
    client.ack_all()
    assert (client.last(CDS).version, client.last(EDS).version) == ("build-7", "build-7")
    world.publish(labelled(static("a", 3), "build-8"), static("b", 2), labelled(endpoints("x", 3), "build-8"))
    client.ack_all()
    assert (client.last(CDS).version != "build-8", client.last(EDS).version) == (True, "build-8")


def test_delta_version_is_the_authors_own_beside_removals_and_never_of_removals_alone(world: World) -> None:
    world.publish(resource(OTHER, "a"), resource(OTHER, "b"), resource(OTHER, "c"))
    client = world.client()
    client.subscribe(OTHER)
    client.ack_all()
    newer = labelled(resource(OTHER, "a", 2), "build-7")
    world.publish(newer, remove=[resource(OTHER, "b")])
    client.ack_all()
    last = client.last(OTHER)
    assert (last.version, last.removed) == ("build-7", ("b",))
    world.publish(remove=[resource(OTHER, "c")])
    client.ack_all()
    assert client.last(OTHER).version == state_version(newer.fingerprint)


def test_delta_clients_that_lack_other_resources_are_told_other_versions(world: World) -> None:
    world.publish(static("a"), static("b"))
    prompt, slow, new = world.client(node="n1"), world.client(node="n2"), world.client(node="n3")
    for client in (prompt, slow):
        client.subscribe(CDS)
    prompt.ack_all()
    world.publish(static("b", 2))
    prompt.ack_all()
    world.publish(labelled(static("a", 2), "build-7"))
    prompt.ack_all()
    slow.ack_all()
    new.subscribe(CDS)
    seen = [client.last(CDS).version for client in (prompt, slow, new)]
    held = state_version((labelled(static("a", 2), "build-7").fingerprint + static("b", 2).fingerprint) & MASK)
    assert seen == ["build-7", held, held]


def test_delta_a_cohort_is_told_the_authors_version_in_one_message(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    clients = [world.client(variant, node=f"n{number}") for number in range(5)]
    for client in clients:
        client.subscribe(CDS)
        client.ack_all()
    world.publish(labelled(static("a", 2), "build-7"))
    parts = {id(client.last(CDS).part) for client in clients}
    assert ({client.last(CDS).version for client in clients}, len(parts)) == ({"build-7"}, 1)


def test_delta_two_labels_of_one_content_are_two_versions(world: World) -> None:
    world.publish(labelled(static("a"), "build-7"))
    early, late = world.client(node="n1"), world.client(node="n2")
    early.subscribe(CDS)
    world.publish(labelled(static("a"), "build-8"))
    late.subscribe(CDS)
    assert (early.last(CDS).version, late.last(CDS).version) == ("build-7", "build-8")


@pytest.mark.parametrize("label", ["x" * 200, "\N{SNOWMAN}" * 200])
def test_delta_no_message_passes_the_limit_because_of_a_label(
    make_world: MakeWorld, variant: Variant, label: str
) -> None:
    world = make_world(encoding=SMALL)
    names = [f"s{number}" for number in range(60)]
    world.publish(*[labelled(resource(SDS, name), label) for name in names])
    client = world.client(variant)
    client.subscribe(SDS, *names)
    client.ack_all()
    assert client.last(SDS).version == label
    assert sorted(name for message in client.messages for name in message.names) == sorted(names)
    assert max(len(message.part.message) for message in client.messages) <= SMALL.response_bytes_max


# --- Size ----------------------------------------------------------------------------------------------------------


def _large(*, count: int, version: int = 1) -> list[Resource]:
    return [resource(SDS, f"s{number}", version, padding=300) for number in range(count)]


def test_delta_too_large_a_response_goes_as_several_in_order(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=5))
    client = world.client()
    assert client.subscribe(SDS) == ["SDS #1 s0@1 s1@1"]
    assert client.ack(SDS) == ["SDS #2 s2@1 s3@1"]
    assert client.ack(SDS) == ["SDS #3 s4@1"]
    assert client.ack(SDS) == []


def test_delta_sotw_goes_as_several_in_order(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=5))
    client = world.client(Variant.SOTW)
    assert client.subscribe(SDS, "s0", "s1", "s2", "s3", "s4") == ["SDS #1 s0@1 s1@1"]
    assert client.ack(SDS) == ["SDS #2 s2@1 s3@1"]
    assert client.ack(SDS) == ["SDS #3 s4@1"]
    assert client.ack(SDS) == []


def test_delta_sotw_clusters_go_in_one_since_absence_removes(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*[resource(CDS, f"c{number}", padding=300) for number in range(5)])
    assert world.client(Variant.SOTW).subscribe(CDS) == ["CDS #1 c0@1 c1@1 c2@1 c3@1 c4@1"]


@pytest.mark.parametrize("padding", [0, 30, 300])
def test_delta_no_message_passes_the_limit(make_world: MakeWorld, variant: Variant, padding: int) -> None:
    world = make_world(encoding=SMALL)
    names = [f"s{number}" for number in range(60)]
    world.publish(*[resource(SDS, name, padding=padding) for name in names])
    client = world.client(variant)
    client.subscribe(SDS, *names)
    client.ack_all()
    assert sorted(name for message in client.messages for name in message.names) == sorted(names)
    assert max(len(message.part.message) for message in client.messages) <= SMALL.response_bytes_max


def test_delta_removals_are_cut_as_well(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    many = [resource(OTHER, f"a-rather-long-name-of-a-thing-{number}") for number in range(100)]
    world.publish(*many)
    client = world.client()
    client.subscribe(OTHER)
    client.ack_all()
    before = len(client.messages)
    world.publish(remove=many)
    client.ack_all()
    removals = client.messages[before:]
    assert sorted(name for message in removals for name in message.removed) == sorted(r.name for r in many)
    assert max(len(message.part.message) for message in removals) <= SMALL.response_bytes_max


def test_delta_one_resource_larger_than_the_limit_goes_alone(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(resource(SDS, "a"), resource(SDS, "big", padding=3_000), resource(SDS, "c"))
    client = world.client()
    assert client.subscribe(SDS) == ["SDS #1 a@1"]
    assert client.ack(SDS) == ["SDS #2 big@1"]
    assert client.ack(SDS) == ["SDS #3 c@1"]


def test_delta_changes_between_the_parts_come_after_them(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=4))
    client = world.client(variant)
    assert client.subscribe(SDS, "s0", "s1", "s2", "s3") == ["SDS #1 s0@1 s1@1"]
    world.publish(resource(SDS, "s0", 2))
    assert client.take() == []
    assert client.ack(SDS) == ["SDS #2 s2@1 s3@1"]
    assert client.ack(SDS) == ["SDS #3 s0@2"]


def test_delta_a_rejected_part_does_not_stop_the_next(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=4))
    client = world.client(variant)
    client.subscribe(SDS, "s0", "s1", "s2", "s3")
    assert client.nack(SDS) == ["SDS #2 s2@1 s3@1"]
    assert client.ack(SDS) == []


def test_delta_subscription_changes_between_the_parts_are_answered_after_them(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=5))
    client = world.client()
    client.subscribe(SDS, "s0", "s1", "s2", "s3")
    assert client.ack(SDS, subscribe=["s4"]) == ["SDS #2 s2@1 s3@1"]
    assert client.ack(SDS) == ["SDS #3 s4@1"]


def test_delta_client_cut_off_between_the_parts_gets_the_rest(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=4))
    client = world.client()
    client.subscribe(SDS, "s0", "s1", "s2", "s3")
    client.messages.clear()
    with world.burst():
        client.ack(SDS)
        again = client.reconnect()
    assert again.take() == ["SDS #1 s2@1 s3@1"]


def test_delta_sotw_client_cut_off_between_the_parts_gets_everything_again(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    world.publish(*_large(count=4))
    client = world.client(Variant.SOTW)
    client.subscribe(SDS, "s0", "s1", "s2", "s3")
    with world.burst():
        client.ack(SDS)
        again = client.reconnect()
    assert again.ack_all() == ["SDS #1 s0@1 s1@1", "SDS #2 s2@1 s3@1"]
    assert again.reconnect().take() == []


def test_delta_clusters_in_parts_hold_the_routes_until_the_last_is_acked(make_world: MakeWorld) -> None:
    world = make_world(encoding=SMALL)
    client: Client = world.client(DELTA)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(*[resource(CDS, f"c{number}", padding=300) for number in range(4)], resource(LDS, "l"))
    assert client.take() == ["CDS #3 c0@1 c1@1"]
    assert client.ack(CDS) == ["CDS #4 c2@1 c3@1"]
    assert client.ack(CDS) == ["LDS #5 l@1"]


def test_delta_endpoints_of_clusters_in_any_part_are_sent_again(make_world: MakeWorld) -> None:
    world = make_world(encoding=Encoding(response_bytes_max=60))
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "a", "b")
    client.ack_all()
    before = len(client.messages)
    world.publish(cluster("a", 2), cluster("b", 2))
    client.ack_all()
    said = client.messages[before:]
    assert sorted(name for m in said if m.type_url == EDS for name in m.names) == ["a", "b"]
