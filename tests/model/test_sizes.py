"""Resources beyond the limit are refused, those that gRPC clients refuse are warned of."""

import pytest
from support.encoded import resource, route

from xds.model.problem import ChangesetRejectedError
from xds.model.sizes import GRPC_BYTES_MAX, check_sizes, large
from xds.model.types import ROUTE


def test_every_resource_beyond_the_limit_is_a_problem() -> None:
    small = route("small", 1)
    size = small.body_end - small.body_start
    big = resource(ROUTE, "big", padding=100)
    check_sizes({"g": [small]}, size)
    with pytest.raises(ChangesetRejectedError) as caught:
        check_sizes({"g": [small, big], "h": [big]}, size)
    assert [(problem.group, problem.resource) for problem in caught.value.problems] == [
        ("g", "routes/big"),
        ("h", "routes/big"),
    ]
    assert f"more than the {size:,} allowed (protocol.resource_bytes_max)" in str(caught.value)


def test_a_resource_that_grpc_clients_refuse_is_warned_of() -> None:
    found = list(large([route("r", 1), resource(ROUTE, "big", padding=GRPC_BYTES_MAX)], "g"))
    assert [(problem.group, problem.resource) for problem in found] == [("g", "routes/big")]
    assert "gRPC clients refuse a message of more than 4 MiB" in found[0].what
