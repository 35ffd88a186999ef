"""The grpcio transport's credentials, reloaded when certificate files change.

A new certificate is used for new connections; open streams keep theirs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from xds.model.identity import Peer
from xds.transport.tls import Followed, TlsFiles

if TYPE_CHECKING:
    from xds.transport.client_certificates import ClientCertificate, ClientCertificates

CERTIFICATE = "x509_pem_cert"
"""The client's certificate in a call's auth context (GRPC_X509_PEM_CERT_PROPERTY_NAME)."""
CHAIN = "x509_pem_cert_chain"
"""The intermediates that came with it, in one text (GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME)."""


class GrpcioCertificates:
    """Credentials that follow the files. If changed files can't be used, the former credentials stay in force.

    ``make_peer`` makes the peer of a client's identity. ``on_problem`` is called with the reason, also from gRPC's own
    threads, once for each reason. The constructor raises OSError or ValueError.
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
        # gRPC takes None for "as it was"; its type stubs do not.
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _read(files),
            self._fetch,  # type: ignore[arg-type]
            require_client_authentication=files.is_mutual,
        )
        self.clients: ClientCertificates | None = None
        """What client certificates are examined with; None if clients need none."""
        if files.is_mutual:
            from xds.transport import client_certificates  # cryptography takes a few MB

            self.clients = client_certificates.ClientCertificates(files, on_problem, make_peer=make_peer)

    def examine(self, context: Any) -> "ClientCertificate | None":
        """Return what the certificate of a call's client says; None if clients need none.

        gRPC does not tell when the call's connection was made. So the present CAs must vouch for each certificate.
        """
        if self.clients is None:
            return None
        self.clients.follow_authorities()
        shown = certificates_of(context) or (b"",)
        return self.clients.examine(shown[0], lambda: shown[1:], verifies=True)

    def examine_again(self, client: "ClientCertificate", context: Any) -> "ClientCertificate":
        """Return what the client's certificate of an open call says now."""
        assert self.clients is not None, "it was examined"
        checked = self.clients.checked(client)
        if not self.clients.must_be_examined_again(checked):
            return checked
        return self.examine(context) or checked

    def reload(self) -> bool:
        """Reload the files with the next connection, changed or not; return whether they can be used now."""
        self._followed.forget()
        return self._read_again() is not None

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        return self._read_again() if self._followed.is_due() else None  # as it was

    def _read_again(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            configuration = _read(self._files)
            if self.clients is not None:
                self.clients.reload_authorities()
        except (OSError, ValueError) as error:
            if self._followed.note(str(error)):
                self._on_problem(f"the TLS files can't be read again, so the former ones stay in use: {error}")
            return None
        self._followed.note()
        return configuration


def certificates_of(context: Any) -> tuple[bytes, ...]:
    """Return the certificate of a call's client, then the intermediates that came with it, as PEM; () without one."""
    shown = context.auth_context()
    if CERTIFICATE not in shown:
        return ()
    from xds.transport.client_certificates import split_pem

    return (*shown.get(CERTIFICATE, ())[:1], *(each for text in shown.get(CHAIN, ()) for each in split_pem(text)))


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    _check_pair(files)
    roots = b"\n".join(path.read_bytes() for path in files.authorities) or None
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)


def _check_pair(files: TlsFiles) -> None:
    """Raise ValueError if the key does not match the certificate: files are replaced one after the other."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        raise ValueError(f"{files.cert} and {files.key} do not go together ({error.reason})") from None
    for path in files.authorities:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise ValueError(f"{path} is not a PEM file of CA certificates ({error.reason})") from None
