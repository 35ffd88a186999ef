"""Every command with untrusted text that could control a terminal: it is never printed raw; JSON and YAML preserve it.

Every command must be in ``EACH``, or in ``OWN`` if it prints no untrusted text.
"""

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import typer
import yaml
from support import quick_xds
from support import resources as r
from support.server import XdsServer
from support.waiting import wait_until
from support.wire import DeltaClient

from xds.cli.main import command_line
from xds.client import About, Client
from xds.reporting.escaping import HIDDEN
from xds.transport.http2.frames import goaway_frame

NASTY = "\x1b[2J\x1b]0;title\x07\x9b2J\u202eevil\u2066\u200b\u200f\u2028\nforged: line\r\t\x7f"
GROUP = "g\u202eevil\u200b\u2066"
"""Group names can't contain control characters."""
CHANGES = b"the last"
"""Part of the message of the newest change."""
OWN = {"settings", "version", "whoami", "monitoring dashboard"}
"""Commands that print the product's own text only."""


def commands() -> set[str]:
    """Return the name of every command, with its group's name before it."""
    found = set()

    def walk(group: typer.Typer, prefix: str) -> None:
        for command in group.registered_commands:
            assert command.callback is not None
            found.add(f"{prefix}{command.name or command.callback.__name__}")
        for below in group.registered_groups:
            if below.typer_instance is not None:
                walk(below.typer_instance, f"{prefix}{below.name} ")
                if below.typer_instance.info.invoke_without_command:
                    found.add(f"{prefix}{below.name}")

    walk(command_line(), "")
    return found


@dataclass(frozen=True)
class Case:
    """A command line, the form of its stdout, and its exit code."""

    words: tuple[str, ...]
    form: str = "text"
    code: int = 0


def each(*words: str, forms: tuple[str, ...] = ("table", "json", "yaml")) -> list[Case]:
    """Return a case for each output form of a command."""
    return [Case((*words, "-o", form), "text" if form == "table" else form) for form in forms]


NODE = ("--node-id", NASTY, "--cluster", "c", "--server", "127.0.0.1:1")
EACH: dict[str, list[Case]] = {
    "get": [
        *each("get"),
        *each("get", "clusters", NASTY, forms=("json", "yaml")),
        Case(("get", "clusters", f"no{NASTY}"), code=4),
    ],
    "diff": each("diff", "0", "2"),
    "history": each("history"),
    "show": each("show", "2"),
    "watch": each("watch", "--from", "0"),
    "status": [Case(("status", "-o", form)) for form in ("table", "json", "yaml")],
    "nodes": each("nodes"),
    "explain": each("explain", NASTY, f"clusters/{NASTY}"),
    "wait": [
        Case(("wait", "--timeout", "0"), code=8),
        *(Case(("wait", "--timeout", "0", "-o", form), form, code=8) for form in ("json", "yaml")),
        Case(("wait", "-g", f"no{NASTY}"), code=4),
    ],
    "route": [
        Case(("route", f"no{GROUP}", "http://a/"), code=4),
        Case(("route", "default", f"http://{NASTY}"), code=2),
    ],
    "config": [
        *(Case(("config", NASTY, "--dump", "dump.json", "-v", "-o", form), form, code=1) for form in ("json", "yaml")),
        Case(("config", NASTY, "--dump", "dump.json", "-v"), code=1),
        Case(("config", NASTY, "--dump", f"no{NASTY}"), code=2),
    ],
    "top": [Case(("top", "--once", "--admin", NASTY), code=2)],
    "monitoring rules": [Case(("monitoring", "rules", "--runbook", NASTY), code=2)],
    "rebalance": [Case(("rebalance", "--share", NASTY), code=2)],
    "audit": [Case(("audit", "--file", NASTY), code=2)],
    "tokens create": [Case(("tokens", "create", NASTY, "--role", "read", "--tokens-file", "tokens"), code=2)],
    "tokens list": [Case(("tokens", "list", "--tokens-file", NASTY))],
    "tokens revoke": [Case(("tokens", "revoke", "name", "--tokens-file", NASTY), code=1)],
    "store new-key": [Case(("store", "new-key", f"no{NASTY}/key"), code=1)],
    "store encrypt": [Case(("store", "encrypt", "--key-file", NASTY), code=2)],
    "store decrypt": [Case(("store", "decrypt", "--key-file", NASTY), code=2)],
    "node": [*each("node", NASTY), Case(("node", f"no{NASTY}"), code=4)],
    "groups": [*each("groups"), Case(("groups", "-f", "rules.yaml"), code=1)],
    "groups rules": [Case(("groups", "rules"), "yaml")],
    "groups create": [Case(("groups", "create", GROUP), code=1), Case(("groups", "create", f"no{GROUP}", "--dry-run"))],
    "groups delete": [Case(("groups", "delete", GROUP, "--yes"), code=1)],
    "apply": [
        *each("apply", "-f", "hostile.json", "--dry-run"),
        Case(("apply", "-f", "bad.json"), code=1),
        Case(("apply", "-f", f"no{NASTY}"), code=2),
    ],
    "delete": each("delete", "clusters", NASTY, "--dry-run"),
    "rollback": each("rollback", "0", "--dry-run"),
    "validate": [
        Case(("validate", "bad"), code=1),
        Case(("validate", "bad", "--format", "json"), "json", code=1),
        Case(("validate", "odd"), code=1),
    ],
    "serve": [Case(("serve", "bad"), code=1), Case(("serve", f"no{NASTY}"), code=1)],
    "bootstrap": [
        Case(("bootstrap", *NODE), "yaml"),
        Case(("bootstrap", *NODE, "--format", "json"), "json"),
        Case(("bootstrap", "--grpc", *NODE), "json"),
    ],
    "envoy": [Case(("envoy", *NODE, "--binary", NASTY), code=2), Case(("envoy", *NODE, "--binary", "./envoy"))],
    "schema show": [Case(("schema", "show", "--schema", NASTY), code=1)],
    "schema diff": [Case(("schema", "diff", NASTY), code=1)],
    "schema export": [Case(("schema", "export", f"none/{NASTY}"), code=1)],
    "store check": [Case(("store", "check", "--store", f"sqlite:///{NASTY}.db"), code=1)],
    "store backup": [Case(("store", "backup", "backup.db", "--store", f"sqlite:///{NASTY}.db"), code=1)],
    "store restore": [Case(("store", "restore", f"{NASTY}.db", "--store", "sqlite:///other.db"), code=1)],
    "fleet": [Case(("fleet", "--streams", "1", "--server", "127.0.0.1:{hostile}", "--timeout", "5s"), code=1)],
    "fleet plot": [Case(("fleet", "plot", f"no{NASTY}"), code=1)],
}


def test_every_command_is_here() -> None:
    assert EACH.keys() | OWN == commands()


@dataclass
class World:
    """A server with hostile text in every field that it stores, and a directory of hostile files."""

    server: XdsServer
    directory: Path

    async def run(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        """Run a command until it ends; ``watch`` until it has printed the last change."""
        env = {
            **self.server.env,
            "XDS_PUSH_ADDRESS": f"127.0.0.1:{self.server.api_port}",
            "USER": NASTY.replace("\0", ""),
        }
        env |= {"COLUMNS": "4000", "XDG_STATE_HOME": str(self.directory / "state")}
        process = await asyncio.create_subprocess_exec(
            quick_xds.program(), *words, cwd=self.directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        seen = b""
        if words[0] == "watch":
            assert process.stdout is not None
            async with asyncio.timeout(30):
                while CHANGES not in (line := await process.stdout.readline()):
                    seen += line
            seen += line
            process.terminate()
        out, err = await asyncio.wait_for(process.communicate(), 60)
        if words[0] == "watch":
            return subprocess.CompletedProcess(words, 0, seen, err)
        return subprocess.CompletedProcess(words, process.returncode or 0, out, err)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    hostile = r.static_cluster(NASTY, 1)
    (tmp_path / "hostile.json").write_text(json.dumps([r.static_cluster(NASTY, 2)]))
    dumped = {"version_info": NASTY, "cluster": r.static_cluster(NASTY, 4)}
    dump = {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": [dumped]}
    (tmp_path / "dump.json").write_text(json.dumps({"configs": [dump]}))
    (tmp_path / "bad.json").write_text(json.dumps([{**hostile, NASTY: 1}]))
    (tmp_path / "rules.yaml").write_text(json.dumps({"rules": [{"group": GROUP}], NASTY: 1}))
    r.write_directory(tmp_path / "odd", [hostile], GROUP)
    (tmp_path / f"{NASTY}.db").write_bytes(b"not a store" * 20)
    (tmp_path / "envoy").write_text('#!/bin/sh\nprintf 127.0.0.1:1 > "$4"\nsleep 0.3\n')
    (tmp_path / "envoy").chmod(0o700)
    r.write_directory(tmp_path / "bad", [{**hostile, NASTY: 1}], NASTY)
    async with XdsServer(None, "--workers", "0") as server:
        await server.wait_ready()
        async with (
            Client(f"127.0.0.1:{server.api_port}") as client,
            DeltaClient(server.port, node_id=NASTY, cluster=NASTY) as node,
        ):
            about = About(id=NASTY, author=NASTY, message=NASTY)
            await client.apply(upsert=[hostile], about=about)
            await client.apply(
                upsert=[r.static_cluster(NASTY, 3)], group=GROUP, about=About(message=NASTY, author=NASTY)
            )
            rules = {"rules": [{"group": GROUP, "match": {"cluster": NASTY}}]}
            await client.update_rules(rules, about=About(message=f"{NASTY} the last", author=NASTY))
            await node.subscribe(r.CLUSTER)
            await node.nack(await node.next(), NASTY)
            await wait_until(client.nodes, lambda told: [node.state for node in told.nodes] == ["rejected"])
            yield World(server, tmp_path)


async def insult(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve as an xDS server that ends every connection with hostile text."""
    with contextlib.suppress(ConnectionError):
        await reader.read(24)  # the preface
        writer.write(b"\0\0\0\x04\0\0\0\0\0" + goaway_frame(0, 2, NASTY))
        writer.write_eof()
        await reader.read()
    writer.close()


def check(shown: bytes, form: str) -> str:
    """Assert that the output has no hidden characters, and that JSON and YAML contain the text unchanged."""
    text = shown.decode()
    assert not HIDDEN.search(text.replace("\n", "")), text
    assert not [line for line in text.splitlines() if line.startswith("forged")], text
    if form == "json":
        assert any(NASTY in each for line in documents(text) for each in texts_of(json.loads(line)))
    if form == "yaml":
        assert any(NASTY in each for each in texts_of(list(yaml.safe_load_all(text))))
    return text


def documents(text: str) -> list[str]:
    """Split output that is one JSON document, or one on each line."""
    return text.splitlines() if text.startswith('{"') else [text]


def texts_of(value: object) -> list[str]:
    """Return all strings in a value."""
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in texts_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_of(each)]
    return [value] if isinstance(value, str) else []


async def test_no_command_prints_anything_raw(world: World) -> None:
    wrong = []
    async with await asyncio.start_server(insult, "127.0.0.1", 0) as hostile:
        port = hostile.sockets[0].getsockname()[1]
        for name, cases in EACH.items():
            for case in cases:
                done = await world.run(*(word.replace("{hostile}", str(port)) for word in case.words))
                try:
                    text = check(done.stdout, case.form) + check(done.stderr, "text")
                    assert done.returncode == case.code, text
                    assert "\\u202eevil" in text.lower(), text
                except (AssertionError, ValueError, yaml.YAMLError) as error:
                    wrong.append(f"{name} {case.words!r}: {error}")
    assert not wrong, "\n\n".join(wrong)


async def test_no_answer_over_rest_has_anything_raw(world: World) -> None:
    """People read these with curl."""
    paths = (await world.server.admin("/v1/openapi.json")).json()["paths"]
    values = {
        "group": "default",
        "type_name": "clusters",
        "type": "clusters",
        "name": NASTY,
        "revision": "2",
        "id": NASTY,
    }
    asked = ["/readyz", "/metrics", f"/{quote(NASTY, safe='')}", f"/v1/groups/no{quote(NASTY, safe='')}"]
    asked += [
        re.sub(r"{(\w+)[^}]*}", lambda found: quote(values[found[1]], safe=""), path)
        for path, methods in paths.items()
        if "get" in methods and "watch" not in path
    ]
    assert len(asked) > 8
    shown = ""
    for path in asked:
        answer = await world.server.admin(path)
        assert not HIDDEN.search(answer.body.decode().replace("\n", "")), (path, answer.body)
        shown += answer.body.decode()
    assert shown.count("\\u202eevil") > 10
