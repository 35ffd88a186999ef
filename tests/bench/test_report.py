"""What the fleet said becomes figures, figures become ratios and verdicts, and all of it becomes the report."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench import loopback
from bench.compare.__main__ import QUICK_DIRECTORY, places, write_report
from bench.compare.best import HEADLINES, MEMORY, Best, above_floor, beside_peers, peers_need_gb, without_peers
from bench.compare.claims import FEW_CLUSTERS, MANY_CLUSTERS, Claim, claims
from bench.compare.fleet import Load, figures_of
from bench.compare.floor import Floor
from bench.compare.results import Figures, Measured, RowResult, load, merged, save
from bench.compare.rows import FULL, QUICK, in_rounds, micro_figures
from bench.compare.servers import (
    GO_LINEAR,
    GO_SNAPSHOT,
    JAVA_TUNED,
    LADDER,
    OURS,
    OURS_GRPCIO,
    OURS_WORKER,
    ROOT,
    Resources,
    Running,
)
from bench.ladder.participants import PRODUCT
from bench.ladder.rungs import LAST
from bench.report import DIRECTORY, NOTES, PLOT, SHORT_TITLES, TABLES, TITLES, Others, render, report_of

ROW = "fanout-100x1000"


def latency(p50_ms: float, last_ms: float) -> dict[str, float]:
    return {"count": 10, "p50_ms": p50_ms, "p99_ms": last_ms - 1, "p999_ms": last_ms, "last_ms": last_ms}


def pushes(gap_ms: float, cpu_us: float, *last_ms: float) -> dict[str, Any]:
    return {
        "gap_ms": gap_ms,
        "pushes": [{"latency": latency(1, each)} for each in last_ms],
        "latency": latency(2, max(last_ms)),
        "server_cpu_us_per_delivery": cpu_us,
        "fleet_cpu_us_per_delivery": 9.0,
    }


def step(streams: int, connected_bytes: int, after_bytes: int | None, *series: dict[str, Any]) -> dict[str, Any]:
    return {
        "streams": streams,
        "connect": {
            "sidecars": streams,
            "synced": streams - 1,
            "connect_to_synced": latency(100, 500),
            "all_synced_s": 0.6,
            "server_cpu_us_per_sidecar": 150.0,
        },
        "memory": {
            "before_bytes": 1_000_000,
            "connected_bytes": connected_bytes,
            "bytes_per_stream": (connected_bytes - 1_000_000) / streams,
            "bytes_per_added_stream": 9_500.0,
            "after_pushes_bytes": after_bytes,
        },
        "pushes": list(series),
    }


def fleet_result(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(steps), "newcomers": None, "storm": None, "verify": {"different": 2}, "problems": []}


def row(row_name: str, **servers: Figures) -> RowResult:
    names = {"ours": OURS.name, "grpcio": OURS_GRPCIO.name, "go": GO_LINEAR.name, "java": JAVA_TUNED.name}
    return RowResult(
        row=row_name,
        date="2026-01-02T03:04:05+00:00",
        took_s=61.4,
        machine={"CPU": "2 × abacus"},
        versions={"Go": "go9"},
        parameters={"streams": 1000},
        measured={names.get(name, name): Measured(figures, (f"run {name}",)) for name, figures in servers.items()},
    )


OLD_FLOOR = {
    "one send() and one recv() on loopback before the row, of thousands of connections in turn": "7.5 + 2.5 µs"
}
"""As rows have it that were measured before it was said how many connections."""


def with_floor(result: RowResult, floor: dict[str, str] | None = None) -> RowResult:
    return replace(result, parameters={**result.parameters, **(OLD_FLOOR if floor is None else floor)})


def ladder_run(date: str, ours_us: float, rung_us: float, row_name: str = "100x1000") -> dict[str, Any]:
    rounds = [
        {PRODUCT: {"back_to_back.cpu_us": ours_us + more}, LAST: {"back_to_back.cpu_us": rung_us}}
        for more in (-1, 0, 2)
    ]
    return {"date": date, "versions": {"commit": f"of {date}"}, "rows": {row_name: {"rounds": rounds}}}


def lines_of(text: str, heading: str) -> list[str]:
    """Return the lines of a section."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].strip().splitlines()


def claim(results: dict[str, RowResult], what: str, *, row_name: str = "") -> Claim:
    (found,) = [each for each in claims(results) if each.what == what and row_name in ("", each.row)]
    return found


def test_figures_are_those_of_the_last_step_and_the_memory_between_the_steps() -> None:
    result = fleet_result(
        step(1_000, 5_000_000, 7_000_000),
        step(3_000, 25_000_000, 31_000_000, pushes(0, 8.5, 10, 30, 20), pushes(200, 9.5, 7)),
    )
    figures = figures_of(result)
    assert figures["back_to_back.cpu_us"] == 8.5
    assert figures["back_to_back.last_ms"] == 20  # the median of the pushes', not the worst of all
    assert (figures["paced.cpu_us"], figures["paced.last_ms"]) == (9.5, 7)
    assert figures["memory.kb"] == 8
    assert (figures["memory.added_kb"], figures["memory.added_after_kb"]) == (9.5, 12)
    assert figures["memory.after_kb"] == 10
    assert figures["memory.total_mb"] == 31
    assert (figures["connect.cpu_us"], figures["connect.p50_s"], figures["connect.missing"]) == (150, 0.1, 3)


def test_the_workers_part_of_the_cpu_is_a_figure_where_there_are_workers() -> None:
    result = fleet_result(step(10, 5_000_000, None, pushes(0, 8.5, 10)))
    assert not [name for name in figures_of(result) if name.endswith("workers_us")]
    result["steps"][0]["connect"]["workers_cpu_us_per_sidecar"] = 140.0
    result["steps"][0]["pushes"][0]["workers_cpu_us_per_delivery"] = 7.25
    figures = figures_of(result)
    assert (figures["connect.workers_us"], figures["back_to_back.workers_us"]) == (140, 7.25)


def test_newcomers_and_the_storm_are_figures_too() -> None:
    result = fleet_result(step(10, 5_000_000, None))
    result["newcomers"] = {
        "sidecars": 5,
        "synced": 5,
        "connect_to_synced": latency(40, 51),
        "push": {"latency": latency(1, 1_500)},
    }
    result["storm"] = {
        "resources_sent_again": 0,
        "reconnect_to_synced": latency(300, 901),
        "all_synced_s": 1.25,
        "server_cpu_us_per_sidecar": 77.0,
    }
    figures = figures_of(result)
    assert (figures["push.last_s"], figures["newcomers.p99_s"], figures["newcomers.missing"]) == (1.5, 0.05, 0)
    assert (figures["reconnect.resources"], figures["reconnect.all_s"], figures["reconnect.cpu_us"]) == (0, 1.25, 77)


def test_the_fleet_is_told_what_to_do() -> None:
    server = Running(OURS, pid=42, port=7, admin_port=8, command="serve")
    argv = Load(streams=400, steps_before=(100,), pushes=3).arguments(server, Resources(routes=2))
    said = dict(pairwise(argv))
    assert (said["--server"], said["--trigger"], said["--server-pid"]) == (
        "127.0.0.1:7", "http://127.0.0.1:8/push", "42",
    )  # fmt: skip
    assert (said["--streams"], said["--subscribe"], said["--push-gap-ms"]) == (
        "100,400", "routes=route-0,route-1", "0,200",
    )  # fmt: skip
    assert "--pushes" not in Load(streams=400).arguments(server, Resources())


@pytest.mark.parametrize(("cpu_us", "verdict"), [(10.0, "pass"), (10.1, "MISS"), (None, "not measured")])
def test_a_figure_is_held_to_its_limit(cpu_us: float | None, verdict: str) -> None:
    figures = {} if cpu_us is None else {"back_to_back.cpu_us": cpu_us}
    assert claim({ROW: row(ROW, ours=figures)}, "grpcio, CPU per delivery, back to back").verdict == "not measured"
    found = claim({ROW: row(ROW, ours=figures)}, "CPU per delivery, back to back", row_name=ROW)
    assert found.verdict == verdict


@pytest.mark.parametrize(("linear_us", "verdict"), [(80.0, "pass"), (79.0, "MISS")])
def test_a_ratio_is_taken_to_the_best_of_the_peers_and_says_who_was_missing(linear_us: float, verdict: str) -> None:
    name = "back_to_back.cpu_us"
    results = {ROW: row(ROW, ours={name: 8.0}, go={name: linear_us}, java={name: 30.0})}
    found = next(
        each
        for each in claims(results)
        if each.what.startswith("CPU per delivery, go-control-plane at its best : ours")
    )
    assert (found.measured, found.verdict) == (linear_us / 8, verdict)
    assert found.detail.startswith(f"{GO_LINEAR.name}: {linear_us:.4g}, ours: 8; without ")
    assert "java" not in found.detail


def memory_row(few_kb: float, many_kb: float) -> dict[str, RowResult]:
    servers = {FEW_CLUSTERS: {"memory.added_kb": few_kb}, MANY_CLUSTERS: {"memory.added_kb": many_kb}}
    return {"memory": row("memory", **servers)}


def test_growth_compares_streams_with_many_clusters_to_streams_with_few() -> None:
    found = claim(memory_row(4.0, 4.4), "memory per stream, 100 → 5,000 clusters")
    assert found.measured == pytest.approx(1.1)
    assert found.verdict == "pass"


@pytest.mark.parametrize(("few_kb", "many_kb"), [(-2.2, 3.9), (4.0, -7.1), (-1.0, -1.0), (0.0, 4.0), (0.2, 0.2)])
def test_memory_that_cannot_be_is_no_success(few_kb: float, many_kb: float) -> None:
    results = memory_row(few_kb, many_kb)
    assert claim(results, "memory per stream, 100 → 5,000 clusters").verdict == "not measured"
    plain = claim(results, "memory per stream, plaintext")
    assert plain.verdict == ("pass" if few_kb == 4 else "not measured")


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan"), float("inf")])
def test_a_figure_that_cannot_be_is_not_measured_and_shown_as_such(value: float) -> None:
    results = {ROW: row(ROW, ours={"back_to_back.cpu_us": value}, java={"back_to_back.cpu_us": 90.0})}
    found = [each for each in claims(results) if each.row == ROW]
    assert {each.verdict for each in found} == {"not measured"}
    if value <= 0:
        assert "which can't be" in render(results)


@pytest.mark.parametrize(("count", "verdict"), [(0, "pass"), (1, "MISS"), (-1, "not measured")])
def test_of_a_count_nothing_is_a_figure(count: int, verdict: str) -> None:
    results = {"reconnect-5000": row("reconnect-5000", ours={"reconnect.resources": count})}
    assert claim(results, "resources sent again").verdict == verdict


def test_the_report_leads_with_the_comparison_and_ends_with_the_commands() -> None:
    text = render({ROW: row(ROW, ours={"back_to_back.cpu_us": 9.0})}, Others(notes="Why.", pushing="## Pushing\n"))
    assert [line for line in text.splitlines() if line.startswith(("## ", "### "))] == [
        "## Ours beside go-control-plane and java-control-plane",
        "## Ours beside the floor and the ladder",
        "## By row",
        f"### {ROW}: {TITLES[ROW]}",
        "## The `h2` library in place of this project's HTTP/2",
        "## Targets",
        "### Why figures miss their targets",
        "## Pushing",
        "## Machine and versions",
        "## Commands",
    ]


def test_each_line_has_each_peers_best_variant_and_ours_to_the_better_peer() -> None:
    cpu, last = "back_to_back.cpu_us", "back_to_back.last_ms"
    servers = {
        "ours": {cpu: 10.0, last: 30.0},
        "go": {cpu: 50.0, last: 90.0},
        GO_SNAPSHOT.name: {cpu: 80.0, last: 60.0},
        "java": {cpu: 40.0, last: 75.0},
    }
    results = {ROW: row(ROW, **servers)}
    found = {line.figure.names[0]: line for line in beside_peers(results)}
    assert found[cpu].go == Best(GO_LINEAR.name, 50)
    assert found[cpu].java == Best(JAVA_TUNED.name, 40)
    assert found[cpu].ratio == 0.25
    assert (found[last].go, found[last].ratio) == (Best(GO_SNAPSHOT.name, 60), 0.5)
    lines = lines_of(render(results), "Ours beside go-control-plane and java-control-plane")
    assert (
        f"| **{SHORT_TITLES[ROW]}** | CPU per delivery, pushes back to back, µs | 10 | 50 (Mux/Linear) | 40 (tuned) "
        "| **0.25** |"
    ) in lines
    assert "|  | last stream, pushes back to back, ms | 30 | 60 (Snapshot) | 75 (tuned) | **0.50** |" in lines
    assert "|  | CPU per stream to connect, µs | not measured | not measured | not measured | – |" in lines


def test_memory_counts_where_it_is_largest_connected_or_after_the_pushes() -> None:
    results = {ROW: row(ROW, ours={"memory.kb": 5.0, "memory.after_kb": 4.0}, go={"memory.kb": 20.0})}
    (found,) = [line for line in beside_peers(results) if line.figure is MEMORY]
    assert (found.ours, found.ratio) == (5, 0.25)


def test_memory_that_cannot_be_is_no_peers_best() -> None:
    servers = {
        "ours": {"memory.kb": 5.0},
        "go": {"memory.kb": -3.0, "memory.after_kb": -1.0},
        "java": {"memory.kb": 20.0},
    }
    (found,) = [line for line in beside_peers({ROW: row(ROW, **servers)}) if line.figure is MEMORY]
    assert (found.go, found.ratio) == (None, 0.25)


def test_rows_without_a_peer_are_named_with_what_the_peers_would_need() -> None:
    many = row("streams-100000", ours={"memory.total_mb": 500.0})
    most = row("fanout-100x4000", ours={"memory.kb": 4.0}, go={"memory.kb": 90.0, "memory.after_kb": 200.0})
    assert without_peers({many.row: many, most.row: most}) == ["streams-100000"]
    assert peers_need_gb({most.row: most}, 100_000) == (Best(GO_LINEAR.name, 200), 20)
    assert peers_need_gb({many.row: many}, 100_000) is None
    text = render({many.row: many, most.row: most})
    assert "No peer was run in `streams-100000`." in text
    assert f"{GO_LINEAR.name}, which takes least of them, would need 20 GB for 100,000 streams." in text
    assert "would need" not in render({many.row: many})


def test_the_floor_is_read_as_rows_have_it_and_had_it() -> None:
    result = row(ROW, ours={})
    assert Floor.of(result) is None
    assert Floor.of(with_floor(result)) == Floor(4_000, 7.5, 2.5)
    measured = Floor(1_000, 3.25, 1.5)
    assert Floor.of(with_floor(result, dict(measured.parameter()))) == measured
    assert measured.us == 4.75


def test_ours_is_shown_as_a_ratio_to_the_floor_of_its_row() -> None:
    figures = {"back_to_back.cpu_us": 25.0, "back_to_back.last_ms": 40.0, "connect.cpu_us": 120.0, "memory.kb": 4.0}
    result = with_floor(row(ROW, ours=figures, go={"back_to_back.cpu_us": 80.0}))
    found = {line.figure.names[0]: line.over_floor for line in above_floor({ROW: result}, [])}
    assert found == {
        "back_to_back.cpu_us": 2.5,
        "back_to_back.last_ms": 4.0,  # of 1,000 streams, one after the other: 10 ms
        "connect.cpu_us": 12.0,
        "memory.kb": None,
    }
    text = render({ROW: result})
    lines = lines_of(text, "Ours beside the floor and the ladder")
    assert "|  | last stream, pushes back to back, ms | 40 | 10 | **4.00** | not measured | not measured | – |" in lines
    assert (
        f"- `{ROW}`: `send()` 7.5 µs, `recv()` 2.5 µs, over 4,000 connections in turn; over 1,000, as many as the row "
        "has, they take less, so its ratios are too small."
    ) in lines
    assert f"| {GO_LINEAR.name} | 80 | 3.2 | 8.0 |" in text  # in the table by row: to ours, to the floor


def test_a_row_without_a_floor_says_so() -> None:
    result = row(ROW, ours={"back_to_back.cpu_us": 25.0})
    (found,) = above_floor({ROW: result}, [])
    assert found.over_floor is None
    text = render({ROW: result})
    assert f"- `{ROW}`: the floor was not measured." in text
    assert "× the floor (" not in text


def test_ours_with_one_worker_is_compared_with_the_rung_of_the_same_run() -> None:
    name = "back_to_back.cpu_us"
    servers = {"ours": {name: 30.0}, OURS_WORKER.name: {name: 12.0}, LADDER.name: {name: 8.0}}
    results = {ROW: row(ROW, **servers)}
    (found,) = above_floor(results, [ladder_run("2026-02-01", 9, 9)])
    assert found.rung is not None
    assert (found.rung.ours, found.rung.rung, found.rung.ratio, found.rung.run) == (12, 8, 1.5, None)
    text = render(results, Others(ladder_runs=[ladder_run("2026-02-01", 9, 9)]))
    assert "| 12 | 8 | **1.50** |" in text
    assert "of the ladder's own run" not in text


def test_where_a_row_has_no_rung_the_ladders_newest_run_is_compared_and_named() -> None:
    results = {ROW: row(ROW, ours={"back_to_back.cpu_us": 30.0})}
    runs = [ladder_run("2026-02-02", 10, 8), ladder_run("2026-02-01", 9, 9), ladder_run("2026-02-03", 9, 9, "5000x500")]
    (found,) = above_floor(results, runs)
    assert found.rung is not None
    assert (found.rung.ours, found.rung.rung, found.rung.ratio, found.rung.run) == (10, 8, 1.25, runs[0])
    lines = lines_of(render(results, Others(ladder_runs=runs)), "Ours beside the floor and the ladder")
    assert any(line.endswith("| 10\\* | 8\\* | **1.25** |") for line in lines)
    assert any("run (`make bench-ladder`) of 2026-02-02, commit of 2026-02-02" in line for line in lines)


def test_every_row_that_counts_most_has_a_short_title() -> None:
    assert set(HEADLINES) == set(SHORT_TITLES)
    assert set(HEADLINES) <= set(FULL)


def test_every_row_has_a_title_and_a_quick_form() -> None:
    assert set(FULL) == set(TITLES) == set(QUICK)
    assert {each.row for each in claims({})} == set(FULL) - {"scaling"}
    assert {each.verdict for each in claims({})} == {"not measured"}


def every_figure() -> Figures:
    """Return figures as the fleet's result has them when it did everything."""
    result = fleet_result(
        step(1_000, 5_000_000, 7_000_000), step(3_000, 25_000_000, 31_000_000, pushes(0, 8, 10), pushes(200, 9, 7))
    )
    result["newcomers"] = {
        "sidecars": 5, "synced": 5, "connect_to_synced": latency(40, 51), "push": {"latency": latency(1, 2)},
    }  # fmt: skip
    result["storm"] = {
        "resources_sent_again": 0, "reconnect_to_synced": latency(300, 901), "all_synced_s": 1.25,
        "server_cpu_us_per_sidecar": 77.0,
    }  # fmt: skip
    last = result["steps"][-1]
    for measured, name in ((last["connect"], "sidecar"), *((series, "delivery") for series in last["pushes"])):
        measured[f"workers_cpu_us_per_{name}"] = 6.0
    return figures_of(result | {"fleet_memory_bytes": 3_000_000})


def test_no_figure_is_shown_by_its_raw_name() -> None:
    figures = every_figure()
    assert set(figures) == {name for table in TABLES for name in table.columns}
    text = render({ROW: row(ROW, ours=figures, go=figures)})
    assert [name for name in figures if name in text] == []


def test_a_figure_of_several_rounds_is_their_median_shown_with_the_extremes() -> None:
    rounds = [Measured({"back_to_back.cpu_us": value}) for value in (9.0, 30.0, 8.0)]
    measured = merged([*rounds, Measured(not_measured="it fell over\nand lay there")])
    assert measured.figures == {"back_to_back.cpu_us": 9}
    result = replace(row(ROW), measured={OURS.name: measured})
    text = render({ROW: result})
    assert f"| {OURS.name} | 9 (8–30) |" in text
    assert f"{OURS.name}: a round was not measured: it fell over … and lay there" in text


def test_where_no_round_gave_figures_the_first_says_why() -> None:
    rounds = [Measured(not_measured="no javac", lacks_toolchain=True), Measured(not_measured="later")]
    assert merged(rounds) is rounds[0]


def test_rounds_take_turns_and_every_other_one_goes_backwards() -> None:
    order = list[str]()

    def work(name: str) -> Measured:
        order.append(name)
        return Measured({"x": float(len(order))})

    found = in_rounds(3, {name: partial(work, name) for name in "abc"}, lambda _: None)
    assert "".join(order) == "abccbaabc"
    assert {name: measured.figures["x"] for name, measured in found.items()} == {"a": 6, "b": 5, "c": 4}


def test_a_quick_run_writes_where_git_looks_away() -> None:
    report, results = places(quick=True)
    assert report.is_relative_to(QUICK_DIRECTORY)
    assert results.is_relative_to(QUICK_DIRECTORY)
    assert QUICK_DIRECTORY.is_relative_to(ROOT / "build")
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()
    assert places(quick=False)[0] == ROOT / "bench" / "RESULTS.md"


def test_the_report_says_plainly_what_misses_and_what_was_not_measured() -> None:
    figures = {"back_to_back.cpu_us": 12.5, "memory.kb": 4.2}
    result = row(ROW, ours=figures, go={"back_to_back.cpu_us": 50.0})
    result = replace(result, measured={**result.measured, JAVA_TUNED.name: Measured(not_measured="no javac: get one")})
    text = render({ROW: result}, Others(notes="A person wrote this."))
    assert f"| {ROW} | CPU per delivery, back to back | ≤ 10 µs | 12.5 µs | **MISS** |" in text
    assert f"| {ROW} | grpcio, CPU per delivery, back to back | ≤ 50 µs | – | not measured |" in text
    assert f"{JAVA_TUNED.name}: not measured: no javac: get one" in text
    assert "A person wrote this." in text
    assert f"| {GO_LINEAR.name} | 50 | 4.0 |" in text
    assert "| | pushes back to back, µs | × ours (pushes back to back) |" in text
    assert "run go" in text
    assert "2 × abacus" in text


def test_a_row_that_is_run_again_replaces_its_own_result_alone(tmp_path: Path) -> None:
    save(row(ROW, ours={"back_to_back.cpu_us": 99.0}), tmp_path)
    save(row("one-change", ours={"slowest / fastest": 1.1}), tmp_path)
    save(row(ROW, ours={"back_to_back.cpu_us": 9.0}), tmp_path)
    found = load(tmp_path)
    assert set(found) == {ROW, "one-change"}
    assert found[ROW].figure(OURS.name, "back_to_back.cpu_us") == 9
    (tmp_path / NOTES).write_text("Because.")
    (tmp_path / "ladder-x.json").write_text(json.dumps(ladder_run("2026-02-02", 10, 8)))
    assert "Because." in report_of(tmp_path)
    assert "**1.25**" in report_of(tmp_path)


def test_a_result_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"row": "old"}')
    with pytest.raises(ValueError, match=r"old\.json is not a result of this version; remove it"):
        load(tmp_path)


def test_results_of_the_ladder_are_no_rows(tmp_path: Path) -> None:
    save(row(ROW, ours={"back_to_back.cpu_us": 9.0}), tmp_path)
    for name in ("ladder.json", "ladder-last-rungs.json"):
        (tmp_path / name).write_text('{"rows": {}}')
    assert set(load(tmp_path)) == {ROW}


def test_the_report_is_written_again_from_saved_results_alone(tmp_path: Path) -> None:
    report, results = tmp_path / "RESULTS.md", tmp_path / "results"
    results.mkdir()
    assert write_report(report, results, quick=False) == 1
    assert not report.exists()
    save(row(ROW, ours={"back_to_back.cpu_us": 9.0}), results)
    assert write_report(report, results, quick=False) == 0
    assert report.read_text() == report_of(results)


def test_the_committed_report_is_that_of_the_committed_results() -> None:
    written = (ROOT / "bench" / "RESULTS.md").read_text()
    assert report_of(DIRECTORY, drawn=PLOT) == written, "write it again: python -m bench.compare --report-only"


def test_what_the_readme_says_of_speed_and_size_is_what_was_measured() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    results = load(DIRECTORY)
    assert "A change costs the same at 100 and at 100,000 resources" in readme
    assert claim(results, "the cost of one change, 100 → 100,000 resources").verdict == "pass"
    assert "100,000 streams fit in less than 1 GB on two cores" in readme
    assert results["streams-100000"].machine["CPU"].startswith("2 × ")
    assert claim(results, "server memory in all").verdict == "pass"
    assert claim(results, "streams that are not synced, or differ at the end").verdict == "pass"


def test_the_table_of_the_micro_benchmark_is_read() -> None:
    printed = """\
 resources   change p50   change max  per delivery        connect  ratio
       100      2.50 ms      3.10 ms       2.50 µs          40 µs   1.00
   100,000      3.00 ms      4.00 ms       3.00 µs       9,000 µs   1.20
"""
    figures = micro_figures(printed, [100, 100_000])
    assert figures["a change at 100,000 resources, µs"] == 3_000
    assert figures["slowest / fastest"] == pytest.approx(1.2)
    with pytest.raises(ValueError, match="no row for 1,000 resources"):
        micro_figures(printed, [100, 1_000])


def test_the_floor_of_loopback_is_measured() -> None:
    send_us, receive_us = loopback.measure(messages=200, rounds=2)
    assert 0.1 < send_us < 1_000
    assert 0.1 < receive_us < 1_000
