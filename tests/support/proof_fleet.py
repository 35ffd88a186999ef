"""Sidecars that keep their own record of what they accepted, to judge what a fleet of control planes says of them.

Each is a delta ADS stream that subscribes to all clusters. It answers at once, late, with a NACK, or not at all: then
it drops the connection, comes back, and reports what it has. What it has accepted is known here by what it has
answered, and by nothing that a server says.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from support.waiting import for_a_while, until_due
from xds.fleet.content import Message, Parser
from xds.fleet.http2 import WINDOW_BYTES, opening
from xds.fleet.shared import SharedByStreams
from xds.fleet.stream import ClientStream, FaultError
from xds.fleet.wire import NodeTemplate, Outgoing, delta_request
from xds.model.types import CLUSTER

REFUSED = "round"
"""The cluster of which sidecars refuse versions. What came with one is taken once it comes without."""
REFUSAL = f"cluster '{REFUSED}': the proof refuses it"
BACK_S = (0.05, 0.5)
"""How long a sidecar takes to come back."""
CONNECTS_AT_ONCE = 200
LAG_EVERY_S = 0.05

Accepts = Callable[[Mapping[str, str]], bool]
"""Whether a sidecar that has these versions, by name, has accepted a revision."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How the sidecars answer a change: the shares of those that are late, that drop, and that refuse it."""

    late: float = 0.0
    late_s: float = 0.5
    drop: float = 0.0
    refuse: float = 0.0


class Sidecar:
    """One node over all its connections. ``held`` has the versions of the clusters that it has accepted."""

    __slots__ = ("fleet", "held", "id", "refused", "server", "stream")

    def __init__(self, fleet: "ProofFleet", number: int, server: int) -> None:
        self.fleet = fleet
        self.id = f"sidecar-{number:05}"
        self.server = server
        self.held: dict[str, str] = {}
        self.refused: set[str] = set()
        """The versions that it refuses, as it has once done so."""
        self.stream: _Stream | None = None

    async def connect(self) -> None:
        """Connect, to the next server if one can't be reached."""
        fleet = self.fleet
        while not fleet.is_closed:
            port = fleet.ports[self.server % len(fleet.ports)]
            try:
                async with fleet.places:
                    await asyncio.get_running_loop().create_connection(lambda: _Stream(self), "127.0.0.1", port)
                return
            except OSError:
                self.server += 1
                await for_a_while(fleet.random.uniform(*BACK_S), "a sidecar tries another server")

    def came(self, stream: "_Stream") -> None:
        """Note a new connection."""
        self.stream = stream
        self.fleet.update(self)

    def left(self, stream: "_Stream") -> None:
        """Note the end of a connection, and come back."""
        if self.stream is stream:
            self.stream = None
            self.fleet.update(self)
            self.fleet.start(self._come_back())

    async def _come_back(self) -> None:
        await for_a_while(self.fleet.random.uniform(*BACK_S), "a sidecar comes back")
        await self.connect()

    def answer(self, stream: "_Stream", message: Message, *, refuses: bool) -> None:
        """Accept or refuse a response, if its connection is still there."""
        if self.stream is not stream or stream.left:
            return
        content = message.content
        if refuses:
            self.refused.update(held.version for name, held in content.added if name == REFUSED)
            stream.send(message.nack(REFUSAL))
        else:
            for name, held in content.added:
                self.held[name] = held.version
            for name in content.removed:
                self.held.pop(name, None)
            assert message.ack is not None, "delta"
            stream.send(message.ack)
        self.fleet.update(self)


class _Stream(ClientStream):
    """One connection of a sidecar. ``unanswered`` has the responses that it is late with, in order, and those after."""

    __slots__ = ("sidecar", "unanswered")

    def __init__(self, sidecar: Sidecar) -> None:
        super().__init__(sidecar.fleet.shared)
        self.sidecar = sidecar
        self.unanswered: list[Message] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sidecar = self.sidecar
        node = sidecar.fleet.node.field(sidecar.id)
        first = delta_request(CLUSTER, versions=sidecar.held)
        self.begin_with(transport, Outgoing.of([node + first]))
        sidecar.came(self)

    def took(self, message: Message) -> None:
        self.sidecar.fleet.took(self.sidecar, self, message)

    def ended(self, fault: FaultError) -> None:
        del fault
        self.sidecar.left(self)


class ProofFleet:
    """All sidecars, evenly on the servers at ``ports``, and the record of who has accepted the revision in question.

    ``history`` has a pair for each change of the number of sidecars that are connected and have accepted it: the loop's
    time, and the number since then.
    """

    def __init__(self, count: int, ports: Sequence[int], *, seed: int) -> None:
        self.random = random.Random(seed)
        self.ports = list(ports)
        self.habits = Habits()
        self.is_closed = False
        self.places = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self.node = NodeTemplate.of(cluster="proof", region="", zone="", sub_zone="", metadata={})
        self.shared = SharedByStreams(
            opening=opening(authority="proof", sotw=False, tls=False, window_bytes=WINDOW_BYTES),
            window_bytes=WINDOW_BYTES,
            parser=Parser(sotw=False),
        )
        self.sidecars = [Sidecar(self, number, number) for number in range(count)]
        self.accepts: Accepts = lambda _held: True
        self.accepted: set[str] = set()
        self.history: list[tuple[float, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lags: list[tuple[float, float]] = []

    # --- Life --------------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect all sidecars, and watch how late this process is from now on."""
        self.start(self._watch_lag())
        await asyncio.gather(*(each.connect() for each in self.sidecars))

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await until_due(due)
            self._lags.append((loop.time(), loop.time() - due))
            del self._lags[:-10_000]

    def lag_since(self, begin: float) -> float:
        """Return by how much this process was late at most since a time, in seconds."""
        loop = asyncio.get_running_loop()
        last = self._lags[-1][0] if self._lags else begin
        return max([loop.time() - last - LAG_EVERY_S, *(late for at, late in self._lags if at >= begin)], default=0.0)

    def describe_lacking(self) -> str:
        """Return what the first sidecars have that have not accepted the revision in question."""
        lacking = [each for each in self.sidecars if each.id not in self.accepted]
        return f"{len(lacking)} lack it now: " + "; ".join(
            f"{each.id} {'connected' if each.stream else 'away'} {dict(each.held)}" for each in lacking[:5]
        )

    def start(self, work: "Iterable[None] | object") -> None:
        """Run work of a sidecar in the background."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Disconnect all sidecars."""
        self.is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self.sidecars:
            if each.stream is not None:
                each.stream.leave()

    # --- Answers -----------------------------------------------------------------------------------------------------

    def took(self, sidecar: Sidecar, stream: _Stream, message: Message) -> None:
        """Have a sidecar answer a response as its habits say."""
        habits, loop = self.habits, asyncio.get_running_loop()
        drawn = self.random.random()
        if stream.unanswered:  # a client answers in order: the server sends more if an answer is overdue
            stream.unanswered.append(message)
        elif any(held.version in sidecar.refused for _, held in message.content.added):
            sidecar.answer(stream, message, refuses=True)
        elif drawn < habits.late:
            stream.unanswered.append(message)
            loop.call_later(self.random.uniform(0, habits.late_s), self._answer_late, sidecar, stream)
        elif drawn < habits.late + habits.drop:
            stream.leave()
            sidecar.left(stream)
        else:
            is_of_it = any(name == REFUSED for name, _ in message.content.added)
            refuses = drawn < habits.late + habits.drop + habits.refuse and is_of_it
            sidecar.answer(stream, message, refuses=refuses)

    def _answer_late(self, sidecar: Sidecar, stream: _Stream) -> None:
        messages, stream.unanswered = stream.unanswered, []
        for message in messages:
            sidecar.answer(
                stream, message, refuses=any(held.version in sidecar.refused for _, held in message.content.added)
            )

    # --- The record --------------------------------------------------------------------------------------------------

    def judge_by(self, accepts: Accepts) -> None:
        """Keep the record of another revision from now on."""
        self.accepts = accepts
        self.accepted = {each.id for each in self.sidecars if each.stream is not None and accepts(each.held)}
        self.history = [(asyncio.get_running_loop().time(), len(self.accepted))]

    def update(self, sidecar: Sidecar) -> None:
        """Note that what a sidecar has, or whether it is connected, may have changed."""
        has = sidecar.stream is not None and self.accepts(sidecar.held)
        if has is not (sidecar.id in self.accepted):
            (self.accepted.add if has else self.accepted.discard)(sidecar.id)
            self.history.append((asyncio.get_running_loop().time(), len(self.accepted)))

    def most_between(self, begin: float, end: float) -> int:
        """Return the greatest number that had accepted it at any moment between two times."""
        at_begin = max((number for number, (at, _) in enumerate(self.history) if at <= begin), default=0)
        return max(count for number, (at, count) in enumerate(self.history) if number >= at_begin and at <= end)

    def enough_since(self, needed: int, end: float) -> float | None:
        """Return since when, up to a time, at least so many had accepted it without a break; None if they had not."""
        since = None
        for at, count in self.history:
            if at > end:
                break
            if count < needed:
                since = None
            elif since is None:
                since = at
        return since
