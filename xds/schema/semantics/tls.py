"""TLS: certificates and keys that belong together, names of groups and ciphers, what a context must have."""

import re
from typing import Any

from xds.model.untrusted import reading
from xds.model.work import spend
from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.pool import load_schema
from xds.schema.redact import REDACTED_BYTES
from xds.schema.rules import shown
from xds.schema.semantics.pem import (
    CERTIFICATES,
    ENCRYPTED,
    KEYS,
    STRETCHED_MAX,
    TRUSTED,
    decoded,
    is_whole,
    iterations_of,
    read_pem,
)
from xds.schema.semantics.rule import Rule, Walks

_TLS = "envoy.extensions.transport_sockets.tls.v3."
_ALPN_BYTES_MAX, _ALPN_TOTAL_BYTES_MAX = 255, 65_534
_TICKET_KEY_BYTES = 80
_SOURCES = frozenset(
    {
        *("tls_certificates", "tls_certificate_sds_secret_configs", "tls_certificate_provider_instance"),
        *("tls_certificate_certificate_provider", "tls_certificate_certificate_provider_instance"),
        *("custom_tls_certificate_selector", "custom_handshaker"),
    }
)
"""The fields of a TLS context that can bring a server's certificate."""

GROUPS = frozenset(
    {
        *("X25519", "x25519", "P-224", "P-256", "P-384", "P-521", "secp224r1", "prime256v1", "secp384r1", "secp521r1"),
        *("X25519MLKEM768", "X25519Kyber768Draft00", "MLKEM1024", "CECPQ2"),
    }
)
"""Names of key agreement groups in the BoringSSL of Envoy 1.40 and of versions before it."""
CIPHERS_13 = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Ciphers of TLS 1.3, which can't be chosen: BoringSSL refuses them in a list."""


CIPHERS = frozenset(
    {
        *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        *("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
        *("ECDHE-PSK-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-PSK-AES128-CBC-SHA"),
        *("ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA", "ECDHE-PSK-AES256-CBC-SHA", "ECDHE-RSA-AES128-SHA256"),
        *("ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA"),
        *("PSK-AES128-CBC-SHA", "PSK-AES256-CBC-SHA", "DES-CBC3-SHA"),
    }
)
"""Names of cipher suites in the BoringSSL of Envoy 1.40 and of versions before it."""
CIPHER_WORDS = frozenset(
    {
        *("ALL", "HIGH", "FIPS", "SHA", "SHA1", "SHA256", "SHA384", "SSLv3", "TLSv1", "TLSv1.2"),
        *("AES", "AES128", "AES256", "AESGCM", "CHACHA20", "3DES"),
        *("RSA", "kRSA", "aRSA", "ECDSA", "aECDSA", "ECDHE", "EECDH", "kECDHE", "kEECDH", "PSK", "kPSK", "aPSK"),
    }
)
"""Words for several ciphers, joined by + to those that have all of them."""


_DEFAULT_CIPHERS = "DEFAULT"
"""The list of ciphers may begin with it. BoringSSL passes over the text alone: ``DEFAULT+AES`` is ``+AES``."""


def _unknown_cipher(entry: str) -> str:
    """Return the first name in a cipher string that no BoringSSL of an Envoy knows, "" if there is none."""
    for part in re.split(r"[:|\[\], ;]", entry):
        name = part.lstrip("+-!")
        if name in CIPHERS or not name or name.startswith(("@", "TLS_")):
            continue
        if not all(word in CIPHER_WORDS for word in name.split("+")):
            return name
    return ""


def _check_parameters(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    for index, entry in enumerate(message.ecdh_curves if list(message.ecdh_curves) != [""] else ()):
        unknown = [name for name in entry.split(":") if name not in GROUPS] if load_schema().is_packaged else []
        if unknown:
            hint = f"known ones: {', '.join(sorted(GROUPS - {'x25519'}))}"
            found.add(((trail, "ecdh_curves"), index), f"has the unknown group {shown(unknown[0])}", hint)
    _check_signatures(message, trail, found)
    for index, entry in enumerate(message.cipher_suites):
        if index == 0:
            entry = entry.removeprefix(_DEFAULT_CIPHERS)
        wrong = [name for name in re.split(r"[:|\[\]]", entry) if name in CIPHERS_13 or name in GROUPS]
        if wrong:
            known = "is of TLS 1.3, whose ciphers can't be chosen" if wrong[0] in CIPHERS_13 else "is not a cipher"
            found.add(((trail, "cipher_suites"), index), f"{shown(wrong[0])} {known}", "leave it out")
        elif load_schema().is_packaged and (unknown_cipher := _unknown_cipher(entry)):
            hint = f"BoringSSL has {', '.join(sorted(CIPHERS)[:4])}, …"
            found.add(((trail, "cipher_suites"), index), f"has the unknown cipher {shown(unknown_cipher)}", hint)


SIGNATURES = frozenset(
    {
        *("rsa_pkcs1_sha1", "rsa_pkcs1_sha256", "rsa_pkcs1_sha384", "rsa_pkcs1_sha512", "rsa_pkcs1_sha256_legacy"),
        *("ecdsa_sha1", "ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384", "ecdsa_secp521r1_sha512", "ed25519"),
        *("rsa_pss_rsae_sha256", "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512", "mldsa44", "mldsa65", "mldsa87"),
    }
)
"""Names of signature algorithms in the BoringSSL of Envoy 1.40."""


def _check_signatures(message: Any, trail: Trail, found: Findings) -> None:
    """Check the names of signature algorithms. Those with a + are of OpenSSL, and are left to Envoy."""
    names: set[str] = set()
    for index, entry in enumerate(message.signature_algorithms if load_schema().is_packaged else ()):
        for name in entry.split(":"):
            what = "" if name in SIGNATURES or "+" in name or not name else "is not a signature algorithm"
            if name and name in names:
                what = "is there twice"
            if what:
                hint = f"BoringSSL has {', '.join(sorted(SIGNATURES))}"
                found.add(((trail, "signature_algorithms"), index), f"{shown(name)} {what}", hint)
            names.add(name)


_OID = re.compile(r"(?:[01]\.(?:[1-3]?[0-9])|2\.(?:0|[1-9][0-9]*))(?:\.(?:0|[1-9][0-9]*))*")


def _is_oid(text: str) -> bool:
    """Return whether a text is an OID whose numbers BoringSSL can encode; the first two share one of 64 bits."""
    if _OID.fullmatch(text) is None:
        return False
    numbers = text.split(".")
    if max(map(len, numbers)) > _OID_DIGITS:
        return False
    return all(int(number) <= _OID_NUMBER_MAX - (_OID_ROOT if at == 1 else 0) for at, number in enumerate(numbers))


_OID_NUMBER_MAX, _OID_ROOT, _OID_DIGITS = 2**64 - 1, 80, 20


def _check_san(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the OID of an OTHER_NAME: a number, or a name that only BoringSSL knows."""
    if message.san_type == message.OTHER_NAME:
        if not message.oid:
            found.add((trail, "oid"), "is required with OTHER_NAME", "for example 1.3.6.1.4.1.311.20.2.3")
        elif not message.oid[0].isalpha() and not _is_oid(message.oid):
            found.add((trail, "oid"), f"is not an OID: {shown(message.oid)}", "for example 1.3.6.1.4.1.311.20.2.3")


def _check_downstream(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    common = message.common_tls_context
    if not any(known.name in _SOURCES for known, _ in common.ListFields()):
        hint = "give tls_certificates or tls_certificate_sds_secret_configs"
        found.add((trail, "common_tls_context"), "has no certificate, which a server needs", hint)
    elif common.tls_certificates and not any(map(_has_content, common.tls_certificates)):
        hint = "give certificate_chain and private_key"
        found.add(((trail, "common_tls_context"), "tls_certificates"), "has no certificate, which a server needs", hint)


def _has_content(certificate: Any) -> bool:
    return any(certificate.HasField(field) for field in ("certificate_chain", "private_key", "pkcs12"))


def _check_upstream(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if "\0" in message.sni:
        found.add((trail, "sni"), "must not contain a NUL character")
    common, here = message.common_tls_context, (trail, "common_tls_context")
    own, discovered = common.tls_certificates, common.tls_certificate_sds_secret_configs
    if len(own) + len(discovered) > 1:
        field = "tls_certificates" if len(own) > 1 else "tls_certificate_sds_secret_configs"
        found.add((here, field), "must have one certificate: a client has no more", "leave the others out")
    if ",".join(common.alpn_protocols):
        for index, entry in enumerate(common.alpn_protocols):
            if "" in entry.split(","):  # a server takes it, and chooses no protocol
                what = "must not have an empty name beside others in a client: with it, Envoy 1.40 crashes"
                found.add(((here, "alpn_protocols"), index), what)
    if message.auto_sni_san_validation:
        _check_validated(common, (trail, "auto_sni_san_validation"), found)


def _check_validated(common: Any, trail: Trail, found: Findings) -> None:
    """Check that there is a CA for what ``auto_sni_san_validation`` compares names with."""
    kind = common.WhichOneof("validation_context_type")
    if kind is None or (kind == "validation_context" and not _has_ca(common.validation_context)):
        found.add(trail, "needs a validation context with a CA", "give trusted_ca, or the context by SDS")


def _check_context(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.WhichOneof("validation_context_type") == "validation_context":
        _check_trust(message.validation_context, (trail, "validation_context"), found)
    for index, entry in enumerate(message.alpn_protocols):
        if any(len(name) > _ALPN_BYTES_MAX for name in entry.encode().split(b",")):
            found.add(((trail, "alpn_protocols"), index), f"must have names of at most {_ALPN_BYTES_MAX} bytes")
    size = len(",".join(message.alpn_protocols).encode())
    if size > _ALPN_TOTAL_BYTES_MAX:
        what = f"must have at most {_ALPN_TOTAL_BYTES_MAX} bytes, joined by commas, but has {size}"
        found.add((trail, "alpn_protocols"), what)


def _check_trust(context: Any, trail: Trail, found: Findings) -> None:
    """Check that what needs a CA has one. gRPC's clients have CAs that Envoy does not: those of providers."""
    if _has_ca(context):
        return
    hint = "give trusted_ca, or the context by SDS"
    for field in ("match_typed_subject_alt_names", "match_subject_alt_names"):
        if getattr(context, field):
            found.add((trail, field), "needs a CA: without one, any peer could claim any name", hint)
    if context.HasField("crl"):
        found.add((trail, "crl"), "needs the CA that signed it", hint)
    if context.allow_expired_certificate:
        found.add((trail, "allow_expired_certificate"), "needs a CA: without one, no date is looked at", hint)


def _has_ca(context: Any) -> bool:
    return any(context.HasField(field) for field in _CAS if field in context.DESCRIPTOR.fields_by_name)


_CAS = (*("trusted_ca", "ca_certificate_provider_instance", "system_root_certs", "custom_validator_config"),)


def _inline(source: Any) -> bytes | None:
    """Return the bytes of an inline data source, None if it is a file, a variable, or redacted."""
    kind = source.WhichOneof("specifier")
    if kind not in ("inline_string", "inline_bytes"):
        return None
    data: bytes = source.inline_string.encode() if kind == "inline_string" else source.inline_bytes
    return None if REDACTED_BYTES in data else data


def _pem(source: Any) -> str | None:
    """Return the text of an inline data source, None as ``_inline`` does."""
    data = _inline(source)
    return None if data is None else data.decode("latin-1")


def _at(trail: Trail, field: str, source: Any) -> Trail:
    return ((trail, field), source.WhichOneof("specifier"))


def _check_certificate(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Read the chain and the key, and compare their public keys."""
    if message.HasField("pkcs12"):
        return
    _check_pair(message, trail, found)
    chain, key = _pem(message.certificate_chain), _pem(message.private_key)
    certificate = private = None
    if chain is not None:
        here = _at(trail, "certificate_chain", message.certificate_chain)
        certificate = _first_certificate(chain, here, found)
    if key is not None:
        is_known = not message.HasField("password") or _inline(message.password) is not None
        password = _inline(message.password) if message.HasField("password") else None
        here = _at(trail, "private_key", message.private_key)
        private = _private_key(key, password, here, found) if is_known else None
    if certificate is not None and private is not None and not _belong_together(certificate, private):
        here = _at(trail, "private_key", message.private_key)
        found.add(here, "is not the key of the first certificate in certificate_chain", "give the pair that was issued")


def _check_pair(message: Any, trail: Trail, found: Findings) -> None:
    """Check that a certificate has a key."""
    has_key = message.HasField("private_key") or message.HasField("private_key_provider")
    if message.HasField("certificate_chain") and not has_key:
        found.add((trail, "private_key"), "is required beside certificate_chain")
    elif message.HasField("private_key") and not message.HasField("certificate_chain"):
        found.add((trail, "certificate_chain"), "is required beside private_key")


def _first_certificate(text: str, trail: Trail, found: Findings) -> Any | None:
    """Return the first certificate of a chain, None if it is refused, or if only BoringSSL may be able to read it."""
    from cryptography import x509

    blocks, is_closed = read_pem(text)
    chain = [each for each in blocks if each.label in (*CERTIFICATES, TRUSTED)]
    if not chain:
        found.add(trail, "holds no certificate in PEM", "it begins with -----BEGIN CERTIFICATE-----")
        return None
    if any(each.label == TRUSTED for each in chain):
        return None  # OpenSSL's own form, which Envoy reads too
    der = [decoded(each.body) for each in chain]
    if not is_closed or not all(map(is_whole, der)):
        found.add(trail, "does not hold a certificate that can be read", _CUT_OFF)
        return None
    assert der[0] is not None
    try:
        with reading():
            return x509.load_der_x509_certificate(der[0])
    except ValueError:
        return None  # BoringSSL is less strict


_CUT_OFF = "is it cut off, or changed on the way?"


def _private_key(text: str, password: bytes | None, trail: Trail, found: Findings) -> Any | None:
    """Return a private key, None if it is refused, or if only BoringSSL may be able to read it."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    block = next((each for each in read_pem(text)[0] if each.label in KEYS), None)
    if block is None:
        found.add(trail, "holds no private key in PEM", "it begins with -----BEGIN PRIVATE KEY-----")
        return None
    has_headers = "Proc-Type:" in block.body
    is_encrypted = block.label == ENCRYPTED or (has_headers and "ENCRYPTED" in block.body)
    if is_encrypted and not password:
        found.add(trail, "is encrypted, and there is no password", "give password, or a key that is not encrypted")
        return None
    if not has_headers:
        der = decoded(block.body)
        if der is None or not is_whole(der, may_have_more=True):
            found.add(trail, "does not hold a private key that can be read", _CUT_OFF)
            return None
        iterations = iterations_of(block.label, der)
        if iterations is None or not spend("iterations", iterations, STRETCHED_MAX, is_costly=iterations > 0):
            return None
    elif block.label == "DSA PRIVATE KEY":
        return None
    try:
        with reading():
            secret = password if is_encrypted else None
            return load_pem_private_key(block.text.encode("latin-1"), secret, unsafe_skip_rsa_key_validation=True)
    except ValueError as error:
        if "Incorrect password" in str(error):
            found.add(trail, "can't be decrypted with password", "give the password of this key")
        return None  # otherwise BoringSSL may be less strict, or know more


def _belong_together(certificate: Any, private: Any) -> bool:
    try:
        with reading():
            return bool(certificate.public_key() == private.public_key())
    except ValueError:  # an algorithm that only BoringSSL may know
        return True


def _check_tickets(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    for index, key in enumerate(message.keys):
        kind = key.WhichOneof("specifier")
        if kind in ("inline_bytes", "inline_string"):
            size = len(getattr(key, kind).encode() if kind == "inline_string" else key.inline_bytes)
            if size != _TICKET_KEY_BYTES:
                what = f"must have exactly {_TICKET_KEY_BYTES} bytes, but has {size}"
                found.add((((trail, "keys"), index), kind), what, f"openssl rand {_TICKET_KEY_BYTES} makes one")


def _check_authorities(source: Any, trail: Trail, found: Findings) -> None:
    text = _pem(source)
    if text is None:
        return
    here = _at(trail, "trusted_ca", source)
    blocks, is_closed = read_pem(text)
    if not any(each.label in (*CERTIFICATES, TRUSTED) for each in blocks):
        found.add(here, "holds no certificate in PEM", "it begins with -----BEGIN CERTIFICATE-----")
    elif not is_closed or not all(is_whole(decoded(each.body)) for each in blocks if each.label in CERTIFICATES):
        found.add(here, "has a certificate that can't be read", _CUT_OFF)


def _check_validation(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.HasField("trusted_ca") and not message.HasField("custom_validator_config"):
        _check_authorities(message.trusted_ca, trail, found)
    for field, form, words in _DIGESTS:
        for index, digest in enumerate(getattr(message, field)):
            if len(digest) >= _DIGEST_CHARACTERS_MIN and form.fullmatch(digest) is None:
                found.add(((trail, field), index), f"must be a SHA-256 in {words}, but is {shown(digest)}")


_DIGEST_CHARACTERS_MIN = 44
"""A shorter digest breaks a rule of the API."""
_DIGESTS = (
    ("verify_certificate_hash", re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}"), "hexadecimal"),
    ("verify_certificate_spki", re.compile(r"[0-9A-Za-z+/]{43}="), "base64"),
)


TLS_RULES: dict[str, Rule] = {
    _TLS + "TlsParameters": _check_parameters,
    _TLS + "SubjectAltNameMatcher": _check_san,
    _TLS + "DownstreamTlsContext": _check_downstream,
    _TLS + "UpstreamTlsContext": _check_upstream,
    _TLS + "CommonTlsContext": _check_context,
    _TLS + "TlsCertificate": _check_certificate,
    _TLS + "TlsSessionTicketKeys": _check_tickets,
    _TLS + "CertificateValidationContext": _check_validation,
}
