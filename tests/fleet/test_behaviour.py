import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.fleet.behaviour import Behaviour, Mix


@given(st.integers(10, 20_000), st.sampled_from([0.0, 0.01, 0.1, 0.25]), st.sampled_from([0.0, 0.05, 0.1]))
def test_shares_are_met_nearly_exactly_and_evenly(count: int, stuck: float, slow: float) -> None:
    mix = Mix(stuck=stuck, slow=slow, nacking=0.01)
    found = [mix.of(index) for index in range(count)]
    for share, behaviour in ((stuck, Behaviour.STUCK), (slow, Behaviour.SLOW), (0.01, Behaviour.NACKING)):
        assert abs(found.count(behaviour) - share * count) <= 8


def test_shares_above_all_are_refused() -> None:
    with pytest.raises(ValueError, match="also together"):
        Mix(stuck=0.7, slow=0.4)
    with pytest.raises(ValueError, match="0% to 100%"):
        Mix(stuck=-0.1)
