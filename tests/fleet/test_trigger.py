import asyncio
import time
from pathlib import Path

import pytest
from fleet.served import http_trigger

from xds.fleet.trigger import TriggerError, trigger_of


async def test_a_url_is_fetched_and_the_time_is_from_before(tmp_path: Path) -> None:
    pushed: list[int] = []

    async def push() -> None:
        pushed.append(time.monotonic_ns())

    async with http_trigger(push) as url:
        trigger = trigger_of(url + "?x=1", None, timeout_s=5)
        assert trigger is not None
        await trigger.prepare()
        started_ns = await trigger.pull()
    assert [started_ns <= at <= time.monotonic_ns() for at in pushed] == [True]


async def test_any_answer_but_2xx_is_a_failure() -> None:
    async def push() -> None:
        pass

    async with http_trigger(push, status="404 Not Found") as url:
        trigger = trigger_of(url, None, timeout_s=5)
        assert trigger is not None
        await trigger.prepare()
        with pytest.raises(TriggerError, match="404 Not Found"):
            await trigger.pull()


async def test_silence_ends_at_the_timeout() -> None:
    release = asyncio.Event()

    async def push() -> None:
        await release.wait()

    async with http_trigger(push) as url:
        trigger = trigger_of(url, None, timeout_s=0.1)
        assert trigger is not None
        await trigger.prepare()
        with pytest.raises(TriggerError, match="did not answer: timed out"):
            await trigger.pull()
        release.set()


async def test_nothing_there_is_a_failure() -> None:
    trigger = trigger_of("http://127.0.0.1:1/push", None, timeout_s=5)
    assert trigger is not None
    with pytest.raises(TriggerError, match="can't be reached"):
        await trigger.prepare()


async def test_a_command_is_run_and_its_failure_told(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    good = trigger_of(None, f"touch {mark}", timeout_s=5)
    bad = trigger_of(None, "echo because >&2; exit 3", timeout_s=5)
    slow = trigger_of(None, "exec cat /dev/zero > /dev/null", timeout_s=0.1)
    assert good is not None
    assert bad is not None
    assert slow is not None
    await good.pull()
    assert mark.exists()
    with pytest.raises(TriggerError, match="exit code 3: because"):
        await bad.pull()
    with pytest.raises(TriggerError, match=r"longer than 0\.1 s"):
        await slow.pull()


@pytest.mark.parametrize("url", ["ftp://x/", "127.0.0.1:1/push", "http://", "http://x:nope/"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL to GET"):
        trigger_of(url, None, timeout_s=1)
