"""TLS contexts verify, whatever is set; and what a failure means."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from smtpbackend import Reply, Server
from smtpbackend.delivery.tls import client_context, on_failure, presented
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


@pytest.mark.parametrize("strict", [True, False])
def test_strict_x509_takes_one_flag_away_and_no_check(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from smtpbackend.delivery import tls

    monkeypatch.setattr(tls, "STRICT", ssl.VERIFY_X509_STRICT)
    context = client_context(Server("mx.example.com", strict_x509=strict))
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is strict
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    strictest = client_context(Server("mx.example.com"))
    assert context.verify_flags | ssl.VERIFY_X509_STRICT == strictest.verify_flags


def test_strict_is_what_python_does() -> None:
    ours, pythons = client_context(Server("mx.example.com")), ssl.create_default_context()
    strict = ssl.VERIFY_X509_STRICT
    assert ours.verify_flags & strict == pythons.verify_flags & strict


def test_ca_file_is_trusted_beside_the_systems(ca: Certificates) -> None:
    plain = client_context(Server("mx.example.com"))
    more = client_context(Server("mx.example.com", ca_file=str(ca.ca_file)))
    assert more.cert_store_stats()["x509_ca"] == plain.cert_store_stats()["x509_ca"] + 1


def test_client_certificates_in_one_file_or_two(ca: Certificates) -> None:
    client_context(Server("mx.example.com", client_cert=str(ca.client)))
    client_context(Server("mx.example.com", client_cert=str(ca.client_cert), client_key=str(ca.client_key)))


@pytest.mark.parametrize("content", [None, "", "hello"])
@pytest.mark.parametrize("setting", ["ca_file", "client_cert", "client_key"])
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, ca: Certificates, content: str | None, setting: str
) -> None:
    """With the setting that names it, and no other."""
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_text(content)
    fields = {setting: str(path)} | ({"client_cert": str(ca.client_cert)} if setting == "client_key" else {})
    why = "holds no|NO_CERT|no certificate" if content is not None else "No such file or directory"
    with pytest.raises(InvalidSetting, match=rf"^{setting} '{path}' cannot be used: .*({why})") as caught:
        client_context(Server("mx.example.com", **fields))
    assert caught.value.field == setting


def test_a_certificate_without_its_key_asks_for_client_key(ca: Certificates) -> None:
    with pytest.raises(InvalidSetting, match=r"client_cert '.*client-cert.pem'.* no private key .*; set client_key"):
        client_context(Server("mx.example.com", client_cert=str(ca.client_cert)))


def test_a_key_of_another_certificate(ca: Certificates) -> None:
    with pytest.raises(InvalidSetting, match=r"client_key '.*server.pem'.*does not belong") as caught:
        client_context(Server("mx.example.com", client_cert=str(ca.client_cert), client_key=str(ca.server)))
    assert caught.value.field == "client_key"


@pytest.mark.parametrize("kind", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("together", [True, False], ids=["in one file", "in two"])
def test_an_encrypted_key_needs_its_password(tmp_path: Path, ca: Certificates, kind: str, together: bool) -> None:
    """Without one nobody is asked on the terminal; and no error shows it."""
    key = serialization.load_pem_private_key(ca.client_key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, kind),
        serialization.BestAvailableEncryption(b"s3same"),
    )
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted + (ca.client_cert.read_bytes() if together else b""))
    fields = {"client_cert": path} if together else {"client_cert": ca.client_cert, "client_key": path}
    fields = {name: str(file) for name, file in fields.items()}
    server = Server("mx.example.com", client_key_password="s3same", **fields)
    client_context(server)
    assert "s3same" not in repr(server)
    for password, why in ((None, "is not set"), ("wr0ng", "is wrong"), ("x" * 2000, "is wrong")):
        with pytest.raises(InvalidSetting, match=f"key.pem' is encrypted, and client_key_password {why}") as caught:
            client_context(Server("mx.example.com", client_key_password=password, **fields))
        assert caught.value.field == "client_key_password"
        assert password is None or password not in str(caught.value)


def test_ca_file_and_the_systems_are_trusted_beside_a_client_certificate_too(ca: Certificates) -> None:
    plain = client_context(Server("mx.example.com"))
    both = client_context(Server("mx.example.com", client_cert=str(ca.client), ca_file=str(ca.ca_file)))
    assert both.cert_store_stats()["x509_ca"] == plain.cert_store_stats()["x509_ca"] + 1


def test_it_is_as_strict_as_pythons_own() -> None:
    ours, theirs = client_context(Server("mx.example.com")), ssl.create_default_context()
    assert ours.verify_flags == theirs.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN
    assert ours.options == theirs.options
    assert [cipher["name"] for cipher in ours.get_ciphers()] == [cipher["name"] for cipher in theirs.get_ciphers()]


def test_sslkeylogfile_is_heeded_as_by_pythons_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert client_context(Server("mx.example.com")).keylog_filename == str(tmp_path / "keys")


def test_a_python_that_does_not_tell_the_certificate() -> None:
    assert presented(object()) is None


def handshake(server: Server, serving: ssl.SSLContext, way: str) -> None:
    """Ours with theirs, in memory; raises what ours raises."""
    context = client_context(server)
    if way == "bio":
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
        peer = serving.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(4):
            for side in (client, peer):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        return
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError):
            serving.wrap_socket(theirs, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        context.wrap_socket(ours, server_hostname="localhost").close()
    finally:
        ours.close()
        thread.join(30)
        theirs.close()


@pytest.mark.parametrize("way", ["bio", "socket"])
def test_no_handshake_of_a_pinned_context_gets_past_the_pin(ca: Certificates, way: str) -> None:
    """Whoever wraps: it is the context that checks."""
    (der,) = [ssl.PEM_cert_to_DER_cert(pem) for pem in _certificates(ca.self_signed)]
    right = Server("mx.example.com", pinned_sha256=hashlib.sha256(der).hexdigest())
    handshake(right, ca.server_context("self_signed"), way)
    with pytest.raises(ssl.SSLCertVerificationError, match="pinned_sha256"):
        handshake(right, ca.server_context("server"), way)


def _certificates(path: Path) -> list[str]:
    return re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", path.read_text(), re.DOTALL)


def test_a_pin_without_tls_is_a_contradiction() -> None:
    with pytest.raises(InvalidSetting, match=r"pinned_sha256 is set for mx\.example\.com, and tls='none'"):
        Server("mx.example.com", tls="none", pinned_sha256="00" * 32)


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


@pytest.mark.parametrize(("decision", "expected"), [(None, "secure"), ("insecure", "insecure")])
def test_with_a_pin_a_failure_is_final_unless_it_is_said_otherwise(decision: Any, expected: str) -> None:
    server = Server("mx.example.com", tls="opportunistic", on_tls_failure=decision, pinned_sha256="00" * 32)
    assert on_failure(server, True)(REPLY) == expected


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
