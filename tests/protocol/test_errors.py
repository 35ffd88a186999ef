"""The status and message that end a stream, and no other stream (docs/protocol.md#errors)."""

import pytest
from google.protobuf import struct_pb2
from support.encoded import CDS, EDS, RDS, SDS, TYPES, endpoints, resource, static
from support.hubs import DELTA, SOTW, MakeWorld, World

from xds._generated import xds_wire_pb2 as wire
from xds.model.groups import GroupTable, Rule
from xds.model.types import TYPE_PREFIX
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import Limits, Variant
from xds.protocol.requests import TYPE_URL_LENGTH_MAX
from xds.protocol.status import UnknownType

MALFORMED = [b"\xff\xff\xff", b"\x0a\x05ab", b"\x12\x02\xff\xfe", b"\x00"]
DENY = GroupTable(rules=(Rule(group="prod", id="prod-*"),), deny_unmatched=True)


@pytest.mark.parametrize("data", MALFORMED)
def test_error_malformed_protobuf_is_invalid_argument(world: World, variant: Variant, data: bytes) -> None:
    (said,) = world.client(variant).send(data)
    kind = "DeltaDiscoveryRequest" if variant is DELTA else "DiscoveryRequest"
    assert said.startswith(f"END INVALID_ARGUMENT: {len(data)} bytes that are no {kind}: ")
    assert "Traceback" not in said


def test_error_ends_that_stream_alone(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    bad, good = world.client(variant), world.client(variant, "n2")
    bad.subscribe(CDS)
    good.subscribe(CDS)
    good.ack(CDS)
    bad.ack(CDS)
    bad.send(b"\xff")
    world.publish(static("a", 2))
    assert (bad.take(), good.take()) == ([], ["CDS #2 a@2"])
    assert (world.hub.counters.streams_refused, len(world.hub.streams)) == (1, 1)


UNKNOWN = TYPE_PREFIX + "acme.Nothing"


def test_an_unknown_type_on_a_working_stream_is_answered_as_one_without_resources(
    world: World, variant: Variant
) -> None:
    client = world.client(variant, node="n1")
    world.publish(static("a"))
    client.subscribe(CDS)
    client.ack(CDS)

    assert client.subscribe(UNKNOWN) == [f"{UNKNOWN} #2 (empty)"]
    client.ack(UNKNOWN)
    world.publish(static("a", 2))

    assert client.take() == ["CDS #3 a@2"]
    (event,) = world.hub.take_events()
    assert event == UnknownType(node_id="n1", group="default", type_url=UNKNOWN)


def test_each_node_that_asks_for_an_unknown_type_is_reported(world: World, variant: Variant) -> None:
    for number in range(4):
        world.client(variant, node=f"n{number}").subscribe(UNKNOWN, "x")

    assert [event.node_id for event in world.hub.take_events()] == ["n0", "n1", "n2", "n3"]


def test_error_a_type_url_that_is_too_long_ends_the_stream(world: World, variant: Variant) -> None:
    too_long = TYPE_PREFIX + "a" * TYPE_URL_LENGTH_MAX
    (said,) = world.client(variant).subscribe(too_long)
    what = f"the type URL has {len(too_long)} characters, at most {TYPE_URL_LENGTH_MAX} are accepted"
    assert said == f"END INVALID_ARGUMENT: {what}: {too_long[:200]!r}"


@pytest.mark.parametrize("type_url", sorted(TYPES))
def test_error_none_for_any_type_of_the_schema(world: World, variant: Variant, type_url: str) -> None:
    world.publish(resource(type_url, "x"))
    assert world.client(variant).subscribe(type_url, "x") == [f"{TYPES[type_url]} #1 x@1"]


def test_error_no_type_url_on_an_aggregated_stream_is_invalid_argument(world: World, variant: Variant) -> None:
    (said,) = world.client(variant).subscribe("")
    assert said == "END INVALID_ARGUMENT: a request on an aggregated stream must carry a type_url"


@pytest.mark.parametrize("type_url", ["", CDS])
def test_error_type_url_of_a_per_type_stream_may_be_left_out(world: World, variant: Variant, type_url: str) -> None:
    world.publish(static("a"))
    client = world.client(variant, per_type=True)
    stream = client.stream(CDS, "")
    kind = wire.DeltaDiscoveryRequest if variant is DELTA else wire.DiscoveryRequest
    said = client.send(kind(node=client.node, type_url=type_url).SerializeToString(), stream)
    assert said == ["CDS #1 a@1"]


def test_error_another_type_on_a_per_type_stream_is_invalid_argument(world: World, variant: Variant) -> None:
    client = world.client(variant, per_type=True)
    stream = client.stream(CDS, "")
    kind = wire.DeltaDiscoveryRequest if variant is DELTA else wire.DiscoveryRequest
    (said,) = client.send(kind(node=client.node, type_url=EDS).SerializeToString(), stream)
    assert said == f"END INVALID_ARGUMENT: this service serves {CDS}, the request asks for {EDS}"


@pytest.mark.parametrize("node", [wire.Node(), wire.Node(cluster="c1")])
def test_error_no_node_is_invalid_argument(world: World, variant: Variant, node: wire.Node) -> None:
    said = world.client(variant).request(CDS, node=node)
    assert said == ["END INVALID_ARGUMENT: the first request of a stream must carry a node with an id"]


def test_error_different_node_later_is_invalid_argument(world: World, variant: Variant) -> None:
    client = world.client(variant)
    client.subscribe(CDS)
    (said,) = client.request(EDS, subscribe=["a"], node=wire.Node(id="other", cluster="c1"))
    assert said == "END INVALID_ARGUMENT: this stream is of node 'n1', a later request says 'other'"


def test_error_node_that_no_group_takes_is_served_the_default_group(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="prod", id="prod-*"),)))
    world.publish(static("d"))
    world.publish(static("p"), group="prod")
    assert world.client(variant, "n1").subscribe(CDS) == ["CDS #1 d@1"]
    assert world.client(variant, "prod-1").subscribe(CDS) == ["CDS #1 p@1"]


def test_error_node_that_no_group_takes_is_permission_denied_where_configured(
    make_world: MakeWorld, variant: Variant
) -> None:
    world = make_world(groups=DENY)
    world.publish(static("p"), group="prod")
    assert world.client(variant, "n1").subscribe(CDS) == ["END PERMISSION_DENIED: no group takes node 'n1'"]
    assert world.client(variant, "prod-1").subscribe(CDS) == ["CDS #1 p@1"]


def test_error_over_the_subscription_limit_is_resource_exhausted_naming_it(
    make_world: MakeWorld, variant: Variant
) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    (said,) = world.client(variant).subscribe(EDS, "a", "b", "c")
    assert said.startswith("END RESOURCE_EXHAUSTED: ")
    assert "subscriptions_max" in said


def test_error_growing_over_the_subscription_limit_is_resource_exhausted(
    make_world: MakeWorld, variant: Variant
) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(variant)
    client.subscribe(EDS, "a", "b")
    client.ack(EDS)
    (said,) = client.subscribe(EDS, "c")
    assert said.startswith("END RESOURCE_EXHAUSTED: ")


def test_error_locators_count_for_the_subscription_limit(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    (said,) = world.client(variant).request(EDS, subscribe=["a", "b", "c"], locators=True)
    assert said.startswith("END RESOURCE_EXHAUSTED: ")


def test_error_reporting_more_versions_than_the_limit_is_resource_exhausted(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    (said,) = world.client(DELTA).request(CDS, have={"a": "1", "b": "1", "c": "1"})
    assert said.startswith("END RESOURCE_EXHAUSTED: ")


def test_error_none_for_as_many_names_as_the_limit(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    world.publish(endpoints("a"), endpoints("b"))
    assert world.client(variant).subscribe(EDS, "a", "b") == ["EDS #1 a@1 b@1"]


def test_error_none_for_subscribing_again_at_the_limit(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(EDS, "a", "b")
    client.ack(EDS)
    assert client.subscribe(EDS, "a", "b") == ["EDS #2 a@1 b@1"]


def test_error_none_for_exchanging_names_at_the_limit(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    world.publish(endpoints("a"), endpoints("b"), endpoints("c"))
    client = world.client()
    client.subscribe(EDS, "a", "b")
    client.ack(EDS)
    assert client.request(EDS, subscribe=["c"], unsubscribe=["a"]) == ["EDS #2 c@1"]


# --- Memory that a client can use ---------------------------------------------------------------------------


def send_first(world: World, variant: Variant, node: wire.Node, **fields: object) -> None:
    kind = wire.DeltaDiscoveryRequest if variant is DELTA else wire.DiscoveryRequest
    request = kind(type_url=CDS, node=node, **fields)  # type: ignore[arg-type]
    world.hub.receive(world.hub.open(variant), request.SerializeToString(), 0.0)


def described(**metadata: str) -> bytes:
    found = struct_pb2.Struct()
    found.update(metadata)
    return found.SerializeToString()


@pytest.mark.parametrize("part", ["id", "cluster", "user_agent_name", "metadata"])
def test_error_node_over_the_limit_is_resource_exhausted_naming_it(
    make_world: MakeWorld, variant: Variant, part: str
) -> None:
    world = make_world(limits=Limits(node_bytes_max=1_000))
    large = {"id": "n", part: "x" * 1_000} if part != "metadata" else {"id": "n", part: described(a="x" * 1_000)}
    with pytest.raises(StreamRefusedError, match=r"the node has 1\d{3} bytes, .* \(node_bytes_max\)") as refused:
        send_first(world, variant, wire.Node(**large))  # type: ignore[arg-type]
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


def test_error_node_is_measured_with_what_this_server_does_not_read(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(node_bytes_max=1_000))
    extension = b"\x4a" + (100).to_bytes(1, "big") + bytes(100)  # field 9, extensions
    node = wire.Node.FromString(wire.Node(id="n").SerializeToString() + 10 * extension)
    with pytest.raises(StreamRefusedError, match="node_bytes_max"):
        send_first(world, DELTA, node)


def test_error_node_over_the_limit_is_not_converted(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.protocol.requests.MessageToDict", lambda _: pytest.fail("converted"))
    world = make_world(limits=Limits(node_bytes_max=1_000))
    with pytest.raises(StreamRefusedError):
        send_first(world, DELTA, wire.Node(id="n", metadata=described(a="x" * 1_000)))


def test_error_node_over_the_limit_in_a_later_request(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(limits=Limits(node_bytes_max=1_000))
    client = world.client(variant)
    client.subscribe(CDS)
    node = wire.Node(id=client.node.id, cluster=client.node.cluster, metadata=described(a="x" * 1_000))
    (said,) = client.request(SDS, node=node)
    assert said.startswith("END RESOURCE_EXHAUSTED: the node has ")


def test_error_metadata_that_is_no_struct_is_invalid_argument(world: World, variant: Variant) -> None:
    with pytest.raises(StreamRefusedError, match=r"node\.metadata can't be read") as refused:
        send_first(world, variant, wire.Node(id="n", metadata=b"\xff"))
    assert refused.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "field",
    ["node", "subscribe", "unsubscribe", "initial_resource_versions", "locators_subscribe", "locators_unsubscribe"],
)
def test_error_of_a_large_request_is_found_before_it_is_read(
    world: World, variant: Variant, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xds.protocol.hub.decode", lambda *_: pytest.fail("read"))
    data = wire.DeltaDiscoveryRequest() if variant is DELTA else wire.DiscoveryRequest()
    data.node.id = "n" * (600_000 if field == "node" else 1)
    names = [f"name-{number}" for number in range(100_001)]
    sotw = {"subscribe": "resource_names", "locators_subscribe": "resource_locators"}
    if variant is SOTW and field != "node" and field not in sotw:
        pytest.skip("SotW has no such field")
    if field == "initial_resource_versions":
        data.initial_resource_versions.update(dict.fromkeys(names, "1"))
    elif field.startswith("locators"):
        locators = getattr(data, f"resource_{field}" if variant is DELTA else sotw[field])
        locators.extend(wire.ResourceLocator(name=name) for name in names)
    elif field != "node":
        getattr(data, f"resource_names_{field}" if variant is DELTA else sotw[field]).extend(names)
    with pytest.raises(StreamRefusedError, match=r"node_bytes_max|not 100001 of a type") as refused:
        world.hub.receive(world.hub.open(variant), data.SerializeToString(), 0.0)
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


def test_error_of_a_large_malformed_request_says_what_is_wrong(world: World, variant: Variant) -> None:
    with pytest.raises(StreamRefusedError, match="that are no D") as refused:
        world.hub.receive(world.hub.open(variant), b"\xff" * 600_000, 0.0)
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_a_large_request_within_the_limits_is_served(world: World, variant: Variant) -> None:
    world.publish(resource(SDS, "s"))
    names = [f"{number}-" + "x" * 100 for number in range(6_000)]
    said = world.client(variant).subscribe(SDS, "s", *names)
    assert said[0].startswith("SDS #1 s@1")


def test_error_unsubscribing_from_more_names_than_the_limit_is_resource_exhausted(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    client = world.client()
    client.subscribe(SDS)
    (said,) = client.request(SDS, unsubscribe=["a", "b", "c"])
    assert said.startswith(
        "END RESOURCE_EXHAUSTED: a stream may unsubscribe from 2 names of a type (subscriptions_max)"
    )


def test_error_answers_due_for_names_that_never_existed_are_bounded(make_world: MakeWorld) -> None:
    """With the wildcard subscribed, each name that a client unsubscribes from requires an answer, also without ACKs."""
    world = make_world(limits=Limits(subscriptions_max=3))
    world.publish(resource(SDS, "s"))
    client = world.client()
    assert client.subscribe(SDS) == ["SDS #1 s@1"]
    said: list[str] = []
    for number in range(20):
        said = said or client.request(SDS, unsubscribe=[f"{number}-a", f"{number}-b"])
    assert said[0].startswith("END RESOURCE_EXHAUSTED: a stream may ask for 6 names of a type (subscriptions_max)")


def test_error_none_for_exchanging_all_names_while_the_wildcard_holds(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(subscriptions_max=2))
    client = world.client()
    client.subscribe(SDS)
    client.ack_all()
    client.request(SDS, subscribe=["a", "b"])
    client.ack_all()
    assert client.request(SDS, subscribe=["c", "d"], unsubscribe=["a", "b"]) == ["SDS #3 -a -b -c -d"]


@pytest.mark.parametrize("way", ["subscribed", "requested", "reported", "SotW"])
def test_error_names_that_take_more_bytes_than_the_limit_are_resource_exhausted(
    make_world: MakeWorld, way: str
) -> None:
    world = make_world(limits=Limits(names_bytes_max=1_000_000))
    client = world.client(SOTW if way == "SotW" else DELTA)
    client.subscribe(SDS)
    client.ack_all()
    said = [""]
    for number in range(20):
        name = f"{number}" + "x" * 100_000
        if way == "reported":
            said += client.request(list(TYPES)[1 + number % 5], have={f"{name}-{index}": "1" for index in range(5)})
        elif way == "requested":
            said += client.request(SDS, unsubscribe=[name])
        else:
            said += client.request(SDS, subscribe=[name])
        if said[-1].startswith("END"):
            break
        if way != "requested":  # required names are kept while a response is not ACKed
            client.ack_all()
    assert said[-1].startswith("END RESOURCE_EXHAUSTED: the names of this stream take "), said


def test_error_none_for_names_that_come_and_go(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(names_bytes_max=1_000_000))
    client = world.client()
    client.subscribe(EDS, "a")
    for number in range(100):
        name = f"{number}" + "x" * 100_000
        client.request(EDS, subscribe=[name])
        client.ack_all()
        client.request(EDS, unsubscribe=[name])
        client.ack_all()


def test_versions_that_closed_streams_reported_take_no_more_than_the_caches_may(world: World) -> None:
    world.hub.response_cache.bytes_max = world.hub.step_cache.bytes_max = world.hub._large._bytes_max = 1_000_000
    for number in range(50):
        stream = world.hub.open(DELTA)
        request = wire.DeltaDiscoveryRequest(type_url=SDS, node=wire.Node(id=f"n{number}"))
        request.initial_resource_versions[f"{number}-" + "x" * 100_000] = "1"
        world.hub.receive(stream, request.SerializeToString(), 0.0)
        world.hub.take_ready()
        assert world.hub.poll(stream, 0.0) is not None
        world.hub.close(stream)
    assert len(world.hub._interned.initial_versions) <= 5


def test_a_request_that_is_refused_is_not_kept(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(subscriptions_max=10))
    client = world.client()
    client.request(CDS, have={f"n{number}": "1" for number in range(11)})
    assert not world.hub._large.bytes_kept


def test_error_detail_is_cut_when_it_is_read(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS, "x" * 100_000)
    (stream,) = world.hub.streams
    assert stream.session is not None
    rejection = stream.session.rejections_of(stream.states[CDS].kind)[0]
    assert rejection.message == "x" * 4_096 + "… (100000 characters)"


def test_error_over_the_limit_of_types_is_resource_exhausted_naming_it(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(limits=Limits(types_max=2))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(SDS, "s")
    (said,) = client.subscribe(RDS, "r")
    assert said == "END RESOURCE_EXHAUSTED: a stream may use 2 types (types_max)"


def test_error_stream_refused_at_its_first_request_leaves_nothing_behind(world: World, variant: Variant) -> None:
    client = world.client(variant, per_type=True)
    client.request(CDS, node=wire.Node())
    client.subscribe(TYPE_PREFIX + "a" * TYPE_URL_LENGTH_MAX)
    hub = world.hub
    assert (len(hub.streams), len(hub._sessions), hub.counters.streams_opened, hub.counters.streams_closed) == (
        0,
        0,
        2,
        2,
    )


def test_error_closing_a_stream_twice_is_harmless(world: World) -> None:
    stream = world.hub.open(DELTA)
    world.hub.close(stream)
    world.hub.close(stream)
    assert (world.hub.counters.streams_opened, world.hub.counters.streams_closed) == (1, 1)


def test_error_stream_without_a_request_has_nothing_to_say(world: World) -> None:
    assert world.hub.poll(world.hub.open(SOTW), world.now) is None


def test_error_statuses_are_those_of_grpc() -> None:
    assert {status.name: status.value for status in Status} == {
        "OK": 0, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5,
            "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "UNIMPLEMENTED": 12,
        "INTERNAL": 13, "UNAVAILABLE": 14, "UNAUTHENTICATED": 16,
    }  # fmt: skip


def test_error_metadata_that_is_no_json_is_invalid_argument(world: World) -> None:
    stream = world.hub.open(Variant.DELTA)
    request = wire.DeltaDiscoveryRequest(type_url=CDS, node=wire.Node(id="n"))
    described = struct_pb2.Struct()
    described["load"] = float("nan")
    request.node.metadata = described.SerializeToString()
    with pytest.raises(StreamRefusedError, match=r"node\.metadata can't be read") as refused:
        world.hub.receive(stream, request.SerializeToString(), 0.0)
    assert refused.value.status is Status.INVALID_ARGUMENT
