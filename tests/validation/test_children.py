"""The Envoys of a judge: at most two at once, none outlives the judge or its process, and nothing of them stays."""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.processes import Child
from support.server import XdsServer
from support.static_envoy import static_cluster
from support.waiting import wait_until

from xds.client import Client
from xds.model.types import CLUSTER
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.validation.envoy import PREFIX, remove_leftovers, run_validation
from xds.validation.errors import EnvoyUnusableError
from xds.validation.judge import PROCESSES_MAX, STUBS_KEPT_MAX, Judge, Judgement

HANGS = "hangs-for-ever"
"""The name of a cluster at which the Envoy of these tests hangs."""


@pytest.fixture
def envoy(tmp_path: Path) -> Path:
    """An Envoy that accepts all but the cluster ``HANGS``: at that it hangs, with a child, and writes both pids."""
    made = tmp_path / "envoy"
    made.write_text(
        f"""#!/bin/sh
if grep -q {HANGS} "$4"; then
    sleep 600 &
    echo $$ $! > {tmp_path}/new
    mv {tmp_path}/new {tmp_path}/pids
    wait
fi
"""
    )
    made.chmod(0o755)
    return made


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files of this test alone."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(made))
    monkeypatch.setenv("TMPDIR", str(made))
    return made


async def pids_of(envoy: Path) -> list[int]:
    """Wait until the Envoy hangs, and return its pid and that of its child."""
    path = envoy.parent / "pids"
    await wait_until(path.exists)
    return [int(each) for each in path.read_text().split()]


def running(pids: list[int]) -> list[int]:
    """Return those that still run. One that nobody has waited for yet runs no more."""

    def is_running(pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    return [pid for pid in pids if is_running(pid)]


@contextlib.contextmanager
def judging(judge: Judge, *items: r.Json) -> Iterator["Future[Judgement]"]:
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(judge.judge, [ingest(each) for each in items])


async def test_a_judge_that_is_closed_kills_its_envoys_and_starts_none(envoy: Path, temporary: Path) -> None:
    judge = Judge(envoy)
    with judging(judge, static_cluster(HANGS), static_cluster("c")) as judged:
        pids = await pids_of(envoy)
        judge.close()
        with pytest.raises(EnvoyUnusableError, match="about to end"):
            judged.result(10)
    await wait_until(lambda: running(pids), equals=[])
    runs = judge.runs
    for ask in (
        lambda: judge.judge([ingest(static_cluster("d"))]),
        lambda: judge.blame([ingest(static_cluster("d"))], CLUSTER, {"d"}),
    ):
        with pytest.raises(EnvoyUnusableError, match="about to end"):
            ask()
    assert judge.runs == runs
    assert list(temporary.iterdir()) == []


async def test_what_was_killed_is_not_kept_as_refused(envoy: Path) -> None:
    judge = Judge(envoy)
    with judging(judge, static_cluster(HANGS)) as judged:
        await pids_of(envoy)
        judge.close()
        assert isinstance(judged.exception(10), EnvoyUnusableError)
    assert not any(judge._known.values())


async def test_an_envoy_does_not_outlive_its_killed_process(envoy: Path, temporary: Path) -> None:
    code = "from pathlib import Path; from xds.validation.envoy import run_validation as run;"
    code += f"run(Path('{envoy}'), b'{HANGS}')"
    child = Child([sys.executable, "-c", code], name="judging").start()
    pids = await pids_of(envoy)
    os.kill(child.pid or 0, 9)
    await wait_until(lambda: running(pids), equals=[])
    child.kill()
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    Judge(envoy).close()
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_a_directory_that_is_in_use_or_not_ours_is_no_leftover(temporary: Path) -> None:
    used, left, file, elsewhere = (temporary / f"{PREFIX}{each}" for each in ("used", "left", "file", "elsewhere"))
    used.mkdir()
    (left / "empty").mkdir(parents=True)
    file.write_text("")
    target = temporary / "target"
    target.mkdir()
    elsewhere.symlink_to(target)
    descriptor = os.open(used, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remove_leftovers()
    assert sorted(temporary.iterdir()) == sorted([used, file, elsewhere, target])
    os.close(descriptor)


def test_an_envoy_has_limits(tmp_path: Path) -> None:
    made = tmp_path / "envoy"
    made.write_text(f'#!/bin/sh\ncat "$4" > /dev/null\nulimit -t > {tmp_path}/seen\nulimit -c >> {tmp_path}/seen\n')
    made.chmod(0o755)
    assert run_validation(made, b"x", timeout_s=7) == ""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    assert (tmp_path / "seen").read_text().split() == [str(14 if hard < 0 else min(14, hard)), "0"]


@pytest.mark.parametrize("number", [15, 9])
async def test_a_server_that_ends_leaves_no_envoy(envoy: Path, temporary: Path, number: int) -> None:
    settings = {"validation.envoy": "refuse", "validation.envoy_path": envoy, "validation.envoy_timeout_s": 600}
    async with XdsServer(None, settings=settings) as server, Client(f"127.0.0.1:{server.api_port}") as client:
        await server.wait_ready()
        pushing = asyncio.create_task(client.apply(upsert=[static_cluster(HANGS)]))
        pids = await pids_of(envoy)
        os.kill(server.pid or 0, number)
        await wait_until(lambda: server.running, equals=False)
        await wait_until(lambda: running(pids), equals=[])
        pushing.cancel()
        (outcome,) = await asyncio.gather(pushing, return_exceptions=True)
        assert isinstance(outcome, BaseException), "it was not accepted"


@pytest.mark.parametrize("hangs", ["at once", "at the directory"])
async def test_a_signal_ends_a_server_while_its_envoy_is_tried(
    envoy: Path, temporary: Path, tmp_path: Path, hangs: str
) -> None:
    if hangs == "at once":
        envoy.write_text(envoy.read_text().replace(HANGS, "''"))
    directory = tmp_path / "mesh"
    directory.mkdir()
    r.write_directory(directory, [static_cluster(HANGS)])
    settings = {"validation.envoy": "refuse", "validation.envoy_path": envoy, "validation.envoy_timeout_s": 600}
    async with XdsServer(directory, settings=settings) as server:
        pids = await pids_of(envoy)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await server.wait_ended() == 0
        assert time.monotonic() - began < 3
        assert server.events("stopped before anything was served")
        await wait_until(lambda: running(pids), equals=[])


def test_no_more_envoys_run_at_once_than_may() -> None:
    at_once, most = 0, 0
    lock = threading.Lock()
    full = threading.Event()

    def run(bootstrap: bytes) -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            if at_once > PROCESSES_MAX:
                full.set()
        full.wait(0.02)
        with lock:
            at_once -= 1
        return "no" if b"bad" in bootstrap else ""

    judge = Judge(run=run)
    groups = [[ingest(static_cluster(f"bad-{group}-{number}")) for number in range(4)] for group in range(8)]
    asked: list[Callable[[], Any]] = [lambda items=each: judge.judge(items) for each in groups[:4]]  # type: ignore[misc]
    asked += [lambda items=each: judge.blame(items, CLUSTER, {one.name for one in items}) for each in groups[4:]]  # type: ignore[misc]
    with ThreadPoolExecutor(len(asked)) as threads:
        for done in [threads.submit(ask) for ask in asked]:
            done.result()
    judge.close()
    assert most == PROCESSES_MAX


def test_a_missed_cluster_that_another_judgement_makes_up_meanwhile_is_no_refusal() -> None:
    inner: list[Judgement] = []

    def run(bootstrap: bytes) -> str:
        if b"refused" in bootstrap:
            return "no"
        if not any(each in bootstrap for each in (b"first", b"second")) or made_up(bootstrap):
            return ""
        if b"first" in bootstrap:
            inner.append(judge.judge([ingest(static_cluster("second"))], group="second"))
        return "Unknown cluster 'own-to-sidecar'"

    judge = Judge(run=run)
    items = [ingest(static_cluster(name)) for name in ("first", "refused")]
    assert [each.resource for each in judge.judge(items, group="first").problems] == ["clusters/refused"]
    assert inner == [Judgement()]
    judge.close()


def made_up(bootstrap: bytes) -> bool:
    made: Any = load_schema().message_class("envoy.config.bootstrap.v3.Bootstrap").FromString(bootstrap)
    return any(each.name == "own-to-sidecar" for each in made.static_resources.clusters)


def test_clusters_that_are_made_up_are_kept_within_a_bound() -> None:
    judge = Judge(run=lambda _: "")
    for number in range(STUBS_KEPT_MAX + 10):
        judge._keep_stub(f"c{number}")
    assert len(judge._stubs) == STUBS_KEPT_MAX
    judge.close()
