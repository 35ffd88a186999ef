"""``xds.routing`` against a real Envoy: the same requests, through the same resources, served by our server."""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from routing.managers import (
    PRIORITIES,
    SOURCE_PORTS,
    SOURCES,
    priority_clusters,
    priority_manager,
    scenes,
    source_listeners,
    subset_clusters,
)
from routing.tables import UPSTREAMS, Case, matcher_cases, matcher_hosts, says, shop_cases, table
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import Answer, _parse
from support.forms import DELTA_ADS
from support.pki import Authority
from support.resources import Json
from support.server import XdsServer
from support.upstream import Upstreams

from xds.routing.answer import Answer as Way
from xds.routing.answer import ClusterWay
from xds.routing.evaluate import find_way
from xds.routing.request import Request, read_request
from xds.routing.resources import Resources
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
AT_ONCE = 20
TLS_INSPECTOR = {
    "name": "envoy.filters.listener.tls_inspector",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
}
NORMALIZING = {
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
    "strip_any_host_port": True,
}
NORMALIZED = (
    *(
        "/a/../cart",
        "/./cart",
        "//cart",
        "/a/b/..",
        "/%63art",
        "/cart%2f3",
        "/cart%2F..%2Fold?x=%2f",
        "/..",
        "/a/./",
        "/a\\cart",
    ),
    *("/%7Euser", "/%zz", "/cart/%2e%2e/old", "/a//b///c", "/%41%2f"),
)
CHAINS: dict[str, Json] = {
    "exact": {"server_names": ["a.example"]},
    "exact with alpn": {"server_names": ["a.example"], "application_protocols": ["h2"]},
    "suffix": {"server_names": ["*.example"]},
    "longer suffix": {"server_names": ["*.b.example", "b.example"]},
    "only alpn": {"application_protocols": ["special"]},
    "no backtracking": {"server_names": ["c.example"], "application_protocols": ["special"]},
    "tls": {"transport_protocol": "tls"},
    "loopback": {"transport_protocol": "tls", "source_type": "EXTERNAL"},
}


@dataclass(frozen=True, slots=True)
class Scene:
    """An Envoy that follows our server, and the resources that it has."""

    envoy: EnvoyProcess
    resources: Resources
    authority: Authority


def listeners(authority: Authority) -> list[Json]:
    """Return the listeners of the scene."""
    pair = authority.server()
    socket = r.downstream_tls("certificate")
    ignoring = {"ignore_port_in_host_matching": True, "ignore_path_parameters_in_path_matching": True}
    scopes = {
        "name": "scopes",
        "scope_key_builder": {
            "fragments": [
                {
                    "header_value_extractor": {
                        "name": "x-scope",
                        "element_separator": ";",
                        "element": {"key": "t", "separator": "="},
                    }
                },
                {"header_value_extractor": {"name": "x-zone", "index": 0}},
            ]
        },
        "rds_config_source": r.ads(),
        "scoped_rds": {"scoped_rds_config_source": r.ads()},
    }
    scoped = r.http_manager("unused") | {"scoped_routes": scopes}
    del scoped["rds"]
    chains = []
    for number, (name, match) in enumerate(CHAINS.items()):
        hosts = [{"name": name, "domains": ["*"], "routes": [says({"prefix": "/"}, 200, name)]}]
        manager = r.http_manager(inline=table(f"chain-{number}", hosts))
        filters = [{"name": "http", "typed_config": manager}]
        chains.append({"name": name, "filter_chain_match": match, "filters": filters, "transport_socket": socket})
    plain = r.http_manager(
        inline=table("plain", [{"name": "plain", "domains": ["*"], "routes": [says({"prefix": "/"}, 299)]}])
    )
    by_chain = {
        "@type": r.LISTENER,
        "name": "chains",
        "address": r.address(0),
        "listener_filters": [TLS_INSPECTOR],
        "filter_chains": chains,
        "default_filter_chain": {"name": "rest", "filters": [{"name": "http", "typed_config": plain}]},
    }
    return [
        r.listener("shop", 0, "shop"),
        r.listener("matchers", 0, "matchers"),
        r.filter_listener("normalizing", 0, "http", r.http_manager("shop", **NORMALIZING)),
        r.listener("ignoring", 0, inline=table("ignoring", validate_clusters=False, **ignoring)),
        r.filter_listener("scoped", 0, "http", scoped),
        by_chain,
        r.filter_listener("priorities", 0, "http", priority_manager()),
        *(r.filter_listener(name, 0, "http", manager) for name, (manager, _) in scenes().items()),
        *source_listeners(),
        r.secret("certificate", pair.cert_text, pair.key_text),
        r.scoped_route("one", "scope-one", "x") | {"key": {"fragments": [{"string_key": "x"}, {"string_key": "eu"}]}},
        r.scoped_route("two", "scope-two", "y") | {"key": {"fragments": [{"string_key": "y"}, {"string_key": "eu"}]}},
        *(
            table(f"scope-{name}", [{"name": name, "domains": ["*"], "routes": [says({"prefix": "/"}, status)]}])
            for name, status in (("one", 210), ("two", 211))
        ),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    directory = tmp_path_factory.mktemp("routing")
    authority = Authority(directory / "pki")
    async with Upstreams(*UPSTREAMS) as upstreams:
        resources = [
            *(r.static_cluster(name, upstreams.ports[name]) for name in UPSTREAMS),
            *subset_clusters(upstreams.ports["web"]),
            *priority_clusters([upstreams.ports["web"], upstreams.ports["api"]]),
            table(validate_clusters=False),
            table("matchers", matcher_hosts()),
            *listeners(authority),
        ]
        r.write_directory(directory / "served", resources)
        (directory / "served" / "groups.yaml").write_text("external:\n- clusters/nowhere\n")
        server = XdsServer(directory / "served")
        async with server:
            await server.wait_ready()
            async with EnvoyProcess(DELTA_ADS.bootstrap(server.port)) as envoy:
                await envoy.wait_live()
                decoded = Resources.of(load_schema(), (ingest(each) for each in resources))
                yield Scene(envoy, decoded, authority)


async def send(
    port: int, request: Request, tls: ssl.SSLContext | None = None, source: tuple[str, int] | None = None
) -> Answer | None:
    """Return Envoy's answer to a request, None if it closes the connection."""
    target = request.host if request.method == "CONNECT" else request.path
    head = [f"{request.method} {target} HTTP/1.1", f"host: {request.host}"]
    head += [f"{name}: {value}" for name, value in request.headers if name[0] != ":"]
    if not request.values("connection") and request.method != "CONNECT":
        head.append("connection: close")
    if request.method != "CONNECT" and not request.values("upgrade"):
        head.append("content-length: 0")
    text = "\r\n".join([*head, "", ""])
    server_name = request.server_name or "" if tls else None
    async with asyncio.timeout(20):
        connection = _bound(source or ("127.0.0.1", 0))
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=server_name)
        except (OSError, ssl.SSLError):
            connection.close()
            return None
        writer.write(text.encode())
        data = await _read_answer(reader)
        writer.transport.abort()
    return _parse(data, request.method) if data else None


def _bound(source: tuple[str, int]) -> socket.socket:
    """Return a socket that connects from an address, which is free again as soon as it is closed."""
    bound = socket.socket()
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bound.bind(source)
    return bound


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    """Return one answer. Envoy keeps the connection open for a second after some."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionResetError:
        return b""
    length = re.search(rb"content-length: (\d+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


def seen(answer: Answer | None) -> dict[str, Any]:
    """Return what Envoy's answer says of the way."""
    if answer is None:
        return {"closed": True}
    found: dict[str, Any] = {"status": answer.status}
    for key, name in (
        ("x-virtual-host", "host"),
        ("x-route", "route"),
        ("location", "location"),
        ("x-upstream", "cluster"),
    ):
        if key in answer.headers:
            found[name] = answer.headers[key]
    if "cluster" in found:
        found |= (
            {"path": answer.headers["x-path"], "authority": answer.headers["x-authority"]}
            if "x-path" in answer.headers
            else {}
        )
    return found


def expected(way: Way) -> list[dict[str, Any]]:
    """Return what Envoy may answer, by our evaluation: one thing for each cluster."""
    outcome = way.outcome
    steps = {each.stage: each.what for each in way.steps}
    found: dict[str, Any] = {}
    if outcome.kind == "error" and outcome.status is None:
        return [{"closed": True}]
    route = re.match(r"routes\[(\d+)\]", steps.get("route", ""))
    if steps.get("virtual host", "none") != "none" and steps.get("route", "none") != "none":
        found["host"] = steps["virtual host"].strip("'")
        if route:
            found["route"] = route[1]
    if outcome.location:
        found["location"] = outcome.location
    if outcome.status is not None:
        named = found | {"status": outcome.status}
        return [named, {"status": 403}] if "the upgrade to" in outcome.what else [named]
    if way.request["method"] == "CONNECT":  # Envoy answers as soon as it has a connection to the endpoint
        return [found | {"status": 200}]
    if "route" not in found:
        return [found | {"status": 200, "cluster": each.name} for each in outcome.clusters]
    return [
        _through(found | {"path": outcome.path, "authority": each.host or outcome.host}, each)
        for each in outcome.clusters
    ]


def _through(found: dict[str, Any], cluster: ClusterWay) -> dict[str, Any]:
    """Return what Envoy answers by way of a cluster. Those with subsets have the endpoint of another one."""
    if cluster.endpoints_total == 0:
        return {key: found[key] for key in ("host", "route")} | {"status": 503}
    return found | {"status": 200, "cluster": "web" if cluster.name.startswith("subsets") else cluster.name}


async def compare(scene: Scene, listener: str, cases: Iterable[Case], tls: bool = False) -> tuple[int, list[str]]:
    """Send requests and return how many there were, and where Envoy and we differ."""
    port = await scene.envoy.listener_port(listener)
    differences: list[str] = []
    count = 0

    async def one(case: Case) -> None:
        request = read_request(
            case.url, method=case.method, headers=case.headers, listener=listener, source="127.0.0.1"
        )
        way = find_way(scene.resources, request, hides_secrets=False)
        answer = seen(await send(port, request))
        if answer not in expected(way):
            differences.append(f"{case}: Envoy {answer}, we {expected(way)}; {way.doubts}")

    batch: list[Case] = []
    for case in [*cases, None]:
        if case is not None:
            batch.append(case)
            count += 1
        if case is None or len(batch) == AT_ONCE:
            await asyncio.gather(*map(one, batch))
            batch.clear()
    return count, differences


async def test_requests_take_the_routes_that_we_say(scene: Scene) -> None:
    count, differences = await compare(scene, "shop", shop_cases())
    assert not differences, "\n".join(differences)
    assert count >= 100


async def test_every_matcher_of_headers_queries_and_cookies_is_evaluated_as_envoy_does(scene: Scene) -> None:
    count, differences = await compare(scene, "matchers", matcher_cases())
    assert not differences, "\n".join(differences)
    assert count >= 300


@pytest.mark.parametrize("name", list(scenes()))
async def test_managers_change_and_refuse_requests_as_we_say(scene: Scene, name: str) -> None:
    cases = scenes()[name][1]
    count, differences = await compare(scene, name, cases)
    assert not differences, "\n".join(differences)
    assert count == len(cases)


async def test_paths_are_normalized_as_envoy_does(scene: Scene) -> None:
    cases = [Case(f"http://shop.example:81{path}") for path in NORMALIZED]
    assert await compare(scene, "normalizing", cases) == (len(NORMALIZED), [])


async def test_ports_and_path_parameters_can_be_ignored(scene: Scene) -> None:
    hosts = [
        Case("http://any.example/cart;v=1/x", headers=(f"host: {host}",))
        for host in ("shop.example:81", "www.shop.example:8080", "api.x:1", "case.example:80", "[::1]:80")
    ]
    paths = [
        Case(f"http://shop.example{path}")
        for path in ("/cart;v=1", "/robots.txt;x", "/items/5;a/reviews", "/cart/;a?b")
    ]
    assert await compare(scene, "ignoring", [*hosts, *paths]) == (9, [])


async def test_scopes_are_chosen_by_their_keys(scene: Scene) -> None:
    cases = [
        Case("http://any.example/", headers=headers)
        for headers in (
            *(("x-scope: t=x", "x-zone: eu"), ("x-scope: a=b;t=y", "x-zone: eu"), ("x-scope: t=x",), ("x-zone: eu",)),
            *(("x-scope: t=x;t=y", "x-zone: eu"), ("x-scope: t", "x-zone: eu"), ("x-scope: t=x", "x-zone: us")),
        )
    ]
    assert await compare(scene, "scoped", cases) == (7, [])


async def test_filter_chains_are_chosen_by_server_name_and_protocol(scene: Scene) -> None:
    port = await scene.envoy.listener_port("chains")
    differences = []
    names = (
        "a.example",
        "A.example",
        "x.example",
        "b.example",
        "x.b.example",
        "y.x.b.example",
        "c.example",
        "other.test",
        "",
    )
    protocols = ((), ("h2", "http/1.1"), ("http/1.1",), ("special",), ("special", "h2"))
    for name in names:
        for alpn in protocols:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if alpn:
                context.set_alpn_protocols(list(alpn))
            request = read_request(f"https://{name or '127.0.0.1'}/", listener="chains", source="127.0.0.1")
            object.__setattr__(request, "alpn", alpn)
            way = find_way(scene.resources, request)
            answer = await send(port, request, context)
            said = "closed" if answer is None else answer.text
            ours = "closed" if way.outcome.kind == "error" else way.outcome.body
            if said != ours:
                differences.append(f"{name!r} {alpn}: Envoy {said!r}, we {ours!r}: {way.steps[1:2]}")
    request = read_request("http://a.example/", listener="chains", source="127.0.0.1")
    answer = await send(port, request)
    assert answer is not None
    assert (answer.status, find_way(scene.resources, request).outcome.status) == (299, 299)
    assert not differences, "\n".join(differences)


async def test_priorities_share_the_requests_as_we_say(scene: Scene) -> None:
    port = await scene.envoy.listener_port("priorities")
    for name in PRIORITIES:
        request = read_request(f"http://any.example/{name}", listener="priorities")
        answers = [await send(port, request) for _ in range(200)]
        first = sum(answer is not None and answer.headers["x-upstream"] == "web" for answer in answers) / 2
        (cluster,) = find_way(scene.resources, request).outcome.clusters
        share = re.match(r"(\d+)% to priority 0", cluster.note)
        assert share is not None
        assert abs(first - int(share[1])) < 18, f"{name}: {first}% to priority 0, {cluster.note}"


async def test_filter_chains_are_chosen_by_the_source(scene: Scene) -> None:
    differences = []
    for name in SOURCES:
        port = await scene.envoy.listener_port(name)
        for number, host in enumerate(("127.0.0.1", "127.0.0.2", "127.1.0.1", "127.1.1.1", "127.2.0.1", "127.3.0.1")):
            for own in (SOURCE_PORTS[name], SOURCE_PORTS[name] + 1 + number):
                request = read_request("http://127.0.0.1/", listener=name, source=f"{host}:{own}")
                way = find_way(scene.resources, request)
                answer = await send(port, request, source=(host, own))
                said = None if answer is None else answer.text
                if (said or "") != way.outcome.body or not way.is_certain:
                    differences.append(f"{name} {host}:{own}: Envoy {said!r}, we {way.outcome}: {way.steps[1]}")
    assert not differences, "\n".join(differences)
