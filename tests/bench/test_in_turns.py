"""Revisions in turns: who is measured when, what pairs of figures say of a ratio, and that each is really its own."""

import asyncio
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import resources as r
from support.wire import DeltaClient

from bench.compare.fleet import MeasureError
from bench.compare.results import Figures
from bench.compare.servers import ROOT, Resources
from bench.in_turns import revisions
from bench.in_turns.__main__ import FLOOR, ratios, report, run
from bench.in_turns.product import RestPusher, Trigger, as_json, pushed_to, serving
from bench.in_turns.ratios import Difference, Ratio, in_order, interval_rank
from bench.in_turns.revisions import WORKING_TREE, Revision, RevisionError, prepare, same_requirements
from bench.in_turns.rows import ROWS, Core, Fanout, Loading, Pushes, Unlike
from bench.serve import Workload

HERE = Revision("here", "0123456789abcdef", ROOT, ROOT)


def figures(cpu_us: float) -> Figures:
    return {"back_to_back.cpu_us": cpu_us, "back_to_back.workers_us": cpu_us - 1, "connect.cpu_us": 200.0}


def test_every_second_round_goes_backwards() -> None:
    assert [in_order(["a", "b"], number) for number in range(4)] == [["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]]


def test_ratios_are_paired_by_round_so_drift_does_not_spread_them() -> None:
    before, after = [10.0, 20.0, 40.0], [11.0, 22.0, 44.0]
    ratio = Ratio.of(before, after)
    assert (ratio.median, ratio.least, ratio.most) == pytest.approx((1.1, 1.1, 1.1))


@pytest.mark.parametrize(
    ("count", "rank"),
    [(0, None), (1, None), (5, None), (6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (20, 6), (100, 40)],
)
def test_the_interval_of_a_median_is_the_sign_tests(count: int, rank: int | None) -> None:
    assert interval_rank(count) == rank  # as in tables of the sign test, at 95%


def test_the_interval_leaves_out_the_outermost_of_ten_rounds() -> None:
    ratio = Ratio.of([1.0] * 10, [0.5, 1.01, 1.02, 1.02, 1.02, 1.02, 1.02, 1.02, 1.025, 9.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.least, ratio.most) == (1.02, 1.01, 1.025, 0.5, 9.0)
    assert ratio.resolution == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([1.01, 1.0, 0.99, 1.02, 1.0, 1.01], "within"),
        ([1.05, 1.04, 1.06, 1.05, 1.04, 1.05], "beyond"),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.04], "can't tell"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "can't tell"),  # too few rounds
    ],
)
def test_the_verdict_is_only_what_the_rounds_can_tell(after: list[float], verdict: str) -> None:
    assert Ratio.of([1.0] * len(after), after).verdict(1.03) == verdict


@pytest.mark.parametrize("before", [[], [1.0, 0.0]])
def test_there_is_no_ratio_to_nothing(before: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Ratio.of(before, [1.0] * len(before))


def test_differences_are_paired_as_ratios_are() -> None:
    before = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    difference = Difference.of(before, [figure + 0.5 for figure in before])
    assert (difference.median, difference.low, difference.high) == (0.5, 0.5, 0.5)
    assert Difference.of([1.0], [2.0]) == Difference(1.0, None, None)
    with pytest.raises(ValueError, match="at least one round"):
        Difference.of([], [])


class Scripted:
    """A row whose figures are given, and that fails where there is none."""

    def __init__(self, **cpu_us: list[float | None]) -> None:
        self._cpu_us = {name: iter(found) for name, found in cpu_us.items()}
        self.asked: list[str] = []

    def measure(self, revision: Revision, workers: int) -> Figures:
        self.asked.append(revision.name)
        if (cpu_us := next(self._cpu_us[revision.name])) is None:
            raise MeasureError("a sidecar differs")
        return figures(cpu_us)

    def shown(self) -> str:
        return "as scripted"


def participants(*names: str) -> dict[str, Revision]:
    return {name: Revision(name, name, ROOT, ROOT) for name in names}


def test_a_round_that_fails_counts_for_nobody() -> None:
    row = Scripted(before=[10.0, 20.0, 30.0], after=[11.0, None, 33.0])
    rounds = run(row, "row", participants("before", "after"), 3, workers=1)  # type: ignore[arg-type]
    assert row.asked == ["before", "after", "after", "before", "after"]
    assert rounds == [{"before": figures(10), "after": figures(11)}, {"before": figures(20), "after": figures(33)}]


def test_the_report_has_each_figure_its_ratio_and_what_the_machine_alone_does() -> None:
    told = [10.0, 11.0, 12.0, 10.0, 11.0, 12.0]
    rounds = [
        {"before": figures(cpu_us), "after": figures(cpu_us * 1.1), FLOOR: figures(cpu_us * 1.001)} for cpu_us in told
    ]
    text = "\n".join(report("row", ROWS["100x1000"], rounds, 7.6))
    assert "10.00 / 11.00 / 12.00" in text
    assert "1.100 (1.100–1.100)" in text
    assert (
        "after: CPU per delivery: beyond 103% of before (median +10.0%, told to ± 0.0%; before against itself +0.1%)"
        in text
    )
    assert "after: CPU per connect: within 103% of before" in text
    assert ratios(rounds)["after"]["back_to_back.cpu_us"].median == pytest.approx(1.1)


def test_a_row_without_rounds_says_so() -> None:
    assert "not measured" in list(report("row", ROWS["core"], [], 7.6))


def test_rows_can_be_made_smaller() -> None:
    small = ROWS["5000x500"].scaled(0.1)
    assert isinstance(small, Fanout)
    assert (small.resources.clusters, small.load.streams) == (500, 50)
    few = ROWS["100x4000"].scaled(0.1)
    assert isinstance(few, Fanout)
    assert (few.resources.clusters, few.load.streams) == (100, 400)
    assert ROWS["core"].scaled(0.01) == Core(streams=10, changes=100)
    assert ROWS["unlike"].scaled(0.1) == Unlike(streams=50)
    assert ROWS["push"].scaled(0.1) == Pushes(changes=40)
    assert ROWS["load"].scaled(0.1) == Loading(clusters=1_000)


# --- Revisions -----------------------------------------------------------------------------------------------------


def test_a_revision_that_git_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="no revision 'no-such-revision'"):
        prepare("no-such-revision", tmp_path)


def test_a_revision_that_would_import_another_xds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match=f"xds is imported from {ROOT}"):
        Revision("elsewhere", "", tmp_path, tmp_path).check()


def test_a_commit_that_is_installed_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    commit = asked.stdout.strip()
    built = []

    def install(source: Path, site: Path) -> None:
        built.append((source / "pyproject.toml").exists())
        (site / "xds").mkdir(parents=True)
        for name in ("__init__.py", "version.py"):
            (site / "xds" / name).touch()

    monkeypatch.setattr(revisions, "_install", install)
    first, second = prepare("HEAD", tmp_path), prepare(commit, tmp_path)
    assert built == [True]
    assert (first.commit, first.site) == (second.commit, second.site) == (commit, tmp_path / commit / "site")
    prepare(WORKING_TREE, tmp_path)
    prepare(WORKING_TREE, tmp_path)
    assert built == [True] * 3
    assert same_requirements([first, second])
    (first.source / "requirements.lock").write_text("something==else")
    assert not same_requirements([first, prepare(WORKING_TREE, tmp_path)])


# --- The product, driven -------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_push_changes_one_assignment_of_the_workload_through_the_rest_api() -> None:
    small = Resources(clusters=3, routes=1, endpoints=2)

    def get(url: str) -> int:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)

    with ExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, serving(HERE, small, workers=1))
        workload = Workload(clusters=3, routes=1, endpoints=2)
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.CLUSTER)
            await client.take_until(lambda: len(client.view.get(r.CLUSTER, {})) == 3)
            await client.subscribe(r.ENDPOINTS, *client.view[r.CLUSTER])
            await client.take_until(lambda: len(client.view.get(r.ENDPOINTS, {})) == 3)
            assert await asyncio.to_thread(get, server.trigger) == 200
            assert (await client.take()).names == {workload.next_change().cluster_name}
            with pytest.raises(urllib.error.HTTPError):
                await asyncio.to_thread(get, server.trigger + "x")


@pytest.mark.slow
async def test_a_push_by_grpc_changes_one_assignment_of_the_workload() -> None:
    with ExitStack() as stack:
        served = pushed_to(HERE, Resources(clusters=3, routes=1, endpoints=2), workers=1, grpc=True)
        server, pusher = await asyncio.to_thread(stack.enter_context, served)
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.ENDPOINTS, "cluster-0", "cluster-1", "cluster-2")
            await client.take_until(lambda: len(client.view.get(r.ENDPOINTS, {})) == 3)
            changed = Workload(clusters=3, routes=1, endpoints=2).next_change().cluster_name
            await asyncio.to_thread(pusher.push)
            assert (await client.take()).names == {changed}
        await asyncio.to_thread(stack.close)


def test_a_push_that_is_refused_fails_the_round() -> None:
    with (
        Trigger(RestPusher(1, Workload(clusters=1, routes=0, endpoints=1))) as trigger,
        pytest.raises(urllib.error.HTTPError) as told,
    ):
        urllib.request.urlopen(f"http://127.0.0.1:{trigger.port}/push", timeout=10)
    with told.value:
        assert told.value.code == 502


def test_the_workload_is_put_as_json_of_envoys() -> None:
    workload = Workload(clusters=1, routes=0, endpoints=1)
    cluster, assignment = (as_json(resource) for resource in workload.initial())
    assert cluster["name"] == "cluster-0"
    assert assignment["@type"].endswith("ClusterLoadAssignment")
    assert assignment["cluster_name"] == "cluster-0"
