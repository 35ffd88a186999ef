"""``xds serve`` with its store on a disk that is full, or read-only: refused with its cause, and taken up again."""

import asyncio
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import resources as r
from support.server import XdsServer

from xds.client import About, Client, OutcomeUnknownError, UnavailableError

SIZE = "2m"


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path))
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("file systems can't be mounted here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=False)


def cluster(number: int) -> r.Json:
    return r.static_cluster(f"c{number}", *range(1, 400))


async def fill(client: Client) -> int:
    """Push until the disk is full, and return how many changes were made."""
    for made in range(1_000):
        try:
            await client.apply(upsert=[cluster(made)])
        except UnavailableError as error:
            if "full" not in str(error):
                raise
            return made
    raise AssertionError("it is never full")


async def test_a_full_disk_refuses_changes_and_takes_them_again_once_there_is_room(disk: Path) -> None:
    async with XdsServer(None, "--store", f"sqlite:///{disk / 'store.db'}") as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=0.1) as client:
            made = await fill(client)
            assert made > 3
            assert await client.revision() == made
            assert len((await client.snapshot()).resources) == made
            assert (await server.admin("/readyz")).status == 200
            with pytest.raises(UnavailableError):
                await client.apply(upsert=[cluster(made)])
            await asyncio.to_thread(mount, "-o", "remount,size=50m", str(disk))
            assert (await client.apply(upsert=[cluster(made)])).revision == made + 1
        server.kill()
        server.start()
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            assert await client.revision() == made + 1
            assert len((await client.snapshot()).resources) == made + 1


async def test_a_disk_that_fails_leaves_the_outcome_open_and_the_same_id_settles_it(tmp_path: Path) -> None:
    """What is written beyond a limit on the size of its files fails as on a broken disk: SQLite says I/O error."""
    store = tmp_path / "store.db"
    async with XdsServer(None, "--store", f"sqlite:///{store}") as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=0.1) as client:
            await client.apply(upsert=[cluster(0)])
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (store.with_name("store.db-wal").stat().st_size, hard))
            with pytest.raises(OutcomeUnknownError, match="I/O"):
                await client.apply(upsert=[cluster(1)], about=About(id="x"))
            assert (await client.revision(), len((await client.snapshot()).resources)) == (1, 1)
            assert (await server.admin("/readyz")).status == 200
            assert await client.find("x") is None
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
            assert (await client.apply(upsert=[cluster(1)], about=About(id="x"))).revision == 2
            assert (await client.apply(upsert=[cluster(2)])).revision == 3
        server.kill()
        server.start()
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            assert (await client.revision(), len((await client.snapshot()).resources)) == (3, 3)


async def test_a_read_only_disk_is_told_at_the_start_and_left_as_it_is(disk: Path) -> None:
    (disk / "other").write_text("x")
    await asyncio.to_thread(mount, "-o", "remount,ro", str(disk))
    async with XdsServer(None, "--store", f"sqlite:///{disk / 'store.db'}") as server:
        assert await server.wait_ended(20) == 1
        assert "store.db" in server.log()
        assert "Traceback" not in server.log()


async def test_a_damaged_or_foreign_file_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for content, said in (
        (b"not a database" * 100, "not a store"),
        (b"SQLite format 3\0" + b"\xff" * 4_000, "not a store"),
    ):
        path.write_bytes(content)
        async with XdsServer(None, "--store", f"sqlite:///{path}") as server:
            assert await server.wait_ended(20) == 1
            assert said in server.log()
            assert "Traceback" not in server.log()
        assert path.read_bytes() == content
