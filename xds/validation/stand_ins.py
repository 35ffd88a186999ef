"""Stand-ins for what is on a sidecar's disk, where a validating Envoy can't read it."""

import datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TICKET_KEY = bytes(80)
"""A session ticket key, of the length that Envoy wants."""
TEXT = "-- stands for a file"
"""Any text; it is a comment in Lua."""


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
