"""Calls begin one in each turn of the event loop, over REST and gRPC alike."""

import asyncio
from typing import Any

import pytest
from grpc import aio
from support.waiting import turns

from xds.api import admin, grpc_admission
from xds.api.call_turns import CallTurns


class Begun:
    """Calls that note the turn of the event loop in which they began."""

    def __init__(self) -> None:
        self.turn = 0
        self.at: list[int] = []
        self.turns = CallTurns(asyncio.get_running_loop())

    async def call(self) -> None:
        await self.turns.take()
        self.at.append(self.turn)

    async def pass_turns(self, count: int) -> None:
        for _ in range(count):
            self.turn += 1
            await turns()


async def test_calls_that_come_at_once_begin_in_turns_that_differ() -> None:
    begun = Begun()
    calls = [asyncio.create_task(begun.call()) for _ in range(20)]
    await begun.pass_turns(3)
    calls[10].cancel()
    await begun.pass_turns(40)
    assert (len(begun.at), len(set(begun.at))) == (19, 19)
    assert begun.at[-1] < 30  # none lets a turn pass
    await begun.call()
    assert begun.at[-1] == begun.turn  # a call that comes by itself does not wait


async def test_each_request_and_each_call_takes_its_turn_and_a_health_check_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []

    async def turn() -> None:
        taken.append("turn")

    async def app(scope: Any, *_: Any) -> None:
        taken.append(scope["path"])

    monkeypatch.setattr(admin, "turn_to_begin", turn)
    monkeypatch.setattr(grpc_admission, "turn_to_begin", turn)
    for path in ("/healthz", "/readyz", "/v1/groups"):
        await admin.InTurns(app)({"type": "http", "path": path}, None, None)  # type: ignore[arg-type]
    assert taken == ["/healthz", "turn", "/readyz", "turn", "/v1/groups"]
    taken.clear()

    async def known(_: Any) -> Any:
        taken.append("call")

    interceptor: aio.ServerInterceptor = grpc_admission.GrpcAdmission(None, None)  # type: ignore[arg-type]
    await interceptor.intercept_service(known, None)
    assert taken == ["turn", "call"]
