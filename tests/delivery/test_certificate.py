"""A certificate is read as `cryptography` reads it; what is none is a ValueError and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend.delivery.certificate import fingerprints, hosts_of, read_certificate
from tests.servers.tls import Certificates, Kind

KEYS = {
    "EC": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
BEGIN, END = datetime(2026, 1, 2, tzinfo=UTC), datetime(2061, 12, 30, tzinfo=UTC)  # from 2050 on as GeneralizedTime


def made(*names: x509.NameAttribute[str], kind: str = "EC") -> x509.Certificate:
    key = KEYS[kind]()
    name = x509.Name(names)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority")]))
        .public_key(key.public_key())
        .serial_number(1 << 150)
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .sign(key, None if kind == "Ed25519" else hashes.SHA256())  # type: ignore[arg-type]
    )


EXAMPLE = made(
    x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bücher"),
    x509.NameAttribute(NameOID.COMMON_NAME, "mx.example.com"),
).public_bytes(Encoding.DER)


@pytest.mark.parametrize("kind", KEYS)
def test_fingerprints_of_certificate_and_key(kind: str) -> None:
    certificate = made(kind=kind)
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    der = certificate.public_bytes(Encoding.DER)
    assert fingerprints(der) == (hashlib.sha256(der).hexdigest(), hashlib.sha256(key).hexdigest())
    assert read_certificate(der).public_key == key


@pytest.mark.parametrize("kind", ["server", "other_host", "expired", "self_signed"])
def test_certificates_of_others(ca: Certificates, kind: Kind) -> None:
    theirs = x509.load_pem_x509_certificates(getattr(ca, kind).read_bytes())[0]
    ours = read_certificate(theirs.public_bytes(Encoding.DER))
    assert ours.public_key == theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert ours.not_before == f"{theirs.not_valid_before_utc:%Y-%m-%d}"
    assert ours.not_after == f"{theirs.not_valid_after_utc:%Y-%m-%d}"
    common = theirs.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert f"CN={common}" in ours.subject


def with_names(*names: x509.GeneralName) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.example.com")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, BEGIN, END)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


NAMED = with_names(x509.DNSName("mx.example.com"), x509.IPAddress(ipaddress.ip_address("2001:db8::1")))


def test_names_of_hosts_that_it_is_for() -> None:
    """Those of mailboxes and the like are of no use here."""
    der = with_names(
        x509.DNSName("mx.example.com"),
        x509.RFC822Name("ann@example.com"),
        x509.DNSName("*.example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    )
    assert hosts_of(der) == ("mx.example.com", "*.example.org", "192.0.2.1", "2001:db8::1")
    assert hosts_of(EXAMPLE) == ()


def test_what_a_name_must_not_do_to_a_terminal() -> None:
    der = with_names(x509.DNSName("mx.example.com"))
    assert hosts_of(der.replace(b"mx.example.com", b"mx.\x1b[2J\x00ab.com")) == ("mx.?[2J?ab.com",)


@given(st.data())
def test_names_of_what_is_no_certificate(data: st.DataObject) -> None:
    octets = bytearray(NAMED)
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        hosts_of(bytes(octets))


def test_names_and_dates() -> None:
    certificate = read_certificate(EXAMPLE)
    assert certificate.subject == "CN=mx.example.com, O=Bücher"
    assert certificate.issuer == "CN=An authority"
    assert (certificate.not_before, certificate.not_after) == ("2026-01-02", "2061-12-30")


def test_a_certificate_without_a_name() -> None:
    assert read_certificate(made().public_bytes(Encoding.DER)).subject == "(no name)"


def test_a_name_in_utf_16() -> None:
    name = x509.NameAttribute(NameOID.COMMON_NAME, "Bücher", _ASN1Type.BMPString)
    assert read_certificate(made(name).public_bytes(Encoding.DER)).subject == "CN=Bücher"


def test_a_name_cannot_write_into_a_log() -> None:
    name = x509.NameAttribute(NameOID.COMMON_NAME, "a\r\nb\x1b[2J")
    assert read_certificate(made(name).public_bytes(Encoding.DER)).subject == "CN=a??b?[2J"


@pytest.mark.parametrize("length", range(0, len(EXAMPLE), 7))
def test_what_is_cut_short_is_none(length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_certificate(EXAMPLE[:length])


def test_octets_behind_it_are_refused() -> None:
    """They would change the fingerprint and nothing else."""
    with pytest.raises(ValueError, match="behind"):
        read_certificate(EXAMPLE + b"\0")


@given(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255))
def test_one_wrong_octet_is_read_or_refused(place: int, octet: int) -> None:
    _try(EXAMPLE[:place] + bytes([octet]) + EXAMPLE[place + 1 :])


@given(st.binary(max_size=100))
def test_anything_at_all_is_read_or_refused(octets: bytes) -> None:
    _try(octets)


def _try(octets: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_certificate(octets)
