"""The store that the conformance suite runs on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.makers import MAKERS
from xds.store.entries import Store


@pytest.fixture(params=MAKERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind in turn."""
    made = await MAKERS[request.param](tmp_path)
    yield made
    await made.close()
