"""A call on grpcio while it writes: whatever it is told meanwhile is looked at when that is out."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import aio
from support.waiting import turns, wait_until

from xds.model.identity import ANONYMOUS
from xds.protocol.errors import StreamRefusedError
from xds.protocol.policy import METHODS
from xds.transport import grpcio
from xds.transport.grpcio import _Call

(DELTA_ADS,) = [method for method in METHODS if method.name == "DeltaAggregatedResources"]


class Context:
    """A client that takes each message when it is let."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.let = asyncio.Event()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, message: bytes) -> None:
        await self.let.wait()
        self.written.append(message)


class CancelledContext(Context):
    """A client that cancels while a message is written; that this ended the call is read ``noticed`` only."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = asyncio.Event()

    async def write(self, message: bytes) -> None:
        raise aio.InternalError("Failed execute_batch")

    async def read(self) -> bytes:
        await self.noticed.wait()
        raise asyncio.CancelledError


class Dispatcher:
    """Gives what is put into ``parts``; the stream is settled with each, as one that needs no second look."""

    def __init__(self) -> None:
        self.parts: deque[Any] = deque()
        self.hub = SimpleNamespace(poll_cohort=lambda stream: self._next())
        self.stream = SimpleNamespace(settled=False)
        self.faults: list[Exception] = []

    def close(self, stream: Any, why: str) -> None:
        """Forget a stream."""

    def report_fault(self, error: Exception) -> None:
        self.faults.append(error)

    def open(self, *_: Any, **__: Any) -> Any:
        return self.stream

    def poll(self, stream: Any) -> Any:
        return self._next()

    def _next(self) -> Any:
        self.stream.settled = True
        return self.parts.popleft() if self.parts else None

    def put(self, text: bytes) -> None:
        self.parts.append(SimpleNamespace(message=text))


def other_tasks() -> set["asyncio.Task[Any]"]:
    """Return the tasks beside the test's: a call has one only while it writes."""
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize("begun_by", ["ready", "send_cohort"])
@pytest.mark.parametrize("told_by", ["ready", "send_cohort"])
async def test_what_comes_up_while_a_message_is_written_follows_it(begun_by: str, told_by: str) -> None:
    dispatcher, context = Dispatcher(), Context()
    call = _Call(dispatcher, DELTA_ADS, context, ANONYMOUS, None)  # type: ignore[arg-type]

    def tell(how: str) -> None:
        if how == "ready":
            call.ready()
        else:
            assert call.send_cohort(dispatcher.hub)  # type: ignore[arg-type]

    dispatcher.put(b"1")
    tell(begun_by)
    await turns()
    dispatcher.put(b"2")
    tell(told_by)
    context.let.set()
    await wait_until(lambda: context.written, equals=[b"1", b"2"], poll_s=0)
    await wait_until(other_tasks, equals=set(), poll_s=0)


@pytest.mark.parametrize("is_noticed", [True, False], ids=["the client went away", "the write failed for itself"])
async def test_a_write_that_fails_is_a_fault_only_if_the_client_is_still_there(
    monkeypatch: pytest.MonkeyPatch, is_noticed: bool
) -> None:
    monkeypatch.setattr(grpcio, "GONE_TIMEOUT_S", 60.0 if is_noticed else 0.01)
    dispatcher, context = Dispatcher(), CancelledContext()

    async def handle() -> None:
        call = _Call(dispatcher, DELTA_ADS, context, ANONYMOUS, None)  # type: ignore[arg-type]
        dispatcher.put(b"1")
        call.ready()
        await call.run()

    handler = asyncio.create_task(handle())
    await turns(2)
    if is_noticed:
        context.noticed.set()
    with pytest.raises(asyncio.CancelledError if is_noticed else StreamRefusedError):
        await handler
    assert [str(fault) for fault in dispatcher.faults] == ([] if is_noticed else ["Failed execute_batch"])


async def test_a_carry_of_nothing_has_to_be_told_again() -> None:
    dispatcher, context = Dispatcher(), Context()
    call = _Call(dispatcher, DELTA_ADS, context, ANONYMOUS, None)  # type: ignore[arg-type]
    assert not call.send_cohort(dispatcher.hub)  # type: ignore[arg-type]
    assert other_tasks() == set()
