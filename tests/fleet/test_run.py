"""Whole runs: small fleets against our own server on both transports, and against faulty servers."""

import os
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet.served import Served, forgetful, http_trigger, ours, resources
from support import resources as r
from support.pki import Authority

from xds.address import Address
from xds.embed import ControlPlane
from xds.fleet import calm
from xds.fleet.behaviour import Mix
from xds.fleet.config import NodeOptions, Tls
from xds.fleet.options import FleetOptions
from xds.fleet.run import run
from xds.model.groups import GroupTable, Rule

TRANSPORTS = ("native", "grpcio")


def serving(kind: str, **settings: Any) -> Any:
    return ours(transport={"kind": kind}, **settings)


async def test_a_small_fleet_goes_through_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calm, "TIMEOUT_S", 0.1)  # server and fleet share this process, which is never calm
    async with serving("native") as served:
        result = await run(
            served.options(
                streams=(20, 50),
                workers=2,
                pushes=3,
                push_gaps_ms=(0.0, 20.0),
                warmup_pushes=1,
                newcomers=10,
                reconnect_storm=True,
                server_pids=(os.getpid(),),
            )
        )
    assert result.problems == []
    assert result.resources == {"clusters": 3, "endpoints": 3, "listeners": 1, "routes": 1}
    assert [(step.streams, step.connect.sidecars, step.connect.synced) for step in result.steps] == [
        (20, 20, 20),
        (50, 30, 30),
    ]
    for step in result.steps:
        assert [(series.gap_ms, series.deliveries, series.responses) for series in step.pushes] == [
            (0.0, 3 * step.streams, 3 * step.streams),
            (20.0, 3 * step.streams, 3 * step.streams),
        ]
        for series in step.pushes:
            assert series.latency is not None
            assert 0 < series.latency.p50_ms <= series.latency.p99_ms <= series.latency.last_ms < 20_000
            assert (series.server_cpu_us_per_delivery or 0) > 0
            assert series.bytes_received > 0
        assert step.memory is not None
    came, storm, verified = result.newcomers, result.storm, result.verify
    assert came is not None
    assert (came.synced, came.push.due, came.push.received) == (10, 50, 50)
    assert storm is not None
    assert (storm.sidecars, storm.synced, storm.resources_sent_again) == (60, 60, 0)
    assert storm.probe == "a missing assignment"
    assert verified is not None
    assert (verified.compared, verified.different, verified.excluded) == (60, 0, {})


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_state_of_the_world_goes_through_every_phase_too(kind: str) -> None:
    async with serving(kind) as served:
        result = await run(served.options(sotw=True, pushes=2, newcomers=5, reconnect_storm=True))
    assert result.problems == []
    assert result.resources == {"clusters": 3, "endpoints": 3, "listeners": 1, "routes": 1}
    assert result.storm is not None
    assert (result.storm.synced, result.storm.resources_sent_again) == (55, 0)
    assert "ping" in result.storm.probe


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_misbehaviour_is_left_out_of_latencies_and_counted(kind: str) -> None:
    mix = Mix(stuck=0.1, slow=0.1, nacking=0.1)
    expected = Counter(mix.of(index).name.lower() for index in range(50))
    async with serving(kind) as served:
        result = await run(served.options(mix=mix, pushes=3, slow_interval_s=0.05))
    assert result.problems == []
    assert {name: count for name, count in result.behaviours.items() if count} == expected
    due = expected["well"] + expected["nacking"]
    assert [push.received for push in result.steps[0].pushes[0].pushes] == [due] * 3
    assert result.rejected == 3 * expected["nacking"]
    assert result.verify is not None
    assert result.verify.excluded == {"stuck": expected["stuck"], "nacking": expected["nacking"]}
    assert result.verify.compared == expected["well"] + expected["slow"]


async def test_reconnects_all_the_time_lose_nothing() -> None:
    async with serving("native") as served:
        result = await run(served.options(churn_per_s=500.0, pushes=20, push_gaps_ms=(10.0,)))
    assert result.problems == []
    assert result.churned > 10
    assert result.verify is not None
    assert (result.verify.compared, result.verify.different) == (50, 0)


async def test_sidecars_have_certificates_where_a_server_asks_for_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.server(), authority.client()
    files = {"cert": str(server.cert_path), "key": str(server.key_path), "client_ca": str(authority.cert_path)}
    tls = Tls(str(authority.cert_path), str(client.cert_path), str(client.key_path))
    async with serving("native", tls=files) as served:
        result = await run(served.options(tls=tls, pushes=1, streams=(10,), reconnect_storm=True))
    assert result.problems == []
    assert result.steps[0].connect.synced == 10


async def test_what_nodes_say_of_themselves_reaches_the_server() -> None:
    rule = Rule(group="here", id="mesh-0*", cluster="web", region="r", zone="z", sub_zone="s", metadata={"stage": "x"})
    observer = replace(rule, id="mesh-observer")
    node = NodeOptions(id_prefix="mesh-", cluster="web", region="r", zone="z", sub_zone="s", metadata={"stage": "x"})
    async with serving("native") as served:
        table = GroupTable(rules=(rule, observer), deny_unmatched=True)
        served.ours.replace({"here": resources()}, rules=table)
        result = await run(served.options(node=node, streams=(10,)))
        other = await run(served.options(node=replace(node, sub_zone="t"), streams=(10,)))
    assert (result.problems, result.resources["clusters"]) == ([], 3)
    assert ["grpc-status 7" in problem for problem in other.problems] == [True]


async def test_a_server_of_another_authority_is_not_believed(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    server = authority.server()
    async with serving("native", tls={"cert": str(server.cert_path), "key": str(server.key_path)}) as served:
        result = await run(served.options(tls=Tls(str(other.cert_path))))
    (problem,) = result.problems
    assert "TLS failed" in problem


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_change_of_clusters_counts_when_its_endpoints_are_there_too(kind: str) -> None:
    async with serving(kind) as served:
        number = 0

        async def push() -> None:
            nonlocal number
            number += 1
            name = f"new-{number}"
            served.ours.apply(upsert=[r.cluster(name), r.assignment(name, 1)])

        async with http_trigger(push) as url:
            result = await run(served.options(trigger=url, pushes=2, responses_per_push=2))
    assert result.problems == []
    assert result.verify is not None
    assert result.verify.different == 0


async def test_an_update_that_never_reached_a_sidecar_is_found_and_named() -> None:
    async with forgetful(forgets=("fleet-0000003", "fleet-0000007")) as served:
        result = await run(_two_types(served, pushes=2, timeout_s=2.0))
    assert result.verify is not None
    assert (result.verify.compared, result.verify.different) == (20, 2)
    (problem,) = result.problems
    assert problem == (
        "2 of 20 sidecars differ from a fresh observer; "
        "fleet-0000003: endpoints: 1 differ: has another version or content of a"
    )


async def test_a_push_that_never_arrives_is_a_problem_and_ends_the_series() -> None:
    async with forgetful(silent=("fleet-0000005",)) as served:
        result = await run(_two_types(served, pushes=5, timeout_s=1.0))
    series = result.steps[0].pushes[0]
    assert [(push.due, push.received) for push in series.pushes] == [(20, 19)]
    assert result.problems[0] == "a push: 1 of 20 sidecars did not get it within 1 s"


def _two_types(served: Served, **options: Any) -> FleetOptions:
    return served.options(types=("clusters", "endpoints"), streams=(20,), **options)


async def test_a_subscription_that_is_never_answered_says_which() -> None:
    async with serving("native") as served:
        options = served.options(subscribe={"routes": ("no-such-route",)}, timeout_s=1.0)
        result = await run(options)
    (problem,) = result.problems
    assert problem.endswith("not synced after 1 s: no answer for routes no-such-route")


async def test_a_server_that_stops_is_a_loss_and_an_end() -> None:
    async with serving("native") as served:

        async def push() -> None:
            await served.ours.stop()

        async with http_trigger(push) as url:
            result = await run(served.options(trigger=url, pushes=1, timeout_s=2.0))
    assert result.lost >= 50
    assert any("streams were lost" in problem for problem in result.problems)
    assert [step.connect.synced for step in result.steps] == [50]


async def test_lost_sidecars_come_back_if_that_is_wished_for() -> None:
    async with serving("native") as served, AsyncExitStack() as stack:
        settings = served.ours.settings.model_copy(update={"listen": served.address})

        async def restart() -> None:
            await served.ours.stop()
            successor = ControlPlane(settings)
            successor.replace({"default": resources()})
            await stack.enter_async_context(successor)

        async with http_trigger(restart) as url:
            result = await run(served.options(trigger=url, pushes=1, reconnect_lost=True))
    assert result.lost >= 50
    assert result.verify is not None
    assert (result.verify.compared, result.verify.different) == (50, 0)


async def test_a_port_where_nothing_listens_is_said_so() -> None:
    result = await run(FleetOptions(server=Address("127.0.0.1", 1), streams=(10,), timeout_s=5.0))
    (problem,) = result.problems
    assert problem == "127.0.0.1:1: fleet-observer: connection refused: nothing listens there"


async def test_a_trigger_that_fails_is_said_so() -> None:
    async def push() -> None:
        pass

    async with serving("native") as served, http_trigger(push, status="503 Draining") as url:
        result = await run(served.options(streams=(5,), trigger=url, pushes=3))
    assert [problem for problem in result.problems if "503 Draining" in problem] == result.problems != []
    assert result.steps[0].connect.synced == 5


async def test_a_worker_that_dies_is_reported_with_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    from xds.fleet import links

    started: list[links.WorkerLink] = []
    original = links.WorkerLink.start

    async def start(self: links.WorkerLink, config: Any) -> None:
        await original(self, config)
        started.append(self)

    monkeypatch.setattr(links.WorkerLink, "start", start)

    async def push() -> None:
        os.kill(started[0].pid, 9)

    async with serving("native") as served, http_trigger(push) as url:
        result = await run(served.options(streams=(10,), workers=2, trigger=url, pushes=1))
    (problem,) = result.problems
    assert problem.startswith(f"worker process {started[0].number} (pid {started[0].pid}) was ended by signal 9")
    for link in started:
        with pytest.raises(ProcessLookupError):
            os.kill(link.pid, 0)
