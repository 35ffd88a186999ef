"""A caller may have some watches open; further ones are refused, and other callers' are not."""

import asyncio
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from support import resources as r
from support.waiting import turns, wait_until

from xds.api import operations
from xds.api.admission import Admission
from xds.api.intake import BusyError
from xds.api.rest import rest_api
from xds.api.watched import EncodedChanges
from xds.api.watches import Watches
from xds.limits import LimitHits
from xds.publishing.changes import Change
from xds.schema.ingest import ingest
from xds.store.entries import Entry, Stored
from xds.store.errors import EpochChangedError


@pytest.fixture
def hits() -> LimitHits:
    return LimitHits()


def test_the_places_of_a_caller_are_its_own_and_come_back(hits: LimitHits) -> None:
    watches = Watches(2, hits)
    with ExitStack() as stack:
        for caller in ("a", "a", "b"):
            stack.enter_context(watches.place(caller))
        for refused in (watches.place("a").__enter__, lambda: watches.must_have_room("a")):
            with pytest.raises(BusyError, match=r"2 watches open.*api\.watches_max"):
                refused()
        watches.must_have_room("b")
        assert hits.counts()["watches"] == 2
    watches.must_have_room("a")
    assert not watches._open


async def test_a_watch_over_rest_beyond_those_of_its_caller_is_refused_before_it_begins(serving_api) -> None:
    served, admission = await serving_api(), Admission(watches=Watches(1))
    app = rest_api(served.operations, admission, body_bytes_max=100_000)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api") as api:
        first = asyncio.create_task(api.get("/v1/watch", params={"from": 0}))  # this transport returns whole answers
        await wait_until(admission.watches._open.total, equals=1)
        for path, query in (("/v1/watch", {"from": 0}), ("/v1/revisions/0/convergence", {})):
            refused = await api.get(path, params=query)
            assert (refused.status_code, "api.watches_max" in refused.json()["error"]) == (503, True)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await wait_until(admission.watches._open.total, equals=0)
        assert (await api.get("/v1/revisions/0/convergence")).status_code == 200


async def test_a_change_is_encoded_once_for_all_that_see_it_as_a_whole_and_the_newest_are_kept() -> None:
    made: list[int] = []

    def encode(stored: Stored) -> bytes:
        made.append(stored.revision)
        return b"x" * 10

    encoded = EncodedChanges(encode, bytes_max=40)
    changes = [Stored(revision, Entry(id=str(revision))) for revision in range(6)]
    for each in changes:
        for _ in range(3):
            assert await encoded.of(each, "epoch", is_whole=True) == b"x" * 10
    assert made == [0, 1, 2, 3, 4, 5]
    await encoded.of(changes[0], "epoch", is_whole=True)
    await encoded.of(changes[5], "epoch", is_whole=True)
    assert made[6:] == [0]
    await encoded.of(changes[5], "another", is_whole=True)
    await encoded.of(changes[5], "epoch", is_whole=False)
    assert made[7:] == [5, 5]
    assert encoded._kept_bytes <= 40


async def test_watches_over_rest_are_sent_the_history_in_few_parts_and_later_changes_as_they_come(serving_api) -> None:
    served, sent = await serving_api(), []
    for number in range(30):
        await served.operations.publish(Change(upserts={"default": (ingest(r.static_cluster(f"c{number}", 1)),)}))
    app = rest_api(served.operations, Admission(), body_bytes_max=100_000)
    gone = asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/v1/watch", "raw_path": b"/v1/watch", "headers": headers}
    scope |= {"query_string": b"from=0", "scheme": "http", "client": ("127.0.0.1", 1), "http_version": "1.1"}
    watching = [asyncio.create_task(app(dict(scope), receive, send)) for _ in range(2)]
    await wait_until(lambda: b"".join(sent).count(b"event: change"), equals=60)
    assert len(sent) <= 8
    before = len(sent)
    await served.operations.publish(Change(upserts={"default": (ingest(r.static_cluster("later", 1)),)}))
    await wait_until(lambda: b"".join(sent[before:]).count(b"id: 31\n"), equals=2)
    gone.set()
    await asyncio.gather(*watching)


async def test_a_watch_ends_where_the_log_is_replaced_and_where_the_server_stops(serving_api) -> None:
    served = await serving_api()
    operations = served.operations
    watch = operations.watch(0)
    waiting = asyncio.ensure_future(anext(watch))
    await turns(3)
    operations._publisher.store.epoch = "another"
    operations._publisher._move_to(1)
    with pytest.raises(EpochChangedError):
        await waiting
    waiting = asyncio.ensure_future(anext(operations.watch(operations.revision)))
    await turns(3)
    await operations._publisher.stop()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_a_watch_holds_few_bytes_of_the_log_and_over_rest_no_resources(serving_api, monkeypatch) -> None:
    served = await serving_api()
    for number in range(6):
        resource = ingest(r.static_cluster("a", 1) | {"alt_stat_name": f"{number}" * 1_000})
        await served.operations.publish(Change(upserts={"default": (resource,)}))
    monkeypatch.setattr(operations, "WATCH_BYTES", 2_500)
    pages = served.operations.watch(0)
    whole = [await anext(pages) for _ in range(3)]
    assert [[each.revision for each in page] for page in whole] == [[1, 2], [3, 4], [5, 6]]
    assert all(value for page in whole for each in page for value in each.entry.operations.values())
    monkeypatch.setattr(operations, "WATCH_BYTES", 10)
    light = served.operations.watch(0, values=False)
    for revision in range(1, 7):
        (only,) = await anext(light)
        assert (only.revision, set(only.entry.operations.values())) == (revision, {b""})
