"""OIDC tokens of people and systems: verified with the keys of the issuers that the file of identities has.

A token that was verified is remembered by its hash until it expires, so that it costs one look-up again.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from xds.access.errors import UnknownIdentityError
from xds.access.identities import Proven
from xds.identity.compact import TokenError
from xds.identity.issuers import Issuer
from xds.identity.key_source import KeySource, keys_of
from xds.identity.keys import KeySet
from xds.identity.verifier import Verified, Verifier
from xds.process.background import Background

log = structlog.get_logger("xds")
PROBLEM_LOGGED_EVERY_S = 600.0
"""The least time between two lines about the same problem with an issuer's keys."""
KEYS_INTERVAL_S, FETCH_TIMEOUT_S, LEEWAY_S = 300.0, 10.0, 30.0
KNOWN_MAX = 1_000


class OidcTokens:
    """Verifies OIDC tokens. ``start`` reads the keys of all issuers, and follows them."""

    def __init__(self, issuers: tuple[Issuer, ...], *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sources: list[tuple[Issuer, KeySource]] = [(each, self._source(each)) for each in issuers]
        self._verifier = Verifier(self._sources, leeway_s=LEEWAY_S, now=clock)
        self._known: OrderedDict[bytes, Verified] = OrderedDict()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why keys of issuers can't be read, for operators: no issuer's own words, as ``/readyz`` shows it."""
        return tuple(
            f"the keys of the issuer {issuer.name!r} can't be read: "
            + ("its tokens are refused" if source.current is None else "those read before stay in use")
            for issuer, source in self._sources
            if source.problem
        )

    async def start(self, background: Background) -> None:
        """Read the keys of all issuers once, and follow them from now on."""
        for issuer, source in self._sources:
            await source.refresh()
            background.keep(f"follow the keys of issuer {issuer.name}", source.follow)

    def __call__(self, token: str) -> Proven:
        """Return what a token proves. Raises UnknownIdentityError."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None or known.expires_at + LEEWAY_S <= self._clock():
            self._known.pop(digest, None)
            try:
                known = self._verifier.verify(token)
            except TokenError as error:
                raise UnknownIdentityError(str(error)) from None
            self._known[digest] = known
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return Proven((known.name,), known.claims)

    def _source(self, issuer: Issuer) -> KeySource:
        logged: tuple[str, float] = "", 0.0
        """The problem that was logged last, and when."""

        def on_problem(problem: str) -> None:
            nonlocal logged
            now = self._clock()
            if problem != logged[0] or not 0 <= now - logged[1] < PROBLEM_LOGGED_EVERY_S:
                logged = problem, now
                what = "keys of an issuer can't be read; those read before stay in use"
                log.error(what, issuer=issuer.name, problem=problem)

        def on_read(_: KeySet) -> None:
            self._known.clear()  # a key may be gone

        options = {"interval_s": KEYS_INTERVAL_S, "timeout_s": FETCH_TIMEOUT_S}
        return keys_of(issuer, on_problem=on_problem, on_read=on_read, **options)
