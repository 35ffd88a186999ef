"""Envoy, upstreams and load, proven on a real Envoy without a control plane."""

import json

import pytest
from support import resources as r
from support.bootstrap import static_bootstrap
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.pki import Authority
from support.ports import free_port
from support.processes import ChildFailedError
from support.traffic import Traffic
from support.upstream import Upstreams

pytestmark = pytest.mark.envoy


def through(port: int, *clusters: r.Json, to: str = "a", **listener: object) -> r.Json:
    """Return the bootstrap of an Envoy that answers on one port from static clusters."""
    inline = r.route("r", to, validate_clusters=False)
    return static_bootstrap(listeners=[r.listener("l1", port, inline=inline, **listener)], clusters=clusters)


async def test_an_envoy_goes_live_and_answers_from_the_upstream():
    async with Upstreams("a", "b") as up, EnvoyProcess(through(0, r.static_cluster("a", up.ports["a"]))) as envoy:
        live_ms = await envoy.wait_live()
        assert 10 < live_ms < 3_000
        answer = await fetch(await envoy.listener_port("l1"))
        assert (answer.status, answer.text, answer.headers["x-upstream"]) == (200, "a", "a")
        assert await up.requests() == {"a": 1, "b": 0}
        assert await envoy.nacks() == 0
        assert await envoy.wait_stat("cluster.a.upstream_rq_total") == 1
        assert await envoy.clusters() == {"a": {f"127.0.0.1:{up.ports['a']}": "healthy"}}
        dump = await envoy.wait_config(lambda dump: dump["configs"])
        assert "BootstrapConfigDump" in json.dumps(dump)


async def test_a_rejected_update_is_counted(tmp_path):
    clusters = r.write_file(tmp_path / "cds.yaml", [r.static_cluster("a", 1)])
    bootstrap = static_bootstrap()
    bootstrap["dynamic_resources"] = {"cds_config": {"path_config_source": {"path": str(clusters)}}}
    async with EnvoyProcess(bootstrap) as envoy:
        await envoy.wait_live()
        assert await envoy.nacks() == 0
        r.write_file(clusters, [r.static_cluster("a", 1, lb_policy="CLUSTER_PROVIDED")])
        await envoy.wait_stat("cluster_manager.cds.update_rejected")
        assert await envoy.nacks() == 1


async def test_a_bad_bootstrap_fails_the_wait_with_what_envoy_said():
    async with EnvoyProcess("static_resources: {clusters: [{name: a, nonsense: 1}]}") as envoy:
        with pytest.raises(ChildFailedError, match=r"(?s)ended with 1.*nonsense"):
            await envoy.wait_live()


async def test_a_wait_says_what_it_saw_last():
    async with EnvoyProcess(static_bootstrap()) as envoy:
        await envoy.wait_live()
        said = r"cluster.x.upstream_rq_total below 1: not as wanted within 0.05 s; last seen: 0"
        with pytest.raises(ChildFailedError, match=said):
            await envoy.wait_stat("cluster.x.upstream_rq_total", timeout_s=0.05)


async def test_the_load_of_a_healthy_path_fails_nothing():
    async with Upstreams("a") as up, EnvoyProcess(through(0, r.static_cluster("a", up.ports["a"]))) as envoy:
        await envoy.wait_live()
        async with Traffic(await envoy.listener_port("l1")) as traffic:
            await traffic.wait_requests(500)
            report = await traffic.stop()
    assert (report.failed, report.samples) == ({}, [])
    assert report.requests == report.ok == report.served["a"] >= 500
    assert 0 < report.latency_p50_ms <= report.latency_p99_ms <= report.latency_max_ms


async def test_the_load_sees_the_503_of_a_real_envoy():
    nobody = free_port()
    async with EnvoyProcess(through(0, r.static_cluster("a", nobody))) as envoy:
        await envoy.wait_live()
        async with Traffic(await envoy.listener_port("l1"), rate=500) as traffic:
            await traffic.wait_requests(100)
            report = await traffic.stop()
    assert report.ok == 0
    assert report.failed == {"503": report.requests}
    assert "connect" in report.samples[0].detail


async def test_the_load_sees_a_route_to_a_cluster_that_goes_away_for_a_moment(tmp_path):
    """The failure that make-before-break is about: a file-based CDS drops the cluster of a live route."""
    async with Upstreams("a") as up:
        clusters = r.write_file(tmp_path / "cds.yaml", [r.static_cluster("a", up.ports["a"])])
        bootstrap = through(0)
        bootstrap["dynamic_resources"] = {"cds_config": {"path_config_source": {"path": str(clusters)}}}
        async with EnvoyProcess(bootstrap) as envoy:
            await envoy.wait_live()
            async with Traffic(await envoy.listener_port("l1"), rate=1000) as traffic:
                before = await traffic.wait_requests(100)
                r.write_file(clusters, [])
                await envoy.wait_stat("cluster_manager.cluster_removed")
                await traffic.wait_requests(100)
                r.write_file(clusters, [r.static_cluster("a", up.ports["a"])])
                await envoy.wait_stat("cluster_manager.cluster_added", 2)
                await traffic.wait_requests(100)
                report = await traffic.stop()
    assert before.failed == {}
    assert set(report.failed) == {"503"}
    assert 50 < report.failures < report.requests


async def test_the_load_sees_refused_and_broken_connections():
    async with Upstreams("a") as up, Traffic(up.ports["a"], path="/delay/200", connections=2) as traffic:
        await traffic.wait_requests(2)
        up.worker.kill()
        await traffic.wait_requests(10)
        report = await traffic.stop()
    assert set(report.failed) == {"reset", "connect"}
    assert report.failed["reset"] >= 2  # the two under way, and perhaps a connect in the dying backlog


async def test_the_load_sees_answers_that_never_come():
    async with Upstreams("a") as up, Traffic(up.ports["a"], path="/delay/60000", timeout_s=0.2) as traffic:
        await traffic.wait_requests(3)
        report = await traffic.stop()
    assert set(report.failed) == {"timeout"}
    assert not report.ran_out


async def test_the_load_keeps_its_rate_and_ends_by_itself():
    async with Upstreams("a") as up, Traffic(up.ports["a"], rate=400, seconds_max=1.0) as traffic:
        await traffic.wait_requests(300)
        await traffic.wait_ran_out()
        report = await traffic.stop()
    assert 300 <= report.requests <= 420
    assert report.duration_s < 1.5
    assert report.ran_out


async def test_the_load_bounds_its_requests():
    async with Upstreams("a") as up, Traffic(up.ports["a"], requests_max=100, connections=4) as traffic:
        await traffic.wait_ran_out()
        report = await traffic.stop()
    assert 100 <= report.requests <= 104
    assert report.ran_out


async def test_an_upstream_fails_health_checks_when_told_and_envoy_sees_it():
    async with Upstreams("a") as up:
        checked = r.static_cluster("a", up.ports["a"], health_checks=[r.health_check(0.1)])
        async with EnvoyProcess(through(0, checked)) as envoy:
            await envoy.wait_live()
            await envoy.wait_hosts("a", {up.ports["a"]})
            await up.set_health("a", False)
            await envoy.wait_hosts("a", set())
            assert await envoy.clusters() == {"a": {f"127.0.0.1:{up.ports['a']}": "failed_active_health_check"}}


async def test_tls_on_both_sides_with_throw_away_certificates(tmp_path):
    ca = Authority(tmp_path)
    server = ca.server()
    context = {"filename": str(ca.cert_path)}
    upstream = {
        "@type": r.UPSTREAM_TLS,
        "sni": "localhost",
        "common_tls_context": {"validation_context": {"trusted_ca": context}},
    }
    pair = {"certificate_chain": {"inline_string": server.cert_text}, "private_key": {"inline_string": server.key_text}}
    downstream = {"@type": r.DOWNSTREAM_TLS, "common_tls_context": {"tls_certificates": [pair]}}
    socket = "envoy.transport_sockets.tls"
    async with Upstreams("a", tls=(server.cert_path, server.key_path)) as up:
        cluster = r.static_cluster("a", up.ports["a"], transport_socket={"name": socket, "typed_config": upstream})
        tls = {"name": socket, "typed_config": downstream}
        async with EnvoyProcess(through(0, cluster, tls=tls)) as envoy:
            await envoy.wait_live()
            answer = await fetch(await envoy.listener_port("l1"), tls=ca.client_context())
    assert (answer.status, answer.text) == (200, "a")
