"""First requests are read once for a whole fleet, and come to what they would by themselves."""

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Resource
from xds.model.types import SECRET
from xds.protocol.hub import Hub
from xds.protocol.openings import ENTRY_BYTES, VIEWS_MAX, Openings
from xds.protocol.plain_acks import split_node
from xds.protocol.response import Part
from xds.protocol.state import Variant
from xds.protocol.stream import Stream

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
    return openings.read(variant, data, *split_node(data))


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
    (known,) = served.hub._openings._known.values()
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
    node, plain = split_node(data)
    request, found = read(Openings(), plain + node)
    assert found is None
    assert request.node.id == "a"


def test_openings_are_bounded_by_their_bytes():
    data = [opening("a", resource_names_subscribe=[*NAMES, str(number)]) for number in range(4)]
    each_bytes = 2 * len(split_node(data[0])[1]) + ENTRY_BYTES
    openings = Openings(bytes_max=2 * each_bytes)
    for one in (data[0], data[1], data[0], data[2]):
        assert read(openings, one)[1] is not None
    assert list(openings._known) == [split_node(data[0])[1], split_node(data[2])[1]]
    alone = Openings(bytes_max=1)
    assert read(alone, data[0])[1] is not None
    assert len(alone._known) == 1
