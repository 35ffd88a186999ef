"""Waiting: what is waited for, what is said when it does not come, and that a wait ends."""

import asyncio
import time

import pytest
from support.waiting import NotMetError, stays, turns, wait_until, wait_until_blocking


class Counted:
    """Counts how often it is looked at, at first in vain."""

    def __init__(self, failures: int = 0) -> None:
        self.looks = 0
        self._failures = failures

    def look(self) -> int:
        self.looks += 1
        if self.looks <= self._failures:
            raise ConnectionRefusedError(self.looks)
        return self.looks

    async def ask(self) -> int:
        return self.look()


async def test_what_is_waited_for_is_returned_as_soon_as_it_is_seen():
    assert await wait_until(Counted().look) == 1
    assert await wait_until(Counted().look, equals=3) == 3
    assert await wait_until(Counted().ask, lambda looks: looks > 4) == 5
    assert wait_until_blocking(Counted().look, equals=3) == 3


async def test_a_wait_in_vain_says_what_was_seen_last():
    with pytest.raises(NotMetError, match=r"^not 7 within 0.05 s; last seen: 'six'$"):
        await wait_until(lambda: "six", equals=7, timeout_s=0.05)
    with pytest.raises(NotMetError, match=r"^not as wanted within 0.05 s; last seen: \[\]$"):
        await wait_until(list, timeout_s=0.05)
    with pytest.raises(NotMetError, match=r"^not 7 within 0.05 s; last seen: 'six'$"):
        wait_until_blocking(lambda: "six", equals=7, timeout_s=0.05)
    with pytest.raises(NotMetError) as long:
        await wait_until(lambda: "x" * 10_000, equals="y", timeout_s=0.0)
    assert len(str(long.value)) < 3_000


async def test_errors_that_are_ignored_count_as_not_met_yet_and_others_end_the_wait():
    assert await wait_until(Counted(failures=2).ask, ignoring=OSError) == 3
    with pytest.raises(NotMetError, match=r"last seen: ConnectionRefusedError\("):
        await wait_until(Counted(failures=1_000_000).ask, ignoring=OSError, timeout_s=0.05)
    with pytest.raises(ConnectionRefusedError):
        await wait_until(Counted(failures=1).ask)


async def test_a_look_that_hangs_ends_with_the_wait():
    with pytest.raises(TimeoutError):
        await wait_until(asyncio.Event().wait, timeout_s=0.05)


async def test_what_stays_is_looked_at_all_the_time():
    seen = Counted()
    began = time.monotonic()
    await stays(lambda: bool(seen.look()), equals=True, for_s=0.1)
    assert seen.looks > 3
    assert time.monotonic() - began >= 0.1
    with pytest.raises(AssertionError, match=r"^not True any more after 0\.\d+ s: False$"):
        await stays(lambda: seen.look() < 20, equals=True, for_s=60)


async def test_turns_let_others_run():
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    await turns()
    assert ran == [1]
