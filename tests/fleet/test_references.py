import pytest
from fleet.build import assignment, cluster, listener

from xds.fleet.references import references
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (cluster("a"), ("a",)),
        (cluster("a", service="a-eds"), ("a-eds",)),
        (cluster("a", kind="STRICT_DNS"), ()),
        (cluster("a", file=True), ()),
    ],
)
def test_a_cluster_names_its_assignment_if_that_comes_by_xds(body: bytes, names: tuple[str, ...]) -> None:
    assert references(CLUSTER, body) == names


def test_a_listener_names_the_routes_of_all_its_chains() -> None:
    assert references(LISTENER, listener("l", "r2", "r1", "r2", default="r3")) == ("r1", "r2", "r3")
    assert references(LISTENER, listener("l", api="r4")) == ("r4",)
    assert references(LISTENER, listener("l")) == ()


def test_other_types_name_nothing() -> None:
    assert references(ENDPOINTS, assignment("a")) == ()


def test_a_body_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="cut short"):
        references(CLUSTER, b"\x0a\xff\xff")
