"""``xds serve`` publishes changes of its directory although other things fail."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.etcd import Etcd
from support.ports import is_free
from support.server import XdsServer
from support.waiting import wait_until

from xds.access.audit import AuditFilter, read_audit
from xds.app import App
from xds.client import Client, RefusedError, UnavailableError
from xds.config import Settings
from xds.publishing.publisher import Publisher
from xds.publishing.whole import change_of_directory
from xds.server import Reloading, _FollowedDirectory, _publish
from xds.sources.directory import DirectoryReader
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
    reloading = Reloading()
    await _publish(app, publisher, change_of_directory(reader.read()), reloading.records)
    directory = _FollowedDirectory(app, publisher, reader, stop, reloading)
    publish, failed = publisher.publish, []

    async def fail_once(change, **options):
        if not failed:
            failed.append(change)
            raise ValueError("a bug")
        return await publish(change, **options)

    monkeypatch.setattr(publisher, "publish", fail_once)
    following = app.background.keep("follow the directory", directory.follow, may_end=stop.is_set)
    r.write_directory(tmp_path, [r.static_cluster("a", 2)])
    await wait_until(lambda: publisher.revision, equals=2)
    assert failed
    stop.set()
    await following
    await publisher.stop()


async def test_a_change_whose_publishing_is_cut_short_is_recorded_once_it_is_made(tmp_path: Path) -> None:
    """A server that is to end does not wait for the processes that lack the change."""
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    app = App(Settings(directory=tmp_path), checked=True)

    async def lacking(_: int) -> tuple[str, ...]:
        await asyncio.Event().wait()
        return ()

    publisher = Publisher(MemoryStore(), app.catalog, app.follow, lacking=lacking)
    await publisher.start()
    records = Reloading().records
    change = change_of_directory(DirectoryReader(tmp_path).read())
    publishing = asyncio.create_task(_publish(app, publisher, change, records))
    await wait_until(lambda: publisher.revision, equals=1)
    publishing.cancel()
    await asyncio.wait([publishing])
    await publisher.stop()
    assert records.waits


async def test_what_becomes_of_the_directory_is_in_the_audit_log(tmp_path: Path) -> None:
    directory, audit, token = tmp_path / "dir", tmp_path / "audit", tmp_path / "token"
    token.write_text("s3cret")
    r.write_directory(directory, [r.static_cluster("a", 1)])
    options = ["--store", f"sqlite:///{tmp_path / 'x.db'}", "--api-token-file", str(token)]
    options += ["--set", f"access.audit_file={audit}", "--workers", "0"]

    def told() -> list[tuple[Any, ...]]:
        records = reversed(read_audit(audit, AuditFilter())) if audit.exists() else ()
        keys = ("who", "what", "outcome", "revision", "groups")
        return [tuple(record.get(key) for key in keys) for record in records]

    async with XdsServer(directory, *options) as server:
        await server.wait_ready()
        done = ("directory", "Apply", "done")
        await wait_until(told, equals=[(*done, 1, ["default"])])
        r.write_directory(directory, [r.static_cluster("a", 2)])
        await wait_until(told, equals=[(*done, 1, ["default"]), (*done, 2, ["default"])])
        (directory / "bad.yaml").write_text("resources: [{}]")
        await wait_until(lambda: len(told()), equals=3)
        assert told()[-1][:4] == ("directory", "Apply", "rejected", None)
        (directory / "bad.yaml").unlink()
        server.stop()
        server.start()
        await server.wait_ready()
        assert len(told()) == 3, "a start that changes nothing is no change"


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


BROKEN = {
    "a file that can't be parsed": lambda path: (path / "more.yaml").write_text("resources: [\n"),
    "a wrong field": lambda path: r.write_directory(path, [r.static_cluster("a", 1, conect_timeout="1s")]),
    "a dangling reference": lambda path: r.write_directory(path, [r.route("main", "nowhere")]),
    "a directory that is gone": lambda path: path.rename(path.with_name("elsewhere")),
    "a file that can't be a group's": lambda path: (path / "not a group").mkdir(),
}
"""What may be wrong with a directory at a restart; the names of the tests' cases."""


@pytest.mark.parametrize("what", BROKEN)
async def test_a_restart_with_a_broken_directory_serves_its_last_good_state_and_follows_it(
    what: str, tmp_path: Path
) -> None:
    directory = tmp_path / "mesh"
    directory.mkdir()
    good = [r.static_cluster("a", 1)]
    r.write_directory(directory, good)
    async with XdsServer(directory) as server:
        await server.wait_ready()
        assert (await server.metrics())["xds_directory_rejected"] == 0
        first = (await server.metrics())["xds_directory_applied_timestamp_seconds"]
        assert first > 0
        server.stop()
        BROKEN[what](directory)
        server.start()
        await server.wait_ready()
        (event,) = server.events("the directory can't be served; its last good state is served from the store")
        assert (event["level"], event["problems"]) == ("error", 1)
        assert server.events("problem")
        (serving,) = server.events("serving")
        assert serving["resources"]["default"] == {"clusters": 1}
        assert f"the directory {directory} is rejected since" in serving["directory_problem"]

        ready = await server.admin("/readyz")
        assert (ready.status, "ready, but the directory" in ready.text) == (200, True)
        metrics = await server.metrics()
        assert (metrics["xds_directory_rejected"], metrics["xds_directory_applied_timestamp_seconds"]) == (1, 0)
        assert metrics["xds_changesets_rejected_total"] == 1
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            assert (await client.get("clusters", "a"))["connect_timeout"] == "1s"
            (problem,) = (await client.nodes()).problems
            assert problem == ready.text.removeprefix("ready, but ")

        mend(directory, [r.static_cluster("a", 1, connect_timeout="2s")])
        await server.wait_event("applied")
        metrics = await server.wait_metrics(lambda metrics: metrics["xds_directory_rejected"] == 0)
        assert (await server.admin("/readyz")).text == "ready"
        assert metrics["xds_directory_applied_timestamp_seconds"] >= first


async def test_readyz_shows_no_path_where_callers_must_show_credentials(tmp_path: Path) -> None:
    directory, token = tmp_path / "mesh", tmp_path / "token"
    token.write_text("a-token-of-sixteen-characters-or-more\n")
    r.write_directory(directory, [r.static_cluster("a", 1)])
    async with XdsServer(directory, settings={"api.token_file": token}) as server:
        await server.wait_ready()
        BROKEN["a wrong field"](directory)
        await server.wait_metrics(lambda metrics: metrics["xds_directory_rejected"] == 1)
        ready = (await server.admin("/readyz")).text
        assert ready.startswith("ready, but the directory is rejected since ")
        assert (
            "(1 problem, first in the group 'default'): its last good state is served (xds status says more)" in ready
        )
        assert str(tmp_path) not in ready
        assert ".yaml" not in ready
        async with Client(f"127.0.0.1:{server.api_port}", token=token.read_text().strip()) as client:
            (problem,) = (await client.nodes()).problems
            assert f"the directory {directory} is rejected since" in problem


LOADING = """
import os, sys, time
from xds import server
from xds.cli.main import main

push_api, loaded = server._push_api, sys.argv.pop(1)

def slow(*arguments):
    while not os.path.exists(loaded):
        time.sleep(0.01)
    return push_api(*arguments)

server._push_api = slow
main()
"""
"""A server whose push API takes as long to load as a file is not there."""


async def test_readyz_shows_no_path_either_before_the_push_api_is_loaded(tmp_path: Path) -> None:
    directory, token, loaded = tmp_path / "mesh", tmp_path / "token", tmp_path / "loaded"
    token.write_text("a-token-of-sixteen-characters-or-more\n")
    r.write_directory(directory, [r.static_cluster("a", 1)])
    server = XdsServer(directory, settings={"api.token_file": token, "transport.kind": "grpcio"})
    async with server:
        await server.wait_ready()
        server.stop()
        BROKEN["a wrong field"](directory)
        server.argv = [sys.executable, "-c", LOADING, str(loaded), *server.argv[1:]]
        server.start()
        await wait_until(lambda: is_free(server.admin_port), equals=False)
        starting = (await server.admin("/readyz")).text
        assert starting.startswith("starting, but the directory is rejected since ")
        assert str(tmp_path) not in starting
        loaded.touch()
        await server.wait_ready()


async def test_a_directory_that_is_mended_to_what_is_served_is_rejected_no_longer(tmp_path: Path) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    async with XdsServer(tmp_path) as server:
        await server.wait_ready()
        BROKEN["a wrong field"](tmp_path)
        await server.wait_metrics(lambda metrics: metrics["xds_directory_rejected"] == 1)
        assert "is rejected since" in (await server.admin("/readyz")).text
        mend(tmp_path, [r.static_cluster("a", 1)])
        await server.wait_metrics(lambda metrics: metrics["xds_directory_rejected"] == 0)
        assert (await server.admin("/readyz")).text == "ready"
        assert not server.events("applied")[1:], "nothing has changed"


async def test_a_start_with_a_broken_directory_is_refused_if_the_store_has_only_what_others_made(
    tmp_path: Path,
) -> None:
    """Neither what was pushed nor another directory's content is the last good state of this directory."""
    other, broken = tmp_path / "other", tmp_path / "broken"
    for directory in (other, broken):
        directory.mkdir()
        r.write_directory(directory, [r.static_cluster("a", 1)])
    BROKEN["a wrong field"](broken)
    async with XdsServer(None) as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(upsert=[r.static_cluster("pushed", 1)], group="pushed")
        for last in (None, other):
            server.stop()
            server.argv.insert(2, str(broken))
            server.start()
            assert await server.wait_ended() == 1
            assert f"xds: {broken} can't be served: 1 problem, above" in server.log()
            server.argv.remove(str(broken))
            if last is None:
                server.argv.insert(2, str(other))
                server.start()
                await server.wait_ready()
                server.stop()
                server.argv.remove(str(other))


def mend(directory: Path, resources: list[dict[str, Any]]) -> None:
    """Write a directory as it should be, whatever is wrong with it."""
    directory.mkdir(exist_ok=True)
    if (wrong := directory / "not a group").exists():
        wrong.rmdir()
    for path in directory.iterdir():
        path.unlink()
    r.write_directory(directory, resources)


async def in_the_way(server: XdsServer, directory: Path) -> None:
    """Have a group that a client made use a cluster of the directory, which then loses it."""
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        await client.put_group("pushed", extends="base")
        await client.apply(group="pushed", upsert=[r.route("main", "b")])
        r.write_file(directory / "base" / "b.yaml", [])
        await server.wait_event("change rejected, what was served stays served")


def mesh(tmp_path: Path) -> Path:
    directory = tmp_path / "mesh"
    for name in "ab":
        r.write_file(directory / "base" / f"{name}.yaml", [r.static_cluster(name, 1)])
    return directory


async def test_a_directory_that_was_refused_beside_pushed_groups_is_applied_once_these_allow_it(tmp_path: Path) -> None:
    directory = mesh(tmp_path)
    async with XdsServer(directory) as server:
        await server.wait_ready()
        await in_the_way(server, directory)
        assert (await server.metrics())["xds_directory_rejected"] == 1
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(group="pushed", upsert=[r.static_cluster("other", 1)])  # changes nothing about it
            await client.apply(group="pushed", remove=[("routes", "main")])
            await wait_until(lambda: cluster_names(client, "base"), equals={"a"})
        await server.wait_metrics(lambda metrics: metrics["xds_directory_rejected"] == 0)
        assert len(server.events("change rejected, what was served stays served")) == 1


async def test_sighup_tries_a_refused_directory_again_and_says_why_it_is_still_refused(tmp_path: Path) -> None:
    directory = mesh(tmp_path)
    async with XdsServer(directory) as server:
        await server.wait_ready()
        await in_the_way(server, directory)
        os.kill(server.pid, signal.SIGHUP)
        await wait_until(lambda: len(server.events("change rejected, what was served stays served")), equals=2)
        server.stop()
        server.start()
        await server.wait_ready()  # the last good state is served, and the directory is tried again as before
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(group="pushed", remove=[("routes", "main")])
            await wait_until(lambda: cluster_names(client, "base"), equals={"a"})


async def cluster_names(client: Client, group: str) -> set[str]:
    return {each["name"] for each in (await client.snapshot(group)).resources}
