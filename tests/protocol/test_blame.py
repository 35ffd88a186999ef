"""What the words of a NACK say of the resources at fault. See docs/envoy-behaviour.md#rejected-responses.

The messages of ``ENVOY`` are those of a real Envoy 1.40 (tests/envoy/test_nacks.py gets them anew).
"""

import time

import pytest
from support.encoded import CDS, static
from support.hubs import SOTW, Client, World

from xds.protocol.blame import BLAMED_MAX, BlamedBy, blame_in, named_in, rejected_text
from xds.protocol.policy import Variant
from xds.protocol.status import NodesQuery, TypeSummary, nodes_page
from xds.protocol.type_state import REJECTIONS_MAX, Rejection, with_rejection

UNKNOWN_FILTER = (
    "Didn't find a registered network or http filter or protocol options implementation for name: 'no.such'"
)
CLASH = "error adding listener: '{0}' has duplicate address '127.0.0.1:19682' as existing listener, to check if"
BROKEN = (
    ": Proto constraint validation failed (ClusterValidationError.OutlierDetection: embedded message failed validation)"
)

ENVOY: dict[str, tuple[str, set[str], tuple[str, ...]]] = {
    "a cluster": (f"Error adding/updating cluster(s) bad: {UNKNOWN_FILTER}", {"bad", "good"}, ("bad",)),
    "two clusters": (
        f"Error adding/updating cluster(s) b3: {UNKNOWN_FILTER}, b4: {UNKNOWN_FILTER}",
        {"b2", "b3", "b4", "good"},
        ("b3", "b4"),
    ),
    "a cluster with commas and colons in its name": (
        f"Error adding/updating cluster(s) a, b: (c) 'd': {UNKNOWN_FILTER}",
        {"a, b: (c) 'd'", "b3", "good"},
        ("a, b: (c) 'd'",),
    ),
    "two listeners": (
        f"Error adding/updating listener(s) lx1: {CLASH.format('lx1')}\nlx2: {CLASH.format('lx2')}\n",
        {"lx1", "lx2", "lz"},
        ("lx1", "lx2"),
    ),
    "a broken rule": (
        'goo.gle/debugstr   \nname: "b6"\ntype: EDS\neds_cluster_config {\n  service_name: "x"\n}\n' + BROKEN,
        {"b5", "b6", "good", "x"},
        ("b6",),
    ),
    "a broken rule of endpoints": (
        'goo.gle/debugproto \ncluster_name: "a"\nendpoints {\n  locality {\n    region: "r"\n  }\n}\n' + BROKEN,
        {"a", "r"},
        ("a",),
    ),
    "a broken rule, of a name with quotes and letters beyond ASCII": (
        'goo.gle/debugstr \nname: "a\\"b\\303\\251\\n"\n' + BROKEN,
        {'a"bé\n', "good"},
        ('a"bé\n',),
    ),
    "a domain twice": ("Only a single wildcard domain is permitted in route r1", {"r1", "r2"}, ("r1",)),
    "a duration": ("Invalid duration: Expected positive duration: goo.gle/debugstr   \nseconds: -1\n", {"a", "b"}, ()),
    "a regular expression": ("regex 'a{1000}' RE2 program size of 1004 > max program size of 100", {"a", "r2"}, ()),
    "endpoints": ("Cluster drop_overloads config has 2 categories. Envoy only support one.", {"a", "b"}, ()),
    "an address": ("malformed IP address: not-an-ip. Consider setting resolver_name", {"a", "not-an-ip"}, ()),
    "a certificate": (
        "Failed to load certificate chain from <inline>, only RSA certificates with 2048-bit",
        {"s1", "s"},
        (),
    ),
    "gRPC": (
        "xDS response validation errors: [resource index 0: bad: INVALID_ARGUMENT: no]",
        {"bad", "good"},
        ("bad",),
    ),
}


@pytest.mark.parametrize("case", ENVOY)
def test_envoys_words_name_the_resources_at_fault_or_none(case: str) -> None:
    message, names, blamed = ENVOY[case]
    assert named_in(message, names) == blamed


HOSTILE: dict[str, tuple[str, set[str], tuple[str, ...]]] = {
    "a name of another response": ("Error adding/updating cluster(s) other: no", {"a", "b"}, ()),
    "a name in the reason": ("Error adding/updating cluster(s) a: unknown cluster 'b'", {"a", "b"}, ("a",)),
    "words that are names": ("the a b", {"a", "b", "the"}, ()),
    "nothing": ("", {"a", ""}, ()),
    "a dump without an end": ('goo.gle/debugstr\nname: "a', {"a", "b"}, ()),
    "a name that is indented": ('goo.gle/debugstr\nx {\n  name: "a"\n}\n', {"a", "b"}, ()),
    "half an escape": ('goo.gle/debugstr\nname: "\\777\\303"\n', {"a", "\udcff"}, ()),
    "NUL and bidi": ("Error adding/updating cluster(s) \0\u202e: no", {"\0\u202e", "b"}, ("\0\u202e",)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_message_names_nothing_that_was_not_in_the_response(case: str) -> None:
    message, names, blamed = HOSTILE[case]
    assert named_in(message, names) == blamed


@pytest.mark.parametrize(
    "filling", [", : ", ": ", "a: , ", "\n", "goo.gle/debug\n", " in route ", "resource index 1: "]
)
@pytest.mark.parametrize("start", ["", "Error adding/updating cluster(s) ", "goo.gle/debugstr\n"])
def test_a_long_message_costs_little_however_many_names_there_are(start: str, filling: str) -> None:
    names = {f"name-{number}": "v" for number in range(50_000)}
    message = (start + filling * 4_096)[:4_096]
    begun = time.process_time()
    assert blame_in(message, names) == ((), BlamedBy.UNKNOWN)
    assert time.process_time() - begun < 0.5


def test_at_most_so_many_names_are_blamed() -> None:
    names = {f"c{number:03}" for number in range(100)}
    message = "Error adding/updating cluster(s) " + ", ".join(f"{name}: no" for name in sorted(names))
    assert named_in(message, names) == tuple(sorted(names))[:BLAMED_MAX]


def test_the_only_resource_of_a_response_is_to_blame_whatever_the_message_says() -> None:
    assert blame_in("no", {"a": "1"}) == (("a",), BlamedBy.ONLY)
    assert blame_in("no", {"a": "1", "b": ""}) == ((), BlamedBy.UNKNOWN)


@pytest.mark.parametrize(
    ("nacked", "blamed", "by", "text"),
    [
        (["a", "b"], ["b"], BlamedBy.CLIENT, "b"),
        (["a", "b"], ["b"], BlamedBy.JUDGE, "b (an Envoy that was asked refuses it)"),
        (["a"], [], BlamedBy.UNKNOWN, "a"),
        (["a", "b", "c", "d", "e"], [], BlamedBy.UNKNOWN, "a, b, c and 2 more (which of them is not known)"),
    ],
)
def test_operators_are_told_what_is_to_blame_and_how_that_is_known(nacked, blamed, by, text) -> None:
    assert rejected_text(nacked, blamed, by) == text


def summary(world: World, type_url: str = CDS) -> TypeSummary:
    (node,) = nodes_page(world.hub.streams, NodesQuery(), world.now).nodes
    return next(each for each in node.types if each.type_url == type_url)


def rejecting(world: World, variant: Variant, message: str) -> Client:
    world.publish(static("a"), static("b"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS, message)
    return client


def test_the_summary_of_a_node_says_what_is_to_blame(world: World, variant: Variant) -> None:
    client = rejecting(world, variant, "Error adding/updating cluster(s) b: no")
    told = summary(world)
    assert (told.nacked, told.blamed, told.blamed_by) == (("a", "b"), ("b",), BlamedBy.CLIENT)
    assert len(bytes.fromhex(told.rejected_key)) == 16
    world.publish(static("a", 2), static("b", 2))
    client.ack_all()
    told = summary(world)
    assert (told.nacked, told.blamed, told.blamed_by, told.rejected_key) == ((), (), BlamedBy.UNKNOWN, "")


def nack(client: Client, name: str) -> None:
    client.nack(CDS, f"Error adding/updating cluster(s) {name}: {name} is bad")


def test_each_resource_that_is_still_rejected_is_to_blame_and_none_that_was_mended(
    world: World, variant: Variant
) -> None:
    client = world.client(variant)
    world.publish(static("a"), static("b"))
    client.subscribe(CDS)
    client.ack_all()
    world.publish(static("a", 2))
    nack(client, "a")
    world.publish(static("b", 2))
    nack(client, "b" if variant is Variant.DELTA else "a")
    told = summary(world)
    if variant is Variant.DELTA:  # a response of SotW has all clusters, and the last one is rejected as a whole
        assert (told.blamed, told.blamed_by) == (("a", "b"), BlamedBy.CLIENT)
        assert (told.versions, told.error.count("is bad")) == ({"a": "2", "b": "2"}, 2)
        world.publish(static("b", 3))
        client.ack_all()
        told = summary(world)
    assert ("a" in told.nacked, told.blamed, told.blamed_by) == (True, ("a",), BlamedBy.CLIENT)
    assert told.error == "Error adding/updating cluster(s) a: a is bad"
    world.publish(static("a", 4))
    client.ack_all()
    assert (summary(world).nacked, summary(world).error, summary(world).blamed) == ((), "", ())


def test_what_is_left_of_a_rejected_response_is_to_blame(world: World) -> None:
    client = rejecting(world, Variant.DELTA, "one of them is odd")
    assert (summary(world).blamed, summary(world).blamed_by) == ((), BlamedBy.UNKNOWN)
    world.publish(static("a", 2))
    client.ack_all()
    assert (summary(world).nacked, summary(world).blamed, summary(world).blamed_by) == (("b",), ("b",), BlamedBy.ONLY)


def test_only_so_many_rejections_are_kept_and_none_that_a_later_one_contains() -> None:
    kept: tuple[Rejection, ...] = ()
    for number in range(REJECTIONS_MAX + 3):
        kept = with_rejection(kept, Rejection(str(number), "odd", {f"n{number}": "1"}))
    assert [each.nonce for each in kept] == [str(number) for number in range(REJECTIONS_MAX + 2, 2, -1)]
    every = Rejection("all", "odd", {name: "2" for each in kept for name in each.versions})
    assert with_rejection(kept, every) == (every,)
    assert with_rejection((every,), Rejection("again", "odd", every.versions))[1:] == ()


def test_equal_rejected_content_has_an_equal_key_in_every_process() -> None:
    keys = []
    for variant in (Variant.DELTA, SOTW, Variant.DELTA):
        world = World()
        rejecting(world, variant, "no")
        keys.append(summary(world).rejected_key)
    assert len(set(keys)) == 1
    other = World()
    other.publish(static("a"), static("b", 2))
    client = other.client()
    client.subscribe(CDS)
    client.nack(CDS)
    assert summary(other).rejected_key != keys[0]
