"""Names that an unknown one may mean, and how much is compared to find them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.build import problems_of, resource, upserts

from xds.model import closest as module
from xds.model.catalog import Catalog
from xds.model.closest import NAME_CHARACTERS_MAX, WORK_MAX, closest, likeness, names_of
from xds.model.resource import Resource
from xds.model.types import CLUSTER, ROUTE
from xds.model.work import sharing_work

MANY = [f"outbound|8080||team-{number:04}.prod.svc.cluster.local" for number in range(2_000)]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters each comparison looked at."""
    characters: list[int] = []

    def counting(one: str, other: str) -> float:
        characters.append(len(other))
        return likeness(one, other)

    monkeypatch.setattr(module, "likeness", counting)
    return characters


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("outbound|8080||team-01234.prod.svc.cluster.local", MANY[1234]),
        ("outbound|8080||team-1234.prod.svc.clster.local", MANY[1234]),
        ("utbound|8080||team-1234.prod.svc.cluster.local", MANY[1234]),
        ("outbound|8080||taem-1234.prod.svc.cluster.local", MANY[1234]),
    ],
)
def test_a_name_that_is_written_wrongly_finds_the_right_one_among_many(written: str, meant: str) -> None:
    random.seed(1)
    assert closest(written, random.sample(MANY, len(MANY))) == [meant]


def test_the_name_itself_is_found_beside_many_longer_ones_that_begin_with_it() -> None:
    names = ["app.Cluster", *(f"app.Cluster.Part{number:04}OfIt" for number in range(200)), "zone.Route"]
    assert closest("app.Clutser", names) == ["app.Cluster"]


def test_nothing_is_found_where_nothing_is_alike_or_a_name_is_very_long() -> None:
    assert closest("xyz", MANY) == []
    assert closest("", ["", "a"]) == []
    assert closest("a", []) == []
    long = "a" * (NAME_CHARACTERS_MAX + 1)
    assert closest(long, [long[1:]]) == closest(long[1:], [long]) == []


def test_of_several_the_most_alike_come_first() -> None:
    assert closest("webs", ["we", "web", "sweb", "other"], count=2) == ["web", "sweb"]


@given(st.text("ab-", max_size=12), st.text("ab-", max_size=12))
def test_the_likeness_is_the_part_that_is_a_common_subsequence(one: str, other: str) -> None:
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for at, a in enumerate(one):
        for to, b in enumerate(other):
            rows[at + 1][to + 1] = rows[at][to] + 1 if a == b else max(rows[at][to + 1], rows[at + 1][to])
    total = len(one) + len(other)
    assert likeness(one, other) == (2 * rows[-1][-1] / total if total else 1.0)


def test_one_search_compares_few_of_many_names(compared: list[int]) -> None:
    assert closest("outbound|8080||team-01234.prod.svc.cluster.local", MANY)
    assert len(compared) <= module.NAMES_COMPARED_MAX


def test_the_searches_of_a_change_share_what_may_be_compared(compared: list[int]) -> None:
    with sharing_work():
        known = names_of(MANY)
        found = [closest(f"outbound|8080||taem-{number:04}.prod.svc.cluster.local", known) for number in range(500)]
    assert found[0] == [MANY[0]]
    assert found[-1] == []
    assert sum(compared) <= WORK_MAX
    assert closest("outbound|8080||taem-0001.prod.svc.cluster.local", MANY) == [MANY[1]]  # the next change has its own


def route_to(cluster: str) -> Resource:
    return resource(f"to {cluster}", type_url=ROUTE, refers_to=[(CLUSTER, cluster, "c")])


def test_the_first_missing_references_of_a_change_have_suggestions_and_the_work_is_bounded(compared: list[int]) -> None:
    catalog = Catalog()
    catalog.apply(upserts(*map(resource, MANY)))
    written = [f"outbound|8080||taem-{number:04}.prod.svc.cluster.local" for number in range(500)]
    problems = problems_of(catalog, upserts(*(route_to(name) for name in written)))
    assert len(problems) == len(written)
    assert all(each.suggests.replace("team", "taem") in each.what for each in problems)
    assert all(each.suggests for each in problems[:10])
    assert not any(each.suggests for each in problems[-10:])
    assert sum(compared) <= WORK_MAX
