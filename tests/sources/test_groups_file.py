"""groups.yaml is read into a GroupTable, or all of its problems are reported."""

from pathlib import Path

import pytest

from xds.model.groups import GroupTable, Rule
from xds.model.problem import ChangesetRejectedError
from xds.sources.directory import DirectoryReader


def read(root: Path, text: str, name: str = "groups.yaml") -> GroupTable:
    (root / name).write_text(text)
    groups = DirectoryReader(root).read().groups
    assert groups is not None
    return groups


def refused(root: Path, text: str) -> list[tuple[int, str, str, str]]:
    with pytest.raises(ChangesetRejectedError) as caught:
        read(root, text)
    return [(problem.line, problem.field, problem.what, problem.hint) for problem in caught.value.problems]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("prod", "web"):
        (tmp_path / name).mkdir()
    return tmp_path


WHOLE = """\
groups:
  canary: {extends: prod}
  lonely:
rules:
- group: canary
  match:
    id: canary-*
    cluster: web
    locality: {region: eu, zone: "*a", sub_zone: x}
    metadata: {labels.stage: beta, on: true, n: 3}
- group: web
  match: {cluster: web}
- group: default
unmatched: deny
external: [clusters/local, secrets/*, type.googleapis.com/some.Type/x]
"""


def test_everything_is_taken_over(root: Path) -> None:
    metadata = {"labels.stage": "beta", "on": "true", "n": "3"}
    canary = Rule(group="canary", id="canary-*", cluster="web", region="eu", zone="*a", sub_zone="x", metadata=metadata)
    assert read(root, WHOLE) == GroupTable(
        rules=(canary, Rule(group="web", cluster="web"), Rule(group="default")),
        extends={"canary": "prod"},
        deny_unmatched=True,
        external=("clusters/local", "secrets/*", "type.googleapis.com/some.Type/x"),
    )
    assert set(DirectoryReader(root).read().upserts) == {"default", "prod", "web", "canary", "lonely"}


def test_an_empty_file_has_no_rules(root: Path) -> None:
    assert read(root, "") == GroupTable()
    assert read(root, "rules:\ngroups:\nexternal:\n") == GroupTable()


def test_json_is_read_too(root: Path) -> None:
    assert read(root, '{"unmatched": "deny"}', "groups.json") == GroupTable(deny_unmatched=True)


def test_two_such_files_are_a_problem(root: Path) -> None:
    (root / "groups.yml").touch()
    assert [what for _, _, what, _ in refused(root, "")] == ["the groups' rules are in groups.yaml already"]


def test_only_the_file_at_the_top_is_used(root: Path) -> None:
    (root / "web" / "groups.yaml").write_text("rules: []")
    with pytest.raises(ChangesetRejectedError, match="unknown key 'rules'"):
        DirectoryReader(root).read()


def test_unknown_keys_come_with_a_suggestion(root: Path) -> None:
    text = "rule: []\nrules:\n- group: web\n  match:\n    ids: x\n    locality:\n      regoin: y\n"
    text += "groups:\n  web:\n    extend: x\n"
    assert [(line, field, hint) for line, field, _, hint in refused(root, text)] == [
        (1, "rule", "did you mean rules?"),
        (5, "rules[0].match.ids", "did you mean id?"),
        (7, "rules[0].match.locality.regoin", "did you mean region?"),
        (10, "groups.web.extend", "did you mean extends?"),
    ]


def test_unknown_groups_come_with_a_suggestion(root: Path) -> None:
    exists = "; to add a group, create its directory or list it under `groups:`"
    text = "groups:\n  new:\n    extends: prodd\nrules:\n- group: wep\n- match: {}\n"
    assert refused(root, text) == [
        (3, "groups.new.extends", "extends the unknown group 'prodd'", f"did you mean prod?{exists}"),
        (5, "rules[0].group", "a rule for the unknown group 'wep'", f"did you mean web?{exists}"),
        (6, "rules[1]", "a rule without a group", "name the group of the matching nodes: group: …"),
    ]


def test_a_circle_is_reported_once(root: Path) -> None:
    text = "groups:\n  a: {extends: b}\n  b: {extends: c}\n  c: {extends: b}\n  d: {extends: d}\n"
    assert [(line, what) for line, _, what, _ in refused(root, text)] == [
        (3, "extends itself: b → c → b"),
        (5, "extends itself: d → d"),
    ]


def test_values_of_the_wrong_kind_are_reported(root: Path) -> None:
    text = """\
groups: [a]
unmatched: drop
external: [clusters, clutsers/x]
rules:
- web
- group: web
  match:
    id: 3
    metadata: {labels: {stage: beta}}
- group: 3
"""
    assert [(line, what) for line, _, what, _ in refused(root, text)] == [
        (1, "a list where a mapping belongs"),
        (2, "'drop' is not a choice"),
        (3, "'clusters' is not of the form type/name"),
        (3, "unknown type 'clutsers'"),
        (5, "a rule without a group"),
        (5, "text where a mapping belongs"),
        (9, "a mapping where a glob belongs"),
        (10, "a rule for the unknown group 3"),
    ]


def test_it_is_read_as_strictly_as_any_file(root: Path) -> None:
    assert [(line, what) for line, _, what, _ in refused(root, "rules: []\nrules: []\n")] == [
        (2, "duplicate key 'rules' (first on line 1)")
    ]
