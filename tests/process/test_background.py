"""Background tasks: one that ends is logged, counted, reported and restarted, and so is each of the product's own."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import resources as r
from support.etcd import Etcd, wait_known
from support.fetch import fetch
from support.waiting import turns, wait_until

from xds.address import Address
from xds.api.admin import AdminServer
from xds.api.http_port import HttpServer
from xds.api.metrics import metrics_renderer
from xds.config import Settings
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.process.background import Background
from xds.publishing.changes import Change
from xds.publishing.publisher import Publisher
from xds.publishing.retention import Retention
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.serving.streams import Streams
from xds.store.cache import StateCache
from xds.store.entries import Entry, Key
from xds.store.errors import UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions
from xds.store.memory import MemoryStore
from xds.store.sqlite import SqliteStore

A = Key("default", r.CLUSTER, "a")


class BugError(Exception):
    """A bug of ours."""


class PanicError(BaseException):
    """As the panic of a library written in Rust, no ``Exception``."""


def once(monkeypatch: pytest.MonkeyPatch, owner: object, method: str) -> Callable[[], bool]:
    """Make the next call of a method fail. Return a function that returns whether it has."""
    work = getattr(owner, method)
    failed: list[bool] = []

    def fail(*arguments, **named):
        if not failed:
            failed.append(True)
            raise BugError(method)
        return work(*arguments, **named)

    monkeypatch.setattr(owner, method, fail)
    return lambda: bool(failed)


async def test_a_task_that_raises_returns_or_is_cancelled_from_within_is_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    background = Background(well_after_s=0.05)
    ends: list[str] = []
    going = asyncio.Event()

    async def work() -> None:
        ends.append("again")
        match len(ends):
            case 1:
                raise BugError("broken")
            case 2:
                return
            case 3:
                raise asyncio.CancelledError
            case 4:
                raise PanicError("of a library")
        going.set()
        await asyncio.Event().wait()

    told: list[str] = []
    task = background.keep("work", work, on_death=told.append)
    assert (background.deaths, background.ailing) == ({"work": 0}, "")
    await wait_until(lambda: background.deaths["work"], equals=1)
    assert background.ailing == "the task 'work' died: BugError('broken')"
    await going.wait()
    assert background.deaths == {"work": 4}
    assert told == [
        *("BugError('broken')", "it ended by itself", "what it waited for was cancelled"),
        "PanicError('of a library')",
    ]
    assert "the task 'work' died" in background.ailing, "it may die again at once"
    await wait_until(lambda: background.ailing, equals="")
    logged = [record for record in caplog.records if "a background task died" in record.message]
    assert [record.problem for record in logged] == told
    assert logged[0].exc_info is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_may_end_where_its_owner_says_so_and_by_being_cancelled() -> None:
    background = Background()
    stop = asyncio.Event()
    stop.set()
    task = background.keep("a", stop.wait, may_end=stop.is_set)
    await asyncio.wait_for(task, 5)
    waiting = background.keep("b", asyncio.Event().wait)
    await turns()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (background.deaths, background.ailing) == ({"a": 0, "b": 0}, "")


async def test_what_is_done_at_a_death_may_fail_itself(caplog: pytest.LogCaptureFixture) -> None:
    background, again = Background(), asyncio.Event()
    attempts: list[int] = []

    async def work() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise BugError
        again.set()
        await asyncio.Event().wait()

    def fail(why: str) -> None:
        raise BugError(why)

    task = background.keep("work", work, on_death=fail)
    await asyncio.wait_for(again.wait(), 5)
    assert any("at a background task's death failed" in record.message for record in caplog.records)
    task.cancel()


async def test_work_that_is_done_once_is_counted_when_it_fails() -> None:
    background, told = Background(well_after_s=0.01), []

    async def fail() -> None:
        raise BugError("x")

    await background.run("once", fail(), on_death=told.append)
    assert (background.deaths, told) == ({"once": 1}, ["BugError('x')"])
    await wait_until(lambda: background.ailing, equals="")


async def test_following_the_store_and_writing_go_on_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    background, catalog = Background(), Catalog()
    publisher = Publisher(
        MemoryStore(),
        catalog,
        lambda changeset, revision: catalog.apply(changeset, revision=revision) and None,
        background=background,
    )
    await publisher.start()

    def setting(name: str) -> Change:
        return Change(upserts={"default": (ingest(r.static_cluster(name, 1)),)})

    await publisher.publish(setting("a"))
    once(monkeypatch, catalog, "apply")
    monkeypatch.setattr("xds.publishing.publisher.RETRY_MIN_S", "no number")  # a bug in the handling of bugs
    await publisher.store.append(Entry(id="x", operations={A: ingest(r.static_cluster("b", 1)).encoded}))
    await wait_until(lambda: background.deaths["follow the store"], equals=1)
    assert "following the store failed by a bug" in publisher.stale_because
    monkeypatch.undo()
    await wait_until(lambda: (publisher.revision, publisher.stale_because), equals=(2, ""))

    failed = once(monkeypatch, publisher, "_write")
    monkeypatch.setattr(publisher, "_rebuild_head", lambda: (_ for _ in ()).throw(BugError("again")))
    waiting = [await publisher.submit(setting(name)) for name in "cd"]
    await wait_until(lambda: background.deaths["write changes"], equals=1)
    assert failed()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, BugError | UnavailableError) for answer in answers)
    monkeypatch.undo()
    assert (await asyncio.wait_for(publisher.publish(setting("e")), 5)).revision >= 3
    await publisher.stop()


async def test_following_etcd_goes_on_after_a_fault_and_reads_what_it_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    background = Background()
    async with Etcd() as etcd:
        options = EtcdOptions(endpoints=etcd.endpoints)
        cache = StateCache(tmp_path / "cache")
        store = await EtcdStore.open(options, "x", cache=cache, background=background)
        other = await EtcdStore.open(options, "x")
        await wait_until(cache.path.exists)
        failed = once(monkeypatch, store, "_take_response")
        for number in (1, 2, 3):
            await other.append(Entry(id=f"id-{number}", operations={A: b"%d" % number}))
        await wait_until(lambda: background.deaths["follow etcd"], equals=1)
        assert failed()
        await wait_until(lambda: store.away, equals="")
        await wait_known(store, 3)
        told = [record.problem for record in caplog.records if record.message.startswith("etcd can't be followed")]
        assert told == ["following etcd failed by a bug in this server: BugError('_take_response')"]
        assert await store.append(Entry(id="id-4", operations={A: b"4"}), 3) == 4
        once(monkeypatch, cache, "_write")
        await wait_until(lambda: background.deaths["write the local copy of etcd"], equals=1)
        await store.append(Entry(id="id-5", operations={A: b"5"}))
        await wait_until(cache.read, equals=(store.epoch, await store.state()))
        await store.close()
        await other.close()


async def test_the_stores_file_is_looked_after_after_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("xds.store.sqlite.LOOK_EVERY_S", 0.01)
    background = Background()
    store = await SqliteStore.open(tmp_path / "store.db", background=background)
    once(monkeypatch, store, "_keep_in_place")
    await wait_until(lambda: background.deaths["look after the store's file"], equals=1)
    (tmp_path / "store.db").unlink()
    await wait_until((tmp_path / "store.db").exists)
    await store.close()


async def test_history_is_shortened_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    background, store = Background(), MemoryStore()
    for number in range(1, 8):
        at_ms = time.time_ns() // 1_000_000
        await store.append(Entry(id=f"id-{number}", operations={A: b"%d" % number}, at_ms=at_ms))
    retention = Retention(store, most=3, longest_s=1e9, bytes_max=1 << 30, every_s=0.01, background=background)
    once(monkeypatch, retention, "tidy")
    async with retention:
        await wait_until(lambda: background.deaths["shorten the history"], equals=1)
        await wait_until(store.kept, equals=(4, 7))


async def test_the_admin_port_is_served_after_a_fault_and_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    background = Background()

    async def no_figures() -> bytes:
        return b""

    server = AdminServer(
        Address("127.0.0.1", 0),
        healthy=lambda: True,
        ready=lambda: (True, background.ailing),
        metrics=no_figures,
        background=background,
    )
    bound = await server.start()
    assert (await fetch(bound.port, "/healthz")).status == 200
    once(monkeypatch, HttpServer, "on_tick")
    await wait_until(lambda: background.deaths["serve the admin port"], equals=1)
    answer = await fetch(bound.port, "/readyz")
    assert (answer.status, answer.text.strip()) == (200, "the task 'serve the admin port' died: BugError('on_tick')")
    await server.stop()
    with pytest.raises(OSError, match="Connect call failed"):
        await fetch(bound.port, "/healthz")


def test_every_death_is_a_metric() -> None:
    background = Background()
    background.deaths.update({"write changes": 0, "follow etcd": 2})

    streams = Streams(Settings(), load_schema(), Catalog(), tls=None)
    render = metrics_renderer(streams, Catalog(), rejected=lambda: 0, background=background)
    text = asyncio.run(render()).decode()
    assert 'xds_background_deaths_total{task="follow etcd"} 2.0' in text
    assert 'xds_background_deaths_total{task="write changes"} 0.0' in text
    assert "xds_ailing 0.0" in text


def test_resources_of_types_without_a_short_name_are_other_together() -> None:
    catalog = Catalog()
    named = ingest(r.static_cluster("a", 1))
    prefix = "type.googleapis.com/xds.test.Type"
    unnamed = [replace(named, type_url=f"{prefix}{number}", name=f"n{number}") for number in range(3)]
    catalog.apply(Changeset(upserts={"default": (named, *unnamed)}), revision=1)
    streams = Streams(Settings(), load_schema(), catalog, tls=None)
    text = asyncio.run(metrics_renderer(streams, catalog, rejected=lambda: 0)()).decode()
    shown = [line for line in text.splitlines() if line.startswith("xds_resources{")]
    assert sorted(shown) == ['xds_resources{type="clusters"} 1.0', 'xds_resources{type="other"} 3.0']


@pytest.fixture(autouse=True)
def _shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="xds")
