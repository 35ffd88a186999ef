"""A caller may have some watches open; further ones are refused, and other callers' are not."""

import asyncio
from contextlib import ExitStack

import httpx
import pytest
from support.waiting import wait_until

from xds.api.admission import Admission
from xds.api.intake import BusyError
from xds.api.rest import rest_api
from xds.api.watches import Watches
from xds.limits import LimitHits


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
