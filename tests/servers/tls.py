"""A certificate authority made for the run, and certificates that verify or fail in one way each."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Kind = Literal["server", "other_host", "expired", "self_signed", "idn", "lax"]


class Certificates:
    """Files below `folder`: trust `ca_file`; every other one is a PEM file of a private key and its certificates.

    `server` is right for localhost, 127.0.0.1 and ::1; `other_host` is for other.example.com; `expired` ran out
    yesterday; `self_signed` is right for localhost and signed by nobody else; `idn` is for bücher.example;
    `client` names user@lab. `lax` is right for localhost and signed by the authority in `lax_ca_file`, whose own
    certificate breaks a rule that only VERIFY_X509_STRICT looks at (RFC 5280 4.2.1.9).
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)

        here = ("localhost", "127.0.0.1", "::1")
        issued = {
            "server": authority.issue_cert(*here, common_name="localhost"),
            "other_host": authority.issue_cert("other.example.com", common_name="other.example.com"),
            "expired": authority.issue_cert(
                *here, common_name="localhost", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)
            ),
            "idn": authority.issue_cert("xn--bcher-kva.example", common_name="xn--bcher-kva.example"),
            "client": authority.issue_cert("user@lab", common_name="user@lab"),
        }
        for name, certificate in issued.items():
            certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        (folder / "self_signed.pem").write_bytes(self_signed(now))
        self.lax_ca_file, self.lax = folder / "lax-ca.pem", folder / "lax.pem"
        lax_authority, lax = lax_pair(now)
        self.lax_ca_file.write_bytes(lax_authority)
        self.lax.write_bytes(lax)

        self.server = folder / "server.pem"
        self.other_host = folder / "other_host.pem"
        self.expired = folder / "expired.pem"
        self.idn = folder / "idn.pem"
        self.self_signed = folder / "self_signed.pem"
        # A client names two files as a rule
        self.client = folder / "client.pem"
        self.client_cert = folder / "client-cert.pem"
        self.client_key = folder / "client-key.pem"
        self.client_cert.write_bytes(b"".join(blob.bytes() for blob in issued["client"].cert_chain_pems))
        issued["client"].private_key_pem.write_to_path(self.client_key)

    def server_context(self, kind: Kind = "server") -> ssl.SSLContext:
        """Return a server's context with that certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(getattr(self, kind))
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca_file))


def lax_pair(now: datetime) -> tuple[bytes, bytes]:
    """Return the PEM of an authority whose basic constraints are not critical, and of a key and certificate of its."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Lax CA", "localhost")]

    def certificate(which: int, *extensions: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[which])
            .issuer_name(names[0])
            .public_key(keys[which].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    key = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
    here = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pem = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
    return (
        certificate(0, x509.BasicConstraints(ca=True, path_length=None), key),
        pem + certificate(1, here, issuer),
    )


def self_signed(now: datetime) -> bytes:
    """Return the PEM of a key and a certificate for localhost that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    loopback = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
