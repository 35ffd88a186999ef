"""Decides who a client is by its ``authorization`` metadata, on the event loop.

A token that was verified within ``REMEMBERED_S`` is known by its SHA-256, so that a reconnect storm with one token
costs one verification. Other tokens wait for their turn: a few are verified per turn of the event loop, and those whose
algorithm is slow by one thread. So a storm of tokens, good or bad, does not delay the streams that are open.
"""

import asyncio
import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from xds.identity.admission import Done, RefusedTokenError, TokenAdmission
from xds.identity.compact import TokenError
from xds.identity.verifier import Prepared, Verified, Verifier
from xds.model.identity import Peer

REMEMBERED_S = 60.0
REMEMBERED_MAX = 4_096
VERIFYING_S = 0.002
"""Seconds of work per turn of the event loop; a token with RS256 or ES256 takes 0.1 to 0.2 ms."""
WAITING_MAX = 20_000
"""Tokens that may wait at once; beyond, clients are told to try again."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A verified token. Times are on the event loop's clock, which no change of the system's clock moves."""

    peer: Peer
    ends_at: float
    forget_at: float


@dataclass(slots=True, eq=False)
class _Waiting:
    """A token that waits to be verified, and who asks."""

    token: str
    asking: list[Done] = field(default_factory=list)


class TokenGate:
    """Admits clients by their tokens.

    ``make_peer`` makes the peer of an identity. ``now`` is Unix time, which only decides whether a token is valid.
    ``jitter_s``: a stream ends up to so much later than its token, so that a fleet whose tokens were issued together
    does not reconnect at once. ``on_fault`` is called with a bug of ours.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        token_bytes_max: int,
        leeway_s: float,
        jitter_s: float,
        now: Callable[[], float],
        make_peer: Callable[[tuple[str, ...]], Peer] = Peer,
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._verifier = verifier
        self._token_bytes_max = token_bytes_max
        self._leeway_s = leeway_s
        self._jitter_s = jitter_s
        self._now = now
        self._make_peer = make_peer
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._waiting: dict[bytes, _Waiting] = {}
        self._queue: deque[bytes] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self.verified = 0
        """Verifications done, for tests and benchmarks."""

    def admit(self, authorization: str, done: Done) -> TokenAdmission | None:
        """Return the admission of a client whose token is known; else call ``done`` later, in a turn of its own.

        Raises RefusedTokenError for metadata without a token.
        """
        token = self._token_of(authorization)
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None:
            if self._loop.time() < known.forget_at:
                return self._admission(known)
            del self._known[digest]
        waiting = self._waiting.get(digest)
        if waiting is None:
            if len(self._waiting) >= WAITING_MAX:
                raise RefusedTokenError("busy", "too many tokens wait to be verified; try again")
            waiting = self._waiting[digest] = _Waiting(token)
            if not self._queue:
                self._loop.call_soon(self._verify_some)
            self._queue.append(digest)
        waiting.asking.append(done)
        return None

    async def admitted(self, authorization: str) -> TokenAdmission:
        """Return the admission of a client, once its token is verified. Raises RefusedTokenError."""
        outcome: asyncio.Future[TokenAdmission | RefusedTokenError] = self._loop.create_future()
        found: TokenAdmission | RefusedTokenError | None = self.admit(
            authorization, lambda result: None if outcome.done() else outcome.set_result(result)
        )
        found = found or await outcome
        if isinstance(found, RefusedTokenError):
            raise found
        return found

    def stop(self) -> None:
        """Verify nothing more."""
        self._queue.clear()
        self._waiting.clear()
        self._known.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def _token_of(self, authorization: str) -> str:
        if not authorization:
            raise RefusedTokenError("missing", "no token was sent; send the metadata authorization: Bearer TOKEN")
        if len(authorization) > self._token_bytes_max + len("Bearer "):
            raise RefusedTokenError("too large", f"the token has more than {self._token_bytes_max} bytes")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or not token.isascii():
            raise RefusedTokenError("malformed", "the metadata authorization is not Bearer TOKEN")
        return token

    # --- Verifying -------------------------------------------------------------------------------------------------

    def _verify_some(self) -> None:
        """Verify the tokens that have waited longest; the others after the event loop had its turn."""
        until = perf_counter() + VERIFYING_S
        try:
            while self._queue:
                digest = self._queue.popleft()
                self._verify(digest, self._waiting[digest].token)
                if perf_counter() > until:
                    break
        finally:
            if self._queue:
                self._loop.call_soon(self._verify_some)

    def _verify(self, digest: bytes, token: str) -> None:
        try:
            prepared = self._verifier.prepare(token)
            if prepared.key.slow:
                self._verify_on_thread(digest, prepared)
                return
            outcome = prepared.verify()
        except Exception as error:
            self._refuse(digest, error)
        else:
            self._admit(digest, outcome)

    def _verify_on_thread(self, digest: bytes, prepared: Prepared) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._loop.run_in_executor(self._thread, prepared.verify).add_done_callback(
            partial(self._on_thread_done, digest)
        )

    def _on_thread_done(self, digest: bytes, done: "asyncio.Future[Verified]") -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, Exception):
            self._refuse(digest, error)
        elif error is None:
            self._admit(digest, done.result())

    def _admit(self, digest: bytes, verified: Verified) -> None:
        # From now on the loop's clock counts: a change of the system's clock must not end the streams of a fleet.
        now = self._loop.time()
        ends_at = now + verified.expires_at + self._leeway_s - self._now()
        try:
            peer = self._make_peer((verified.name,))
        except Exception as error:
            self._refuse(digest, error)
            return
        known = _Known(peer, ends_at, min(now + REMEMBERED_S, ends_at))
        self._known[digest] = known
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        for done in self._settled(digest):
            self._tell(done, self._admission(known))

    def _refuse(self, digest: bytes, error: Exception) -> None:
        if isinstance(error, TokenError):
            refusal = RefusedTokenError(error.reason, str(error), subject=error.subject)
        else:
            self._on_fault(error)
            refusal = RefusedTokenError("internal", "internal error")
        for done in self._settled(digest):
            self._tell(done, refusal)

    def _tell(self, done: Done, outcome: TokenAdmission | RefusedTokenError) -> None:
        """Tell one who asks; its failure keeps the outcome from nobody else."""
        try:
            done(outcome)
        except Exception as error:
            self._on_fault(error)

    def _settled(self, digest: bytes) -> list[Done]:
        self.verified += 1
        waiting = self._waiting.pop(digest, None)
        return waiting.asking if waiting is not None else []  # none once stopped

    def _admission(self, known: _Known) -> TokenAdmission:
        jitter_s = self._jitter_s * random.random()  # noqa: S311 - spreads load, keeps no secret
        return TokenAdmission(known.peer, known.ends_at + jitter_s)
