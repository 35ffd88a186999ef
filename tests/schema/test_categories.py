"""Extensions of a wrong category are refused wherever an extension may stand."""

import json
from typing import Any

import pytest
from support import resources as r
from support.bootstrap import static_bootstrap
from support.envoy import EnvoyProcess

from xds.schema.decode import Findings
from xds.schema.ingest import load_plans
from xds.schema.pool import ANY, Schema, load_schema, packaged_schema
from xds.schema.semantics.categories import CATEGORY_RULES, FIELDS, types_by_category

FILE_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
FILTER = "envoy.extensions.filters.http.router.v3.Router"


def holder_of(place: str, full_name: str) -> Any:
    """Return a message with an extension of this type in a field."""
    schema = load_schema()
    message_name, _, field_name = place.rpartition(".")
    message: Any = schema.message_class(message_name)()
    field = message.DESCRIPTOR.fields_by_name[field_name]
    value = getattr(message, field_name)
    if field.message_type.GetOptions().map_entry:
        extension = value["x"]
    elif field.message_type.full_name == ANY:
        extension = value
    else:
        extension = (value.add() if field.is_repeated else value).typed_config
    extension.type_url = f"type.googleapis.com/{full_name}"
    return message


def findings_of(place: str, full_name: str) -> list[str]:
    message = holder_of(place, full_name)
    found = Findings()
    CATEGORY_RULES[place.rpartition(".")[0]](message, None, found, load_plans())
    return [finding.what for finding in found.problems]


@pytest.mark.parametrize("place", sorted(FIELDS))
def test_an_extension_of_another_category_is_refused_in_every_field(place: str) -> None:
    wrong = FILE_LOG if "envoy.access_loggers" not in FIELDS[place] else FILTER
    (what,) = findings_of(place, wrong)
    assert what.startswith(f"is of type {wrong}, an extension of envoy.")


@pytest.mark.parametrize("place", sorted(FIELDS))
def test_every_extension_of_the_right_category_may_stand_there(place: str) -> None:
    right = sorted(set().union(*(types_by_category()[category] for category in FIELDS[place])))
    assert right, "no such category"
    assert [findings_of(place, full_name) for full_name in right] == [[]] * len(right)


def test_types_without_a_category_pass() -> None:
    place = "envoy.config.accesslog.v3.AccessLog.typed_config"
    assert findings_of(place, "acme.v1.Logger") == []
    assert findings_of(place, "envoy.extensions.filters.http.golang.v3alpha.Config") == [], "of contrib"


@pytest.mark.parametrize("full_name", ["google.protobuf.Struct", "envoy.config.core.v3.Node"])
def test_what_is_no_extension_is_refused(full_name: str) -> None:
    place = "envoy.config.accesslog.v3.AccessLog.typed_config"
    assert findings_of(place, full_name) == [f"is of type {full_name}, which is not an extension"]


def test_with_another_schema_nothing_is_checked() -> None:
    schema = Schema(packaged_schema())
    assert load_schema().is_packaged
    assert not schema.is_packaged


def test_it_is_refused_with_its_place_and_with_what_may_stand_there(rejected) -> None:
    listener = {
        "@type": r.LISTENER,
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{"name": "x", "typed_config": {"@type": r.ROUTER}}]}],
    }
    (problem,) = rejected(listener)
    assert problem.field == "filter_chains[0].filters[0].typed_config"
    assert problem.hint == "only one of envoy.filters.network may stand here"


async def test_the_types_of_each_category_are_those_that_the_real_envoy_reports() -> None:
    async with EnvoyProcess(static_bootstrap()) as envoy:
        await envoy.wait_live()
        node = json.loads((await envoy.admin("/server_info")).text)["node"]
    reported: dict[str, set[str]] = {}
    for extension in node["extensions"]:
        found = {url.rpartition("/")[2] for url in extension.get("type_urls", ())}
        reported.setdefault(extension["category"], set()).update(found)

    assert {category: types for category, types in reported.items() if types} == types_by_category()
