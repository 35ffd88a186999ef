"""Replicas that compact at the same time, and read meanwhile, lose nothing: on a simulated etcd with seeded delays."""

import asyncio
from typing import Any

import pytest
from simulation.process import Process
from simulation.stage import Stage, stage

from xds.store.entries import Entry, Key, State, Store
from xds.store.errors import CompactedError, OutcomeUnknownError, UnavailableError
from xds.store.recent import RecentEntries

A, B = (Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", name) for name in "ab")
SEEDS = range(25)
COUNT = 12


def written(on: Stage, process: Process, store: Store) -> None:
    """Write entries, the first of which alone sets B."""
    for number in range(COUNT):
        values: dict[Key, bytes | None] = {A: b"%d" % number, **({B: b"once"} if number == 0 else {})}
        entry = Entry(id=f"{number}", operations=values)
        while True:
            try:
                on.do(process, store.append(entry))
                break
            except OutcomeUnknownError:  # the same id makes no second entry
                continue


def wait_read(on: Stage, process: Process, store: Store) -> None:
    """Let time pass until a replica has read all entries."""
    for _ in range(1_000):
        if on.do(process, store.kept())[1] == COUNT:
            return
        on.clock.run(on.clock.now + 0.1, 1_000_000)
    raise AssertionError("it does not read them")


def answer_of(on: Stage, work: "asyncio.Task[Any]") -> Any:
    """Return the result of work, None if a reply was lost or another replica has compacted more."""
    try:
        return on.wait(work)[0]
    except (CompactedError, UnavailableError):
        return None


def state_of(on: Stage) -> State:
    """Return the state that a replica reads which starts now."""
    process, store = on.open()
    return on.do(process, store.state())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_history_only_gets_shorter_and_nothing_that_it_had_is_lost(seed: int) -> None:
    with stage(seed) as on:
        replicas = [on.open() for _ in range(3)]
        written(on, *replicas[0])
        for process, store in replicas:
            wait_read(on, process, store)
        until = [2, 5, 9]
        on.chance.shuffle(until)
        compacting = [
            on.start(process, store.compact(revision))
            for (process, store), revision in zip(replicas, until, strict=True)
        ]
        answers = [answer_of(on, work) for work in compacting]
        assert state_of(on) == State(COUNT, {A: b"%d" % (COUNT - 1), B: b"once"})
        for revision, answer in zip(until, answers, strict=True):
            assert answer is None or answer >= revision


@pytest.mark.parametrize("seed", SEEDS)
def test_a_read_that_a_compaction_overtakes_has_all_of_it_or_says_that_it_is_gone(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecentEntries, "after", lambda *_: None)  # reads come from etcd, as those of an old entry do
    with stage(seed) as on:
        (one, compacting), (other, reading) = on.open(), on.open()
        written(on, one, compacting)
        wait_read(on, other, reading)
        work = on.start(one, compacting.compact(8))
        reads = [on.start(other, reading.state(4)), on.start(other, reading.entries(3, 100))]
        state, entries = (answer_of(on, read) for read in reads)
        assert state is None or state == State(4, {A: b"3", B: b"once"})
        assert entries is None or [each.revision for each in entries] == [*range(4, COUNT + 1)]
        answer_of(on, work)
