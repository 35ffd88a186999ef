"""A gate judges what changes lead to: what it refuses is not committed, and nothing else is lost."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs
from support import resources as r

from xds.model.catalog import Catalog
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import CLUSTER
from xds.publishing.changes import Change, Published
from xds.publishing.publisher import Publisher
from xds.schema.ingest import ingest
from xds.store.memory import MemoryStore


@dataclass
class Said:
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass
class FakeGate:
    """Refuses groups with a cluster whose name begins with ``bad``, and warns of ``odd``."""

    refuses: bool
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def __call__(self, groups: Mapping[str, Snapshot]) -> Said:
        names = {group: sorted(each.name for each in snapshot.resources()) for group, snapshot in groups.items()}
        self.asked.append(names)
        every = [(group, name) for group, known in names.items() for name in known]
        return Said(
            tuple(Problem(what="is bad", group=group, resource=name) for group, name in every if name[:3] == "bad"),
            tuple(Problem(what="is odd", group=group, resource=name) for group, name in every if name[:3] == "odd"),
        )


class Scene:
    def __init__(self, *, refuses: bool) -> None:
        self.gate = FakeGate(refuses)
        self.served = Catalog()
        self.publisher = Publisher(
            MemoryStore(), self.served, lambda change, at: self.served.apply(change, revision=at), gate=self.gate
        )

    async def __aenter__(self) -> "Scene":
        await self.publisher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.publisher.stop()

    async def publish(self, *names: str, group: str = "default", **more: object) -> Published:
        return await self.publisher.publish(Change(upserts={group: tuple(map(cluster, names))}, **more))  # type: ignore[arg-type]

    async def set_together(self, *names: str, **more: object) -> list[Published | BaseException]:
        return await asyncio.gather(*(self.publish(name, **more) for name in names), return_exceptions=True)

    @property
    def names(self) -> set[str]:
        return set(self.served.snapshots["default"].view(CLUSTER))


def cluster(name: str) -> Resource:
    return ingest(r.static_cluster(name, 1))


async def test_what_a_gate_refuses_is_not_kept_and_all_its_problems_are_told() -> None:
    async with Scene(refuses=True) as at:
        await at.publish("a")
        with pytest.raises(ChangesetRejectedError) as caught:
            await at.publish("bad1", "b", "bad2")
        assert [problem.resource for problem in caught.value.problems] == ["bad1", "bad2"]
        assert at.names == {"a"}
        assert (await at.publish("c")).revision == 2
        assert at.gate.asked[-1] == {"default": ["a", "c"]}


@pytest.mark.parametrize("mergeable", [True, False])
async def test_of_changes_at_once_only_the_faulty_are_refused(mergeable: bool) -> None:
    async with Scene(refuses=True) as at:
        found = await at.set_together("a", "bad1", "b", "bad2", "c", mergeable=mergeable)
        refused = [isinstance(each, ChangesetRejectedError) for each in found]
        assert refused == [False, True, False, True, False]
        assert at.names == {"a", "b", "c"}


async def test_with_warnings_only_a_change_is_kept_and_answered_with_them() -> None:
    async with Scene(refuses=False) as at:
        with capture_logs() as logs:
            published = await at.publish("bad", "odd")
        assert [each.what for each in published.warnings] == ["is bad", "is odd"]
        assert at.names == {"bad", "odd"}
        assert [each["problem"] for each in logs] == ["[default] bad: is bad"]


async def test_a_dry_run_is_judged_and_changes_nothing() -> None:
    async with Scene(refuses=True) as at:
        with pytest.raises(ChangesetRejectedError):
            await at.publish("bad", dry_run=True)
        assert [each.what for each in (await at.publish("odd", dry_run=True)).warnings] == ["is odd"]
        assert at.names == set()
        assert (await at.publish("a")).revision == 1


async def test_groups_that_extend_the_changed_one_are_judged_too() -> None:
    async with Scene(refuses=True) as at:
        await at.publish("a", group="base")
        await at.publish("b", group="other")
        assert [sorted(each) for each in at.gate.asked] == [["base"], ["other"]]


async def test_a_change_without_effect_is_not_judged() -> None:
    async with Scene(refuses=True) as at:
        await at.publish("a")
        count = len(at.gate.asked)
        await at.publish("a")
        assert len(at.gate.asked) == count
