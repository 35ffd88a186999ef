"""Large bodies and answers are processed on a thread, while the event loop goes on with everything else."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from support import resources as r
from support.waiting import turns

from xds.api import answers, bodies
from xds.api.admission import Admission
from xds.api.rest import rest_api
from xds.api.run_in_thread import LARGE_BYTES, run_in_thread

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
