"""``validation.envoy``: a server has a real Envoy judge each change before it is kept."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support import resources as r
from support.envoy import envoy_binary
from support.server import XdsServer

from xds.client import About, Client, RejectedError

pytestmark = pytest.mark.envoy

GOOD: dict[str, Any] = {"connect_timeout": "7s"}
BAD = r.REFUSED_BY_ENVOY
WORDS = f"Envoy: {r.REFUSED_WORDS}"


def client_of(server: XdsServer) -> Client:
    return Client(f"127.0.0.1:{server.api_port}")


def cluster(name: str, fields: dict[str, Any]) -> r.Json:
    return r.static_cluster(name, 1) | fields


async def test_refuse_keeps_nothing_that_envoy_refuses_of_pushes_and_of_the_directory(tmp_path: Path) -> None:
    file = tmp_path / "web" / "clusters.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump({"resources": [cluster("a", GOOD)]}))
    settings = {"validation.envoy": "refuse", "validation.envoy_path": envoy_binary()}
    async with XdsServer(tmp_path, settings=settings) as server, client_of(server) as client:
        await server.wait_ready()
        for dry_run in (True, False):
            with pytest.raises(RejectedError) as caught:
                await client.apply(
                    upsert=[cluster("x", BAD), cluster("y", BAD), cluster("z", GOOD)], about=About(dry_run=dry_run)
                )
            told = [(each.group, each.resource, each.what) for each in caught.value.problems]
            assert told == [("default", "clusters/x", WORDS), ("default", "clusters/y", WORDS)]
        assert (await client.apply(upsert=[cluster("z", GOOD)])).revision == 2
        file.write_text(yaml.safe_dump({"resources": [cluster("a", BAD)]}))
        (problem,) = await server.wait_event("problem")
        assert "clusters.yaml:" in problem["problem"]
        assert "[web] clusters/a " in problem["problem"]
        assert problem["problem"].endswith(WORDS)
        assert (await client.get("clusters", "a", group="web"))["connect_timeout"] == "7s"


async def test_warn_keeps_the_change_and_says_what_envoy_refuses() -> None:
    async with XdsServer(None, settings={"validation.envoy": "warn"}) as server, client_of(server) as client:
        await server.wait_ready()
        applied = await client.apply(upsert=[cluster("x", BAD)])
        assert [(each.resource, each.what) for each in applied.warnings] == [("clusters/x", WORDS)]
        (logged,) = await server.wait_event("Envoy refuses a resource of an accepted change")
        assert logged["problem"].startswith("[default] clusters/x ")
        assert logged["problem"].endswith(WORDS)
        assert (await client.get("clusters", "x"))["name"] == "x"


async def test_a_server_whose_envoy_can_not_judge_does_not_start(tmp_path: Path) -> None:
    broken = tmp_path / "envoy"
    broken.write_text("#!/bin/sh\necho no such option; exit 1\n")
    for mode, told in ((0o755, "refuses even a bootstrap without resources: no such option"), (0o644, "not a program")):
        broken.chmod(mode)
        settings = {"validation.envoy": "warn", "validation.envoy_path": broken}
        async with XdsServer(None, settings=settings) as server:
            assert await server.wait_ended() == 1
            assert told in server.log()
