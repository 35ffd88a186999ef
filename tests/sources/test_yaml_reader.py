"""YAML is read as Envoy reads it, safely, and every problem has its line."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xds.model.problem import ChangesetRejectedError
from xds.sources import yaml_reader
from xds.sources.yaml_reader import YamlLimits, read_yaml

LIMITS = YamlLimits()
LOOSE = YamlLimits(strict=False)


def read(text: str | bytes, limits: YamlLimits = LIMITS) -> Any:
    return read_yaml(text.encode() if isinstance(text, str) else text, file="f.yaml", limits=limits).value


def refused(text: str | bytes, limits: YamlLimits = LIMITS) -> list[tuple[int, str]]:
    with pytest.raises(ChangesetRejectedError) as caught:
        read(text, limits)
    assert {problem.file for problem in caught.value.problems} == {"f.yaml"}
    return [(problem.line, problem.what) for problem in caught.value.problems]


@pytest.mark.parametrize("text", ["", "---\n", "# only a comment\n", "~", b"\xef\xbb\xbf"])
def test_an_empty_file_is_none(text: str | bytes) -> None:
    assert read(text) is None


def test_plain_scalars_are_read_as_envoy_reads_them() -> None:
    assert read("[yes, Off, true, y, N, tRUE, ~, null, nULL]") == [
        True,
        False,
        True,
        True,
        False,
        "tRUE",
        None,
        None,
        "nULL",
    ]
    assert read("[12, -3, +3, 012, 0x1f, 0X1F, -0x1f, 00]") == [12, -3, 3, 10, 31, 31, -31, 0]
    for text in ("1.10", ".5", "1e3", "12:30", "1_000", "2026-01-01", ".inf", "09", "0x", "0o7", "0b1"):
        assert read(f"[{text}, '{text}']") == [text, text]
    assert read("['12', 'y', '', ! 12]") == ["12", "y", "", "12"]


def test_a_whole_number_of_more_than_32_bits_is_its_decimal_text() -> None:
    assert read("[2147483647, -2147483648, 0x7fffffff]") == [2147483647, -2147483648, 2147483647]
    assert read("[2147483648, -2147483649, 0x80000000]") == ["2147483648", "-2147483649", "2147483648"]
    assert read("[0xffffffffffffffff, 9223372036854775808]") == ["0xffffffffffffffff", "9223372036854775808"]


def test_keys_are_text_as_written() -> None:
    assert read("{8080: a, true: b, ~: c}") == {"8080": "a", "true": "b", "null": "c"}


def test_tags_that_say_what_envoy_reads_are_accepted() -> None:
    text = "[!!str a, !!str 1.5, !!int '12', !!float 1, !!float 1.5, !!bool 'yes', !!map {}, !!seq [], ! 7]"
    assert read(text) == ["a", "1.5", 12, 1, "1.5", True, {}, [], "7"]


def test_key_with_the_tag_ignore_only_holds_anchors() -> None:
    assert read("!ignore x: &x {a: 1}\nb: *x\nc: {!ignore y: &y 5, z: *y}\n") == {"b": {"a": 1}, "c": {"z": 5}}


def test_tags_are_ignored_as_envoy_does_unless_strict() -> None:
    lenient = YamlLimits(strict=False)
    text = "[!!str 12, !mine y, !!null '', !!int x, !!set {a}]"
    assert read(text, lenient) == [12, True, "", "x", {"a": None}]
    assert read("{a: 1, b: 2, a: 3}", lenient) == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!binary", "!mine", "!!timestamp", "!!set", "!!null"]
)
def test_other_tags_are_refused(tag: str) -> None:
    what = f"the tag {tag} is not allowed: Envoy ignores it"
    assert refused(f"a: 1\nb: {tag} x\n") == [(2, what)]
    assert refused(f"a: 1\nb: {tag} {{x: 1}}\n") == [(2, what)]


def test_a_value_that_contradicts_its_tag_is_refused() -> None:
    assert refused("a: !!int x") == [(1, "Envoy ignores the tag !!int and reads 'x' as \"x\"")]
    assert refused("a: !!str 0x1F") == [(1, "Envoy ignores the tag !!str and reads '0x1F' as 31")]
    assert refused("a: !!str 3000000000") == [
        (1, "Envoy ignores the tag !!str and reads '3000000000' as \"3000000000\"")
    ]
    assert refused("a: !!bool 'true.'") == [(1, "Envoy ignores the tag !!bool and reads 'true.' as \"true.\"")]


def test_plain_scalar_may_begin_with_a_colon_within_braces() -> None:
    text = "a: {name: :method, b: [:x, -z], \"c\":1, d: {'e':[1]}, f: http://x:80/y}"
    assert read(text) == {"a": {"name": ":method", "b": [":x", "-z"], "c": 1, "d": {"e": [1]}, "f": "http://x:80/y"}}


@pytest.mark.parametrize("char", ["\x85", "\u2028", "\u2029"])
def test_line_break_that_parsers_read_differently_is_refused(char: str) -> None:
    (problem,) = refused(f'a: 1\nb: "x{char}y"\n')
    assert problem == (2, f"a line break U+{ord(char):04X}, which YAML parsers read differently")


def test_a_byte_order_mark_is_tolerated() -> None:
    assert read(b"\xef\xbb\xbfa: 1") == {"a": 1}


def test_all_duplicate_keys_are_reported_with_both_lines() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na: 2\n"
    assert refused(text) == [(2, "duplicate key 'c' (first on line 2)"), (3, "duplicate key 'a' (first on line 1)")]


def test_a_second_document_is_refused() -> None:
    assert refused("a: 1\n---\nb: 1\n") == [(3, "a second YAML document starts here")]


def test_text_that_is_not_utf8_is_refused() -> None:
    assert refused(b"a: 1\nb: \xff\n") == [(2, "not UTF-8: byte 0xff (invalid start byte)")]
    assert refused(b"a: 1\nb: \x00\n") == [(2, "a NUL byte; is this a text file?")]
    assert refused(b"a: 1\nb: \x07\n") == [(2, "not valid YAML: control characters are not allowed")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n\tb: 2\n", 2),
        ("a: [\n", 2),
        ("a: 'x\n", 2),
        ("a: b: c", 1),
        ("a: @x", 1),
        ("a: *gone", 1),
        ("- 1\nb: 2", 2),
    ],
)
def test_a_syntax_error_has_its_line(text: str, line: int) -> None:
    assert [place for place, _ in refused(text)] == [line]


def test_keys_that_are_not_scalars_are_refused() -> None:
    assert refused("? [a, b]\n: 1\n{c: d}: 2\n") == [
        (1, "a key must be a plain word"),
        (3, "a key must be a plain word"),
    ]


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000, "{a: " * 200_000])
def test_depth_is_bounded_without_a_crash(text: str) -> None:
    assert refused(text) == [(1, "nested deeper than 100 levels")]


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]" for name in "bcdefghi"]
    assert refused("\n".join(lines)) == [(6, "aliases expand to more than 200,000 values")]


def test_a_merge_bomb_is_refused() -> None:
    keys = ", ".join(f"k{number}: 1" for number in range(100))
    lines = [f"a0: &a0 {{{keys}}}", *(f"a{n}: &a{n} {{<<: *a{n - 1}, x: *a{n - 1}}}" for n in range(1, 40))]
    assert [what for _, what in refused("\n".join(lines), LOOSE)] == ["aliases expand to more than 200,000 values"]


def test_an_alias_within_its_own_anchor_is_refused() -> None:
    assert refused("a: 1\nb: &b [*b]") == [(2, "the alias *b is within its own anchor")]


def test_the_number_of_values_is_bounded() -> None:
    assert refused("- [a, b, c]\n- [d]\n", YamlLimits(nodes_max=4)) == [(2, "more than 4 values in one file")]


def test_the_size_of_a_file_is_bounded() -> None:
    assert refused("a: 1", YamlLimits(file_bytes_max=3)) == [(0, "the file has 4 bytes, more than the 3 allowed")]


def test_merge_keys_are_refused_as_by_envoy_unless_the_setting_takes_them() -> None:
    text = "x: &x {a: 1}\ny:\n  <<: *x\n"
    assert refused(text) == [(3, "Envoy does not know the merge key '<<'")]
    assert read(text, LOOSE) == {"x": {"a": 1}, "y": {"a": 1}}
    assert read('y: {"<<": 1}') == {"y": {"<<": 1}}


def test_aliases_and_merge_keys_are_followed() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {b: 3, <<: *x}\nz: {<<: [{c: 4}, *x], a: 0}\nw: [*x, &s 5, *s]\nv: {&k q: *k}\n"
    assert read(text, LOOSE) == {
        "x": {"a": 1, "b": 2},
        "y": {"a": 1, "b": 3},
        "z": {"a": 0, "b": 2, "c": 4},
        "w": [{"a": 1, "b": 2}, 5, 5],
        "v": {"q": "q"},
    }
    assert refused("x: 1\ny: {<<: 3}", LOOSE) == [(2, "'<<' merges something that isn't a mapping")]


def test_any_path_has_its_line() -> None:
    text = "# first\nresources:\n- name: a\n  ports:\n  - 1\n  - 2\n"
    text += "- &b\n  name: b\n  more: {x:\n    1}\n- <<: *b\n  z: 1\n"
    document = read_yaml(text.encode(), file="f.yaml", limits=LOOSE)
    assert [document.item_line("resources", index) for index in range(3)] == [3, 7, 11]
    paths: list[tuple[str | int, ...]] = [
        (),
        ("resources",),
        ("resources", 0, "ports"),
        ("resources", 0, "ports", 1),
        ("resources", 1, "more", "x"),
        ("resources", 1, "no", "such", "place"),
        ("resources", 2, "name"),
        ("resources", 2, "z"),
    ]
    assert [document.line_of(path) for path in paths] == [2, 2, 4, 6, 9, 7, 8, 12]


def test_an_aliased_list_has_its_lines() -> None:
    document = read_yaml(b"nonce: &r\n- a\n- b\nresources: *r\n", file="f.yaml", limits=LIMITS)
    assert [document.item_line("resources", index) for index in range(2)] == [2, 3]


def test_without_libyaml_the_same_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr(yaml_reader, "import_module", missing)
    assert read("a: &x [1, {b: yes}]\nc: *x\n") == {"a": [1, {"b": True}], "c": [1, {"b": True}]}
    assert refused("a: 1\na: 2\n") == [(2, "duplicate key 'a' (first on line 1)")]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé:# '", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_pyyaml_writes_is_read_back(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert read(text) == value


@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!'\"\n #,?|>%@<~01", max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_problems(text: bytes) -> None:
    try:
        read(text)
    except ChangesetRejectedError as error:
        assert error.problems  # noqa: PT017
