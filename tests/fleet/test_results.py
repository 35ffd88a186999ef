import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.fleet.plot import PlotError, draw, panels
from xds.fleet.report import remarks, tables
from xds.fleet.results import (
    Connected,
    Latency,
    MemoryFigures,
    Newcomers,
    Push,
    Pushes,
    Result,
    RunStep,
    Storm,
    Verified,
)

MS = 1_000_000


@given(st.lists(st.integers(0, 10**12), min_size=1))
def test_percentiles_are_samples_with_the_right_share_below_them(samples: list[int]) -> None:
    found = Latency.of(samples)
    assert found is not None
    for share, value in ((0.5, found.p50_ms), (0.99, found.p99_ms), (0.999, found.p999_ms)):
        exact = min(one for one in samples if sum(o <= one for o in samples) >= math.ceil(share * len(samples)))
        assert value == round(exact / MS, 3)
    assert (found.count, found.last_ms) == (len(samples), round(max(samples) / MS, 3))


def test_no_samples_have_no_distribution() -> None:
    assert Latency.of([]) is None


def latency(last_ms: int) -> Latency:
    found = Latency.of([n * MS for n in range(1, last_ms + 1)])
    assert found is not None
    return found


def result() -> Result:
    made = Result(started="now", tool={}, machine={}, options={}, resources={"clusters": 1_000})
    push = Push(1_000, 1_000, 1.0, latency(10))
    for streams in (1_000, 4_000):
        series = tuple(
            Pushes(gap, (push,), latency(streams // 100), streams, streams, 400 * streams, 1.0, 9.5, 8.25)
            for gap in (0.0, 200.0)
        )
        connect = Connected(streams, streams, latency(50), 1.5, 120.0, 90.0)
        made.steps.append(RunStep(streams, connect, MemoryFigures(10**6, 10**7, 4_200.0, 3_100.0, 2 * 10**7), series))
    made.newcomers = Newcomers(100, 99, latency(5), push)
    made.storm = Storm(1_000, 1_000, latency(30), 0.5, 7, 1_000, 55.0, "a missing assignment")
    made.verify = Verified(1_000, 1, {"stuck": 3}, ("fleet-1: endpoints: 1 differ",))
    made.losses, made.lost = {"grpc-status 14": 2}, 2
    made.examples = {"grpc-status 14": "fleet-2: grpc-status 14: bye"}
    return made


def test_every_figure_is_in_a_table() -> None:
    shown = {table.title: table for table in tables(result())}
    assert list(shown) == [
        "connect to synced",
        "server memory (PSS)",
        "push to received",
        "newcomers during a push",
        "reconnect storm",
    ]
    for table in shown.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert shown["server memory (PSS)"].rows[0] == ("1,000", "1.0", "10.0", "4.20", "3.10", "20.0")
    assert shown["push to received"].rows[3][:4] == ("4,000", "200", "1", "4,000")
    assert shown["push to received"].rows[3][-3:] == ("9.5", "8.2", "400")
    assert shown["reconnect storm"].rows[0][-2:] == ("7", "55.0")


def test_remarks_say_what_was_lost_and_who_differs() -> None:
    text = "\n".join(remarks(result()))
    assert "verified: 999 of 1,000 sidecars equal, 3 stuck left out\n  fleet-1: endpoints: 1 differ" in text
    assert "lost: 2 × fleet-2: grpc-status 14: bye" in text


def test_an_empty_result_is_no_table() -> None:
    assert list(tables(Result("now", {}, {}, {}))) == []


def test_panels_hold_the_figures_against_streams() -> None:
    shown = {panel.title: panel for panel in panels([("one", json.loads(json.dumps(asdict(result()))))])}
    lines = {line.label: line.points for line in shown["push to received"].lines}
    assert lines["last"] == ((1_000, 10.0), (4_000, 40.0))
    assert lines["last, 200 ms apart"] == lines["last"]
    assert shown["server memory per stream"].lines[0].points == ((1_000, 4.2), (4_000, 4.2))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_results_are_drawn(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the extra xds-control-plane[plot] is not installed")
    for name in ("ours", "theirs"):
        (tmp_path / f"{name}.json").write_text(json.dumps(asdict(result())))
    output = tmp_path / f"out{suffix}"
    draw([tmp_path / "ours.json", tmp_path / "theirs.json"], output)
    data = output.read_bytes()
    assert b"<svg" in data[:1_000] if suffix == ".svg" else data.startswith(b"\x89PNG")
    draw([tmp_path / "ours.json", tmp_path / "theirs.json"], output)
    assert output.read_bytes() == data, "the same figures make the same file"


def test_what_cannot_be_drawn_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for text, said in (("{}", "no result of"), ("nonsense", "no result of"), ("[1]", "no result of")):
        path.write_text(text)
        with pytest.raises(PlotError, match=said):
            draw([path], tmp_path / "x.svg")
    with pytest.raises(PlotError, match="can't be read"):
        draw([tmp_path / "missing.json"], tmp_path / "x.svg")
    with pytest.raises(PlotError, match=r"neither \.svg"):
        draw([path], tmp_path / "x.pdf")
    path.write_text(json.dumps(asdict(Result("now", {}, {}, {}))))
    with pytest.raises(PlotError, match="no figures"):
        draw([path], tmp_path / "x.svg")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "r.json").write_text(json.dumps(asdict(result())))
    with pytest.raises(PlotError, match=r"pip install 'xds-control-plane\[plot\]'"):
        draw([tmp_path / "r.json"], tmp_path / "x.svg")
