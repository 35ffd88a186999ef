"""Stand-ins for what is on a sidecar's disk, where a validating Envoy can't read it."""

import base64
import datetime
import json
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TICKET_KEY = bytes(80)
"""A session ticket key, of the length that Envoy wants."""
TEXT = "stands for a file"
"""Any text."""
PASSWORDS = "user:{SHA}2kuSN7rMzfGcB2DKt67EqDWQELA="
"""A user as ``htpasswd -s`` writes it."""
SAMPLING_RULES = '{"version": 2, "rules": [], "default": {"fixed_target": 1, "rate": 0.1}}'
"""A manifest of X-Ray."""
DNS_TABLE = "{}"
DIRECTORY = "."
"""The empty directory in which a validating Envoy runs."""


@cache
def certificate() -> tuple[str, str]:
    """Return a new certificate and its private key, as PEM. Nothing else uses them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stands for a file")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=start,
        not_valid_after=start + datetime.timedelta(days=36_500),
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    text = builder.sign(key, hashes.SHA256()).public_bytes(pem).decode()
    return text, key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()


@cache
def jwks() -> str:
    """Return a set with one public key, that of the certificate."""
    key = serialization.load_pem_private_key(certificate()[1].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    numbers = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(each.to_bytes(32, "big")).decode().rstrip("=") for each in (numbers.x, numbers.y))
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1", "x": x, "y": y}]})


def spiffe_bundles() -> str:
    """Return the bundle of a trust domain, in the form of SPIFFE's federation."""
    der = x509.load_pem_x509_certificate(certificate()[0].encode()).public_bytes(serialization.Encoding.DER)
    key = {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]}
    return json.dumps({"trust_domains": {"stands-for-a-file": {"spiffe_sequence": 1, "keys": [key]}}})
