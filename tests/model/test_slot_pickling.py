"""Pickled by slots, instances are equal to what they were, and stay frozen."""

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any

import pytest

from xds.model.groups import Locality, Node
from xds.model.slot_pickling import pickled_by_slots
from xds.protocol.convergence import Debt
from xds.protocol.paging import NodeState, Position
from xds.protocol.status import NodeSummary, TypeSummary

NODE = Node(id="n", locality=Locality(region="eu"), metadata={"a": [1, {"b": None}]}, identity=("dns:a", "cn:b"))
TYPE = TypeSummary(
    type_url="t",
    variant="delta",
    wildcard=True,
    subscribed=1,
    sent=2,
    acked=3,
    unacked=4,
    pending=5,
    nacked=("a",),
    error="odd",
    versions={"a": "1"},
)
SUMMARY = NodeSummary(
    node=NODE,
    group="g",
    revision=7,
    state=NodeState.REJECTED,
    connected_s=None,
    types=(TYPE,),
    debt=Debt(owed=3),
    position=Position("k", "n", "t"),
)


@pytest.mark.parametrize("value", [NODE, NODE.locality, TYPE, SUMMARY, replace(SUMMARY, connected_s=1.5)])
def test_what_was_pickled_is_equal_and_frozen(value: Any) -> None:
    again = pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    assert again == value
    with pytest.raises(FrozenInstanceError):
        setattr(again, fields(again)[0].name, "other")


def test_a_state_of_another_form_is_an_error() -> None:
    @pickled_by_slots
    @dataclass(frozen=True, slots=True)
    class Pair:
        one: int
        other: int

    with pytest.raises(ValueError, match="shorter"):
        Pair(1, 2).__setstate__((1,))  # type: ignore[attr-defined]
