"""Faults, each of which the simulation must find. The product once had most of them.

Faults of the core change the bytes between the hub and the wire, or use the hub's public methods, so they do not depend
on the implementation of the core. Those of the store and the publisher replace a part of their code by what it once
was.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from simulation import network
from simulation.engines import ETCD, SQLITE
from simulation.plan import Plan
from simulation.wire_format import Request
from support.encoded import CDS, EDS

from xds._generated import store_pb2
from xds._generated import xds_wire_pb2 as wire
from xds.process.background import Background
from xds.protocol.hub import Hub
from xds.protocol.policy import Ordering, Variant
from xds.protocol.sessions import Stream
from xds.publishing.batch import Planned
from xds.publishing.publisher import Publisher
from xds.store.entries import FoundEntry, Stored, replay
from xds.store.errors import UnavailableError, UnreadableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import LostReplyError, WatchCompactedError, end_of, put_op, unchanged_since
from xds.store.etcd_layout import EtcdLayout
from xds.store.records import encode_base
from xds.store.sqlite import SqliteStore

Response = wire.DeltaDiscoveryResponse | wire.DiscoveryResponse


@dataclass
class Wire:
    """The requests and responses of one stream."""

    delta: bool
    connection: str
    node: str = ""
    sent: dict[str, dict[str, Response]] = field(default_factory=dict)
    """Type and nonce to the response."""
    lost: set[tuple[str, str]] = field(default_factory=set)
    """The removals in rejected responses, by type and name."""
    versions: dict[str, str] = field(default_factory=dict)


class FaultyHub(Hub):
    """A hub whose requests and responses can be changed in transit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wires: dict[Stream, Wire] = {}

    def open(self, variant: Variant, *, connection: Any = "", **options: Any) -> Stream:
        stream = super().open(variant, connection=connection, **options)
        self.wires[stream] = Wire(variant is Variant.DELTA, connection)
        return stream

    def close(self, stream: Stream, why: str = "") -> None:
        del self.wires[stream]
        super().close(stream, why)

    def receive(self, stream: Stream, data: bytes, now: float) -> None:
        over = self.wires[stream]
        kind = wire.DeltaDiscoveryRequest if over.delta else wire.DiscoveryRequest
        request = kind.FromString(data)
        if request.HasField("node"):
            over.node = request.node.id
        self.change_request(over, request)
        super().receive(stream, request.SerializeToString(), now)

    def poll(self, stream: Stream, now: float) -> Any:
        part = super().poll(stream, now)
        if part is None:
            return None
        over = self.wires[stream]
        kind = wire.DeltaDiscoveryResponse if over.delta else wire.DiscoveryResponse
        response = kind.FromString(part.message)
        self.change_response(over, response)
        over.sent.setdefault(response.type_url, {})[response.nonce] = response
        return SimpleNamespace(message=response.SerializeToString())

    def change_request(self, over: Wire, request: Request) -> None:
        """Change a request before the hub sees it."""

    def change_response(self, over: Wire, response: Response) -> None:
        """Change a response before it is sent."""


class RemovalsOnce(FaultyHub):
    """A removal in a rejected response is not repeated."""

    def change_request(self, over: Wire, request: Request) -> None:
        sent = over.sent.get(request.type_url, {}).get(request.response_nonce)
        if over.delta and sent is not None and request.HasField("error_detail"):
            over.lost |= {(request.type_url, name) for name in sent.removed_resources}

    def change_response(self, over: Wire, response: Response) -> None:
        if over.delta:
            _keep_removals(response, lambda name: (response.type_url, name) not in over.lost)


class NothingDrainsAway(FaultyHub):
    """Clusters are not removed after their hold has ended."""

    ticked = False

    def tick(self, now: float) -> None:
        self.ticked = True
        super().tick(now)

    def publish(self, applied: Any) -> None:
        self.ticked = False
        super().publish(applied)

    def change_request(self, over: Wire, request: Request) -> None:
        self.ticked = False

    def change_response(self, over: Wire, response: Response) -> None:
        if over.delta and self.ticked and response.type_url == CDS:
            _keep_removals(response, lambda name: False)


class LateRejectionsTakenForAcks(FaultyHub):
    """A NACK of any response but the last of its type is taken for an ACK."""

    def change_request(self, over: Wire, request: Request) -> None:
        sent = [*over.sent.get(request.type_url, ())]
        if request.response_nonce and sent and request.response_nonce != sent[-1]:
            request.ClearField("error_detail")


class LateAcksDropped(FaultyHub):
    """An ACK of a response that was given up on is dropped."""

    def __init__(self, *arguments: Any, ordering: Ordering, **options: Any) -> None:
        super().__init__(*arguments, ordering=ordering, **options)
        self.sent_at: dict[tuple[str, str], float] = {}
        self.hold_s = ordering.hold_timeout_s
        self.time = 0.0

    def receive(self, stream: Stream, data: bytes, now: float) -> Any:
        self.time = now
        return super().receive(stream, data, now)

    def poll(self, stream: Stream, now: float) -> Any:
        self.time = now
        return super().poll(stream, now)

    def change_request(self, over: Wire, request: Request) -> None:
        sent_at = self.sent_at.get((request.type_url, request.response_nonce))
        is_late = sent_at is not None and self.time >= sent_at + self.hold_s
        if over.delta and is_late and not request.HasField("error_detail"):
            request.response_nonce = ""

    def change_response(self, over: Wire, response: Response) -> None:
        self.sent_at[response.type_url, response.nonce] = self.time


class ClaimsStay(FaultyHub):
    """What a client claimed to have stays in memory after its stream has ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.claims: set[str] = set()

    def change_request(self, over: Wire, request: Request) -> None:
        if over.delta:
            self.claims.update(request.initial_resource_versions)


class NodesForgotten(FaultyHub):
    """The history of a node is lost when it reconnects: NACKed names and draining resources."""

    def change_request(self, over: Wire, request: Request) -> None:
        if request.HasField("node"):
            request.node.id += f"~{over.connection}"


class EarlyReturnsForgotten(FaultyHub):
    """The history of a node is lost if it reconnects before its old streams end."""

    def change_request(self, over: Wire, request: Request) -> None:
        if request.HasField("node"):
            others = [each for each in self.wires.values() if each.node == over.node]
            if any(each.connection != over.connection for each in others):
                request.node.id += f"~{over.connection}"


class EndpointsOnce(FaultyHub):
    """Unchanged endpoints are not sent after their clusters."""

    def change_response(self, over: Wire, response: Response) -> None:
        if not over.delta or response.type_url != EDS:
            return
        for encoded in list(response.resources):
            one = wire.Resource.FromString(encoded)
            if over.versions.get(one.name) == one.version:
                response.resources.remove(encoded)
            over.versions[one.name] = one.version


class FewAreWoken(FaultyHub):
    """A change is not sent to all affected streams."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._woken: list[Stream] = []

    def publish(self, applied: Any) -> None:
        super().publish(applied)
        ready = super().take_ready()
        self._woken += [stream for at, stream in enumerate(ready) if at % 3 != 1]

    def take_ready(self) -> list[Stream]:
        ready, self._woken = self._woken, []
        return [stream for stream in ready if stream in self.wires] + list(super().take_ready())


def _ordered(**settings: Any) -> Callable[..., Hub]:
    """Return a factory of hubs with other ordering settings."""

    def make(*arguments: Any, ordering: Ordering, **options: Any) -> Hub:
        return Hub(*arguments, ordering=replace(ordering, **settings), **options)

    return make


def _keep_removals(response: Response, is_kept: Callable[[str], bool]) -> None:
    kept = [name for name in response.removed_resources if is_kept(name)]
    del response.removed_resources[:]
    response.removed_resources.extend(kept)


def _hub(made: Callable[..., Hub]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(network, "Hub", made)


# --- The store and the publisher -------------------------------------------------------------------------------------


def _entry_by_id(self: Planned, stored: Stored) -> bool:
    """Take any entry with the same id for the planned one."""
    return self.entry_id == stored.entry.id


def _keep_once(
    self: Background,
    name: str,
    work: Callable[[], Awaitable[object]],
    *,
    may_end: Callable[[], bool] = lambda: False,
    on_death: Callable[[str], None] = lambda _why: None,
) -> "asyncio.Task[Any]":
    """Run a task once: if it dies, nobody is told."""

    async def run() -> None:
        with suppress(Exception):
            await work()

    self.deaths[name] += 0
    return asyncio.create_task(run(), name=name)


async def _follow_unguarded(self: EtcdStore) -> None:
    """Follow etcd until something in it can't be read."""
    prefix = self._layout.prefix
    while True:
        with suppress(WatchCompactedError, UnavailableError):
            async for response in self._client.watch(prefix, end_of(prefix), self._seen + 1):
                await self._take_response(response)
        await self._load_at_last()


def _take_for_record(self: EtcdLayout, key: bytes) -> None:
    """Take any key of the log for a record."""
    raise UnreadableError(f"{key!r} is no record")


@contextmanager
def _following_dies() -> Iterator[None]:
    with (
        patch.object(Background, "keep", _keep_once),
        patch.object(EtcdStore, "_follow", _follow_unguarded),
        patch.object(EtcdLayout, "ignore", _take_for_record),
    ):
        yield


def _advance_always(self: EtcdStore, head: Any, mod: int) -> None:
    """Set the head, also to an older one than is known."""
    self._head, self._head_mod = head, mod


async def _stop_without_taken(self: Publisher) -> None:
    """Answer what is in the queue, but not what was taken from it."""
    self._stopping = True
    for task in self._tasks:
        task.cancel()
    await asyncio.gather(*self._tasks, return_exceptions=True)
    while not self._waiting.empty():
        self._waiting.get_nowait().refuse(UnavailableError("this control plane is going down"))
    await self.store.close()


async def _compact_as_known(self: EtcdStore, revision: int) -> int:
    """Compact by what this replica knows, also behind another replica."""
    if revision <= self._oldest or revision > self._notifier.revision:
        return self._oldest
    base = await self._layout.read_base(self._head, 0)
    log = await self._layout.read_log(base.revision, self._head.revision, 0)
    state = replay(base, [each for each in log if each.revision <= revision])
    name, count = await self._layout.put_pieces(encode_base(state))
    head = store_pb2.Head()
    head.CopyFrom(self._head)
    head.oldest, head.base, head.base_pieces = revision, name, count
    put = put_op(self._layout.head_key, head.SerializeToString())
    with suppress(LostReplyError):
        answer = await self._client.transact([unchanged_since(self._layout.head_key, self._head_mod)], [put], [])
        if answer.succeeded:
            self._advance(head, answer.header.revision)
            await self._layout.delete_log(revision)
    return self._oldest


async def _find_unseen(self: SqliteStore, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
    """Find entries without noticing that there are newer ones."""
    wanted = tuple(ids)
    _, found = await self._run(lambda: self._find_kept(wanted))
    return found


async def _kept_unseen(self: SqliteStore) -> tuple[int, int]:
    """Return the kept revisions without noticing that there are newer ones."""
    newest, oldest = await self._run(lambda: self._database.execute("SELECT revision, oldest FROM present").fetchone())
    return oldest, newest


MUTATIONS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    # Faults that the product once had.
    "a removal in a rejected response is not sent again": _hub(RemovalsOnce),
    "what drains is not forgotten at its time": _hub(NothingDrainsAway),
    "a node that is back early is not known": _hub(EarlyReturnsForgotten),
    "rejections that come late are taken for ACKs": _hub(LateRejectionsTakenForAcks),
    "what a closed stream claimed is kept": _hub(ClaimsStay),
    "an entry is taken for the planned one by its id": lambda: patch.object(Planned, "made", _entry_by_id),
    "following etcd ends at what can't be read": _following_dies,
    "the head in etcd goes back": lambda: patch.object(EtcdStore, "_advance", _advance_always),
    "stopping leaves callers waiting": lambda: patch.object(Publisher, "stop", _stop_without_taken),
    "ACKs that come late are dropped": _hub(LateAcksDropped),
    "a compaction goes behind another replica's": lambda: patch.object(EtcdStore, "compact", _compact_as_known),
    "an append that was made though its disk failed is not seen": lambda: patch.multiple(
        SqliteStore, find=_find_unseen, kept=_kept_unseen
    ),
    # Similar faults.
    "a node that is back is not known": _hub(NodesForgotten),
    "changes are not ordered": _hub(_ordered(enabled=False)),
    "waits are given up at once": _hub(_ordered(hold_timeout_s=0.001)),
    "what drains is not kept": _hub(_ordered(listener_drain_s=0.001)),
    "endpoints do not follow their clusters": _hub(EndpointsOnce),
    "changes wake too few streams": _hub(FewAreWoken),
}


def _has(store: str, *kinds: str) -> Callable[[Plan], bool]:
    """Say of plans whether they have a store, and events of one of some kinds."""
    return lambda drawn: drawn.store == store and any(event.kind in kinds for event in drawn.events)


def _answers_late(drawn: Plan) -> bool:
    return drawn.faults and any(event.kind in ("stall", "pause") for event in drawn.events)


NEEDS: Mapping[str, Callable[[Plan], bool]] = {
    "rejections that come late are taken for ACKs": _answers_late,
    "ACKs that come late are dropped": _answers_late,
    "an entry is taken for the planned one by its id": _has(ETCD, "twins"),
    "following etcd ends at what can't be read": _has(ETCD, "junk"),
    "the head in etcd goes back": _has(ETCD, "late"),
    "a compaction goes behind another replica's": lambda drawn: drawn.store == ETCD and len(drawn.replicas) > 1,
    "an append that was made though its disk failed is not seen": _has(SQLITE, "disk"),
    "stopping leaves callers waiting": lambda drawn: any(event.kind == "stop" for event in drawn.events),
}
"""What a plan must have to show a fault; other plans are not run for it."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Put a fault in within the context."""
    with MUTATIONS[name]():
        yield
