"""The ladder's server does what its rungs say, with what it remembers and without; each rung serves a real fleet."""

import asyncio
import dis
import random
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from support import resources as r
from support.pki import Authority
from support.wire import DeltaClient

from bench.compare.fleet import Load, MeasureError, drive_whole
from bench.compare.results import Figures
from bench.compare.results import load as load_results
from bench.compare.servers import Resources
from bench.in_turns.rows import FANOUTS
from bench.ladder import folding, switches
from bench.ladder.__main__ import everyone, in_turns, measure, one_round, write
from bench.ladder.participants import PRODUCT, PRODUCT_TLS, Participant, ladder, way
from bench.ladder.program import connection as program
from bench.ladder.program.connection import CHORES, CLOSED_TICKS, HOLD_TICKS, QUIET_TICKS, Connection
from bench.ladder.program.content import ASSIGNMENTS, CLUSTERS, ROUTES, TYPES, Group, Resource
from bench.ladder.program.hub import Change, Hub
from bench.ladder.program.tls import TlsConnection, context
from bench.ladder.program.values import Memory
from bench.ladder.program.wire import PATH, LongKey, frames, without_node
from bench.ladder.rungs import LAST, RUNGS, switches_of
from bench.ladder.table import render
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node
from xds.fleet.wire import fields, length_field
from xds.transport.http2 import frames as h2
from xds.transport.http2.grpc import framed
from xds.transport.http2.headers import encode

HEAD = h2.frame(
    h2.HEADERS,
    h2.END_HEADERS,
    1,
    encode([(":method", "POST"), (":scheme", "http"), (":path", PATH), ("te", "trailers")]),
)


class Loop:
    """An event loop that runs what it is given when it is told to, and whose time stands still."""

    def __init__(self) -> None:
        self.soon: list[Any] = []

    def time(self) -> float:
        return 0.0

    def call_soon(self, call: Any) -> None:
        self.soon.append(call)

    def call_later(self, _delay_s: float, _call: Any) -> None:
        """Ticks are the test's."""

    def run(self) -> None:
        while self.soon:
            self.soon.pop(0)()


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.data += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Client:
    """A client of a hub: what it was sent, as messages; it says only what a test has it say."""

    def __init__(self, hub: Hub, node_id: str = "n", cluster: str = "c", *, window: int = 1 << 20) -> None:
        self.hub = hub
        self.wire = Wire()
        self.connection = Connection(hub)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]
        self.node = Node(id=node_id, cluster=cluster)
        settings = h2.settings_frame([(h2.INITIAL_WINDOW_SIZE, window)])
        self.say(h2.PREFACE + settings + h2.window_update(0, (1 << 20) - h2.WINDOW_DEFAULT) + HEAD)
        self.body = b""
        self.kinds: list[int] = []
        self.nonces: list[str] = []

    def say(self, data: bytes) -> None:
        self.connection.data_received(data)

    def request(self, index: int, *subscribe: str, **fields: Any) -> None:
        message = DeltaDiscoveryRequest(type_url=TYPES[index], resource_names_subscribe=subscribe, **fields)
        if self.node is not None:
            message.node.CopyFrom(self.node)
            self.node = None  # type: ignore[assignment]
        self.say(framed(1, message.SerializeToString()))

    def ack(self, response: DeltaDiscoveryResponse, *subscribe: str, **fields: Any) -> None:
        self.request(TYPES.index(response.type_url), *subscribe, response_nonce=response.nonce, **fields)

    def took(self) -> list[DeltaDiscoveryResponse]:
        """Return the responses since the last call."""
        self.hub.loop.run()  # type: ignore[attr-defined]
        for kind, _, _, payload, _ in frames(self.wire.data):
            self.kinds.append(kind)
            if kind == h2.DATA:
                self.body += payload
        self.wire.data = b""
        found = []
        while len(self.body) >= 5 and len(self.body) >= (size := 5 + int.from_bytes(self.body[1:5], "big")):
            found.append(DeltaDiscoveryResponse.FromString(self.body[5:size]))
            self.body = self.body[size:]
        self.nonces += [response.nonce for response in found]
        return found

    def told(self) -> list[tuple[int, list[str], list[str]]]:
        """Return the responses since the last call as (type, resources, removed); ACK all."""
        responses = self.took()
        for response in responses:
            self.ack(response)
        return [shown(response) for response in responses]

    def synced(self) -> None:
        while self.told():
            pass


def shown(response: DeltaDiscoveryResponse) -> tuple[int, list[str], list[str]]:
    names = [f"{fields[3]}@{fields[1]}" for fields in map(fields_of, response.resources)]
    return TYPES.index(response.type_url), sorted(names), sorted(response.removed_resources)


def fields_of(encoded: bytes) -> dict[int, str]:
    return {number: value.decode() for number, value in fields(encoded) if isinstance(value, bytes)}


def resource(name: str, version: int = 1, *refers: str, ttl_s: float = 0.0, size: int = 0) -> Resource:
    head = length_field(3, name.encode()) + length_field(1, str(version).encode())
    encoded = head + length_field(2, b"x" * size)
    return Resource(name, str(version), encoded, refers, ttl_s, bare=length_field(2, head))


def make(index: int, name: str, version: int = 1, *refers: str, **options: Any) -> Change:
    return index, name, resource(name, version, *refers, **options)


@pytest.fixture
def hub() -> Hub:
    made = Hub(Loop())  # type: ignore[arg-type]
    made.publish(
        [
            make(CLUSTERS, "a"),
            make(ASSIGNMENTS, "a"),
            make(CLUSTERS, "b"),
            make(ASSIGNMENTS, "b"),
            make(ROUTES, "r", 1, "a"),
        ]
    )
    return made


def connected(hub: Hub, **options: Any) -> Client:
    """Return a client that has everything, as an Envoy asks for it."""
    client = Client(hub, **options)
    client.request(CLUSTERS)
    client.request(ASSIGNMENTS, "a", "b")
    client.request(ROUTES, "r")
    client.synced()
    return client


# --- What is sent --------------------------------------------------------------------------------------------------


def test_a_client_gets_what_it_subscribes_to_and_what_changes(hub: Hub) -> None:
    client = Client(hub)
    client.request(CLUSTERS)
    assert client.told() == [(CLUSTERS, ["a@1", "b@1"], [])]
    client.request(ASSIGNMENTS, "b", "missing")
    assert client.told() == [(ASSIGNMENTS, ["b@1"], ["missing"])]
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    assert client.told() == []
    hub.publish([make(ASSIGNMENTS, "b", 2)])
    assert client.told() == [(ASSIGNMENTS, ["b@2"], [])]
    hub.publish([make(ASSIGNMENTS, "b", 2)])
    assert client.told() == []  # the same content


def test_changes_while_a_response_is_not_answered_are_sent_as_one(hub: Hub) -> None:
    client = connected(hub)
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    (first,) = client.took()
    hub.publish([make(ASSIGNMENTS, "a", 3)])
    hub.publish([make(ASSIGNMENTS, "a", 4), make(ASSIGNMENTS, "b", 2)])
    assert client.took() == []
    client.ack(first)
    (response,) = client.took()
    assert sorted(shown(response)[1]) == ["a@4", "b@2"]


def test_a_stale_nonce_settles_nothing(hub: Hub) -> None:
    client = connected(hub)
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    (first,) = client.took()
    client.request(ASSIGNMENTS, response_nonce="0")
    hub.publish([make(ASSIGNMENTS, "a", 3)])
    assert client.took() == []
    client.ack(first)
    assert client.told() == [(ASSIGNMENTS, ["a@3"], [])]


def test_an_ack_may_change_the_subscription_at_once(hub: Hub) -> None:
    client = Client(hub)
    client.request(CLUSTERS)
    client.told()
    client.request(ASSIGNMENTS, "a")
    (response,) = client.took()
    client.ack(response, "b", resource_names_unsubscribe=["a"])
    assert client.told() == [(ASSIGNMENTS, ["b@1"], [])]
    hub.publish([make(ASSIGNMENTS, "a", 2), make(ASSIGNMENTS, "b", 2)])
    assert client.told() == [(ASSIGNMENTS, ["b@2"], [])]


def test_who_comes_back_is_sent_only_what_is_new_to_it(hub: Hub) -> None:
    client = Client(hub)
    client.request(CLUSTERS, initial_resource_versions={"a": "1", "b": "0", "gone": "7"})
    assert client.told() == [(CLUSTERS, ["b@1"], ["gone"])]
    client.request(ASSIGNMENTS, "a", initial_resource_versions={"a": "1"})
    assert client.told() == []


def test_large_requests_in_pieces_are_known_again(hub: Hub) -> None:
    names = [f"cluster-with-a-long-name-{number}" for number in range(1_000)]
    hub.publish([make(ASSIGNMENTS, name) for name in names])
    for _ in range(2):
        client = Client(hub)
        client.request(CLUSTERS)
        client.told()
        message = DeltaDiscoveryRequest(type_url=TYPES[ASSIGNMENTS], resource_names_subscribe=names)
        data = framed(1, message.SerializeToString())
        for at in range(0, len(data), 10_000):
            client.say(data[at : at + 10_000])
        assert [len(names) for _, names, _ in client.told()] == [1_000]
        assert client.connection.tail is None


def test_a_slice_gives_way_to_the_event_loop(hub: Hub) -> None:
    clients = [connected(hub) for _ in range(70)]
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    sent = [sum(bool(client.wire.data) for client in clients)]
    while hub.loop.soon:  # type: ignore[attr-defined]
        hub.loop.soon.pop(0)()  # type: ignore[attr-defined]
        sent.append(sum(bool(client.wire.data) for client in clients))
    assert sent == [32, 64, 70]


def test_streams_that_stand_alike_share_one_value_and_one_message(hub: Hub) -> None:
    clients = [connected(hub, node_id=f"n{number}") for number in range(3)]
    assert len({id(client.connection.value) for client in clients}) == 1
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    assert len({client.wire.data for client in clients if client.hub.loop.run() is None}) == 1  # type: ignore[attr-defined]


# --- Order, TTL, rejections ----------------------------------------------------------------------------------------


def test_make_before_break(hub: Hub) -> None:
    client = connected(hub)
    hub.publish(
        [
            make(CLUSTERS, "c"),
            make(ASSIGNMENTS, "c"),
            make(ROUTES, "r", 2, "c"),
            (CLUSTERS, "a", None),
            (ASSIGNMENTS, "a", None),
        ]
    )
    (clusters,) = client.took()
    assert shown(clusters) == (CLUSTERS, ["c@1"], [])
    client.request(ASSIGNMENTS, "c")
    (endpoints,) = client.took()
    assert shown(endpoints)[1] == ["c@1"]
    client.ack(clusters)
    (routes,) = client.took()
    assert shown(routes) == (ROUTES, ["r@2"], [])
    client.ack(endpoints)
    assert client.took() == []
    client.ack(routes)
    assert client.told() == [(CLUSTERS, [], ["a"])]


def test_endpoints_of_a_changed_cluster_go_with_it_changed_or_not(hub: Hub) -> None:
    client = connected(hub)
    hub.publish([make(CLUSTERS, "a", 2)])
    assert client.told() == [(CLUSTERS, ["a@2"], []), (ASSIGNMENTS, ["a@1"], [])]


def test_a_cluster_that_a_route_still_names_stays(hub: Hub) -> None:
    client = connected(hub)
    hub.publish([(CLUSTERS, "a", None)])
    assert client.told() == []
    hub.publish([make(ROUTES, "r", 2, "b")])
    assert client.told() == [(ROUTES, ["r@2"], [])]
    assert client.told() == [(CLUSTERS, [], ["a"])]


def test_a_client_without_routes_is_told_of_a_removal_at_once(hub: Hub) -> None:
    client = Client(hub)
    client.request(CLUSTERS)
    client.synced()
    hub.publish([(CLUSTERS, "a", None)])
    assert client.told() == [(CLUSTERS, [], ["a"])]


def test_what_the_order_waits_for_has_a_deadline(hub: Hub) -> None:
    client = connected(hub)
    hub.publish([make(CLUSTERS, "c"), make(ROUTES, "r", 2, "c")])
    assert [shown(response)[0] for response in client.took()] == [CLUSTERS]
    for _ in range(HOLD_TICKS):
        hub.run_clock()
    assert [shown(response) for response in client.took()] == [(ROUTES, ["r@2"], [])]
    assert [effect for _, effect, _ in hub.nacks] == ["overdue"]


def test_a_rejected_version_is_not_sent_again_until_it_changes(hub: Hub) -> None:
    client, other = connected(hub), connected(hub)
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    (response,) = client.took()
    other.synced()
    client.ack(response, error_detail={"code": 3, "message": "no such zone"})
    assert client.took() == []
    assert list(hub.nacks) == [("n", "nack", "no such zone")]
    assert client.connection.value.own
    assert not other.connection.value.own
    hub.publish([make(ASSIGNMENTS, "a", 3)])
    assert client.told() == other.told() == [(ASSIGNMENTS, ["a@3"], [])]
    assert client.connection.value is other.connection.value  # nothing is unsure any more


def test_routes_that_newly_name_a_rejected_cluster_are_held_back(hub: Hub) -> None:
    client = connected(hub)
    hub.publish([make(CLUSTERS, "c"), make(ROUTES, "r", 2, "c")])
    (clusters,) = client.took()
    client.ack(clusters, error_detail={"code": 3, "message": "bad"})
    assert client.took() == []
    hub.publish([make(CLUSTERS, "c", 2)])
    assert client.told() == [(CLUSTERS, ["c@2"], [])]
    assert client.told() == [(ROUTES, ["r@2"], [])]


def test_heartbeats_keep_what_has_a_ttl(hub: Hub) -> None:
    hub.publish([make(ASSIGNMENTS, "a", 2, ttl_s=9.0)])
    client = connected(hub)
    hub.run_clock()
    hub.run_clock()
    assert client.told() == []
    hub.run_clock()
    (beat,) = client.took()
    assert shown(beat) == (ASSIGNMENTS, ["a@2"], [])
    assert 2 not in fields_of(beat.resources[0])
    client.ack(beat)
    hub.publish([make(ASSIGNMENTS, "a", 3)])
    client.synced()
    for _ in range(3):
        hub.run_clock()
    assert client.told() == []


# --- Flow control, pauses, silence ---------------------------------------------------------------------------------


def test_what_the_window_has_no_room_for_is_cut_and_goes_on_with_more_credit(hub: Hub) -> None:
    hub.publish([make(ASSIGNMENTS, "a", 2, size=40_000)])
    client = Client(hub, window=10_000)
    client.request(CLUSTERS)
    client.told()
    client.request(ASSIGNMENTS, "a")
    assert client.took() == []
    used = len(client.body)
    assert used + 20 < 10_000
    client.say(h2.window_update(1, 25_000))
    assert client.took() == []
    client.say(h2.window_update(1, 25_000))
    assert client.told() == [(ASSIGNMENTS, ["a@2"], [])]


def test_a_client_without_credit_gets_the_newest_once_it_gives_some(hub: Hub) -> None:
    client = connected(hub)
    room = client.connection.room
    client.connection.room = 0
    for version in (2, 3, 4):
        hub.publish([make(ASSIGNMENTS, "a", version)])
        assert client.told() == []
    client.say(h2.window_update(1, room) + h2.window_update(0, room))
    assert client.told() == [(ASSIGNMENTS, ["a@4"], [])]


def test_a_client_that_does_not_read_gets_the_newest_once_it_does(hub: Hub) -> None:
    client = connected(hub)
    room = client.connection.room
    client.connection.pause_writing()
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    hub.publish([make(ASSIGNMENTS, "a", 3)])
    assert client.took() == []
    client.connection.resume_writing()
    assert client.told() == [(ASSIGNMENTS, ["a@3"], [])]
    assert 0 < room - client.connection.room < 200


def test_windows_are_the_smaller_of_the_streams_and_the_connections(hub: Hub) -> None:
    client = Client(hub, window=1_000)
    assert client.connection.room == 1_000
    client.say(h2.window_update(0, 5_000))
    assert client.connection.room == 1_000
    client.say(h2.settings_frame([(h2.INITIAL_WINDOW_SIZE, 2 << 20)]))
    assert client.connection.room == (1 << 20) + 5_000
    client.say(h2.window_update(0, h2.WINDOW_MAX))
    assert client.wire.closed


def test_the_client_is_given_credit_for_what_was_read(hub: Hub) -> None:
    client = connected(hub)
    for version in range(2, 600):
        hub.publish([make(ASSIGNMENTS, "a", version)])
        client.synced()
    assert h2.WINDOW_UPDATE in client.kinds
    assert client.connection.credit > 0
    assert not client.wire.closed


def test_who_is_silent_is_pinged_and_then_closed(hub: Hub) -> None:
    silent, answers = connected(hub), connected(hub)
    version = 1
    for tick in range(CLOSED_TICKS + 1):
        if tick % 10 == 0:
            version += 1
            hub.publish([make(ASSIGNMENTS, "a", version)])
            hub.loop.run()  # type: ignore[attr-defined]
            answers.synced()
        if tick == QUIET_TICKS - 1:
            silent.took()
            assert h2.PING not in silent.kinds
        hub.run_clock()
    silent.took()
    assert (h2.PING in silent.kinds, silent.wire.closed) == (True, True)
    assert (h2.PING in answers.kinds, answers.wire.closed) == (False, False)


def test_frames_that_do_nothing_are_charged(hub: Hub) -> None:
    client = connected(hub)
    for _ in range(CHORES + 10):
        client.say(h2.frame(h2.PING, 0, 0, b"12345678"))
    assert client.wire.closed


def test_another_node_on_the_same_stream_is_an_error(hub: Hub) -> None:
    client = connected(hub)
    client.node = Node(id="other")
    client.request(ROUTES)
    assert client.wire.closed


def test_over_tls_a_request_larger_than_a_record_is_taken_whole(hub: Hub, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.issue("server", dns=["localhost"]), authority.issue("client")
    connection = TlsConnection(hub, context(ours.cert_path, ours.key_path, authority.cert_path))
    wire = Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls_context = ssl.create_default_context(cafile=str(authority.cert_path))
    tls_context.load_cert_chain(theirs.cert_path, theirs.key_path)
    tls = tls_context.wrap_bio(incoming, outgoing, server_hostname="localhost")

    def turn() -> None:
        connection.data_received(outgoing.read())
        incoming.write(wire.data)
        wire.data = b""

    while not connection.up:
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        turn()
    node = Node(id="n", metadata=b"".join(length_field(1, b"x" * 100) for _ in range(500)))
    request = DeltaDiscoveryRequest(type_url=TYPES[CLUSTERS], node=node).SerializeToString()
    tls.write(h2.PREFACE + h2.settings_frame([]) + HEAD + framed(1, request))
    turn()
    assert not wire.closed
    found = b""
    with suppress(ssl.SSLWantReadError):
        while True:
            found += tls.read(1 << 14)
    data = b"".join(payload for kind, _, _, payload, _ in frames(found) if kind == h2.DATA)
    assert shown(DeltaDiscoveryResponse.FromString(data[5:])) == (CLUSTERS, ["a@1", "b@1"], [])


# --- The memory ----------------------------------------------------------------------------------------------------


def test_no_nonce_is_sent_twice_on_a_stream_that_goes_back_to_where_it_was(hub: Hub) -> None:
    client, other = connected(hub), connected(hub)
    for _ in range(5):
        for each in (client, other):
            each.request(ASSIGNMENTS, "new")
            each.synced()
            each.request(ASSIGNMENTS, resource_names_unsubscribe=["new"])
            each.request(ASSIGNMENTS, "a")
            each.synced()
        hub.publish([make(ASSIGNMENTS, "a", 2 + hub.group.head.number)])
        client.synced()
        other.synced()
    for each in (client, other):
        assert len(set(each.nonces)) == len(each.nonces)
        assert each.connection.again == 0  # and goes with the others again
    assert client.connection.value is other.connection.value


def test_publishes_leave_nothing_behind(hub: Hub) -> None:
    clients = [connected(hub) for _ in range(3)]
    for version in range(2, 400):
        hub.publish([make(ASSIGNMENTS, "a", version)])
        for client in clients:
            client.synced()
    types, values = hub.memory.sizes()
    assert (types < 30, values < 30) == (True, True)


def test_the_budget_of_what_is_remembered_holds(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.ladder.program.values.REMEMBERED_BYTES_MAX", 5_000)
    client = connected(hub)
    for version in range(2, 200):
        hub.publish([make(ASSIGNMENTS, "a", version)])
        client.synced()
        assert hub.memory.kept_bytes <= 5_000


@pytest.mark.parametrize("seed", range(30))
def test_what_is_remembered_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory = transcript(seed)
    monkeypatch.setattr(Memory, "remember", lambda *_: None)
    assert transcript(seed) == with_memory


def transcript(seed: int) -> list[Any]:
    """Return what clients that do things at random are sent, without nonces."""
    chance = random.Random(seed)
    hub = Hub(Loop())  # type: ignore[arg-type]
    names = ["a", "b", "c", "d"]
    hub.publish([make(index, name) for index in (CLUSTERS, ASSIGNMENTS, ROUTES) for name in names[:2]])
    clients = [Client(hub, f"n{number}") for number in range(4)]
    open_: list[list[DeltaDiscoveryResponse]] = [[] for _ in clients]
    said: list[Any] = []
    for client in clients:
        client.request(CLUSTERS)
    for turn in range(150):
        number = chance.randrange(len(clients))
        client = clients[number]
        what = chance.random()
        if what < 0.3:
            index = chance.choice((CLUSTERS, ASSIGNMENTS, ROUTES))
            name = chance.choice(names)
            refers = (chance.choice(names),) if index == ROUTES else ()
            gone = chance.random() < 0.2
            hub.publish([(index, name, None) if gone else make(index, name, turn + 2, *refers)])
        elif what < 0.5:
            client.request(chance.choice((ASSIGNMENTS, ROUTES)), *chance.sample(names, 2))
        elif what < 0.6:
            client.request(ASSIGNMENTS, resource_names_unsubscribe=[chance.choice(names)])
        elif what < 0.65:
            hub.run_clock()
        elif open_[number]:
            response = open_[number].pop(0)
            error = {"error_detail": {"code": 3, "message": "no"}} if chance.random() < 0.15 else {}
            client.ack(response, **error)
        for each, waiting in zip(clients, open_, strict=True):
            took = each.took()
            waiting += took
            said.append([shown(response) for response in took])
            assert len(set(each.nonces)) == len(each.nonces)
    for _ in range(20):  # in the end all have all
        for each, waiting in zip(clients, open_, strict=True):
            for response in waiting:
                each.ack(response)
            waiting[:] = each.took()
    assert not any(open_)
    return said


# --- What can be asked ---------------------------------------------------------------------------------------------


def test_figures_and_status_are_read_off_the_values(hub: Hub) -> None:
    client = connected(hub)
    before = hub.figures()
    assert before["deliveries"] == before["acks"] == 3
    hub.publish([make(ASSIGNMENTS, "a", 2)])
    (response,) = client.took()
    assert hub.figures() | {"bytes": 0} == {"deliveries": 4, "acks": 3, "streams": 1, "bytes": 0}
    assert hub.status("n") == [{TYPES[CLUSTERS]: (1, True), TYPES[ASSIGNMENTS]: (2, False), TYPES[ROUTES]: (1, True)}]
    client.ack(response)
    assert hub.figures()["acks"] == 4
    assert hub.status("n")[0][TYPES[ASSIGNMENTS]] == (2, True)
    client.connection.connection_lost(None)
    assert (hub.status("n"), hub.figures()["streams"]) == ([], 0)


def test_nodes_are_served_by_their_group(hub: Hub) -> None:
    group = hub.groups["canary"] = Group("canary")
    hub.publish([make(CLUSTERS, "only-here")], group)
    client = Client(hub, cluster="canary")
    client.request(CLUSTERS)
    assert client.told() == [(CLUSTERS, ["only-here@1"], [])]
    hub.publish([make(CLUSTERS, "b", 2)])
    assert client.told() == []


def test_a_node_is_cut_out_of_its_request() -> None:
    node = Node(id="x" * 200, cluster="c")
    request = DeltaDiscoveryRequest(type_url="t", node=node)
    encoded, rest = without_node(request.SerializeToString())
    assert (Node.FromString(encoded), DeltaDiscoveryRequest.FromString(rest)) == (
        node,
        DeltaDiscoveryRequest(type_url="t"),
    )
    assert without_node(rest) == (b"", rest)


def test_long_keys_are_equal_only_if_all_bytes_are() -> None:
    first, second = b"a" * 9_000, b"b" + b"a" * 8_999
    known = {LongKey(first): 1}
    assert (known.get(LongKey(bytes(first))), known.get(LongKey(second))) == (1, None)


# --- Folding, and every rung over real sockets ---------------------------------------------------------------------


def names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def test_what_is_switched_off_is_not_in_the_code() -> None:
    path = Path(program.__file__)
    off, on = (set(names_in(folded)) for folded in (
        folding.folded(path.read_text(), str(path), switched) for switched in ((), switches_of("TLS"))
    ))  # fmt: skip
    assert {"chore", "grant"} & off == {"chore", "grant"}  # methods are there; what would call them is not
    source = "def f(x):\n    if IDLE and x: return y\n    if not IDLE: return z\n"
    for switched, left in ((("IDLE",), {"y"}), ((), {"z"})):
        code = next(const for const in folding.folded(source, "f", switched).co_consts if isinstance(const, CodeType))
        assert {str(each.argval) for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"} == left
    assert "room" in on


def test_every_switch_is_a_rung_or_a_way() -> None:
    of_rungs = {rung.switch for rung in RUNGS if rung.switch}
    of_ways = {each.switch for rung in RUNGS for each in rung.ways}
    assert of_rungs | of_ways == folding.NAMES
    assert {name for name in folding.NAMES if getattr(switches, name)} == of_rungs == switches_of(RUNGS[-1].name)
    with pytest.raises(KeyError, match="no rung 'nonsense'"):
        switches_of("nonsense")
    with pytest.raises(ValueError, match="there is no switch NONSENSE"):
        folding.install(["NONSENSE"])


EVERY = [*ladder(), *(way(rung, each) for rung in RUNGS for each in rung.ways)]
SMALL = Resources(clusters=3, routes=2, endpoints=2)


@pytest.mark.slow
@pytest.mark.parametrize("participant", [one for one in EVERY if not one.tls], ids=lambda one: one.name)
async def test_each_rung_and_each_way_serves_a_real_client(participant: Participant) -> None:
    with ExitStack() as stack:
        server, _ = await asyncio.to_thread(stack.enter_context, participant.serving(SMALL))
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.CLUSTER)
            await client.take_until(lambda: len(client.view.get(r.CLUSTER, {})) == 3)
            await client.subscribe(r.ENDPOINTS, *sorted(client.view[r.CLUSTER]), "missing")
            await client.take_until(lambda: len(client.view.get(r.ENDPOINTS, {})) == 3)
            await client.subscribe(r.ROUTE, "route-0", "route-1")
            await client.take_until(lambda: len(client.view.get(r.ROUTE, {})) == 2)
            for number in (1, 2, 0, 1):
                with await asyncio.to_thread(urllib.request.urlopen, server.trigger, timeout=10) as answer:
                    assert answer.status == 200
                assert (await client.take()).names == {f"cluster-{number}"}


@pytest.mark.slow
@pytest.mark.parametrize("participant", [one for one in EVERY if one.tls], ids=lambda one: one.name)
def test_over_mutual_tls_a_fleet_has_what_it_should(participant: Participant) -> None:
    load = Load(streams=20, pushes=3, warmup_pushes=1, paced=False)
    with participant.serving(SMALL) as (server, options):
        result, _ = drive_whole(load.beside(options), server, SMALL)
    assert (result["verify"]["compared"], result["verify"]["different"]) == (20, 0)


# --- The run and its report ----------------------------------------------------------------------------------------


def figures(cpu_us: float, connect_us: float) -> Figures:
    return {
        "back_to_back.cpu_us": cpu_us,
        "back_to_back.last_ms": 9.0,
        "connect.cpu_us": connect_us,
        "memory.kb": 2.0,
    }


def kept(*rounds: dict[str, Figures]) -> dict[str, Any]:
    row = {"what": "so many", "rounds": list(rounds), "send_recv_us": [8.0] * len(rounds), "load": [1.0] * len(rounds)}
    return {"date": "", "machine": {"CPU": "abacus"}, "versions": {"commit": "c0ffee"}, "rows": {"100x1000": row}}


def test_what_a_rung_adds_is_paired_by_round() -> None:
    rounds = [
        {
            "values": figures(hour, 60.0),
            "slices": figures(hour + 0.5, 61.0),
            "slices: of 8": figures(hour + 0.75, 61.0),
            LAST: figures(hour * 1.25, 80.0),
            PRODUCT: figures(hour * 2.5, 200.0),
        }
        for hour in (8.0, 16.0, 10.0, 12.0, 9.0, 11.0)
    ]
    text = render(kept(*rounds))
    assert (
        "| slices | 11.00 (8.50–16.50) | – | +0.50 (+0.50 to +0.50) | 61.0 (61.0–61.0) | +1.00 (+1.00 to +1.00)" in text
    )
    assert "- slices: of 8 (8 at a time): +0.25 (+0.25 to +0.25) µs a delivery" in text
    assert f"- the product: a delivery takes 2.00 (2.00–2.00) × what the rung `{LAST}` takes" in text
    assert f"- the product: a connect takes 2.50 (2.50–2.50) × what the rung `{LAST}` takes" in text
    assert "One `send` and one `recv` alone, over as many connections, before each round: 8.00 (8.00–8.00) µs" in text
    assert "CPU abacus, commit c0ffee" in text


def test_few_rounds_tell_no_interval() -> None:
    text = render(kept({"values": figures(8, 60), "slices": figures(9, 61)}))
    assert "| slices | 9.00 (9.00–9.00) | – | +1.00 |" in text


def test_a_row_without_rounds_is_left_out() -> None:
    assert "## 100x1000" not in render(kept())


def test_pythons_share_alone_is_measured_where_nothing_else_takes_part() -> None:
    every, fanout = everyone(), FANOUTS["100x1000"]
    assert [one.name for one in every if not one.rung] == [PRODUCT, PRODUCT_TLS]
    assert set(in_turns(fanout, every, ways=True)) == {one.name for one in every}
    few = set(in_turns(fanout, every, ways=False))
    assert ("slices: of 8" in few, "TLS: by uvloop" in few, PRODUCT in few) == (False, True, True)
    alone = in_turns(None, every, ways=False)
    assert {"values", "slices: of 8", "events: each"} <= set(alone)
    assert not {"workers", "TLS", "TLS: by uvloop", PRODUCT} & set(alone)


@pytest.mark.slow
def test_python_alone_takes_microseconds() -> None:
    measured = measure(None, Participant("idle: by tick", "idle", "by tick"))
    assert set(measured) == {"alone.connect_us", "alone.send_us", "alone.ack_us", "alone.cpu_us"}
    assert all(figure > 0 for figure in measured.values())


def test_a_round_in_which_anybody_fails_counts_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_row: object, participant: Participant) -> Figures:
        if participant.name == "slices":
            raise MeasureError("a sidecar differs")
        return figures(8, 60)

    monkeypatch.setattr("bench.ladder.__main__.measure", measured)
    first = {one.name: one for one in ladder()[:1]}
    assert one_round(None, first, 0, "row") == {"values": figures(8, 60)}
    assert one_round(None, {one.name: one for one in ladder()[:3]}, 0, "row") is None


def test_the_ladders_result_is_no_row_of_the_comparison(tmp_path: Path) -> None:
    write(kept(), tmp_path / "ladder.json")
    assert (tmp_path / "ladder.md").read_text().startswith("# The ladder")
    assert load_results(tmp_path) == {}
