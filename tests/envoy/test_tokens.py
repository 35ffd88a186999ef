"""A real Envoy shows a token that rotates: its stream ends with the old token and goes on with the new one.

See docs/envoy-behaviour.md#tokens.
"""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Literal

import pytest
from support import resources as r
from support import tokens as t
from support.envoy import EnvoyProcess
from support.pki import Authority
from support.server import XdsServer
from support.traffic import Traffic
from support.upstream import Upstreams
from support.waiting import for_a_while

from xds.address import Address
from xds.bootstrap import BootstrapSpec, ClientTls, ClientToken, envoy_bootstrap, token_secret
from xds.model.groups import Node

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(240)]

LIFETIME_S = 15
ROTATES_S = 3
ROTATIONS = 2
BOUND = {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "u"}}


class ProjectedToken:
    """A token in a directory as the kubelet keeps it: a link to a directory that is swapped as a whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._number = 0
        self.rotate()
        (directory / "token").symlink_to("..data/token")
        self.path = directory / "token"

    def rotate(self, *, lifetime_s: int = LIFETIME_S, sub: str = "system:serviceaccount:shop:web") -> None:
        """Replace the token by a new one."""
        before, self._number = self._number, self._number + 1
        new = self.directory / f"..{self._number}"
        new.mkdir()
        (new / "token").write_text(t.kubernetes_token("shop", "web", exp=int(time.time()) + lifetime_s, sub=sub))
        link = self.directory / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self.directory / "..data")
        shutil.rmtree(self.directory / f"..{before}", ignore_errors=True)

    async def keep_rotating(self) -> None:
        """Rotate the token until cancelled, long before it expires."""
        while True:
            await for_a_while(ROTATES_S, "the kubelet rotates a token after 80% of its time")
            self.rotate()


@pytest.mark.parametrize("via", ["injector", "google-grpc"])
async def test_an_envoy_goes_on_with_its_new_token_and_no_request_fails(
    tmp_path: Path, via: Literal["injector", "google-grpc"]
) -> None:
    authority = Authority(tmp_path / "pki")
    pair = authority.issue("server", dns=["localhost"], ips=["127.0.0.1"])
    keys = tmp_path / "jwks.json"
    keys.write_bytes(t.jwks(t.jwk("RS256")))
    token = ProjectedToken(tmp_path / "token")
    issuer = {"name": "east", "issuer": t.ISSUER, "audiences": ["xds"], "jwks_file": str(keys), "kubernetes": True}
    settings = {
        "identity.source": "token",
        "identity.issuers": json.dumps([{**issuer, "trust_domain": "corp"}]),
        "identity.leeway_s": 0,
        "identity.expiry_jitter_s": 1,
        "tls.cert": pair.cert_path,
        "tls.key": pair.key_path,
    }
    directory = tmp_path / "resources"
    client = ClientToken(file=str(token.path), via=via, sds_file=str(tmp_path / "token.json"))
    Path(client.sds_file).write_text(json.dumps(token_secret(client)))
    async with Upstreams("a") as upstreams:
        r.write_directory(directory, r.path_through(port=0, upstream_port=upstreams.ports["a"], source=r.ads()), "shop")
        rule = {"group": "shop", "match": {"identity": "spiffe://corp/ns/shop/sa/*"}}
        (directory / "groups.yaml").write_text(json.dumps({"rules": [rule]}))
        async with XdsServer(directory, settings=settings) as server:
            await server.wait_ready()
            spec = BootstrapSpec(
                node=Node(id="n1", cluster="c1"),
                server=Address("127.0.0.1", server.port),
                tls=ClientTls(ca=str(authority.cert_path)),
                token=client,
                admin_port=0,
            )
            token.rotate()
            rotating = asyncio.create_task(token.keep_rotating())
            async with EnvoyProcess(envoy_bootstrap(spec)) as envoy:
                await envoy.wait_live()
                listener = next(iter((await envoy.dynamic_names())["listeners"]))
                before = await server.wait_metrics(lambda said: said["xds_streams"] == 1 and server.is_quiet(said))
                updates = await envoy.stats("update_success$")
                async with Traffic(await envoy.listener_port(listener), rate=50) as traffic:
                    after = await server.wait_metrics(
                        lambda said: said["xds_tokens_expired_total"] >= ROTATIONS and said["xds_streams"] == 1,
                        timeout_s=90,
                    )
                    await server.wait_metrics(server.is_quiet)
                    report = await traffic.stop()
                rotating.cancel()
                assert (report.failures, report.requests > 100) == (0, True), report
                assert after["xds_responses_total"] == before["xds_responses_total"], "nothing is sent twice"
                assert await envoy.stats("update_success$") == updates
                assert not server.events("a token was refused")
                assert "closed: 16" not in envoy.log()


async def test_an_envoy_whose_token_has_expired_keeps_what_it_has_and_comes_back_with_a_new_one(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_bytes(t.jwks(t.jwk("RS256")))
    token = ProjectedToken(tmp_path / "token")
    issuer = {"name": "east", "issuer": t.ISSUER, "audiences": ["xds"], "jwks_file": str(keys), "kubernetes": True}
    settings = {
        "identity.source": "token",
        "identity.issuers": json.dumps([issuer]),
        "identity.leeway_s": 0,
        "identity.expiry_jitter_s": 0,
    }
    client = ClientToken(file=str(token.path), sds_file=str(tmp_path / "token.json"))
    Path(client.sds_file).write_text(json.dumps(token_secret(client)))
    directory = r.write_directory(tmp_path / "resources", [r.static_cluster("a", 1)])
    async with XdsServer(directory, settings=settings) as server:
        await server.wait_ready()
        spec = BootstrapSpec(
            node=Node(id="n1", cluster="c1"), server=Address("127.0.0.1", server.port), token=client, admin_port=0
        )
        token.rotate(lifetime_s=10)
        async with EnvoyProcess(envoy_bootstrap(spec)) as envoy:
            await envoy.wait_live()
            await envoy.wait_names("clusters", {"a"})
            (refused, *_) = await server.wait_event("a token was refused", timeout_s=40)
            assert refused["reason"] == "expired"
            assert (await envoy.dynamic_names())["clusters"] == {"a"}
            token.rotate(lifetime_s=600)
            await server.wait_metrics(lambda said: said["xds_streams"] == 1, timeout_s=40)
