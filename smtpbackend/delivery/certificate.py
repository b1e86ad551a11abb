"""A certificate (RFC 5280 4.1) read from its DER, as pins, errors and checks need it. No decision about trust."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Certificate", "fingerprints", "hosts_of", "read_certificate"]

# DER tags, X.690 8
INTEGER, SEQUENCE, SET, EXPLICIT_0, EXPLICIT_3, UTC_TIME = 0x02, 0x30, 0x31, 0xA0, 0xA3, 0x17
_ALT_NAMES = b"\x55\x1d\x11"  # RFC 5280 4.2.1.6: subjectAltName
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87  # of GeneralName
# RFC 5280 4.1.2.4, in the order in which they are shown
_SHOWN = {b"\x55\x04\x03": "CN", b"\x55\x04\x0b": "OU", b"\x55\x04\x0a": "O"}
_UTF_16 = 0x1E  # BMPString


class Certificate(NamedTuple):
    """Names as ``CN=..., O=...``, dates as ``YYYY-MM-DD``, and the DER of the SubjectPublicKeyInfo."""

    subject: str
    issuer: str
    not_before: str
    not_after: str
    public_key: bytes


def fingerprints(der: bytes) -> tuple[str, str]:
    """SHA-256 in hex of a certificate and of its public key. Raises ValueError as `read_certificate`."""
    return hashlib.sha256(der).hexdigest(), hashlib.sha256(read_certificate(der).public_key).hexdigest()


def read_certificate(der: bytes) -> Certificate:
    """The certificate in ``der``. Raises ValueError where there is none."""
    ends = _fields(der)[1]
    issuer, validity, subject, key = ends[2:6]
    not_before, not_after = [_date(tag, value) for tag, value in _children(der, validity)]
    return Certificate(_name(der, subject), _name(der, issuer), not_before, not_after, der[key : ends[6]])


def hosts_of(der: bytes) -> tuple[str, ...]:
    """The host names and addresses that a certificate is for (subjectAltName). Raises ValueError as above."""
    import ipaddress

    end, ends = _fields(der)
    found: list[str] = []
    at = ends[6]
    while at < end:
        tag, inside, _, at = _element(der, at)
        if tag != EXPLICIT_3:  # the unique identifiers of issuer and subject
            continue
        for _, extension in _children(der, inside):
            (_, kind), *_, (_, value) = _parts(extension)
            if kind != _ALT_NAMES:
                continue
            for tag_of_name, name in _children(value, 0):
                if tag_of_name == _DNS_NAME:
                    found.append(_printable(name.decode("ascii", "replace")))
                elif tag_of_name == _IP_ADDRESS:
                    found.append(str(ipaddress.ip_address(name)))
    return tuple(found)


def _fields(der: bytes) -> tuple[int, list[int]]:
    """Where tbsCertificate ends; and where each of its first fields begins, and the last of them ends.

    They are serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo.
    """
    _, inside, _, end = _element(der, 0, SEQUENCE)
    if end != len(der):
        raise ValueError("octets behind the certificate")
    _, start, end, _ = _element(der, inside, SEQUENCE)  # tbsCertificate
    tag, _, _, following = _element(der, start)
    if tag == EXPLICIT_0:  # version, left out by v1
        start = following
    ends = [start]
    for wanted in (INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE):
        ends.append(_element(der, ends[-1], wanted)[3])
    return end, ends


def _element(der: bytes, at: int, wanted: int | None = None) -> tuple[int, int, int, int]:
    """Tag, where its content begins and ends, and where the next one begins (X.690 8.1, 10.1)."""
    if at + 2 > len(der):
        raise ValueError("a certificate that is cut short")
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        begin += octets
        if not 0 < octets <= 4 or begin > len(der):
            raise ValueError("a length that cannot be")
        length = int.from_bytes(der[begin - octets : begin], "big")
    if begin + length > len(der):
        raise ValueError("a certificate that is cut short")
    if wanted is not None and tag != wanted:
        raise ValueError(f"tag {tag:#x} where {wanted:#x} belongs")
    return tag, begin, begin + length, begin + length


def _children(der: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element inside the one at ``at``."""
    _, begin, end, _ = _element(der, at)
    yield from _parts(der[begin:end])


def _parts(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """The same of elements that follow each other."""
    begin = 0
    while begin < len(octets):
        tag, inside, ends, begin = _element(octets, begin)
        yield tag, octets[inside:ends]


def _name(der: bytes, at: int) -> str:
    """A Name (RFC 5280 4.1.2.4): a sequence of sets of pairs of type and value."""
    found: dict[str, str] = {}
    _, begin, end, _ = _element(der, at)
    while begin < end:
        _, inside, _, following = _element(der, begin, SET)
        (_, oid), (tag, value), *_ = _children(der, inside)
        if oid in _SHOWN:
            text = value.decode("utf-16-be" if tag == _UTF_16 else "utf-8", "replace")
            found[_SHOWN[oid]] = _printable(text)
        begin = following
    return ", ".join(f"{kind}={found[kind]}" for kind in _SHOWN.values() if kind in found) or "(no name)"


def _printable(text: str) -> str:
    """``text`` fit for errors and logs, since an outsider may have chosen its characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _date(tag: int, value: bytes) -> str:
    """UTCTime or GeneralizedTime (RFC 5280 4.1.2.5)."""
    digits = value.decode("ascii", "replace")
    if tag == UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    if not digits[:8].isdigit():
        raise ValueError("a date that is none")
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
