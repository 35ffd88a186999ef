"""A judge with the real Envoy, for the tests of a module."""

from collections.abc import Iterator

import pytest
from support.envoy import envoy_binary

from xds.validation.judge import Judge


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge(envoy_binary())
    yield made
    made.close()
