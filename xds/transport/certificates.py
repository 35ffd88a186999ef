"""The native transport's TLS context, reloaded when certificate files change.

A new certificate is used for new connections; open ones keep theirs.
"""

import ssl
from collections.abc import Callable

from xds.transport.tls import TlsFiles


class Certificates:
    """The present TLS context. If changed files can't be used, the former context stays in force.

    ``on_problem`` is called with the reason, once per change of the files. The constructor raises OSError or
    ssl.SSLError.
    """

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None]) -> None:
        self._files = files
        self._on_problem = on_problem
        self._stamp = files.stamp_now()
        self._context = _read(files)

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Checking the files' times costs little beside a handshake."""
        if self._files.stamp_now() != self._stamp:
            self.reload()
        return self._context

    def reload(self) -> bool:
        """Reload the files, changed or not; return whether they can be used."""
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
