"""What the fleet said becomes figures, figures become verdicts, and both become the report."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.compare.claims import Claim, claims
from bench.compare.fleet import Load, figures_of
from bench.compare.results import Figures, Measured, RowResult, better, load, save
from bench.compare.rows import FULL, QUICK, micro_figures
from bench.compare.servers import GO_LINEAR, JAVA_TUNED, OURS, OURS_GRPCIO, Resources, Running
from bench.report import NOTES, TITLES, render, report_of

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


def claim(results: dict[str, RowResult], what: str, *, row_name: str = "") -> Claim:
    (found,) = [each for each in claims(results) if each.what == what and row_name in ("", each.row)]
    return found


def test_figures_are_those_of_the_last_step_and_the_memory_between_the_steps() -> None:
    result = fleet_result(
        step(1_000, 5_000_000, None),
        step(3_000, 25_000_000, 31_000_000, pushes(0, 8.5, 10, 30, 20), pushes(200, 9.5, 7)),
    )
    figures = figures_of(result)
    assert figures["back_to_back.cpu_us"] == 8.5
    assert figures["back_to_back.last_ms"] == 20  # the median of the pushes', not the worst of all
    assert (figures["paced.cpu_us"], figures["paced.last_ms"]) == (9.5, 7)
    assert figures["memory.kb"] == 8
    assert figures["memory.added_kb"] == 10
    assert figures["memory.after_kb"] == 10
    assert figures["memory.total_mb"] == 31
    assert (figures["connect.cpu_us"], figures["connect.p50_s"], figures["connect.missing"]) == (150, 0.1, 3)


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
    argv = Load(streams=400, streams_before=100, pushes=3).arguments(server, Resources(routes=2))
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
        each for each in claims(results) if each.what.startswith("CPU × less than go-control-plane at its best")
    )
    assert (found.measured, found.verdict) == (linear_us / 8, verdict)
    assert found.detail.startswith(f"{GO_LINEAR.name}: {linear_us:.4g}, ours: 8; without ")
    assert "java" not in found.detail


def test_growth_compares_streams_with_many_clusters_to_streams_with_few() -> None:
    memory = row("memory", **{"100 clusters": {"memory.kb": 4.0}, "5,000 clusters": {"memory.kb": 4.4}})
    found = claim({"memory": memory}, "memory per stream, 100 → 5,000 clusters")
    assert found.measured == pytest.approx(1.1)
    assert found.verdict == "pass"


def test_every_row_has_a_title_and_a_quick_form() -> None:
    assert set(FULL) == set(TITLES) == set(QUICK)
    assert {each.row for each in claims({})} == set(FULL)
    assert {each.verdict for each in claims({})} == {"not measured"}


def test_the_report_says_plainly_what_misses_and_what_was_not_measured() -> None:
    figures = {"back_to_back.cpu_us": 12.5, "memory.kb": 4.2}
    result = row(ROW, ours=figures, go={"back_to_back.cpu_us": 50.0})
    result = replace(result, measured={**result.measured, JAVA_TUNED.name: Measured(not_measured="no javac: get one")})
    text = render({ROW: result}, notes="A person wrote this.")
    assert f"| {ROW} | CPU per delivery, back to back | ≤ 10 µs | 12.5 µs | **MISS** |" in text
    assert f"| {ROW} | grpcio, CPU per delivery, back to back | ≤ 50 µs | – | not measured |" in text
    assert f"{JAVA_TUNED.name}: not measured: no javac: get one" in text
    assert "A person wrote this." in text
    assert f"| {GO_LINEAR.name} | 50 | 4.0 |" in text
    assert "run go" in text
    assert "2 × abacus" in text


def test_a_row_that_is_run_again_replaces_its_own_result_alone(tmp_path: Path) -> None:
    save(row(ROW, ours={"back_to_back.cpu_us": 99.0}), tmp_path)
    save(row("one-change", ours={"slowest / fastest": 1.1}), tmp_path)
    save(row(ROW, ours={"back_to_back.cpu_us": 9.0}), tmp_path)
    found = load(tmp_path)
    assert set(found) == {ROW, "one-change"}
    assert found[ROW].figure(OURS.name, "back_to_back.cpu_us") == 9
    (tmp_path / NOTES).write_text("Why.")
    assert "Why." in report_of(tmp_path)


def test_a_result_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"row": "old"}')
    with pytest.raises(ValueError, match=r"old\.json is not a result of this version; remove it"):
        load(tmp_path)


def test_the_better_of_the_rounds_counts_figure_by_figure() -> None:
    assert better([{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 5.0, "c": 7.0}]) == {"a": 2, "b": 1, "c": 7}


def test_of_the_memory_the_larger_figure_of_the_rounds_counts() -> None:
    assert better([{"memory.kb": 4.0}, {"memory.kb": 3.0}]) == {"memory.kb": 4}


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
