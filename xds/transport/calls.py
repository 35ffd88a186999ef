"""gRPC calls on the streams of a native connection: xDS, health, and services that answer message by message."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.message import DecodeError

from xds._generated.xds_wire_pb2 import HealthCheckRequest, HealthCheckResponse
from xds.model.identity import Peer
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.hub import Hub
from xds.protocol.policy import METHODS, SERVICES, Method
from xds.protocol.responses import Part
from xds.protocol.sessions import Stream
from xds.transport.dispatcher import Dispatcher
from xds.transport.framed_parts import FramedParts
from xds.transport.http2 import grpc
from xds.transport.http2.allowance import CHORES_PER_MALFORMED
from xds.transport.http2.headers import RequestHead
from xds.transport.http2.stream import Http2Stream, StreamConnection
from xds.transport.waiting import WaitingMessages

Reply = Callable[[bytes], Awaitable[bytes]]
"""Answers one message with one. Raises StreamRefusedError for a status other than OK."""

HEALTH = "/grpc.health.v1.Health/"
SERVING, NOT_SERVING, UNKNOWN_SERVICE = 1, 2, 3
REPLIES_WAITING_MAX = 16
SECOND_MESSAGE = "a second message, where the method takes one"
NOT_FOUND = 5
CHORES_PER_REFUSAL = dict.fromkeys(
    (Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED, Status.NOT_FOUND, Status.RESOURCE_EXHAUSTED), CHORES_PER_MALFORMED
)
"""Chores charged for a refused request, by its status.

A node that matches no group retries by itself, and a proxy may bring many such nodes on one connection.
"""
CHORES_PER_OTHER_REFUSAL = 1
NAMES_PER_CHORE = 500
"""Names examined for a change that count as one chore: 100,000 a second on average. After it the connection rests."""


@dataclass(slots=True, eq=False)
class Services:
    """The services of the port: xDS by the dispatcher, health, and ``replies`` by path."""

    dispatcher: Dispatcher
    replies: Mapping[str, Reply] = field(default_factory=dict)
    serving: bool = True
    watchers: set["HealthWatch"] = field(default_factory=set)
    framed: FramedParts = field(default_factory=FramedParts)
    waiting: WaitingMessages = field(default_factory=WaitingMessages)
    xds: dict[str, Method] = field(default_factory=lambda: {method.path: method for method in METHODS})
    tokens: "TokenGuard | None" = None
    """Makes the calls of clients that must show a token; None if tokens are not looked at."""

    def call(self, connection: "CallConnection", stream_id: int, head: RequestHead) -> Http2Stream:
        """Return the call that serves a request."""
        path = head.path
        method = self.xds.get(path)
        if method is not None:
            if self.tokens is not None:
                return self.tokens.xds(connection, stream_id, method)
            return XdsCall(connection, stream_id, method)
        if path == HEALTH + "Watch":
            return HealthWatch(connection, stream_id)
        reply = self._check if path == HEALTH + "Check" else self.replies.get(path)
        if reply is None:
            unknown = StreamRefusedError(Status.UNIMPLEMENTED, f"{path[:200]} is not a method of this server")
            return RefusedCall(connection, stream_id, unknown)
        if self.tokens is not None and not path.startswith(HEALTH):
            reply = self.tokens.guarded(reply, head.authorization, connection.address)
        return ReplyCall(connection, stream_id, reply, unary=path == HEALTH + "Check")

    def health(self, message: bytes) -> int | None:
        """Return the status of the service that a health check asks for, None if there is no such service."""
        try:
            service = HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise StreamRefusedError(Status.INVALID_ARGUMENT, "no HealthCheckRequest") from None
        if service and service not in SERVICES:
            return None
        return self.status

    @property
    def status(self) -> int:
        """The status of all services."""
        return SERVING if self.serving else NOT_SERVING

    async def _check(self, message: bytes) -> bytes:
        status = self.health(message)
        if status is None:
            raise StreamRefusedError(Status.NOT_FOUND, "no such service")
        return HealthCheckResponse(status=status).SerializeToString()

    def stop_serving(self) -> None:
        """Report NOT_SERVING to all health watches."""
        self.serving = False
        for watcher in list(self.watchers):
            watcher.ready()


class TokenGuard(Protocol):
    """Makes the calls of clients that must show a token."""

    def xds(self, connection: "CallConnection", stream_id: int, method: Method) -> Http2Stream:
        """Return an xDS stream."""

    def guarded(self, reply: Reply, authorization: str, address: str) -> Reply:
        """Return a method that answers a client at ``address`` only with a valid token."""


class CallConnection(StreamConnection, Protocol):
    """What a call needs of its connection. Used in annotations only: connections do not derive from it."""

    tired: int
    """Names that were examined for its last messages; see ``FrameReader``."""

    @property
    def services(self) -> Services:
        """What is served."""

    @property
    def name(self) -> str:
        """The name of this connection, unique in the process."""

    @property
    def peer(self) -> Peer:
        """Who the client is."""

    @property
    def address(self) -> str:
        """Where the client connects from."""

    @property
    def why_lost(self) -> str:
        """Why a stream ends now that neither side has ended."""

    def probe(self, within_s: float, why: str) -> None:
        """Close the connection for a reason unless the peer answers a ping within ``within_s`` seconds."""

    def goaway(self, text: str) -> None:
        """Send GOAWAY with a reason, so that the peer opens its next streams on another connection."""

    def charge(self, count: int) -> None:
        """Charge the peer for work done outside of frame processing."""

    def on_shed(self) -> None:
        """Note that a stream was shed."""

    def fail(self, code: int, text: str) -> None:
        """End the connection with GOAWAY, an error code and its reason."""


class Call(Http2Stream):
    """A stream of a native connection."""

    __slots__ = ()
    connection: CallConnection

    @property
    def has_asked(self) -> bool:
        """Say whether its client has asked for anything."""
        return True

    @property
    def is_answered(self) -> bool:
        """Whether all responses are sent, and answered by the client if it answers them."""
        return self.rest is None

    def begin(self, head: RequestHead) -> None:
        """Start the call, once the connection has registered its stream."""
        self.start()

    def expire(self) -> None:
        """End the stream at the client's own deadline."""
        self.end(Status.DEADLINE_EXCEEDED, "the deadline that the client set has passed")

    def end(self, status: Status, message: str) -> None:
        """Finish the stream with this status, without waiting for what was written."""
        self.leave(f"{status.name}: {message}")
        self.cut(status.value, message)

    def refuse(self, refusal: StreamRefusedError) -> None:
        """End the stream because of its client's request, and charge the connection for it."""
        self.end(refusal.status, refusal.message)
        self.connection.charge(CHORES_PER_REFUSAL.get(refusal.status, CHORES_PER_OTHER_REFUSAL))

    def leave(self, why: str) -> None:
        """Release what the call holds, as the stream ends for this reason."""
        self.on_gone()

    def on_writable(self) -> None:
        """Nothing waits."""

    def on_gone(self) -> None:
        """Nothing to release."""


class XdsCall(Call):
    """One xDS stream: passes requests to the dispatcher and sends what polling returns. A ``Sink``."""

    __slots__ = ("_xds",)

    def __init__(self, connection: CallConnection, stream_id: int, method: Method) -> None:
        super().__init__(connection, stream_id)
        self._xds: Stream | None = None
        self._open(method, connection.peer)

    def _open(self, method: Method, peer: Peer) -> None:
        """Register the stream. Raises StreamRefusedError."""
        connection = self.connection
        name = connection.name if method.type_url else ""
        self._xds = connection.services.dispatcher.open(
            method.variant, self, type_url=method.type_url, connection=name, peer=peer
        )

    @property
    def has_asked(self) -> bool:
        return self._xds is None or self._xds.session is not None

    @property
    def is_answered(self) -> bool:
        xds = self._xds
        if xds is None or xds.session is None:
            return True
        return self.rest is None and xds.settled and not any(each.in_flight for each in xds.session.client_state.types)

    def on_message(self, message: bytes) -> None:
        dispatcher, xds = self.connection.services.dispatcher, self._xds
        if xds is None:
            return
        try:
            if dispatcher.hub.take_ack(xds, message, dispatcher.now()):
                return
            names = dispatcher.receive(xds, message)
        except StreamRefusedError as refusal:
            self.refuse(refusal)
        except Exception as error:
            self._fail(error)
        else:
            if names >= NAMES_PER_CHORE:
                self.connection.tired += names
                self.connection.chore(names // NAMES_PER_CHORE)

    def send_cohort(self, hub: Hub) -> bool:
        """Send the response of the stream's whole cohort."""
        xds, connection = self._xds, self.connection
        if xds is None or self.rest is not None or connection.paused:
            return True
        try:
            part = hub.poll_cohort(xds)
            if part is None:
                return False
            self._send_part(part, connection)
        except Exception as error:
            self._fail(error)
        return True

    def ready(self) -> None:
        """Send all pending responses while the client can take more."""
        dispatcher, xds = self.connection.services.dispatcher, self._xds
        try:
            while xds is not None and self.rest is None and not self.connection.paused:
                part = dispatcher.poll(xds)
                if part is None:
                    return
                self._send_part(part, self.connection)
                if xds.settled:
                    return
                xds = self._xds
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End the stream: it was refused, or a bug of ours failed it, which must not affect other streams."""
        if isinstance(error, StreamRefusedError):
            self.end(error.status, error.message)
        else:
            self.connection.services.dispatcher.report_fault(error)
            self.end(Status.INTERNAL, "internal error")

    def _send_part(self, part: Part, connection: CallConnection) -> None:
        """Send a part, framed once for its whole cohort: nearly all clients use stream 1 and have window for it."""
        framed = connection.services.framed
        size = framed.size if framed.part is part else len(part.message) + grpc.PREFIX_BYTES
        if self.id == 1 and size <= self.window and size <= connection.window:
            if framed.part is not part:
                framed.take(part)
            self.window -= size
            connection.window -= size
            connection.write(framed.framed)
        else:
            self.send(framed.prefixed(part))

    def on_writable(self) -> None:
        self.ready()

    def on_end(self) -> None:
        asked = self._xds is not None and self._xds.session is not None
        self.leave("the client ended its stream")
        self.finish(Status.OK)
        if not asked:
            self.connection.charge(CHORES_PER_MALFORMED)

    @property
    def peer_address(self) -> str:
        """Where the client connects from."""
        return self.connection.address

    def probe(self, within_s: float, why: str) -> None:
        """Close the connection for a reason unless its client answers a ping within ``within_s`` seconds."""
        self.connection.probe(within_s, why)

    def leave(self, why: str) -> None:
        xds, self._xds = self._xds, None
        if xds is not None:
            self.connection.services.dispatcher.close(xds, why)
        self.on_gone()

    def on_gone(self) -> None:
        if self._xds is not None:
            self.leave(self.connection.why_lost)


class RefusedCall(Call):
    """A stream that is answered with a status only, after its first message.

    Some clients report a status that arrives before they have sent their first message as an internal error of theirs.
    """

    __slots__ = ("_refusal",)
    reads_messages = False

    def __init__(self, connection: CallConnection, stream_id: int, refusal: StreamRefusedError) -> None:
        super().__init__(connection, stream_id)
        self._refusal = refusal

    def begin(self, head: RequestHead) -> None:
        """Wait for the first message."""

    def take(self, data: bytes) -> None:
        self.count(len(data))
        self.on_end()

    def on_message(self, message: bytes) -> None:
        """Nothing is read."""

    def on_end(self) -> None:
        self.refuse(self._refusal)
        if self._refusal.status is Status.UNAVAILABLE:
            self.connection.on_shed()


class ReplyCall(Call):
    """A unary method, or a stream that answers each message with one. A few messages may wait for answers."""

    __slots__ = ("_ended", "_lacking", "_messages", "_reply", "_task", "_unary")

    def __init__(self, connection: CallConnection, stream_id: int, reply: Reply, *, unary: bool = False) -> None:
        super().__init__(connection, stream_id)
        self._reply = reply
        self._messages: list[bytes] = []
        self._ended = False
        self._unary = unary
        self._lacking = unary  # the one message
        self._task: asyncio.Task[None] | None = None

    @property
    def is_answered(self) -> bool:
        return self.rest is None and self._task is None

    def begin(self, head: RequestHead) -> None:
        """Send nothing yet: an error is sent without headers before it."""

    def on_message(self, message: bytes) -> None:
        if self._unary and not self._lacking:
            self.refuse(StreamRefusedError(Status.INTERNAL, SECOND_MESSAGE))
            return
        if len(self._messages) >= REPLIES_WAITING_MAX:
            self.connection.on_limit("replies")
            self.end(Status.RESOURCE_EXHAUSTED, f"more than {REPLIES_WAITING_MAX} messages wait for their answers")
            return
        self._lacking = False
        self._messages.append(message)
        self.connection.services.waiting.hold(self, message)
        self._go_on()

    def on_end(self) -> None:
        self._ended = True
        self._go_on()

    def on_writable(self) -> None:
        self._go_on()

    def on_gone(self) -> None:
        self._messages.clear()
        self.connection.services.waiting.forget(self)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _go_on(self) -> None:
        if self._task is None and self.can_send:
            if self._messages:
                self._task = asyncio.get_running_loop().create_task(self._answer(self._messages.pop(0)))
            elif self._lacking and self._ended:
                self.finish(Status.INTERNAL, "the request ends before its message")
            elif self._ended:
                self.finish(Status.OK)

    async def _answer(self, message: bytes) -> None:
        try:
            answer = await self._reply(message)
            if not self.local_closed:
                self.start()
                self.send(grpc.prefixed(answer))
        except StreamRefusedError as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.connection.services.dispatcher.report_fault(error)
            self.end(Status.INTERNAL, "internal error")
        finally:
            self._task = None
            self.connection.services.waiting.release(self, message)
        self._go_on()


class HealthWatch(Call):
    """``grpc.health.v1.Health/Watch``: the status at once, and when it changes."""

    __slots__ = ("_asked", "_known", "_told")

    def __init__(self, connection: CallConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._asked = False
        self._known = False
        """Whether the service that it asks for is one of this server's."""
        self._told = 0

    def on_message(self, message: bytes) -> None:
        if self._asked:
            self.refuse(StreamRefusedError(Status.INTERNAL, SECOND_MESSAGE))
            return
        try:
            self._known = self.connection.services.health(message) is not None
        except StreamRefusedError as refusal:
            self.refuse(refusal)
            return
        self._asked = True
        self.connection.services.watchers.add(self)
        self.ready()

    @property
    def has_asked(self) -> bool:
        return self._asked

    def ready(self) -> None:
        """Send the status if it has changed."""
        if not self._asked or not self.can_send:
            return
        status = self.connection.services.status if self._known else UNKNOWN_SERVICE
        if status != self._told:
            self._told = status
            self.send(grpc.prefixed(HealthCheckResponse(status=status).SerializeToString()))

    def on_writable(self) -> None:
        self.ready()

    def on_end(self) -> None:
        if not self._asked:
            self.finish(Status.INVALID_ARGUMENT, "no HealthCheckRequest")

    def on_gone(self) -> None:
        self.connection.services.watchers.discard(self)
