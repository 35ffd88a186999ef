"""A server in use and in trouble, with a mark in every secret: the mark is nowhere but where it must be."""

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from support import resources as r
from support.processes import Child
from support.server import XdsServer
from support.wire import DeltaClient

from tests.cli.test_push_commands import shell
from xds.api.csds import SERVICE as CSDS
from xds.client import Client
from xds.client.errors import ClientError
from xds.model import types
from xds.schema.pool import load_schema
from xds.store.keys import new_key, write_key_file

MARK = "MaRk3r-9f1c"
_count = iter(range(10_000))


def mark() -> str:
    """Return a secret of which no part is in another text."""
    return f"{MARK}-{next(_count):04d}-{MARK}"


def in_base64() -> list[str]:
    """Return what the mark is in base64 at each of the three positions in which it may stand there."""
    return [b64encode(b"x" * shift + MARK.encode()).decode()[2 * shift : -4].strip("=") for shift in range(3)]


LEAK = re.compile("|".join(map(re.escape, (MARK, *in_base64()))).encode())


def leaks(said: bytes | str) -> list[str]:
    """Return where the mark is in what was said, with what is around it."""
    data = said.encode() if isinstance(said, str) else said
    return [repr(data[max(0, each.start() - 150) : each.end() + 40]) for each in LEAK.finditer(data)]


def route(name: str) -> dict[str, Any]:
    headers = [{"header": {"key": "Authorization", "value": f"Bearer {mark()}"}}]
    match = {"prefix": "/", "headers": [{"name": "x-api-key", "string_match": {"exact": mark()}}]}
    host = {"name": "v", "domains": ["*"], "routes": [{"match": match, "direct_response": {"status": 200}}]}
    return {"@type": types.ROUTE, "name": name, "request_headers_to_add": headers, "virtual_hosts": [host]}


def generic(name: str) -> dict[str, Any]:
    return {
        "@type": types.SECRET,
        "name": name,
        "generic_secret": {
            "secret": {"inline_bytes": b64encode(mark().encode()).decode()},
            "secrets": {"other": {"inline_string": mark()}},
        },
    }


def basic_auth(name: str) -> dict[str, Any]:
    users = {"inline_string": f"user:{{SHA}}{mark()}"}
    type_url = r.TYPE + "envoy.extensions.filters.http.basic_auth.v3.BasicAuth"
    return r.extension(name, {"@type": type_url, "users": users})


def resources(suffix: str) -> list[dict[str, Any]]:
    """Return resources with new marks in every kind of secret."""
    return [
        r.secret(f"pair-{suffix}", r.DEMO_CERT, f"{mark()}\n{r.DEMO_KEY}"),
        r.keyed_cluster(f"keyed-{suffix}", mark()),
        generic(f"generic-{suffix}"),
        route(f"route-{suffix}"),
        basic_auth(f"basic-{suffix}"),
    ]


BAD: list[dict[str, Any]] = [
    {"@type": types.SECRET, "name": "bad", "tls_certificate": {"private_key": mark()}},
    {"@type": types.SECRET, "name": "bad", "generic_secret": {"secret": {"inline_bytes": f"{mark()}!"}}},
    {"@type": types.SECRET, "name": "bad", "generic_secret": {"secret": {"inline_string": [mark()]}}},
    {"@type": types.CLUSTER, "name": "bad", "password": mark(), "type": "STATIC"},
    {"@type": r.TYPE + "acme.v1.Vault", "token": mark()},
    r.secret("bad", r.DEMO_CERT, f"-----BEGIN PRIVATE KEY-----\n{mark()}\n-----END PRIVATE KEY-----\n"),
    {
        "@type": types.SECRET,
        "name": "large",
        "generic_secret": {"secret": {"inline_string": f"{mark()}{'x' * 100_000}"}},
    },
    {
        "@type": types.ROUTE,
        "name": "bad",
        "request_headers_to_add": [{"header": {"key": "authorization", "value": f"%{mark()}"}}],
    },
]
BAD_FILES = {
    "alias.yaml": "resources:\n- '@type': {0}\n  name: s\n  generic_secret: {{secret: {{inline_string: *{1}}}}}\n",
    "tag.yaml": "resources:\n- '@type': {0}\n  name: s\n  generic_secret: {{secret: {{inline_string: !{1} x}}}}\n",
    "cut.yaml": 'resources:\n- "@type": {0}\n  name: s\n  generic_secret: {{secret: {{inline_string: "{1}\n  name: [',
    "cut.json": '{{"resources": [{{"@type": "{0}", "generic_secret": {{"secret": {{"inline_string": "{1}',
    "wrong.yaml": "resources:\n- '@type': {0}\n  name: s\n  tls_certificate: {{private_key: {1}}}\n",
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    served = tmp_path / "served"
    served.mkdir()
    r.write_directory(served, resources("file"))
    write_key_file(tmp_path / "store.key", [new_key()])
    settings = {
        "store.key_files": tmp_path / "store.key",
        "csds": True,
        "log.level": "debug",
        "protocol.resource_bytes_max": 65_536,
        "validation.envoy": "warn",
    }
    running = XdsServer(served, "--workers", "1", settings=settings)
    (tmp_path / "tmp").mkdir()
    running.env |= {"TMPDIR": str(tmp_path / "tmp"), "XDG_STATE_HOME": str(tmp_path / "state")}
    async with running:
        await running.wait_ready(timeout_s=60)
        yield running


async def push(server: XdsServer, tmp_path: Path, said: dict[str, bytes | str]) -> None:
    """Push good and bad resources in every way; note each answer."""
    base = f"http://127.0.0.1:{server.admin_port}"
    async with httpx.AsyncClient(base_url=base, timeout=30) as rest:
        path = "/v1/groups/pushed/changesets"
        said["REST"] = (await rest.post(path, json={"upsert": resources("rest"), "id": "one"})).content
        said["REST, the id reused"] = (await rest.post(path, json={"upsert": resources("rest"), "id": "one"})).content
        stale = {"upsert": resources("rest"), "expected_revision": 1}
        said["REST, stale"] = (await rest.post(path, json=stale)).content
        said["REST, dry run"] = (await rest.post(path, json={"upsert": resources("dry"), "dry_run": True})).content
        for number, bad in enumerate(BAD):
            said[f"REST, bad {number}"] = (await rest.post(path, json={"upsert": [bad]})).content
            put = await rest.put(f"/v1/groups/pushed/resources/secrets/x{number}", json=bad)
            said[f"REST, bad one {number}"] = put.content
        cut = json.dumps({"upsert": resources("rest")})[:-40]
        said["REST, cut off"] = (
            await rest.post(path, content=cut, headers={"content-type": "application/json"})
        ).content
        for name, text in BAD_FILES.items():
            form = {"content-type": "application/yaml" if name.endswith("yaml") else "application/json"}
            content = text.format(types.SECRET, mark())
            said[f"REST, {name}"] = (await rest.post(path, content=content, headers=form)).content
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        said["gRPC"] = str(await client.apply(upsert=resources("grpc"), group="pushed"))
        for number, bad in enumerate(BAD):
            with pytest.raises(ClientError) as refused:
                await client.apply(upsert=[bad], group="pushed")
            said[f"gRPC, bad {number}"] = f"{refused.value}{getattr(refused.value, 'problems', '')}"
    for number, bad in enumerate([resources("cli"), *([each] for each in BAD)]):
        file = r.write_file(tmp_path / f"cli-{number}.yaml", bad)
        done = await command(server, tmp_path, f"apply -f {file} --group pushed")
        said[f"CLI, {number}"] = done
        said[f"CLI, validate {number}"] = await command(server, tmp_path, f"validate {tmp_path}")
        file.unlink()


async def command(server: XdsServer, tmp_path: Path, text: str) -> str:
    done = await shell(
        f"xds {text}",
        cwd=tmp_path,
        XDS_PUSH_ADDRESS=f"127.0.0.1:{server.api_port}",
        XDG_STATE_HOME=str(tmp_path / "state"),  # whose store ``xds store`` means
    )
    return f"{done.stdout}{done.stderr}"


async def break_files(server: XdsServer, tmp_path: Path) -> None:
    """Put each bad file into the directory, and wait until it is reported."""
    for name, text in BAD_FILES.items():
        file = tmp_path / "served" / name
        before = len(server.events("problem"))
        file.write_text(text.format(types.SECRET, mark()))
        await server.wait_event("problem", before + 1)
        file.unlink()


async def be_rejected(server: XdsServer, tmp_path: Path, said: dict[str, bytes | str]) -> list[bytes]:
    """Reject every secret with a text that repeats it, as Envoy does with messages; return what was on the wire."""
    seen = []
    async with DeltaClient(server.port, node_id="n1", cluster="pushed") as client:
        for type_url in (types.SECRET, types.CLUSTER, types.ROUTE, types.EXTENSION_CONFIG):
            names = [f"{kind}-grpc" for kind in ("pair", "generic", "keyed", "route", "basic")]
            await client.subscribe(type_url, *names)
            response = await client.next()
            seen += [each.body or b"" for each in response.resources.values()]
            text = "".join((each.body or b"").decode("latin-1") for each in response.resources.values())
            await client.nack(response, f"Proto constraint validation failed: {text[:6_000]}")
        await server.wait_metrics(lambda metrics: metrics["xds_nacks_total"] >= 4)
        said["CSDS"] = (await csds(server)).SerializeToString()
        for output in ("table", "json"):
            said[f"xds node n1, {output}"] = await command(server, tmp_path, f"node n1 -o {output}")
    return seen


async def csds(server: XdsServer) -> Any:
    schema = load_schema()
    request: Any = schema.message_class("envoy.service.status.v3.ClientStatusRequest")
    response: Any = schema.message_class("envoy.service.status.v3.ClientStatusResponse")
    async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            f"/{CSDS}/FetchClientStatus",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return await call(request())


READS = (
    *("/metrics", "/readyz", "/healthz", "/v1/revisions", "/v1/groups", "/v1/nodes", "/v1/nodes/n1", "/v1/rules"),
    *("/v1/docs", "/v1/openapi.json", "/v1/groups/pushed/snapshot", "/v1/groups/pushed/diff?from=1"),
    *("/v1/groups/pushed/resources/secrets/pair-grpc", "/v1/groups/pushed/resources/secrets/gone", "/v1/revisions/2"),
)
COMMANDS = (
    *("get --group pushed", "get secrets -o yaml --group pushed", "get routes -o json --group pushed", "diff 1 2"),
    *("diff 0 2 -o json --group pushed", "history", "show 2", "show 2 -o yaml", "status", "status -o json", "node n1"),
    *("node n1 -o json", "groups", "rollback --to 2 --group pushed", "get secrets pair-gone --group pushed"),
)


async def read(server: XdsServer, tmp_path: Path, said: dict[str, bytes | str]) -> None:
    """Read everything that can be read without the right to see secrets."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", timeout=30) as rest:
        for path in READS:
            for form in ("application/json", "application/yaml", "application/x-protobuf", "text/html"):
                said[f"GET {path} {form}"] = (await rest.get(path, headers={"accept": form})).content
    for text in COMMANDS:
        said[f"xds {text}"] = await command(server, tmp_path, text)


def processes_of(server: Child) -> list[int]:
    """Return the ids of the server's process and of its children."""
    assert server.pid is not None
    found = [server.pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == server.pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_no_secret_is_anywhere_but_on_the_wire_and_in_answers_with_the_right(
    server: XdsServer, tmp_path: Path
) -> None:
    said: dict[str, bytes | str] = {}
    await push(server, tmp_path, said)
    await break_files(server, tmp_path)
    wire = await be_rejected(server, tmp_path, said)
    assert sum(map(bool, map(leaks, wire))) >= 4, "the test's own marks are sent to the node"
    await read(server, tmp_path, said)
    shown = await command(server, tmp_path, "get secrets pair-grpc --group pushed --show-secrets -o yaml")
    assert leaks(shown), "who has the right sees them"
    for pid in processes_of(server):
        for name in ("environ", "cmdline"):
            said[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    said["xds store backup"] = await command(server, tmp_path, f"store backup {tmp_path}/backup.db")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "served"]
    said |= {f"file {path.relative_to(tmp_path)}": path.read_bytes() for path in files}
    assert {"backup.db", "store.db", "store.db-wal"} <= {path.name for path in files}
    server.stop()
    said["the log"] = server.log()
    said |= {f"file {path.name} at the end": path.read_bytes() for path in (tmp_path / "state").rglob("store.db*")}
    assert list((tmp_path / "tmp").iterdir()) == []
    found = {where: places[:2] for where, what in said.items() if (places := leaks(what))}
    assert found == {}
    _is_a_run_with_secrets(said)


def _is_a_run_with_secrets(said: dict[str, bytes | str]) -> None:
    """Check that the steps did what they are for: else nothing would be found because there was nothing."""
    texts = {where: what if isinstance(what, str) else what.decode("latin-1") for where, what in said.items()}
    assert len(said) > 100
    assert '"revision"' in texts["REST"]
    refused = [where for where in texts if re.match(r"(REST|gRPC), bad \d", where)]
    assert len(refused) == 2 * len(BAD)
    assert all("problem" in texts[where].lower() for where in refused)
    for where in ("xds node n1, json", "the log", "CSDS"):
        assert "Proto constraint validation failed: " in texts[where], where
        assert "[redacted]" in texts[where], where
    assert "[redacted]" in texts["xds get secrets -o yaml --group pushed"]
    assert "[redacted]" in texts["GET /v1/groups/pushed/snapshot application/json"]
