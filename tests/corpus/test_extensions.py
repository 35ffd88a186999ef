"""Every extension of every category that a resource can hold, in a resource around it: Envoy and the product agree."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from corpus import descriptors, examples, generated, hosts, ours, table, values
from corpus.cases import Case
from corpus.live import KINDS, Judgement, LiveEnvoy
from support import resources as r

pytestmark = pytest.mark.envoy

AT_ONCE = 40


@dataclass(frozen=True)
class Hosted:
    """A resource with one extension in it."""

    category: str
    full_name: str
    kind: str
    resource: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.category} {self.full_name}"

    @property
    def is_refused(self) -> bool:
        """Whether Envoy can't use the extension, whatever it says."""
        return (
            self.full_name in examples.REFUSED
            or examples.DYNAMIC in self.full_name
            or ".dynamic_modules." in self.full_name
        )

    @property
    def case(self) -> Case:
        full = {"@type": r.TYPE + KINDS[self.kind].full_name, **self.resource}
        return Case(self.key.replace(" ", "-"), self.kind, "json", json.dumps({"resources": [full]}))


def host(category: str, full_name: str, name: str) -> Hosted:
    """Return a resource with an extension: with its example, or with the least that its rules allow."""
    value = examples.EXAMPLES.get(full_name)
    if value is None:
        value = generated.Maker().message(descriptors.message_types()[full_name])
    kind, resource = hosts.HOSTS[category]({"name": name, "typed_config": {"@type": r.TYPE + full_name, **value}})
    return Hosted(
        category, full_name, kind, resource if kind == "routes" else resource | {"name": f"{category} {full_name}"}
    )


@dataclass
class Judged:
    """What Envoy and the product say of all of them, by ``Hosted.key``."""

    extensions: dict[tuple[str, str], str]
    hosted: dict[str, Hosted]
    envoy: dict[str, Judgement]
    misplaced: dict[str, Hosted]
    """A resource for each category with an extension of another one, by category."""
    envoy_on_misplaced: dict[str, Judgement]
    problems_of_misplaced: dict[str, list[str]]
    read: dict[str, ours.Verdict]
    problems: dict[str, list[str]]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    extensions, hosted, envoy, misplaced, envoy_on_misplaced = asyncio.run(_ask_envoy(tmp_path_factory.mktemp("envoy")))
    cases = {key: each.case for key, each in hosted.items()}
    wrong = {category: each.case for category, each in misplaced.items()}
    directory = tmp_path_factory.mktemp("ours") / "dir"
    read = ours.read(ours.write(directory, cases.values()), cases.values())
    problems = ours.problems(directory, [*cases.values(), *wrong.values()])
    return Judged(
        extensions,
        hosted,
        envoy,
        misplaced,
        envoy_on_misplaced,
        {category: problems[case.name] for category, case in wrong.items()},
        {key: read[case.name] for key, case in cases.items()},
        {key: problems[case.name] for key, case in cases.items()},
    )


Asked = tuple[
    dict[tuple[str, str], str], dict[str, Hosted], dict[str, Judgement], dict[str, Hosted], dict[str, Judgement]
]


async def _ask_envoy(directory: Path) -> Asked:
    async with LiveEnvoy(directory, "json") as process:
        await process.wait_live()
        extensions = await process.extensions()
        usable = {at: name for at, name in extensions.items() if at[0] in hosts.HOSTS and at[1] not in examples.CRASHES}
        every = [host(*at, name) for at, name in usable.items()]
        found: dict[str, Judgement] = {}
        for some in _batches(every):
            named = await process.judge_each(some[0].kind, [each.resource for each in some])
            found |= {each.key: named[each.resource["name"]] for each in some}
        misplaced = {category: misplace(category) for category in hosts.HOSTS}
        on_misplaced = {
            category: (await process.judge_each(each.kind, [each.resource]))[each.resource["name"]]
            for category, each in misplaced.items()
        }
        return extensions, {each.key: each for each in every}, found, misplaced, on_misplaced


def misplace(category: str) -> Hosted:
    """Return a resource with an extension of another category than the one that stands there."""
    other = "listener.tls_inspector.v3.TlsInspector" if "filters.http" in category else "http.buffer.v3.Buffer"
    full_name = f"envoy.extensions.filters.{other}"
    value = generated.Maker().message(descriptors.message_types()[full_name])
    extension = {"name": "misplaced", "typed_config": {"@type": r.TYPE + full_name, **value}}
    return Hosted(category, full_name, *hosts.HOSTS[category](extension))


def _batches(every: list[Hosted]) -> Iterator[list[Hosted]]:
    """Yield those that may be asked for together: those that are to be refused, and routes, by themselves."""
    for kind in KINDS:
        alone = [each for each in every if each.kind == kind and (each.is_refused or kind == "routes")]
        yield from ([each] for each in alone)
        together = [each for each in every if each.kind == kind and each not in alone]
        yield from (together[at : at + AT_ONCE] for at in range(0, len(together), AT_ONCE))


def test_every_category_has_its_place(judged: Judged) -> None:
    assert {category for category, _ in judged.extensions} == hosts.HOSTS.keys() | hosts.NOT_IN_RESOURCES.keys()


def test_envoy_takes_every_extension_but_those_that_it_can_not_use(judged: Judged) -> None:
    wrong = {
        key: said.refusal for key, said in judged.envoy.items() if bool(said.refusal) != judged.hosted[key].is_refused
    }
    assert wrong == {}
    known = {full_name for _, full_name in judged.extensions}
    assert examples.EXAMPLES.keys() | examples.REFUSED.keys() | examples.CRASHES.keys() <= known, (
        "these are no extensions"
    )


def test_the_product_takes_every_extension_that_envoy_takes(judged: Judged) -> None:
    assert {key: said for key, said in judged.problems.items() if said and not judged.hosted[key].is_refused} == {}


def test_the_product_serves_the_values_that_envoy_has(judged: Judged) -> None:
    wrong = {}
    for key, hosted in judged.hosted.items():
        if hosted.is_refused or hosted.full_name in examples.NOT_SHOWN:
            continue
        full_name = KINDS[hosted.kind].full_name
        (taken,), (served,) = judged.envoy[key].resources, judged.read[key].resources
        found = values.differences(values.of_bytes(full_name, ours.body(served)), values.of_dump(full_name, taken))
        if places := list(found):
            wrong[key] = places
    assert wrong == {}


def test_an_extension_of_another_category_is_refused_where_envoy_refuses_it(judged: Judged) -> None:
    taken = {category for category, said in judged.envoy_on_misplaced.items() if not said.refusal}
    assert taken == table.ANY_CATEGORY.keys()
    assert {category for category, said in judged.problems_of_misplaced.items() if not said} == taken
