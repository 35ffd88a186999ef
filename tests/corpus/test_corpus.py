"""Resources written by hand: a real Envoy and the product say the same of each, and have the same value of it."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from corpus import ours, table, values
from corpus.cases import Case, read_cases
from corpus.live import KINDS, Judgement, LiveEnvoy

pytestmark = pytest.mark.envoy

CASES = read_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_good = pytest.mark.parametrize("case", [case for case in CASES if case.is_good], ids=lambda case: case.name)
each_bad = pytest.mark.parametrize("case", [case for case in CASES if not case.is_good], ids=lambda case: case.name)


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judgement]:
    """What a real Envoy says of each case."""

    async def ask(suffix: str, cases: Iterable[Case]) -> dict[str, Judgement]:
        async with LiveEnvoy(tmp_path_factory.mktemp(f"envoy-{suffix}"), suffix) as process:
            await process.wait_live()
            return {case.name: await process.judge(case.kind, case.text) for case in cases}

    async def ask_all() -> dict[str, Judgement]:
        found = [await ask(suffix, [case for case in CASES if case.suffix == suffix]) for suffix in ("yaml", "json")]
        return {name: judgement for each in found for name, judgement in each.items()}

    return asyncio.run(ask_all())


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ours.Verdict]:
    """What the product's reader says of each case."""
    return ours.read(ours.write(tmp_path_factory.mktemp("all") / "dir", CASES), CASES)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What ``xds validate`` says of each case."""
    return ours.problems(tmp_path_factory.mktemp("validated") / "dir", CASES)


@each_case
def test_the_corpus_says_what_envoy_says(case: Case, envoy: dict[str, Judgement]) -> None:
    assert (envoy[case.name].refusal == "") == case.is_good, envoy[case.name].refusal or "Envoy takes it"


@each_good
def test_what_envoy_takes_is_taken(case: Case, problems: dict[str, list[str]]) -> None:
    refused = problems[case.name]
    agrees = bool(refused) == (case.name in table.STRICTER)
    assert agrees, refused or "it is taken: drop it from STRICTER"


@each_bad
def test_what_envoy_refuses_is_refused(case: Case, problems: dict[str, list[str]]) -> None:
    agrees = bool(problems[case.name]) != (case.name in table.ONLY_ENVOY)
    assert agrees, problems[case.name] or "nothing is said of it"


@each_good
def test_a_value_is_what_envoy_has(case: Case, envoy: dict[str, Judgement], read: dict[str, ours.Verdict]) -> None:
    kind = KINDS[case.kind]
    if not kind.dump or case.name in table.STRICTER:
        return  # Envoy does not show it, or there is nothing to compare with
    full_name = kind.full_name
    served = {each.name: values.of_bytes(full_name, ours.body(each)) for each in read[case.name].resources}
    shown = {each["name"]: values.of_dump(full_name, each) for each in envoy[case.name].resources}
    found = [f"{name}: Envoy has it and the product does not" for name in shown.keys() - served.keys()]
    found += [f"{name}: the product has it and Envoy does not" for name in served.keys() - shown.keys()]
    for name in served.keys() & shown.keys():
        found += values.differences(served[name], shown[name])
    places = {text.partition(": ")[0] for text in found}
    assert places == table.VALUES.get(case.name, {}).keys(), "\n".join(found)


def test_the_table_names_cases() -> None:
    named = table.STRICTER.keys() | table.ONLY_ENVOY.keys() | table.VALUES.keys()
    assert named <= {case.name for case in CASES}


def test_cases_have_one_place_for_each_type() -> None:
    assert {case.kind for case in CASES} == KINDS.keys()
    assert len({case.group for case in CASES}) == len(CASES)
    assert all(Path(case.name).name.islower() for case in CASES)
