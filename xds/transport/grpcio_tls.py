"""TLS of the grpcio transport, with certificates that are read again when their files change.

It does not know gRPC services. A new certificate counts for new connections; open streams keep theirs.
"""

from collections.abc import Callable

import grpc

from xds.transport.tls import TlsFiles


class GrpcioCertificates:
    """Credentials that follow the files. Files that can't be used keep what was read before in force.

    ``on_problem`` is told why, also from gRPC's own threads, once per change of the files. Raises OSError or ValueError
    at the first reading.
    """

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None]) -> None:
        self._files = files
        self._on_problem = on_problem
        self._stamp = files.stamp_now()
        # gRPC takes None for "as it was"; its type stubs do not.
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _read(files),
            self._fetch,  # type: ignore[arg-type]
            require_client_authentication=files.client_ca is not None,
        )

    def reload(self) -> bool:
        """Have the files read again with the next connection, changed or not; say whether they can be used now."""
        self._stamp = ()
        return self._read_again() is not None

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        now = self._files.stamp_now()
        if now == self._stamp:
            return None  # as it was
        self._stamp = now
        return self._read_again()

    def _read_again(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            return _read(self._files)
        except (OSError, ValueError) as error:
            self._on_problem(f"the TLS files can't be read again, so the former ones stay in use: {error}")
            return None


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    _check_pair(files)
    roots = files.client_ca.read_bytes() if files.client_ca is not None else None
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)


def _check_pair(files: TlsFiles) -> None:
    """Refuse a key that is not the certificate's: files are replaced one after the other."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        raise ValueError(f"{files.cert} and {files.key} do not go together ({error.reason})") from None
