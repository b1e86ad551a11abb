"""TLS cannot be talked past: no command and no secret goes where it was not secured (DESIGN 4.6, 4.7)."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smtpbackend import Server, Status
from smtpbackend.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DeliveryError,
    HandshakeFailed,
    InvalidSetting,
    ProtocolViolation,
    SenderRefused,
    TLSFailed,
)
from smtpbackend.testing import CUT, DEAF, TLS, Play, ScriptedServer, when_heard
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.tls import Certificates, Kind

PASSWORD = "tr0ub4dor&3"
SECRETS = [
    PASSWORD.encode(),
    base64.b64encode(PASSWORD.encode()),
    base64.b64encode(f"\0ann\0{PASSWORD}".encode()),
]
OFFER = ("PIPELINING", "STARTTLS", "AUTH PLAIN LOGIN CRAM-MD5")
BEHIND = ("PIPELINING", "AUTH PLAIN LOGIN CRAM-MD5")


def at(server: ScriptedServer, ca: Certificates, **settings: Any) -> Server:
    """That server, by its address, with the authority of this run, name and password."""
    host = settings.pop("host", server.host)
    given = {"tls": "required", "ca_file": str(ca.ca_file), "username": "ann", "password": PASSWORD, **settings}
    return Server(host, server.port, **given)


def fingerprints_of(ca: Certificates, kind: Kind) -> tuple[str, str]:
    """SHA-256 of the certificate and of its key, as somebody else reads them."""
    certificate = x509.load_pem_x509_certificates(getattr(ca, kind).read_bytes())[0]
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    whole = certificate.public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(whole).hexdigest(), hashlib.sha256(key).hexdigest()


def assert_nothing_was_told(server: ScriptedServer, *allowed: str) -> None:
    """No secret, no mail, and in clear no command but EHLO and STARTTLS."""
    server.wait_for_end()
    for secret in SECRETS:
        assert secret not in server.received
    assert server.handed_over == []
    for speaker in server.speakers:
        assert [verb for verb in speaker.verbs if verb not in ("EHLO", "HELO", *allowed)] == []


class TestWorks:
    @pytest.mark.parametrize("tls", ["required", "opportunistic"])
    def test_starttls_secures_everything_after_it(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str
    ) -> None:
        server = scripted(Play(extensions=OFFER, after_tls=BEHIND), certificate="server")
        assert twin(at(server, ca, tls=tls)).send(hello()).ok
        assert server.handshakes == [None]
        verbs = server.speakers[0].verbs
        assert verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
        assert verbs[-3:] == ["MAIL", "RCPT", "DATA"]

    def test_implicit_tls_begins_with_the_first_octet(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=BEHIND, implicit_tls=True), certificate="server")
        assert twin(at(server, ca, tls="implicit")).send(hello()).ok
        assert server.handshakes == [None]

    def test_a_large_message_arrives_whole_inside_tls(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        text = "0123456789" * 300_000
        assert twin(at(server, ca)).send(hello(text=text)).ok
        assert len(server.handed_over[0].content) > len(text)

    @pytest.mark.parametrize("tls", ["required", "implicit"])
    def test_a_server_that_stops_reading_inside_tls(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str
    ) -> None:
        server = scripted(
            Play({"DATA": ("354 go", DEAF)}, extensions=OFFER, implicit_tls=tls == "implicit"), certificate="server"
        )
        good = scripted()
        short = {"content": 0.3, "reused": 0.3}
        receipt = twin(at(server, ca, tls=tls, timeout=short), good.url).send(hello(text="0123456789" * 800_000))
        assert receipt.server == good.name

    def test_what_was_learnt_in_clear_is_forgotten(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        play = Play(extensions=("STARTTLS", "SIZE 1", "SMTPUTF8", "PIPELINING"), after_tls=("8BITMIME",))
        server = scripted(play, certificate="server")
        assert twin(at(server, ca, username=None, password=None)).send(hello()).ok
        assert server.handed_over[0].mail == "MAIL FROM:<ann@example.org>"

    def test_min_tls_is_kept(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        assert twin(at(server, ca, min_tls="1.3")).send(hello()).ok

    def test_a_client_certificate_is_shown(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        server.ask_for_certificate(str(ca.ca_file))
        mailer = twin(at(server, ca, client_cert=str(ca.client_cert), client_key=str(ca.client_key)))
        assert mailer.send(hello()).ok
        with pytest.raises(DeliveryError):
            twin(at(server, ca)).send(hello())


class TestClientCertificate:
    """A server that wants one and gets none. Under TLS 1.3 it says so behind the handshake."""

    VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

    def server(self, scripted: Scripted, ca: Certificates, version: ssl.TLSVersion, **options: Any) -> ScriptedServer:
        server = scripted(Play(extensions=OFFER, **options), certificate="server")
        server.ask_for_certificate(str(ca.ca_file))
        server.speak_only(version)
        return server

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("tls", ["required", "implicit", "opportunistic"])
    def test_it_is_a_failed_handshake_that_names_the_setting(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str, version: ssl.TLSVersion
    ) -> None:
        server = self.server(scripted, ca, version, implicit_tls=tls == "implicit")
        told: list[Any] = []
        mailer = twin(at(server, ca, tls=tls, on_tls_failure="secure"), listeners=[told.append])
        with pytest.raises(TLSFailed, match=r"the TLS handshake with .* failed: .*set client_cert and client_key"):
            mailer.send(hello())
        [failure] = [event for event in told if event.name == "server_failed"]
        assert failure.phase == "tls"
        assert server.connections == 1
        assert_nothing_was_told(server, "STARTTLS")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_opportunistic_goes_on_in_clear_where_it_may(
        self, twin: Twin, scripted: Scripted, ca: Certificates, version: ssl.TLSVersion
    ) -> None:
        server = self.server(scripted, ca, version)
        asked: list[Any] = []

        def decide(server: Server, trouble: Any) -> str:
            asked.append(trouble)
            return "insecure"

        assert twin(at(server, ca, tls="opportunistic", on_tls_failure=decide)).send(hello()).ok
        assert [type(trouble) for trouble in asked] == [HandshakeFailed]
        assert server.connections == 2
        assert not server.speakers[1].secured

    @pytest.mark.parametrize("version", VERSIONS)
    def test_one_that_the_server_does_not_take(
        self, twin: Twin, scripted: Scripted, ca: Certificates, version: ssl.TLSVersion
    ) -> None:
        server = self.server(scripted, ca, version)
        with pytest.raises(TLSFailed, match="it wants a client certificate: set client_cert"):
            twin(at(server, ca, client_cert=str(ca.self_signed))).send(hello())


class TestStrict:
    """What only VERIFY_X509_STRICT refuses, which is in force from Python 3.13 on: here on every Python."""

    @pytest.fixture(autouse=True)
    def _as_python_3_13(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from smtpbackend.delivery import tls

        monkeypatch.setattr(tls, "STRICT", ssl.VERIFY_X509_STRICT)

    def test_the_error_names_the_setting_and_the_setting_helps(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate="lax")
        with pytest.raises(TLSFailed, match="only Python's strict mode refuses it: set strict_x509=False"):
            twin(at(server, ca, ca_file=str(ca.lax_ca_file))).send(hello())
        assert_nothing_was_told(server, "STARTTLS")
        assert twin(at(server, ca, ca_file=str(ca.lax_ca_file), strict_x509=False)).send(hello()).ok

    @pytest.mark.parametrize("kind", ["server", "lax"])
    def test_without_it_the_chain_is_verified(
        self, twin: Twin, scripted: Scripted, ca: Certificates, kind: Kind
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate=kind)
        with pytest.raises(TLSFailed, match="is not trusted: unable to get local issuer"):
            twin(at(server, ca, ca_file=None, strict_x509=False)).send(hello())
        assert_nothing_was_told(server, "STARTTLS")

    @pytest.mark.parametrize("strict", [True, False])
    @pytest.mark.parametrize(
        ("kind", "why"),
        [("other_host", "IP address mismatch"), ("expired", "has expired"), ("self_signed", "self-signed")],
    )
    def test_name_dates_and_signature_are_verified_and_the_setting_not_named(
        self, twin: Twin, scripted: Scripted, ca: Certificates, kind: Kind, why: str, strict: bool
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate=kind)
        with pytest.raises(TLSFailed, match=f"is not trusted: .*{why}") as caught:
            twin(at(server, ca, strict_x509=strict)).send(hello())
        assert "strict_x509" not in str(caught.value)
        assert_nothing_was_told(server, "STARTTLS")


class TestPins:
    """A certificate or key that is known verifies more than any authority."""

    @pytest.mark.parametrize("kind", ["server", "other_host", "expired", "self_signed"])
    @pytest.mark.parametrize("which", [0, 1], ids=["certificate", "key"])
    @pytest.mark.parametrize("tls", ["required", "implicit"])
    def test_a_pin_that_fits_is_enough(
        self, twin: Twin, scripted: Scripted, ca: Certificates, kind: Kind, which: int, tls: str
    ) -> None:
        server = scripted(Play(extensions=OFFER, implicit_tls=tls == "implicit"), certificate=kind)
        pins = ["00" * 32, fingerprints_of(ca, kind)[which]]
        mailer = twin(at(server, ca, tls=tls, ca_file=None, pinned_sha256=pins))
        for _ in range(2):  # the second time in a session that is resumed
            assert mailer.send(hello()).ok
            mailer.close()
        server.wait_for_end()
        assert server.resumed == [False, True]

    @pytest.mark.parametrize("tls", ["required", "implicit", "opportunistic"])
    def test_a_pin_that_does_not_fit_is_never_trusted(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str
    ) -> None:
        """Whoever signed the certificate; and by default it is not done without TLS then, even on loopback."""
        server = scripted(Play(extensions=OFFER, implicit_tls=tls == "implicit"), certificate="server")
        certificate, key = fingerprints_of(ca, "server")
        with pytest.raises(TLSFailed, match="is in pinned_sha256; if the server has a new key") as caught:
            twin(at(server, ca, tls=tls, pinned_sha256=fingerprints_of(ca, "other_host"))).send(hello())
        assert f"SHA-256 {certificate}" in str(caught.value)
        assert f"add '{key}'" in str(caught.value)
        assert server.connections == 1
        assert_nothing_was_told(server, "STARTTLS")

    def test_the_pin_of_an_authority_does_not_count(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        with pytest.raises(TLSFailed, match="pinned_sha256"):
            twin(at(server, ca, pinned_sha256=fingerprints_of(ca, "ca_file"))).send(hello())  # type: ignore[arg-type]


class TestSessions:
    """A new connection resumes the TLS session of one that was closed."""

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("tls", ["required", "implicit"])
    def test_a_reconnect_resumes(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str, version: ssl.TLSVersion
    ) -> None:
        server = scripted(Play(extensions=OFFER, implicit_tls=tls == "implicit"), certificate="server")
        server.speak_only(version)
        mailer = twin(at(server, ca, tls=tls))
        for _ in range(3):
            assert mailer.send(hello()).ok
            mailer.close()
        server.wait_for_end()
        assert server.resumed == [False, True, True]

    def test_a_connection_that_the_server_cut_is_resumed_too(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        mailer = twin(at(server, ca))
        assert mailer.send(hello()).ok
        server.cut()
        assert mailer.send(hello()).ok
        assert server.resumed == [False, True]

    def test_a_session_is_for_one_server_and_its_settings(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        """Not for another server, even one with the same certificate, nor for the same one with other settings."""
        one, other = (scripted(Play(extensions=OFFER), certificate="server") for _ in range(2))
        mailer = twin(at(one, ca), at(other, ca), at(one, ca, min_tls="1.3"), strategy="round_robin")
        for _ in range(3):
            assert mailer.send(hello()).ok
        assert one.resumed == [False, False]
        assert other.resumed == [False]

    def test_a_server_that_resumes_nothing_is_no_trouble(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        server.resume_nothing()
        mailer = twin(at(server, ca))
        for _ in range(2):
            assert mailer.send(hello()).ok
            mailer.close()
        assert server.resumed == [False, False]


class TestNames:
    @pytest.mark.parametrize(("host", "sni"), [("127.0.0.1", None), ("localhost", "localhost")])
    def test_the_server_is_told_the_name(
        self, twin: Twin, scripted: Scripted, ca: Certificates, host: str, sni: str | None
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        told = server.note_names()
        assert twin(at(server, ca, host=host)).send(hello()).ok
        assert told == [sni]

    def test_ipv6(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server", host="::1")
        assert twin(at(server, ca)).send(hello()).ok

    @pytest.mark.parametrize("tls", ["required", "implicit"])
    def test_a_name_in_another_script(
        self, twin: Twin, scripted: Scripted, ca: Certificates, monkeypatch: pytest.MonkeyPatch, tls: str
    ) -> None:
        """The resolver and the server get A-labels, and the certificate must hold them."""
        real = socket.getaddrinfo
        asked = []

        def resolve(host: Any, *args: Any, **options: Any) -> Any:
            asked.append(host)
            return real("127.0.0.1", *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        server = scripted(Play(extensions=OFFER, implicit_tls=tls == "implicit"), certificate="idn")
        told = server.note_names()
        assert twin(at(server, ca, host="bücher.example", tls=tls)).send(hello()).ok
        assert told == ["xn--bcher-kva.example"]
        assert asked[0] in ("xn--bcher-kva.example", b"xn--bcher-kva.example")
        with pytest.raises(TLSFailed, match="set host to a name"):
            twin(at(server, ca, host="bäcker.example", tls=tls)).send(hello())


class TestCannotBeTalkedPast:
    """Under "required", and under "opportunistic" with credentials off loopback."""

    @pytest.mark.parametrize("tls", ["required", "opportunistic"])
    @pytest.mark.parametrize(
        "answer",
        [
            b"220 go ahead\r\n250 injected\r\n",
            b"220 go ahead\r\n2",
            (b"220 go ahead\r\n", b"250 injected\r\n"),
            (b"220 go ahead\r\n", when_heard(b"250 injected\r\n")),
            (b"220 go ahead\r\n", when_heard(b"250-injected\r\n250 AUTH PLAIN\r\n"), TLS),
            (b"220 go ahead\r\n250 injected\r\n", TLS),
        ],
        ids=["same segment", "half a line", "later segment", "in the handshake", "ahead of the handshake", "then TLS"],
    )
    def test_injected_octets(self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str, answer: Any) -> None:
        server = scripted(Play({"STARTTLS": answer}, extensions=OFFER), certificate="server")
        with pytest.raises((TLSFailed, ProtocolViolation)) as caught:
            twin(at(server, ca, tls=tls, on_tls_failure="secure")).send(hello())
        assert server.name in str(caught.value)
        assert server.connections == 1
        assert_nothing_was_told(server, "STARTTLS")

    def test_starttls_stripped(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=BEHIND))
        with pytest.raises(TLSFailed, match=r"offers no STARTTLS.*tls='required' is set.*tls='none'"):
            twin(at(server, ca)).send(hello())
        assert_nothing_was_told(server)

    @pytest.mark.parametrize("reply", ["454 4.7.0 TLS not available", "500 5.5.1 what", "250 ok", "354 go on"])
    def test_starttls_refused(self, twin: Twin, scripted: Scripted, ca: Certificates, reply: str) -> None:
        server = scripted(Play({"STARTTLS": reply}, extensions=OFFER))
        with pytest.raises(TLSFailed, match=f"refused STARTTLS with {reply[:3]}"):
            twin(at(server, ca)).send(hello())
        assert_nothing_was_told(server, "STARTTLS")

    def test_421_to_starttls(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play({"STARTTLS": "421 4.3.2 closing"}, extensions=OFFER))
        with pytest.raises(ConnectionLost):
            twin(at(server, ca, tls="opportunistic")).send(hello())
        assert_nothing_was_told(server, "STARTTLS")

    @pytest.mark.parametrize("tls", ["required", "implicit", "opportunistic"])
    @pytest.mark.parametrize(
        ("kind", "why", "remedy"),
        [
            ("other_host", "IP address mismatch", "set host to a name that stands in the certificate"),
            ("expired", "certificate has expired", "the server's operator has to renew it"),
            ("self_signed", "self-signed certificate", "set ca_file to the authority that signed it"),
        ],
    )
    def test_a_certificate_that_is_not_good(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str, kind: Kind, why: str, remedy: str
    ) -> None:
        """The error says which certificate, why it is not trusted, and what to set."""
        implicit = tls == "implicit"
        server = scripted(Play(extensions=OFFER, implicit_tls=implicit), certificate=kind)
        with pytest.raises(TLSFailed, match=f"is not trusted: {why}.*; .*{remedy}") as caught:
            twin(at(server, ca, tls=tls, on_tls_failure="secure")).send(hello())
        known, key = fingerprints_of(ca, kind)
        issuer = "CN=localhost" if kind == "self_signed" else "O=trustme"
        name = "CN=other.example.com" if kind == "other_host" else "CN=localhost"
        assert f"the certificate of {server.name} ({name}" in str(caught.value)
        assert re.search(
            rf"issued by .*{issuer}.*, valid from \d{{4}}-\d\d-\d\d to \d{{4}}-\d\d-\d\d", str(caught.value)
        )
        assert f"SHA-256 {known}" in str(caught.value)
        assert f"pinned_sha256='{key}'" in str(caught.value)
        assert server.connections == 1
        assert server.handshakes != [None]
        assert_nothing_was_told(server, "STARTTLS")

    def test_without_ca_file_our_authority_is_unknown(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=OFFER), certificate="server")
        with pytest.raises(TLSFailed, match="not trusted"):
            twin(at(server, ca, ca_file=None)).send(hello())
        assert_nothing_was_told(server, "STARTTLS")

    def test_a_server_that_hangs_up_in_the_handshake(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play({"STARTTLS": ("220 go", CUT)}, extensions=OFFER))
        with pytest.raises(DeliveryError) as caught:
            twin(at(server, ca)).send(hello())
        assert isinstance(caught.value, TLSFailed)
        assert_nothing_was_told(server, "STARTTLS")

    def test_the_next_server_gets_no_secret_in_clear_either(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        good = scripted(Play({"MAIL": CUT}, extensions=OFFER), certificate="server")
        stripped = scripted(Play(extensions=BEHIND))
        with pytest.raises(DeliveryError):
            twin(at(good, ca), at(stripped, ca)).send(hello())
        assert_nothing_was_told(stripped)


class TestOpportunistic:
    """What follows a failure is `on_tls_failure`'s to say."""

    def test_by_default_loopback_goes_on_in_clear(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=BEHIND))
        assert twin(at(server, ca, tls=None)).send(hello()).ok

    def test_on_the_same_connection_where_starttls_was_refused(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play({"STARTTLS": "454 not now"}, extensions=OFFER))
        assert twin(at(server, ca, tls="opportunistic")).send(hello()).ok
        assert server.connections == 1

    def test_on_a_new_connection_where_the_handshake_failed(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=OFFER), certificate="expired")
        assert twin(at(server, ca, tls="opportunistic")).send(hello()).ok
        assert server.connections == 2
        assert "STARTTLS" not in server.speakers[1].verbs
        assert not server.speakers[1].secured

    @pytest.mark.parametrize("offered", [("STARTTLS", "SIZE"), ("STARTTLS", "AUTH NTLM")])
    def test_what_kept_it_from_tls_is_named_where_the_login_needs_tls(
        self, twin: Twin, scripted: Scripted, ca: Certificates, offered: tuple[str, ...]
    ) -> None:
        """A bridge on this machine, self-signed, that takes logins behind STARTTLS alone."""
        server = scripted(Play(extensions=offered, after_tls=BEHIND), certificate="self_signed")
        told: list[Any] = []
        with pytest.raises(TLSFailed, match=r"is not trusted: self-signed .*set ca_file .*pinned_sha256=") as caught:
            twin(at(server, ca, tls=None), listeners=[told.append]).send(hello())
        assert "in clear it offers no login" in str(caught.value)
        assert caught.value.is_transient
        [failure] = [event for event in told if event.name == "server_failed"]
        assert failure.phase == "tls"
        assert server.connections == 2
        assert_nothing_was_told(server, "STARTTLS")

    def test_what_kept_it_from_tls_is_named_where_a_refused_login_asks_for_it(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        wants = "538 5.7.11 Encryption required for requested authentication mechanism"
        server = scripted(Play({"AUTH": wants}, extensions=OFFER), certificate="expired")
        with pytest.raises(TLSFailed, match=r"certificate has expired.* in clear it answers AUTH with 538 5\.7\.11"):
            twin(at(server, ca, tls=None)).send(hello())

    @pytest.mark.parametrize(
        "wants", ["530 5.7.0 Must issue a STARTTLS command first", "451 5.7.3 STARTTLS is required"]
    )
    @pytest.mark.parametrize("pipelining", [(), ("PIPELINING",)])
    @pytest.mark.parametrize("policy", ["any", "all"])
    def test_what_kept_it_from_tls_is_named_where_mail_needs_tls(
        self,
        twin: Twin,
        scripted: Scripted,
        ca: Certificates,
        wants: str,
        pipelining: tuple[str, ...],
        policy: str,
    ) -> None:
        """That is nothing against the message: it is deferred, or goes to the next server."""
        server = scripted(Play({"MAIL": wants}, extensions=("STARTTLS", *pipelining)), certificate="self_signed")
        given = at(server, ca, tls=None, username=None, password=None)
        with pytest.raises(TLSFailed, match=r"is not trusted: self-signed .* in clear it answers MAIL with") as caught:
            twin(given, recipient_policy=policy).send(hello("bob@example.com", "joe@example.com"))
        assert caught.value.is_transient
        assert caught.value.receipt is not None
        assert {outcome.status for outcome in caught.value.receipt.outcomes} == {Status.DEFERRED}
        spare = scripted()
        assert twin(given, spare.url, recipient_policy=policy).send(hello()).server == spare.name

    def test_a_sender_refused_for_another_reason_is_refused(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        for refusal in ("530 5.7.0 Authentication required", "550 5.7.1 not you"):
            server = scripted(Play({"MAIL": refusal}, extensions=("STARTTLS",)), certificate="self_signed")
            with pytest.raises(SenderRefused, match=refusal[:9]):
                twin(at(server, ca, tls=None, username=None, password=None)).send(hello())

    def test_a_new_connection_that_fails_too_is_the_servers_failure(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=OFFER), Play({"": "554 no"}), certificate="expired")
        with pytest.raises(ConnectionError, match="554"):
            twin(at(server, ca, tls="opportunistic")).send(hello())

    @pytest.mark.parametrize("decision", ["secure", "insecure"])
    def test_a_callable_is_asked_with_the_server_and_what_happened(
        self, twin: Twin, scripted: Scripted, ca: Certificates, decision: str
    ) -> None:
        asked: list[Any] = []

        def decide(server: Server, trouble: Any) -> str:
            asked.append((server.name, trouble))
            return decision

        server = scripted(Play({"STARTTLS": "454 not now"}, extensions=OFFER))
        mailer = twin(at(server, ca, tls="opportunistic", on_tls_failure=decide))
        if decision == "insecure":
            assert mailer.send(hello()).ok
        else:
            with pytest.raises(TLSFailed, match="without TLS nothing may be sent there"):
                mailer.send(hello())
            assert_nothing_was_told(server, "STARTTLS")
        [(name, trouble)] = asked
        assert name == server.name
        assert trouble.code == 454

    def test_a_callable_that_says_something_else_is_an_error(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=BEHIND))
        with pytest.raises(ValueError, match="on_tls_failure returned 'maybe'"):
            twin(at(server, ca, tls="opportunistic", on_tls_failure=lambda server, trouble: "maybe")).send(hello())
        assert_nothing_was_told(server)

    def test_a_callable_that_raises_closes_the_connection(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=BEHIND))

        def decide(server: Server, trouble: Any) -> str:
            raise ZeroDivisionError

        with pytest.raises(InvalidSetting, match="on_tls_failure raised ZeroDivisionError") as caught:
            twin(at(server, ca, tls="opportunistic", on_tls_failure=decide)).send(hello())
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.DEFERRED]
        assert_nothing_was_told(server)


class TestNoSecretInClear:
    @pytest.fixture
    def elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Loopback seems to be far away. Only what an address means is changed, nothing that decides."""
        from smtpbackend.delivery import hostnames

        monkeypatch.setattr(hostnames, "is_loopback", lambda host: False)

    @pytest.mark.usefixtures("elsewhere")
    @pytest.mark.parametrize("tls", ["none", "opportunistic"])
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    def test_off_loopback_a_secret_needs_tls(
        self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str, mechanism: str
    ) -> None:
        server = scripted(Play(extensions=(f"AUTH {mechanism}",)))
        insecure = at(server, ca, tls=tls, on_tls_failure="insecure")
        with pytest.raises(AuthenticationFailed, match="allow_cleartext_auth=True"):
            twin(insecure).send(hello())
        assert_nothing_was_told(server)

    @pytest.mark.usefixtures("elsewhere")
    def test_cram_md5_tells_no_secret(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=("AUTH PLAIN CRAM-MD5",)))
        assert twin(at(server, ca, tls="none")).send(hello()).ok
        for secret in SECRETS:
            assert secret not in server.received

    @pytest.mark.usefixtures("elsewhere")
    def test_a_failed_cram_md5_is_not_followed_by_the_password(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN CRAM-MD5",)))
        with pytest.raises(AuthenticationFailed):
            twin(at(server, ca, tls="none")).send(hello())
        for secret in SECRETS:
            assert secret not in server.received

    @pytest.mark.usefixtures("elsewhere")
    def test_it_can_be_allowed(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=("AUTH PLAIN",)))
        assert twin(at(server, ca, tls="none", allow_cleartext_auth=True)).send(hello()).ok

    @pytest.mark.usefixtures("elsewhere")
    def test_opportunistic_with_credentials_off_loopback_needs_tls(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        server = scripted(Play(extensions=("AUTH CRAM-MD5",)))
        with pytest.raises(TLSFailed, match="STARTTLS"):
            twin(at(server, ca, tls="opportunistic")).send(hello())
        assert_nothing_was_told(server)

    def test_require_tls_is_refused_on_a_clear_connection(
        self, twin: Twin, scripted: Scripted, ca: Certificates
    ) -> None:
        from smtpbackend import Envelope

        clear = scripted(Play(extensions=("REQUIRETLS",)))
        secured = scripted(Play(extensions=(*OFFER, "REQUIRETLS")), certificate="server")
        envelope = Envelope("ann@example.org", ["bob@example.com"], require_tls=True)
        receipt = twin(clear.url, at(secured, ca)).send(hello(), envelope)
        assert receipt.server == secured.name
        assert "MAIL" not in clear.speakers[0].verbs
