"""SCRAM-…-PLUS over TLS that is real: what both ends see of the channel must agree."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scramp import ScramException, ScramMechanism

from smtpbackend import Server
from smtpbackend.errors import AuthenticationFailed, DeliveryError
from tests.mailer.twins import Twin
from tests.servers.tls import Certificates

NAME = "SCRAM-SHA-256-PLUS"


class BoundServer:
    """One connection of implicit TLS, and a login bound to it by scramp's own server."""

    def __init__(self, ca: Certificates, version: ssl.TLSVersion, in_between: bool) -> None:
        self.context = ca.server_context()
        self.context.maximum_version = version
        pem = ca.server.read_text()
        self.certificate = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") : pem.index("-----END CERT") + 26])
        self.in_between = in_between
        self.passed = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def binding(self, secured: ssl.SSLSocket) -> tuple[str, bytes]:
        if self.in_between:  # what the server sees is another connection than the client's
            return "tls-server-end-point", b"another certificate"
        if secured.version() == "TLSv1.2":
            return "tls-unique", secured.get_channel_binding("tls-unique") or b""
        return "tls-server-end-point", hashlib.sha256(self.certificate).digest()

    def serve(self) -> None:
        raw, _ = self.listener.accept()
        raw.settimeout(20)
        with self.context.wrap_socket(raw, server_side=True) as secured, secured.makefile("rwb") as lines:

            def ask(text: str) -> bytes:
                lines.write(text.encode() + b"\r\n")
                lines.flush()
                return lines.readline().strip()

            ask("220 mx.example.com ESMTP")
            command = ask(f"250-mx.example.com\r\n250 AUTH {NAME}")
            mechanism = ScramMechanism(NAME)
            secret = mechanism.make_auth_info("pencil")
            server = mechanism.make_server(lambda _: secret, channel_binding=self.binding(secured))
            try:
                server.set_client_first(base64.b64decode(command.split()[2]).decode())
                final = ask("334 " + base64.b64encode(server.get_server_first().encode()).decode())
                server.set_client_final(base64.b64decode(final).decode())
            except ScramException:
                ask("535 5.7.8 the channel is not the same")
                return
            ask("334 " + base64.b64encode(server.get_server_final().encode()).decode())
            self.passed = True
            ask("235 2.7.0 welcome")  # answered by QUIT
            lines.write(b"221 bye\r\n")


@contextmanager
def bound(ca: Certificates, version: ssl.TLSVersion, in_between: bool = False) -> Iterator[BoundServer]:
    server = BoundServer(ca, version, in_between)
    server.thread.start()
    try:
        yield server
    finally:
        server.thread.join(20)
        server.listener.close()


def at(server: BoundServer, ca: Certificates) -> Server:
    return Server(
        "127.0.0.1",
        server.port,
        tls="implicit",
        ca_file=str(ca.ca_file),
        username="user",
        password="pencil",
        auth_mechanisms=[NAME],  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_ends_see_the_same_channel(twin: Twin, ca: Certificates, version: ssl.TLSVersion) -> None:
    """tls-unique in TLS 1.2, tls-server-end-point in 1.3 (RFC 5929)."""
    with bound(ca, version) as server:
        mailer = twin(at(server, ca))
        assert mailer.connect()
        assert server.passed
        mailer.close()


def test_another_channel_is_refused(twin: Twin, ca: Certificates) -> None:
    with bound(ca, ssl.TLSVersion.TLSv1_3, in_between=True) as server:
        with pytest.raises(DeliveryError) as caught:
            twin(at(server, ca)).connect()
        assert isinstance(caught.value, AuthenticationFailed)
        assert not server.passed
