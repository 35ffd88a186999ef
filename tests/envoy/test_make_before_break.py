"""No change of a consistent snapshot costs a request: real requests, from a process of their own, through a real Envoy.

Every test has its counterpart with the ordering off, which must fail requests: else the load could not see a fault.
``XDS_SWAPS`` sets how many changes the main tests make; ``make faults`` makes 40.
"""

import os
import random

import pytest
from support.forms import DELTA_ADS, DELTA_PER_TYPE, ORDERED_FORMS, SOTW_ADS
from support.swaps import (
    WARMING_S,
    generic_route_moves,
    hurry,
    inline_route_moves,
    listener_moves,
    lua_route_moves,
    matcher_route_moves,
    restart,
    route_moves_health_checked,
    swap,
    swap_collectors,
    thrift_route_moves,
)

pytestmark = pytest.mark.envoy

SWAPS = int(os.environ.get("XDS_SWAPS", "16"))
RESTARTS = max(2, SWAPS // 2)
DRAIN_S = 2
"""Below that, Envoy cuts connections that it has not yet asked to close, whoever is its control plane."""


@pytest.mark.parametrize("form", ORDERED_FORMS, ids=str)
async def test_a_route_that_moves_between_clusters_costs_no_request(form):
    report = await swap(swaps=SWAPS, form=form)
    print(f"{form}: {SWAPS} swaps, {report}")
    assert report.failed == {}, report.samples
    assert set(report.served) == {"a", "b"}


@pytest.mark.parametrize("form", ORDERED_FORMS, ids=str)
async def test_without_the_ordering_the_same_fails_requests(form):
    report = await swap(swaps=SWAPS, form=form, ordering=False)
    print(f"{form}: {SWAPS} swaps without ordering, {report}")
    assert report.failed["503"] >= 1


OTHER_ROUTES = [matcher_route_moves, lua_route_moves, generic_route_moves, thrift_route_moves]


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
@pytest.mark.parametrize("state", OTHER_ROUTES)
async def test_routes_of_every_kind_move_between_clusters_at_no_cost(state, form):
    report = await swap(state, swaps=SWAPS, form=form)
    print(f"{form}: {SWAPS} times {state.__name__}, {report}")
    assert report.failed == {}, report.samples
    assert set(report.served) == {"a", "b"}


@pytest.mark.parametrize("state", OTHER_ROUTES)
async def test_without_the_ordering_routes_of_every_kind_fail_requests(state):
    report = await swap(state, swaps=SWAPS, ordering=False)
    print(f"{SWAPS} times {state.__name__} without ordering, {report}")
    assert report.failures >= 1


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE], ids=str)
async def test_a_collector_of_traces_stays_for_as_long_as_a_listener_may_use_it(form):
    """Traces are lost without the cluster, which no request notices: Envoy counts them."""
    counters = await swap_collectors(swaps=2, form=form, drain_s=DRAIN_S)
    print(f"{form}: 2 collectors, {counters}")
    assert counters["reports_sent"] > 0
    assert counters["reports_skipped_no_cluster"] == counters["reports_dropped"] == 0


async def test_without_the_ordering_traces_are_lost():
    counters = await swap_collectors(swaps=2, ordering=False, drain_s=DRAIN_S)
    assert counters["reports_skipped_no_cluster"] + counters["reports_dropped"] >= 1


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE], ids=str)
async def test_changes_that_wait_for_nothing_cost_no_request(form):
    seed = int(os.environ.get("XDS_TEST_SEED", random.randrange(1 << 30)))
    report = await hurry(swaps=4 * SWAPS, seed=seed, form=form)
    print(f"{form}: {4 * SWAPS} swaps in a hurry, {report}")
    assert report.failed == {}, f"seed {seed}: {report.samples}"


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS], ids=str)
async def test_routes_wait_for_clusters_whose_health_check_takes_a_second(form):
    """Per type, Envoy ACKs clusters and endpoints before the check: there is nothing that the routes could wait for."""
    swaps = 3
    report = await swap(route_moves_health_checked, swaps=swaps, form=form)
    print(f"{form}: {swaps} swaps with health checks, {report}")
    assert report.failed == {}, report.samples
    assert report.duration_s > swaps * WARMING_S


async def test_without_the_ordering_a_health_check_fails_requests_for_as_long_as_it_takes():
    report = await swap(route_moves_health_checked, swaps=1, ordering=False)
    assert report.failed["503"] >= 1


@pytest.mark.parametrize("form", [DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE], ids=str)
@pytest.mark.parametrize("state", [inline_route_moves, listener_moves])
async def test_a_cluster_stays_for_as_long_as_a_drained_listener_may_use_it(state, form):
    swaps = 2
    report = await swap(state, swaps=swaps, form=form, drain_s=DRAIN_S)
    print(f"{form}: {swaps} times {state.__name__}, {report}")
    assert report.failed == {}, report.samples
    assert report.duration_s > swaps * DRAIN_S


@pytest.mark.parametrize("state", [inline_route_moves, listener_moves])
async def test_without_the_ordering_a_drained_listener_fails_requests(state):
    report = await swap(state, swaps=2, drain_s=DRAIN_S, ordering=False)
    assert report.failed["503"] >= 1


@pytest.mark.timeout(60 + 12 * RESTARTS)
async def test_restarts_with_changed_state_cost_no_request(tmp_path):
    report = await restart(tmp_path, restarts=RESTARTS)
    print(f"{RESTARTS} restarts, {report}")
    assert report.failed == {}, report.samples
    assert set(report.served) == {"a", "b"}


async def test_restarts_cost_no_request_where_each_stream_comes_back_by_itself(tmp_path):
    """Per type, routes come back whenever their own back-off is over: until then clusters that are gone must stay.

    In SotW no server could spare the requests: it does not know the former cluster, which to leave out is to remove.
    """
    report = await restart(tmp_path, restarts=3, form=DELTA_PER_TYPE, hold_timeout_s=2)
    print(f"delta per type: 3 restarts, {report}")
    assert report.failed == {}, report.samples


async def test_without_the_ordering_restarts_fail_requests(tmp_path):
    """Whether one fails any depends on what Envoy reconnects for first: one restart in many goes well."""
    failed = 0
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        report = await restart(tmp_path / str(number), restarts=max(2, RESTARTS // 4), ordering=False)
        print(f"restarts without ordering, {report}")
        failed += report.failed.get("503", 0)
        if failed:
            break
    assert failed >= 1
