"""Push assignments on one stream; those that are queued are sent together."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from xds._generated import snapshots_pb2 as pb
from xds.client.errors import ClientError, OutcomeUnknownError, RejectedError, error_of, maybe_made, problems_of

TOGETHER_MAX = 200
"""Maximum assignments per message."""
WAITING_MAX = 5_000
UNANSWERED_MAX = 2
"""Maximum unanswered messages; assignments pushed meanwhile are sent with the next one. A single push need not wait."""

Waiting = tuple[AnyMessage, "asyncio.Future[int]"]


class EndpointStream:
    """One stream of pushes. Messages are answered in order.

    The server rejects a message as a whole. Its assignments are then sent again one by one, so that only the invalid
    ones fail.
    """

    def __init__(self, call: Any, group: str) -> None:
        self._call = call
        self._group = group
        self._waiting: deque[Waiting] = deque()
        self._sent: deque[list[Waiting]] = deque()
        self._answered = 0
        self._again: deque[Waiting] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._finishing = False
        self._broken: Exception | None = None
        self._writing = asyncio.create_task(self._until_broken(self._write()))
        self._reading = asyncio.create_task(self._until_broken(self._read()))

    async def push(self, assignment: AnyMessage) -> "asyncio.Future[int]":
        """Queue an assignment; return the future of its revision. Waits while ``WAITING_MAX`` are queued.

        Once the stream is broken, raises ClientError: OutcomeUnknownError if the outcome of earlier pushes is unknown.
        The returned future raises OutcomeUnknownError only if the outcome of its own push is.
        """
        await self._room.wait()
        if self._broken is not None:
            raise self._broken
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((assignment, future))
        if len(self._waiting) >= WAITING_MAX:
            self._room.clear()
        self._news.set()
        return future

    async def finish(self) -> None:
        """Wait until all pushed assignments are answered."""
        self._finishing = True
        self._news.set()
        await self._writing
        await self._reading
        if self._broken is not None:
            raise self._broken

    async def _until_broken(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the reader or the writer; if the stream breaks, fail all pending pushes."""
        try:
            await work
        except Exception as error:
            if isinstance(error, asyncio.InvalidStateError | aio.InternalError):  # the call has ended
                error = await self._status()
            if self._broken is None:
                self._break(error)

    async def _status(self) -> aio.AioRpcError:
        call = self._call
        return aio.AioRpcError(await call.code(), aio.Metadata(), await call.trailing_metadata(), await call.details())

    def _break(self, error: Exception) -> None:
        """Fail unanswered pushes: with OutcomeUnknownError those that may have been set, with the error the others."""
        cause = error_of(error) if isinstance(error, aio.AioRpcError) else error
        open_messages = maybe_made(error, sent=len(self._sent), answered=self._answered)
        unknown = [self._sent.popleft() for _ in range(open_messages)]
        self._broken = cause
        if unknown:
            what = f"the stream of pushes broke; {sum(map(len, unknown))} assignments may have been set, or not"
            self._broken = OutcomeUnknownError(f"{what}: push them again ({cause})", "")
        _fail([each for sent in unknown for each in sent], self._broken)
        self._answer_all(cause)

    def _answer_all(self, error: Exception | None) -> None:
        """Fail all unanswered pushes with an error, or cancel them without one."""
        waiting = [*self._waiting, *self._again, *(each for sent in self._sent for each in sent)]
        for pile in (self._waiting, self._again, self._sent):
            pile.clear()
        _fail(waiting, error)
        self._room.set()
        self._news.set()

    def close(self) -> None:
        """End the stream, and cancel unanswered pushes."""
        self._writing.cancel()
        self._reading.cancel()
        self._call.cancel()
        self._broken = self._broken or ClientError("the stream of pushes was closed")
        self._answer_all(None)

    async def _write(self) -> None:
        while True:
            if self._broken is not None:
                return
            is_idle = not self._waiting and not self._again
            if is_idle and self._finishing and not self._sent:
                await self._call.done_writing()
                return
            if is_idle or len(self._sent) >= UNANSWERED_MAX:
                self._news.clear()
                await self._news.wait()
                continue
            if self._again:
                together = [self._again.popleft()]
            else:
                count = min(len(self._waiting), TOGETHER_MAX)
                together = [self._waiting.popleft() for _ in range(count)]
                self._room.set()
            self._sent.append(together)
            await self._send(pb.EndpointsPush(group=self._group, endpoints=[each for each, _ in together]))

    async def _send(self, push: pb.EndpointsPush) -> None:
        """Write a message. Raises InternalError or InvalidStateError if the call has ended: its status says why.

        gRPC's own ``write`` puts INTERNAL in place of the server's status if the call ends while the message is sent
        (https://github.com/grpc/grpc/issues/36066). A call that has interceptors has only that ``write``.
        """
        if self._call.done():
            raise asyncio.InvalidStateError
        bare = getattr(self._call, "_cython_call", None)
        if bare is None:
            await self._call.write(push)
            return
        await self._call.wait_for_connection()
        await bare.send_serialized_message(push.SerializeToString())

    async def _read(self) -> None:
        while (answer := await self._call.read()) is not aio.EOF:
            together = self._sent.popleft()
            self._answered += 1
            rejected = answer.HasField("rejected")
            if rejected and len(together) > 1:
                self._again.extend(together)
            else:
                for _, future in together:
                    if future.done():
                        continue
                    if rejected:
                        problems = problems_of(answer.rejected)
                        future.set_exception(RejectedError("; ".join(map(str, problems)), problems))
                    else:
                        future.set_result(answer.revision)
            self._news.set()
        if self._sent or not self._finishing:
            raise ClientError("the server ended the stream of pushes")


def _fail(waiting: Iterable[Waiting], error: Exception | None) -> None:
    """Have those who wait fail with an error, or be given up without one."""
    for _, future in waiting:
        if error is None:
            future.cancel()
        elif not future.done():
            future.set_exception(error)
            future.exception()  # whoever does not look at it has the error from ``finish``
