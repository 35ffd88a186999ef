"""A watch yields each change of a directory once, complete and soon, and never an intermediate state."""

import asyncio
import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import for_a_while, wait_until

from xds.model import types
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError
from xds.sources import alarm
from xds.sources import watch as watch_module
from xds.sources.directory import DirectoryLimits, DirectoryReader
from xds.sources.tree import Tree, TreeLimits
from xds.sources.watch import WatchTimes, watch
from xds.sources.writers import is_being_written

WRITER = Path(__file__).parent / "restless_writer.py"
Outcome = Changeset | ChangesetRejectedError


def text(*names: str, timeout_s: int = 1) -> str:
    items = [f'- "@type": {types.CLUSTER}\n  name: {name}\n  connect_timeout: {timeout_s}s\n' for name in names]
    return "resources:\n" + "".join(items)


def put(path: Path, content: str) -> None:
    """Write a file atomically, by rename."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(content)
    temporary.rename(path)


def names(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, Changeset), outcome
    return [resource.name for group in outcome.upserts.values() for resource in group]


def whats(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, ChangesetRejectedError), outcome
    return [problem.what for problem in outcome.problems]


class CountingReader(DirectoryReader):
    """Counts its sweeps, so that a test can wait until a watch has swept."""

    sweeps = 0

    def scan(self) -> Tree:
        tree = super().scan()
        self.sweeps += 1
        return tree


class Follower:
    """A watch running in a task, and the outcomes that it has yielded."""

    def __init__(self, root: Path, limits: DirectoryLimits | None = None) -> None:
        self.reader = CountingReader(root, limits=limits)
        self.stop = asyncio.Event()
        self.outcomes: list[Outcome] = []
        self.degraded: list[str] = []

    async def run(self, times: WatchTimes) -> None:
        async for outcome in watch(self.reader, stop=self.stop, times=times, on_degraded=self.degraded.append):
            self.outcomes.append(outcome)

    async def next(self) -> Outcome:
        await wait_until(lambda: self.outcomes)
        return self.outcomes.pop(0)

    async def looked(self, sweeps: int = 3) -> None:
        """Wait until the watch has swept the directory a few more times without yielding anything."""
        goal = self.reader.sweeps + sweeps
        await wait_until(lambda: self.reader.sweeps, lambda sweeps: sweeps >= goal)
        assert self.outcomes == []


@contextlib.asynccontextmanager
async def following(
    root: Path, *, read_first: bool = True, limits: DirectoryLimits | None = None, **times: float
) -> AsyncIterator[Follower]:
    """Follow a directory, by default from its present content."""
    follower = Follower(root, limits)
    if read_first:
        follower.reader.read()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(WatchTimes(**{"poll_s": 0.3, **times})))
        if read_first:
            # Once more after it has armed the kernel's watches. A third sweep comes only if the files are very young.
            await follower.looked(2)
        yield follower
        follower.stop.set()
        await asyncio.wait_for(asyncio.shield(task), 5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.yaml").write_text(text("a"))
    (root / "b.yaml").write_text(text("b"))
    return root


@pytest.mark.alone
async def test_a_change_is_yielded_once_and_soon(root: Path) -> None:
    gaps_s = []
    async with following(root, poll_s=60) as follower:
        for number in range(2, 12):
            put(root / "a.yaml", text("a", timeout_s=number))
            start_s = time.monotonic()
            assert names(await follower.next()) == ["a", "b"]
            gaps_s.append(time.monotonic() - start_s)
        assert sorted(gaps_s)[5] < 0.2  # 0.04 on an idle machine
        await follower.looked(1)


async def test_without_a_first_reading_the_present_content_is_yielded_first(root: Path) -> None:
    async with following(root, read_first=False) as follower:
        assert names(await follower.next()) == ["a", "b"]


async def test_a_change_since_the_first_reading_is_yielded(root: Path) -> None:
    reader = DirectoryReader(root)
    reader.read()
    put(root / "c.yaml", text("c"))
    stop = asyncio.Event()
    async with contextlib.aclosing(watch(reader, stop=stop)) as outcomes:  # type: ignore[type-var]
        assert names(await anext(outcomes)) == ["a", "b", "c"]


async def test_touching_a_directory_yields_nothing(root: Path) -> None:
    async with following(root) as follower:
        (root / "a.yaml").touch()
        (root / "b.yaml").write_text(text("b"))
        (root / "README").write_text("x")
        await follower.looked(10)


async def test_new_directories_and_removed_files_are_followed(root: Path) -> None:
    async with following(root, poll_s=60) as follower:
        (root / "web" / "deep").mkdir(parents=True)
        assert names(await follower.next()) == ["a", "b"]  # with the empty group
        put(root / "web" / "deep" / "c.yaml", text("c"))
        assert names(await follower.next()) == ["a", "b", "c"]
        start_s = time.monotonic()
        (root / "a.yaml").unlink()
        assert names(await follower.next()) == ["b", "c"]
        assert time.monotonic() - start_s >= WatchTimes().loss_s


async def test_a_renamed_file_loses_nothing_and_waits_for_nothing(root: Path) -> None:
    async with following(root, loss_s=60) as follower:
        (root / "a.yaml").rename(root / "z.yaml")
        assert names(await follower.next()) == ["b", "a"]


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
async def test_a_file_that_is_open_for_writing_is_not_read(root: Path) -> None:
    async with following(root, writer_s=60) as follower:
        with (root / "a.yaml").open("w") as opened:
            opened.write(text("a1", "a2"))
            opened.flush()
            await follower.looked(8)
            opened.write(text("a3").removeprefix("resources:\n"))
        assert names(await follower.next()) == ["a1", "a2", "a3", "b"]


async def test_a_file_that_is_finished_while_its_writer_is_looked_for_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for = []

    def finish(path: str) -> bool:
        if not looked_for:
            (root / "a.yaml").write_text(text("a1", "a2", "a3"))
        looked_for.append(path)
        return False

    async with following(root, writer_s=60) as follower:
        monkeypatch.setattr(watch_module, "is_being_written", finish)
        (root / "a.yaml").write_text(text("a1", "a2"))
        assert names(await follower.next()) == ["a1", "a2", "a3", "b"]
    assert looked_for


async def test_a_file_left_open_is_read_once_its_writer_has_been_idle(root: Path) -> None:
    async with following(root, writer_s=0.2) as follower:
        with (root / "a.yaml").open("w") as opened:
            opened.write(text("a1"))
            opened.flush()
            assert names(await follower.next()) == ["a1", "b"]


async def test_a_truncated_file_counts_as_being_written_for_a_while(root: Path) -> None:
    async with following(root, loss_s=60) as follower:
        (root / "a.yaml").write_text("")
        await follower.looked(4)
        put(root / "a.yaml", text("a", timeout_s=2))
        assert names(await follower.next()) == ["a", "b"]


async def test_a_file_left_blank_is_a_change_after_a_while(root: Path) -> None:
    async with following(root) as follower:
        (root / "a.yaml").write_text("\n")
        assert names(await follower.next()) == ["b"]


async def test_blank_or_missing_rules_count_as_being_written_for_a_while(root: Path) -> None:
    (root / "groups.yaml").write_text("unmatched: deny")
    async with following(root, loss_s=60) as follower:
        (root / "groups.yaml").write_text("")
        await follower.looked(4)
        (root / "groups.yaml").unlink()
        await follower.looked(4)
        put(root / "groups.yaml", "external: [clusters/x]")
        outcome = await follower.next()
        assert isinstance(outcome, Changeset)
        assert outcome.groups is not None
        assert outcome.groups.external == ("clusters/x",)


async def test_the_same_problems_are_yielded_once_and_so_is_their_end(root: Path) -> None:
    async with following(root) as follower:
        put(root / "a.yaml", "resources: {}")
        assert whats(await follower.next()) == ["`resources` must be a list"]
        put(root / "b.yaml", text("b", timeout_s=2))
        await follower.looked(10)
        put(root / "b.yaml", text("b"))
        put(root / "a.yaml", text("a"))
        assert names(await follower.next()) == ["a", "b"]
        put(root / "a.yaml", "resources: {}")
        assert whats(await follower.next()) == ["`resources` must be a list"]


async def test_momentary_problems_are_not_yielded(root: Path) -> None:
    async with following(root, problem_s=60) as follower:
        (root / "a.yaml").write_text(text("a")[:15])
        await follower.looked()
        put(root / "a.yaml", text("a", timeout_s=2))
        assert names(await follower.next()) == ["a", "b"]


async def test_a_root_that_vanishes_is_a_problem_and_never_empty(root: Path) -> None:
    async with following(root, loss_s=0.1) as follower:
        shutil.rmtree(root)
        assert whats(await follower.next()) == ["the directory does not exist"]
        root.mkdir()
        what = "the directory was replaced by an empty one; what was served stays served"
        assert whats(await follower.next()) == [what]
        put(root / "a.yaml", text("new"))
        assert names(await follower.next()) == ["new"]


async def test_recreating_the_root_with_the_same_content_yields_nothing(root: Path) -> None:
    async with following(root, loss_s=60) as follower:
        shutil.copytree(root, root.with_name("copy"))
        shutil.rmtree(root)
        await follower.looked()
        root.with_name("copy").rename(root)
        await follower.looked(5)
        put(root / "a.yaml", text("a", timeout_s=2))
        assert names(await follower.next()) == ["a", "b"]


async def test_a_root_that_is_missing_and_then_empty_has_twice_the_time(root: Path) -> None:
    async with following(root, loss_s=2) as follower:
        shutil.rmtree(root)
        await for_a_while(1.3, "gone for less than the 2 s that a loss may last")
        root.mkdir()
        await for_a_while(1.3, "empty for less than that, and together for more")
        put(root / "a.yaml", text("a2"))
        put(root / "b.yaml", text("b"))
        assert names(await follower.next()) == ["a2", "b"]


async def test_a_recreated_root_is_watched_again(root: Path) -> None:
    async with following(root, poll_s=60) as follower:
        shutil.rmtree(root)
        root.mkdir()
        put(root / "a.yaml", text("a2"))
        assert names(await follower.next()) == ["a2"]
        put(root / "a.yaml", text("a3", "a2"))
        start_s = time.monotonic()
        assert names(await follower.next()) == ["a3", "a2"]
        assert time.monotonic() - start_s < 5


async def test_a_root_emptied_in_place_is_empty_after_a_while(root: Path) -> None:
    async with following(root) as follower:
        for file in root.iterdir():
            file.unlink()
        assert names(await follower.next()) == []


@pytest.mark.parametrize("depth", [0, 1])
async def test_a_symlink_to_or_above_the_root_is_swapped(tmp_path: Path, depth: int) -> None:
    for version in "12":
        (tmp_path / version / "conf").mkdir(parents=True)
        (tmp_path / version / "conf" / "a.yaml").write_text(text(f"v{version}"))
    link = tmp_path / "current"
    link.symlink_to("1/conf" if depth == 0 else "1")
    async with following(link if depth == 0 else link / "conf", poll_s=60, loss_s=0.1) as follower:
        (tmp_path / "next").symlink_to("2/conf" if depth == 0 else "2")
        (tmp_path / "next").rename(link)
        assert names(await follower.next()) == ["v2"]


async def test_a_file_outside_that_is_linked_to_is_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "c.yaml"
    outside.parent.mkdir()
    outside.write_text(text("c"))
    (root / "c.yaml").symlink_to(outside)
    limits = DirectoryLimits(tree=TreeLimits(links_outside=True))
    async with following(root, limits=limits, poll_s=60) as follower:
        put(outside, text("c2", "c"))
        assert names(await follower.next()) == ["a", "b", "c2", "c"]


async def test_without_kernel_watches_changes_are_found_by_polling(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: Any, **_options: Any) -> AsyncIterator[None]:
        raise OSError("inotify watches used up")

    monkeypatch.setattr(alarm, "awatch", refuse)
    async with following(root, poll_s=0.05) as follower:
        put(root / "a.yaml", text("a", timeout_s=2))
        assert names(await follower.next()) == ["a", "b"]
        assert follower.degraded == ["inotify watches used up"]


async def test_a_write_that_leaves_no_trace_in_the_stamp_is_found_by_looking_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = DirectoryReader(root)
    reader.read()
    assert reader.last is not None
    stamp = reader.last.tree  # as if this write were within the same tick of the clock
    put(root / "a.yaml", text("A"))
    monkeypatch.setattr(reader, "scan", lambda: stamp)
    monkeypatch.setattr(reader, "_text", lambda file: Path(file.path).read_bytes())
    async with contextlib.aclosing(watch(reader, stop=asyncio.Event())) as outcomes:  # type: ignore[type-var]
        assert names(await anext(outcomes)) == ["A", "b"]


async def test_it_stops_while_it_waits(root: Path) -> None:
    async with following(root, loss_s=600, poll_s=600) as follower:
        (root / "a.yaml").unlink()
        await follower.looked()
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 2


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
def test_a_file_open_for_writing_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "x"
    with file.open("w"):
        assert is_being_written(str(file))
    with file.open():
        assert not is_being_written(str(file))
    assert not is_being_written(str(tmp_path / "gone"))


@pytest.mark.parametrize(("kind", "steps"), [("files", 30), ("configmap", 40)])
async def test_a_restless_writer_is_never_caught_halfway(tmp_path: Path, kind: str, steps: int) -> None:
    seed = int(os.environ.get("XDS_TEST_SEED", random.randrange(1 << 30)))
    root = tmp_path / "root"
    root.mkdir()
    if kind == "files":
        for file in "abc":
            content = text(*(f"{file}{number}" for number in range(20)))
            (root / f"{file}.yaml").write_text(content)
    # the writer pauses for at most 0.2 s, which may be longer on a busy machine
    async with following(root, read_first=kind == "files", loss_s=3, problem_s=1) as follower:
        writer = await asyncio.create_subprocess_exec(
            sys.executable,
            *(str(WRITER), kind, str(root), str(seed), str(steps)),
            env={**os.environ, "PYTHONPATH": str(WRITER.parents[1])},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await writer.communicate()
        log = f"XDS_TEST_SEED={seed}\n{said.decode()}"
        assert writer.returncode == 0, log
        last = f"{steps + 1}s"
        await wait_until(
            lambda: follower.outcomes and timeouts(follower.outcomes[-1]), equals={file: {last} for file in "abc"}
        )
        for outcome in follower.outcomes:
            assert isinstance(outcome, Changeset), f"{log}{outcome}"
            seen = timeouts(outcome)
            if kind == "configmap" and not seen and outcome is follower.outcomes[0]:
                continue  # the directory before its first generation
            assert len(names(outcome)) == 60, log
            assert all(len(generations) == 1 for generations in seen.values()), log
            assert kind == "files" or len({next(iter(each)) for each in seen.values()}) == 1, log


def timeouts(outcome: Outcome) -> dict[str, set[str]]:
    """Return the generations of each file's resources."""
    seen: dict[str, set[str]] = {}
    if isinstance(outcome, Changeset):
        for resource in outcome.upserts["default"]:
            # the canonical encoding of connect_timeout {seconds: n}, field 4 of Cluster
            seconds = resource.body[resource.body.rindex(b"\x22\x02\x08") + 3]
            seen.setdefault(resource.name[0], set()).add(f"{seconds}s")
    return seen
