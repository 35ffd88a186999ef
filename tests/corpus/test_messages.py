"""A value of every message type that Envoy has, in JSON and in YAML: the product serves what Envoy reads.

The messages stand in a cluster's typed metadata, which Envoy parses and shows but does not use, so no value has to make
sense. What its rules say of each field is obeyed, since the product checks that everywhere.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from corpus import descriptors, generated, ours, values
from corpus.cases import Case
from corpus.live import KINDS, LiveEnvoy
from support import resources as r

pytestmark = pytest.mark.envoy

AT_ONCE = 100
SEEDS = int(os.environ.get("XDS_CORPUS_SEEDS", "1"))
"""How many values are made of each type: the first with all fields of two levels, others with fields by chance."""
CLUSTER = KINDS["clusters"].full_name
WRITERS = {"json": json.dumps, "yaml": yaml.safe_dump}


def made(seed: int) -> list[dict[str, Any]]:
    """Return a cluster for each message type, with a value of the type in its metadata."""
    maker = generated.Maker(seed, full=1.0, depth=2) if seed == 0 else generated.Maker(seed, full=0.4, depth=4)
    found = []
    for full_name, descriptor in descriptors.message_types().items():
        if full_name.startswith(("envoy.", "xds.", "udpa.")):
            value = {"@type": r.TYPE + full_name, **maker.message(descriptor)}
            metadata = {"typed_filter_metadata": {"value": value}}
            found.append({"@type": r.TYPE + CLUSTER, "name": full_name, "metadata": metadata})
    return found


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_product_serves_the_value_that_envoy_reads(seed: int, suffix: str, tmp_path: Path) -> None:
    every = made(seed)
    batches = [every[at : at + AT_ONCE] for at in range(0, len(every), AT_ONCE)]
    texts = [WRITERS[suffix]({"resources": some}) for some in batches]
    cases = [Case(f"batch-{index}", "clusters", suffix, text) for index, text in enumerate(texts)]

    async def ask() -> dict[str, Any]:
        async with LiveEnvoy(tmp_path, suffix) as process:
            await process.wait_live()
            said = [await process.judge("clusters", text) for text in texts]
        assert [each.refusal for each in said if each.refusal] == []
        return {each["name"]: each for judgement in said for each in judgement.resources}

    theirs = asyncio.run(ask())
    read = ours.read(ours.write(tmp_path / "ours", cases), cases)
    assert [problem for verdict in read.values() for problem in verdict.problems] == []
    served = {each.name: ours.body(each) for verdict in read.values() for each in verdict.resources}
    assert served.keys() == theirs.keys() == {each["name"] for each in every}
    found = {
        name: list(values.differences(values.of_bytes(CLUSTER, served[name]), values.of_dump(CLUSTER, theirs[name])))
        for name in served
    }
    assert {name: places for name, places in found.items() if places} == {}
