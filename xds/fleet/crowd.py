"""The sidecars of one process, and their counters."""

import asyncio
import random
import time
from array import array
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from xds.fleet.behaviour import Behaviour
from xds.fleet.config import WorkerConfig
from xds.fleet.connector import Connector
from xds.fleet.content import Parser
from xds.fleet.fatal import start
from xds.fleet.http2 import opening
from xds.fleet.session import SidecarSession, SidecarSessions
from xds.fleet.shared import SharedByStreams
from xds.fleet.sidecar import NEVER, Sidecar
from xds.fleet.stream import FaultError
from xds.fleet.wire import NodeTemplate, Outgoing, delta_request
from xds.model.types import ENDPOINTS

EXAMPLES_MAX = 20
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.5, 30.0
"""Envoy's backoff: full jitter between reconnects."""

_LATE = (Behaviour.STUCK, Behaviour.SLOW)
"""Behaviours of sidecars that no push waits for."""


class Crowd:
    """All sidecars of a process, in one event loop.

    ``goal`` is the number of responses to pushes that each counted sidecar should have received by now; ``due`` is the
    number of sidecars that have not. ``calm`` is set while no sidecar, connected or connecting, waits for an answer.
    """

    def __init__(self, config: WorkerConfig, *, probe: str = "") -> None:
        plan = config.plan
        self.config, self.probe = config, probe
        self.sessions = SidecarSessions(plan)
        self.shared = SharedByStreams(
            opening=opening(
                authority=config.authority, sotw=plan.sotw, tls=config.tls is not None, window_bytes=config.window_bytes
            ),
            window_bytes=config.window_bytes,
            parser=Parser(sotw=plan.sotw),
        )
        self.connector = Connector(config)
        self.sidecars: list[Sidecar] = []
        self.opening = _with_node_to_come(self.sessions.opening)
        self._resumptions: WeakKeyDictionary[SidecarSession, tuple[int, Outgoing]] = WeakKeyDictionary()
        node = config.node
        self._node = NodeTemplate.of(
            cluster=node.cluster,
            region=node.region,
            zone=node.zone,
            sub_zone=node.sub_zone,
            metadata=dict(node.metadata),
        )
        self.responses = self.resources = self.resent = self.rejected = self.churned = self.lost_count = 0
        self.losses: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.unsynced = 0
        self.calm = asyncio.Event()
        self.calm.set()
        self.goal = self.due = 0
        self.receipts = array("q")
        self.all_served = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- For the sidecars ----------------------------------------------------------------------------------------

    def node_id(self, index: int) -> str:
        """Return the id of the sidecar with an index."""
        return f"{self.config.node.id_prefix}{index:07d}" if index >= 0 else f"{self.config.node.id_prefix}observer"

    def node_field(self, index: int) -> bytes:
        """Return the encoded node field of a sidecar's first request."""
        node_id = self.node_id(index)
        return self._node.sotw_field(node_id) if self.sessions.plan.sotw else self._node.field(node_id)

    def resumption(self, sidecar: Sidecar) -> tuple[int, Outgoing]:
        """Return a reconnecting sidecar's burst, with the probe at its end if there is one; made once per session."""
        known = self._resumptions.get(sidecar.session)
        if known is None:
            burst = self.sessions.resumption(sidecar.session)
            if self.probe:
                burst = (*burst, delta_request(ENDPOINTS, subscribe=[self.probe]))
            known = self._resumptions[sidecar.session] = _with_node_to_come(burst)
        return known

    # --- Reports of the sidecars ---------------------------------------------------------------------------------

    def settled(self, sidecar: Sidecar, synced: bool) -> None:
        """Note that a sidecar is synced, or waits for answers again."""
        self.unsynced += -1 if synced else 1
        self._look_around()

    def served(self) -> None:
        """Note that a sidecar has received all responses of the push."""
        self.receipts.append(time.monotonic_ns())
        self.due -= 1
        if not self.due:
            self.all_served.set()

    def lost(self, sidecar: Sidecar, fault: FaultError) -> None:
        """Note a stream that ended or never began; reconnect it if ``reconnect_lost`` is set."""
        if sidecar.index >= 0:  # the command that connected an observer reports its loss
            self.lost_count += 1
            self.losses[fault.kind] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.setdefault(fault.kind, f"{sidecar.node_id}: {fault}"[:500])
        self._leave(sidecar)
        if self.config.reconnect_lost and sidecar.index >= 0:
            self.unsynced += 1  # it is expected from now on
            self._look_around()
            self._start(self._reconnect_later(sidecar))

    def _leave(self, sidecar: Sidecar) -> None:
        """Remove a disconnected sidecar from all counts."""
        if not sidecar.synced:
            self.unsynced -= 1
        sidecar.synced = False
        self.excuse(sidecar)
        self._look_around()

    def excuse(self, sidecar: Sidecar) -> None:
        """Stop waiting for a sidecar to receive the present push."""
        if sidecar.goal < self.goal:
            self.due -= 1
            if not self.due:
                self.all_served.set()
        sidecar.goal = NEVER

    def _look_around(self) -> None:
        if self.unsynced == 0:
            self.calm.set()
        elif self.calm.is_set():
            self.calm.clear()

    # --- For the worker's commands -------------------------------------------------------------------------------

    def create(self, count: int) -> list[Sidecar]:
        """Add ``count`` sidecars to the crowd, not connected yet."""
        config = self.config
        indices = [config.first_index + config.stride * (len(self.sidecars) + at) for at in range(count)]
        added = [Sidecar(self, index, config.mix.of(index)) for index in indices]
        self.sidecars += added
        return added

    async def connect(self, sidecars: Iterable[Sidecar], *, rate_per_s: float | None = None) -> None:
        """Connect sidecars; return when each has connected or failed."""
        expected = list(sidecars)
        self.unsynced += len(expected)
        self._look_around()
        await self.connector.connect(expected, rate_per_s=rate_per_s)

    def reconnect(self, sidecars: Iterable[Sidecar], *, probing: bool) -> list[Sidecar]:
        """Drop the sidecars' connections; return successors with the same nodes and sessions, not connected yet."""
        successors = []
        for sidecar in sidecars:
            self.drop(sidecar)
            successor = sidecar.successor(probing=probing)
            self.sidecars[(sidecar.index - self.config.first_index) // self.config.stride] = successor
            successors.append(successor)
        return successors

    def drop(self, sidecar: Sidecar) -> None:
        """Close a sidecar's connection, if it is open."""
        if not sidecar.left:
            sidecar.leave()
            self._leave(sidecar)

    def begin_push(self, responses: int) -> int:
        """Expect ``responses`` to a push at each sidecar that is synced and reads; return the number of these."""
        before, self.goal = self.goal, self.goal + responses
        self.receipts = array("q")
        self.all_served.clear()
        due = 0
        for sidecar in self.sidecars:
            if sidecar.synced and sidecar.behaviour not in _LATE:
                sidecar.goal = before
                due += 1
            else:
                sidecar.goal = NEVER
        self.due = due
        if not self.due:
            self.all_served.set()
        return self.due

    async def _reconnect_later(self, sidecar: Sidecar) -> None:
        longest_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0**sidecar.attempts)
        await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 (no secret)
        self.unsynced -= 1
        await self.connect(self.reconnect([sidecar], probing=False))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        start(self._tasks, "a sidecar", work)


def _with_node_to_come(requests: tuple[bytes, ...]) -> tuple[int, Outgoing]:
    """Return the size of the first request, and all requests framed except for the first one's prefix.

    Each sidecar sends its own prefix and node before these: protobuf fields may come in any order and in two pieces.
    """
    first, *rest = requests
    data = first + Outgoing.of(rest).data
    return len(first), Outgoing.framed(data)
