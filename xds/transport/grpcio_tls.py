"""TLS of the grpcio transport, with certificates that are read again when their files change.

It does not know gRPC services. A new certificate counts for new connections; open streams keep theirs.
"""

from collections.abc import Callable

import grpc

from xds.transport.tls import TlsFiles


def server_credentials(files: TlsFiles, on_problem: Callable[[str], None]) -> grpc.ServerCredentials:
    """Return credentials that follow the files. Files that can't be used keep what was read before in force.

    ``on_problem`` is told why, from gRPC's own threads, once per change of the files. Raises OSError at first reading.
    """
    stamp = files.stamp()
    first = _read(files)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal stamp
        try:
            now = files.stamp()
            if now == stamp:
                return None  # as it was
            stamp = now
            return _read(files)
        except (OSError, ValueError) as error:
            on_problem(f"the TLS files can't be read again, so the former ones stay in use: {error}")
            return None

    # gRPC takes None for "as it was"; its type stubs do not.
    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=files.client_ca is not None)  # type: ignore[arg-type]


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
