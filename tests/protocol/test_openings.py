"""First requests are read once for a whole fleet, and come to what they would by themselves."""

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Resource
from xds.model.types import SECRET
from xds.protocol.hub import Hub
from xds.protocol.openings import ALIKE_MAX, ENTRY_BYTES, FIELD_BYTES, VIEWS_MAX, Openings
from xds.protocol.plain_acks import end_of_node
from xds.protocol.requests import CHANGES_MAX
from xds.protocol.response import Part
from xds.protocol.state import Variant
from xds.protocol.stream import Stream
from xds.protocol.watchers import IDLE_BYTES_MAX, IDLE_MAX

NAMES = [f"cluster-{number}-{'x' * 20}" for number in range(60)]


def assignment(name: str, version: str) -> Resource:
    return Resource(type_url=SECRET, name=name, version=version, encoded=f"{name}@{version}".encode())


def opening(node: str, **more: object) -> bytes:
    fields: dict[str, object] = {"resource_names_subscribe": NAMES, "node": wire.Node(id=node), **more}
    return wire.DeltaDiscoveryRequest(type_url=SECRET, **fields).SerializeToString()  # type: ignore[arg-type]


class Served:
    """A hub with an assignment for every name."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.hub = Hub(self.catalog, knows_type=lambda _: True)
        self.change(*(assignment(name, "1") for name in NAMES))

    def change(self, *resources: Resource) -> None:
        self.hub.publish(self.catalog.apply(Changeset(upserts={"default": resources})))

    def open(self, data: bytes) -> tuple[Stream, Part | None]:
        stream = self.hub.open(Variant.DELTA)
        self.hub.receive(stream, data, 0.0)
        return stream, self.hub.poll(stream, 0.0)


def read(openings: Openings, data: bytes, variant: Variant = Variant.DELTA):
    request, found = openings.read(variant, data, end_of_node(data))
    if found is not None and not found.kept:
        openings.keep(found)
    return request, found


def test_a_fleet_that_opens_alike_is_sent_the_same_part():
    served = Served()
    streams = [served.open(opening(f"node-{number}")) for number in range(3)]
    parts = [part for _, part in streams]
    assert parts[0] is not None
    assert parts[0] is parts[1] is parts[2]
    assert len(parts[0].upserts) == len(NAMES)
    assert [stream.session.node.id for stream, _ in streams if stream.session] == ["node-0", "node-1", "node-2"]


def test_versions_are_compared_with_what_is_served_when_they_are_claimed():
    served = Served()
    claimed = {"initial_resource_versions": dict.fromkeys(NAMES, "1")}
    assert served.open(opening("a", **claimed))[1] is None
    assert served.open(opening("b", **claimed))[1] is None
    served.change(assignment(NAMES[0], "2"))
    for node in ("c", "d"):
        part = served.open(opening(node, **claimed))[1]
        assert part is not None
        assert [(resource.name, resource.version) for resource in part.upserts] == [(NAMES[0], "2")]


def test_of_so_many_views_what_a_claim_comes_to_is_remembered():
    served = Served()
    for version in range(2, 2 * VIEWS_MAX):
        assert served.open(opening("a"))[1] is not None
        served.change(assignment(NAMES[0], str(version)))
    ((known,),) = served.hub._openings._known.values()
    assert len(known.begun) == VIEWS_MAX


def test_what_a_node_rejected_before_is_sent_whatever_it_claims():
    served = Served()
    stream, part = served.open(opening("a"))
    assert part is not None
    nack = wire.DeltaDiscoveryRequest(
        type_url=SECRET, response_nonce=part.nonce, error_detail=wire.Status(code=13, message="no")
    )
    served.hub.receive(stream, nack.SerializeToString(), 0.0)
    served.hub.close(stream)
    claimed = {"initial_resource_versions": dict.fromkeys(NAMES, "1")}
    assert served.open(opening("b", **claimed))[1] is None
    again = served.open(opening("a", **claimed))[1]
    assert again is not None
    assert len(again.upserts) == len(NAMES)


def test_sotw_requests_and_later_ones_are_no_openings():
    openings = Openings()
    sotw = wire.DiscoveryRequest(type_url=SECRET, resource_names=NAMES).SerializeToString()
    assert read(openings, sotw, Variant.SOTW)[1] is None
    assert read(openings, opening("a", response_nonce="1"))[1] is None
    assert not openings._known


def test_a_node_that_does_not_come_first_is_read_all_the_same():
    data = opening("a")
    end = end_of_node(data)
    request, found = read(Openings(), data[end:] + data[:end])
    assert found is None
    assert request.node.id == "a"


def test_openings_are_bounded_by_their_bytes():
    data = [opening("a", resource_names_subscribe=[*NAMES, str(number)]) for number in range(4)]
    plains = [one[end_of_node(one) :] for one in data]
    each_bytes = 2 * len(plains[0]) + ENTRY_BYTES + FIELD_BYTES * (len(NAMES) + 1)
    openings = Openings(bytes_max=2 * each_bytes)
    for one in (data[0], data[1], data[0], data[2]):
        assert read(openings, one)[1] is not None
    assert [opening.data for alike in openings._known.values() for opening in alike] == [plains[0], plains[2]]
    alone = Openings(bytes_max=1)
    alike = [opening("a", resource_names_subscribe=[first, *NAMES]) for first in ("one", "two")]
    for one in (data[0], *alike, data[0]):
        found = read(alone, one)[1]
        assert found is not None
        assert list(alone._known.values()) == [[found]]
        assert alone._bytes == found.size_bytes


def test_openings_that_are_equally_long_and_end_alike_are_told_apart():
    names = [[f"{number:02}-first", *NAMES] for number in range(ALIKE_MAX + 1)]
    openings = Openings()
    for _ in range(2):
        for each in names[:ALIKE_MAX]:
            request, found = read(openings, opening("a", resource_names_subscribe=each))
            assert found is not None
            assert request.node.id == "a"
            assert list(found.request.resource_names_subscribe) == each
    (alike,) = openings._known.values()
    assert len({each.data for each in alike}) == len(alike) == ALIKE_MAX
    read(openings, opening("a", resource_names_subscribe=names[-1]))
    assert [each.request.resource_names_subscribe[0] for each in alike] == [each[0] for each in names[1:]]
    assert openings._bytes == ALIKE_MAX * alike[0].size_bytes


def test_what_names_make_of_a_subscription_is_worked_out_once_for_a_fleet():
    served = Served()
    streams = []
    for number in range(3):
        stream, part = served.open(opening(f"node-{number}", resource_names_subscribe=NAMES[:30]))
        assert part is not None
        ack = wire.DeltaDiscoveryRequest(type_url=SECRET, response_nonce=part.nonce)
        served.hub.receive(stream, ack.SerializeToString(), 0.0)
        more = wire.DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=NAMES[30:])
        served.hub.receive(stream, more.SerializeToString(), 0.0)
        streams.append(stream)
    states = [stream.states[SECRET] for stream in streams]
    assert states[0].interest is states[1].interest is states[2].interest
    parts = [served.hub.poll(stream, 0.0) for stream in streams]
    assert parts[0] is not None
    assert parts[0] is parts[1] is parts[2]
    assert [resource.name for resource in parts[0].upserts] == sorted(NAMES[30:])


def test_of_so_many_subscriptions_what_names_make_of_them_is_remembered():
    served = Served()
    more = wire.DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=NAMES[30:]).SerializeToString()
    for number in range(CHANGES_MAX + 2):
        stream, _ = served.open(opening("a", resource_names_subscribe=NAMES[:number]))
        served.hub.receive(stream, more, 0.0)
        assert stream.states[SECRET].interest.names == {*NAMES[:number], *NAMES[30:]}
    known = [each for alike in served.hub._openings._known.values() for each in alike if each.changes]
    assert [len(each.changes) for each in known] == [CHANGES_MAX]


def test_a_subscription_that_every_stream_left_is_forgotten_after_a_while():
    served = Served()
    keeper, _ = served.open(opening("keeper"))
    for number in range(2 * IDLE_MAX):
        stream, part = served.open(opening("a", resource_names_subscribe=[*NAMES[:1], f"none-{number}"]))
        assert part is not None
        served.hub.close(stream)
    watchers = served.hub._watchers._watchers["default", SECRET]
    assert len(watchers._streams) == IDLE_MAX + 1
    assert f"none-{2 * IDLE_MAX - 1}" in watchers._by_name
    assert "none-0" not in watchers._by_name
    again, _ = served.open(opening("a", resource_names_subscribe=[*NAMES[:1], f"none-{2 * IDLE_MAX - 1}"]))
    assert again in set(watchers.affected(NAMES[:1]))
    served.hub.close(again)
    served.hub.close(keeper)
    assert ("default", SECRET) not in served.hub._watchers._watchers


def test_subscriptions_that_nobody_has_any_more_are_bounded_in_bytes():
    served = Served()
    kept, _ = served.open(opening("a", resource_names_subscribe=NAMES))
    for number in range(IDLE_MAX):
        names = [f"{number}-{index}" + "x" * 100_000 for index in range(5)]
        stream, _ = served.open(opening("a", resource_names_subscribe=names))
        served.hub.close(stream)
    watchers = served.hub._watchers._watchers["default", SECRET]
    assert sum(interest.names_bytes for interest in watchers._idle) == watchers._idle_bytes <= IDLE_BYTES_MAX
    assert len(watchers._idle) == IDLE_BYTES_MAX // (5 * 100_200)
    served.hub.close(kept)
