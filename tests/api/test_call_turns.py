"""Calls begin one in each turn of the event loop, over REST and gRPC alike."""

import asyncio
from typing import Any

import grpc
import pytest
from support.waiting import turns

from xds.api import admin, grpc_admission
from xds.api.admission import Admission
from xds.api.call_turns import CallTurns


class Begun:
    """Calls that note the turn of the event loop in which they began."""

    def __init__(self) -> None:
        self.turn = 0
        self.at: list[int] = []
        self.turns = CallTurns()

    async def call(self, connection: str = "many") -> None:
        await self.turns.take(connection)
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


async def test_a_connection_with_many_calls_does_not_hold_up_another() -> None:
    begun = Begun()
    calls = [asyncio.create_task(begun.call()) for _ in range(50)]
    await begun.pass_turns(1)
    other = asyncio.create_task(begun.call("other"))
    await begun.pass_turns(6)
    assert other.done()
    await begun.pass_turns(60)
    await asyncio.gather(*calls)


async def test_each_request_and_each_call_takes_its_turn_and_a_health_check_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []

    async def turn(_: str) -> None:
        taken.append("turn")

    async def app(scope: Any, *_: Any) -> None:
        taken.append(scope["path"])

    monkeypatch.setattr(admin, "turn_to_begin", turn)
    monkeypatch.setattr(grpc_admission, "turn_to_begin", turn)
    for path in ("/healthz", "/readyz", "/v1/groups"):
        await admin.InTurns(app)({"type": "http", "path": path}, None, None)  # type: ignore[arg-type]
    assert taken == ["/healthz", "turn", "/readyz", "turn", "/v1/groups"]
    taken.clear()

    class Context:
        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

    async def answered(*_: Any) -> Any:
        taken.append("call")

    async def streamed(*_: Any) -> Any:
        taken.append("stream")
        yield

    admitting = grpc_admission.GrpcAdmission(None, Admission())  # type: ignore[arg-type]
    one = admitting._counted("Apply", grpc.stream_unary_rpc_method_handler(answered))
    await one.stream_unary(None, Context())
    many = admitting._counted("Watch", grpc.stream_stream_rpc_method_handler(streamed))
    _ = [each async for each in many.stream_stream(None, Context())]
    assert taken == ["turn", "call", "turn", "stream"]
