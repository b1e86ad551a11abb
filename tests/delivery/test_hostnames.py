"""Host names and addresses: which are this machine's, and how a certificate writes them."""

from __future__ import annotations

import pytest

from smtpbackend.delivery.hostnames import certificate_name, is_local, is_loopback, server_hostname


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("127.example.com", False),
        ("::2", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("peer", "expected"), [(None, True), ("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("::2", False)]
)
def test_a_local_peer(peer: str | None, expected: bool) -> None:
    assert is_local(peer) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("mx.example.com", "mx.example.com"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
    ],
)
def test_the_name_that_the_certificate_must_hold(host: str, expected: str) -> None:
    assert server_hostname(host) == expected
    assert certificate_name(host) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("mx.example.com.", "mx.example.com"),
        ("bücher.example.", "xn--bcher-kva.example"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_a_certificate_knows_no_absolute_names_and_no_zones(host: str, expected: str) -> None:
    assert certificate_name(host) == expected
