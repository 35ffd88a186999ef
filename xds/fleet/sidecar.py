"""One simulated sidecar: subscribes to resources, ACKs or NACKs responses, and keeps its session."""

import asyncio
import socket
import time
from typing import Protocol

from xds.fleet.behaviour import Behaviour
from xds.fleet.content import Message
from xds.fleet.session import SidecarSession, SidecarSessions, SidecarStep
from xds.fleet.shared import SharedByStreams
from xds.fleet.stream import ClientStream, FaultError
from xds.fleet.wire import STREAM_ID, Outgoing
from xds.model.types import ENDPOINTS
from xds.transport.http2.frames import data_frames

NEVER = 1 << 62
SIP_S = 0.001
REJECTION = "rejected by the load test, as --nack asks"


class SidecarCrowd(Protocol):
    """What a sidecar needs of its crowd: parameters, and counters that it adds to. Used in annotations only."""

    sessions: SidecarSessions
    shared: SharedByStreams
    probe: str
    opening: tuple[int, Outgoing]
    goal: int
    responses: int
    resources: int
    resent: int
    rejected: int

    def node_id(self, index: int) -> str:
        """Return the id of the sidecar with an index."""

    def node_field(self, index: int) -> bytes:
        """Return the encoded node field of a sidecar's first request."""

    def resumption(self, sidecar: "Sidecar") -> tuple[int, Outgoing]:
        """Return the burst of a reconnecting sidecar."""

    def settled(self, sidecar: "Sidecar", synced: bool) -> None:
        """Note that a sidecar is synced, or waits for answers again."""

    def served(self) -> None:
        """Note that a sidecar has received all responses of the push."""

    def lost(self, sidecar: "Sidecar", fault: FaultError) -> None:
        """Note a stream that ended or never began."""


class Sidecar(ClientStream):
    """A node with one ADS stream.

    ``goal`` is the number of responses to pushes after which it counts as served; with ``NEVER`` it is not counted.
    ``synced_ns`` is when it last became synced.
    """

    __slots__ = (
        "attempts",
        "behaviour",
        "crowd",
        "goal",
        "index",
        "misbehaving",
        "nonces",
        "probing",
        "reconnecting",
        "rejects",
        "session",
        "started_ns",
        "synced",
        "synced_ns",
    )

    def __init__(self, crowd: SidecarCrowd, index: int, behaviour: Behaviour = Behaviour.WELL) -> None:
        super().__init__(crowd.shared)
        self.crowd, self.index, self.behaviour = crowd, index, behaviour
        self.session: SidecarSession = crowd.sessions.initial
        self.started_ns = self.synced_ns = 0
        self.synced = self.reconnecting = self.probing = self.rejects = self.misbehaving = False
        self.goal = NEVER
        self.attempts = 0
        self.nonces: list[str] | None = [""] * len(self.session.types) if crowd.sessions.plan.sotw else None

    @property
    def node_id(self) -> str:
        """The node's id."""
        return self.crowd.node_id(self.index)

    # --- Opening -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface and the first requests: those of a new Envoy, or of a reconnecting one."""
        crowd = self.crowd
        first, rest = crowd.resumption(self) if self.reconnecting else crowd.opening
        node = crowd.node_field(self.index)
        head = b"\0" + (len(node) + first).to_bytes(4, "big") + node
        self.begin_with(transport, Outgoing(head, data_frames(STREAM_ID, head)), rest)
        if self.probing and not crowd.probe:
            self.ping()

    def successor(self, *, probing: bool) -> "Sidecar":
        """Return a sidecar with the same node and session, for another connection; this one may still be closing."""
        after = Sidecar(self.crowd, self.index, self.behaviour)
        after.session, after.rejects = self.session, self.rejects
        after.reconnecting, after.probing = True, probing
        after.attempts = self.attempts + 1
        return after

    # --- Responses -----------------------------------------------------------------------------------------------

    def took(self, message: Message) -> None:
        """Handle a response: answer it, subscribe to its references, and count it."""
        crowd = self.crowd
        content = message.content
        session = self.session
        step = session.steps.get(content) or crowd.sessions.step(session, content)
        if step is None:
            self.fail(FaultError("response of a type never asked for", content.type_url[:200]))
            return
        if self.rejects:
            self._reject(message)
        elif self.nonces is None:
            after = self.session = step.session
            if step.frames is None:
                self.send(message.ack)  # type: ignore[arg-type]
            else:
                self.send_both(step.frames, message.ack)  # type: ignore[arg-type]
            if after.ready is not self.synced:
                self._settle()
        else:
            self._answer_sotw(step, message)
        crowd.responses += 1
        crowd.resources += len(content.added)
        if self.goal < crowd.goal:
            self.goal += 1
            if self.goal == crowd.goal:
                crowd.served()
        if self.reconnecting:
            self._resumed(message)

    def _answer_sotw(self, step: SidecarStep, message: Message) -> None:
        assert self.nonces is not None
        sessions = self.crowd.sessions
        index = sessions.plan.index[message.content.type_url]
        after = self.session = step.session
        for request in step.requests:
            self.send(sessions.sotw_answer(after, request.index, self.nonces[request.index]))
        self.nonces[index] = message.nonce
        self.send(sessions.sotw_answer(after, index, message.nonce))
        if after.ready is not self.synced:
            self._settle()

    def _reject(self, message: Message) -> None:
        self.crowd.rejected += 1
        if self.nonces is None:
            self.send(message.nack(REJECTION))
            return
        sessions = self.crowd.sessions
        index = sessions.plan.index[message.content.type_url]
        self.nonces[index] = message.nonce
        self.send(sessions.sotw_answer(self.session, index, message.nonce, REJECTION))

    def _settle(self) -> None:
        """Update ``synced``: whether all subscriptions are answered, and the probe too."""
        synced = self.session.ready and not self.probing
        if synced is not self.synced:
            self.synced = synced
            if synced:
                self.synced_ns = time.monotonic_ns()
                self.attempts = 0
            self.crowd.settled(self, synced)

    def await_probe(self) -> None:
        """Count as not synced until the probe is answered."""
        self.probing = self.reconnecting = True
        self._settle()

    def _resumed(self, message: Message) -> None:
        """Count resources sent again after a reconnect, and check for the probe's answer."""
        content = message.content
        self.crowd.resent += len(content.added)
        if self.probing and content.type_url == ENDPOINTS and self.crowd.probe in content.removed:
            self.probing = False
            self._settle()

    def ponged(self) -> None:
        """Handle the answer to the ping that replaces the probe if the server does not answer probes."""
        if self.probing:
            self.probing = False
            self._settle()

    # --- End and misbehaviour ------------------------------------------------------------------------------------

    def ended(self, fault: FaultError) -> None:
        """Report to the crowd that the server or the network ended the stream."""
        self.crowd.lost(self, fault)

    def misbehave(self) -> None:
        """Start to misbehave as ``behaviour`` says, now that it is synced."""
        if self.misbehaving:
            return
        self.misbehaving = True
        if self.behaviour in (Behaviour.STUCK, Behaviour.SLOW):
            self.goal = NEVER
            self._starve()
        self.rejects = self.behaviour is Behaviour.NACKING

    def _starve(self) -> None:
        """Stop reading, with the smallest receive buffer that the kernel allows."""
        transport = self.transport
        if transport is None:
            return
        transport.pause_reading()
        sock = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel uses its minimum
        finally:
            sock.detach()

    def sip(self) -> None:
        """Read for a moment, then stop until the next call (for slow readers)."""
        if self.transport is not None:
            self.transport.resume_reading()
            asyncio.get_running_loop().call_later(SIP_S, self._pause)

    def drink(self) -> None:
        """Resume reading as a well-behaved sidecar does."""
        self.misbehaving = False
        if self.transport is not None:
            self.transport.resume_reading()

    def _pause(self) -> None:
        if self.transport is not None and self.misbehaving:
            self.transport.pause_reading()
