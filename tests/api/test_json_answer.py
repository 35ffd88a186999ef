"""Answers in JSON: long lists are written in pieces, and read as if they were not."""

import json
from typing import Any

import pytest

from xds.api import json_answer
from xds.api.json_answer import PIECE, JsonAnswer


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
def test_a_long_list_is_written_in_pieces(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"before": {"a": [1]}, "k\x7f": [{"name": f"n{number}\u202e"} for number in range(count)], "after": None}
    written: list[int] = []
    real = json_answer.json_text

    def text(value: Any, **options: Any) -> str:
        written.append(len(value) if isinstance(value, list) else 0)
        return real(value, **options)

    monkeypatch.setattr(json_answer, "json_text", text)
    body = JsonAnswer(content).body
    assert json.loads(bytes(body)) == content
    assert bytes(body) == real(content, allow_nan=False, separators=(",", ":")).encode()
    assert max(written) <= PIECE
