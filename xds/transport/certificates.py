"""TLS of the native transport, with certificates that are read again when their files change.

It does not know connections. A new certificate counts for new connections; open ones keep theirs.
"""

import ssl
from collections.abc import Callable

from xds.transport.tls import TlsFiles


class Certificates:
    """The present TLS context. Files that can't be used keep what was read before in force.

    ``on_problem`` is told why, once per change of the files. Raises OSError or ssl.SSLError at the first reading.
    """

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None]) -> None:
        self._files = files
        self._on_problem = on_problem
        self._stamp = files.stamp_now()
        self._context = _read(files)

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Looking at the files' times is little beside its handshake."""
        if self._files.stamp_now() != self._stamp:
            self.reload()
        return self._context

    def reload(self) -> bool:
        """Read the files again, changed or not; say whether they can be used."""
        self._stamp = self._files.stamp_now()
        try:
            self._context = _read(self._files)
        except (OSError, ssl.SSLError) as error:
            self._on_problem(f"the TLS files can't be read again, so the former ones stay in use: {error}")
            return False
        return True


def _read(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.num_tickets = 0
    # The empty password keeps an encrypted key from asking for one on the terminal.
    context.load_cert_chain(files.cert, files.key, password="")
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
