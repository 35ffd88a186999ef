"""A TLS 1.3 client that asks for new keys as often as it likes (RFC 8446, 4.6.3), which no TLS library offers.

The library does the handshake and tells the client's secret; the records after it are made here.
"""

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

APPLICATION_DATA, HANDSHAKE = 23, 22
KEY_UPDATE = 24
UPDATE_REQUESTED = 1
SUITES = {"TLS_AES_128_GCM_SHA256": ("sha256", 16), "TLS_AES_256_GCM_SHA384": ("sha384", 32)}
"""The hash and the bytes of a key of each cipher suite."""


class KeyUpdater:
    """One connection: ``records`` are its next records, ``socket`` takes them. It reads nothing by itself."""

    def __init__(self, port: int, context: ssl.SSLContext, keys: Path, *, receive_buffer_bytes: int = 0) -> None:
        context.set_alpn_protocols(["h2"])
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(keys)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self._hash, self._key_bytes = SUITES[self._handshake(context)]
        line = next(line for line in keys.read_text().splitlines() if line.startswith("CLIENT_TRAFFIC_SECRET_0 "))
        self._use(bytes.fromhex(line.split()[2]))

    def records(self, count: int) -> Iterator[bytes]:
        """Yield records that each ask for the server's next keys."""
        for _ in range(count):
            yield self._record(HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, UPDATE_REQUESTED)))
            self._use(self._expand("traffic upd", hashlib.new(self._hash).digest_size))

    def data(self, payload: bytes) -> bytes:
        """Return a record with data."""
        return self._record(APPLICATION_DATA, payload)

    def _handshake(self, context: ssl.SSLContext) -> str:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.socket.sendall(outgoing.read())
                incoming.write(self.socket.recv(16_384))
        self.socket.sendall(outgoing.read())
        cipher = tls.cipher()
        assert cipher is not None
        return cipher[0]

    def _use(self, secret: bytes) -> None:
        self._secret, self._sent = secret, 0
        self._cipher = AESGCM(self._expand("key", self._key_bytes))
        self._iv = int.from_bytes(self._expand("iv", 12))

    def _expand(self, label: str, size: int) -> bytes:
        """Return HKDF-Expand-Label of the secret (RFC 8446, 7.1), of at most one hash."""
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2) + bytes((len(name),)) + name + b"\0\x01"
        return hmac.digest(self._secret, info, self._hash)[:size]

    def _record(self, kind: int, payload: bytes) -> bytes:
        header = bytes((APPLICATION_DATA, 3, 3)) + (len(payload) + 17).to_bytes(2)
        nonce = (self._iv ^ self._sent).to_bytes(12)
        self._sent += 1
        return header + self._cipher.encrypt(nonce, payload + bytes((kind,)), header)
