"""Who asks for the metrics at the same time shares scrapes, each of which is of after it was asked for."""

import asyncio

import pytest
from support.waiting import turns

from xds.api.metrics import SharedScrapes


class Metrics:
    """Metrics that take some turns of the event loop to render. They are the number of the moment they are read at."""

    def __init__(self) -> None:
        self.now = self.rendered = 0
        self.failing = False

    async def render(self) -> bytes:
        self.rendered += 1
        read = self.now
        await turns(5)
        if self.failing:
            raise OSError
        return b"%d" % read


async def test_all_who_wait_share_the_next_scrape() -> None:
    metrics = Metrics()
    scrapes = SharedScrapes(metrics.render)

    async def ask() -> tuple[int, int]:
        asked_at = metrics.now
        return asked_at, int(await scrapes.take())

    first = asyncio.create_task(ask())
    await turns(2)
    metrics.now = 1
    others = [asyncio.create_task(ask()) for _ in range(50)]
    assert await first == (0, 0)
    assert await asyncio.gather(*others) == [(1, 1)] * 50
    assert metrics.rendered == 2
    metrics.now = 2
    assert (await ask(), metrics.rendered) == ((2, 2), 3)


async def test_who_leaves_or_fails_holds_up_no_other() -> None:
    metrics = Metrics()
    scrapes = SharedScrapes(metrics.render)
    asked = [asyncio.create_task(scrapes.take()) for _ in range(3)]
    await turns(2)
    asked[0].cancel()
    metrics.failing = True
    with pytest.raises(OSError):
        await asked[1]
    metrics.failing = False
    assert await asked[2] == b"0"
    assert await scrapes.take() == b"0"
