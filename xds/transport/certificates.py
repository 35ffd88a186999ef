"""The native transport's TLS context, reloaded when certificate files change.

A new certificate is used for new connections; open ones keep theirs.
"""

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from xds.model.identity import Peer
from xds.transport.tls import Followed, TlsFiles

if TYPE_CHECKING:
    from xds.transport.client_certificates import ClientCertificate, ClientCertificates


class Certificates:
    """The present TLS context. If changed files can't be used, the former context stays in force.

    ``make_peer`` makes the peer of a client's identity. ``on_problem`` is called with the reason, once for each
    reason. The constructor raises OSError or ValueError; ssl.SSLError is an OSError.
    """

    def __init__(
        self,
        files: TlsFiles,
        on_problem: Callable[[str], None],
        *,
        make_peer: Callable[[tuple[str, ...]], Peer] = Peer,
    ) -> None:
        self._files = files
        self._on_problem = on_problem
        self._followed = Followed(files.stamp_now)
        self._context = _read(files)
        self.clients: ClientCertificates | None = None
        """What client certificates are examined with; None if clients need none."""
        if files.is_mutual:
            from xds.transport import client_certificates  # cryptography takes a few MB

            self.clients = client_certificates.ClientCertificates(files, on_problem, make_peer=make_peer)

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Checking the files' times costs little beside a handshake."""
        if self._followed.is_due():
            self._read_again()
        return self._context

    def reload(self) -> bool:
        """Reload the files, changed or not; return whether they can be used."""
        self._followed.forget()
        self._followed.is_due()
        return self._read_again()

    def _read_again(self) -> bool:
        try:
            context = _read(self._files)
            if self.clients is not None:
                self.clients.reload_authorities()
        except (OSError, ValueError) as error:
            if self._followed.note(str(error)):
                self._on_problem(f"the TLS files can't be read again, so the former ones stay in use: {error}")
            return False
        self._followed.note()
        self._context = context
        return True

    def examine(self, tls: ssl.SSLObject) -> "ClientCertificate | None":
        """Return what the client's certificate says, once the handshake is done; None if clients need none."""
        if self.clients is None:
            return None
        # The files may have changed during the handshake.
        return self._examine(self.clients, tls, verifies=tls.context is not self._context)

    def examine_again(self, client: "ClientCertificate", tls: ssl.SSLObject) -> "ClientCertificate":
        """Return what the client's certificate of an open connection says now."""
        assert self.clients is not None, "it was examined"
        checked = self.clients.checked(client)
        if not self.clients.must_be_examined_again(checked):
            return checked
        return self._examine(self.clients, tls, verifies=True)

    def _examine(self, clients: "ClientCertificates", tls: ssl.SSLObject, *, verifies: bool) -> "ClientCertificate":
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None, "the context requires one"
        return clients.examine(certificate, lambda: intermediates_of(tls), verifies=verifies)


def why_unusable(files: TlsFiles) -> str:
    """Return why the files can't be used for a port, "" if they can be."""
    try:
        _read(files)
        if files.is_mutual:
            from xds.transport.client_certificates import ClientCertificates

            ClientCertificates(files, lambda _: None)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def intermediates_of(tls: ssl.SSLObject) -> list[bytes]:
    """Return the certificates that came with the client's own, as DER."""
    if hasattr(tls, "get_unverified_chain"):  # since Python 3.13
        return list(tls.get_unverified_chain()[1:])
    # Before, only the object that the public one wraps has the method.
    chain = tls._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in chain[1:]]


def _read(files: TlsFiles) -> ssl.SSLContext:
    return server_context(files, "h2", keeps_chain=bool(files.trust_domains or files.crls))


def server_context(
    files: TlsFiles,
    protocol: str,
    *,
    keeps_chain: bool,
    verify_mode: ssl.VerifyMode = ssl.CERT_REQUIRED,
) -> ssl.SSLContext:
    """Return a context for a port's connections, for one ALPN protocol. Raises OSError.

    ``keeps_chain``: the intermediates that a client sent are still known after its session was resumed.
    ``verify_mode`` says whether clients must show a certificate, if there are CAs for them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    context.num_tickets = 0
    if keeps_chain:
        # A session resumed by a ticket (TLS 1.2) has lost them.
        context.options |= ssl.OP_NO_TICKET
    # The empty password keeps an encrypted key from asking for one on the terminal.
    context.load_cert_chain(files.cert, files.key, password="")
    for path in files.authorities:
        context.load_verify_locations(path)
    if files.is_mutual:
        context.verify_mode = verify_mode
    return context
