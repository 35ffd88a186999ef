import os
import resource

import pytest

from xds.process import descriptors
from xds.process.descriptors import RESERVE, RESERVE_PER_WORKER, ROOM_MIN, ConnectionRoom, share_room, worker_room

WANTED = ConnectionRoom(xds=100_000, api=1_000, admin=1_000)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch):
    """Set the limit of open files so that it leaves a number for clients: ``limit(100)``."""

    def set_limit(free: int, workers: int = 0) -> None:
        used = len(os.listdir("/proc/self/fd"))
        whole = used + RESERVE + RESERVE_PER_WORKER * workers + free
        monkeypatch.setattr(descriptors, "make_all_room", lambda: whole)

    return set_limit


def test_where_there_is_room_all_ports_have_what_they_want(limit, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(200_000)
    assert share_room(WANTED) == WANTED
    assert share_room(WANTED, workers=2) == WANTED
    monkeypatch.setattr(descriptors, "make_all_room", lambda: resource.RLIM_INFINITY)
    assert share_room(WANTED) == WANTED


def test_what_room_there_is_is_shared_and_the_reserve_is_nobodys(limit) -> None:
    limit(800)
    assert share_room(WANTED) == ConnectionRoom(xds=400, api=200, admin=200)
    assert share_room(ConnectionRoom(100_000, 50, 100)) == ConnectionRoom(xds=650, api=50, admin=100)
    limit(800, workers=2)
    assert share_room(WANTED, workers=2) == ConnectionRoom(xds=100_000, api=400, admin=400)


def test_a_worker_has_its_descriptors_to_itself(limit) -> None:
    limit(800)
    assert worker_room(100_000) == 800
    assert worker_room(100) == 100


def test_without_any_room_ports_still_take_a_few(limit) -> None:
    limit(-50)
    assert share_room(WANTED) == ConnectionRoom(ROOM_MIN, ROOM_MIN, ROOM_MIN)
