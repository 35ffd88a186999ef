"""Throw-away certificates: a CA in a directory, and the certificates it signs, as PEM bytes and as files.

They have the extensions that RFC 5280 (4.2.1) requires: Python's default TLS context enforces these since 3.13.
"""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ONE_DAY = datetime.timedelta(days=1)
SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both as PEM and as file paths."""

    cert: bytes
    key: bytes
    cert_path: Path
    key_path: Path

    @property
    def cert_text(self) -> str:
        """The certificate as an inline string of an Envoy secret."""
        return self.cert.decode()

    @property
    def serial(self) -> int:
        """The certificate's serial number."""
        return x509.load_pem_x509_certificate(self.cert).serial_number

    @property
    def key_text(self) -> str:
        """The key as an inline string of an Envoy secret."""
        return self.key.decode()


class Authority:
    """A certificate authority with its files in ``directory`` (``ca.pem``, then ``NAME.pem`` and ``NAME.key``)."""

    def __init__(self, directory: Path, *, name: str = "test CA", issuer: "Authority | None" = None) -> None:
        """Create a CA, signed by itself or as an intermediate by ``issuer``."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _x509_name(name)
        self.cert = self._signed_by(issuer or self)
        self.cert_path = directory / "ca.pem"
        self.cert_path.write_bytes(self.cert)

    def _signed_by(self, signer: "Authority") -> bytes:
        builder = _builder(self._name, signer._name, self._key, signer._key, days=365)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(SIGNS_CERTIFICATES, critical=True)
        return builder.sign(signer._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def renewed(self) -> bytes:
        """Return another certificate of this CA, with the same name and key, as PEM."""
        return self._signed_by(self)

    def issue(
        self,
        name: str,
        *,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        uris: Sequence[str] = (),
        days: float = 30,
        weak: bool = False,
        ca: bool = False,
        usage: x509.KeyUsage | None = None,
        subject: x509.Name | None = None,
    ) -> Pair:
        """Sign a certificate with common name ``name``, for server and client.

        Negative ``days`` make it expired; a weak one has an RSA key of 1024 bits, which Envoy refuses; ``ca`` makes it
        that of a CA.
        """
        key = rsa.generate_private_key(65537, 1024) if weak else ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(text) for text in dns]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ips]
        names += [x509.UniformResourceIdentifier(text) for text in uris]
        builder = _builder(_x509_name(name) if subject is None else subject, self._name, key, self._key, days=days)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return self._written(name, cert, _key_pem(key))

    def server(self, name: str = "server", *, weak: bool = False) -> Pair:
        """Sign a server certificate for localhost, 127.0.0.1 and ::1."""
        return self.issue(name, dns=["localhost", name], ips=["127.0.0.1", "::1"], weak=weak)

    def client(self, name: str = "client", *, spiffe: str | None = None) -> Pair:
        """Sign a client certificate, with a SPIFFE id as its URI if one is given."""
        return self.issue(name, dns=[name], uris=[spiffe] if spiffe else [])

    def revoke(self, *pairs: Pair, name: str = "ca.crl", days: float = 30) -> Path:
        """Write this CA's revocation list, with the certificates of ``pairs``, and return its path."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - ONE_DAY).next_update(now + days * ONE_DAY)
        for pair in pairs:
            revoked = x509.RevokedCertificateBuilder().serial_number(pair.serial).revocation_date(now)
            builder = builder.add_revoked_certificate(revoked.build())
        crl = builder.sign(self._key, hashes.SHA256())
        path = self.directory / name
        new = path.with_suffix(".new")
        new.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return new.rename(path)

    def client_context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return a TLS client context that trusts this authority, with the certificate ``pair`` if given."""
        context = ssl.create_default_context(cadata=self.cert.decode())
        if pair:
            context.load_cert_chain(pair.cert_path, pair.key_path)
        return context

    def _written(self, name: str, cert: bytes, key: bytes) -> Pair:
        stem = name.replace("/", "_")
        pair = Pair(cert, key, self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
        pair.cert_path.write_bytes(cert)
        pair.key_path.write_bytes(key)
        pair.key_path.chmod(0o600)
        return pair


def _x509_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    days: float,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + days * ONE_DAY
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - ONE_DAY)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
