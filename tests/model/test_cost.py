"""The cost of a change depends on what changed, not on how much is served: measured by counting calls."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from model.build import CLUSTER, ENDPOINTS, catalog, resource, upserts

from xds.model.catalog import Catalog
from xds.model.groups import GroupTable
from xds.model.resource import Resource
from xds.model.view import may_differ

FEW, MANY = 10, 1_000


def calls(work: Callable[[], object]) -> int:
    """Return how often Python functions are entered, and generators resumed, while ``work`` runs."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    gc.disable()  # Hypothesis hooks into it
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


def clusters(count: int) -> list[Resource]:
    """Return clusters and the endpoints that each of them refers to."""
    made = []
    for name in map("r{}".format, range(count)):
        made += [resource(name, refers_to=[(ENDPOINTS, name)]), resource(name, type_url=ENDPOINTS)]
    return made


def flat(count: int) -> Catalog:
    """Return a catalog of one group."""
    return catalog({"default": clusters(count)})


def layered(count: int) -> Catalog:
    """Return a catalog whose group ``default`` has one resource of its own and extends ``base``."""
    overlay = [resource("r1", "overlay"), resource("r1", "overlay", type_url=ENDPOINTS)]
    return catalog({"base": clusters(count), "default": overlay}, table=GroupTable(extends={"default": "base"}))


cases = [(flat, "default"), pytest.param(layered, "default")]


@pytest.mark.parametrize(("make", "group"), [*cases, pytest.param(layered, "base")])
def test_applying_a_change_of_one_resource(make: Callable[[int], Catalog], group: str) -> None:
    change = upserts(resource("r7", "new", type_url=ENDPOINTS), group=group)
    few, many = make(FEW), make(MANY)
    assert calls(lambda: few.apply(change)) == calls(lambda: many.apply(change))


@pytest.mark.parametrize(("make", "group"), cases)
def test_asking_a_snapshot_for_a_view(make: Callable[[int], Catalog], group: str) -> None:
    few, many = make(FEW).snapshots[group], make(MANY).snapshots[group]
    assert calls(lambda: few.view(CLUSTER)) == calls(lambda: many.view(CLUSTER))


@pytest.mark.parametrize("make", [flat, layered])
def test_comparing_two_views(make: Callable[[int], Catalog]) -> None:
    served = make(MANY)
    old = served.snapshots["default"].view(CLUSTER)
    served.apply(upserts(resource("r7", "new"), resource("r8", "new")))
    assert sorted(may_differ(old, served.snapshots["default"].view(CLUSTER))) == ["r7", "r8"]
