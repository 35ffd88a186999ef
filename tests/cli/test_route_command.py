"""``xds route`` and the API below it: the way of a request, of a server's groups and of a directory."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from cli.conftest import Run
from support import resources as r
from support.fetch import fetch
from support.schemas import FILTER, own_filter
from support.server import XdsServer

from xds.client import Client, NotFoundError, RejectedError
from xds.schema.union import encode_set

EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
LUA = {
    "name": "script",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "inline_code": "--"},
}


def resources() -> list[r.Json]:
    shop = r.route("shop", "web", routes=[r.prefix("/cart", "cart")], domains=["shop.example"])
    listener = r.listener("ingress", 8080, "shop")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"].insert(0, LUA)
    return [r.cluster("web"), r.assignment("web", 1001), r.static_cluster("cart", 1002), shop, listener]


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None) as started:
        await started.wait_ready()
        yield started


async def test_the_same_answer_by_every_way(xds: Run, server: XdsServer, tmp_path: Path) -> None:
    address, url = f"127.0.0.1:{server.api_port}", "http://shop.example:8080/cart"
    r.write_directory(tmp_path / "dir", resources())
    async with Client(address) as client:
        await client.apply(upsert=resources())
        found = await client.route(url, headers=["host: shop.example"])
        assert [each["what"] for each in found["steps"]] == [
            *("listeners/ingress", "filter_chains[0]", "routes/shop", "'shop-host'", "routes[0]", "clusters/cart"),
        ]
        assert [each["at"] for each in found["doubts"]] == ["HTTP filter script"]
        assert (found["certain"], found["outcome"]["kind"]) == (False, "clusters")
        assert found["outcome"]["clusters"][0]["endpoints"][0]["address"] == "127.0.0.1:1002"
        path = f"/v1/groups/default/route?url={quote(url, safe='')}&header=host:shop.example"
        assert (await fetch(server.admin_port, path)).json() == found

        async def printed(*arguments: str | Path) -> str:
            done = await asyncio.to_thread(xds, "route", "default", url, "-H", "host: shop.example", *arguments)
            assert done.returncode == 0, done.stderr
            return done.stdout

        said = await printed("--api", address)
        assert "route         routes[0]: prefix '/cart'" in said
        assert "It goes to the cluster cart" in said
        assert "HTTP filter script: runs a script" in said
        assert await printed("--file", tmp_path / "dir") == said
        assert json.loads(await printed("--api", address, "-o", "json")) == found

        await client.apply(remove=[("clusters", "cart")], upsert=[r.route("shop", "web", domains=["shop.example"])])
        assert (await client.route(url, headers=["host: shop.example"]))["outcome"]["clusters"][0]["name"] == "web"
        then = await client.route(url, headers=["host: shop.example"], revision=1)
        assert (then["outcome"], then["revision"]) == (found["outcome"], 1)


async def test_a_group_is_asked_with_what_it_inherits(server: XdsServer) -> None:
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        await client.apply(upsert=resources())
        await client.put_group("canary", extends="default")
        await client.apply(group="canary", upsert=[r.static_cluster("cart", 1009)])
        for revision in (None, 3):
            found = await client.route(
                "http://shop.example:8080/cart", headers=["host: shop.example"], group="canary", revision=revision
            )
            assert found["outcome"]["clusters"][0]["endpoints"][0]["address"] == "127.0.0.1:1009"


async def test_wrong_questions_are_answered_with_what_is_wrong(xds: Run, server: XdsServer) -> None:
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        for url, what in (("ftp://a/", "does not begin with"), ("http:///x", "no host"), ("http://ü/", "not ASCII")):
            with pytest.raises(RejectedError, match=what):
                await client.route(url)
        with pytest.raises(RejectedError, match="is no header"):
            await client.route("http://a/", headers=["nothing"])
        with pytest.raises(NotFoundError):
            await client.route("http://a/", group="none")
    done = await asyncio.to_thread(xds, "route", "default", "ftp://a/", "--api", f"127.0.0.1:{server.api_port}")
    assert (done.returncode, "does not begin with" in done.stderr) == (2, True)
    done = await asyncio.to_thread(xds, "route", "none", "http://a/", "--api", f"127.0.0.1:{server.api_port}")
    assert done.returncode == 4


def test_the_schemas_of_the_environment_count_for_a_directory(xds: Run, tmp_path: Path) -> None:
    (tmp_path / "acme.binpb").write_bytes(encode_set([own_filter()]))
    own = {
        "@type": EXTENSION,
        "name": "greet",
        "typed_config": {"@type": f"type.googleapis.com/{FILTER}", "text": "hi"},
    }
    r.write_directory(tmp_path / "dir", [*resources(), own])
    asked = (
        "route",
        "default",
        "http://shop.example:8080/cart",
        "-H",
        "host: shop.example",
        "--file",
        tmp_path / "dir",
    )
    without = xds(*asked)
    assert (without.returncode, f"unknown type {FILTER}" in without.stderr) == (1, True)
    assert xds(*asked, XDS_SCHEMAS=str(tmp_path / "acme.binpb")).returncode == 0


def test_where_envoy_redirects_to_is_printed(xds: Run, tmp_path: Path) -> None:
    shop = r.route("shop", "web", domains=["shop.example"])
    shop["virtual_hosts"][0]["require_tls"] = "ALL"
    r.write_directory(tmp_path / "dir", [shop, r.listener("ingress", 80, "shop"), r.static_cluster("web", 1)])
    done = xds("route", "default", "http://shop.example/cart", "--file", tmp_path / "dir")
    assert "  location: https://shop.example/cart\n" in done.stdout
