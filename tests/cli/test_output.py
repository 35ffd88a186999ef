"""Tables, as the commands print them."""

import time

import pytest

from xds.cli import output
from xds.cli.output import print_table

COLUMNS = ["type", "name", "count"]
ROWS = [["clusters", "a", "1"], ["endpoints", "名前", "1,000"], ["listeners", "a\u202eb\nc\x1b[2J", ""]]


def test_large_tables_look_like_small_ones(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    print_table(COLUMNS, ROWS, right=("count",))
    small = capsys.readouterr().out
    monkeypatch.setattr(output, "RICH_ROWS_MAX", 0)
    print_table(COLUMNS, ROWS, right=("count",))
    large = capsys.readouterr().out
    assert [line.rstrip() for line in large.splitlines()] == [line.rstrip() for line in small.splitlines()]
    assert len(large.splitlines()) == 1 + len(ROWS)


def test_a_large_table_is_printed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["clusters", f"cluster-{number:05}", "1"] for number in range(50_000)]
    began = time.process_time()
    print_table(COLUMNS, rows)
    assert time.process_time() - began < 4, "rich takes some fifteen seconds"
    assert len(capsys.readouterr().out.splitlines()) == 50_001
