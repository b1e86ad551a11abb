"""TLS contexts verify, whatever is set; and what a failure means."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import Reply, Server
from smtpbackend.delivery.tls import client_context, is_local, on_failure, server_hostname
from smtpbackend.errors import InvalidSetting
from tests.servers.tls import Certificates

REPLY = Reply(454)


@pytest.mark.parametrize("fields", [{}, {"tls": "opportunistic"}, {"tls": "none"}, {"min_tls": "1.3"}])
def test_every_context_verifies_name_and_chain(fields: dict[str, Any]) -> None:
    context = client_context(Server("mx.example.com", **fields))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    least = ssl.TLSVersion.TLSv1_3 if fields.get("min_tls") else ssl.TLSVersion.TLSv1_2
    assert context.minimum_version == least


def test_ca_file_is_trusted_beside_the_systems(ca: Certificates) -> None:
    plain = client_context(Server("mx.example.com"))
    more = client_context(Server("mx.example.com", ca_file=str(ca.ca_file)))
    assert more.cert_store_stats()["x509_ca"] == plain.cert_store_stats()["x509_ca"] + 1


def test_client_certificates_in_one_file_or_two(ca: Certificates) -> None:
    client_context(Server("mx.example.com", client_cert=str(ca.client)))
    client_context(Server("mx.example.com", client_cert=str(ca.client_cert), client_key=str(ca.client_key)))


@pytest.mark.parametrize("content", [None, "", "hello"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, ca: Certificates, content: str | None) -> None:
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_text(content)
    for fields in ({"ca_file": str(path)}, {"client_cert": str(path)}):
        with pytest.raises(InvalidSetting, match=r"x\.pem' cannot be used") as caught:
            client_context(Server("mx.example.com", **fields))
        assert caught.value.field in fields
    with pytest.raises(InvalidSetting, match="client_key"):
        client_context(Server("mx.example.com", client_cert=str(ca.client_cert), client_key=str(path)))


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


@pytest.mark.parametrize(
    ("decision", "credentials", "local", "expected"),
    [
        (None, False, False, "insecure"),
        (None, False, True, "insecure"),
        (None, True, False, "secure"),
        (None, True, True, "insecure"),
        ("secure", False, True, "secure"),
        ("insecure", True, False, "insecure"),
        (lambda server, trouble: "secure", False, True, "secure"),
        (lambda server, trouble: "insecure", True, False, "insecure"),
    ],
)
def test_what_a_failure_means(decision: Any, credentials: bool, local: bool, expected: str) -> None:
    login = {"username": "ann", "password": "secret"} if credentials else {}
    server = Server("mx.example.com", tls="opportunistic", on_tls_failure=decision, **login)
    assert on_failure(server, local)(REPLY) == expected


def test_a_callable_is_told_server_and_trouble() -> None:
    told: list[Any] = []
    server = Server("mx.example.com", on_tls_failure=lambda *args: told.append(args) or "secure")
    on_failure(server, False)(REPLY)
    assert told == [(server, REPLY)]


@pytest.mark.parametrize("said", [None, "maybe", True])
def test_a_callable_that_decides_nothing_is_an_error(said: Any) -> None:
    server = Server("mx.example.com", on_tls_failure=lambda *args: said)
    with pytest.raises(InvalidSetting, match="'secure' or 'insecure' is wanted"):
        on_failure(server, False)(REPLY)


@pytest.mark.parametrize(
    ("peer", "expected"), [(None, True), ("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("::2", False)]
)
def test_a_local_peer(peer: str | None, expected: bool) -> None:
    assert is_local(peer) is expected
