"""The REST push API, called over ASGI as by any HTTP client."""

import asyncio
import json
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import yaml
from google.protobuf.any_pb2 import Any as AnyMessage
from starlette.types import ASGIApp, Message
from support import resources as r

from xds._generated import snapshots_pb2 as pb
from xds.access.authenticator import Authenticator
from xds.api.admission import Admission
from xds.api.rest import rest_api
from xds.model.groups import Node
from xds.model.types import CLUSTER, WRAPPER_URL
from xds.protocol.paging import NodeState
from xds.protocol.status import NodeSummary, TypeSummary
from xds.schema.ingest import ingest
from xds.store.errors import OutcomeUnknownError, TooLargeError, UnavailableError

A, B = r.static_cluster("a", 1), r.static_cluster("b", 1)
BODY_MAX = 1_000_000


def app_of(served, admission: Admission | None = None) -> ASGIApp:
    return rest_api(served.operations, admission or Admission(), body_bytes_max=BODY_MAX)


def client_of(served, admission: Admission | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app_of(served, admission), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://api")


async def streamed(app: ASGIApp, path: str, query: str, count: int) -> list[str]:
    """Return the first parts of an answer that does not end (httpx would wait for its end)."""
    parts: asyncio.Queue[str] = asyncio.Queue()
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "root_path": "", "headers": []}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": query.encode()}

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nothing is said to it")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            parts.put_nowait(message["body"].decode())

    answering = asyncio.create_task(app(scope, receive, send))
    try:
        return [await asyncio.wait_for(parts.get(), 5) for _ in range(count)]
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


@pytest.fixture
async def served(serving_api):
    return await serving_api()


@pytest.fixture
async def api(served) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(served) as client:
        yield client


async def push(api: httpx.AsyncClient, group: str = "default", **body: object) -> httpx.Response:
    return await api.post(f"/v1/groups/{group}/changesets", json=body)


async def test_a_changeset_is_made_and_told(api: httpx.AsyncClient) -> None:
    answer = await push(api, upsert=[A, B], message="first", author="ann")
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert answer.json() == {
        "revision": 1,
        "changed": [
            {"group": "default", "type": "clusters", "name": "a", "change": "added"},
            {"group": "default", "type": "clusters", "name": "b", "change": "added"},
        ],
        "unchanged": [],
        "again": False,
        "rules_changed": False,
        "warnings": [],
    }
    answer = await push(api, upsert=[A], remove=[{"type": "clusters", "name": "b"}])
    assert answer.json()["changed"] == [{"group": "default", "type": "clusters", "name": "b", "change": "removed"}]
    assert answer.json()["unchanged"] == [{"group": "default", "type": "clusters", "name": "a"}]
    history = (await api.get("/v1/revisions")).json()["revisions"]
    assert [(each["revision"], each["author"], each["message"], each["operations"]) for each in history] == [
        (2, "", "", 1),
        (1, "ann", "first", 2),
    ]


async def test_bodies_are_json_yaml_or_protobuf(api: httpx.AsyncClient) -> None:
    text = yaml.safe_dump({"upsert": [A]})
    answer = await api.post("/v1/groups/y/changesets", content=text, headers={"content-type": "application/yaml"})
    assert answer.status_code == 200
    message = pb.Changeset(upsert=[AnyMessage.FromString(ingest(A).body)], about=pb.About(id="p"))
    content, kind = message.SerializeToString(), {"content-type": "application/x-protobuf"}
    answer = await api.post("/v1/groups/p/changesets", content=content, headers=kind)
    assert answer.status_code == 200, answer.text
    yaml_answer = await api.get("/v1/groups/y/snapshot", headers={"accept": "application/yaml"})
    json_answer = await api.get("/v1/groups/p/snapshot")
    assert yaml.safe_load(yaml_answer.text)["resources"] == json_answer.json()["resources"]
    raw = await api.get("/v1/groups/p/snapshot", headers={"accept": "application/x-protobuf"})
    snapshot = pb.Snapshot.FromString(raw.content)
    assert [each.SerializeToString() for each in snapshot.resources] == [ingest(A).body]
    answer = await api.post("/v1/groups/p/changesets", content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


async def test_a_resource_is_found_whatever_the_order_of_its_context_parameters(api: httpx.AsyncClient) -> None:
    ordered, other = (f"xdstp://x/envoy.config.cluster.v3.Cluster/a?{query}" for query in ("a=1&b=2", "b=2&a=1"))
    paths = [f"/v1/groups/default/resources/clusters/{quote(name, safe='')}" for name in (ordered, other)]
    assert (await api.put(paths[1], json=A | {"name": other})).json()["revision"] == 1
    assert [(await api.get(path)).json()["name"] for path in paths] == [ordered, ordered]
    assert (await api.get(paths[1], params={"revision": 1})).json()["name"] == ordered
    assert (await api.delete(paths[1])).json()["revision"] == 2
    assert (await api.get(paths[0])).status_code == 404
    changes = {"upsert": [A | {"name": ordered}], "remove": [{"type": "clusters", "name": other}]}
    assert (await api.post("/v1/groups/default/changesets", json=changes)).status_code == 422


async def test_one_resource_is_put_read_and_deleted(api: httpx.AsyncClient) -> None:
    path = "/v1/groups/default/resources/clusters/a"
    assert (await api.get(path)).status_code == 404
    assert (await api.put(path, json=A)).json()["revision"] == 1
    answer = await api.get(path)
    assert (answer.json()["name"], answer.headers["x-xds-version"]) == ("a", ingest(A).version)
    assert (await api.put(path, json=answer.json())).json() | {"changed": []} == {
        "revision": 1,
        "changed": [],
        "unchanged": [{"group": "default", "type": "clusters", "name": "a"}],
        "again": False,
        "rules_changed": False,
        "warnings": [],
    }
    assert (await api.get(path, params={"revision": 0})).status_code == 404
    assert (await api.delete(path)).json()["revision"] == 2
    assert (await api.delete(path)).json() == {
        "revision": 2,
        "changed": [],
        "unchanged": [{"group": "default", "type": "clusters", "name": "a"}],
        "again": False,
        "rules_changed": False,
        "warnings": [],
    }
    assert (await api.get(path, params={"revision": 1})).json()["name"] == "a"


async def test_names_and_types_are_escaped(api: httpx.AsyncClient) -> None:
    name, kind = "a/b ü%2F?", quote(CLUSTER, safe="")
    path = f"/v1/groups/default/resources/{kind}/{quote(name, safe='')}"
    assert (await api.put(path, json=r.static_cluster(name, 1))).status_code == 200
    assert (await api.get(path)).json()["name"] == name
    answer = await api.put(path, json=A)
    assert answer.status_code == 422
    assert (await api.get("/v1/groups/default/resources/klusters/a")).status_code == 422


ODD_NAMES = [
    *("a\nb", "a\n", "\n", "a\r", "\t", "\x00", "\x7f", "\x1b[2J", " ", " a "),
    *("\u2028", "\u202e", "\ufeff", "名", "e\u0301", "é", "n" * 4_000),
    *("a/b", "/a", "a/", "//", "../a", "a/../b", "a?b=c", "#", "%", "%2F"),
    *("%0A", "a;b", "a\\b", "+", "&", '"', "'", "[::1]:80", "*"),
    *("xdstp://authority/type/a?a=2&b=1#c", "outbound|80||web.default.svc.cluster.local"),
]
"""Names that resources may have; Envoy takes all of them. Most HTTP clients do not send a path that ends in ``.``."""


async def test_every_name_can_be_set_read_listed_and_removed(api: httpx.AsyncClient) -> None:
    for name in ODD_NAMES:
        path = f"/v1/groups/default/resources/clusters/{quote(name, safe='')}"
        answer = await api.put(path, json=r.static_cluster(name, 1))
        assert answer.status_code == 200, (name, answer.text)
        assert (await api.get(path)).json()["name"] == name
        assert "connect_timeout" in (await api.get(path, headers={"accept": "application/yaml"})).text
    listed = (await api.get("/v1/groups/default/snapshot")).json()["resources"]
    assert sorted(each["name"] for each in listed) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        path = f"/v1/groups/default/resources/clusters/{quote(name, safe='')}"
        assert len((await api.delete(path)).json()["changed"]) == 1, name
        assert (await api.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("DELETE", "/v1/groups/default?dry_run=true", "has no such parameter"),
        ("DELETE", "/v1/groups/default/resources/clusters/a?dry_run=1", "has no such parameter"),
        ("POST", "/v1/groups/default/changesets?dry_run=true", "it has"),
        ("GET", "/v1/groups/default/snapshot?revison=1", "did you mean revision?"),
        ("GET", "/v1/nodes?serch=a", "did you mean search?"),
    ],
)
async def test_an_unknown_query_parameter_is_refused(api: httpx.AsyncClient, method: str, path: str, told: str) -> None:
    """Ignored, a typo would be an answer to another question, or a change that was meant to be tried."""
    await push(api, upsert=[A])
    body = {"upsert": [A | {"connect_timeout": "9s"}]} if method == "POST" else None
    answer = await api.request(method, path, json=body)
    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["problems"]
    assert told in problem["what"]
    assert problem["field"].startswith("query.")
    assert [each["revision"] for each in (await api.get("/v1/revisions")).json()["revisions"]] == [1]


async def test_a_name_as_long_as_can_be_set_can_be_removed_by_a_changeset(api: httpx.AsyncClient) -> None:
    name = "x" * 50_000
    assert (await push(api, upsert=[r.static_cluster(name, 1)])).status_code == 200
    answer = await push(api, remove=[{"type": "clusters", "name": name}])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("node_id", ["a\nb", "a%2Fb", "a/b", "%", "é\u202e", "\n"])
async def test_every_node_can_be_asked_for(served, api: httpx.AsyncClient, node_id: str) -> None:
    served.known_nodes.append(
        NodeSummary(
            node=Node(id=node_id), group="default", revision=0, state=NodeState.ACCEPTED, connected_s=1.0, types=()
        )
    )
    answer = await api.get(f"/v1/nodes/{quote(node_id, safe='')}")
    assert [each["id"] for each in answer.json()["nodes"]] == [node_id]


@pytest.mark.parametrize("path", ["/v1%2Fgroups%2Fa", "/v1/groups%2Fdefault", "/v1%2Fgroups/default/snapshot"])
async def test_an_escaped_slash_separates_no_segments(api: httpx.AsyncClient, path: str) -> None:
    await push(api, upsert=[A])
    assert (await api.get(path)).status_code == 404


NUMBERS = {
    "/v1/groups/default/resources": ("limit", "revision"),
    "/v1/groups/default/snapshot": ("revision",),
    "/v1/groups/default/resources/clusters/a": ("revision",),
    "/v1/groups/default/diff?from=1": ("from", "to"),
    "/v1/revisions": ("limit", "before"),
    "/v1/nodes": ("limit",),
    "/v1/audit": ("since", "limit"),
    "/v1/watch": ("from",),
}


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("number", [10**23, 2**64 - 1, -1])
async def test_a_number_that_is_too_large_is_refused(api: httpx.AsyncClient, path: str, number: int) -> None:
    await push(api, upsert=[A])
    for name in NUMBERS[path]:
        answer = await api.get(path.partition("?")[0], params={"from": 1, name: number})
        assert answer.status_code == 422, answer.text


async def test_replacing_a_snapshot_takes_what_reading_one_gives(api: httpx.AsyncClient) -> None:
    await push(api, upsert=[A, B])
    first = (await api.get("/v1/groups/default/snapshot")).json()
    answer = await api.put("/v1/groups/default/snapshot", json={"resources": [A]}, headers={"if-match": '"1"'})
    assert answer.json()["revision"] == 2
    again = await api.put("/v1/groups/default/snapshot", json={"resources": [A]})
    assert again.json()["revision"] == 2, "idempotent"
    answer = await api.put("/v1/groups/default/snapshot", json=first, headers={"if-match": "1"})
    assert (answer.status_code, answer.json()["revision"]) == (412, 2)
    assert (await api.put("/v1/groups/default/snapshot", json=first)).json()["revision"] == 3
    assert (await api.get("/v1/groups/default/snapshot")).json()["resources"] == first["resources"]
    assert (await api.put("/v1/groups/default/snapshot", json=first, headers={"if-match": "x"})).status_code == 400


EXPIRING = {"@type": WRAPPER_URL, "name": "a", "aliases": ["b"], "ttl": "5s", "resource": A}


async def test_a_ttl_and_aliases_are_kept_when_what_was_read_is_put_again(served, api: httpx.AsyncClient) -> None:
    path, snapshot = "/v1/groups/default/resources/clusters/a", "/v1/groups/default/snapshot"
    assert (await api.put(path, json=EXPIRING)).json()["revision"] == 1
    (kept,) = served.catalog.own("default")
    assert (kept.ttl_s, kept.aliases) == (5, ("b",))
    for accept in ("application/json", "application/yaml", "application/x-protobuf"):
        one = await api.get(path, headers={"accept": accept})
        put = await api.put(path, content=one.content, headers={"content-type": one.headers["content-type"]})
        assert put.json()["unchanged"] == [{"group": "default", "type": "clusters", "name": "a"}], (accept, put.text)
    for accept in ("application/json", "application/yaml"):
        whole = await api.get(snapshot, headers={"accept": accept})
        put = await api.put(snapshot, content=whole.content, headers={"content-type": accept})
        assert (put.json()["revision"], put.json()["changed"]) == (1, []), accept
    raw = await api.get(snapshot, headers={"accept": "application/x-protobuf"})
    message = pb.Replacement(resources=pb.Snapshot.FromString(raw.content).resources)
    kind = {"content-type": "application/x-protobuf"}
    put = await api.put(snapshot, content=message.SerializeToString(), headers=kind)
    assert (put.json()["revision"], put.json()["changed"]) == (1, [])
    assert (await api.put(path, json=A)).json()["revision"] == 2, "without a wrapper there is no TTL"
    assert next(iter(served.catalog.own("default"))).ttl_s is None


async def test_what_is_wrong_is_told_all_of_it_and_nothing_is_changed(served, api: httpx.AsyncClient) -> None:
    wrong = {"@type": A["@type"], "name": "w", "connect_timeout": "soon", "lb_polcy": 3}
    answer = await push(api, upsert=[A, wrong, {"name": "no type"}], remove=[{"type": "klusters", "name": "x"}])
    assert answer.status_code == 422
    problems = answer.json()["problems"]
    fields = {each["field"] for each in problems}
    assert {"upsert[1].connect_timeout", "upsert[1].lb_polcy", "upsert[2]", "remove[0].type"} <= fields
    assert all(each["group"] == "default" for each in problems)
    dangling = await push(api, upsert=[r.route("r", "none")])
    assert dangling.status_code == 422
    assert served.catalog.revision == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"upsert": 3}', 422),
        (b'{"upsert": [], "more": 1}', 422),
        (b'{"expected_revision": -1}', 422),
        (b'{"id": "' + b"x" * 200 + b'"}', 422),
        (b'{"upsert": [{"@type": 5}]}', 422),
        (b"\xff\xfe", 422),
        (b'{"a": 1, "a": 2}', 422),
        (b"[" * 5_000, 422),
        (b'"' + b"x" * BODY_MAX + b'"', 413),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else str(value),
)
async def test_malformed_bodies_are_a_clear_4xx(served, api: httpx.AsyncClient, body: bytes, status: int) -> None:
    kind = {"content-type": "application/json"}
    answer = await api.post("/v1/groups/default/changesets", content=body, headers=kind)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert served.catalog.revision == 0


async def test_conflicts_say_where_the_store_is(api: httpx.AsyncClient) -> None:
    await push(api, upsert=[A])
    answer = await push(api, upsert=[B], expected_revision=0)
    assert (answer.status_code, answer.json()["revision"]) == (409, 1)
    assert (await push(api, upsert=[B], id="x")).json()["revision"] == 2
    assert (await push(api, upsert=[B], id="x")).json() == {
        "revision": 2,
        "changed": [],
        "unchanged": [],
        "again": True,
        "rules_changed": False,
        "warnings": [],
    }
    assert (await push(api, upsert=[A], id="x")).status_code == 409
    assert (await api.get("/v1/revisions", params={"id": "x"})).json()["revisions"] == [{"revision": 2, "id": "x"}]
    assert (await api.get("/v1/revisions", params={"id": "y"})).json()["revisions"] == []


async def test_a_dry_run_changes_nothing(served, api: httpx.AsyncClient) -> None:
    answer = await push(api, upsert=[A], dry_run=True)
    assert answer.json()["changed"] == [{"group": "default", "type": "clusters", "name": "a", "change": "added"}]
    assert served.catalog.revision == 0


async def test_a_version_of_the_callers_own_goes_out_on_the_wire(served, api: httpx.AsyncClient) -> None:
    await push(api, upsert=[A], version="build-7")
    view = served.catalog.snapshots["default"].view(CLUSTER)
    assert view.get("a").version == "build-7"
    assert (await api.get("/v1/groups/default/resources/clusters/a")).headers["x-xds-version"] == "build-7"


async def test_a_version_names_one_content(served, api: httpx.AsyncClient) -> None:
    await push(api, upsert=[A], version="build-7")
    other = r.static_cluster("a", 2)
    answer = await push(api, upsert=[other], version="build-7")
    assert answer.status_code == 422
    (problem,) = answer.json()["problems"]
    assert (problem["resource"], "has the version 'build-7' already" in problem["what"]) == ("clusters/a", True)
    assert (await push(api, upsert=[A], version="build-7")).json()["changed"] == []
    assert (await push(api, upsert=[other], version="build-8")).json()["revision"] == 2
    answer = await push(api, upsert=[other], version="0123456789abcdef")
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, "version")


async def test_differences_and_rolling_back(api: httpx.AsyncClient) -> None:
    await push(api, upsert=[A])
    await push(api, upsert=[r.static_cluster("a", 2), B])
    found = (await api.get("/v1/groups/default/diff", params={"from": 1, "to": 2})).json()["differences"]
    assert [(each["name"], "before" in each, "after" in each) for each in found] == [
        ("a", True, True),
        ("b", False, True),
    ]
    back = await api.post("/v1/groups/default/rollback", json={"to": 1, "message": "oops"})
    assert back.json()["revision"] == 3
    assert (await api.get("/v1/groups/default/diff", params={"from": 1})).json()["differences"] == []
    assert (await api.post("/v1/groups/default/rollback", json={"to": 99})).status_code == 404


async def test_what_is_no_longer_kept_is_gone(served, api: httpx.AsyncClient) -> None:
    for number in range(4):
        await push(api, upsert=[r.static_cluster("a", 1 + number)])
    await served.store.compact(3)
    answer = await api.get("/v1/groups/default/snapshot", params={"revision": 1})
    assert (answer.status_code, answer.json()["oldest"]) == (410, 3)
    assert (await api.get("/v1/watch", params={"from": 1})).status_code == 410
    assert [each["revision"] for each in (await api.get("/v1/revisions")).json()["revisions"]] == [4]


async def test_secrets_are_hidden_unless_asked_for(api: httpx.AsyncClient) -> None:
    key = Path(__file__).read_text()[:10]
    secret = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "s",
        "generic_secret": {"secret": {"inline_string": key}},
    }
    await push(api, upsert=[secret])
    assert key not in (await api.get("/v1/groups/default/snapshot")).text
    shown = await api.get("/v1/groups/default/resources/secrets/s", params={"redact": "false"})
    assert shown.json()["generic_secret"]["secret"]["inline_string"] == key
    hidden = await api.get("/v1/groups/default/resources/secrets/s")
    answer = await api.put("/v1/groups/default/resources/secrets/s", json=hidden.json())
    assert answer.status_code == 422, "what is hidden is never served by mistake"


async def test_groups_and_rules(api: httpx.AsyncClient) -> None:
    assert (await api.put("/v1/groups/base", json={})).status_code == 200
    assert (await api.put("/v1/groups/canary", json={"extends": "base"})).status_code == 200
    assert (await api.put("/v1/groups/x", json={"extends": "none"})).status_code == 404
    await push(api, "base", upsert=[A])
    groups = {each["name"]: each for each in (await api.get("/v1/groups")).json()["groups"]}
    assert groups.keys() == {"default", "base", "canary"}
    assert groups["canary"]["extends"] == "base"
    assert groups["base"]["resources"] == {"clusters": 1}
    rules = {"groups": {"canary": {"extends": "base"}}, "rules": [{"group": "canary", "match": {"id": "c-*"}}]}
    assert (await api.put("/v1/groups", json=rules)).status_code == 200
    told = (await api.get("/v1/groups")).json()["rules"]
    assert told["rules"] == rules["rules"]
    assert (await api.put("/v1/groups", json=told)).json()["revision"] == (await api.get("/v1/groups")).json()[
        "revision"
    ]
    assert (await api.delete("/v1/groups/canary")).status_code == 422
    assert (await api.delete("/v1/groups/base")).status_code == 422
    assert (await api.put("/v1/groups", json={})).status_code == 200
    assert (await api.delete("/v1/groups/canary")).status_code == 200
    assert (await api.delete("/v1/groups/base")).status_code == 200
    assert (await api.get("/v1/groups/base")).status_code == 404
    assert (await api.delete("/v1/groups/default")).status_code == 422
    assert (await api.put("/v1/groups", json={"rules": [{"group": "none"}]})).status_code == 422


async def test_nodes_are_told(served, api: httpx.AsyncClient) -> None:
    kinds = (
        TypeSummary(
            type_url=CLUSTER,
            variant="delta",
            wildcard=True,
            subscribed=3,
            sent=3,
            acked=2,
            unacked=0,
            pending=0,
            nacked=("a",),
            error="no",
            versions={"a": "1"},
        ),
    )
    node = Node(id="n/1", cluster="web")
    served.known_nodes.append(
        NodeSummary(node=node, group="default", revision=0, state=NodeState.REJECTED, connected_s=1.5, types=kinds)
    )
    (told,) = (await api.get("/v1/nodes", params={"state": "rejected"})).json()["nodes"]
    assert (told["id"], told["state"], told["types"][0]["acked"], told["types"][0]["error"]) == (
        "n/1",
        "rejected",
        2,
        "no",
    )
    assert (await api.get("/v1/nodes", params={"state": "odd"})).status_code == 422
    assert (await api.get("/v1/nodes/n%2F1")).json()["nodes"] == [told]
    assert (await api.get("/v1/nodes/none")).status_code == 404


@pytest.mark.parametrize(
    ("error", "status", "more"),
    [
        (UnavailableError("disk full"), 503, {}),
        (TooLargeError("too large"), 413, {}),
        (OutcomeUnknownError("x", "power"), 504, {"outcome": "unknown", "id": "x"}),
    ],
)
async def test_what_the_store_says_is_passed_on(
    served, api: httpx.AsyncClient, monkeypatch, error, status, more
) -> None:
    async def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(served.store, "append_all", fail)
    answer = await push(api, upsert=[A], id="x")
    assert (answer.status_code, {key: answer.json().get(key) for key in more}) == (status, more)


async def test_a_token_is_asked_for(served, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    async with client_of(served, Admission(Authenticator(file))) as api:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic s3cret"},
            {"authorization": "Bearer "},
        ):
            answer = await api.get("/v1/groups", headers=headers)
            assert (answer.status_code, "Bearer" in answer.headers["www-authenticate"]) == (401, True)
        assert (await api.get("/v1/groups", headers={"authorization": "Bearer s3cret"})).status_code == 200
        file.with_suffix(".new").write_text("other")
        file.with_suffix(".new").replace(file)
        assert (await api.get("/v1/groups", headers={"authorization": "Bearer s3cret"})).status_code == 401
        assert (await api.get("/v1/groups", headers={"authorization": "bearer other"})).status_code == 200


async def test_a_fault_of_ours_is_a_500_without_its_insides(served, api: httpx.AsyncClient, monkeypatch) -> None:
    monkeypatch.setattr(served.operations, "groups", lambda: 1 / 0)
    answer = await api.get("/v1/groups")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})


async def test_the_openapi_document_names_every_operation(api: httpx.AsyncClient) -> None:
    document = (await api.get("/v1/openapi.json")).json()
    operations = {(path, verb) for path, verbs in document["paths"].items() for verb in verbs}
    assert {
        ("/v1/groups/{group}/changesets", "post"),
        ("/v1/groups/{group}/snapshot", "put"),
        ("/v1/groups/{group}/snapshot", "get"),
        ("/v1/groups/{group}/diff", "get"),
        ("/v1/groups/{group}/rollback", "post"),
        ("/v1/revisions", "get"),
        ("/v1/watch", "get"),
        ("/v1/groups", "get"),
        ("/v1/nodes", "get"),
    } <= operations


async def test_the_page_of_the_api_has_every_operation_and_needs_no_other_host(api: httpx.AsyncClient) -> None:
    document = (await api.get("/v1/openapi.json")).json()
    answer = await api.get("/v1/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    page = _Page(answer.text)
    operations = {f"{verb.upper()} {path}" for path, verbs in document["paths"].items() for verb in verbs}
    assert operations <= page.code
    assert {"group", "if-match", "expected_revision", "application/yaml"} <= page.code
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert page.links == {"openapi.json", *(f"#{name}" for name in page.ids)}, "links within the page alone"
    assert "url(" not in answer.text
    assert "@import" not in answer.text


async def test_the_page_of_the_api_shows_a_host_name_as_text(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/docs", headers={"host": "a<script>alert(1)</script>"})
    assert "<script>" not in answer.text


class _Page(HTMLParser):
    """The tags, links, anchors and code of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.code: set[str] = set()
        self._is_code = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.links |= {value or "" for key, value in attrs if key in ("href", "src", "srcset", "action")}
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self._is_code = tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._is_code = False

    def handle_data(self, data: str) -> None:
        if self._is_code:
            self.code.add(data)


async def test_a_watch_yields_every_change_in_order(served) -> None:
    await served.operations.must_be_kept(0)
    async with client_of(served) as api:
        for number in range(3):
            await push(api, upsert=[r.static_cluster("a", 1 + number)])
    epoch, history = await streamed(app_of(served), "/v1/watch", "from=1", 2)
    assert epoch.startswith(": epoch ")
    events = history.removesuffix("\n\n").split("\n\n")
    assert [event.partition("\n")[0] for event in events] == ["id: 2", "id: 3"]
    told = json.loads(events[0].partition("data: ")[2])
    assert (told["revision"], told["set"]) == (
        2,
        [{"group": "default", "type": "clusters", "name": "a", "change": "changed"}],
    )


async def test_changes_of_several_groups_are_told_with_group_field_and_line(served, api: httpx.AsyncClient) -> None:
    body = """
groups:
  web:
    upsert:
    - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
      nam: x
    remove:
    - {type: clustr, name: x}
rules:
  rules:
  - group: none
"""
    content = {"content-type": "application/yaml"}
    answer = await api.post("/v1/changesets", content=body, headers=content)
    found = {
        (each.get("group", ""), each["field"], each["line"]) for each in answer.json()["problems"] if "line" in each
    }
    assert answer.status_code == 422
    assert ("web", "groups.web.upsert[0].nam", 6) in found
    fields = {each["field"] for each in answer.json()["problems"]}
    assert "groups.web.remove[0].type" in fields
    for rules in ({"rules": [{"group": "none"}]}, {"groups": {"web": {"extends": "none"}}}):
        answer = await api.post("/v1/changesets", json={"groups": {"web": {"upsert": [A]}}, "rules": rules})
        (problem,) = answer.json()["problems"]
        assert (answer.status_code, problem["field"].partition(".")[0]) == (422, "rules")
    assert served.catalog.revision == 0
    rules = {"rules": [{"group": "web"}]}
    answer = await api.post("/v1/changesets", json={"groups": {"web": {"upsert": [A]}}, "rules": rules})
    assert (answer.status_code, answer.json()["rules_changed"]) == (200, True), (
        "a rule may name a group that comes with it"
    )
    refused = {"groups": {"wob": {"upsert": [A]}}, "existing_groups_only": True}
    answer = await api.post("/v1/changesets", json=refused)
    assert (answer.status_code, "did you mean 'web'" in answer.json()["error"]) == (404, True)
    message = pb.GroupsChangeset(groups=[pb.GroupChanges(group="web", replace=True)], about=pb.About(dry_run=True))
    answer = await api.post(
        "/v1/changesets", content=message.SerializeToString(), headers={"content-type": "application/x-protobuf"}
    )
    assert [each["change"] for each in answer.json()["changed"]] == ["removed"]


async def test_one_change_is_shown_in_full_and_listed_by_its_groups(api: httpx.AsyncClient) -> None:
    await push(api, "web", upsert=[A])
    await push(api, upsert=[B])
    await push(api, "web", upsert=[r.static_cluster("a", 2)], message="moved")
    shown = (await api.get("/v1/revisions/3")).json()
    (difference,) = shown["differences"]
    assert (shown["message"], difference["group"], difference["change"]) == ("moved", "web", "changed")
    assert difference["before"]["name"] == difference["after"]["name"] == "a"
    assert (await api.get("/v1/revisions/1")).json()["rules_after"]["groups"] == {}
    assert [(await api.get(f"/v1/revisions/{number}")).status_code for number in (0, 4)] == [410, 404]
    listed = (await api.get("/v1/revisions", params={"group": "web"})).json()["revisions"]
    assert [each["revision"] for each in listed] == [3, 1]
    assert (await api.get("/v1/revisions", params={"group": "wob"})).status_code == 404
    names = (await api.get("/v1/groups/web/resources", params={"type": "cds", "prefix": "a", "limit": 1})).json()
    assert [(each["type"], each["name"]) for each in names["resources"]] == [("clusters", "a")]


async def test_a_misspelt_group_can_be_refused_also_where_the_body_is_the_resource(api: httpx.AsyncClient) -> None:
    await push(api, "web", upsert=[A])
    path = "/v1/groups/wob/resources/clusters/a"
    answer = await api.put(path, json=A, params={"existing_groups_only": "true"})
    assert (answer.status_code, "did you mean 'web'" in answer.json()["error"]) == (404, True)
    assert (
        await api.put(path.replace("wob", "web"), json=B | {"name": "a"}, params={"existing_groups_only": "true"})
    ).is_success
    assert (await api.put(path, json=A)).is_success, "without it the group is created"
