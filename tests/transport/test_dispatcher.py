"""The dispatcher on uvloop, where timers are not asyncio's own."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import uvloop
from support.encoded import CDS, TYPES, static
from support.waiting import turns, wait_until

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.protocol.hub import Hub
from xds.protocol.policy import Variant
from xds.protocol.sessions import Stream
from xds.transport.dispatcher import EXAMINED_AT_ONCE, SLICE, Dispatcher


def test_a_deadline_of_this_very_moment_is_no_fault():
    """uvloop's ``call_at`` gives a handle without ``when`` for what is due already."""
    ticks: list[float] = []

    async def poll_twice() -> None:
        loop = asyncio.get_running_loop()
        hub: Any = SimpleNamespace(
            next_tick_at=loop.time(), has_work=False, poll=lambda *_: None, take_ready=list, take_events=list, tick=None
        )

        def tick(now: float) -> None:
            ticks.append(now)
            hub.next_tick_at = float("inf")

        hub.tick = tick
        dispatcher = Dispatcher(hub, on_event=lambda _: None, on_fault=lambda _: None)
        stream: Any = None
        for _ in range(2):
            assert dispatcher.poll(stream) is None
        await wait_until(lambda: ticks, poll_s=0)
        dispatcher.stop()

    uvloop.run(poll_twice())
    assert len(ticks) == 1


def burn(seconds: float) -> None:
    """Work for so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def fanning_out(count: int, *, each_s: float) -> tuple[Dispatcher, list[int]]:
    """Return a dispatcher with streams that a change concerns, and a list whose only number is how many were told."""
    streams = [Stream(Variant.DELTA, "", "") for _ in range(count)]
    unopened = list(streams)
    hub: Any = SimpleNamespace(
        next_tick_at=float("inf"),
        has_work=False,
        open=lambda *_, **__: unopened.pop(),
        publish=lambda _, regroup: None,
        is_regrouping=False,
        advance_clock=lambda _: None,
        take_ready=lambda: streams,
        take_events=list,
    )
    told = [0]

    def send_cohort(*_: object) -> bool:
        told[0] += 1
        burn(each_s)
        return True

    dispatcher = Dispatcher(hub, on_event=lambda _: None, on_fault=lambda _: None)
    sink: Any = SimpleNamespace(send_cohort=send_cohort, peer_address="")
    for _ in streams:
        dispatcher.open(Variant.DELTA, sink)
    return dispatcher, told


async def test_a_big_fan_out_lets_the_loop_do_other_things_between_its_slices():
    dispatcher, told = fanning_out(2 * SLICE + 1, each_s=100e-6)
    change: Any = None
    dispatcher.publish(change)
    so_far = []
    for _ in range(4):
        so_far.append(told[0])
        await turns()
    assert so_far == [SLICE, 2 * SLICE, 2 * SLICE + 1, 2 * SLICE + 1]
    dispatcher.stop()


async def test_a_slice_lasts_as_long_as_the_loop_was_busy_with_other_things_since_the_one_before():
    dispatcher, told = fanning_out(20 * SLICE, each_s=10e-6)
    change: Any = None
    dispatcher.publish(change)
    assert told == [SLICE]
    burn(0.2)  # far longer than it takes to tell all of them
    await turns()
    assert told == [20 * SLICE]
    dispatcher.stop()


async def test_new_rules_move_many_streams_while_a_newcomer_is_served():
    """There are 2,000 distinct nodes, and 201 rules that must all be looked at."""
    groups = ("a", "b")
    rules = tuple(Rule(group="a", metadata={"stage": f"*-{at}"}) for at in range(200))
    catalog = Catalog(check_references=False)
    catalog.apply(Changeset(upserts={group: (static("c", group),) for group in groups}))
    hub = Hub(catalog, knows_type=TYPES.__contains__)
    dispatcher = Dispatcher(hub, on_event=lambda _: None, on_fault=lambda _: None)
    sent: dict[int, list[bytes]] = {}

    def connect(number: int) -> None:
        def ready() -> None:
            while (part := dispatcher.poll(stream)) is not None:
                sent.setdefault(number, []).append(part.message)

        sink: Any = SimpleNamespace(send_cohort=lambda _: ready() or True, ready=ready, peer_address="")
        stream = dispatcher.open(Variant.DELTA, sink)
        node = wire.Node(id=f"n{number}")
        dispatcher.receive(stream, wire.DeltaDiscoveryRequest(node=node, type_url=CDS).SerializeToString())

    streams = 2_000
    for number in range(streams):
        connect(number)
    await turns(streams)
    table = GroupTable(rules=(*rules, Rule(group="b", id="n*")))
    dispatcher.publish(catalog.apply(Changeset(groups=table)))
    assert hub.is_regrouping
    connect(streams)
    while streams not in sent:
        await turns()
    assert hub.is_regrouping
    while hub.is_regrouping:
        await turns()
    await turns(streams)
    assert {session.group for session in {stream.session for stream in hub.streams} if session is not None} == {"b"}
    dispatcher.stop()


async def test_a_large_rejected_response_is_searched_for_secrets_a_few_resources_each_turn():
    most, turn, searched = 0, 0, list[str]()

    def hider(resources: Any) -> Any:
        nonlocal most, turn
        new = [each.name for each in resources if each.name not in searched]
        searched.extend(new)
        turn += len(new)
        most = max(most, turn)
        burn(0.0005 * len(new))
        return str

    catalog = Catalog(check_references=False)
    catalog.apply(Changeset(upserts={"default": tuple(static(f"c{number}") for number in range(200))}))
    hub = Hub(catalog, knows_type=TYPES.__contains__, hider=hider)
    events: list[Any] = []
    dispatcher = Dispatcher(hub, on_event=events.append, on_fault=lambda _: None)
    sent: list[Any] = []
    ready: Any = lambda: sent.append(dispatcher.poll(stream))  # noqa: E731
    sink: Any = SimpleNamespace(send_cohort=lambda _: False, ready=ready, peer_address="")
    stream = dispatcher.open(Variant.DELTA, sink)
    node = wire.Node(id="n1")
    dispatcher.receive(stream, wire.DeltaDiscoveryRequest(node=node, type_url=CDS).SerializeToString())
    await turns(3)
    nonce = next(part.nonce for part in sent if part is not None)
    error = wire.Status(code=13, message="no")
    nack = wire.DeltaDiscoveryRequest(type_url=CDS, response_nonce=nonce, error_detail=error)
    dispatcher.receive(stream, nack.SerializeToString())
    while not events:
        turn = 0
        await turns()
    assert (len(searched), most, events[0].message) == (200, EXAMINED_AT_ONCE, "no")
    dispatcher.stop()
