"""A native server that tests share; after each test it must serve as before, without a fault."""

from collections.abc import Iterator

import pytest
from support import resources as r
from support.native_server import MIB, NativeServer, check_sound, secret


@pytest.fixture(scope="session")
def _shared() -> Iterator[NativeServer]:
    resources = [r.static_cluster("a", 1), secret("small", 100), secret("big", MIB)]
    with NativeServer(resources=resources) as server:
        yield server


@pytest.fixture
def server(_shared: NativeServer) -> Iterator[NativeServer]:
    """A server with the default limits: cluster ``a``, secrets ``small`` and ``big`` (1 MiB)."""
    yield _shared
    check_sound(_shared)
