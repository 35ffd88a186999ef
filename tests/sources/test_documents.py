"""The resources of a file: in several documents, one or a list each, beside keys that only hold anchors."""

import json
from pathlib import Path

import pytest
import yaml

from xds.model.problem import ChangesetRejectedError
from xds.sources.directory import DirectoryLimits, DirectoryReader
from xds.sources.inline import read_text
from xds.sources.json_reader import JsonDocument
from xds.sources.yaml_reader import YamlDocument, YamlLimits

URL = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
CLUSTER = {"@type": URL, "name": "a", "type": "STATIC", "connect_timeout": "1s"}


def one(name: str) -> str:
    return f'"@type": {URL}\nname: {name}\n'


def listed(name: str) -> str:
    return f'resources:\n- "@type": {URL}\n  name: {name}\n'


def served(root: Path, text: str, name: str = "a.yaml", *, strict: bool = True) -> list[tuple[str, str]]:
    (root / name).write_text(text)
    changeset = DirectoryReader(root, limits=DirectoryLimits(file=YamlLimits(strict=strict))).read()
    return [(each.name, each.source.rpartition("/")[2]) for each in changeset.upserts["default"]]


def refused(root: Path, text: str, name: str = "a.yaml") -> list[tuple[int, str, str]]:
    with pytest.raises(ChangesetRejectedError) as caught:
        served(root, text, name)
    return [(problem.line, problem.what, problem.hint) for problem in caught.value.problems]


def test_every_document_of_a_file_counts(tmp_path: Path) -> None:
    text = f"---\n{one('a')}---\n# nothing\n---\n{listed('b')}...\n---\n{one('c')}---\n"

    assert served(tmp_path, text) == [("a", "a.yaml:2"), ("b", "a.yaml:8"), ("c", "a.yaml:12")]
    assert [each.name for each in read_text(text.encode(), file="standard input")] == ["a", "b", "c"]


def test_problem_in_a_later_document_has_its_line(tmp_path: Path) -> None:
    text = f"{one('a')}---\n{one('b')}lb_policy: FOO\n---\n{listed('c')}  nam: x\n"

    assert [(line, what) for line, what, _ in refused(tmp_path, text)] == [
        (6, "FOO is not a value of envoy.config.cluster.v3.Cluster.LbPolicy"),
        (11, "unknown field of envoy.config.cluster.v3.Cluster"),
    ]
    with pytest.raises(ChangesetRejectedError) as caught:
        read_text(text.encode(), file="x")
    assert [problem.line for problem in caught.value.problems] == [6, 11]


def test_anchors_end_with_their_document(tmp_path: Path) -> None:
    text = f"x-a: &a 1s\n{listed('a')}  connect_timeout: *a\n---\n{one('b')}connect_timeout: *a\n"

    assert [(line, what) for line, what, _ in refused(tmp_path, text)] == [(9, "no anchor for the alias *a")]


@pytest.mark.parametrize("key", ["x-common: &c {1}", "common: &c {1}", "!ignore common: &c {1}", "x-list:\n- &c {1}"])
def test_top_level_key_may_hold_anchors(tmp_path: Path, key: str) -> None:
    text = key.replace("{1}", "{thresholds: [{max_connections: 7}]}") + f"\n{listed('a')}  circuit_breakers: *c\n"

    assert [name for name, _ in served(tmp_path, text)] == ["a"]
    (resource,) = read_text(text.encode(), file="x")
    assert b"\x08\x07" in resource.body


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("resourcs: []", "unknown key 'resourcs'", "did you mean resources or resource_errors?"),
        ("resource: &r []", "unknown key 'resource'", "did you mean resources or resource_errors?"),
        (
            "common: []",
            "unknown key 'common'",
            "a file holds `resources:`; a key that only holds anchors begins with x-",
        ),
        (
            "static_resources: &s {}",
            "unknown key 'static_resources'",
            "this is a bootstrap file; list its resources under `resources:`, each with its @type",
        ),
        (
            "[]",
            "holds no resources",
            "begin with `resources:` and put the list below it, or with the @type of one resource",
        ),
    ],
)
def test_other_keys_are_refused(tmp_path: Path, text: str, what: str, hint: str) -> None:
    assert refused(tmp_path, text) == [(1, what, hint)]
    assert refused(tmp_path, f"{one('a')}---\n{text}") == [(4, what, hint)]


def test_json_file_may_be_one_resource(tmp_path: Path) -> None:
    assert served(tmp_path, f'\n{{"@type": "{URL}", "name": "a"}}', "a.json") == [("a", "a.json:2")]


def test_one_resource_may_stand_for_the_list(tmp_path: Path) -> None:
    text = f'resources:\n  "@type": {URL}\n  name: a\n'

    assert served(tmp_path, text) == [("a", "a.yaml:1")]
    assert [line for line, _, _ in refused(tmp_path, text + "  nam: x\n")] == [4]


def test_key_twice_is_the_last_one_only_if_not_strict(tmp_path: Path) -> None:
    text = f"{one('a')}name: b\n"

    assert served(tmp_path, text, strict=False) == [("b", "a.yaml:1")]
    hint = "keep one of the two; Envoy takes the last one, and so do we with strict_yaml: false"
    assert refused(tmp_path, text) == [(3, "duplicate key 'name' (first on line 2)", hint)]


def test_text_that_is_json_has_numbers_and_yaml_text_has_text() -> None:
    json = f'{{"@type": "{URL}", "name": "a", "metadata": {{"filter_metadata": {{"m": {{"v": 1.10}}}}}}}}'
    number, text = (read_text(each.encode(), file=file)[0].body for each, file in ((json, "x"), (json, "x.yaml")))

    assert b"1.10" in text
    assert b"1.10" not in number


FORMS = {
    "a JSON list": (json.dumps, lambda resources: resources),
    "JSON": (json.dumps, lambda resources: {"resources": resources}),
    "a YAML list": (yaml.safe_dump, lambda resources: resources),
    "YAML": (yaml.safe_dump, lambda resources: {"resources": resources}),
}


@pytest.mark.parametrize("form", FORMS)
def test_valid_resources_are_read_without_another_look_at_the_file(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each resource would cost as much as the whole file."""
    write, around = FORMS[form]
    text = write(around([CLUSTER | {"name": f"c{number}"} for number in range(5)]))
    for kind in (JsonDocument, YamlDocument):
        monkeypatch.setattr(kind, "line_of", lambda _self, path: pytest.fail(f"looked for the line of {path}"))

    found = read_text(text.encode(), file="it")
    assert [each.name for each in found] == [f"c{number}" for number in range(5)]
    assert all(each.source.startswith("it:") for each in found)


@pytest.mark.parametrize("form", FORMS)
def test_problem_of_an_item_has_its_line_in_every_form(form: str) -> None:
    write, around = FORMS[form]
    options = {"indent": 1} if write is json.dumps else {}
    text = write(around([CLUSTER, CLUSTER | {"name": "wrong", "nonsense": 1}]), **options)
    with pytest.raises(ChangesetRejectedError) as caught:
        read_text(text.encode(), file="it")
    (problem,) = caught.value.problems
    assert "nonsense" in text.splitlines()[problem.line - 1]
