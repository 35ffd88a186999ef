"""Identities, the patterns that match them, and the rules that decide by them."""

import re
import tracemalloc
from collections.abc import Mapping

import pytest

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable, Node, Patterns, Rule
from xds.model.identity import SpiffeId, parse_identity_pattern, parse_spiffe
from xds.model.problem import ChangesetRejectedError
from xds.model.rules import DECISIONS_MAX, Rules
from xds.model.types import SECRET
from xds.schema.ingest import ingest

WEB = ("spiffe://corp/ns/web/sa/front",)
PAYMENTS = ("spiffe://corp/ns/payments/sa/ledger",)
KNOWN: dict[str, None] = dict.fromkeys((DEFAULT_GROUP, "web", "payments"))


def test_a_spiffe_id_has_a_trust_domain_and_a_path() -> None:
    found = parse_spiffe("spiffe://corp.example/ns/Pay_1/sa/a.b")
    assert found == SpiffeId("corp.example", ("ns", "Pay_1", "sa", "a.b"))
    assert str(found) == "spiffe://corp.example/ns/Pay_1/sa/a.b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "corp/ns/web",
        "SPIFFE://corp/web",
        "https://corp/web",
        "spiffe:/corp/web",
        "spiffe://corp",
        "spiffe://corp/",
        "spiffe:///web",
        "spiffe://Corp/web",
        "spiffe://corp:443/web",
        "spiffe://user@corp/web",
        "spiffe://corp/web/",
        "spiffe://corp//web",
        "spiffe://corp/./web",
        "spiffe://corp/../web",
        "spiffe://corp/web?x=1",
        "spiffe://corp/web#x",
        "spiffe://corp/we%62",
        "spiffe://corp/wéb",
        "spiffe://corp/web\0",
        "spiffe://corp/web\n",
        "spiffe://corp/we b",
        f"spiffe://{'c' * 256}/web",
        f"spiffe://corp/{'w' * 2048}",
    ],
)
def test_what_is_no_workloads_spiffe_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_spiffe(text)


@pytest.mark.parametrize(
    ("pattern", "name", "captured"),
    [
        ("*", "cn:x", {}),
        ("spiffe://corp/ns/web/sa/front", WEB[0], {}),
        ("spiffe://corp/ns/*/sa/*", WEB[0], {}),
        ("spiffe://corp/ns/{ns}/sa/{sa}", WEB[0], {"ns": "web", "sa": "front"}),
        ("spiffe://corp/ns/{ns}/**", WEB[0], {"ns": "web"}),
        ("spiffe://corp/**", WEB[0], {}),
        ("dns:*.corp", "dns:web.corp", {}),
        ("dns:{host}.corp", "dns:web.corp", {"host": "web"}),
        ("dns:**.corp", "dns:a.web.corp", {}),
        ("dns:WEB.corp", "dns:web.corp", {}),
        ("cn:web", "cn:web", {}),
        ("cn:*", "cn:any/thing at all", {}),
        ("jwt:cluster/system:serviceaccount:{ns}:*", "jwt:cluster/system:serviceaccount:web:front", {"ns": "web"}),
        ("jwt:corp/**", "jwt:corp/a/b:c", {}),
    ],
)
def test_patterns_match_whole_segments(pattern: str, name: str, captured: Mapping[str, str]) -> None:
    assert parse_identity_pattern(pattern).match((name,)) == captured
    assert name.startswith(parse_identity_pattern(pattern).literal)


@pytest.mark.parametrize("pattern", ["cn:{name}", "jwt:corp/{a}/{b}", "jwt:corp/{name}:x", "dns:{host}.corp"])
@pytest.mark.parametrize("said", ["{name}", "{a}", "{b}", "{host}", "*", "**", "{}", "{name"])
def test_a_name_in_the_words_of_patterns_is_captured_as_it_is(pattern: str, said: str) -> None:
    parsed = parse_identity_pattern(pattern)
    name = re.sub(r"\{\w+\}", lambda _: said, pattern)
    assert parsed.match((name,)) == dict.fromkeys(parsed.placeholders, said)
    wanted = "-".join(f"{{{each}}}" for each in parsed.placeholders)
    rule = Rule(group="web", identity=pattern, require=Patterns(id=wanted))
    assert place(Node(id="elsewhere", identity=(name,)), rule)[0] is None
    assert place(Node(id="-".join(said for _ in parsed.placeholders), identity=(name,)), rule) == ("web", "")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("spiffe://corp/ns/web", WEB[0]),
        ("spiffe://corp/ns/*", WEB[0]),
        ("spiffe://corp/ns/web/sa/front/**", WEB[0]),
        ("spiffe://corp/**", "spiffe://corp.evil/ns/web"),
        ("spiffe://corp/ns/web/**", "spiffe://corp/ns/web2/sa/front"),
        ("spiffe://corp/ns/web/**", "spiffe://corp/ns/web"),
        ("dns:*.corp", "dns:corp"),
        ("dns:*.corp", "dns:a.b.corp"),
        ("dns:*.corp", "dns:web.corp.evil"),
        ("dns:**.corp", "dns:corp"),
        ("dns:**.corp", "dns:evilcorp"),
        ("dns:web", "cn:web"),
        ("cn:web", "cn:Web"),
        ("cn:web", "dns:web"),
        ("jwt:corp/**", "jwt:corp2/x"),
        ("jwt:c/a:b", "jwt:c/a/b"),
    ],
)
def test_patterns_do_not_match_what_only_looks_alike(pattern: str, name: str) -> None:
    assert parse_identity_pattern(pattern).match((name,)) is None
    assert parse_identity_pattern(pattern).match(()) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "web",
        "spiffe://",
        "spiffe://corp",
        "spiffe://*/web",
        "spiffe://{domain}/web",
        "spiffe://corp/we*",
        "spiffe://corp/**/web",
        "spiffe://corp/web/",
        "spiffe://corp//web",
        "spiffe://corp/{a}/{a}",
        "spiffe://corp/{A}",
        "spiffe://Corp/web",
        "spiffe://corp/w?b",
        "dns:",
        "dns:a..corp",
        "dns:a*.corp",
        "dns:wéb.corp",
        "cn:",
        "jwt:*/x",
        "uri:https://x",
        f"cn:{'x' * 5000}",
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_identity_pattern(pattern)


# --- Rules -----------------------------------------------------------------------------------------------------------


def place(node: Node, *rules: Rule, deny: bool = False) -> tuple[str | None, str]:
    found = Rules(GroupTable(rules=rules, deny_unmatched=deny)).place(node, KNOWN)
    return found.group, found.refusal


BY_IDENTITY = (
    Rule(group="payments", identity="spiffe://corp/ns/payments/**"),
    Rule(group="web", identity="spiffe://corp/ns/web/**"),
)


def test_rules_go_by_the_identity_whatever_the_node_says() -> None:
    assert place(Node(id="payments-1", cluster="payments", identity=WEB), *BY_IDENTITY) == ("web", "")
    assert place(Node(id="web-1", identity=PAYMENTS), *BY_IDENTITY) == ("payments", "")
    assert place(Node(id="payments-1"), *BY_IDENTITY) == (DEFAULT_GROUP, "")
    assert place(Node(id="payments-1"), *BY_IDENTITY, deny=True)[0] is None


def test_a_node_that_claims_the_place_of_another_identity_is_refused_with_both_names() -> None:
    rules = (
        Rule(group="payments", id="payments-*", identity="spiffe://corp/ns/payments/**"),
        Rule(group="web", id="web-*", identity="spiffe://corp/ns/web/**"),
    )
    group, why = place(Node(id="payments-1", identity=WEB), *rules)
    assert group is None
    assert "'payments-1'" in why
    assert WEB[0] in why
    assert "rule 1" in why
    group, why = place(Node(id="payments-1"), *rules)
    assert group is None
    assert "without an identity" in why
    assert place(Node(id="payments-1", identity=PAYMENTS), *rules) == ("payments", "")
    assert place(Node(id="other"), *rules) == (DEFAULT_GROUP, "")


def test_what_a_rule_requires_must_agree_with_the_identity() -> None:
    rule = Rule(
        group="web",
        identity="spiffe://corp/ns/{ns}/sa/{sa}",
        require=Patterns(id="{sa}-*", metadata={"labels.namespace": "{ns}"}),
    )
    good = {"labels": {"namespace": "web"}}
    assert place(Node(id="front-1", metadata=good, identity=WEB), rule) == ("web", "")
    for node, lacking in (
        (Node(id="back-1", metadata=good, identity=WEB), "another id"),
        (Node(id="front-1", identity=WEB), "another metadata labels.namespace"),
        (Node(id="front-1", metadata={"labels": {"namespace": "payments"}}, identity=WEB), "another metadata"),
    ):
        group, why = place(node, rule, Rule(group="payments"))
        assert group is None
        assert lacking in why


def test_a_rule_may_require_an_identity() -> None:
    rule = Rule(group="payments", id="payments-*", require=Patterns(identity="spiffe://corp/ns/payments/**"))
    assert place(Node(id="payments-1", identity=PAYMENTS), rule) == ("payments", "")
    assert place(Node(id="payments-1", identity=WEB), rule)[0] is None
    assert place(Node(id="payments-1"), rule)[0] is None


def test_characters_of_globs_in_a_captured_segment_stand_for_themselves() -> None:
    rule = Rule(group="web", identity="cn:{name}", require=Patterns(id="{name}"))
    assert place(Node(id="anything", identity=("cn:*",)), rule)[0] is None
    assert place(Node(id="*", identity=("cn:*",)), rule)[0] == "web"
    assert place(Node(id="a", identity=("cn:[ab]",)), rule)[0] is None
    assert place(Node(id="[ab]", identity=("cn:[ab]",)), rule)[0] == "web"


def test_any_name_of_an_identity_may_match() -> None:
    rule = Rule(group="web", identity="dns:web.corp")
    assert place(Node(id="n", identity=("dns:other.corp", "dns:web.corp")), rule)[0] == "web"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule(group="web", identity="spiffe://corp/we*"), "rule 2: 'we*'"),
        (Rule(group="web", require=Patterns(identity="nobody")), "rule 2: an identity begins with"),
        (Rule(group="web", require=Patterns(id="{sa}-*")), "rule 2: {sa} is no segment"),
    ],
)
def test_rules_that_can_not_be_read_are_refused_with_their_number(rule: Rule, why: str) -> None:
    catalog = Catalog()
    with pytest.raises(ChangesetRejectedError) as caught:
        catalog.apply(Changeset(groups=GroupTable(rules=(Rule(group="web"), rule))))
    assert why in caught.value.problems[0].what
    assert catalog.table == GroupTable()


def test_of_several_places_that_a_node_claims_the_first_is_named() -> None:
    rules = tuple(Rule(group="web", id="w*", identity=f"cn:{name}") for name in ("a", "b"))
    assert "rule 1 " in place(Node(id="web", identity=("cn:c",)), *rules)[1]
    assert place(Node(id="web", identity=("cn:b",)), *rules) == ("web", "")


def test_the_catalog_says_whether_its_rules_look_at_identities_and_which_groups_have_a_type() -> None:
    catalog = Catalog()
    assert not catalog.rules_use_identities
    made = ingest({"name": "key", "generic_secret": {"secret": {"inline_string": "x"}}}, type_url=SECRET)
    catalog.apply(Changeset(upserts={"web": (made,), "empty": ()}))
    assert catalog.groups_with(SECRET) == ["web"]
    catalog.apply(Changeset(groups=GroupTable(rules=(Rule(group="web", identity="cn:a"),))))
    assert catalog.rules_use_identities
    assert catalog.place(Node(id="n", identity=("cn:a",))).rule == 1


# --- Compiled rules decide as the rules say --------------------------------------------------------------------------


def test_many_rules_are_decided_in_order_whichever_part_they_look_at() -> None:
    rules = [Rule(group="web", id=f"app-{at}-*", cluster="c?") for at in range(500)]
    rules += [Rule(group="payments", metadata={"stage": f"*-{at}"}) for at in range(500)]
    rules += [Rule(group="web", identity=f"spiffe://corp/ns/n{at}/**") for at in range(500)]
    compiled = Rules(GroupTable(rules=tuple(rules), deny_unmatched=True))
    assert compiled.place(Node(id="app-7-x", cluster="c1"), KNOWN)[:2] == ("web", 8)
    assert compiled.place(Node(id="app-77-x", cluster="d1"), KNOWN).group is None
    assert compiled.place(Node(id="app-7-x", cluster="d1", metadata={"stage": "x-9"}), KNOWN)[:2] == ("payments", 510)
    assert compiled.place(Node(id="x", identity=("spiffe://corp/ns/n33/a",)), KNOWN)[:2] == ("web", 1034)
    assert compiled.place(Node(id="app-7-x", cluster="c1", metadata={"stage": "x-9"}), KNOWN)[:2] == ("web", 8)


def test_remembered_decisions_are_bounded_and_apart() -> None:
    compiled = Rules(GroupTable(rules=(Rule(group="web", id="w*"),), deny_unmatched=True))
    for at in range(DECISIONS_MAX + 10):
        assert compiled.place(Node(id=f"w{at}"), KNOWN).group == "web"
        assert compiled.place(Node(id=f"x{at}"), KNOWN).refusal == f"no group takes node 'x{at}'"


def test_what_clients_say_at_length_is_not_remembered() -> None:
    """A client may send 64 KB of id and metadata: thousands of such nodes must not fill the memory."""
    compiled = Rules(GroupTable(rules=(Rule(group="web", id="w*", metadata={"stage": "*"}),), deny_unmatched=True))
    tracemalloc.start()
    for at in range(200):
        long = Node(id=f"w{at}" + "x" * 30_000, metadata={"stage": "y" * 30_000 + str(at)})
        assert compiled.place(long, KNOWN).group == "web"
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 1_000_000


def test_a_refusal_names_only_some_of_many_names() -> None:
    names = tuple(f"dns:host-{at}.corp" for at in range(100))
    why = place(Node(id="web", identity=names), Rule(group="web", id="w*", identity="cn:a"))[1]
    assert "host-4.corp, …" in why
    assert "host-5" not in why
