"""Certificates for tests: an authority in memory that signs what a test needs, with any validity."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    certificate: Path
    key: Path

    def replace_with(self, other: "CertificateFiles") -> None:
        """Replace the files one after the other, as a renewal of certificates does."""
        other.key.replace(self.key)
        other.certificate.replace(self.certificate)


class Authority:
    """A certificate authority, whose own certificate is in the file `path`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        unsigned = _unsigned(self._name, self._name, self._key.public_key(), valid_days=1)
        unsigned = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path = directory / f"{name}.crt"
        self.path.write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, *, hosts: Sequence[str] = ("127.0.0.1",), valid_days: int = 1) -> CertificateFiles:
        """Issue a certificate. With a negative number of days it has already expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        unsigned = _unsigned(subject, self._name, key.public_key(), valid_days)
        unsigned = unsigned.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
        files = CertificateFiles(certificate=self._directory / f"{name}.crt", key=self._directory / f"{name}.key")
        files.certificate.write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid_days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - 3 * _DAY,
        not_valid_after=now + valid_days * _DAY,
    )


def _general_name(host: str) -> x509.GeneralName:
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
