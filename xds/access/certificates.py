"""The names that a client certificate proves, of every kind that patterns can be for, as long as it is valid.

TLS verifies a certificate when its connection is made. Here it is looked at with every call, so that one that expires,
is revoked, or loses its CA has no rights on an open connection either.
"""

from collections.abc import Callable, Sequence

from xds.access.errors import InvalidCertificateError, UnknownIdentityError
from xds.transport.client_certificates import ClientCertificates
from xds.transport.revocation_watch import RevocationWatch
from xds.transport.tls import CertificateName, TlsFiles

KINDS: tuple[CertificateName, ...] = ("spiffe", "dns", "cn")
INVALID = frozenset({"expired", "revoked", "untrusted"})
"""The reasons by which TLS itself would refuse a new connection, or should."""


class CertificateNames:
    """Returns the names of certificates, and remembers those of the last ones.

    ``files`` has the CAs of the callers, and what is revoked. ``on_problem`` is called if changed files can't be used;
    the former ones stay in force then. The constructor raises OSError or ValueError.
    """

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None]) -> None:
        self._clients = ClientCertificates(files, on_problem, names=KINDS)
        self._revocations = RevocationWatch(self._clients, on_change=lambda: None, on_problem=on_problem)

    async def follow(self) -> None:
        """Read the files of revoked certificates when they change, for ever."""
        await self._revocations.follow()

    def reload(self) -> None:
        """Read the files of revoked certificates again at once, changed or not."""
        self._revocations.look_soon()

    def __call__(self, shown: Sequence[bytes]) -> tuple[str, ...]:
        """Return the ``spiffe://…``, ``dns:…`` and ``cn:…`` names of a client's certificate, the SPIFFE ID first.

        It is followed by the intermediates that came with it; all are DER or PEM. Raises UnknownIdentityError, and
        InvalidCertificateError if it has expired, is revoked, or no CA vouches for it any more.
        """
        self._clients.follow_authorities()
        client = self._clients.examine(shown[0], lambda: shown[1:], verifies=True)
        if client.reason in INVALID:
            raise InvalidCertificateError(client.refusal, reason=client.reason)
        if client.reason:
            raise UnknownIdentityError(client.refusal)
        return client.peer.identity
