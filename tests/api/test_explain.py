"""Why a node has a resource, or not: every reason is told, each that stands in the way with what to do."""

from collections.abc import Mapping

import pytest

from xds.api.explain import HIDDEN_GROUP, Explanation, Facts, Verdict, Why, explain
from xds.model.groups import GroupTable, Node, Patterns, Rule
from xds.model.rules import Placement
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE, RUNTIME, SECRET
from xds.protocol.inspection import How, NackSeen, Standing, Wait, Waiting
from xds.protocol.paging import NodeState
from xds.protocol.status import NodeSummary, Progress

NODE = Node(id="n", cluster="web")
RULES = GroupTable(rules=(Rule(group="web", cluster="web*", region="eu"),))


def summary(group: str = "web") -> NodeSummary:
    return NodeSummary(node=NODE, group=group, revision=3, state=NodeState.ACCEPTED, connected_s=1.0, types=())


def standing(type_url: str = CLUSTER, **fields: object) -> Standing:
    told: dict[str, object] = {
        "type_url": type_url,
        "name": "a",
        "how": How.WILDCARD,
        "sent": "v2",
        "accepted": "v2",
        "wanted": "v2",
        "progress": Progress.ACKED,
    }
    return Standing(**(told | fields))  # type: ignore[arg-type]


def facts(**fields: object) -> Facts:
    told: dict[str, object] = {
        "node_id": "n",
        "type_url": CLUSTER,
        "name": "a",
        "table": RULES,
        "node": NODE,
        "summary": summary(),
        "placement": Placement("web", 1),
        "lineage": ("web", "base"),
        "versions": {"web": "v2"},
        "wanted_at": 7,
        "standing": standing(),
    }
    return Facts(**(told | fields))  # type: ignore[arg-type]


def codes(found: Explanation) -> list[str]:
    return [each.why.name for each in found.steps]


GONE = {"summary": None, "standing": None, "left": "it left at noon"}
METADATA = GroupTable(rules=(Rule(group="web", metadata={"a": "b"}),))
NACK = NackSeen(at_ms=1, type_url=CLUSTER, names=("a",), count=1, message="odd")
CASES: list[tuple[dict[str, object], Verdict, list[str]]] = [
    ({}, Verdict.HAS, ["BY_RULE", "GROUP_HAS", "SUBSCRIBED", "ACCEPTED"]),
    ({"node": None}, Verdict.UNKNOWN, ["NODE_UNKNOWN"]),
    ({"node": None, "missing": ("worker 1",)}, Verdict.UNKNOWN, ["NOT_ALL_ANSWERED", "NODE_UNKNOWN"]),
    (GONE, Verdict.WOULD_GET, ["NODE_GONE", "BY_RULE", "GROUP_HAS"]),
    ({**GONE, "versions": {}}, Verdict.WOULD_LACK, ["NODE_GONE", "BY_RULE", "GROUP_LACKS"]),
    ({**GONE, "table": METADATA}, Verdict.WOULD_GET, ["NODE_GONE", "METADATA_UNKNOWN", "BY_RULE", "GROUP_HAS"]),
    ({**GONE, "is_hidden": True}, Verdict.UNKNOWN, ["NODE_GONE", "HIDDEN"]),
    ({"summary": summary("old"), "is_hidden": True}, Verdict.HAS, ["HIDDEN", "MOVING", "SUBSCRIBED", "ACCEPTED"]),
    ({**GONE, "placement": Placement(None, 1, "refused")}, Verdict.WOULD_LACK, ["NODE_GONE", "REFUSED"]),
    (
        {"placement": Placement("web"), "table": GroupTable()},
        Verdict.HAS,
        ["BY_CLUSTER", *["GROUP_HAS", "SUBSCRIBED", "ACCEPTED"]],
    ),
    (
        {"placement": Placement("default"), "summary": summary("default")},
        Verdict.HAS,
        ["BY_DEFAULT", *["GROUP_HAS", "SUBSCRIBED", "ACCEPTED"]],
    ),
    (
        {"placement": Placement("default"), "summary": summary("default"), "table": GroupTable()},
        Verdict.HAS,
        ["WITHOUT_RULES", *["GROUP_HAS", "SUBSCRIBED", "ACCEPTED"]],
    ),
    ({"summary": summary("old")}, Verdict.HAS, ["BY_RULE", "MOVING", *["GROUP_HAS", "SUBSCRIBED", "ACCEPTED"]]),
    ({"versions": {"base": "v2"}}, Verdict.HAS, ["BY_RULE", "GROUP_INHERITS", "SUBSCRIBED", "ACCEPTED"]),
    (
        {
            "versions": {},
            "elsewhere": ("api",),
            "standing": standing(wanted="", accepted="", sent="", progress=Progress.MISSING),
        },
        Verdict.REMOVED,
        ["BY_RULE", "GROUP_LACKS", "SUBSCRIBED"],
    ),
    (
        {"type_url": SECRET, "gets_secrets": False, "standing": standing(SECRET, wanted="", accepted="", sent="")},
        Verdict.REMOVED,
        ["BY_RULE", "GROUP_HAS", "SECRETS_WITHHELD"],
    ),
    *(
        (
            {"type_url": kind, "standing": standing(kind, how=how, sent="", accepted="")},
            Verdict.LACKS,
            ["BY_RULE", "GROUP_HAS", code],
        )
        for kind in (CLUSTER, ENDPOINTS, ROUTE, SECRET, RUNTIME)
        for how, code in ((How.NO_TYPE, "NO_TYPE"), (How.NOT, "NOT_SUBSCRIBED"))
    ),
    (
        {"standing": standing(how=How.NOT, accepted="v1")},
        Verdict.STILL_HAS,
        ["BY_RULE", "GROUP_HAS", "NOT_SUBSCRIBED", "ACCEPTED_OLDER"],
    ),
    *(
        (
            {"standing": standing(accepted="v1", progress=Progress.HELD, waits=(Waiting(why, ("x",), 3.0),))},
            Verdict.HAS_OTHER,
            ["BY_RULE", "GROUP_HAS", "SUBSCRIBED", "WAITS", "ACCEPTED_OLDER"],
        )
        for why in Wait
    ),
    (
        {
            "lineage": ("web", HIDDEN_GROUP),
            "versions": {HIDDEN_GROUP: "v2"},
            "hides_versions": True,
            "nacks": (NACK,),
            "standing": standing(accepted="v1", waits=(Waiting(Wait.REJECTED),)),
        },
        Verdict.HAS_OTHER,
        ["BY_RULE", "GROUP_INHERITS_HIDDEN", "SUBSCRIBED"],
    ),
    (
        {
            "nacks": (NACK,),
            "standing": standing(accepted="", progress=Progress.NACKED, waits=(Waiting(Wait.REJECTED),)),
        },
        Verdict.LACKS,
        ["BY_RULE", "GROUP_HAS", "SUBSCRIBED", "WAITS", "NACKED", "ACCEPTED_NOTHING"],
    ),
    ({"standing": standing(accepted=None)}, Verdict.LACKS, ["BY_RULE", "GROUP_HAS", "SUBSCRIBED", "ACCEPTED_UNKNOWN"]),
    (
        {
            "versions": {},
            "standing": standing(wanted="", progress=Progress.HELD, waits=(Waiting(Wait.STILL_USED, (f"{ROUTE} r",)),)),
        },
        Verdict.STILL_HAS,
        ["BY_RULE", "GROUP_LACKS", "SUBSCRIBED", "WAITS", "ACCEPTED_OLDER"],
    ),
]


@pytest.mark.parametrize(("changed", "verdict", "steps"), CASES)
def test_each_reason_is_told(changed: Mapping[str, object], verdict: Verdict, steps: list[str]) -> None:
    found = explain(facts(**changed))
    assert (found.verdict, codes(found)) == (verdict, steps)
    for step in found.steps:
        assert step.text
        assert "{" not in step.text + step.do
        assert step.is_well or step.do or step.why.name.startswith("ACCEPTED"), "it says what to do"


def test_every_reason_has_a_case() -> None:
    told = {code for _, _, steps in CASES for code in steps}
    assert told == {why.name for why in Why}
    waits = {
        each.why for changed, _, _ in CASES if isinstance(s := changed.get("standing"), Standing) for each in s.waits
    }
    assert waits == set(Wait)


def test_the_words_name_what_they_are_about() -> None:
    texts = [step.text for step in explain(facts()).steps]
    assert texts[0] == "rule 1 puts it into the group 'web': cluster web*, region eu"
    assert texts[1] == "the group 'web' has it itself, version v2, as of revision 7"
    held = standing(accepted="v1", waits=(Waiting(Wait.STILL_USED, (f"{ROUTE} r",), None),))
    step = next(each for each in explain(facts(standing=held)).steps if each.why is Why.WAITS)
    assert step.text.endswith("still use the cluster (routes/r)")
    others = NackSeen(at_ms=1, type_url=CLUSTER, names=("a",), count=3, message="{odd}")
    rejected = standing(progress=Progress.NACKED, waits=(Waiting(Wait.REJECTED),))
    step = next(each for each in explain(facts(standing=rejected, nacks=(others,))).steps if each.why is Why.NACKED)
    assert step.text == "it rejected it, with 2 others in one response, with: {odd}"
    everything = GroupTable(rules=(Rule(group="web", identity="dns:a", require=Patterns(cluster="x")),))
    assert explain(facts(table=everything)).steps[0].text.endswith("identity dns:a")
