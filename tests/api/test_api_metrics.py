"""What the metrics say of callers: calls by role and outcome, refused credentials, files that can't be used."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import aio
from support import resources as r
from support.fetch import fetch
from support.metrics import samples
from support.server import XdsServer
from support.waiting import wait_until

from xds._generated import snapshots_pb2 as pb
from xds.access.tokens import create_token
from xds.api.metrics import GROUPS_MAX, _GroupLabels
from xds.client import Client


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[XdsServer, str, str]]:
    """Serve with tokens; yield the server, a token with the role admin and one with the role read."""
    tokens = tmp_path / "tokens"
    _, admin = create_token(tokens, "ops", roles=("admin",))
    _, reader = create_token(tokens, "viewer", roles=("read",))
    async with XdsServer(None, settings={"access.tokens_file": str(tokens)}) as server:
        await server.wait_ready()
        yield server, admin, reader


async def said(server: XdsServer, name: str) -> dict[tuple[str, ...], float]:
    """Return a metric by the values of its labels, in the order of their names, without those that are 0."""
    found = samples((await server.admin("/metrics")).text)
    return {tuple(labels.values()): value for each, labels, value in found if each == name and value}


async def test_calls_are_counted_by_call_role_and_outcome(served: tuple[XdsServer, str, str]) -> None:
    server, admin, reader = served

    async def get(path: str, token: str = "", method: str = "GET") -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return (await fetch(server.admin_port, path, method=method, headers=headers)).status

    assert await get("/v1/groups", admin) == 200
    assert await get("/v1/groups/none", reader) == 404
    assert await get("/v1/nosuch", admin) == 404
    assert await get("/v1/groups") == 401
    assert await get("/v1/groups/g", reader, "DELETE") == 403
    async with Client(f"127.0.0.1:{server.api_port}", token=admin) as client:
        await client.apply(upsert=[r.static_cluster("a", 1)])
        await client.groups()
    async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
        ask = channel.unary_unary("/xds_control_plane.api.v1.Snapshots/ListGroups")
        with pytest.raises(aio.AioRpcError) as refused:
            await ask(pb.ListGroupsRequest().SerializeToString())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await said(server, "xds_api_requests_total") == {
        ("ListGroups", "ok", "admin"): 2,
        ("GetGroup", "refused", "read"): 1,
        ("unknown", "refused", "admin"): 1,
        ("unknown", "unauthenticated", "nobody"): 1,
        ("unknown", "forbidden", "nobody"): 1,
        ("Apply", "ok", "admin"): 1,
        ("ListGroups", "unauthenticated", "nobody"): 1,
    }
    assert await said(server, "xds_credentials_refused_total") == {("no credentials",): 2}
    assert await said(server, "xds_rights_refused_total") == {(): 1}
    assert await said(server, "xds_push_seconds_count") == await said(server, "xds_store_seconds_count") == {(): 1}


async def test_a_file_of_tokens_that_cant_be_used_is_a_metric(
    served: tuple[XdsServer, str, str], tmp_path: Path
) -> None:
    server, _, _ = served
    assert await said(server, "xds_access_problem") == {}
    tokens = tmp_path / "tokens"
    good = tokens.read_text()
    tokens.write_text("not: [tokens")
    await wait_until(lambda: said(server, "xds_access_problem"), equals={(): 1})
    tokens.write_text(good)
    await wait_until(lambda: said(server, "xds_access_problem"), equals={})


def test_groups_beyond_the_bound_have_one_label() -> None:
    labels = _GroupLabels()
    found = [labels.of(f"g{number}") for number in range(GROUPS_MAX + 2)]
    assert found[-2:] == ["other", "other"]
    assert labels.of("g0") == "g0"
    assert len(set(found)) == GROUPS_MAX + 1
