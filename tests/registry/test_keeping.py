"""The file of known nodes: what a restart finds, and what a file costs that can't be used."""

import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from xds.process.background import Background
from xds.registry import keeping
from xds.registry.keeping import NodeKeeper, now_ms
from xds.registry.known_nodes import NOWHERE, SERVER_ENDED, KnownNode, KnownNodes
from xds.registry.nodes_file import NodesFile, NotNodesError
from xds.registry.session_events import SessionBegan, SessionEnded
from xds.store.opening import nodes_path

HOSTILE = "n'\x00\"\u202e</script>\n😀"


def began(session: int, node_id: str, **fields: Any) -> SessionBegan:
    return SessionBegan(session, now_ms(), node_id, "g", "c", "a:1", ("dns:a",), "envoy 1", NOWHERE)._replace(**fields)


@asynccontextmanager
async def kept(path: Path, epoch: str = "", **options: Any) -> AsyncIterator[tuple[KnownNodes, NodeKeeper]]:
    known = KnownNodes(began_ms=now_ms(), **options)
    keeper = NodeKeeper(known, path, lambda: epoch)
    await keeper.start(Background())
    try:
        yield known, keeper
    finally:
        await keeper.stop()


async def test_a_restart_knows_the_nodes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "nodes"
    async with kept(path) as (known, _):
        known.note(1, [began(1, "here"), began(2, HOSTILE), SessionEnded(2, now_ms(), 7, "why")])
        before = {each.id: each for each in known.nodes(now_ms())}
    assert [stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()] == [0o600]
    async with kept(path) as (known, _):
        after = {each.id: each for each in known.nodes(0)}
        assert known.gone_by_group == {"g": 2}
    assert after[HOSTILE] == before[HOSTILE]
    here = after["here"]
    assert (here.is_connected, here.left_because, here.identity) == (False, SERVER_ENDED, ("dns:a",))
    assert here.first_seen_ms == before["here"].first_seen_ms


async def test_what_was_accepted_of_another_history_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    async with kept(path, "first") as (known, _):
        known.note(1, [began(1, "n"), SessionEnded(1, now_ms(), 74, "why")])
    for epoch, accepted in (("first", 74), ("second", 0), ("first", 0)):
        async with kept(path, epoch) as (known, _):
            found = known.node("n", now_ms())
            assert found is not None
            assert (found.accepted_revision, found.left_because) == (accepted, "why")


def test_each_store_and_each_named_replica_has_a_file_of_its_own() -> None:
    urls = ("", "sqlite:////srv/a.db", "etcd://a:1/x", "etcd://a:1/y", "etcd://b:1/x")
    paths = [nodes_path(url, replica) for url in urls for replica in ("", "r1")]
    assert len(set(paths)) == 2 + 6
    assert paths[2] == paths[3] == Path("/srv/a.db.nodes")
    assert nodes_path("memory:", "") is None


async def test_a_killed_server_was_alive_when_it_last_wrote(tmp_path: Path) -> None:
    """A node that was connected for long is as old as the server's end, not as its connection."""
    path = tmp_path / "nodes"
    file = NodesFile(path)
    long_ago, alive = now_ms() - 9_000_000, now_ms() - 5_000_000
    node = KnownNode(id="n", group="g", first_seen_ms=long_ago, last_seen_ms=long_ago, is_connected=True)
    file.write([node], [], alive)
    file.close()
    async with kept(path) as (known, _):
        found = known.node("n", 0)
        assert found is not None
        assert found.last_seen_ms == alive
        assert known.forget(now_ms() + 3_590_000) == 0, "it is awaited since the start"
    async with kept(path) as (known, _):
        assert known.node("n", 0) is None, "the first restart was its last chance"
    file = NodesFile(path)
    assert file.read() == []
    file.close()


async def test_changes_are_written_in_batches_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "BATCH_MAX", 3)
    path = tmp_path / "nodes"
    async with kept(path) as (known, keeper):
        known.note(1, [began(number, f"n{number}") for number in range(8)])
        while await keeper._write():
            pass
        reader = NodesFile(path)
        assert {each.id for each in reader.read()} == {f"n{number}" for number in range(8)}
        known.note(1, [SessionEnded(0, 5, 0, "why")])
        known.forget(now_ms() + 10**9)
        await keeper._write()
        assert {each.id for each in reader.read()} == {f"n{number}" for number in range(1, 8)}
        reader.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be looked at as one" * 100, b"x"], ids=["text", "short"]
)
async def test_a_file_of_something_else_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nodes"
    path.write_bytes(content)
    with capture_logs() as logs:
        async with kept(path) as (known, keeper):
            known.note(1, [began(1, "n")])
            assert keeper.problem == ""
    (line,) = [each for each in logs if "set aside" in each["event"]]
    assert Path(line["aside"]).read_bytes() == content
    async with kept(path) as (known, _):
        assert len(known) == 1


async def test_another_programs_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE nodes (id, node)")
    other.execute("CREATE TABLE server (alive_ms)")
    other.commit()
    other.close()
    async with kept(path) as (_, keeper):
        assert keeper.problem == ""
    (aside,) = tmp_path.glob("nodes.damaged-*")
    with pytest.raises(NotNodesError, match="another program"):
        NodesFile(aside)


async def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    async with kept(path) as (known, _):
        known.note(1, [began(number, f"n{number}" + "x" * 200) for number in range(200)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 4))
    async with kept(path) as (known, keeper):
        assert (len(known), keeper.problem) == (0, "")
        assert open_files("damaged") == []
        known.note(1, [began(1, "n")])
    async with kept(path) as (known, _):
        assert len(known) == 1


def open_files(name: str) -> list[str]:
    """Return the open files of this process whose paths have a word."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(each))
    return [each for each in found if name in Path(each).name]


async def test_what_was_accepted_is_kept_after_a_damaged_file_too(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    path.write_bytes(b"x")
    async with kept(path, epoch="e") as (known, _):
        known.note(1, [began(1, "n"), SessionEnded(1, now_ms(), 7, "it left")])
    async with kept(path, epoch="e") as (known, _):
        node = known.node("n", now_ms())
        assert node is not None
        assert node.accepted_revision == 7


async def test_a_place_that_can_not_be_written_is_said_and_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "file" / "nodes"
    (tmp_path / "file").write_text("no directory")
    with capture_logs() as logs:
        async with kept(path) as (known, keeper):
            known.note(1, [began(1, "n")])
            assert str(path) in keeper.problem
    assert [each["event"] for each in logs] == [
        "the known nodes can't be written to their file; they are kept in memory"
    ]


async def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    async with kept(path) as (known, keeper):
        known.note(1, [began(1, "n")])
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        file = keeper._file
        assert file is not None
        file._database.execute("PRAGMA busy_timeout = 0")
        with capture_logs() as logs:
            await keeper._write()
            assert "locked" in keeper.problem
            blocker.execute("ROLLBACK")
            blocker.close()
            await keeper._write()
            assert keeper.problem == ""
    assert len(logs) == 2
    async with kept(path) as (known, _):
        assert len(known) == 1
