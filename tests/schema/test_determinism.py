"""Equal content has equal bytes, in any process, with any order of keys and of fields on the wire."""

import json
import os
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.model import types
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema

PREFIX = types.TYPE_PREFIX
KEYS = [f"key-{number}" for number in range(16)]

PROGRAM = """
import json, sys
from xds.schema.ingest import ingest
resource = ingest(json.loads(sys.argv[1]))
print(resource.version, resource.encoded.hex())
"""


def cluster(keys: list[str]) -> dict[str, Any]:
    """A cluster with a map, a map in a typed config, and a map in a typed config within that."""
    struct = {"@type": PREFIX + "xds.type.v3.TypedStruct", "value": {key: {key: 1} for key in keys}}
    metadata = {
        "@type": PREFIX + "envoy.config.core.v3.Metadata",
        "typed_filter_metadata": dict.fromkeys(keys, struct),
    }
    return {
        "@type": types.CLUSTER,
        "name": "web",
        "metadata": {
            "filter_metadata": {key: {key: key} for key in keys},
            "typed_filter_metadata": dict.fromkeys(keys[:4], metadata),
        },
    }


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_version_is_the_same_in_every_process(hash_seed: str) -> None:
    expected = ingest(cluster(KEYS))
    # the same four keys in the inner map, all else in reverse order
    value = cluster(KEYS[3::-1] + KEYS[:3:-1])
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", PROGRAM, json.dumps(value)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == [expected.version, expected.encoded.hex()]


@given(st.permutations(KEYS[:6]), st.permutations(["name", "metadata", "@type"]))
def test_order_of_keys_does_not_matter(keys: list[str], top: list[str]) -> None:
    metadata = {key: {key: key} for key in keys}
    value = {"@type": types.CLUSTER, "name": "web", "metadata": {"filter_metadata": metadata}}

    straight = {key: {key: key} for key in KEYS[:6]}
    expected = ingest({"@type": types.CLUSTER, "name": "web", "metadata": {"filter_metadata": straight}})
    assert ingest({key: value[key] for key in top}).encoded == expected.encoded


def test_order_on_the_wire_does_not_matter() -> None:
    message: Any = load_schema().message_class("envoy.config.cluster.v3.Cluster")()
    keys = list(KEYS)
    encodings = set()
    for seed in range(5):
        random.Random(seed).shuffle(keys)
        message.Clear()
        message.name = "web"
        for key in keys:
            message.metadata.filter_metadata[key].update({key: key})
        encodings.add(ingest((types.CLUSTER, message.SerializeToString())).encoded)

    assert len(encodings) == 1


def test_resource_read_back_is_the_same_resource() -> None:
    resource = ingest(cluster(KEYS))
    holder: Any = load_schema().message_class("google.protobuf.Any").FromString(resource.body)

    assert ingest(holder).encoded == resource.encoded
