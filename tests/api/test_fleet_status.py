"""The status of the fleet: the nodes of each group by state, the oldest change that is not accepted, the server."""

from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
import pytest
from support import resources as r

from xds.api.admission import Admission
from xds.api.fleet import Unaccepted, group_statuses, oldest_of
from xds.api.rest import rest_api
from xds.protocol.convergence import Debt, Debts
from xds.publishing.changes import Change
from xds.schema.ingest import ingest
from xds.store.errors import CompactedError


async def times(revisions: Iterable[int]) -> Mapping[int, int]:
    return {each: each * 1_000 for each in revisions if each > 3}


async def test_nodes_are_counted_by_group_and_state() -> None:
    owing = {
        "web": {Debt(): 7, Debt(owed=5): 2, Debt(owed=9, rejected=4): 1, Debt(owed=9): 3},
        "api": {Debt(owed=3): 1},
    }
    debts = Debts(revision=6, by_group=owing)
    groups = {"web": 6, "api": 3, "empty": 0}
    api, empty, web = await group_statuses(debts, {"web": 4, "empty": 1}, groups, revision=6, at_ms=times)
    assert (web.name, web.accepted, web.pending, web.rejected, web.gone, web.nodes) == ("web", 10, 2, 1, 4, 17)
    assert web.oldest_unaccepted == Unaccepted(revision=4, at_ms=4_000)
    assert (api.pending, api.oldest_unaccepted) == (1, Unaccepted(revision=3, at_ms=None))
    assert (empty.name, empty.nodes, empty.gone, empty.oldest_unaccepted) == ("empty", 1, 1, None)


async def test_the_gone_nodes_of_a_removed_group_are_counted_too() -> None:
    gone = {"web": 1, "removed": 3, "nobody": 0}
    removed, web = await group_statuses(Debts(revision=6, by_group={}), gone, {"web": 6}, revision=6, at_ms=times)
    assert (removed.name, removed.revision, removed.nodes, removed.gone) == ("removed", 0, 3, 3)
    assert (web.name, web.nodes) == ("web", 1)


@pytest.mark.parametrize("last", [0, 6])
async def test_a_node_that_has_accepted_nothing_yet_is_told(last: int) -> None:
    debts = Debts(revision=6, by_group={"web": {Debt(): 2, Debt(owed=1): 1}, "api": {Debt(owed=1): 1, Debt(owed=5): 1}})
    api, web = await group_statuses(debts, {}, {"web": last, "api": 6}, revision=6, at_ms=times)
    assert api.oldest_unaccepted == Unaccepted(revision=5, at_ms=5_000, is_everything=True)
    assert web.oldest_unaccepted is not None
    assert (web.oldest_unaccepted.revision, web.oldest_unaccepted.is_everything) == (last, True)


@pytest.mark.parametrize(
    ("counts", "oldest"),
    [
        ({}, None),
        ({Debt(): 3}, None),
        ({Debt(owed=1): 1}, 8),
        ({Debt(owed=1): 1, Debt(owed=6): 1}, 6),
        ({Debt(rejected=1): 1}, 8),
        ({Debt(owed=7, rejected=5): 1}, 5),
    ],
)
def test_who_has_just_connected_lacks_the_last_change(counts: dict[Debt, int], oldest: int | None) -> None:
    assert oldest_of(counts, 8) == oldest


@pytest.fixture
async def served(serving_api):
    return await serving_api()


@pytest.fixture
async def api(served) -> AsyncIterator[httpx.AsyncClient]:
    rest = rest_api(served.operations, Admission(), body_bytes_max=1_000_000)
    transport = httpx.ASGITransport(app=rest)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def pushed(served, name: str) -> int:
    resource = ingest(r.static_cluster(name, 1))
    return (await served.operations.publish(Change(upserts={"default": (resource,)}))).revision


async def test_a_status_has_what_the_contract_says(served, api: httpx.AsyncClient) -> None:
    first, second = await pushed(served, "a"), await pushed(served, "b")
    served.debts = {"default": {Debt(): 2, Debt(owed=second): 1}}
    answer = await api.get("/v1/status")
    told = answer.json()
    assert answer.headers["etag"] == f'"{second}"'
    (group,) = told["groups"]
    (head,) = (await api.get("/v1/revisions", params={"limit": 1})).json()["revisions"]
    assert group == {
        "name": "default",
        "revision": second,
        "nodes": 5,
        "accepted": 2,
        "pending": 1,
        "rejected": 0,
        "gone": 2,
        "oldest_unaccepted": {"revision": second, "at_ms": head["at_ms"], "is_everything": False},
    }
    assert told["server"] == {"version": "1", "schema_of": "1.40.0", "replica": "one", "started_at_ms": 1_000}
    assert (told["revision"], told["store"]["kind"], told["workers"]) == (
        second,
        "memory",
        {"serving": 2, "silent": [], "missing": 0},
    )
    assert told["replicas"][0]["state"] == "self"
    assert (told["directory"]["path"], told["limits"], told["problems"]) == ("/d", {"streams": 3}, ["something"])
    assert told["certificates"][0]["expires_at_ms"] == 9_000
    assert first < second


async def test_a_change_that_is_no_longer_kept_has_no_time(served, api: httpx.AsyncClient, monkeypatch) -> None:
    first = await pushed(served, "a")
    served.debts = {"default": {Debt(owed=first): 1}}

    async def gone(*_: object) -> None:
        raise CompactedError(1, 2)

    monkeypatch.setattr(served.store, "summaries", gone)
    (group,) = (await api.get("/v1/status")).json()["groups"]
    assert group["oldest_unaccepted"] == {"revision": first, "at_ms": None, "is_everything": first == 1}
