"""The names that a client certificate proves, of every kind that patterns can be for. TLS has verified it before."""

from collections import OrderedDict

from xds.access.errors import UnknownIdentityError
from xds.transport.client_certificates import CertificateRefusedError, identity_of, parsed, refuse_authority
from xds.transport.tls import CertificateName

KNOWN_MAX = 1_000
KINDS: tuple[CertificateName, ...] = ("spiffe", "dns", "cn")


class CertificateNames:
    """Returns the names of certificates, DER or PEM, and remembers those of the last ones."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()

    def __call__(self, certificate: bytes) -> tuple[str, ...]:
        """Return ``spiffe://…``, ``dns:…`` and ``cn:…`` names. Raises UnknownIdentityError."""
        names = self._known.get(certificate)
        if names is None:
            names = self._known[certificate] = names_of(certificate)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return names


def names_of(certificate: bytes) -> tuple[str, ...]:
    """Return the names of a certificate, the SPIFFE ID first. Raises UnknownIdentityError."""
    try:
        leaf = parsed(certificate)
        refuse_authority(leaf.extensions)
        return tuple(name for kind in KINDS for name in identity_of(leaf, kind))
    except CertificateRefusedError as error:
        raise UnknownIdentityError(f"the client certificate is refused: {error}") from None
    except Exception as error:  # whatever a library finds in it, it is not accepted
        raise UnknownIdentityError(f"the client certificate can't be read: {str(error)[:500]}") from None
