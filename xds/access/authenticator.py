"""Says who is calling: by the one token of ``api.token_file``, a named token, an OIDC token, or a certificate.

A certificate that is not valid any more is refused, whatever else is shown: TLS would refuse it on a new connection.
Else what is shown in the ``authorization`` header decides alone: a token that is not valid is refused, whatever the
certificate says. Files are read again when they have changed; a file that can't be used leaves the former content in
force. Once credentials are asked for, they are until the process ends, also if the files disappear.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from xds.access.errors import (
    AccessFileError,
    InvalidCertificateError,
    UnauthenticatedError,
    UnknownIdentityError,
)
from xds.access.identities import Identities, Proven, one_word, read_identities
from xds.access.last_used import LastUsed
from xds.access.rights import EVERYONE, Caller, Grant
from xds.access.tokens import PREFIX, TOKEN, TokenRecord, hash_of, read_tokens
from xds.identity.issuers import Issuer
from xds.transport.tls import Followed, stamp

log = structlog.get_logger("xds")
TOKEN_BYTES_MAX = 16 * 1024
"""The largest ``authorization`` header that is looked at: OIDC tokens have some KiB."""
SHOW = "show a token: Authorization: Bearer TOKEN"


class NamesOfCertificates(Protocol):
    """Says what client certificates prove, and follows what decides whether they are valid."""

    def __call__(self, shown: Sequence[bytes]) -> tuple[str, ...]:
        """Return the names of a verified certificate, which its intermediates follow.

        Raises UnknownIdentityError, and InvalidCertificateError if it is not valid any more.
        """
        ...

    async def follow(self) -> None:
        """Follow the files of revoked certificates for ever."""
        ...

    def reload(self) -> None:
        """Read them again at once, changed or not."""
        ...


class JwtVerifier(Protocol):
    """Verifies OIDC tokens."""

    def __call__(self, token: str) -> Proven:
        """Return what a token proves: the name ``jwt:ISSUER/SUBJECT``. Raises UnknownIdentityError."""
        ...


class _File:
    """A file of access, which is read again once it has changed, or while it can't be used."""

    __slots__ = ("followed", "is_there", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.followed = Followed(lambda: stamp((path,)), clock=time.monotonic)
        self.followed.forget()  # it is still to be read for the first time
        self.is_there = False
        """Whether it was there at the last reading."""


class Authenticator:
    """Authenticates the callers of the push API. Without files and verifiers it asks for nothing.

    ``is_needed``: credentials are asked for also while there is no file of tokens. ``names_of`` returns the names that
    a client certificate proves; without it, certificates are not looked at. The constructor raises AccessFileError if
    a file that is there can't be used.
    """

    def __init__(
        self,
        token_file: Path | None = None,
        *,
        tokens_file: Path | None = None,
        identities_file: Path | None = None,
        names_of: NamesOfCertificates | None = None,
        is_needed: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._single = None if token_file is None else _File(token_file)
        self._single_hash = b""
        self._tokens = None if tokens_file is None else _File(tokens_file)
        self._records: dict[str, tuple[TokenRecord, Caller]] = {}
        self.last_used = None if tokens_file is None else LastUsed(tokens_file, clock=clock)
        self._mapped = None if identities_file is None else _File(identities_file)
        self._identities = Identities()
        self._issuers: tuple[Issuer, ...] | None = None
        self.names_of = names_of
        self.verify_jwt: JwtVerifier | None = None
        """Verifies OIDC tokens of the ``issuers``; none is accepted without it."""
        self._clock = clock
        self._needed = is_needed or token_file is not None or identities_file is not None
        self.refresh(at_start=True)

    @property
    def is_needed(self) -> bool:
        """Whether callers must say who they are."""
        if not self._needed:
            self.refresh()
        return self._needed

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """The issuers of OIDC tokens that the file of identities had at the start."""
        return self._issuers or ()

    @property
    def token_ids(self) -> tuple[str, ...]:
        """The ids of all named tokens."""
        return tuple(record.id for record, _ in self._records.values())

    def reload(self) -> bool:
        """Read all files again, changed or not; return whether there are any and they can be used."""
        files = [each for each in (self._single, self._tokens, self._mapped) if each is not None]
        for each in files:
            each.followed.forget()
        self.refresh()
        if self.names_of is not None:
            self.names_of.reload()
        read = [each for each in files if each.is_there]
        return bool(read) and not any(each.followed.problem for each in read)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why files could not be read again, for operators."""
        files = (self._single, self._tokens, self._mapped)
        return tuple(each.followed.problem for each in files if each is not None and each.followed.problem)

    def authenticate(self, authorization: str, certificates: Sequence[bytes] = ()) -> Caller:
        """Return who shows an ``Authorization`` header, "" for none, and a client certificate.

        ``certificates`` has the certificate, which TLS has verified, and the intermediates that came with it; DER or
        PEM; () without one. Raises UnauthenticatedError.
        """
        self.refresh()
        names = self._names(certificates) if certificates and self.names_of is not None else None
        if not self._needed:
            return EVERYONE
        if authorization:
            return self._by_token(authorization)
        if names is None:
            raise UnauthenticatedError(SHOW, reason="no credentials")
        if isinstance(names, UnknownIdentityError):
            raise UnauthenticatedError(str(names), reason="refused certificate")
        return self._mapped_caller(Proven(names, {}), "certificate")

    # --- One caller --------------------------------------------------------------------------------------------------

    def _by_token(self, authorization: str) -> Caller:
        scheme, _, shown = authorization.partition(" ")
        shown = shown.strip()
        if scheme.lower() != "bearer" or not shown or len(shown) > TOKEN_BYTES_MAX:
            raise UnauthenticatedError(SHOW, reason="malformed credentials")
        hashed = hash_of(shown)
        if self._single_hash and hmac.compare_digest(hashed.encode(), self._single_hash):
            return SINGLE
        # Nobody can choose a token by its hash, so the time of the look-up tells nothing of the tokens that there are.
        found = self._records.get(hashed)
        if found is not None:
            record, caller = found
            state = record.state(self._clock())
            if state == "valid":
                if self.last_used is not None:
                    self.last_used.note(record.id)
                return caller
            text = f"the token {record.name!r} {'has expired' if state == 'expired' else 'was revoked'}"
            raise UnauthenticatedError(text, reason=f"{state} token", who=caller.identity)
        if self.verify_jwt is not None and not shown.startswith(PREFIX) and shown.count(".") == 2:
            return self._by_jwt(self.verify_jwt, shown)
        if TOKEN.fullmatch(shown):
            raise UnauthenticatedError("this server does not know the token", reason="unknown token")
        raise UnauthenticatedError(f"the token is wrong; {SHOW}", reason="unknown token")

    def _by_jwt(self, verify: JwtVerifier, token: str) -> Caller:
        try:
            proven = verify(token)
        except UnknownIdentityError as error:
            raise UnauthenticatedError(f"the token is refused: {error}", reason="refused OIDC token") from None
        return self._mapped_caller(proven, "OIDC token")

    def _names(self, certificates: Sequence[bytes]) -> tuple[str, ...] | UnknownIdentityError:
        """Return the names of a valid certificate, or why it proves none. Raises UnauthenticatedError."""
        assert self.names_of is not None
        try:
            return self.names_of(certificates)
        except InvalidCertificateError as error:
            reason = f"{error.reason} certificate"
            raise UnauthenticatedError(str(error), reason=reason, ends_connection=True) from None
        except UnknownIdentityError as error:
            return error

    def _mapped_caller(self, proven: Proven, what: str) -> Caller:
        caller = self._identities.caller(proven.names, proven.claims)
        if caller is None:
            who = ", ".join(proven.names)[:500] or "nobody"
            raise UnauthenticatedError(
                f"no entry of access.identities_file is for this {what}, which names {who}",
                reason=f"unmapped {what}",
                who=",".join(map(one_word, proven.names))[:500] or "nobody",
            )
        return caller

    # --- Files -------------------------------------------------------------------------------------------------------

    def refresh(self, *, at_start: bool = False) -> None:
        """Read the files that have changed. At the start, raises AccessFileError."""
        for file, read in (
            (self._single, self._read_single),
            (self._tokens, self._read_tokens),
            (self._mapped, self._read_identities),
        ):
            if file is None or not file.followed.is_due():
                continue
            file.is_there = True
            try:
                read(file.path)
                file.followed.note()
            except FileNotFoundError:  # it is being replaced, or is gone: what was read stays in force
                file.is_there = False
            except (AccessFileError, OSError) as error:
                if at_start and isinstance(error, AccessFileError):
                    raise
                if file.followed.note(str(error)):
                    log.error("access file not read again; what it had stays in force", problem=str(error)[:2_000])

    def _read_single(self, path: Path) -> None:
        token = path.read_bytes().strip()
        self._single_hash = hashlib.sha256(token).hexdigest().encode() if token else b""

    def _read_tokens(self, path: Path) -> None:
        self._records = {each.sha256: (each, each.caller) for each in read_tokens(path)}
        self._needed = True

    def _read_identities(self, path: Path) -> None:
        read = read_identities(path)
        if self._issuers is None:
            self._issuers = read.issuers
        elif read.issuers != self._issuers:
            raise AccessFileError(f"{path}: the issuers have changed, which needs a restart")
        self._identities = read


SINGLE = Caller("token-file", (Grant(("admin",)),), "token-file")
"""The caller with the token of ``api.token_file``."""
