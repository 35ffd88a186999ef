"""``xds serve`` whose store is deleted or replaced during pushes reports it, and loses nothing acknowledged."""

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import resources as r
from support.server import XdsServer
from support.waiting import wait_until
from support.wire import DeltaClient

from xds.client import About, Client, ClientError

WRITERS = 4
LOSSES = 5


def delete_all(directory: Path) -> None:
    for file in directory.glob("store.db*"):
        file.unlink(missing_ok=True)


def delete_directory(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def move_away(directory: Path) -> None:
    (directory / "store.db").rename(directory.parent / "elsewhere.db")


async def push(writer: int, client: Client, told: dict[str, int], stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        made = await client.apply(upsert=[r.static_cluster(f"w{writer}", number)], about=About(id=f"{writer}-{number}"))
        told[f"{writer}-{number}"] = made.revision


@pytest.mark.parametrize("lose", [delete_all, delete_directory, move_away])
async def test_no_acknowledged_change_is_lost_however_often_the_store_goes(lose: Callable[[Path], None]) -> None:
    chance = random.Random(7)
    async with XdsServer(None) as server:
        await server.wait_ready()
        directory = Path(server.env["XDG_STATE_HOME"]) / "xds"
        told: dict[str, int] = {}
        stop = asyncio.Event()
        async with Client(f"127.0.0.1:{server.api_port}") as client, DeltaClient(server.port) as stream:
            await stream.subscribe(r.CLUSTER)
            pushing = [asyncio.create_task(push(number, client, told, stop)) for number in range(WRITERS)]
            for loss in range(1, LOSSES + 1):
                enough = len(told) + chance.randrange(5, 60)
                await wait_until(lambda: len(told), lambda count, enough=enough: count > enough)
                lose(directory)
                await server.wait_event("the store was gone from its place and was written again", loss)
            stop.set()
            await asyncio.gather(*pushing)
            assert await client.apply(upsert=[r.static_cluster("last", 1)])
            await stream.take_until(lambda: "last" in stream.versions(r.CLUSTER), timeout_s=20.0)
        server.kill()
        server.start()
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            for change_id, revision in told.items():
                assert await client.find(change_id) == revision, change_id


async def test_another_file_in_its_place_is_told_and_refuses_changes_while_streams_go_on(tmp_path: Path) -> None:
    async with XdsServer(None) as server:
        await server.wait_ready()
        store = Path(server.env["XDG_STATE_HOME"]) / "xds" / "store.db"
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=0.1) as client, DeltaClient(server.port) as stream:
            await client.apply(upsert=[r.static_cluster("a", 1)])
            await stream.subscribe(r.CLUSTER)
            await stream.take_until(lambda: "a" in stream.versions(r.CLUSTER), timeout_s=20.0)
            (tmp_path / "theirs").write_bytes(b"theirs")
            (tmp_path / "theirs").rename(store)
            await server.wait_event("the store is not in its place; changes are refused")
            ready = await server.admin("/readyz")
            assert (ready.status, ready.text) == (
                200,
                f"ready, but changes are refused: {store} is another file now. Move it away, with its -wal, and what "
                "is served is written there again; or restart, and what is in it is served",
            )
            assert (await server.metrics())["xds_refusing"] == 1
            with pytest.raises(ClientError, match="another file now"):
                await client.apply(upsert=[r.static_cluster("b", 1)])
            assert store.read_bytes() == b"theirs"
            store.unlink()
            await server.wait_metrics(lambda found: found["xds_refusing"] == 0)
            assert (await server.admin("/readyz")).text == "ready"
            await client.apply(upsert=[r.static_cluster("b", 1)])
            await stream.take_until(lambda: "b" in stream.versions(r.CLUSTER), timeout_s=20.0)
        server.kill()
        server.start()
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            assert len((await client.snapshot()).resources) == 2
