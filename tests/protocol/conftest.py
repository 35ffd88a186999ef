"""Worlds, each checked after its test: no stream may have a message to send without being marked as ready."""

from collections.abc import Callable, Generator

import pytest
from support.hubs import DELTA, SOTW, World

from xds.protocol.policy import Variant


@pytest.fixture
def make_world() -> Generator[Callable[..., World]]:
    made: list[World] = []

    def make(**options: object) -> World:
        made.append(World(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        world.check_nothing_unsaid()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(params=[DELTA, SOTW], ids=["delta", "sotw"])
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(params=[False, True], ids=["ads", "per-type"])
def per_type(request: pytest.FixtureRequest) -> bool:
    return request.param
