"""Escaped text has no hidden characters, and escaped JSON and YAML decode to the same values."""

import json
import sys
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xds.reporting import escaping
from xds.reporting.escaping import HIDDEN, bounded, json_text, visible, visible_lines, yaml_text

EVERY = list(map(chr, range(sys.maxunicode + 1)))
NASTY = "".join(each for each in EVERY if HIDDEN.fullmatch(each))
texts = st.text(st.characters() | st.sampled_from("\x00\x07\x1b\x7f\x85\x9b\u200b\u2028\u202e\u2066\ufeff\ud800\n\t"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def test_all_that_unicode_says_is_hidden_is() -> None:
    categories = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert [f"{ord(each):x}" for each in EVERY if unicodedata.category(each) in categories and each not in NASTY] == []
    for shown in "aß漢é🙂 \u00a0\\\"'":
        assert shown not in NASTY


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ß 漢 🙂 C:\\x", "plain, ß 漢 🙂 C:\\x"),
        ("\x1b[2J\x1b]0;t\x07", "\\x1b[2J\\x1b]0;t\\x07"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("\u202eevil\u2066\u200f\u200b\u2028", "\\u202eevil\\u2066\\u200f\\u200b\\u2028"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
    ],
)
def test_hidden_characters_are_written_as_python_would(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(texts)
def test_what_is_visible_is_one_line_without_anything_hidden(text: str) -> None:
    assert not HIDDEN.search(visible(text))
    assert not HIDDEN.search(visible_lines(text).replace("\n", ""))
    if not HIDDEN.search(text):
        assert visible(text) == text


def test_json_that_is_ascii_is_not_searched_for_other_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escaping, "_HIDDEN_BUT_LINE_FEED", None)
    assert json_text(["a\x7f\x1b\n"]) == '["a\\u007f\\u001b\\n"]'


@given(values, st.sampled_from([None, 1, 2]), st.booleans())
def test_json_is_read_as_the_same_value_and_hides_nothing(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json_text(value, indent=indent, ascii_only=ascii_only)
    assert json.loads(text) == value
    assert not HIDDEN.search(text.replace("\n", ""))
    if indent is None:
        assert "\n" not in text
    text.encode()


@given(values)
def test_yaml_is_read_as_the_same_value_and_hides_nothing(value: object) -> None:
    text = yaml_text(value)
    assert yaml.safe_load(text) == value
    assert not HIDDEN.search(text.replace("\n", "").replace("\t", ""))
    text.encode()


def test_plain_yaml_is_as_it_was() -> None:
    assert yaml_text({"a": ["ß", "two\nlines"], "b": 1}) == yaml.dump(
        {"a": ["ß", "two\nlines"], "b": 1}, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True
    )


def test_fields_are_cut_each_and_all_together() -> None:
    fields = {"n": 1, "none": None, "text": "x" * 50, "names": ["y" * 30] * 3, "few": ["z"]}
    shown = bounded(fields, value_characters_max=20, line_characters_max=1_000)
    assert shown == {
        "n": 1,
        "none": None,
        "text": "x" * 20 + "… (50 characters)",
        "names": '["' + "y" * 18 + "… (102 characters)",
        "few": ["z"],
    }
    many = {f"k{number}": "x" * 20 for number in range(100)}
    shown = bounded(many, value_characters_max=20, line_characters_max=500)
    assert sum(len(value.partition("…")[0]) for value in shown.values()) == 500
