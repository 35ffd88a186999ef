"""Type URLs have a short name for operators; those without one have their message's name."""

import pytest

from xds.model.types import CLUSTER, SHORT_NAMES, TYPE_PREFIX, short_name, type_url_of

UNKNOWN = TYPE_PREFIX + "acme.Thing"


@pytest.mark.parametrize(("short", "type_url"), SHORT_NAMES.items())
def test_short_names_and_type_urls_are_one_to_one(short: str, type_url: str) -> None:
    assert type_url_of(short) == type_url
    assert short_name(type_url) == short


def test_a_type_without_a_word_is_known_by_its_message_name() -> None:
    assert short_name(UNKNOWN) == "acme.Thing"
    assert type_url_of("acme.Thing") == UNKNOWN


@pytest.mark.parametrize("type_url", [CLUSTER, UNKNOWN])
def test_a_type_url_stands_for_itself(type_url: str) -> None:
    assert type_url_of(type_url) == type_url


def test_a_known_type_can_be_written_by_its_message_name_too() -> None:
    assert type_url_of("envoy.config.cluster.v3.Cluster") == CLUSTER
