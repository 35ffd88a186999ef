"""Plans are compiled on first use, in any number of threads."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from support import resources as r

from xds.schema.convert import message_from_json
from xds.schema.decode import Findings
from xds.schema.plan import CHECK, Plans
from xds.schema.pool import load_schema

THREADS = 4


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_that_meet_a_type_at_once_find_nothing_wrong_with_what_is_right(hasty_threads: None) -> None:
    message: Any = message_from_json(
        load_schema(), r.static_cluster("a", 1), full_name="envoy.config.cluster.v3.Cluster"
    )
    for _ in range(10):
        plans, together = Plans(load_schema()), Barrier(THREADS)

        def walk(plans: Plans = plans, together: Barrier = together) -> list[Any]:
            copy, found = type(message).FromString(message.SerializeToString()), Findings()
            together.wait()
            plans.canonical(copy, CHECK, None, found)
            return found.problems

        with ThreadPoolExecutor(THREADS) as threads:
            walks = [threads.submit(walk) for _ in range(THREADS)]
            assert [each.result() for each in walks] == [[]] * THREADS
        later = Findings()
        plans.canonical(message, CHECK, None, later)
        assert later.problems == []
