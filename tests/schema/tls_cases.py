"""Cases of certificates, keys and names of TLS: a name, a resource, and the field of the problem, "" if it is good."""

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from schema.semantic_cases import CONTEXT, PAIR, Case, certified, trusting
from support import resources as r
from support.der import INTEGER, SEQUENCE, SET, Items, changed_certificate, from_pem, item, items, joined, pem
from support.static_envoy import hcm, listener, tls_cluster

KEY = load_pem_private_key(r.DEMO_KEY.encode(), None)
assert isinstance(KEY, ec.EllipticCurvePrivateKey)
KEY_DER = from_pem(r.DEMO_KEY)
CHAIN_AT = f"{CONTEXT}.tls_certificates[0].certificate_chain.inline_string"
KEY_AT = f"{CONTEXT}.tls_certificates[0].private_key.inline_string"
CA_AT = f"{CONTEXT}.validation_context.trusted_ca.inline_string"
ALPN_AT = f"{CONTEXT}.alpn_protocols"
UNCLOSED = "-----BEGIN CERTIFICATE-----\nYWJj\n"
COMMON_NAME = bytes.fromhex("0603550403")
PRINTABLE, UTC_TIME, OCTETS, VERSION = 0x13, 0x17, 4, 0xA0


def chain(text: str) -> r.Json:
    return certified(PAIR | {"certificate_chain": {"inline_string": text}})


def keyed(text: str, **fields: Any) -> r.Json:
    return certified(PAIR | {"private_key": {"inline_string": text}} | fields)


def encrypted(password: str, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return KEY.private_bytes(Encoding.PEM, form, BestAvailableEncryption(password.encode())).decode()


def unencrypted(form: PrivateFormat) -> str:
    return KEY.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def authority(text: str) -> r.Json:
    return trusting(trusted_ca={"inline_string": text})


def served(*certificates: r.Json, **fields: Any) -> r.Json:
    common = {"tls_certificates": list(certificates), **fields}
    socket = {"name": "tls", "typed_config": {"@type": r.DOWNSTREAM_TLS, "common_tls_context": common}}
    return listener(filter_chains=[{"filters": [hcm()], "transport_socket": socket}])


def alpn(*names: str) -> r.Json:
    return tls_cluster({"alpn_protocols": list(names)})


def curves(*names: str) -> r.Json:
    return tls_cluster({"tls_params": {"ecdh_curves": list(names)}})


def other_name(oid: str) -> r.Json:
    san = {"san_type": "OTHER_NAME", "oid": oid, "matcher": {"exact": "a"}}
    return trusting(trusted_ca={"inline_string": r.DEMO_CERT}, match_typed_subject_alt_names=[san])


OID_AT = f"{CONTEXT}.validation_context.match_typed_subject_alt_names[0].oid"


def cipher_list(*entries: str) -> r.Json:
    return tls_cluster({"tls_params": {"cipher_suites": list(entries)}})


# The parts of a certificate: version, serial number, algorithm, issuer, validity, subject, key, extensions.


def named(text: bytes) -> str:
    def change(signed: Items, _: Items) -> None:
        name = item(SET, item(SEQUENCE, COMMON_NAME + item(PRINTABLE, text)))
        signed[3] = signed[5] = (SEQUENCE, name)

    return changed_certificate(r.DEMO_CERT, change)


def of_version(number: int) -> str:
    def change(signed: Items, _: Items) -> None:
        signed[0] = (VERSION, item(INTEGER, bytes([number])))
        signed.pop()

    return changed_certificate(r.DEMO_CERT, change)


def timed_with_offset() -> str:
    def change(signed: Items, _: Items) -> None:
        signed[4] = (SEQUENCE, item(UTC_TIME, b"260101000000+0100") + item(UTC_TIME, b"400101000000+0100"))

    return changed_certificate(r.DEMO_CERT, change)


def critical(value: int) -> str:
    def change(signed: Items, _: Items) -> None:
        tag, outer = signed[7]
        extensions = items(items(outer)[0][1])
        first = items(extensions[0][1])
        first[1] = (1, bytes([value]))
        extensions[0] = (SEQUENCE, joined(first))
        signed[7] = (tag, item(SEQUENCE, joined(extensions)))

    return changed_certificate(r.DEMO_CERT, change)


def with_null_parameters() -> str:
    def change(signed: Items, top: Items) -> None:
        null = b"\5\0"
        top[1] = (SEQUENCE, top[1][1] + null)
        signed[2] = (SEQUENCE, signed[2][1] + null)

    return changed_certificate(r.DEMO_CERT, change)


def padded_key() -> str:
    """A scalar of 33 bytes."""
    top = items(items(KEY_DER)[0][1])
    inner = items(items(top[2][1])[0][1])
    inner[1] = (OCTETS, b"\0" + inner[1][1])
    top[2] = (OCTETS, item(SEQUENCE, joined(inner)))
    return pem("PRIVATE KEY", item(SEQUENCE, joined(top)))


CERTIFICATE_CASES: list[Case] = [
    *((f"certificate-name-{text.decode()}", chain(named(text)), "") for text in (b"*.example.com", b"a_b", b"a@b")),
    ("certificate-v1", chain(of_version(0)), ""),
    ("certificate-v2", chain(of_version(1)), ""),
    ("certificate-time-offset", chain(timed_with_offset()), ""),
    ("certificate-not-critical", chain(critical(0)), ""),
    ("certificate-critical-1", chain(critical(1)), ""),
    ("certificate-null-parameters", chain(with_null_parameters()), ""),
    ("certificate-more-der", chain(pem("CERTIFICATE", from_pem(r.DEMO_CERT) + b"\0")), CHAIN_AT),
    ("certificate-unclosed", chain(UNCLOSED), CHAIN_AT),
    ("certificate-second-unclosed", chain(r.DEMO_CERT + UNCLOSED), CHAIN_AT),
    ("certificate-indented", chain(r.DEMO_CERT.replace("\n", "\n  ")), CHAIN_AT),
    ("certificate-text-before", chain("x " + r.DEMO_CERT), CHAIN_AT),
    ("certificate-blanks-after", chain(r.DEMO_CERT.replace("\n", " \t\n")), ""),
    ("ca-v2", authority(of_version(1)), ""),
    ("ca-second-unclosed", authority(r.DEMO_CERT + UNCLOSED), CA_AT),
]
KEY_CASES: list[Case] = [
    ("key-encrypted", keyed(encrypted("abc"), password={"inline_string": "abc"}), ""),
    ("key-password-wrong", keyed(encrypted("abc"), password={"inline_string": "abd"}), KEY_AT),
    ("key-password-empty", keyed(encrypted("abc"), password={"inline_string": ""}), KEY_AT),
    ("key-password-none", keyed(encrypted("abc")), KEY_AT),
    ("key-password-not-ascii", keyed(encrypted("pä€"), password={"inline_string": "pä€"}), ""),
    (
        "key-password-bytes",
        keyed(encrypted("pä€"), password={"inline_bytes": base64.b64encode("pä€".encode()).decode()}),
        "",
    ),
    (
        "key-encrypted-in-the-old-way",
        keyed(encrypted("abc", PrivateFormat.TraditionalOpenSSL), password={"inline_string": "abc"}),
        "",
    ),
    ("key-label", keyed(pem("EC PRIVATE KEY", KEY_DER)), ""),
    ("key-more-der", keyed(pem("PRIVATE KEY", KEY_DER + b"\0")), ""),
    ("key-less-der", keyed(pem("PRIVATE KEY", KEY_DER[:-1])), KEY_AT),
    ("key-not-der", keyed(pem("PRIVATE KEY", b"abc") + r.DEMO_KEY), KEY_AT),
    ("key-padded", keyed(padded_key()), ""),
    ("key-of-openssh", keyed(unencrypted(PrivateFormat.OpenSSH)), KEY_AT),
    ("key-after-one-of-openssh", keyed(unencrypted(PrivateFormat.OpenSSH) + r.DEMO_KEY), ""),
    ("key-after-a-certificate", keyed(r.DEMO_CERT + r.DEMO_KEY), ""),
    ("key-with-a-header", keyed(r.DEMO_KEY.replace("KEY-----\n", "KEY-----\nComment: x\n\n", 1)), KEY_AT),
    (
        "key-without-chain",
        certified({"private_key": PAIR["private_key"]}),
        f"{CONTEXT}.tls_certificates[0].certificate_chain",
    ),
]
SERVED_AT = "filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificates"
NAME_CASES: list[Case] = [
    ("server-empty", served({}), SERVED_AT),
    ("server-password", served({"password": {"inline_string": "a"}}), SERVED_AT),
    ("server-one-empty", served({}, PAIR), ""),
    ("alpn-joined", alpn("a" * 200 + "," + "b" * 200), ""),
    ("alpn-joined-long", alpn("h2," + "a" * 256), f"{ALPN_AT}[0]"),
    ("alpn-total", alpn(*["a" * 250] * 261), ""),
    ("alpn-total-large", alpn(*["a" * 250] * 262), ALPN_AT),
    ("alpn-comma", alpn("h2,"), f"{ALPN_AT}[0]"),
    ("alpn-server-comma", served(PAIR, alpn_protocols=["h2,"]), ""),
    *((f"oid-{oid}", other_name(oid), "") for oid in ("2.18446744073709551535", "1.2.18446744073709551615")),
    *((f"oid-{oid}", other_name(oid), OID_AT) for oid in ("2.18446744073709551536", "1.2.18446744073709551616")),
    ("curves-empty", curves(""), ""),
    ("curves-one-empty", curves("P-256", ""), f"{CONTEXT}.tls_params.ecdh_curves[1]"),
    *(
        (f"ciphers-{'-'.join(entries)}", cipher_list(*entries), "")
        for entries in (
            *(("DEFAULT",), ("DEFAULT:!3DES",), ("DEFAULT", "!3DES"), ("DEFAULT:ECDHE-RSA-AES128-SHA",)),
            *(("DEFAULT+AES",), ("DEFAULTAES",)),
        )
    ),
    *(
        (f"ciphers-{'-'.join(entries)}", cipher_list(*entries), f"{CONTEXT}.tls_params.cipher_suites[{index}]")
        for index, entries in (
            *((0, ("ALL:DEFAULT",)), (0, ("!DEFAULT",)), (1, ("ALL", "DEFAULT")), (0, ("DEFAULT:DEFAULT",))),
            (1, ("DEFAULT", "X25519")),
        )
    ),
]
CASES = [*CERTIFICATE_CASES, *KEY_CASES, *NAME_CASES]
CRASHES = {"alpn-comma"}
