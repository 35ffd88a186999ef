import pytest

from xds.fleet.plan import DEFAULT_TYPES, SubscriptionPlan
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET


def test_types_are_in_an_envoys_order_whatever_the_options_order() -> None:
    plan = SubscriptionPlan.of(
        ["routes", "listeners", "secrets", "endpoints", "clusters"], {"secrets": ["tls"]}, sotw=False
    )
    assert plan.types == (CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET)
    assert plan.wildcard == (True, False, True, False, False)
    assert plan.at_once == (True, True, False, False, False)
    assert plan.source == (None, 0, None, 2, None)


def test_the_default_plan_is_sound() -> None:
    assert SubscriptionPlan.of(DEFAULT_TYPES, {}, sotw=True).types == (CLUSTER, ENDPOINTS, LISTENER, ROUTE)


@pytest.mark.parametrize(
    ("types", "subscribe", "said"),
    [
        ([], {}, "no types"),
        (["clusters"], {"routes": ["r"]}, "not among the types"),
        (["clusters", "routes"], {}, "Listener would give"),
        (["endpoints"], {}, "Cluster would give"),
        (["routes"], {"routes": []}, "has no names"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(types: list[str], subscribe: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SubscriptionPlan.of(types, subscribe, sotw=False)
