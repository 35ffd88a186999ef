"""xDS streams of clients that show who they are by a token in their metadata."""

from xds.identity.admission import RefusedTokenError, TokenAdmission
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import Method
from xds.transport.calls import Call, CallConnection, Reply, XdsCall
from xds.transport.http2.faults import ConnectionFault
from xds.transport.http2.headers import RequestHead
from xds.transport.http2.stream import Http2Stream
from xds.transport.tokens import Tokens, refusal_of

MESSAGES_WAITING_MAX = 64
"""Maximum messages kept while a token is verified: a reconnecting Envoy sends one or two for each type."""


class TokenCalls:
    """Makes the calls of a native transport."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def xds(self, connection: CallConnection, stream_id: int, method: Method) -> Http2Stream:
        """Return an xDS stream that waits for its token to be verified."""
        return TokenCall(connection, stream_id, method, self.tokens)

    def guarded(self, reply: Reply, authorization: str, address: str) -> Reply:
        """Return a method that answers only while the token of its call is valid."""

        async def answer(message: bytes) -> bytes:
            try:
                await self.tokens.gate.admitted(authorization)
            except RefusedTokenError as error:
                self.tokens.on_refusal(address, error)
                raise refusal_of(error) from None
            return await reply(message)

        return answer


class TokenCall(XdsCall):
    """An xDS stream that begins once its client's token is verified, and ends soon after the token has expired.

    A refusal waits for the client's first message, as that of a ``RefusedCall`` does.
    """

    __slots__ = ("_ends_at", "_messages", "_method", "_refusal", "_tokens")

    def __init__(self, connection: CallConnection, stream_id: int, method: Method, tokens: Tokens) -> None:
        Call.__init__(self, connection, stream_id)  # the stream is opened later
        self._xds = None
        self._method = method
        self._tokens = tokens
        self._messages: list[bytes] | None = []
        """What the client has sent so far; None once the stream is open or over."""
        self._refusal: StreamRefusedError | None = None
        self._ends_at = 0.0

    @property
    def has_asked(self) -> bool:
        return self._refusal is None and self._messages is None and super().has_asked

    def begin(self, head: RequestHead) -> None:
        """Have the token verified."""
        try:
            admission = self._tokens.gate.admit(head.authorization, self._on_outcome)
        except RefusedTokenError as error:
            self._deny(error)
            return
        if admission is not None:
            self._admit(admission)

    def _on_outcome(self, outcome: TokenAdmission | RefusedTokenError) -> None:
        """Go on once the token is verified, outside of the processing of frames."""
        if self._messages is None:
            return  # it has ended meanwhile
        try:
            if isinstance(outcome, RefusedTokenError):
                self._deny(outcome)
            else:
                self._admit(outcome)
        except ConnectionFault as fault:
            self.connection.fail(fault.code, fault.text)

    def _admit(self, admission: TokenAdmission) -> None:
        messages = self._take_waiting()
        try:
            self._open(self._method, admission.peer)
        except StreamRefusedError as refusal:
            self._refuse_later(refusal, messages)
            return
        self._ends_at = admission.ends_at
        self._tokens.expiry.add(self, admission.ends_at)
        self.start()
        for message in messages:
            super().on_message(message)
        if self.remote_closed and not self.over:
            super().on_end()

    def _deny(self, error: RefusedTokenError) -> None:
        self._tokens.on_refusal(self.connection.address, error)
        self._refuse_later(refusal_of(error), self._take_waiting())

    def _take_waiting(self) -> list[bytes]:
        """Return the messages that have waited. From now on none waits."""
        self.connection.services.waiting.forget(self)
        messages, self._messages = self._messages or [], None
        return messages

    def _refuse_later(self, refusal: StreamRefusedError, messages: list[bytes]) -> None:
        self._refusal = refusal
        if messages or self.remote_closed:
            self._refuse_now()

    def on_message(self, message: bytes) -> None:
        if self._messages is None:
            if self._refusal is None:
                super().on_message(message)
            else:
                self._refuse_now()
        elif len(self._messages) >= MESSAGES_WAITING_MAX:
            self.refuse(StreamRefusedError(Status.RESOURCE_EXHAUSTED, "too many messages before the first answer"))
        else:
            self._messages.append(message)
            self.connection.services.waiting.hold(self, message)

    def on_end(self) -> None:
        if self._refusal is not None:
            self._refuse_now()
        elif self._messages is None:
            super().on_end()

    def _refuse_now(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            self.refuse(refusal)
            if refusal.status is Status.UNAVAILABLE:
                self.connection.on_shed()

    def on_gone(self) -> None:
        self._take_waiting()
        self._tokens.expiry.discard(self, self._ends_at)
        super().on_gone()
