"""Large bodies and answers are processed on a thread, while the event loop goes on with everything else."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from support import resources as r
from support.waiting import turns, wait_until

from xds.api import answers, bodies, operations, rest
from xds.api.admission import Admission
from xds.api.json_answer import JsonAnswer
from xds.api.rest import rest_api
from xds.api.run_in_thread import (
    AT_ONCE_MAX,
    CALLER,
    HUGE_BYTES,
    LARGE_BYTES,
    SHORT_BYTES,
    read_in_thread,
    run_in_thread,
)
from xds.model.types import CLUSTER

MANY = [r.static_cluster(f"c{number}", number % 250) for number in range(2_000)]


class CountedTurns:
    """Counts the event loop's turns, and records the count at each call of the watched functions."""

    def __init__(self) -> None:
        self.count = 0
        self.at_calls: list[int] = []

    async def run(self) -> None:
        while True:
            self.count += 1
            await turns()

    def watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.at_calls.append(self.count)
            return real(*arguments, **options)

        return call

    def take_between_first_and_last(self) -> int:
        first, last = self.at_calls[0], self.at_calls[-1]
        self.at_calls.clear()
        return last - first


@asynccontextmanager
async def counted_turns() -> AsyncIterator[CountedTurns]:
    counted = CountedTurns()
    running = asyncio.create_task(counted.run())
    try:
        yield counted
    finally:
        running.cancel()


async def test_what_is_large_is_done_on_another_thread_and_what_is_small_at_once() -> None:
    here = threading.get_ident()
    assert await run_in_thread(LARGE_BYTES, threading.get_ident) == here
    assert await run_in_thread(LARGE_BYTES + 1, threading.get_ident) != here


async def test_the_event_loop_goes_on_while_a_large_body_is_read_and_a_large_answer_written(
    serving_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serving_api()
    transport = httpx.ASGITransport(app=rest_api(served.operations, Admission(), body_bytes_max=10_000_000))
    async with counted_turns() as turns, httpx.AsyncClient(transport=transport, base_url="http://api") as api:
        monkeypatch.setattr(bodies, "ingest", turns.watched(bodies.ingest))
        answer = await api.post("/v1/groups/default/changesets", json={"upsert": MANY})
        assert (answer.status_code, len(turns.at_calls)) == (200, len(MANY))
        assert turns.take_between_first_and_last() > 0

        monkeypatch.setattr(answers, "resource_json", turns.watched(answers.resource_json))
        answer = await api.get("/v1/groups/default/snapshot")
        assert [each["name"] for each in answer.json()["resources"]] == sorted(each["name"] for each in MANY)
        assert turns.take_between_first_and_last() > 0

        await api.put("/v1/groups/default/snapshot", json={"resources": []})
        turns.at_calls.clear()
        answer = await api.get("/v1/groups/default/diff", params={"from": 1})
        assert len(answer.json()["differences"]) == len(MANY)
        assert turns.take_between_first_and_last() > 0


class Held:
    """Work on threads that goes on until it is let go; ``began`` names its callers in the order of their turns."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._end = threading.Event()

    def start(self, caller: str, size_bytes: int = LARGE_BYTES + 1) -> "asyncio.Task[None]":
        def work() -> None:
            self.began.append(caller)
            self._end.wait(10)

        async def call() -> None:
            CALLER.set(caller)
            await run_in_thread(size_bytes, work)

        return asyncio.create_task(call())

    def let_go(self) -> None:
        self._end.set()


async def test_one_work_of_a_caller_runs_at_a_time_and_another_caller_has_its_turn_between() -> None:
    held = Held()
    calls = [held.start("many") for _ in range(20)]
    await wait_until(lambda: held.began == ["many"])
    calls.append(held.start("other"))
    await wait_until(lambda: held.began == ["many", "other"])
    calls[1].cancel()  # it waits for its turn, and loses it
    calls += [held.start("third"), held.start("many", HUGE_BYTES + 1)]
    await wait_until(lambda: held.began == ["many", "other", "many"])  # the huge one has turns of its own
    held.let_go()
    await asyncio.gather(*calls, return_exceptions=True)
    assert held.began.count("third") == 1
    assert held.began.index("third") < 6
    assert held.began.count("many") == 20


async def test_a_small_body_that_is_read_on_a_thread_does_not_wait_for_large_ones() -> None:
    held = Held()
    calls = [held.start(f"{number}") for number in range(AT_ONCE_MAX + 1)]
    await wait_until(lambda: len(held.began), equals=AT_ONCE_MAX)
    assert await read_in_thread(SHORT_BYTES + 1, threading.get_ident) != threading.get_ident()
    assert await read_in_thread(SHORT_BYTES, threading.get_ident) == threading.get_ident()
    assert len(held.began) == AT_ONCE_MAX
    held.let_go()
    await asyncio.gather(*calls)


async def test_what_work_that_failed_was_given_is_freed_at_once() -> None:
    """Bodies of megabytes would otherwise stay until the garbage collector runs, which is rare."""

    class Body:
        def read(self) -> None:
            raise ValueError("not as it should be")

    body = Body()
    left = weakref.ref(body)
    gc.disable()
    try:
        with suppress(ValueError):  # pytest.raises would hold the error
            await run_in_thread(LARGE_BYTES + 1, body.read)
        del body
        await wait_until(lambda: left() is None, timeout_s=5)
    finally:
        gc.enable()


async def test_work_whose_call_was_cancelled_keeps_its_turn_until_it_ends() -> None:
    held = Held()
    calls = [held.start(str(number)) for number in range(AT_ONCE_MAX)]
    await wait_until(lambda: len(held.began) == AT_ONCE_MAX)
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    last = held.start("last")
    await turns(20)
    assert "last" not in held.began
    held.let_go()
    await last
    assert held.began[-1] == "last"


async def test_long_lists_of_problems_and_of_changed_resources_are_written_on_a_thread(
    serving_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Answer(JsonAnswer):
        def render(self, content: Any) -> bytes:
            written.append(threading.get_ident())
            return super().render(content)

    monkeypatch.setattr(rest, "JsonAnswer", Answer)
    served = await serving_api()
    transport = httpx.ASGITransport(app=rest_api(served.operations, Admission(), body_bytes_max=10_000_000))
    bad = [{"@type": CLUSTER, "name": f"bad-{number}", "connect_timeout": number} for number in range(500)]
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
        for content, status in (({"upsert": bad}, 422), ({"upsert": MANY}, 200), ({"upsert": bad[:1]}, 422)):
            answer = await api.post("/v1/groups/default/changesets", json=content)
            assert answer.status_code == status
    assert [each == threading.get_ident() for each in written] == [False, False, True]


READS = [
    ("/v1/groups/default/resources", {"limit": 1}, ["_chosen"]),
    ("/v1/groups/default/resources", {"prefix": "c"}, ["_chosen", "list_json", "render"]),
    ("/v1/groups/default/resources", {"revision": 1}, ["_chosen_then", "list_json", "render"]),
    ("/v1/groups/default/resources/clusters/c1", {"revision": 1}, ["_chosen_then"]),
    ("/v1/groups/default/snapshot", {}, ["_chosen", "render"]),
    ("/v1/groups/default/diff", {"from": 0}, ["_differences", "_differences_json", "render"]),
    ("/v1/revisions/1", {}, ["_revision_answer", "details_json", "render"]),
]


@pytest.mark.parametrize(("path", "query", "steps"), READS)
async def test_what_is_read_of_a_large_group_is_chosen_and_written_on_a_thread(
    serving_api: Any, monkeypatch: pytest.MonkeyPatch, path: str, query: dict[str, str], steps: list[str]
) -> None:
    served = await serving_api()
    transport = httpx.ASGITransport(app=rest_api(served.operations, Admission(), body_bytes_max=10_000_000))
    threads: dict[str, set[int]] = {}

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
        await api.post("/v1/groups/default/changesets", json={"upsert": MANY})
        await api.put("/v1/groups/default/resources/clusters/c1", json=r.static_cluster("c1", 251))
        for name in ("_chosen", "_chosen_then", "_differences", "_revision_answer"):
            watch(operations, name)
        for name in ("list_json", "_differences_json", "details_json"):
            watch(rest, name)
        watch(JsonAnswer, "render")
        answer = await api.get(path, params=query)
    assert answer.status_code == 200
    assert threads.keys() >= set(steps)
    assert not [name for name in steps if threading.get_ident() in threads[name]]


async def test_resources_are_listed_by_type_and_name_now_and_then(serving_api: Any) -> None:
    served = await serving_api()
    transport = httpx.ASGITransport(app=rest_api(served.operations, Admission(), body_bytes_max=10_000_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
        body = {"upsert": [*MANY[:30], *(r.assignment(f"e{number}", 1) for number in range(3))]}
        assert (await api.post("/v1/groups/default/changesets", json=body)).status_code == 200
        await api.put("/v1/groups/other/resources/clusters/a", json=r.static_cluster("a", 1))
        path = "/v1/groups/default/resources"
        for query in ({}, {"revision": 1}):
            listed = (await api.get(path, params=query)).json()["resources"]
            named = [(each["type"], each["name"]) for each in listed]
            assert named == sorted(named)
            assert len(named) == 33
            for limit in (1, 30, 31, 40):
                some = (await api.get(path, params=query | {"limit": limit})).json()["resources"]
                assert some == listed[:limit]
            some = (await api.get(path, params=query | {"prefix": "c2", "limit": 3})).json()["resources"]
            assert [each["name"] for each in some] == ["c2", "c20", "c21"]
        assert (await api.get("/v1/groups/none/resources", params={"revision": 1})).status_code == 404
        assert (await api.get("/v1/groups/default")).json()["resources"] == {"clusters": 30, "endpoints": 3}
