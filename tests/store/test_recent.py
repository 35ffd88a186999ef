"""The newest entries in memory are bounded in operations and in bytes."""

import pytest

from xds.store import recent
from xds.store.entries import Entry, Key, Stored
from xds.store.recent import RecentEntries


def stored(revision: int, *, size: int = 1, operations: int = 1) -> Stored:
    keys = [Key("g", "t", f"n{number}") for number in range(operations)]
    return Stored(revision, Entry(id=str(revision), operations=dict.fromkeys(keys, b"x" * size)))


def revisions(entries: RecentEntries, after: int = 0, limit: int = 100) -> list[int] | None:
    found = entries.after(after, limit)
    return None if found is None else [each.revision for each in found]


def test_entries_are_returned_as_long_as_all_of_them_are_there() -> None:
    entries = RecentEntries()
    assert (revisions(entries), entries.newest) == (None, 0)
    entries.add(stored(number) for number in (3, 4, 5))
    assert (revisions(entries, 2), revisions(entries, 3, 1), revisions(entries, 5), entries.newest) == (
        [3, 4, 5],
        [4],
        [],
        5,
    )
    assert revisions(entries, 1) is None
    entries.forget(3)
    assert (revisions(entries, 2), revisions(entries, 3)) == (None, [4, 5])
    entries.add([stored(8)])
    assert (revisions(entries, 3), revisions(entries, 7)) == (None, [8])
    entries.clear()
    assert entries.newest == 0


@pytest.mark.parametrize(("size", "operations"), [(1_000, 1), (1, 40)])
def test_older_entries_go_at_a_bound(monkeypatch: pytest.MonkeyPatch, size: int, operations: int) -> None:
    """A thousand changes of a megabyte each would take a gigabyte."""
    monkeypatch.setattr(recent, "BYTES_MAX", 5_000)
    monkeypatch.setattr(recent, "OPERATIONS_MAX", 50)
    entries = RecentEntries()
    for number in range(1, 11):
        entries.add([stored(number, size=size, operations=operations)])
        assert entries._bytes <= 5_000 or len(entries._entries) == 1
    assert revisions(entries, 9) == [10]
    assert revisions(entries, 3) is None
    entries.add([stored(11, size=10_000)])
    assert (revisions(entries, 9), revisions(entries, 10)) == (None, [11])
    entries.forget(11)
    assert entries._bytes == entries._operations == 0
