"""Every write, over REST and gRPC, can expect a revision, and has an id.

It is made at that revision or not at all, and once, however often it is sent.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from structlog.testing import capture_logs
from support import resources as r
from support.waiting import turns

from xds._generated import snapshots_pb2 as pb
from xds.address import Address
from xds.api.admission import Admission
from xds.api.grpc_api import GrpcApi, GrpcLimits
from xds.api.rest import rest_api
from xds.publishing.changes import Change
from xds.schema.ingest import ingest
from xds.store.entries import Entry
from xds.store.errors import ConflictError, OutcomeUnknownError

A, B = r.static_cluster("a", 1), r.static_cluster("b", 1)
BODY_MAX = 1_000_000
WRITES: dict[tuple[str, str], Any] = {
    ("post", "/v1/groups/{group}/changesets"): {"remove": [{"type": "clusters", "name": "a"}]},
    ("post", "/v1/changesets"): {"groups": {"web": {"upsert": [B], "replace": True}}},
    ("put", "/v1/groups/{group}/snapshot"): {"resources": [B]},
    ("put", "/v1/groups/{group}/resources/{type}/{name}"): B,
    ("delete", "/v1/groups/{group}/resources/{type}/{name}"): None,
    ("post", "/v1/groups/{group}/rollback"): {"to": 2},
    ("put", "/v1/groups"): {"external": ["clusters/x"]},
    ("patch", "/v1/groups"): {"external": ["clusters/x"]},
    ("put", "/v1/groups/{group}"): {"extends": "default"},
    ("delete", "/v1/groups/{group}"): None,
}
"""Each write of the REST API with a body that changes something, None if it has no body."""
RPCS: dict[str, Any] = {
    "Apply": pb.Changeset(group="web", remove=[pb.ResourceName(type="clusters", name="b")]),
    "ApplyGroups": pb.GroupsChangeset(groups=[pb.GroupChanges(group="web", replace=True)]),
    "Replace": pb.Replacement(group="web"),
    "Rollback": pb.RollbackRequest(group="web", to=2),
    "PutGroup": pb.GroupRequest(group="web", extends="default"),
    "DeleteGroup": pb.GroupRequest(group="web"),
    "PutRules": pb.Rules(),
    "UpdateRules": pb.Rules(),
}
RPCS["PutRules"].rules.update({"external": ["clusters/x"]})
RPCS["UpdateRules"].rules.update({"external": ["clusters/x"]})


@pytest.fixture
async def served(serving_api):
    return await serving_api()


@pytest.fixture
async def api(served) -> AsyncIterator[httpx.AsyncClient]:
    app = rest_api(served.operations, Admission(), body_bytes_max=BODY_MAX)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


async def fill(api: httpx.AsyncClient) -> int:
    """Create the group ``web`` with two clusters; return the revision, which changed the rules too."""
    await api.put("/v1/groups/web", json={})
    await api.post("/v1/groups/web/changesets", json={"upsert": [A]})
    last = {"groups": {"web": {"upsert": [B]}}, "rules": {"external": ["clusters/y"]}}
    return int((await api.post("/v1/changesets", json=last)).json()["revision"])


def path_of(template: str, verb: str) -> str:
    return template.format(group="web", type="clusters", name="a" if verb == "delete" else "b")


async def test_these_are_all_the_writes(api: httpx.AsyncClient) -> None:
    document = (await api.get("/v1/openapi.json")).json()
    found = {(verb, re.sub(":path", "", path)) for path, verbs in document["paths"].items() for verb in verbs}
    moves = {("post", "/v1/rebalance")}  # connections, and nothing that is kept
    assert {(verb, path) for verb, path in found if verb != "get"} - moves == WRITES.keys()
    for (verb, path), operation in ((each, document["paths"][each[1]][each[0]]) for each in WRITES):
        assert {"if-match", "id"} <= {each["name"].lower() for each in operation["parameters"]}, (verb, path)
    service = pb.DESCRIPTOR.services_by_name["Snapshots"]
    applied = {each.name for each in service.methods if each.output_type.name == "Applied"}
    assert applied == RPCS.keys(), "PushEndpoints, which merges, is the only other one"
    assert all("about" in message.DESCRIPTOR.fields_by_name for message in RPCS.values())


@pytest.mark.parametrize(("verb", "path"), WRITES, ids=[" ".join(each) for each in WRITES])
async def test_a_write_over_rest_is_made_at_the_revision_that_it_names_or_not(
    served, api: httpx.AsyncClient, verb: str, path: str
) -> None:
    newest = await fill(api)
    body = WRITES[verb, path]
    if verb == "put" and path.endswith("{name}"):
        body = r.static_cluster("b", 2)
    before = served.catalog.export()
    for stale in (newest - 1, newest + 1, 0):
        answer = await api.request(verb, path_of(path, verb), json=body, headers={"if-match": f'"{stale}"'})
        assert (answer.status_code, answer.json()["revision"]) == (412, newest)
    assert (served.catalog.export(), served.catalog.revision) == (before, newest)
    answer = await api.request(verb, path_of(path, verb), json=body, headers={"if-match": "forty"})
    assert answer.status_code == 400
    answer = await api.request(verb, path_of(path, verb), json=body, headers={"if-match": f'"{newest}"'})
    assert (answer.status_code, answer.json()["revision"]) == (200, newest + 1), answer.text
    assert answer.headers["etag"] == f'"{newest + 1}"'


@pytest.mark.parametrize(("verb", "path"), WRITES, ids=[" ".join(each) for each in WRITES])
async def test_a_write_over_rest_whose_reply_was_lost_can_be_sent_again_with_its_id(
    served, api: httpx.AsyncClient, verb: str, path: str
) -> None:
    newest = await fill(api)
    body, headers = WRITES[verb, path], {"if-match": f'"{newest}"'}
    if verb == "put" and path.endswith("{name}"):
        body = r.static_cluster("b", 2)
    url = path_of(path, verb)
    made = await api.request(verb, url, json=body, headers=headers, params={"id": "once"})
    assert (made.status_code, made.json()["revision"], made.json()["again"]) == (200, newest + 1, False), made.text
    assert (await api.put("/v1/groups/another", json={})).status_code == 200
    state = served.catalog.export()
    again = await api.request(verb, url, json=body, headers=headers, params={"id": "once"})
    assert (again.status_code, again.json()["revision"], again.json()["again"]) == (200, newest + 1, True), again.text
    assert served.catalog.export() == state
    found = (await api.get("/v1/revisions", params={"id": "once"})).json()["revisions"]
    assert found == [{"revision": newest + 1, "id": "once"}]
    other = await api.put("/v1/groups/third", json={}, params={"id": "once"})
    assert (other.status_code, other.json()["revision"]) == (409, newest + 1)


RESOURCES, RULES = "/v1/groups/web/resources/clusters", "/v1/groups"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("put", f"{RESOURCES}/b", r.static_cluster("b", 2)), ("put", f"{RESOURCES}/b", r.static_cluster("b", 3))),
        (("delete", f"{RESOURCES}/a", None), ("put", f"{RESOURCES}/a", A)),
        (("delete", "/v1/groups/web", None), ("put", "/v1/groups/web", {})),
        (("put", RULES, {"external": ["clusters/x"]}), ("put", RULES, {"external": ["clusters/y"]})),
        (("patch", RULES, {"external": ["clusters/x"]}), ("patch", RULES, {"external": ["clusters/y"]})),
    ],
    ids=["put", "delete", "delete a group", "put rules", "patch rules"],
)
async def test_a_write_that_is_sent_again_with_its_id_undoes_nothing_that_others_made_since(
    served, api: httpx.AsyncClient, first: tuple[str, str, Any], then: tuple[str, str, Any]
) -> None:
    await fill(api)
    for number, (verb, path, body) in enumerate((first, then)):
        assert (await api.request(verb, path, json=body, params={"id": f"write {number}"})).status_code == 200
    state = served.catalog.export()
    again = await api.request(first[0], first[1], json=first[2], params={"id": "write 0"})
    assert (again.status_code, again.json()["again"]) == (200, True)
    assert served.catalog.export() == state


async def test_the_id_that_an_unknown_outcome_names_is_what_to_send_the_write_again_with(
    served, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where none was given: the server then made one."""
    await fill(api)
    keep = served.store.append_all

    async def lose(entries: Sequence[Entry], expected_revision: int) -> int:
        monkeypatch.undo()
        await keep(entries, expected_revision)
        raise OutcomeUnknownError(entries[0].id, "the reply was lost")

    monkeypatch.setattr(served.store, "append_all", lose)
    answer = await api.delete(f"{RESOURCES}/a")
    assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
    again = await api.delete(f"{RESOURCES}/a", params={"id": answer.json()["id"]})
    assert (again.status_code, again.json()["revision"], again.json()["again"]) == (200, 4, True)


async def test_an_id_is_given_once_and_has_a_bounded_length(api: httpx.AsyncClient) -> None:
    body = {"upsert": [A], "id": "one"}
    answer = await api.post("/v1/groups/web/changesets", json=body, params={"id": "two"})
    assert (answer.status_code, "different ids" in answer.text) == (400, True)
    assert (await api.post("/v1/groups/web/changesets", json=body, params={"id": "one"})).status_code == 200
    assert (await api.put("/v1/groups/web", json={}, params={"id": "x" * 129})).status_code == 422


async def test_a_rollback_that_is_sent_again_when_its_revision_is_forgotten_is_not_said_to_be_refused(
    served, api: httpx.AsyncClient
) -> None:
    newest = await fill(api)
    body = {"to": newest - 1, "id": "once"}
    assert (await api.post("/v1/groups/web/rollback", json=body)).json()["revision"] == newest + 1
    await served.store.compact(newest)
    again = await api.post("/v1/groups/web/rollback", json=body)
    assert (again.status_code, again.json()["id"]) == (504, "once")
    assert (await api.get("/v1/revisions", params={"id": "once"})).json()["revisions"]
    unknown = await api.post("/v1/groups/web/rollback", json=body | {"id": "never"})
    assert unknown.status_code == 410


async def test_two_revisions_are_expected_of_no_write(api: httpx.AsyncClient) -> None:
    newest = await fill(api)
    body = {"upsert": [A], "expected_revision": newest}
    answer = await api.post("/v1/groups/web/changesets", json=body, headers={"if-match": str(newest - 1)})
    assert (answer.status_code, "different revisions" in answer.text) == (400, True)


@pytest.mark.parametrize(("verb", "path"), WRITES, ids=[" ".join(each) for each in WRITES])
async def test_a_write_does_not_conflict_with_changes_of_other_groups(
    served, api: httpx.AsyncClient, verb: str, path: str
) -> None:
    newest = await fill(api)
    await api.put("/v1/groups/other", json={}) if "group" in path else None
    await api.post("/v1/groups/default/changesets", json={"upsert": [A]})
    body = WRITES[verb, path]
    if verb == "put" and path.endswith("{name}"):
        body = r.static_cluster("b", 2)
    answer = await api.request(verb, path_of(path, verb), json=body, headers={"if-match": str(newest)})
    groups_changed = path == "/v1/groups"
    assert answer.status_code == (412 if groups_changed else 200), answer.text
    assert ("the groups and rules changed at revision 4" in answer.text) is groups_changed


async def test_the_revision_of_a_group_is_its_own_and_is_learnt_again_after_a_restart(served, serving_api) -> None:
    """From the history, as far as it is kept; of a group that changed before, it is known no more."""
    change = {"upserts": {"web": (ingest(A),)}}
    await served.publisher.publish(Change(**change))
    for number in range(3):
        await served.publisher.publish(Change(upserts={"other": (ingest(r.static_cluster("a", number)),)}))
    assert [served.operations.group_revision(group) for group in ("web", "other")] == [1, 4]
    again = await serving_api(served.store)
    dry = Change(upserts={"web": (ingest(B),)}, expected_revision=2, dry_run=True)
    assert (await again.publisher.publish(dry)).revision == 4
    with pytest.raises(ConflictError, match="the group 'other' changed at revision 4"):
        await again.publisher.publish(replace(dry, upserts={"other": (ingest(B),)}))
    with pytest.raises(ConflictError, match="the group 'web' changed since can't be told"):
        await again.publisher.publish(replace(dry, expected_revision=0))
    await served.store.compact(3)
    late = await serving_api(served.store)
    with pytest.raises(ConflictError, match="the history does not go back"):
        await late.publisher.publish(dry)
    assert (await late.publisher.publish(replace(dry, expected_revision=3))).revision == 4


@pytest.mark.parametrize(
    "path",
    ["/v1/groups", "/v1/groups/web", "/v1/groups/web/snapshot", "/v1/groups/web/resources/clusters/a"],
)
@pytest.mark.parametrize("media_type", ["application/json", "application/x-protobuf"])
async def test_what_is_read_says_which_revision_to_expect(api: httpx.AsyncClient, path: str, media_type: str) -> None:
    newest = await fill(api)
    assert (await api.get(path, headers={"accept": media_type})).headers["etag"] == f'"{newest}"'


@pytest.fixture
async def channel(served) -> AsyncIterator[aio.Channel]:
    server = GrpcApi(Address("127.0.0.1", 0), served.operations, Admission(), body_bytes_max=BODY_MAX)
    await server.start()
    async with aio.insecure_channel(str(server.address)) as channel:
        yield channel
    await server.stop()


async def call(channel: aio.Channel, name: str, request: Any) -> Any:
    return await channel.unary_unary(
        f"/xds_control_plane.api.v1.Snapshots/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=pb.Applied.FromString,
    )(request)


QUESTIONS = [
    ("ListAudit", pb.AuditRequest(since_ms=2**62), "since_ms"),
    ("ListAudit", pb.AuditRequest(since_ms=-1), "since_ms"),
    ("History", pb.HistoryRequest(before=2**64 - 1), "before"),
    ("GetRevision", pb.RevisionRequest(revision=2**64 - 1), "revision"),
    ("Watch", pb.WatchRequest(after=2**64 - 1), "after"),
    ("PutGroup", pb.GroupRequest(group="g", about=pb.About(expected_revision=2**64 - 1)), "about.expected_revision"),
]


@pytest.mark.parametrize(("name", "request_", "field"), QUESTIONS)
async def test_numbers_that_nothing_has_are_refused(channel: aio.Channel, name: str, request_: Any, field: str) -> None:
    ask = channel.unary_stream(f"/xds_control_plane.api.v1.Snapshots/{name}")(request_.SerializeToString())
    with pytest.raises(aio.AioRpcError, match=field) as refused:
        await ask.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_connection_has_so_many_calls_at_once_and_further_ones_wait(served) -> None:
    limits = GrpcLimits(connection_streams_max=2)
    server = GrpcApi(Address("127.0.0.1", 0), served.operations, Admission(), body_bytes_max=BODY_MAX, limits=limits)
    await server.start()
    async with aio.insecure_channel(str(server.address)) as channel:
        service = "/xds_control_plane.api.v1.Snapshots/"
        assert await channel.unary_unary(f"{service}WhoAmI")(b"", timeout=10), "the client has read the limit"
        watches = [channel.unary_stream(f"{service}Watch")(b"") for _ in range(2)]
        await turns(20)
        with pytest.raises(aio.AioRpcError) as late:
            await channel.unary_unary(f"{service}WhoAmI")(b"", timeout=0.5)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        watches[0].cancel()
        await channel.unary_unary(f"{service}WhoAmI")(b"", timeout=10)
        watches[1].cancel()
    await server.stop()


@pytest.mark.parametrize("name", ["ListGroups", "Watch"])
async def test_an_unexpected_error_is_logged_and_not_told(served, channel: aio.Channel, name: str, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("what nobody is to know")

    monkeypatch.setattr("xds.api.grpc_api.group_message", fail)
    monkeypatch.setattr("xds.api.grpc_api.parsed", fail)
    ask = channel.unary_stream(f"/xds_control_plane.api.v1.Snapshots/{name}")(b"")
    with capture_logs() as logs, pytest.raises(aio.AioRpcError) as failed:
        await ask.read()
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert [each["event"] for each in logs] == ["a request failed by a bug in this server; please report it"]


@pytest.mark.parametrize("name", RPCS)
async def test_a_write_over_grpc_is_made_at_the_revision_that_it_names_or_not(
    served, api: httpx.AsyncClient, channel: aio.Channel, name: str
) -> None:
    newest = await fill(api)
    before = served.catalog.export()
    for stale in (newest - 1, newest + 1, 0):
        request = type(RPCS[name]).FromString(RPCS[name].SerializeToString())
        request.about.expected_revision = stale
        with pytest.raises(aio.AioRpcError) as refused:
            await call(channel, name, request)
        assert refused.value.code() is grpc.StatusCode.ABORTED
        assert dict(refused.value.trailing_metadata() or ())["xds-revision"] == str(newest)
    assert (served.catalog.export(), served.catalog.revision) == (before, newest)
    request.about.expected_revision = newest
    request.about.id = "once"
    assert (await call(channel, name, request)).revision == newest + 1
    again = await call(channel, name, request)
    assert (again.revision, again.again) == (newest + 1, True), "the same id twice is one change"


@pytest.mark.parametrize("name", [name for name in RPCS if name not in ("Apply", "ApplyGroups", "Replace")])
async def test_a_version_label_is_refused_where_there_is_nothing_to_label(
    api: httpx.AsyncClient, channel: aio.Channel, name: str
) -> None:
    await fill(api)
    request = type(RPCS[name]).FromString(RPCS[name].SerializeToString())
    request.about.version = "build-7"
    with pytest.raises(aio.AioRpcError, match="brings none"):
        await call(channel, name, request)


async def test_parts_of_the_rules_are_replaced_and_the_others_stay(api: httpx.AsyncClient) -> None:
    await fill(api)
    rules = {"rules": [{"group": "web", "match": {"id": "w-*"}}], "unmatched": "deny", "external": ["clusters/x"]}
    await api.put("/v1/groups", json={"groups": {"web": {"extends": "default"}}, **rules})
    parts = {"groups": {"new": {"extends": "web"}}, "add_external": ["clusters/y", "clusters/x"]}
    assert (await api.patch("/v1/groups", json=parts)).status_code == 200
    told = (await api.get("/v1/groups")).json()["rules"]
    assert told == {
        "groups": {"web": {"extends": "default"}, "new": {"extends": "web"}},
        **rules,
        "external": ["clusters/x", "clusters/y"],
    }
    assert (await api.patch("/v1/groups", json={"groups": {"new": {}}, "external": [], "rules": []})).status_code == 200
    told = (await api.get("/v1/groups")).json()["rules"]
    assert told == {"groups": {"web": {"extends": "default"}}, "rules": [], "unmatched": "deny", "external": []}


async def test_all_that_is_wrong_with_rules_is_told_at_once_with_its_line(api: httpx.AsyncClient) -> None:
    body = "rules:\n- group: none\nadd_external:\n- clusters/a\n- nothing\nodd: 1\n"
    answer = await api.patch("/v1/groups", content=body, headers={"content-type": "application/yaml"})
    found = {(each["field"], each["line"]) for each in answer.json()["problems"]}
    assert (answer.status_code, found) == (422, {("rules[0].group", 2), ("add_external[1]", 5), ("odd", 6)})
    body = "rules:\n- group: none\n"
    for verb in ("put", "patch"):
        answer = await api.request(verb, "/v1/groups", content=body, headers={"content-type": "application/yaml"})
        (problem,) = answer.json()["problems"]
        assert (answer.status_code, problem["field"], problem["line"]) == (422, "rules[0].group", 2)
        assert "default" in problem["hint"], "it tells which groups there are"
    for body in ("[]", "7"):
        assert (
            await api.patch("/v1/groups", content=body, headers={"content-type": "application/json"})
        ).status_code == 422
