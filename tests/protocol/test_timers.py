"""The timers of sessions: each comes once, at its time, and what ended sessions leave is dropped."""

import gc
import random
from types import SimpleNamespace
from typing import Any, cast

from support.encoded import CDS, cluster
from support.hubs import World
from support.wire import wire

from xds.protocol.draining import NEVER
from xds.protocol.policy import Variant
from xds.protocol.sessions import STALE_TIMERS_MAX, Session, Timers


def new() -> Any:
    return cast("Session", SimpleNamespace(timer=NEVER))


def test_a_timer_that_is_set_earlier_comes_once() -> None:
    timers, session = Timers(), new()
    timers.set(session, 5.0)
    timers.set(session, 3.0)
    assert timers.next == 3.0
    assert list(timers.due(4.0)) == [(session, 3.0)]
    timers.set(session, 5.0)
    assert list(timers.due(9.0)) == [(session, 5.0)]
    assert (timers.next, len(timers), session.timer) == (NEVER, 0, NEVER)


def test_ended_sessions_leave_little_and_no_timer_of_others_is_lost() -> None:
    chance, timers = random.Random(1), Timers()
    staying = [new() for _ in range(500)]
    for each in staying:
        timers.set(each, chance.uniform(10, 20))
        timers.set(each, each.timer - 5)
    expected = sorted(each.timer for each in staying)
    for _ in range(20_000):
        leaving = new()
        timers.set(leaving, chance.uniform(0, 20))
        timers.end(leaving)
        assert len(timers) <= 2 * (len(staying) + STALE_TIMERS_MAX) + 1
    came = list(timers.due(20.0))
    assert [at for _, at in came] == expected
    assert {id(each) for each, _ in came} == set(map(id, staying))
    assert len(timers) == 0


def test_clients_that_come_and_go_before_they_answer_leave_nothing(world: World) -> None:
    world.publish(cluster("a"))
    hub = world.hub
    for number in range(5 * STALE_TIMERS_MAX):
        request = wire.DeltaDiscoveryRequest(type_url=CDS)
        request.node.id = f"n{number % 16}"
        stream = hub.open(Variant.DELTA)
        hub.receive(stream, request.SerializeToString(), world.now)
        assert hub.take_ready() == [stream]
        assert hub.poll(stream, world.now) is not None
        hub.close(stream)
    del stream
    gc.collect()
    assert sum(isinstance(each, Session) for each in gc.get_objects()) <= 2.1 * STALE_TIMERS_MAX
