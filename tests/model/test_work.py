"""Work of a kind is shared by all parts of a change."""

import pytest

from xds.model.work import CostlyError, quick_work, sharing_work, spend


def test_work_that_is_not_shared_has_the_whole_amount_each_time() -> None:
    assert [spend("names", cost, 10) for cost in (10, 10, 11)] == [True, True, False]


def test_shared_work_adds_up_by_kind() -> None:
    with sharing_work():
        assert [spend("names", 4, 10) for _ in range(3)] == [True, True, False]
        assert spend("keys", 10, 10)
        with sharing_work():
            assert not spend("keys", 1, 10), "a block in another is part of it"
    with sharing_work():
        assert spend("names", 10, 10)


def test_costly_work_is_refused_where_it_has_to_be_quick() -> None:
    with quick_work():
        assert spend("keys", 1, 10)
        with pytest.raises(CostlyError):
            spend("keys", 1, 10, is_costly=True)
    with sharing_work():
        assert spend("keys", 1, 10, is_costly=True)
