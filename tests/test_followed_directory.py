"""``xds serve`` publishes changes of its directory although other things fail."""

import asyncio
from pathlib import Path

import pytest
from support import resources as r
from support.etcd import Etcd
from support.server import XdsServer
from support.waiting import wait_until

from xds.app import App
from xds.client import Client, RefusedError, UnavailableError
from xds.config import Settings
from xds.publishing.publisher import Publisher
from xds.publishing.whole import change_of_directory
from xds.server import _FollowedDirectory, _publish
from xds.sources.directory import DirectoryReader
from xds.sources.watch import Rereading
from xds.store.memory import MemoryStore


async def test_a_change_that_a_fault_kept_from_being_published_is_published_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader reports each change once: one that failed to be published must not be lost."""
    monkeypatch.setattr("xds.server.WATCH_RETRY_MIN_S", 0.01)
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    app = App(Settings(directory=tmp_path), checked=True)
    publisher = Publisher(MemoryStore(), app.catalog, app.follow)
    await publisher.start()
    reader, stop = DirectoryReader(tmp_path), asyncio.Event()
    await _publish(publisher, change_of_directory(reader.read()))
    directory = _FollowedDirectory(app, publisher, reader, stop, Rereading(lambda *_: None))
    publish, failed = publisher.publish, []

    async def fail_once(change):
        if not failed:
            failed.append(change)
            raise ValueError("a bug")
        return await publish(change)

    monkeypatch.setattr(publisher, "publish", fail_once)
    following = app.background.keep("follow the directory", directory.follow, may_end=stop.is_set)
    r.write_directory(tmp_path, [r.static_cluster("a", 2)])
    await wait_until(lambda: publisher.revision, equals=2)
    assert failed
    stop.set()
    await following
    await publisher.stop()


async def test_a_change_that_the_store_can_not_keep_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    async with Etcd() as etcd:
        r.write_directory(tmp_path, [r.static_cluster("a", 1)])
        settings = {"drain.timeout_s": 0}
        async with XdsServer(tmp_path, "--store", etcd.url(), settings=settings) as server:
            await server.wait_ready()
            etcd.members[0].kill()
            r.write_directory(tmp_path, [r.static_cluster("a", 2)])
            await server.wait_event("the directory's change can't be kept, trying again", timeout_s=30)
            server.stop()
            assert server.process is not None
            assert server.process.returncode == 0
            assert server.events("stopped")


async def test_a_restart_while_the_store_is_away_serves_what_was_served_and_what_changed_once_the_store_is_back(
    tmp_path: Path,
) -> None:
    async with Etcd() as etcd:
        r.write_directory(tmp_path, [r.static_cluster("a", 1)])
        async with XdsServer(tmp_path, "--store", etcd.url()) as server:
            await server.wait_ready()
            server.stop()
            etcd.members[0].kill()
            r.write_directory(tmp_path, [r.static_cluster("a", 1, connect_timeout="2s")])
            server.start()
            await server.wait_ready()
            assert server.events("the directory's change can't be kept, what was served last is served")
            async with Client(f"127.0.0.1:{server.api_port}") as client:
                assert (await client.get("clusters", "a"))["connect_timeout"] == "1s"
                etcd.start()
                await server.wait_event("applied")
                assert (await client.get("clusters", "a"))["connect_timeout"] == "2s"


async def test_a_restart_without_its_directory_while_the_store_is_away_leaves_it_once_the_store_is_back(
    tmp_path: Path,
) -> None:
    async with Etcd() as etcd:
        r.write_directory(tmp_path, [r.static_cluster("a", 1)])
        async with XdsServer(tmp_path, "--store", etcd.url()) as server:
            await server.wait_ready()
            server.stop()
            etcd.members[0].kill()
            server.argv.remove(str(tmp_path))
            server.start()
            await server.wait_ready()
            etcd.start()
            async with Client(f"127.0.0.1:{server.api_port}") as client:
                await wait_until(
                    lambda: client.apply(upsert=[r.static_cluster("a", 2)]),
                    poll_s=0.05,
                    ignoring=(UnavailableError, RefusedError),  # the directory still owns it
                )
