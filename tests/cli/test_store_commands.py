"""``xds store`` against running servers, files and etcd."""

import asyncio
import json
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import resources as r
from support.etcd import Etcd
from support.server import XdsServer

from tests.cli.test_push_commands import Done, shell
from xds.client import Client
from xds.store.etcd_client import EtcdClient, EtcdOptions
from xds.store.keys import new_key, read_key_file, write_key_file


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", "0") as started:
        await started.wait_ready()
        yield started


async def store(command: str, server: XdsServer, cwd: Path, **env: str) -> Done:
    address = f"127.0.0.1:{server.api_port}"
    settings = {"XDS_PUSH_ADDRESS": address, "XDG_STATE_HOME": server.env["XDG_STATE_HOME"]} | env
    return await shell(f"xds store {command}", cwd=cwd, **settings)


async def test_a_running_servers_store_is_backed_up_while_changes_come(server: XdsServer, tmp_path: Path) -> None:
    """The copy is of one instant: everything up to its revision, and nothing after it."""
    stopping = False
    pushed = 0

    async def push(client: Client) -> None:
        nonlocal pushed
        while not stopping:
            both = [r.static_cluster(name, 1 + pushed % 60_000) for name in ("a", "b")]
            await client.apply(upsert=both)
            pushed += 1

    async with Client(f"127.0.0.1:{server.api_port}") as client:
        pushing = asyncio.create_task(push(client))
        done = await store("backup b.db -o json", server, tmp_path)
        again = await store("backup b.db --force", server, tmp_path)
        stopping = True
        await pushing
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600
    for name, told in (("b.db.before", json.loads(done.stdout)), ("b.db", None)):
        checked = await store(f"check --store sqlite:///{name} -o json", server, tmp_path)
        found = json.loads(checked.stdout)
        assert found["changes"] == found["revision"] > 0, checked.stderr
        assert told is None or (told["revision"], told["target"]) == (found["revision"], "b.db")
    beside = {path.name for path in Path(server.env["XDG_STATE_HOME"], "xds").iterdir()}
    kept = {f"{file}{suffix}" for file in ("store.db", "store.db.nodes") for suffix in ("", "-wal", "-shm")}
    assert beside <= kept, "no copy is left beside the store"
    assert {path.name for path in tmp_path.iterdir()} == {"b.db", "b.db.before"}
    restored = await shell(f"xds store restore {tmp_path}/b.db", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path / "other"))
    assert restored.returncode == 0, restored.stderr


async def test_a_backup_is_of_the_store_that_was_meant(server: XdsServer, tmp_path: Path) -> None:
    async with XdsServer(None, "--workers", "0") as other:
        await other.wait_ready()
        wrong = await store("backup b.db", server, tmp_path, XDS_PUSH_ADDRESS=f"127.0.0.1:{other.api_port}")
        assert (wrong.returncode, "name its push API with --api" in wrong.stderr) == (1, True)
        right = await store(f"backup b.db --api 127.0.0.1:{other.api_port}", server, tmp_path)
        assert f"{other.env['XDG_STATE_HOME']}/xds/store.db backed up to b.db" in right.stdout, right.stderr
    away = await store("backup c.db", server, tmp_path, XDS_PUSH_ADDRESS="127.0.0.1:1")
    assert away.returncode == 5
    assert [path.name for path in tmp_path.iterdir()] == ["b.db"]


async def test_a_backup_replaces_only_a_backup_and_only_if_it_is_told_to(server: XdsServer, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    assert (await store("backup b.db", server, tmp_path)).returncode == 0
    refused = await store("backup b.db -o json", server, tmp_path)
    assert (refused.returncode, "replace it with --force" in json.loads(refused.stderr)["error"]) == (1, True)
    own = await store("backup notes --force", server, tmp_path)
    assert (own.returncode, (tmp_path / "notes").read_text()) == (1, "mine")
    itself = Path(server.env["XDG_STATE_HOME"], "xds", "store.db")
    assert (await store(f"backup {itself} --force", server, tmp_path)).returncode == 2


async def test_a_store_without_a_file_has_no_backup(tmp_path: Path) -> None:
    async with XdsServer(None, "--store", "memory:", "--workers", "0") as memory:
        await memory.wait_ready()
        done = await store(f"backup b.db --api 127.0.0.1:{memory.api_port}", memory, tmp_path)
    assert (done.returncode, "this store has no file" in done.stderr) == (1, True)


@pytest.mark.parametrize("content", [None, "", "text"])
async def test_a_check_of_what_is_no_store_is_an_error_and_changes_nothing(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.db").write_text(content)
    done = await shell("xds store check --store sqlite:///a.db", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == (
        {} if content is None else {"a.db": content}
    )
    assert (await shell("xds store check --store memory:", cwd=tmp_path)).returncode == 2


async def test_a_check_of_a_prefix_without_a_store_creates_none(tmp_path: Path) -> None:
    async with Etcd() as etcd:
        await etcd.wait_ready()
        url = f"etcd://{','.join(etcd.endpoints)}/none"
        done = await shell(f"xds store check --store {url}", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path))
        assert (done.returncode, "etcd has no store at none/head" in done.stderr) == (1, True), done.stderr
        client = EtcdClient(EtcdOptions(endpoints=etcd.endpoints))
        assert not (await client.range(b"none/head")).kvs
        await client.close()
    assert list(tmp_path.iterdir()) == []


async def test_keys_are_made_used_rotated_and_lost(tmp_path: Path) -> None:
    """A store that a server wrote in plain is encrypted; then nothing of it is served without its key."""
    key_file, url = tmp_path / "store.key", f"sqlite:///{tmp_path}/store.db"

    async def command(text: str, **env: str) -> Done:
        return await shell(f"xds store {text}", cwd=tmp_path, **env)

    async with XdsServer(None, "--workers", "0", settings={"store.url": url}) as plain:
        await plain.wait_ready()
        async with Client(f"127.0.0.1:{plain.api_port}") as client:
            await client.apply(upsert=[r.static_cluster("marked-cluster-address", 1)])
        plain.stop()
    made = await command("new-key store.key")
    assert made.returncode == 0
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    (first,) = read_key_file(key_file)
    assert first.id in made.stdout
    assert (await command("new-key store.key")).returncode == 1
    settings = {"store.url": url, "store.key_files": key_file}
    async with XdsServer(None, "--workers", "0", settings=settings) as mixed:
        await mixed.wait_ready()
        event = "resources that were stored before there was a key are not encrypted"
        assert [each["resources"] for each in await mixed.wait_event(event)] == [1]
        status = await shell("xds status", cwd=tmp_path, XDS_PUSH_ADDRESS=f"127.0.0.1:{mixed.api_port}")
        assert "1 resources were stored before there was a key and are not encrypted" in status.stdout + status.stderr
        mixed.stop()
    done = await command(f"encrypt --store {url} --key-file store.key -o json")
    assert json.loads(done.stdout)["converted"] >= 2, done.stderr
    assert (await command("new-key store.key --rotate")).returncode == 0
    second, also_first = read_key_file(key_file)
    assert also_first == first
    assert (await command("encrypt", XDS_STORE__URL=url, XDS_STORE__KEY_FILES=str(key_file))).returncode == 0
    checked = json.loads((await command(f"check --store {url} -o json")).stdout)
    assert (list(checked["values_by_key"]), checked["keys"]) == ([second.id], [])
    write_key_file(key_file, [first])
    async with XdsServer(None, "--workers", "0", settings=settings) as lost:
        assert await lost.wait_ended() == 1
        assert f"is encrypted with the key {second.id}, and the given keys are {first.id}" in lost.log()
    write_key_file(key_file, [second])
    async with XdsServer(None, "--workers", "0", settings=settings) as served:
        await served.wait_ready()
        async with Client(f"127.0.0.1:{served.api_port}") as client:
            found = await client.snapshot("default")
            assert [each["name"] for each in found.resources] == ["marked-cluster-address"]
        write_key_file(key_file, [first, second])
        served.signal(signal.SIGHUP)
        (read,) = await served.wait_event("the keys of the store were read again")
        assert (read["key"], read["is_other"]) == (first.id, True)


async def test_a_store_is_not_converted_without_a_key_or_while_it_is_open(server: XdsServer, tmp_path: Path) -> None:
    none = await store("encrypt", server, tmp_path)
    assert none.returncode == 2
    assert "no key is given" in none.stderr
    write_key_file(tmp_path / "k", [new_key()])
    in_use = await store("encrypt --key-file k", server, tmp_path)
    assert in_use.returncode == 1
    assert "in use by another process" in in_use.stderr


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("store check /var/store.db", "sqlite:////var/store.db"),
        ("store check sqlite:///a.db", "sqlite:///a.db"),
        ("store backup copy.db a.db", "sqlite:///a.db"),
        ("store restore copy.db a.db", "sqlite:///a.db"),
        ("store encrypt etcd://127.0.0.1:2379/xds", "etcd://127.0.0.1:2379/xds"),
        ("store decrypt a.db", "sqlite:///a.db"),
        ("tokens create ci a.db --role read", "sqlite:///a.db"),
        ("tokens list a.db", "sqlite:///a.db"),
        ("tokens revoke ci a.db", "sqlite:///a.db"),
    ],
)
async def test_a_store_named_as_an_argument_is_told_its_option(tmp_path: Path, command: str, url: str) -> None:
    (tmp_path / "copy.db").touch()
    done = await shell(f"xds {command}", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 2
    assert f"the store is named by --store {url}" in done.stderr
