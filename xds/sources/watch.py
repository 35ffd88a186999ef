"""Follow a directory of resources: yield each complete change as one changeset.

A change is complete if

- the sweeps before and after the reading are equal, so all files had this content at one instant;
- the directory was quiet for ``settle_s`` before;
- no changed file is still open for writing;
- a state that looks intermediate stays unchanged for some time: one with problems, or one in which files that had
  resources are missing or blank (an editor that renames, ``rm -r`` and recreate, a rewrite that truncates first). A
  directory that appears or disappears counts as a change.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass

from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError, Problem
from xds.sources.alarm import Alarm
from xds.sources.directory import DirectoryReader, Reading
from xds.sources.tree import FoundFile, Tree
from xds.sources.writers import is_being_written

Outcome = Changeset | ChangesetRejectedError


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTimes:
    """The times of a watch, in seconds."""

    settle_s: float = 0.02
    """A reading starts when the directory has been quiet for so long."""
    settle_max_s: float = 0.2
    """A reading starts after so long even if the directory keeps changing."""
    problem_s: float = 0.1
    """Problems are reported once they have been unchanged for so long."""
    loss_s: float = 0.5
    """A change that loses a file's resources is yielded once it has been unchanged for so long."""
    writer_s: float = 5.0
    """A changed file that stays open for writing delays the change for at most so long."""
    poll_s: float = 2.0
    """The directory is swept at this interval in any case."""

    @property
    def recheck_s(self) -> float:
        """The delay after which a file with too recent times is read again."""
        return 0.06


class Rereading:
    """Makes a watch read every file again on request, changed or not.

    ``on_done`` is called with whether the outcome differs from the last one yielded, and with the problems.
    """

    def __init__(self, on_done: Callable[[bool, tuple[Problem, ...]], None]) -> None:
        self.on_done = on_done
        self.is_asked = False
        self.ring: Callable[[], None] = lambda: None

    def ask(self) -> None:
        """Request it now."""
        self.is_asked = True
        self.ring()


async def watch(
    reader: DirectoryReader,
    *,
    stop: asyncio.Event,
    times: WatchTimes | None = None,
    on_degraded: Callable[[str], None] | None = None,
    rereading: Rereading | None = None,
) -> AsyncIterator[Outcome]:
    """Yield the content of the directory whenever it has changed, until ``stop``.

    Changes are relative to the last outcome of ``reader.read()``; without one, the present content is yielded first.
    Problems are yielded, not raised, and the same problems are not yielded twice in a row. Once they are fixed, a
    changeset is yielded even if it equals the last one. A directory that disappears, or is replaced by an empty one, is
    a problem, not an empty changeset. ``on_degraded`` is called with the reason if changes are found by polling only.

    The reader runs in threads and must not be used by others meanwhile.
    """
    following = _Following(reader, stop, times or WatchTimes())
    rereading = rereading or Rereading(lambda _is_news, _problems: None)
    async with Alarm(reader.root, stop, on_degraded=on_degraded) as alarm:
        rereading.ring = alarm.ring
        while not stop.is_set():
            is_reread, rereading.is_asked = rereading.is_asked, False
            if is_reread:
                following.distrust()
            reading = await following.next_reading(alarm)
            if reading is None:
                if not rereading.is_asked:
                    await alarm.wait(following.pause_s())
                continue
            outcome = following.decide(reading)
            if is_reread:
                rereading.on_done(outcome is not None, following.problems)
            if outcome is not None:
                yield outcome


class _Following:
    """The state of a watch: the last reading decided on, the last one served, the last problems yielded."""

    def __init__(self, reader: DirectoryReader, stop: asyncio.Event, times: WatchTimes) -> None:
        self._reader, self._stop, self._times = reader, stop, times
        self._decided = reader.last
        self._served = reader.last if reader.last is not None and reader.last.changeset is not None else None
        self._problems: tuple[Problem, ...] = reader.last.problems if reader.last is not None else ()
        self._patience = _Patience()
        self._is_root_replaced = False
        self._recheck_at_s: float | None = self._recheck_time(reader.last)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of the last reading decided on."""
        return self._problems

    def distrust(self) -> None:
        """Make the next reading open all files again."""
        self._reader.distrust()
        self._recheck_at_s = _now_s()

    def pause_s(self) -> float:
        """Return how many seconds to wait for the alarm before the next sweep."""
        if self._recheck_at_s is None:
            return self._times.poll_s
        return max(0.0, min(self._times.poll_s, self._recheck_at_s - _now_s()))

    async def next_reading(self, alarm: Alarm) -> Reading | None:
        """Return a complete reading of a changed directory, None if it has not changed or has changed back."""
        tree: Tree | None = None
        reading: Reading | None = None
        first_s = changed_s = _now_s()
        while not self._stop.is_set():
            after = await self._sweep(alarm)
            if self._is_decided(after):
                self._patience.forget()
                return None
            if after != tree:
                tree, reading, changed_s = after, None, _now_s()
            if reading is None:
                quiet_left_s = changed_s + self._times.settle_s - _now_s()
                if quiet_left_s > 0 and _now_s() < first_s + self._times.settle_max_s and self._decided is not None:
                    await alarm.wait(quiet_left_s)
                    continue
                reading = await asyncio.to_thread(self._reader.load, tree)
                if reading.is_torn:
                    tree = None
                    await alarm.wait(self._times.settle_s)
            elif (left_s := await self._hold_left_s(reading)) > 0:
                await alarm.wait(min(left_s, self._times.poll_s))
            elif await self._sweep(alarm) == tree:
                return reading  # else a file was written and closed while its writer was looked for
        return None

    def decide(self, reading: Reading) -> Outcome | None:
        """Return the outcome of a reading, None if it is the same as before."""
        self._recheck_at_s = None if self._is_known(reading.tree) else self._recheck_time(reading)
        self._decided = reading
        self._patience.forget()
        problems = reading.problems or self._root_problem(reading)
        if problems:
            is_news = problems != self._problems
            self._problems = problems
            return ChangesetRejectedError(problems) if is_news else None
        assert reading.changeset is not None
        is_news = bool(self._problems) or self._served is None or reading.changeset != self._served.changeset
        self._problems, self._served, self._is_root_replaced = (), reading, False
        return reading.changeset if is_news else None

    async def _sweep(self, alarm: Alarm) -> Tree:
        tree = await asyncio.to_thread(self._reader.scan)
        if await alarm.arm(tree.root, tree.directories):
            tree = await asyncio.to_thread(self._reader.scan)
        if self._served is not None and tree.root != self._served.tree.root:
            self._is_root_replaced = True
        return tree

    def _is_known(self, tree: Tree) -> bool:
        return self._decided is not None and tree == self._decided.tree

    def _is_decided(self, tree: Tree) -> bool:
        is_recheck_due = self._recheck_at_s is not None and _now_s() >= self._recheck_at_s
        return self._is_known(tree) and not is_recheck_due

    def _recheck_time(self, reading: Reading | None) -> float | None:
        """Return when to read files again that were written within a tick of the file system's clock, None if none."""
        is_young = reading is not None and any(not content.is_settled for content in reading.contents.values())
        return _now_s() + self._times.recheck_s if is_young else None

    async def _hold_left_s(self, reading: Reading) -> float:
        """Return how many seconds to wait before the reading can be decided on."""
        open_files = await asyncio.to_thread(self._open_files, reading.tree)
        times = self._times
        left_s = max(
            self._patience.left_s("problems", reading.problems, times.problem_s),
            self._patience.left_s("lost", self._lost(reading), times.loss_s),
        )
        writer_left_s = self._patience.left_s("open", open_files, times.writer_s)
        # closing a file does not ring the alarm, so poll for it
        return min(max(left_s, writer_left_s), times.settle_s) if writer_left_s > 0 else left_s

    def _open_files(self, tree: Tree) -> tuple[FoundFile, ...]:
        known = set(self._decided.tree.files) if self._decided is not None else set()
        files = [file for file in tree.files if file not in known]
        if tree.group_file is not None:
            files.append(tree.group_file)
        return tuple(file for file in files if is_being_written(file.path))

    def _lost(self, reading: Reading) -> tuple[Hashable, ...]:
        """Return the root and the missing or blank files whose resources were served, empty if there are none."""
        served = self._served
        if served is None:
            return ()
        lost = []
        for file in served.tree.files:
            now = reading.contents.get(file.path)
            if now is None or now.is_blank:
                left = reading.served.get(file.group, {})
                resources = served.contents[file.path].resources
                if any((resource.type_url, resource.name) not in left for resource in resources):
                    lost.append(file.path)
        had_rules = served.tree.group_file is not None and not served.groups_are_blank
        if had_rules and (reading.tree.group_file is None or reading.groups_are_blank):
            lost.append("groups")
        return (reading.tree.root, *lost) if lost else ()

    def _root_problem(self, reading: Reading) -> tuple[Problem, ...]:
        served = self._served
        if served is None or not self._is_root_replaced:
            return ()
        if any(reading.served.values()) or not any(served.served.values()):
            return ()
        what = "the directory was replaced by an empty one; what was served stays served"
        hint = "put its files back, or restart to serve nothing"
        return (Problem(what=what, hint=hint, file=str(self._reader.root)),)


class _Patience:
    """Since when each cause to wait has been unchanged."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[Hashable, float]] = {}

    def left_s(self, cause: str, what: tuple[Hashable, ...], patience_s: float) -> float:
        """Return the seconds until the cause has been unchanged for ``patience_s``; 0 if ``what`` is empty."""
        if not what:
            self._since.pop(cause, None)
            return 0.0
        if cause not in self._since or self._since[cause][0] != what:
            self._since[cause] = (what, _now_s())
        return max(0.0, self._since[cause][1] + patience_s - _now_s())

    def forget(self) -> None:
        """Reset all causes."""
        self._since.clear()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
