"""A resource that is shown as JSON or YAML is read back as the same resource."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.model import types
from xds.reporting.escaping import json_text, yaml_text
from xds.schema.ingest import ingest
from xds.schema.show import to_json
from xds.sources.inline import read_text
from xds.sources.yaml_reader import YamlLimits, read_yaml

CLUSTER = {"@type": types.CLUSTER, "name": "a"}

STRUCT_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["y", "0X1F", "1.10", "017", "null", "~", "<<", "2026-01-01", "1e3", "3000000000"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ay", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("ay", max_size=3), STRUCT_VALUES, max_size=4))
def test_shown_struct_comes_back_as_the_same_resource_through_json(value: dict[str, Any]) -> None:
    resource = ingest(CLUSTER | {"metadata": {"filter_metadata": {"m": value}}})
    (back,) = read_text(json_text(to_json(resource)).encode(), file="shown.json")

    assert (back.version, back.encoded) == (resource.version, resource.encoded)


@given(st.dictionaries(st.text("ay", max_size=3), STRUCT_VALUES, max_size=4))
def test_shown_struct_of_text_and_small_numbers_comes_back_through_yaml(value: dict[str, Any]) -> None:
    read = read_yaml(yaml_text(value).encode(), file="x.yaml", limits=YamlLimits()).value  # as YAML can hold it
    resource = ingest(CLUSTER | {"metadata": {"filter_metadata": {"m": read}}})
    (back,) = read_text(yaml_text(to_json(resource)).encode(), file="shown.yaml")

    assert (back.version, back.encoded) == (resource.version, resource.encoded)


@pytest.mark.parametrize(
    "inside",
    [
        {"per_upstream_preconnect_ratio": {"value": "0x1p1"}},
        {"per_upstream_preconnect_ratio": 2},
        {"predictive_preconnect_ratio": "2.50"},
    ],
)
def test_shown_numbers_come_back_as_the_same_resource(inside: dict[str, Any]) -> None:
    resource = ingest(CLUSTER | {"preconnect_policy": inside})
    shown = to_json(resource)

    for text, file in ((json_text(shown), "shown.json"), (yaml_text(shown), "shown.yaml")):
        assert [each.encoded for each in read_text(text.encode(), file=file)] == [resource.encoded]
