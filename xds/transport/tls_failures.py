"""Failed TLS handshakes and refused client certificates: the reasons, for operators and for metrics."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """A handshake that failed, or a client certificate that was refused, on one of the server's ports."""

    reason: str
    """One of a few words, for metrics."""
    text: str
    """What happened, for operators."""
    peer: str = ""
    """The address of the client."""


OnTlsFailure = Callable[[TlsFailure], None]


def ignore_failure(_: TlsFailure) -> None:
    """Report a failure to nobody."""


@dataclass(frozen=True, slots=True)
class _Why:
    reason: str
    text: str


_NOT_TLS = _Why("not TLS", "the client does not speak TLS; give it the server's CA")
_NO_CERTIFICATE = _Why("no certificate", "the client showed no certificate; give it one of a CA of tls.client_ca")
_VERSION = _Why(
    "version", "client and server have no TLS version or cipher in common; the server takes TLS 1.2 and 1.3"
)
_DISTRUSTED = _Why(
    "server certificate refused",
    "the client refuses the server's certificate: it does not trust its CA, or connects by a name that is not in it",
)
_EXPIRED = _Why("expired", "the client's certificate has expired")
_UNTRUSTED = _Why("untrusted", "the client's certificate is not signed by a CA that this server trusts")
_UNFIT = _Why("unfit", "the client's certificate, or one of its CAs, may not be used for this")
_INVALID = _Why("invalid certificate", "the client's certificate is not valid")
_OTHER = _Why("other", "the TLS handshake failed")
LEFT = _Why("left", "the client closed the connection during the TLS handshake")
NO_TLS = _Why("TLS to plaintext", "the client speaks TLS, and this port has no certificate (tls.cert) and does not")
LATE = _Why("late", "the client did not complete the TLS handshake in time")

_BY_REASON: dict[str, _Why] = {
    **dict.fromkeys(
        ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"), _NOT_TLS
    ),
    **dict.fromkeys(("RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE", "BAD_RECORD_TYPE"), _NOT_TLS),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _NO_CERTIFICATE,
    **dict.fromkeys(
        ("UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE"), _VERSION
    ),
    **dict.fromkeys(
        ("TLSV1_ALERT_PROTOCOL_VERSION", "NO_SUITABLE_SIGNATURE_ALGORITHM", "NO_SUITABLE_GROUPS"), _VERSION
    ),
    **dict.fromkeys(("TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE"), _DISTRUSTED),
    **dict.fromkeys(("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_CERTIFICATE_EXPIRED"), _DISTRUSTED),
    **dict.fromkeys(("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_REVOKED"), _DISTRUSTED),
    **dict.fromkeys(("TLSV1_ALERT_ACCESS_DENIED", "TLSV1_ALERT_DECRYPT_ERROR"), _DISTRUSTED),
}
"""OpenSSL's reasons."""

_BY_VERIFY_CODE: dict[int, _Why] = {
    10: _EXPIRED,
    9: _Why("not yet valid", "the client's certificate is not valid yet; compare the clocks"),
    **dict.fromkeys((2, 18, 19, 20, 21, 27), _UNTRUSTED),
    **dict.fromkeys((7, 24, 25, 26, 28, 32, 34, 37, 38, 39, 40, 47, 48, 49, 66, 67, 68), _UNFIT),
}
"""OpenSSL's X509_V_ERR_*."""


def failure_of(error: BaseException, peer: str = "") -> TlsFailure:
    """Return the failure that an exception of a handshake stands for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _BY_VERIFY_CODE.get(error.verify_code, _INVALID)
        return TlsFailure(why.reason, f"{why.text} (OpenSSL: {error.verify_message})", peer)
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError | ConnectionResetError | BrokenPipeError):
        return TlsFailure(LEFT.reason, LEFT.text, peer)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        why = _BY_REASON.get(reason, _OTHER)
        return TlsFailure(why.reason, f"{why.text} (OpenSSL: {reason.lower().replace('_', ' ')})", peer)
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return TlsFailure(LATE.reason, LATE.text, peer)
    return TlsFailure(_OTHER.reason, f"{_OTHER.text}: {str(error)[:200]}", peer)


def peer_text(name: object) -> str:
    """Return a socket's peer name as text: HOST:PORT, [IPv6]:PORT, or "unix" for a unix socket."""
    if isinstance(name, tuple) and len(name) >= 2:
        host = str(name[0])
        return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"
    return "unix"
