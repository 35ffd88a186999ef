"""The tokens of clients in one process: keys of the issuers, the gate, and what is logged and counted of them."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from xds.identity.admission import RefusedTokenError
from xds.identity.gate import TokenGate
from xds.identity.issuers import Issuer
from xds.identity.key_source import KeySource, keys_of
from xds.identity.verifier import Verifier
from xds.model.identity import Peer
from xds.process.background import Background
from xds.protocol.status import Counters
from xds.reporting.events import log_fault, log_keys, log_keys_problem, log_refused_token
from xds.transport.stream_expiry import StreamExpiry
from xds.transport.tokens import Tokens

if TYPE_CHECKING:
    from xds.config import Settings


class NodeTokens:
    """Admits clients by their tokens, from ``start`` to ``stop``. Create it on the event loop."""

    def __init__(self, settings: "Settings", counters: Counters, make_peer: Callable[[tuple[str, ...]], Peer]) -> None:
        identity = settings.identity
        self._counters = counters
        self._background = Background()
        self._tasks: list[asyncio.Task[None]] = []
        issuers = [each.of_identity for each in identity.issuers]
        self._keys = {issuer.name: (issuer, self._source(issuer, settings)) for issuer in issuers}
        self._gate = TokenGate(
            Verifier(list(self._keys.values()), leeway_s=identity.leeway_s, now=time.time),
            token_bytes_max=identity.token_bytes_max,
            leeway_s=identity.leeway_s,
            jitter_s=identity.expiry_jitter_s,
            now=time.time,
            make_peer=make_peer,
            on_fault=log_fault,
        )
        self._expiry = StreamExpiry(asyncio.get_running_loop(), on_end=self._note_expired)
        self.tokens = Tokens(self._gate, self._expiry, self._note_refusal)
        """For the transport."""

    def _source(self, issuer: Issuer, settings: "Settings") -> KeySource:
        return keys_of(
            issuer,
            interval_s=settings.identity.keys_interval_s,
            timeout_s=settings.identity.keys_timeout_s,
            on_problem=partial(self._note_problem, issuer),
            on_read=lambda keys: log_keys(issuer.name, len(keys), keys.skipped),
        )

    async def start(self) -> None:
        """Read the keys of all issuers, and follow them. It takes no longer than one fetch may, and does not fail."""
        async with asyncio.TaskGroup() as group:
            for _, source in self._keys.values():
                group.create_task(source.refresh())
        for name, (_, source) in self._keys.items():
            self._tasks.append(self._background.keep(f"keys of issuer {name}", source.follow))

    async def stop(self) -> None:
        """Follow no keys, verify no tokens, and end no streams any more."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._gate.stop()
        self._expiry.stop()

    def _note_problem(self, issuer: Issuer, problem: str) -> None:
        self._counters.keys_failed[issuer.name] += 1
        _, source = self._keys[issuer.name]
        where = issuer.jwks_url or str(issuer.jwks_file)
        age_s = None if source.read_at is None else round(time.monotonic() - source.read_at)
        log_keys_problem(issuer.name, where, problem, age_s)

    def _note_refusal(self, client: str, error: RefusedTokenError) -> None:
        self._counters.tokens_refused[error.reason] += 1
        log_refused_token(client, error.subject, error.reason, str(error))

    def _note_expired(self) -> None:
        self._counters.tokens_expired += 1
