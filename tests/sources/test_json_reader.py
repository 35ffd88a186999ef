"""JSON is read with the standard library's parser, as strictly as YAML and with the same lines."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.model.problem import ChangesetRejectedError
from xds.sources import json_reader
from xds.sources.json_reader import read_json
from xds.sources.yaml_reader import YamlLimits, read_yaml

LIMITS = YamlLimits()


def read(text: str | bytes) -> Any:
    return read_json(text.encode() if isinstance(text, str) else text, file="f.json", limits=LIMITS).value


def refused(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(ChangesetRejectedError) as caught:
        read(text)
    return [(problem.line, problem.what) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        (" \n", None),
        (b"\xef\xbb\xbf{}", {}),
        ("[1]", [1]),
        ('{"a": [], "b": {"c": [1, 2]}, "d": 1.5}\n', {"a": [], "b": {"c": [1, 2]}, "d": 1.5}),
        ('{"a": ["\\ud83d\\ude00"]}', {"a": ["😀"]}),
        (
            "{a: 'x\\'\"', 'b' : [1, {c_1: null,\n},], \"d\": \"\\'\\U0041\t\",}",
            {
                "a": "x'\"",
                "b": [1, {"c_1": None}],
                "d": "'A\t",
            },
        ),
        ('{"a": -0}', {"a": -0.0}),
    ],
)
def test_json_is_read(text: str | bytes, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('{"a": 1,\n"a": 2}', [(2, "duplicate key 'a' (first on line 1)")]),
        ('{"r": [\n{"a": 1,\n"a": 2}]}', [(3, "duplicate key 'a' (first on line 2)")]),
        ('{"a": NaN}', [(1, 'not valid JSON: NaN is not a JSON number; write "NaN"')]),
        ('{"a":\n[1 2]}', [(2, "not valid JSON: ',' expected")]),
        ('{"a":\n[1,,]}', [(2, "not valid JSON: Expecting value (column 4)")]),
        ('{"a": 1,\n// b\n}', [(2, "not valid JSON: a key in double quotes expected")]),
        ('{a: "b",\nc-d: 1}', [(2, "not valid JSON: a key in double quotes expected")]),
        ('{"a":\n1e400}', [(2, "not valid JSON: the number 1e400 is out of range")]),
        ('{"a" 1}', [(1, "not valid JSON: ':' expected")]),
        ('{"a": 1}\n{}', [(2, "not valid JSON: more text after the end")]),
        ('{"a":\n"\\ud800"}', [(2, "text with half of a surrogate pair (\\ud800 to \\udfff)")]),
        ('{"a": {"\\udfff": 1}}', [(1, "text with half of a surrogate pair (\\ud800 to \\udfff)")]),
        ("[" * 200_000, [(1, "nested deeper than 100 levels")]),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", [(1, "nested deeper than 100 levels")]),
        ('{"a": ' + "9" * 5000 + "}", [(1, "not valid JSON: a number of 5,000 digits")]),
        (b'{"a": "\xff"}', [(1, "not UTF-8: byte 0xff (invalid start byte)")]),
    ],
)
def test_problems_have_their_lines(text: str | bytes, problems: list[tuple[int, str]]) -> None:
    assert refused(text) == problems


def test_any_path_has_its_line_with_surrogates_and_without() -> None:
    text = '{\n"nonce": "1",\n"resources": [\n{"a": 1},\n{"b": "\\ud83d\\ude00",\n "c": [1,\n2]}]}'
    document = read_json(text.encode(), file="f.json", limits=LIMITS)
    assert [document.item_line("resources", index) for index in range(2)] == [4, 5]
    paths: list[tuple[str | int, ...]] = [("nonce",), ("resources", 1, "c", 1), ("resources", 1, "x"), ("resources",)]
    assert [document.line_of(path) for path in paths] == [2, 7, 5, 3]


@pytest.mark.parametrize(
    "text",
    ['{"a": ' + "9" * 5_000 + "}", '{"a": ' + "[" * 200_000, '{"a": NaN}', '{"a": "\\ud800"}', '{"a": 1e400}'],
)
def test_what_no_document_may_have_is_refused_without_reading_the_text_a_second_time(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "_as_json", None)
    assert len(refused(text)) == 1


def test_the_line_of_a_top_level_key_is_known_without_reading_the_text_a_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_reader, "_as_yaml", None)
    document = read_json(b'\n{"a":\n {"b": 1},\n"c":\n"d"}', file="f.json", limits=LIMITS)
    assert [document.line_of(path) for path in ((), ("a",), ("c",), ("x",), ("a", "x"))] == [2, 2, 4, 2, 2]


def test_only_the_value_that_a_path_leads_into_is_read_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = json_reader._as_yaml
    monkeypatch.setattr(json_reader, "_as_yaml", lambda text, *given: seen.append(text) or real(text, *given))
    document = read_json(b'{"a": "long",\n"b":\n{"c": 1,\n"d": 2}}', file="f.json", limits=LIMITS)
    assert (document.line_of(("b", "d")), seen) == (4, ['{"c": 1,\n"d": 2}'])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text('aé\t\\"/:,😀'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé"), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc"), VALUES), st.sampled_from([None, 1]), st.booleans())
def test_json_and_yaml_readers_agree(value: Any, indent: int | None, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    assert read(text) == value
    if "\\ud" not in text:
        as_yaml = read_yaml(text.encode(), file="f", limits=LIMITS)
        document = read_json(text.encode(), file="f", limits=LIMITS)
        for key, part in value.items():
            assert document.line_of((key,)) == as_yaml.line_of((key,))
            for inner in part if isinstance(part, dict) else ():
                assert document.line_of((key, inner)) == as_yaml.line_of((key, inner))
            for index in range(len(part) if isinstance(part, list) else 0):
                assert document.item_line(key, index) == as_yaml.item_line(key, index)


@given(st.text('{}[]",:ab1 \n\\u', max_size=40))
def test_any_text_is_a_value_or_problems(text: str) -> None:
    try:
        read(text)
    except ChangesetRejectedError as error:
        assert error.problems  # noqa: PT017
