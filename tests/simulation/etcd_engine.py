"""A simulated etcd of several members: keys with all their revisions, watches and compaction, and channels to it.

Writes and reads are linearizable, as the product asks for: a member that is reached has the newest revision. A watch is
served by one member, which may be behind. Requests and replies are late or lost; a request may be carried out after
its client gave up.

Sources: https://etcd.io/docs/v3.4/learning/api/ and https://etcd.io/docs/v3.4/learning/api_guarantees/.
"""

import asyncio
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import grpc
from grpc import aio
from simulation.clock import Clock
from simulation.process import Process, current

from xds._generated import etcd_pb2 as pb

NO_LEADER_S = 3.0
"""After this time, a member without a leader ends its watches."""


class Member:
    """One member. ``up``: it runs; ``reached``: it is connected to the others."""

    def __init__(self) -> None:
        self.up = self.reached = True
        self.watches: list[WatchCall] = []


class EtcdEngine:
    """The keys, and the members that serve them."""

    def __init__(self, clock: Clock, chance: Random, members: int) -> None:
        self.clock, self.chance = clock, chance
        self.members = [Member() for _ in range(members)]
        self.revision = 1
        self.compacted = 0
        self.calm = False
        """Whether nothing is late or lost any more."""
        self._values: dict[bytes, list[tuple[int, bytes | None]]] = {}
        """The values of each key, each with the revision at which it was set; None: deleted."""
        self._changes: list[tuple[int, list[pb.Event]]] = []
        self.cut_off: dict[str, float] = {}
        """Processes whose messages are lost until a time, by name."""
        self.losing_until = 0.0
        """Until this time, many replies are lost."""
        self.late: dict[str, tuple[float, float]] = {}
        """Processes whose replies are late until a time, and by how much; their watches are not."""

    # --- Members -----------------------------------------------------------------------------------------------------

    def stop(self, number: int) -> None:
        """Stop a member: all its connections end."""
        self.members[number].up = False
        for watch in list(self.members[number].watches):
            watch.fail(grpc.StatusCode.UNAVAILABLE)

    def isolate(self, number: int) -> None:
        """Cut a member off from the others; its watches end after a time."""
        self.members[number].reached = False
        self.clock.later(NO_LEADER_S, self._end_watches, number)

    def mend(self, number: int) -> None:
        """Start a member again, or connect it to the others."""
        self.members[number].up = self.members[number].reached = True
        self._tell(self.members[number])

    def _end_watches(self, number: int) -> None:
        if not self.members[number].reached:
            for watch in list(self.members[number].watches):
                watch.give(pb.WatchResponse(header=self._header(), canceled=True))

    def is_cut(self, process: Process) -> bool:
        """Say whether messages of a process are lost at present."""
        return self.clock.now < self.cut_off.get(process.name, 0.0) or process.is_closed()

    def delay_s(self) -> float:
        """Return how long a message takes."""
        if self.calm:
            return 0.001
        if self.chance.random() < 0.05:
            return self.chance.uniform(0.05, 2.0)
        return self.chance.uniform(0.0003, 0.01)

    def loses(self) -> bool:
        """Say whether a reply is lost."""
        return not self.calm and self.chance.random() < (0.5 if self.clock.now < self.losing_until else 0.01)

    # --- Requests ----------------------------------------------------------------------------------------------------

    def _header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(revision=self.revision)

    def answer(self, method: str, request: Any) -> Any:
        """Carry out a request. Raises aio.AioRpcError."""
        name = method.rpartition("/")[2]
        return {"Range": self.range, "Put": self._put, "DeleteRange": self._delete, "Txn": self._transact}[name](
            request
        )

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """Read keys at a revision."""
        if request.revision and request.revision < self.compacted:
            raise refusal(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        assert request.revision <= self.revision, "a revision of the future"
        at = request.revision or self.revision
        found = [kv for key in self._keys(request.key, request.range_end) if (kv := self._at(key, at)) is not None]
        limit = request.limit or len(found)
        return pb.RangeResponse(header=self._header(), kvs=found[:limit], more=len(found) > limit, count=len(found))

    def _keys(self, key: bytes, end: bytes) -> list[bytes]:
        if not end:
            return [key] if key in self._values else []
        return sorted(each for each in self._values if key <= each < end)

    def _at(self, key: bytes, revision: int) -> pb.KeyValue | None:
        for set_at, value in reversed(self._values.get(key, ())):
            if set_at <= revision:
                return None if value is None else pb.KeyValue(key=key, value=value, mod_revision=set_at)
        return None

    def _put(self, request: pb.PutRequest) -> pb.PutResponse:
        self.write({request.key: request.value})
        return pb.PutResponse(header=self._header())

    def _delete(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        keys = [key for key in self._keys(request.key, request.range_end) if self._at(key, self.revision)]
        if keys:
            self.write(dict.fromkeys(keys))
        return pb.DeleteRangeResponse(header=self._header(), deleted=len(keys))

    def _transact(self, request: pb.TxnRequest) -> pb.TxnResponse:
        def modified(key: bytes) -> int:
            found = self._at(key, self.revision)
            return 0 if found is None else found.mod_revision

        holds = all(modified(each.key) == each.mod_revision for each in request.compare)
        answer = pb.TxnResponse(succeeded=holds)
        operations = request.success if holds else request.failure
        values = {op.request_put.key: op.request_put.value for op in operations if op.HasField("request_put")}
        if values:
            self.write(values)
        for op in operations:
            if op.HasField("request_range"):
                answer.responses.add().response_range.CopyFrom(self.range(op.request_range))
            else:
                answer.responses.add().response_put.header.CopyFrom(self._header())
        answer.header.CopyFrom(self._header())
        return answer

    def write(self, values: dict[bytes, bytes | None]) -> None:
        """Set and delete keys in one transaction, and tell the watches."""
        self.revision += 1
        changes = []
        for key, value in values.items():
            self._values.setdefault(key, []).append((self.revision, value))
            kind = pb.Event.DELETE if value is None else pb.Event.PUT
            changes.append(pb.Event(type=kind, kv=pb.KeyValue(key=key, value=value, mod_revision=self.revision)))
        self._changes.append((self.revision, changes))
        for member in self.members:
            self.clock.later(self.delay_s(), self._tell, member)

    def value(self, key: bytes) -> bytes | None:
        """Return the present value of a key."""
        found = self._at(key, self.revision)
        return None if found is None else found.value

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Yield the present keys with a prefix, in order."""
        return (key for key in sorted(self._values) if key.startswith(prefix) and self.value(key) is not None)

    def compact(self, revision: int) -> None:
        """Forget what was before a revision, as etcd does by itself at intervals."""
        self.compacted = max(self.compacted, revision)
        self._changes = [each for each in self._changes if each[0] >= revision]
        for key, values in list(self._values.items()):
            old = [each for each in values if each[0] <= revision]
            kept = [*old[-1:], *values[len(old) :]]
            if kept[0][1] is None and kept[0][0] <= revision:
                del kept[0]
            if kept:
                self._values[key] = kept
            else:
                del self._values[key]

    # --- Watches -----------------------------------------------------------------------------------------------------

    def _tell(self, member: Member) -> None:
        if member.up and member.reached:
            for watch in list(member.watches):
                self.tell(watch)

    def tell(self, watch: "WatchCall") -> None:
        """Send a watch the changes that it lacks."""
        if watch.next <= self.compacted and watch.next < self.revision:
            gone = pb.WatchResponse(header=self._header(), canceled=True, compact_revision=self.compacted)
            watch.give(gone)
            return
        events = [
            event
            for revision, changes in self._changes
            if revision >= watch.next
            for event in changes
            if watch.first <= event.kv.key < watch.end
        ]
        watch.next = self.revision + 1
        if events:
            watch.give(pb.WatchResponse(header=self._header(), events=events))

    def progress(self, watch: "WatchCall") -> None:
        """Answer a progress request: all changes up to the revision in the header have been sent."""
        if watch.next == self.revision + 1:
            watch.give(pb.WatchResponse(header=self._header()))


class Channel:
    """A process's connection to one member."""

    def __init__(self, engine: EtcdEngine, process: Process, number: int) -> None:
        self.engine, self.process, self.member = engine, process, engine.members[number]
        self._calls: list[asyncio.Future[Any]] = []
        self._watches: list[WatchCall] = []

    async def close(self, grace: float | None = None) -> None:
        """Close the connection. Pending calls are cancelled."""
        for call in self._calls:
            call.cancel()
        for watch in self._watches:
            watch.cancel()

    def unary_unary(self, method: str, **_: Any) -> Callable[..., "asyncio.Future[Any]"]:
        """Return a function that sends a request."""

        def send(request: Any, *, metadata: Any = (), timeout: float | None = None) -> "asyncio.Future[Any]":
            call = self.process.create_future()
            self._calls = [other for other in self._calls if not other.done()] + [call]
            if timeout is not None:
                late = refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
                self.process.call_later(timeout, _end, call, late)
            self.engine.clock.later(self.engine.delay_s(), self._reach, method, request, call)
            return call

        return send

    def _reach(self, method: str, request: Any, call: "asyncio.Future[Any]") -> None:
        engine, member = self.engine, self.member
        if engine.is_cut(self.process):
            return
        if not member.up:
            engine.clock.later(
                0.001, self._back, call, refusal(grpc.StatusCode.UNAVAILABLE, "failed to connect: refused")
            )
            return
        if not member.reached:
            engine.clock.later(0.001, self._back, call, refusal(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"))
            return
        try:
            answer = engine.answer(method, request)
        except aio.AioRpcError as error:
            answer = error.with_traceback(None)  # which would hold the run
        if not engine.loses():
            until, late_s = engine.late.get(self.process.name, (0.0, 0.0))
            engine.clock.later(engine.delay_s() + late_s * (engine.clock.now < until), self._back, call, answer)

    def _back(self, call: "asyncio.Future[Any]", answer: Any) -> None:
        if not self.engine.is_cut(self.process):
            _end(call, answer)

    def stream_stream(self, method: str, **_: Any) -> Callable[..., "WatchCall"]:
        """Return a function that opens a watch."""

        def open_watch(*, metadata: Any = ()) -> WatchCall:
            watch = WatchCall(self)
            self._watches = [other for other in self._watches if not other.over] + [watch]
            return watch

        return open_watch


class WatchCall:
    """A watch's stream. ``next`` is the first revision that it was not sent."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.engine, self.process = channel, channel.engine, channel.process
        self.first = self.end = b""
        self.next = 0
        self.over = False
        self._sent: list[Any] = []
        self._reader: asyncio.Future[None] | None = None
        self._up_at = self._down_at = 0.0

    async def write(self, request: pb.WatchRequest) -> None:
        """Send a request."""
        if self.over:
            raise asyncio.InvalidStateError("the call is over")
        self._up_at = max(self._up_at, self.engine.clock.now + self.engine.delay_s())
        self.engine.clock.at(self._up_at, self._reach, request)

    def _reach(self, request: pb.WatchRequest) -> None:
        member = self.channel.member
        if self.over or self.engine.is_cut(self.process):
            return
        if not member.up:
            self.fail(grpc.StatusCode.UNAVAILABLE)
            return
        if request.HasField("create_request"):
            wanted = request.create_request
            self.first, self.end, self.next = wanted.key, wanted.range_end, wanted.start_revision
            member.watches.append(self)
        if member.reached and self in member.watches:
            if request.HasField("create_request"):
                self.engine.tell(self)
            else:
                self.engine.progress(self)

    def give(self, response: pb.WatchResponse) -> None:
        """Send the client a response."""
        if response.canceled and self in self.channel.member.watches:
            self.channel.member.watches.remove(self)
        self._deliver(response)

    def fail(self, code: grpc.StatusCode) -> None:
        """End the call with a status."""
        if self in self.channel.member.watches:
            self.channel.member.watches.remove(self)
        self._deliver(refusal(code, "the connection ended"))

    def _deliver(self, what: Any) -> None:
        self._down_at = max(self._down_at, self.engine.clock.now + self.engine.delay_s())
        self.engine.clock.at(self._down_at, self._arrive, what)

    def _arrive(self, what: Any) -> None:
        if self.over:
            return
        if self.engine.is_cut(self.process):
            # TCP sends it again when the connection works again, unless the client has given up by then.
            self._down_at = max(self._down_at, self.engine.cut_off.get(self.process.name, 0.0))
            if not self.process.is_closed():
                self.engine.clock.at(self._down_at, self._arrive, what)
            return
        self._sent.append(what)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self) -> Any:
        """Return the next response. Raises aio.AioRpcError."""
        while not self._sent:
            if self.over:
                raise asyncio.InvalidStateError("the call is over")
            self._reader = current().create_future()
            await self._reader
        what = self._sent.pop(0)
        if isinstance(what, aio.AioRpcError):
            self.over = True
            raise what
        return what

    def cancel(self) -> bool:
        """End the call."""
        self.over = True
        if self in self.channel.member.watches:
            self.channel.member.watches.remove(self)
        self._wake()
        return True


def refusal(code: grpc.StatusCode, details: str) -> aio.AioRpcError:
    """Return the error of a call."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=details)


def _end(call: "asyncio.Future[Any]", answer: Any) -> None:
    if call.done():
        return
    if isinstance(answer, Exception):
        call.set_exception(answer)
        call.exception()  # marks it as retrieved: its caller may be gone
    else:
        call.set_result(answer)
