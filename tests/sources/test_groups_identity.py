"""groups.yaml: rules about identities, read, written, and stored."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from xds.model.groups import GroupTable, Patterns, Rule
from xds.model.problem import ChangesetRejectedError
from xds.publishing.codec import decode_table, encode_table
from xds.sources.directory import DirectoryReader
from xds.sources.groups_file import groups_json

TEXT = """\
rules:
- group: payments
  match: {identity: "spiffe://corp/ns/payments/sa/{sa}", cluster: pay}
  require: {id: "{sa}-*", locality: {region: eu}, metadata: {labels.namespace: payments}}
- group: web
  match: {identity: "dns:*.web.corp"}
"""
RULES = (
    Rule(
        group="payments",
        identity="spiffe://corp/ns/payments/sa/{sa}",
        cluster="pay",
        require=Patterns(id="{sa}-*", region="eu", metadata={"labels.namespace": "payments"}),
    ),
    Rule(group="web", identity="dns:*.web.corp"),
)


def read(root: Path, text: str) -> GroupTable:
    (root / "groups.yaml").write_text(text)
    for name in ("payments", "web"):
        (root / name).mkdir(exist_ok=True)
    groups = DirectoryReader(root).read().groups
    assert groups is not None
    return groups


def test_rules_about_identities_are_read_and_written(tmp_path: Path) -> None:
    table = read(tmp_path, TEXT)
    assert table.rules == RULES
    assert read(tmp_path, yaml.safe_dump(groups_json(table))).rules == RULES


def test_rules_about_identities_are_stored(tmp_path: Path) -> None:
    table = read(tmp_path, TEXT)
    assert decode_table(encode_table(table)) == table


def test_rules_without_identities_are_stored_as_before() -> None:
    table = GroupTable(rules=(Rule(group="web", id="web-*"),))
    fields = {"group", "id", "cluster", "region", "zone", "sub_zone", "metadata"}
    assert set(yaml.safe_load(encode_table(table))["rules"][0]) == fields
    assert decode_table(encode_table(table)) == table
    assert asdict(table)["rules"][0]["identity"] == "*"


@pytest.mark.parametrize(
    ("rule", "line", "field", "what"),
    [
        ("{group: web, match: {identity: web}}", 2, "rules[0].match.identity", "an identity begins with"),
        ("{group: web, match: {identity: 5}}", 2, "rules[0].match.identity", "a number where an identity belongs"),
        ("{group: web, match: {identity: 'spiffe://corp/w*'}}", 2, "rules[0].match.identity", "whole segments"),
        ("{group: web, require: {identity: 'spiffe://corp'}}", 2, "rules[0].require.identity", "no workload"),
        ("{group: web, require: {id: '{sa}-*'}}", 2, "rules[0].require.id", "{sa} is no segment of the identity '*'"),
        (
            "{group: web, match: {identity: 'cn:{name}'}, require: {metadata: {a.b: '{nam}'}}}",
            2,
            "rules[0].require.metadata.a.b",
            "(it has {name})",
        ),
        ("{group: web, require: {name: x}}", 2, "rules[0].require.name", "unknown key 'name'"),
        ("{group: web, requires: {id: x}}", 2, "rules[0].requires", "unknown key 'requires'"),
    ],
)
def test_mistakes_are_reported_with_their_place(tmp_path: Path, rule: str, line: int, field: str, what: str) -> None:
    with pytest.raises(ChangesetRejectedError) as caught:
        read(tmp_path, f"rules:\n- {rule}\n")
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (line, field)
    assert what in problem.what
