"""A connection over mutual TLS, on memory BIOs: written and flushed in small pieces.

A BIO keeps the size of its largest flush for ever, so pieces of 2 KB keep a connection at 30 KB; asyncio's and uvloop's
own TLS keep 80 KB.
"""

import asyncio
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bench.ladder.program.connection import Connection
from bench.ladder.switches import TLS_ONE_BUFFER

if TYPE_CHECKING:
    from bench.ladder.program.hub import Hub

PIECE_BYTES = 2_048
READ_BYTES = 16_384
SMALL_BYTES = 512
"""More than an ACK takes: a small object is made in a fifth of the time that one of 16 KB takes."""
_BUFFER = bytearray(READ_BYTES)


def context(cert: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """Return the context of a server that wants its clients' certificates."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(cert, key)
    made.set_alpn_protocols(["h2"])
    made.num_tickets = 0
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(client_ca)
    return made


class TlsConnection(Connection):
    """A connection whose bytes go through OpenSSL on both ways."""

    __slots__ = ("incoming", "outgoing", "tls", "up")

    def __init__(self, hub: "Hub", tls_context: ssl.SSLContext) -> None:
        super().__init__(hub)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls_context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.up = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write = self.encrypt

    def encrypt(self, data: bytes) -> None:
        """Write through TLS."""
        if not self.up or self.transport.is_closing():
            return
        write, flush = self.tls.write, self.flush
        if len(data) <= PIECE_BYTES:
            write(data)
            flush()
            return
        view = memoryview(data)
        for at in range(0, len(data), PIECE_BYTES):
            write(view[at : at + PIECE_BYTES])
            flush()

    def flush(self) -> None:
        """Hand what OpenSSL made to the event loop."""
        data = self.outgoing.read()
        if data:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            for at in range(0, len(data), READ_BYTES):
                self.incoming.write(view[at : at + READ_BYTES])
                try:
                    self.decrypt()
                except ssl.SSLWantReadError:  # a record that goes on in the next piece, or the next read
                    self.flush()
        except ssl.SSLError:
            self.flush()  # the alert that says why
            self.transport.close()

    def decrypt(self) -> None:
        """Take what OpenSSL makes of what came."""
        if not self.up:
            self.tls.do_handshake()
            self.up = True
            self.flush()
        if TLS_ONE_BUFFER:
            while self.incoming.pending or self.tls.pending():
                size = cast("int", self.tls.read(READ_BYTES, _BUFFER))
                if not self.decrypted(bytes(memoryview(_BUFFER)[:size])):
                    return
            return
        if not self.decrypted(self.tls.read(SMALL_BYTES)):
            return
        while self.tls.pending() or self.incoming.pending:
            if not self.decrypted(self.tls.read(READ_BYTES)):
                return

    def decrypted(self, data: bytes) -> bool:
        """Take plaintext; none means that the client has closed TLS."""
        if not data:
            self.transport.close()
            return False
        super().data_received(data)
        return True
