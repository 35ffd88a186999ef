"""The push API redacts secrets: over REST, gRPC and the command line, in every form, on a running server."""

import asyncio
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio
from support import quick_xds
from support import resources as r
from support.server import XdsServer

from xds._generated import snapshots_pb2 as pb
from xds.client import Client

MARK = "hush-hush"
IN_BASE64 = b64encode(MARK.encode()).decode()
GENERIC = {"@type": r.SECRET, "name": "t", "generic_secret": {"secret": {"inline_bytes": IN_BASE64}}}
RESOURCES = [r.secret("s", r.DEMO_CERT, f"{MARK}\n{r.DEMO_KEY}"), GENERIC, r.keyed_cluster("keyed", MARK)]
NAMES = [("secrets", "s"), ("secrets", "t"), ("clusters", "keyed")]
SERVICE = "/xds_control_plane.api.v1.Snapshots/"
FORMS = ("application/json", "application/yaml", "application/x-protobuf", "text/html, application/x-protobuf;q=0.1")


def is_shown(said: bytes) -> bool:
    return MARK.encode() in said or IN_BASE64.encode() in said


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    """A server with secrets at revision 1, the same and a label at 2, and none at 3."""
    async with XdsServer(None, "--workers", "0") as running:
        await running.wait_ready()
        async with Client(f"127.0.0.1:{running.api_port}") as client:
            await client.apply(upsert=RESOURCES)
            await client.apply(upsert=[RESOURCES[0] | {"name": "u"}])
            await client.apply(remove=[*NAMES, ("secrets", "u")])
        yield running


def reading_paths() -> Iterator[str]:
    yield "/v1/groups/default/snapshot?revision=1"
    yield "/v1/groups/default/snapshot?revision=1&type=secrets"
    for kind, name in NAMES:
        yield f"/v1/groups/default/resources/{kind}/{name}?revision=1"
    yield "/v1/groups/default/diff?from=0&to=1"
    yield "/v1/groups/default/diff?from=1&to=3"


async def test_rest_shows_a_secret_in_no_form_unless_it_is_asked_for(server: XdsServer) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}") as api:
        for path in reading_paths():
            for form in FORMS:
                answer = await api.get(path, headers={"accept": form})
                assert (answer.status_code, is_shown(answer.content)) == (200, False), f"{path} {form}"
                assert b"redacted" in answer.content
                answer = await api.get(path + "&redact=false", headers={"accept": form})
                assert (answer.status_code, is_shown(answer.content)) == (200, True), f"{path} {form}"
        for path in ("/v1/revisions", "/v1/groups", "/v1/nodes", "/metrics"):
            assert not is_shown((await api.get(path)).content)
        async with api.stream("GET", "/v1/watch?from=0") as watch:
            said = b""
            async for part in watch.aiter_bytes():
                said += part
                if b"id: 3" in said:
                    break
        assert not is_shown(said)


async def test_grpc_shows_a_secret_in_no_answer_unless_it_is_asked_for(server: XdsServer) -> None:
    diff = {"group": "default", "from": 0, "to": 1}
    requests = [
        ("GetSnapshot", pb.SnapshotRequest(group="default", revision=1)),
        ("Diff", pb.DiffRequest(**diff)),
        *(
            ("GetResource", pb.ResourceRequest(group="default", resource=pb.ResourceName(type=t, name=n), revision=1))
            for t, n in NAMES
        ),
    ]
    async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
        for method, request in requests:
            for secrets in (False, True):
                request.secrets = secrets
                answer = await channel.unary_unary(SERVICE + method)(request.SerializeToString())
                assert (is_shown(answer), b"redacted" in answer) == (secrets, not secrets), method
        for secrets in (False, True):
            watch = channel.unary_stream(SERVICE + "Watch")(pb.WatchRequest(secrets=secrets).SerializeToString())
            answers = [await watch.read() for _ in range(3)]
            assert [is_shown(answer) for answer in answers] == [secrets, secrets, False]
            watch.cancel()


async def test_the_client_and_the_command_line_show_a_secret_only_where_it_is_asked_for(server: XdsServer) -> None:
    async with Client(f"127.0.0.1:{server.api_port}") as client, client_that_shows(server) as shown:
        for one, expected in ((client, False), (shown, True)):
            found = [await one.snapshot(revision=1), await one.diff(0, 1), await anext(one.watch(0))]
            found += [await one.get(kind, name, revision=1) for kind, name in NAMES]
            assert [is_shown(str(each).encode()) for each in found] == [expected] * len(found)
    commands = [["get", "--revision", "1"], ["get", "secrets", "s", "--revision", "1"], ["diff", "0", "1"]]
    for command in commands:
        for output in ("table", "yaml", "json"):
            for options in ([], ["--show-secrets"]):
                argv = [quick_xds.program(), *command, "-o", output, "--api", f"127.0.0.1:{server.api_port}", *options]
                done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True, timeout=60)
                lists_names = output == "table" and len(command) < 4 and "secrets" not in command
                assert is_shown(done.stdout) is (bool(options) and not lists_names), argv


def client_that_shows(server: XdsServer) -> Client:
    return Client(f"127.0.0.1:{server.api_port}", redact=False)


async def test_what_is_redacted_is_refused_as_protobuf_too(server: XdsServer) -> None:
    form = "application/x-protobuf"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}") as api:
        for kind, name in NAMES:
            path = f"/v1/groups/default/resources/{kind}/{name}"
            read = await api.get(path, params={"revision": 1}, headers={"accept": form})
            put = await api.put(path, content=read.content, headers={"content-type": read.headers["content-type"]})
            assert put.status_code == 422, put.text
            assert "stands for a secret" in put.text
        read = await api.get("/v1/groups/default/snapshot?revision=1", headers={"accept": form})
        changeset = pb.Changeset(upsert=pb.Snapshot.FromString(read.content).resources)
        assert isinstance(changeset.upsert[0], AnyMessage)
        post = await api.post(
            "/v1/groups/default/changesets", content=changeset.SerializeToString(), headers={"content-type": form}
        )
        assert (post.status_code, len(post.json()["problems"])) == (422, 4)
