"""``xds tokens``, ``xds whoami`` and ``xds audit`` against a running server and its files."""

import json
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.server import XdsServer

from tests.cli.test_push_commands import Done, shell
from xds.access.tokens import create_token


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", "0") as started:
        await started.wait_ready()
        yield started


async def run(command: str, server: XdsServer, cwd: Path) -> Done:
    settings = {"XDS_PUSH_ADDRESS": f"127.0.0.1:{server.api_port}", "XDG_STATE_HOME": server.env["XDG_STATE_HOME"]}
    return await shell(command, cwd=cwd, **settings)


async def test_a_running_server_asks_for_tokens_from_the_first_one_on(server: XdsServer, tmp_path: Path) -> None:
    assert (await run("xds whoami", server, tmp_path)).stdout.startswith("anyone")
    made = await run("xds tokens create ops --role admin --out ops", server, tmp_path)
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((tmp_path / "ops").stat().st_mode) == 0o600
    refused = await run("xds get", server, tmp_path)
    assert (refused.returncode, "show a token" in refused.stderr) == (1, True)
    shown = await run("xds tokens create ci --role write --group 'web-*' --expires 90d", server, tmp_path)
    (tmp_path / "ci").write_text(shown.stdout)
    assert (await run("xds whoami --token-file ci", server, tmp_path)).stdout == "token:ci\n  write: web-*\n"
    forbidden = await run("xds groups create web-1 --token-file ci", server, tmp_path)
    assert (forbidden.returncode, "lacks the right admin" in forbidden.stderr) == (1, True)
    assert (await run("xds tokens revoke ci", server, tmp_path)).returncode == 0
    revoked = await run("xds whoami --token-file ci", server, tmp_path)
    assert (revoked.returncode, "was revoked" in revoked.stderr) == (1, True)
    listed = json.loads((await run("xds tokens list -o json", server, tmp_path)).stdout)
    assert [(each["name"], each["state"]) for each in listed["tokens"]] == [("ops", "valid"), ("ci", "revoked")]
    assert [each["last_used_at"] for each in listed["tokens"]] == [None, None]
    records = json.loads((await run("xds audit --token-file ops -o json", server, tmp_path)).stdout)["records"]
    found = [(each["what"], each["outcome"]) for each in reversed(records)]
    assert found == [
        ("CreateToken", "done"),
        ("ListResources", "unauthenticated"),
        ("CreateToken", "done"),
        ("PutGroup", "forbidden"),
        ("RevokeToken", "done"),
        ("WhoAmI", "unauthenticated"),
    ]
    verified = await run(f"xds audit --file {listed['file'].removesuffix('.tokens')}.audit --verify", server, tmp_path)
    assert (verified.returncode, verified.stdout.startswith("fine: 6 records")) == (0, True), verified.stderr
    audit = f"{listed['file'].removesuffix('.tokens')}.audit"
    for edit, code in (("", 0), ("head -c -1", 0), ("tail -n +2", 0), ("sed s/admin/owner/", 1)):
        copy = tmp_path / "copy"
        await shell(f"{edit or 'cat'} {audit} > {copy}", cwd=tmp_path)
        told = await run(f"xds audit --file {copy} --verify -o json", server, tmp_path)
        found = json.loads(told.stdout)
        assert (told.returncode, bool(found["problems"]), found["file"]) == (code, bool(code), str(copy)), edit
        assert found["records"] == (5 if edit.startswith("tail") else 6)
        copy.unlink()
    server.stop()
    used = json.loads((await run("xds tokens list -o json", server, tmp_path)).stdout)["tokens"]
    assert all(time.time() - 600 < each["last_used_at"] <= time.time() for each in used)
    assert all(token.strip() not in server.log() for token in (shown.stdout, (tmp_path / "ops").read_text()))


async def test_wrong_options_say_what_is_wrong(server: XdsServer, tmp_path: Path) -> None:
    for command, code, told in (
        ("xds tokens create a --role root", 2, "'root' is not a role"),
        ("xds tokens create a --role admin --group web", 2, "leave the groups out"),
        ("xds tokens create 'a b' --role read", 2, "is not a name"),
        ("xds tokens create a --role read --expires soon", 2, "'soon' is no time"),
        ("xds tokens create a --role read --expires 2020-01-01", 2, "is past"),
        ("xds tokens create a --role read --expires 0d", 2, "is past, or now"),
        ("xds tokens create a --role read --expires 99999y", 2, "after the year 9999"),
        ("xds tokens create a --role read --expires 9999-12-31T23:59-12:00", 2, "after the year 9999"),
        ("xds tokens create a --role read --out nowhere/token", 2, "No such file"),
        ("xds tokens create a --role read --tokens-file t --store sqlite:", 2, "--store"),
        ("xds tokens create a --role read --tokens-file t --store sqlite:///", 2, "--store"),
        ("xds tokens create a --role read --store memory:", 2, "has no file"),
        ("xds tokens revoke nobody", 1, "there are no tokens"),
        ("xds audit --verify", 2, "give the log's file"),
        ("xds audit --since never", 2, "'never' is no time"),
    ):
        done = await run(command, server, tmp_path)
        assert (done.returncode, told in done.stderr) == (code, True), (command, done.stderr)
    assert json.loads((await run("xds tokens list -o json", server, tmp_path)).stdout)["tokens"] == []
    assert not list(tmp_path.iterdir()), "what is refused writes nothing"


async def test_a_file_of_tokens_with_an_odd_time_is_listed(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    create_token(tokens, "odd", ("read",))
    tokens.write_text(tokens.read_text().replace('"expires_at": null', '"expires_at": 9999999999999'))
    listed = await shell(f"xds tokens list --tokens-file {tokens}", cwd=tmp_path)
    assert (listed.returncode, "9999999999999 s since 1970" in listed.stdout) == (0, True), listed.stderr


async def test_a_token_that_can_not_be_created_leaves_no_file(server: XdsServer, tmp_path: Path) -> None:
    assert (await run("xds tokens create a --role read --out a", server, tmp_path)).returncode == 0
    again = await run("xds tokens create a --role read --out b", server, tmp_path)
    assert (again.returncode, "there is a valid token" in again.stderr) == (1, True)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text().startswith("xdst_")
