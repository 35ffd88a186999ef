import pytest
from fleet.build import assignment, cluster, delta, sotw

from xds._generated import xds_wire_pb2 as wire
from xds.fleet.content import BoundedCache, MalformedError, Parser
from xds.model.types import CLUSTER, ENDPOINTS


def test_equal_messages_are_one_object_and_so_is_equal_content_under_other_nonces() -> None:
    parser = Parser(sotw=False)
    first = parser.message(delta(CLUSTER, {"a": ("1", cluster("a"))}, nonce="n1"))
    again = parser.message(delta(CLUSTER, {"a": ("1", cluster("a"))}, nonce="n1"))
    other = parser.message(delta(CLUSTER, {"a": ("1", cluster("a"))}, nonce="a-much-longer-nonce"))
    assert again is first
    assert (other.content is first.content, first.nonce, other.nonce) == (True, "n1", "a-much-longer-nonce")
    changed = parser.message(delta(CLUSTER, {"a": ("2", cluster("a"))}, nonce="n1"))
    assert changed.content is not first.content


def test_a_nonce_that_stands_elsewhere_in_the_message_too_makes_no_two_contents_one() -> None:
    parser = Parser(sotw=False)
    # Removed names that contain the bytes of the nonce's field: the bytes cut out are then not the nonce itself.
    names = ["x", "*\x011", "*\x012"]
    contents = {
        parser.message(delta(ENDPOINTS, removed=[name], nonce=nonce)).content: (name, nonce)
        for name in names
        for nonce in ("1", "2")
    }
    for content, (name, _) in contents.items():
        assert content.removed == (name,)


def test_the_digest_covers_name_version_and_content() -> None:
    parser = Parser(sotw=False)

    def digest(name: str, version: str, port: int) -> int:
        (only,) = parser.message(delta(ENDPOINTS, {name: (version, assignment(name, port))})).content.added
        return only[1].digest

    assert digest("a", "1", 80) == digest("a", "1", 80)
    assert len({digest("a", "1", 80), digest("a", "2", 80), digest("a", "1", 81), digest("b", "1", 80)}) == 4


def test_an_ack_names_type_and_nonce_and_a_nack_says_why() -> None:
    message = Parser(sotw=False).message(delta(CLUSTER, {"a": ("1", cluster("a"))}, nonce="n"))
    assert message.ack is not None
    ack = wire.DeltaDiscoveryRequest.FromString(message.ack.data[5:])
    nack = wire.DeltaDiscoveryRequest.FromString(message.nack("no").data[5:])
    assert (ack.type_url, ack.response_nonce, ack.HasField("error_detail")) == (CLUSTER, "n", False)
    assert (nack.response_nonce, nack.error_detail.message) == ("n", "no")


def test_sotw_names_are_read_from_the_resources_wrapped_or_not() -> None:
    from google.protobuf import any_pb2

    wrapped = wire.Resource(name="b", version="7", resource=any_pb2.Any(type_url=CLUSTER, value=cluster("b")))
    response = wire.DiscoveryResponse.FromString(sotw(CLUSTER, [cluster("a")]))
    url = "type.googleapis.com/envoy.service.discovery.v3.Resource"
    response.resources.append(any_pb2.Any(type_url=url, value=wrapped.SerializeToString()).SerializeToString())
    content = Parser(sotw=True).message(response.SerializeToString()).content
    assert [(name, held.version, held.names) for name, held in content.added] == [("a", "", ("a",)), ("b", "7", ("b",))]


@pytest.mark.parametrize("encoded", [b"\xff\xff", b"\x12\x03\x0a\xff\x01", delta(CLUSTER, {"a": ("1", b"\x0a\xff")})])
def test_what_is_no_response_is_refused(encoded: bytes) -> None:
    with pytest.raises(MalformedError, match="no discovery response"):
        Parser(sotw=False).message(encoded)


def test_a_cache_is_emptied_before_it_is_too_large() -> None:
    cache = BoundedCache(bytes_max=10_000)
    for number in range(1_000):
        cache.keep(number, "value", 100)
        assert len(cache) * 600 <= 10_000
        assert cache[number] == "value"


@pytest.mark.parametrize("key_bytes_max", [1, 1 << 20])
def test_equal_resources_in_another_order_are_equal_content(
    key_bytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xds.fleet.content.KEY_BYTES_MAX", key_bytes_max)
    parser = Parser(sotw=False)
    resources = {f"c{n}": ("1", cluster(f"c{n}")) for n in range(9)}
    first = parser.message(delta(CLUSTER, resources, nonce="1"))
    other = parser.message(delta(CLUSTER, dict(reversed(resources.items())), nonce="22"))
    assert (other.content is first.content, first.nonce, other.nonce) == (True, "1", "22")
    assert dict(first.content.added).keys() == resources.keys()
    fewer = parser.message(delta(CLUSTER, dict(list(resources.items())[1:]), nonce="1"))
    assert fewer.content is not first.content


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    parser = Parser(sotw=True)
    one, two = assignment("a", 1), assignment("a", 2)
    contents = [parser.message(sotw(ENDPOINTS, bodies)).content for bodies in ([one, two], [two, one])]
    assert contents[0] is not contents[1]
    assert dict(contents[0].added)["a"].digest != dict(contents[1].added)["a"].digest


def test_a_large_message_is_known_by_comparing_it_with_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.fleet.content.KEY_BYTES_MAX", 4_096)
    parser = Parser(sotw=False)
    encoded, other = (
        delta(CLUSTER, {f"cluster-{n}": (version, cluster(f"cluster-{n}")) for n in range(300)}) for version in "12"
    )
    assert len(encoded) == len(other) > 4_096
    first = parser.message(encoded)
    assert parser.message(bytes(bytearray(encoded))) is first
    parser.message(other)
    assert parser.message(encoded) is not first, "it is not kept beside the latest"
