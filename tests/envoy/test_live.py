"""A real Envoy against a real ``xds serve``: LIVE soon, answers through to upstreams, and follows the directory.

The times asserted are wall-clock times of several processes on whatever machine this is: medians, so that one hiccup
of a busy machine fails nothing. They are printed (``pytest -s``, or ``-rP``).
"""

import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
import pytest_asyncio
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import fetch
from support.forms import DELTA_ADS, EVERY_FORM, MUTUAL_TLS, Form, client_tls
from support.pki import Authority
from support.server import XDS, XdsServer
from support.upstream import Upstreams

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

LIVE_MS_MAX = 300
EDIT_MS_MAX = 300
STARTS = 5
EDITS = 20


@dataclass(frozen=True, slots=True)
class Site:
    """A server and its directory: two listeners (plain, and TLS by SDS), and two upstreams (plain, and TLS by SDS)."""

    form: Form
    directory: Path
    authority: Authority
    server: XdsServer
    plain: Upstreams
    secure: Upstreams

    def envoy(self, node_id: str = "n1") -> EnvoyProcess:
        """Return an Envoy of the site's form, not started."""
        tls = client_tls(self.authority, self.authority.client()) if self.form.mutual_tls else None
        return EnvoyProcess(self.form.bootstrap(self.server.port, node_id=node_id, tls=tls))

    def write_endpoints(self, *names: str) -> set[int]:
        """Point the cluster ``a`` to these upstreams, and return their ports."""
        ports = [self.plain.ports[name] for name in names]
        r.write_file(self.directory / "a.yaml", [r.assignment("a", *ports)])
        return set(ports)


@asynccontextmanager
async def serving(form: Form, tmp_path: Path) -> AsyncIterator[Site]:
    """Serve a new directory for Envoys of a form, and run what its endpoints name."""
    authority, source = Authority(tmp_path / "pki"), form.source
    pair = authority.server()
    directory = tmp_path / "served"
    plain, secure = Upstreams("a", "b"), Upstreams("s", tls=(pair.cert_path, pair.key_path))
    async with plain, secure:
        trust = r.upstream_tls("trust", source=source)
        certificate = r.downstream_tls("certificate", source=source)
        resources = [
            r.cluster("a", source=source),
            r.cluster("s", source=source, tls=trust),
            r.assignment("s", secure.ports["s"]),
            r.route("r1", "a", routes=[r.prefix("/secure", "s")]),
            r.listener("plain", 0, "r1", source=source),
            r.listener("tls", 0, "r1", source=source, tls=certificate),
            r.secret("certificate", pair.cert_text, pair.key_text),
            r.validation_secret("trust", authority.cert.decode()),
        ]
        r.write_directory(directory, resources)
        options = ["--tls-cert", str(pair.cert_path), "--tls-key", str(pair.key_path)]
        options += ["--tls-client-ca", str(authority.cert_path)]
        server = XdsServer(directory, *(options if form.mutual_tls else ()))
        made = Site(form, directory, authority, server, plain, secure)
        made.write_endpoints("a")
        async with server:
            await server.wait_ready()
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=EVERY_FORM, ids=str)
async def site(request, tmp_path_factory):
    async with serving(request.param, tmp_path_factory.mktemp("site")) as served:
        yield served


async def test_an_envoy_gets_all_it_needs_once_and_answers_through_to_the_upstreams(site):
    before = await site.server.metrics()
    async with site.envoy() as envoy:
        await envoy.wait_live()
        context = site.authority.client_context()
        for path, name in (("/", "a"), ("/secure", "s")):
            plain = await fetch(await envoy.listener_port("plain"), path)
            assert (plain.status, plain.text) == (200, name)
            tls = await fetch(await envoy.listener_port("tls"), path, tls=context)
            assert (tls.status, tls.text) == (200, name)
        names = await envoy.dynamic_names()
        assert names["clusters"] == names["endpoints"] == {"a", "s"}
        assert names["listeners"] == {"plain", "tls"}
        assert names["routes"] == {"r1"}
        assert await envoy.nacks() == 0
        after = await site.server.wait_metrics(site.server.is_quiet)
        assert "[config]" not in envoy.log()
    grown = {name: after[name] - before[name] for name in after}
    assert grown["xds_nacks_total"] == grown["xds_streams_refused_total"] == grown["xds_streams_closed_total"] == 0
    # 2 clusters, 2 assignments, 2 listeners, 1 route, 2 secrets
    assert grown["xds_resources_sent_total"] == 9


@pytest.mark.alone
async def test_an_envoy_is_live_soon_after_its_start(site):
    times = []
    for number in range(STARTS):
        async with site.envoy(f"n{number}") as envoy:
            times.append(await envoy.wait_live())
            assert await envoy.nacks() == 0
    shown = ", ".join(f"{ms:.0f}" for ms in times)
    print(f"{site.form}: exec to LIVE {shown} ms; median {median(times):.0f} ms")
    assert median(times) < LIVE_MS_MAX


@pytest.mark.alone
async def test_an_edited_endpoints_file_is_live_soon(site):
    async with site.envoy() as envoy:
        await envoy.wait_live()
        port, times = await envoy.listener_port("plain"), []
        for number in range(EDITS):
            name = "ba"[number % 2]
            began = time.monotonic()
            ports = site.write_endpoints(name)
            await envoy.wait_hosts("a", ports)
            times.append((time.monotonic() - began) * 1000)
            assert (await fetch(port)).text == name
        assert await envoy.nacks() == 0
    ranked = sorted(times)
    print(
        f"{site.form}: edit of an endpoints file to live in Envoy, of {EDITS}: min {ranked[0]:.0f} ms, "
        f"median {median(times):.0f} ms, max {ranked[-1]:.0f} ms"
    )
    assert median(times) < EDIT_MS_MAX


async def test_the_bootstrap_that_the_command_prints_is_all_an_envoy_needs(tmp_path):
    async with serving(DELTA_ADS, tmp_path) as served:
        argv = [XDS, "bootstrap", "--node-id", "n1", "--cluster", "c1", "--server", f"127.0.0.1:{served.server.port}"]
        printed = subprocess.run([*argv, "--admin-port", "0"], capture_output=True, text=True, timeout=30, check=True)
        async with EnvoyProcess(printed.stdout) as envoy:
            await envoy.wait_live()
            assert (await fetch(await envoy.listener_port("plain"))).text == "a"


async def test_an_envoy_without_a_client_certificate_gets_nothing_by_mtls(tmp_path):
    form = MUTUAL_TLS
    async with serving(form, tmp_path) as served:
        tls = client_tls(served.authority, Authority(tmp_path / "other").client())
        async with EnvoyProcess(form.bootstrap(served.server.port, tls=tls, fetch_timeout_s=0.5)) as envoy:
            await envoy.wait_live()  # it gives up waiting, and serves nothing
            names = await envoy.dynamic_names()
        assert names == {"clusters": set(), "listeners": set(), "routes": set(), "endpoints": set()}
        assert (await served.server.metrics())["xds_streams_opened_total"] == 0
