"""Every route and every gRPC method, for every role, in a group of the caller and in one of others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi.routing import APIRoute
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio
from support import resources as r
from support.fleet_status import server_status

from xds._generated import snapshots_pb2 as pb
from xds.access.audit import AuditFilter, AuditLog, read_audit
from xds.access.authenticator import Authenticator
from xds.access.errors import UnauthenticatedError
from xds.access.tokens import create_token, revoke_tokens
from xds.address import Address
from xds.api.admission import LAPSE_S, NEEDS, Admission
from xds.api.fleet import HIDDEN_WHY, ReplicaStatus, StoreStatus
from xds.api.grpc_api import GrpcApi
from xds.api.guard import Hosts
from xds.api.inherited import ABOUT_INHERITED
from xds.api.permitted import Permitted
from xds.api.rest import CALLS, rest_api
from xds.model.groups import Node
from xds.model.problem import Problem
from xds.protocol.blame import BlamedBy
from xds.protocol.convergence import Debt
from xds.protocol.holders import Holders, HoldersQuery, Holding
from xds.protocol.inspection import Held, How, InspectedClient, NackSeen, Standing, Wait, Waiting
from xds.protocol.paging import NodeState
from xds.protocol.status import NodeSummary, Progress, TypeSummary
from xds.publishing.changes import Change
from xds.schema.ingest import ingest

SERVICE = pb.DESCRIPTOR.services_by_name["Snapshots"]
OWN, OTHER = "own-1", "hidden-1"
ROLES: dict[str, frozenset[str]] = {
    **dict.fromkeys(("Apply", "Replace", "PushEndpoints", "PutResource", "DeleteResource"), frozenset({"write"})),
    "ApplyGroups": frozenset({"write"}),
    "Rollback": frozenset({"write", "rollout"}),
    **dict.fromkeys(
        ("GetResource", "GetSnapshot", "ListResources", "Diff", "History", "FindRevision", "GetRevision", "Watch"),
        frozenset({"read", "write", "rollout", "secrets"}),
    ),
    **dict.fromkeys(
        (
            "ListGroups",
            "GetGroup",
            "GetRules",
            "ListNodes",
            "GetNode",
            "WaitForConvergence",
            "GetStatus",
            "InspectNode",
            "ExplainNode",
            "FindRoute",
        ),
        frozenset({"read", "write", "rollout", "secrets"}),
    ),
    **dict.fromkeys(
        ("PutGroup", "DeleteGroup", "PutRules", "UpdateRules", "BackUpStore", "ListAudit", "Rebalance", "AskReplica"),
        frozenset[str](),
    ),
    "WhoAmI": frozenset({"read", "write", "rollout", "secrets"}),
}
"""The roles, besides admin, that may make each call in their groups. A new call fails the tests until it is here."""
WITHOUT_GROUP = frozenset({"History", "FindRevision", "GetRevision", "Watch", "ListGroups", "GetRules", "ListNodes"})
WITHOUT_GROUP |= {"GetNode", "WhoAmI", "PutRules", "UpdateRules", "BackUpStore", "ListAudit", "Rebalance"}
WITHOUT_GROUP |= {"WaitForConvergence", "GetStatus", "InspectNode", "ExplainNode"}
"""Calls that name no group: what they answer is another test's."""
CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
MARK = "marked-secret-value"


def cluster(name: str) -> dict[str, Any]:
    return {"@type": CLUSTER_TYPE, "name": name, "connect_timeout": "1s"}


def secret(name: str) -> dict[str, Any]:
    return {"@type": SECRET_TYPE, "name": name, "generic_secret": {"secret": {"inline_string": MARK}}}


def assignment(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": name}


@dataclass
class Scene:
    """Two groups with resources of distinct names, a token for each role in groups ``own-*``, and the API over both."""

    served: Any
    tokens: dict[str, str]
    rest: httpx.AsyncClient
    channel: aio.Channel
    audit: Path
    tokens_file: Path
    admission: Admission

    def shown(self, role: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[role]}"} if role else {}


@pytest.fixture
async def scene(serving_api, tmp_path: Path) -> AsyncIterator[Scene]:
    served = await serving_api()
    for group in (OWN, OTHER):
        await served.operations.publish(
            Change(upserts={group: (ingest(cluster(f"{group}-c")), ingest(secret(f"{group}-s")))}, id=f"{group}-made")
        )
        node = Node(id=f"{group}-node")
        served.known_nodes.append(
            NodeSummary(node=node, group=group, revision=1, state=NodeState.ACCEPTED, connected_s=1.0, types=())
        )
    path = tmp_path / "tokens"
    tokens = {
        role: create_token(path, f"is-{role}", (role,), () if role == "admin" else ("own-*",))[1]
        for role in ("read", "write", "rollout", "secrets", "admin")
    }
    audit = AuditLog(tmp_path / "audit")
    admission = Admission(Authenticator(tokens_file=path), audit)
    app = rest_api(served.operations, admission, body_bytes_max=1_000_000)
    server = GrpcApi(Address("127.0.0.1", 0), served.operations, admission, body_bytes_max=1_000_000)
    await server.start()
    transport = httpx.ASGITransport(app=app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as rest,
        aio.insecure_channel(str(server.address)) as channel,
    ):
        yield Scene(served, tokens, rest, channel, tmp_path / "audit", path, admission)
    await server.stop()
    admission.close()


def routes() -> list[tuple[str, str]]:
    nothing: Any = None
    app: Any = rest_api(nothing, Admission(), body_bytes_max=1).app
    found = [
        (method, route.path)
        for route in app.app._app.routes
        if isinstance(route, APIRoute) and route.path != "/v1/docs"
        for method in sorted(route.methods)
    ]
    assert len(found) > 20
    return found


BODIES: dict[str, Any] = {
    "Apply": {"upsert": [cluster("new")]},
    "Replace": {"resources": [cluster("new")]},
    "PutResource": cluster("new"),
    "Rollback": {"to": 1},
    "PutGroup": {},
    "PutRules": {"rules": []},
    "UpdateRules": {"unmatched": "deny"},
    "Rebalance": {"share": 0.5, "over_s": 1},
}


async def ask(scene: Scene, method: str, path: str, role: str, group: str, query: str = "") -> httpx.Response:
    call = CALLS[method, path]
    words = {"{group}": group, "{type}": "clusters", "{revision}": "1", "{id:path}": f"{group}-node"}
    words["{name:path}"] = "new" if method == "PUT" else f"{group}-c"
    for parameter, word in words.items():
        path = path.replace(parameter, word)
    params = {"from": "0"} if call in ("Diff", "Watch") else {}
    body = {"groups": {group: {"upsert": [cluster("new")]}}} if call == "ApplyGroups" else BODIES.get(call)
    return await scene.rest.request(method, path + query, headers=scene.shown(role), params=params or None, json=body)


async def test_every_route_asks_for_its_right_in_the_group(scene: Scene) -> None:
    for method, path in routes():
        call = CALLS[method, path]
        if call == "Watch":
            continue  # without end: see below
        assert (await ask(scene, method, path, "", OWN)).status_code == 401, (method, path)
        for role in ("read", "write", "rollout", "secrets", "admin"):
            for group in (OTHER, OWN) if call not in WITHOUT_GROUP else (OWN,):
                answer = await ask(scene, method, path, role, group)
                may = role == "admin" or (role in ROLES[call] and group == OWN)
                assert (answer.status_code not in (401, 403)) is may, (method, path, role, group, answer.text)
                if not may:
                    assert answer.json()["error"].startswith(f"token:is-{role} lacks the right "), answer.text


async def test_a_group_that_does_not_exist_is_refused_like_one_that_does(scene: Scene) -> None:
    for method, path in routes():
        if "{group}" in path:
            answers = [await ask(scene, method, path, "read", group) for group in (OTHER, "hidden-2")]
            texts = [answer.text.replace("hidden-2", OTHER) for answer in answers]
            if CALLS[method, path] in ROLES and "read" in ROLES[CALLS[method, path]]:
                assert [each.status_code for each in answers] == [403, 403], path
            assert texts[0] == texts[1], path


async def test_what_is_read_has_nothing_of_other_groups_and_no_secrets(scene: Scene) -> None:
    await scene.served.operations.publish(
        Change(upserts={OWN: (ingest(cluster("own-d")),), OTHER: (ingest(cluster("hidden-d")),)}, id="both-made")
    )
    for role in ("read", "write", "rollout"):
        for method, path in routes():
            if method != "GET" or CALLS[method, path] in ("Watch", "ListAudit"):
                continue
            for query in ("", "?redact=false", "?redact=true"):
                answer = await ask(scene, method, path, role, OWN, query)
                assert "hidden" not in answer.text, (path, query)
                assert MARK not in answer.text, (path, query)
    history = (await scene.rest.get("/v1/revisions", headers=scene.shown("read"))).json()["revisions"]
    assert [each["groups"] for each in history] == [
        [{"group": OWN, "added": 1, "changed": 0, "removed": 0}],
        [{"group": OWN, "added": 2, "changed": 0, "removed": 0}],
    ]
    assert [each["operations"] for each in history] == [1, 2]
    for revision, status in ((1, 200), (2, 403), (3, 200)):
        answer = await scene.rest.get(f"/v1/revisions/{revision}", headers=scene.shown("read"))
        assert answer.status_code == status, revision
        assert "hidden" not in answer.text
    for made, found in (("hidden-1-made", []), ("own-1-made", [{"revision": 1, "id": "own-1-made"}])):
        answer = await scene.rest.get(f"/v1/revisions?id={made}", headers=scene.shown("read"))
        assert answer.json()["revisions"] == found
    nodes = (await scene.rest.get("/v1/nodes", headers=scene.shown("admin"))).json()["nodes"]
    assert {each["group"] for each in nodes} == {OWN, OTHER}


async def test_errors_name_nothing_of_other_groups(scene: Scene) -> None:
    publish = scene.served.operations.publish
    await scene.served.operations.put_group("hidden-derived", OWN, Change())
    listener = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "hidden-route",
        "virtual_hosts": [
            {
                "name": "v",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": f"{OWN}-c"}}],
            }
        ],
    }
    await publish(Change(upserts={"hidden-derived": (ingest(listener),)}))
    path = f"/v1/groups/{OWN}/resources/clusters/{OWN}-c"
    told = await scene.rest.delete(path, headers=scene.shown("admin"))
    assert (told.status_code, "hidden-route" in told.text) == (422, True)
    answer = await scene.rest.delete(path, headers=scene.shown("write"))
    assert answer.status_code == 422
    assert "hidden" not in answer.text
    assert "groups that you may not read" in answer.text
    for url in ("/v1/groups/own-hidden-1", "/v1/groups/own-9/resources/clusters/hidden-1-c", "/v1/nodes?group=own-9"):
        answer = await scene.rest.get(url, headers=scene.shown("read"))
        assert answer.status_code == 404
        assert "did you mean 'hidden" not in answer.text
    body = {"groups": {}, "rules": {"rules": [{"group": "hiden-1", "match": {}}]}}
    answer = await scene.rest.post("/v1/changesets", headers=scene.shown("write"), json=body)
    assert "hidden-1" not in answer.text
    assert answer.status_code in (403, 422)


async def test_the_servers_problems_are_told_to_those_only_who_may_read_all_groups(scene: Scene) -> None:
    scene.served.problems = ("2 groups have secrets (own-1, hidden-1)",)
    answers = []
    for role in ("read", "admin"):
        paths = ("/v1/nodes", f"/v1/nodes?group={OWN}")
        answers += [(await scene.rest.get(path, headers=scene.shown(role))).text for path in paths]
        metadata = (("authorization", f"Bearer {scene.tokens[role]}"),)
        data = await scene.channel.unary_unary(f"/{SERVICE.full_name}/ListNodes")(b"", metadata=metadata)
        answers.append(",".join(pb.Nodes.FromString(data).problems))
    assert ["groups have secrets" in each for each in answers] == [False] * 3 + [True] * 3


async def test_reasons_of_the_server_are_told_to_those_only_who_may_read_all_groups(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"no key for clusters/c of {OTHER} in /etc/xds/keys"
    status = server_status(
        1,
        store=StoreStatus(kind="sqlite", revision=1, stale_because=said, refusing_because=said),
        replicas=(
            ReplicaStatus(name="two", api="10.0.0.2:1", state="silent", revision=0, streams=0, problem=said),
            ReplicaStatus(name="one", api="10.0.0.1:1", state="self", revision=1, streams=3),
        ),
        problems=(said,),
        gone={},
    )
    missing = (f"two (10.0.0.2:1): {said}",)
    operations = scene.served.operations

    async def told_status() -> Any:
        return status

    def lacking(answer: Any) -> Any:
        async def told(*given: Any) -> Any:
            return replace(await answer(*given), missing_replicas=missing)

        return told

    for name in ("_nodes", "_debts", "_inspect", "_holders"):
        monkeypatch.setattr(operations, name, lacking(getattr(operations, name)))
    monkeypatch.setattr(operations, "_status", told_status)
    monkeypatch.setattr(scene.served.publisher, "stale_because", said)
    scene.served.clients.append(
        InspectedClient(summary=next(each for each in scene.served.known_nodes if each.group == OWN), gets_secrets=True)
    )
    for path in (
        *("/v1/status", "/v1/nodes", f"/v1/nodes/{OWN}-node", f"/v1/nodes/{OWN}-node/resources"),
        "/v1/revisions/1/convergence",
        f"/v1/nodes/nobody/explain?type=clusters&name={OWN}-c",
    ):
        answer = await scene.rest.get(path, headers=scene.shown("read"))
        assert answer.status_code in (200, 503), path
        assert ("10.0.0" in answer.text, said in answer.text, "two" in answer.text) == (False, False, True), path
        assert said in (await scene.rest.get(path, headers=scene.shown("admin"))).text, path
    answer = await scene.rest.get("/v1/nodes/nobody", headers=scene.shown("read"))
    assert answer.json()["error"] == "two did not answer, and may have the node 'nobody'"
    for role in ("read", "admin"):
        call = scene.admission.admit(
            "GetStatus", authorization=scene.shown(role)["authorization"], certificates=(), peer="127.0.0.1:1"
        )
        permitted = Permitted(operations, scene.admission, call)
        assert permitted.stale_because == (said if role == "admin" else HIDDEN_WHY)
        holders = await permitted.holders(OWN, CLUSTER_TYPE, f"{OWN}-c")
        assert holders.missing_replicas == (missing if role == "admin" else ("two",))


async def test_a_change_id_tells_nothing_of_the_change_of_another_group(scene: Scene) -> None:
    path, body = f"/v1/groups/{OWN}/changesets", {"upsert": [cluster("new")]}
    other = await scene.rest.post(path, headers=scene.shown("write"), json=body | {"id": f"{OTHER}-made"})
    assert (other.status_code, other.json().get("revision")) == (409, None)
    assert "revision" not in other.text
    own = await scene.rest.post(path, headers=scene.shown("write"), json=body | {"id": f"{OWN}-made"})
    assert (own.status_code, own.json()["revision"]) == (409, 1)
    admin = await scene.rest.post(path, headers=scene.shown("admin"), json=body | {"id": f"{OTHER}-made"})
    assert (admin.status_code, admin.json()["revision"]) == (409, 2)


async def test_secrets_are_seen_and_set_only_with_their_role(scene: Scene) -> None:
    seen = {}
    for role in ("read", "write", "rollout", "secrets", "admin"):
        answer = await scene.rest.get(f"/v1/groups/{OWN}/snapshot?redact=false", headers=scene.shown(role))
        seen[role] = (answer.status_code, MARK in answer.text)
    refused = (403, False)
    assert seen == dict.fromkeys(("read", "write", "rollout"), refused) | dict.fromkeys(
        ("secrets", "admin"), (200, True)
    )
    both = create_token(scene.tokens_file, "both", ("write", "secrets"), ("own-*",))[1]
    scene.tokens["both"] = both
    for role, status in (("write", 403), ("secrets", 403), ("both", 200)):
        answer = await scene.rest.put(
            f"/v1/groups/{OWN}/resources/secrets/new", headers=scene.shown(role), json=secret("new")
        )
        assert answer.status_code == status, (role, answer.text)
    inside = {
        "@type": CLUSTER_TYPE,
        "name": "redis",
        "typed_extension_protocol_options": {
            "envoy.filters.network.redis_proxy": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProtocolOptions",
                "auth_password": {"inline_string": MARK},
            }
        },
    }
    path = f"/v1/groups/{OWN}/resources/clusters/redis"
    answer = await scene.rest.put(path, headers=scene.shown("write"), json=inside)
    assert answer.status_code == 403
    assert answer.json()["error"] == (
        "clusters/redis has secrets, and token:is-write lacks the right secrets for the group 'own-1'; "
        "it has write in own-*"
    )
    answer = await scene.rest.post(f"/v1/groups/{OWN}/rollback", headers=scene.shown("rollout"), json={"to": 1})
    assert answer.status_code == 200  # it restores the secret, and shows none


async def test_the_author_of_a_change_is_the_caller(scene: Scene) -> None:
    for number, author in enumerate(("", "ann", "token:is-admin", "token:is-write")):
        body = {"upsert": [cluster(f"by-{number}")], "author": author}
        await scene.rest.post(f"/v1/groups/{OWN}/changesets", headers=scene.shown("write"), json=body)
    found = await scene.served.operations.history(limit=4)
    authors = ["token:is-write", "token:is-write (token:is-admin)", "token:is-write (ann)", "token:is-write"]
    assert [head.author for head in found] == authors


def requests(group: str) -> dict[str, Any]:
    packed = AnyMessage(type_url=CLUSTER_TYPE, value=b"\x0a\x03new")
    name = pb.ResourceName(type="clusters", name=f"{group}-c")
    return {
        "Apply": pb.Changeset(group=group, upsert=[packed]),
        "ApplyGroups": pb.GroupsChangeset(groups=[pb.GroupChanges(group=group, upsert=[packed])]),
        "Replace": pb.Replacement(group=group, resources=[packed]),
        "Rollback": pb.RollbackRequest(group=group, to=1),
        "PushEndpoints": pb.EndpointsPush(
            group=group,
            endpoints=[
                AnyMessage(
                    type_url="type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", value=b"\x0a\x03new"
                )
            ],
        ),
        "GetResource": pb.ResourceRequest(group=group, resource=name),
        "GetSnapshot": pb.SnapshotRequest(group=group),
        "ListResources": pb.ListResourcesRequest(group=group),
        "Diff": pb.DiffRequest(group=group),
        "History": pb.HistoryRequest(),
        "FindRevision": pb.FindRequest(id=f"{group}-made"),
        "GetRevision": pb.RevisionRequest(revision=1),
        "Watch": pb.WatchRequest(after=0),
        "ListGroups": pb.ListGroupsRequest(),
        "PutGroup": pb.GroupRequest(group=group),
        "DeleteGroup": pb.GroupRequest(group=group),
        "GetRules": pb.GetRulesRequest(),
        "PutRules": pb.Rules(),
        "UpdateRules": pb.Rules(),
        "ListNodes": pb.NodesRequest(),
        "GetStatus": pb.StatusRequest(),
        "InspectNode": pb.InspectNodeRequest(id=f"{group}-node"),
        "ExplainNode": pb.ExplainNodeRequest(
            id=f"{group}-node", resource=pb.ResourceName(type="clusters", name=f"{group}-c")
        ),
        "WaitForConvergence": pb.ConvergenceRequest(),
        "FindRoute": pb.RouteRequest(group=group, url="http://a.example/"),
        "BackUpStore": pb.BackUpStoreRequest(),
        "Rebalance": pb.RebalanceRequest(share=0.5, over_s=1),
        "WhoAmI": pb.WhoAmIRequest(),
        "ListAudit": pb.AuditRequest(),
    }


async def call(scene: Scene, method: str, role: str, message: Any) -> tuple[grpc.StatusCode, str, bytes]:
    """Return how a call ends, and its first answer; one that is answered without end is left then."""
    path = f"/{SERVICE.full_name}/{method}"
    metadata = tuple(scene.shown(role).items())
    stream = scene.channel.unary_stream(path)(message.SerializeToString(), metadata=metadata, timeout=20)
    try:
        first = await stream.read()
        if first is aio.EOF:
            return await stream.code(), await stream.details(), b""
        stream.cancel()
    except aio.AioRpcError as error:
        return error.code(), error.details() or "", b""
    return grpc.StatusCode.OK, "", first


async def test_every_grpc_method_asks_for_its_right_in_the_group(scene: Scene) -> None:
    refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    for method in (each.name for each in SERVICE.methods):
        for role in ("", "read", "write", "rollout", "secrets", "admin"):
            for group in (OTHER, OWN) if method not in WITHOUT_GROUP else (OWN,):
                status, text, answer = await call(scene, method, role, requests(group)[method])
                may = role == "admin" or (role in ROLES[method] and group == OWN)
                assert (status not in refused) is may, (method, role, group, status, text)
                if not may:
                    assert status is refused[bool(role)], (method, role)
                    assert not role or text.startswith(f"token:is-{role} lacks the right "), text
                if role not in ("", "admin"):
                    assert b"hidden" not in answer, method
                    assert MARK.encode() not in answer, method


async def test_a_caller_is_told_of_the_convergence_of_its_own_groups_only(scene: Scene) -> None:
    scene.served.debts.update({OWN: {Debt(): 2}, OTHER: {Debt(owed=1): 5}})
    answer = await scene.rest.get("/v1/revisions/1/convergence", headers=scene.shown("read"))
    told = answer.json()
    assert (told["nodes"], told["accepted"], told["verdict"]) == (2, 2, "reached")
    for group, status in ((OWN, 200), (OTHER, 403), ("hidden-2", 403)):
        answer = await scene.rest.get(f"/v1/revisions/1/convergence?group={group}", headers=scene.shown("read"))
        assert answer.status_code == status
    answer = await scene.rest.get("/v1/revisions/1/convergence", headers=scene.shown("admin"))
    assert answer.json()["nodes"] == 7


async def test_what_is_gone_from_groups_that_a_caller_may_not_read_is_not_told(scene: Scene) -> None:
    scene.served.gone.update({OWN: 1, OTHER: 4})
    told = {}
    for role in ("read", "admin"):
        groups = (await scene.rest.get("/v1/status", headers=scene.shown(role))).json()["groups"]
        metadata = (("authorization", f"Bearer {scene.tokens[role]}"),)
        data = await scene.channel.unary_unary(f"/{SERVICE.full_name}/GetStatus")(b"", metadata=metadata)
        assert (OTHER.encode() in data) == (role == "admin")
        call = scene.admission.admit(
            "GetStatus", authorization=scene.shown(role)["authorization"], certificates=(), peer=""
        )
        operations = Permitted(scene.served.operations, scene.admission, call)
        told[role] = {each["name"]: each["gone"] for each in groups}
        assert (await operations.status()).server.gone == (await operations.debts()).gone
        assert {name: count for name, count in told[role].items() if count} == (await operations.debts()).gone
    assert told == {"read": {OWN: 1}, "admin": {"default": 0, OWN: 1, OTHER: 4}}


async def test_what_a_node_rejected_in_a_group_that_a_caller_may_not_read_is_not_told(scene: Scene) -> None:
    nacks = tuple(
        NackSeen(at_ms=1, group=group, type_url=CLUSTER_TYPE, names=(f"{group}-c",), count=1, message=f"of {group}")
        for group in (OWN, OTHER, "")
    )
    summary = next(each for each in scene.served.known_nodes if each.group == OWN)
    standing = Standing(
        type_url=CLUSTER_TYPE,
        name=f"{OWN}-c",
        how=How.WILDCARD,
        sent="v2",
        accepted="",
        wanted="v2",
        progress=Progress.NACKED,
    )
    scene.served.clients.append(InspectedClient(summary=summary, gets_secrets=True, standings=(standing,)))
    others = tuple(replace(each, names=(f"{OWN}-c",)) for each in nacks[1:])
    for kept, named in ((nacks, [f"of {OWN}"]), (others, [])):
        scene.served.nacks[f"{OWN}-node"] = kept
        path = f"/v1/nodes/{OWN}-node/resources"
        told = (await scene.rest.get(path, headers=scene.shown("read"))).json()["nacks"]
        assert [each["message"] for each in told] == named
        assert len((await scene.rest.get(path, headers=scene.shown("admin"))).json()["nacks"]) == len(kept)
        path = f"/v1/nodes/{OWN}-node/explain?type=clusters&name={OWN}-c"
        steps = (await scene.rest.get(path, headers=scene.shown("read"))).json()
        assert ("rejected it with" in str(steps), "of hidden" in str(steps)) == (bool(named), False)


async def test_a_group_that_a_caller_may_not_read_is_not_explained_to_it(scene: Scene) -> None:
    rules = {"rules": [{"group": OTHER, "match": {"cluster": "hidden-cluster"}}]}
    assert (await scene.rest.put("/v1/groups", headers=scene.shown("admin"), json=rules)).is_success
    node = Node(id="moved", cluster="hidden-cluster")
    scene.served.known_nodes.append(
        NodeSummary(node=node, group=OWN, revision=1, state=NodeState.GONE, connected_s=None, types=())
    )
    path = f"/v1/nodes/moved/explain?type=clusters&name={OTHER}-c"
    version = (await scene.served.operations.resource(OTHER, CLUSTER_TYPE, f"{OTHER}-c")).version
    for role, is_told in (("read", False), ("admin", True)):
        answer = await scene.rest.get(path, headers=scene.shown(role))
        assert answer.status_code == 200
        assert (version in answer.text, "hidden-cluster" in answer.text) == (is_told, is_told)
    assert "a group that you may not read" in (await scene.rest.get(path, headers=scene.shown("read"))).text


def test_every_call_has_its_rights() -> None:
    methods = {each.name for each in SERVICE.methods}
    of_rest = {CALLS[route] for route in routes()}
    assert set(CALLS) == set(routes())
    assert methods | of_rest | {"AskReplica"} == ROLES.keys()
    assert NEEDS.keys() == ROLES.keys()


async def test_changes_refusals_and_shown_secrets_are_recorded(scene: Scene) -> None:
    headers = scene.shown("write") | {"x-request-id": "r-1"}
    body = {"upsert": [cluster("new")], "id": "change-1"}
    await scene.rest.post(f"/v1/groups/{OWN}/changesets", headers=headers, json=body)
    await scene.rest.post(f"/v1/groups/{OTHER}/changesets", headers=headers, json=body)
    await scene.rest.post(f"/v1/groups/{OWN}/changesets", headers=headers, json={"upsert": [{"@type": CLUSTER_TYPE}]})
    await scene.rest.put("/v1/groups", headers=scene.shown("write"), json={})
    await scene.rest.get(f"/v1/groups/{OWN}/snapshot?redact=false", headers=scene.shown("secrets"))
    await scene.rest.get("/v1/groups", headers={"authorization": "Bearer wrong"})
    found = read_audit(scene.audit, AuditFilter())
    told = [(each["who"], each["what"], each["outcome"], each.get("groups")) for each in reversed(found)]
    assert told == [
        ("token:is-write", "Apply", "done", [OWN]),
        ("token:is-write", "Apply", "forbidden", [OTHER]),
        ("token:is-write", "Apply", "rejected", [OWN]),
        ("token:is-write", "PutRules", "forbidden", None),
        ("token:is-secrets", "GetSnapshot", "done", [OWN]),
        ("unknown", "GET /v1/groups", "unauthenticated", None),
    ]
    assert found[-1]["request_id"] == "r-1"
    assert found[-1]["change_id"] == "change-1"
    assert found[-1]["revision"] == scene.served.operations.revision
    assert MARK not in scene.audit.read_text()
    answer = await scene.rest.get("/v1/audit?outcome=forbidden&who=token:*", headers=scene.shown("admin"))
    assert [each["what"] for each in answer.json()["records"]] == ["PutRules", "Apply"]


async def test_refusals_of_other_calls_are_recorded_whatever_was_refused_before(scene: Scene) -> None:
    shown = scene.shown("read")
    for _ in range(30):
        await scene.rest.post("/v1/rebalance", headers=shown, json={"share": 0.5})
    tries = [
        ("GET", f"/v1/groups/{OTHER}/resources/secrets/{OTHER}-s?redact=false", "GetResource", [OTHER]),
        ("GET", "/v1/audit", "ListAudit", None),
        ("PUT", "/v1/groups", "PUT /v1/groups", None),
        ("GET", f"/v1/groups/{OTHER}/snapshot", "GetSnapshot", [OTHER]),
        ("GET", "/v1/groups/hidden-2/snapshot", "GetSnapshot", ["hidden-2"]),
    ]
    for method, path, _, _ in tries:
        assert (await scene.rest.request(method, path, headers=shown)).status_code == 403
    told = [(each["what"], each.get("groups")) for each in reversed(read_audit(scene.audit, AuditFilter()))]
    assert told == [("POST /v1/rebalance", None)] * 10 + [(what, groups) for _, _, what, groups in tries]


async def test_the_records_of_refusals_are_bounded_and_tell_how_many_there_were(scene: Scene) -> None:
    for number in range(500):
        path = f"/v1/groups/hidden-{number}/snapshot"
        assert (await scene.rest.get(path, headers=scene.shown("read"))).status_code == 403
    await scene.rest.get(f"/v1/groups/{OTHER}/snapshot", headers=scene.shown("write"))
    assert scene.admission._refusals is not None
    scene.admission._refusals.flush()
    found = read_audit(scene.audit, AuditFilter())
    (others,) = [each for each in found if "count" in each]
    singles = [each for each in found if each["who"] == "token:is-read" and "count" not in each]
    assert others["count"] + len(singles) == 500
    assert 30 < len(singles) <= 100
    assert (others["who"], others["what"], others["outcome"]) == ("token:is-read", "refused calls", "forbidden")
    assert (others["calls"], len(others["groups"])) == (["GetSnapshot"], 5)
    assert "token:is-write" in {each["who"] for each in found}


async def test_a_change_that_is_refused_while_it_is_read_is_recorded(scene: Scene) -> None:
    admin, write = scene.shown("admin"), scene.shown("write")
    changes = f"/v1/groups/{OWN}/changesets"
    json_type = {"content-type": "application/json"}
    secret_value = {"@type": SECRET_TYPE, "name": "s", "generic_secret": {"secret": {"inline_strin": MARK}}}
    wrong_type = {"@type": SECRET_TYPE, "name": "s", "generic_secret": {"secret": {"inline_bytes": {MARK: MARK}}}}
    tries: list[tuple[str, str, dict[str, Any], str, list[str] | None, int]] = [
        ("POST", changes, {"content": f'{{"a": "{MARK}'.encode(), "headers": json_type}, "Apply", [OWN], 422),
        ("POST", changes, {"content": MARK.encode(), "headers": {"content-type": "text/weird"}}, "Apply", [OWN], 415),
        ("POST", changes, {"json": {"upsert": [secret_value]}}, "Apply", [OWN], 422),
        ("POST", changes, {"json": {"upsert": [wrong_type]}}, "Apply", [OWN], 422),
        ("POST", f"{changes}?id={'x' * 1000}", {"json": {}}, "Apply", [OWN], 422),
        ("POST", changes, {"json": {}, "headers": {"if-match": "x"}}, "Apply", [OWN], 400),
        ("PUT", f"/v1/groups/{OWN}/resources/nonsense/x", {"json": {}}, "PutResource", [OWN], 422),
        ("POST", "/v1/changesets", {"json": {"nonsense": 1}}, "ApplyGroups", None, 422),
        ("PUT", "/v1/groups", {"json": {"rules": "x"}}, "PutRules", None, 422),
        ("PATCH", "/v1/groups", {"json": {"nonsense": "x"}}, "UpdateRules", None, 422),
        ("POST", "/v1/rebalance", {"json": {"share": 7}}, "Rebalance", None, 422),
        ("POST", "/v1/nothing", {"json": {}}, "POST /v1/nothing", None, 404),
        ("POST", changes, {"content": b" " * 1_000_001, "headers": json_type}, "POST " + changes, None, 413),
    ]
    for method, path, given, what, groups, status in tries:
        shown = write if path.startswith(changes) else admin
        headers = shown | given.pop("headers", {})
        answer = await scene.rest.request(method, path, headers=headers, **given)
        assert answer.status_code == status, answer.text
        (record,) = read_audit(scene.audit, AuditFilter(limit=1))
        told = (record["what"], record["outcome"], record.get("groups"))
        assert told == (what, "rejected", groups), answer.text
        assert record["detail"]
    assert len(read_audit(scene.audit, AuditFilter())) == len(tries), "each once"
    assert MARK not in scene.audit.read_text()


async def test_a_grpc_change_that_is_refused_while_it_is_read_is_recorded(scene: Scene) -> None:
    metadata = (("authorization", f"Bearer {scene.tokens['admin']}"),)
    bad = AnyMessage(type_url=CLUSTER_TYPE, value=b"\xff" + MARK.encode())
    tries: list[tuple[str, Any, list[str] | None]] = [
        ("Apply", pb.Changeset(group=OWN, upsert=[bad]), [OWN]),
        ("ApplyGroups", pb.GroupsChangeset(groups=[pb.GroupChanges(group=OWN, upsert=[bad])]), [OWN]),
        ("Replace", pb.Replacement(group=OWN, resources=[bad]), [OWN]),
        ("PutRules", pb.Rules(rules={"rules": "x"}), None),
        ("Rebalance", pb.RebalanceRequest(share=7), None),
    ]
    for name, message, groups in tries:
        call = scene.channel.unary_unary(f"/{SERVICE.full_name}/{name}")
        with pytest.raises(aio.AioRpcError):
            await call(message.SerializeToString(), metadata=metadata)
        (record,) = read_audit(scene.audit, AuditFilter(limit=1))
        assert (record["what"], record["outcome"], record.get("groups")) == (name, "rejected", groups)
    with pytest.raises(aio.AioRpcError):
        await scene.channel.unary_unary(f"/{SERVICE.full_name}/Apply")(b"\xff", metadata=metadata)
    assert len(read_audit(scene.audit, AuditFilter())) == len(tries) + 1, "each once"
    pushing = scene.channel.stream_stream(f"/{SERVICE.full_name}/PushEndpoints")(metadata=metadata)
    for message in (pb.EndpointsPush(group=OWN, endpoints=[bad]), pb.EndpointsPush(group="", endpoints=[])):
        await pushing.write(message.SerializeToString())
        assert await pushing.read() is not aio.EOF
    await pushing.done_writing()
    scene.admission.close()
    pushes = [each for each in read_audit(scene.audit, AuditFilter()) if each["what"] == "PushEndpoints"]
    assert [(each["outcome"], each["failed"]) for each in pushes if each.get("groups") == [OWN]] == [("rejected", 1)]
    assert sum(each["pushes"] for each in pushes) == 2
    assert MARK not in scene.audit.read_text()


async def test_secrets_that_are_not_there_are_not_recorded_as_shown(scene: Scene) -> None:
    shown = scene.shown("secrets")
    for path in (
        "resources/secrets/nope?redact=false",
        "snapshot?redact=false&revision=99",
        "diff?from=99&redact=false",
    ):
        assert (await scene.rest.get(f"/v1/groups/{OWN}/{path}", headers=shown)).status_code >= 400
    assert read_audit(scene.audit, AuditFilter()) == []
    await scene.rest.get(f"/v1/groups/{OWN}/resources/secrets/{OWN}-s?redact=false", headers=shown)
    (record,) = read_audit(scene.audit, AuditFilter())
    assert (record["what"], record["secrets"]) == ("GetResource", "shown")


async def test_a_known_caller_by_another_host_or_origin_is_recorded(scene: Scene) -> None:
    app = rest_api(scene.served.operations, scene.admission, body_bytes_max=1_000, hosts=Hosts())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as rest:
        shown = scene.shown("write")
        path = f"/v1/groups/{OWN}/changesets"
        for credentials in (shown, {}, {"authorization": "Bearer wrong"}):
            for more, status in (({"host": "evil.example"}, 421), ({"origin": "http://evil.example"}, 403)):
                answer = await rest.post(path, json={}, headers=credentials | more)
                assert answer.status_code == status
    found = read_audit(scene.audit, AuditFilter())
    told = [(each["who"], each["what"], each["outcome"], each["reason"]) for each in reversed(found)]
    assert told == [
        ("token:is-write", f"POST {path}", "forbidden", "host"),
        ("token:is-write", f"POST {path}", "forbidden", "origin"),
    ]
    assert "evil.example" in found[0]["detail"]


@pytest.mark.parametrize("method", ["Watch", "PushEndpoints"])
async def test_a_stream_ends_soon_after_its_token_is_revoked(scene: Scene, method: str) -> None:
    path, metadata = f"/{SERVICE.full_name}/{method}", tuple(scene.shown("write").items())
    stream = scene.channel.stream_stream(path)(metadata=metadata, timeout=20)
    await stream.write(requests(OWN)[method].SerializeToString())
    assert await stream.read() is not aio.EOF
    revoke_tokens(scene.tokens_file, "is-write")
    began_at = asyncio.get_running_loop().time()
    with pytest.raises(aio.AioRpcError) as ended:
        await stream.read()
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert ended.value.details() == "the token 'is-write' was revoked"
    assert asyncio.get_running_loop().time() - began_at < LAPSE_S + 5.0  # the rest is for a busy machine


async def test_a_stream_of_an_open_api_ends_when_that_asks_for_tokens(serving_api, tmp_path: Path) -> None:
    served = await serving_api()
    admission = Admission(Authenticator(tokens_file=tmp_path / "tokens"))
    call = admission.admit("Watch", authorization="", certificates=(), peer="127.0.0.1:1")
    watching = Permitted(served.operations, admission, call).watch(0)
    await served.operations.publish(Change(upserts={OWN: (ingest(cluster("a")),)}))
    assert [stored.revision for stored in await anext(watching)] == [1]
    create_token(tmp_path / "tokens", "first", ("read",))
    with pytest.raises(UnauthenticatedError):
        await anext(watching)


async def test_a_way_through_what_a_group_extends_is_for_those_who_may_read_that_too(scene: Scene) -> None:
    path = f"/v1/groups/{OWN}/route?url=http://a.example/"
    assert (await scene.rest.get(path, headers=scene.shown("read"))).status_code == 200
    await scene.served.operations.put_group(OWN, OTHER, Change())
    answer = await scene.rest.get(path, headers=scene.shown("read"))
    assert answer.status_code == 403
    assert answer.json()["error"] == f"{OWN!r} extends groups that token:is-read may not read"
    assert (await scene.rest.get(path, headers=scene.shown("admin"))).status_code == 200


@pytest.mark.parametrize(("role", "told"), [("write", False), ("admin", True)])
async def test_problems_name_no_resource_of_a_group_of_others_that_the_group_extends(
    scene: Scene, role: str, told: bool
) -> None:
    theirs = r.route("marked-main", "shared")
    operations = scene.served.operations
    await operations.publish(Change(upserts={OTHER: (ingest(cluster("shared")), ingest(theirs))}))
    await operations.put_group(OWN, OTHER, Change())

    async def problems_of(changeset: dict[str, Any]) -> str:
        answer = await scene.rest.post(f"/v1/groups/{OWN}/changesets", json=changeset, headers=scene.shown(role))
        assert answer.status_code == 422
        return str(answer.json())

    misspelt = await problems_of({"upsert": [r.route("main", f"{OTHER}-d")]})
    assert f"refers to clusters/{OTHER}-d, which does not exist" in misspelt
    assert (f"did you mean {OTHER}-c?" in misspelt) is told
    assert (f"{OTHER}-c" in misspelt) is told
    await operations.publish(Change(upserts={OWN: (ingest(cluster("mine")),)}))
    assert "did you mean mine?" in await problems_of({"upsert": [r.route("main", "mina")]})


async def test_a_problem_of_an_inherited_resource_is_not_told(scene: Scene) -> None:
    operations = scene.served.operations
    await operations.publish(Change(upserts={OTHER: (ingest(cluster("shared")), ingest(r.route("marked", "shared")))}))
    await operations.put_group(OWN, OTHER, Change())
    problem = Problem(what="is wrong", group=OWN, resource="routes/marked")
    others = [replace(problem, resource="routes/new"), replace(problem, resource="", group="")]

    def seen(change: Change, sees: Callable[[str], bool] = lambda group: group == OWN) -> tuple[Problem, ...]:
        return operations.seen_problems([problem, *others], sees, change)

    assert seen(Change()) == tuple(others)
    assert seen(Change(), lambda _: True) == (problem, *others)
    own = ingest(r.route("marked", "shared"))
    assert seen(Change(upserts={OWN: (own,)})) == (problem, *others)
    await operations.publish(Change(upserts={OWN: (own,)}))
    assert seen(Change()) == (problem, *others)
    assert seen(Change(removals={OWN: ((own.type_url, own.name),)})) == tuple(others)
    assert seen(Change(replace=(OWN,))) == tuple(others)


@pytest.mark.parametrize("how", ["apply", "put", "rollback", "dry run"])
async def test_a_problem_of_a_resource_that_the_change_puts_in_place_of_an_inherited_one_is_told(
    scene: Scene, how: str
) -> None:
    operations = scene.served.operations
    theirs = (ingest(cluster("shared")), ingest(r.route("main", "shared")), ingest(cluster("zzzzzz")))
    await operations.publish(Change(upserts={OTHER: theirs}))
    await operations.put_group(OWN, OTHER, Change())
    own = ingest(r.route("main", "zzzzzz"))
    before = await operations.publish(Change(upserts={OWN: (own,)}))
    await operations.publish(Change(removals={OWN: ((own.type_url, own.name),)}))
    await operations.publish(Change(removals={OTHER: ((CLUSTER_TYPE, "zzzzzz"),)}))
    path, body = f"/v1/groups/{OWN}", r.route("main", "zzzzzz")
    if how == "rollback":
        shown = scene.shown("rollout")
        answer = await scene.rest.post(f"{path}/rollback", json={"to": before.revision}, headers=shown)
    elif how == "put":
        answer = await scene.rest.put(f"{path}/resources/routes/main", json=body, headers=scene.shown("write"))
    else:
        change = {"upsert": [body], "dry_run": how == "dry run"}
        answer = await scene.rest.post(f"{path}/changesets", json=change, headers=scene.shown("write"))
    assert answer.status_code == 422
    assert f"refers to clusters/zzzzzz, which does not exist in group {OWN}" in answer.text
    assert "may not read" not in answer.text


def standing(name: str, **fields: Any) -> Standing:
    """Return how a client stands to a cluster; by default it has accepted what it should have."""
    versions = {"sent": "v1", "accepted": "v1", "wanted": "v1", "progress": Progress.ACKED} | fields
    return Standing(type_url=CLUSTER_TYPE, name=name, how=How.WILDCARD, **versions)


async def test_a_node_shows_nothing_of_resources_that_its_group_inherits_from_a_group_of_others(scene: Scene) -> None:
    own, other = f"{OWN}-c", f"{OTHER}-c"
    await scene.served.operations.put_group(OWN, OTHER, Change())
    removed = ingest(cluster(f"{OWN}-removed"))
    made = await scene.served.operations.publish(Change(upserts={OWN: (removed,)}))
    await scene.served.operations.publish(Change(removals={OWN: ((CLUSTER_TYPE, removed.name),)}))
    bodies = {
        name: ingest(cluster(name) | {"connect_timeout": "7s", "alt_stat_name": f"body-of-{name}"})
        for name in (own, other)
    }
    waits = (Waiting(Wait.CLUSTERS_WARM, (own, other)), Waiting(Wait.STILL_USED, (f"{CLUSTER_TYPE} {other}",)))
    rejected = TypeSummary(
        type_url=CLUSTER_TYPE,
        variant="delta",
        wildcard=True,
        subscribed=2,
        sent=2,
        acked=0,
        unacked=0,
        pending=0,
        nacked=(own, other),
        error=f"Error adding/updating cluster(s) {other}: body-of-{other}",
        versions={own: "v1", other: "v1"},
        blamed=(other,),
        blamed_by=BlamedBy.CLIENT,
    )
    place = next(at for at, each in enumerate(scene.served.known_nodes) if each.group == OWN)
    summary = replace(
        scene.served.known_nodes[place],
        types=(rejected,),
        accepted_revision=made.revision,
        debt=Debt(rejected=1),
        state=NodeState.REJECTED,
    )
    scene.served.known_nodes[place] = summary
    scene.served.nacks[f"{OWN}-node"] = (
        NackSeen(
            at_ms=1, group=OWN, type_url=CLUSTER_TYPE, names=(own, other), count=2, message=f"it is body-of-{other}"
        ),
        NackSeen(at_ms=2, group=OWN, type_url=CLUSTER_TYPE, names=(own,), count=1, message=f"body-of-{own} is wrong"),
    )
    client = InspectedClient(
        summary=summary,
        gets_secrets=True,
        standings=(standing(own, waits=waits), standing(other), standing(removed.name, wanted="", waits=waits)),
        differences=(
            *(Held(type_url=CLUSTER_TYPE, name=name, has=body, wanted=body) for name, body in bodies.items()),
            Held(type_url=CLUSTER_TYPE, name=removed.name, has=removed, wanted=None, has_version=removed.version),
        ),
    )
    scene.served.clients.append(client)
    scene.served.debts[OWN] = {Debt(rejected=1): 1}
    node = f"/v1/nodes/{OWN}-node"
    for path in (
        *(node, "/v1/nodes", f"{node}/resources", f"{node}/diff"),
        f"{node}/explain?type=clusters&name={own}",
        f"/v1/revisions/2/convergence?group={OWN}",
    ):
        answer = await scene.rest.get(path, headers=scene.shown("read"))
        assert answer.status_code == 200, (path, answer.text)
        assert other not in answer.text, path
        assert other in (await scene.rest.get(path, headers=scene.shown("admin"))).text, path
    found = (await scene.rest.get(f"{node}/resources", headers=scene.shown("read"))).json()
    assert [each["name"] for each in found["connections"][0]["resources"]] == [own, removed.name]
    assert [each["message"] for each in found["nacks"]] == [ABOUT_INHERITED, f"body-of-{own} is wrong"]
    found = (await scene.rest.get(f"{node}/diff", headers=scene.shown("read"))).json()
    assert [each["name"] for each in found["connections"][0]["differences"]] == [own, removed.name]
    for differs in (False, True):
        status, _, data = await call(
            scene, "InspectNode", "read", pb.InspectNodeRequest(id=f"{OWN}-node", differs=differs)
        )
        assert status is grpc.StatusCode.OK
        assert (own.encode() in data, other.encode() in data) == (True, False)


async def test_what_a_node_had_of_an_inherited_resource_is_not_shown_once_its_group_has_its_own(scene: Scene) -> None:
    former = ingest(cluster(f"{OTHER}-c"))
    await scene.served.operations.put_group(OWN, OTHER, Change())
    mine = ingest(cluster(f"{OTHER}-c") | {"alt_stat_name": "mine"})
    await scene.served.operations.publish(Change(upserts={OWN: (mine,)}))
    summary = replace(next(each for each in scene.served.known_nodes if each.group == OWN), accepted_revision=2)
    held = Held(type_url=CLUSTER_TYPE, name=mine.name, has=former, wanted=mine, has_version=former.version)
    scene.served.clients.append(InspectedClient(summary=summary, gets_secrets=True, differences=(held,)))
    path = f"/v1/nodes/{OWN}-node/diff"
    for role, version in (("read", None), ("admin", former.version)):
        found = (await scene.rest.get(path, headers=scene.shown(role))).json()
        (told,) = found["connections"][0]["differences"]
        assert (told["name"], told["has"], bool(told["fields"])) == (mine.name, version, role == "admin")


async def test_who_has_an_inherited_resource_is_not_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.served.operations.put_group(OWN, OTHER, Change())

    async def found(query: HoldersQuery) -> Holders:
        return Holders(holdings=(Holding(group=OWN, version="v1", clients=1, examples=(f"{OWN}-node",)),))

    monkeypatch.setattr(scene.served.operations, "_holders", found)
    for role in ("read", "admin"):
        call = scene.admission.admit(
            "GetResource", authorization=scene.shown(role)["authorization"], certificates=(), peer="127.0.0.1:1"
        )
        permitted = Permitted(scene.served.operations, scene.admission, call)
        told = [len((await permitted.holders(OWN, CLUSTER_TYPE, f"{group}-c")).holdings) for group in (OWN, OTHER)]
        assert told == [1, int(role == "admin")]


async def test_the_version_of_an_inherited_resource_is_not_explained(scene: Scene) -> None:
    rules = {"rules": [{"group": OWN, "match": {}}], "groups": {OWN: {"extends": OTHER}}}
    assert (await scene.rest.put("/v1/groups", headers=scene.shown("admin"), json=rules)).is_success
    summary = next(each for each in scene.served.known_nodes if each.group == OWN)
    version = (await scene.served.operations.resource(OTHER, CLUSTER_TYPE, f"{OTHER}-c")).version
    told = standing(f"{OTHER}-c", sent=version, accepted=version, wanted=version)
    scene.served.clients.append(InspectedClient(summary=summary, gets_secrets=True, standings=(told,)))
    path = f"/v1/nodes/{OWN}-node/explain?type=clusters&name={OTHER}-c"
    for role, steps in (
        ("read", ["by_rule", "group_inherits_hidden", "subscribed"]),
        ("admin", ["by_rule", "group_inherits", "subscribed", "accepted"]),
    ):
        answer = await scene.rest.get(path, headers=scene.shown(role))
        (explained,) = answer.json()["explanations"]
        assert ([each["code"] for each in explained["steps"]], explained["verdict"]) == (steps, "has")
        assert (version in answer.text) == (role == "admin")
