"""SASL mechanisms, and which of them may be used."""

from __future__ import annotations

import base64
import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from scramp import ScramMechanism
from scramp.core import ScramException

from smtpbackend.errors import AuthenticationFailed, MissingExtra, ProtocolViolation, TimedOut
from smtpbackend.protocol.bearer import oauthbearer, xoauth2
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.digest import digest_md5, directives
from smtpbackend.protocol.effects import Channel
from smtpbackend.protocol.mechanisms import MECHANISMS, choose, cram_md5, known, login, plain
from smtpbackend.protocol.scram import channel_binding, scram, server_end_point
from smtpbackend.protocol.session import Session
from smtpbackend.sasl import Credentials, Exchange, Long, Mechanism, Refused, register, unregister
from tests.protocol.script import Script
from tests.servers.tls import Certificates

ANN = Credentials("ann", "s3cret")


def test_plain_gives_everything_at_once() -> None:
    """RFC 4616 2."""
    exchange = plain(Credentials("tim", "tanstaaftanstaaf"))
    assert next(exchange) == b"\0tim\0tanstaaftanstaaf"
    with pytest.raises(StopIteration):
        exchange.send(b"")


def test_plain_speaks_utf_8() -> None:
    assert next(plain(Credentials("jürgen", "schlüssel€"))) == "\0jürgen\0schlüssel€".encode()


def test_login_gives_the_name_and_then_the_secret() -> None:
    exchange = login(ANN)
    assert next(exchange) is None
    assert exchange.send(b"Username:") == b"ann"
    assert exchange.send(b"Password:") == b"s3cret"
    with pytest.raises(StopIteration):
        exchange.send(b"More:")


def test_cram_md5_of_the_rfc() -> None:
    """RFC 2195 2."""
    exchange = cram_md5(Credentials("tim", "tanstaaftanstaaf"))
    assert next(exchange) is None
    answer = exchange.send(b"<1896.697170952@postoffice.reston.mci.net>")
    assert answer == b"tim b913a602c7eda7a495b4e6e7334d3890"
    with pytest.raises(StopIteration):
        exchange.send(b"")


def test_the_strongest_comes_first() -> None:
    assert [mechanism.name for mechanism in choose(["PLAIN", "LOGIN", "CRAM-MD5"], None, True)] == [
        "CRAM-MD5",
        "PLAIN",
        "LOGIN",
    ]


@pytest.mark.parametrize(
    ("offered", "wanted", "expected"),
    [
        ("SCRAM-SHA-256 CRAM-MD5 XOAUTH2 PLAIN", None, "XOAUTH2 SCRAM-SHA-256 CRAM-MD5 PLAIN"),
        ("CRAM-MD5 OAUTHBEARER XOAUTH2 LOGIN", None, "OAUTHBEARER XOAUTH2 CRAM-MD5 LOGIN"),
        ("CRAM-MD5 PLAIN", None, "CRAM-MD5 PLAIN"),
        ("CRAM-MD5 XOAUTH2", ["CRAM-MD5", "XOAUTH2"], "CRAM-MD5 XOAUTH2"),
    ],
)
def test_a_token_comes_before_the_password_beside_it(offered: str, wanted: list[str] | None, expected: str) -> None:
    """It was set in place of the password, which may be a forgotten one; a login costs one bad try."""
    both = ANN._replace(token="ya29")
    assert [mechanism.name for mechanism in choose(offered.split(), wanted, True, both)] == expected.split()


@pytest.mark.parametrize(
    ("offered", "wanted", "clear_allowed", "names"),
    [
        (["LOGIN", "PLAIN"], None, True, ["PLAIN", "LOGIN"]),
        (["LOGIN", "PLAIN"], None, False, []),
        (["LOGIN", "PLAIN", "CRAM-MD5"], None, False, ["CRAM-MD5"]),
        (["LOGIN", "PLAIN", "CRAM-MD5"], ["LOGIN", "CRAM-MD5"], True, ["LOGIN", "CRAM-MD5"]),
        (["LOGIN", "PLAIN", "CRAM-MD5"], ["login", "cram-md5"], False, ["CRAM-MD5"]),
        (["PLAIN"], ["CRAM-MD5"], True, []),
        (["PLAIN", "GSSAPI"], ["GSSAPI", "PLAIN"], True, ["PLAIN"]),
        (["PLAIN"], [], True, []),
        ([], None, True, []),
    ],
)
def test_which_may_be_used(offered: list[str], wanted: list[str] | None, clear_allowed: bool, names: list[str]) -> None:
    assert [mechanism.name for mechanism in choose(offered, wanted, clear_allowed)] == names


def test_who_reads_along_learns_the_secret_of_four_of_them() -> None:
    in_clear = {"PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"}
    assert {mechanism.name for mechanism in MECHANISMS if mechanism.in_clear} == in_clear


def test_the_secret_is_in_no_repr() -> None:
    assert "s3cret" not in repr(ANN) + str(ANN) + f"{ANN}" + f"{ANN!r}"
    assert repr(ANN) == "Credentials(username='ann', password='***')"
    assert "s3cret" not in repr([ANN]) + repr(plain(ANN))
    assert pickle.loads(pickle.dumps(ANN)) == ANN


# SCRAM -----------------------------------------------------------------------------------------------------------

RFC_5802 = (  # section 5
    "SCRAM-SHA-1",
    "fyko+d2lbbFgONRv9qkxdawL",
    b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
RFC_7677 = (  # section 3
    "SCRAM-SHA-256",
    "rOprNGfwEbeRWgbNEkqO",
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)
SCRAMS = pytest.mark.parametrize(("name", "nonce", "first", "challenge", "final", "proof"), [RFC_5802, RFC_7677])
CLIENT = Credentials("user", "pencil")


def answered(exchange: Exchange, challenge: bytes) -> Any:
    """What an exchange says to a challenge, its long work done."""
    step = exchange.send(challenge)
    while isinstance(step, Long):
        step = exchange.send(step.do())
    return step


@SCRAMS
def test_scram_of_the_rfcs(name: str, nonce: str, first: bytes, challenge: bytes, final: bytes, proof: bytes) -> None:
    exchange = scram(name, CLIENT, nonce)
    assert next(exchange) == first
    assert answered(exchange, challenge) == final
    assert exchange.send(proof) == b""
    with pytest.raises(StopIteration):
        exchange.send(None)


@SCRAMS
@pytest.mark.parametrize(
    "said",
    [b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAA=", b"v=", b"", b"x", b"v=\xff", b"v=!!!", b"m=ext", None],
)
def test_scram_takes_no_other_proof(
    name: str, nonce: str, first: bytes, challenge: bytes, final: bytes, proof: bytes, said: bytes | None
) -> None:
    exchange = scram(name, CLIENT, nonce)
    next(exchange)
    answered(exchange, challenge)
    with pytest.raises(Refused) as caught:
        exchange.send(said)
    assert caught.value.impostor or said == b"v=\xff"


@SCRAMS
def test_scram_hears_the_servers_error(
    name: str, nonce: str, first: bytes, challenge: bytes, final: bytes, proof: bytes
) -> None:
    exchange = scram(name, CLIENT, nonce)
    next(exchange)
    answered(exchange, challenge)
    with pytest.raises(Refused, match="the server says invalid-proof") as caught:
        exchange.send(b"e=invalid-proof")
    assert not caught.value.impostor


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=another,s=QSXCR+Q6sek8bf92,i=4096",
        b"r=fyko+d2lbbFgONRv9qkxdawL,s=QSXCR+Q6sek8bf92,i=4096",  # the server added nothing
        b"r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=1",
        b"r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=99999999999",
        b"\xff",
        None,
    ],
)
def test_scram_refuses_a_first_message_that_is_none(challenge: bytes | None) -> None:
    exchange = scram("SCRAM-SHA-1", CLIENT, "fyko+d2lbbFgONRv9qkxdawL")
    next(exchange)
    with pytest.raises(Refused):
        exchange.send(challenge)


@pytest.mark.parametrize("name", ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("iterations", [1, 4_095, 600_001, 9_999_999, 99_999_999_999, 10**400])
def test_scram_refuses_too_few_or_too_many_iterations_before_any_work(name: str, iterations: int) -> None:
    """RFC 7677 4, and RFC 5802 9: a server must not choose how long we are kept busy."""
    exchange = scram(name, CLIENT, "fyko+d2lbbFgONRv9qkxdawL")
    next(exchange)
    with pytest.raises(Refused):
        exchange.send(f"r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i={iterations}".encode())


@pytest.mark.parametrize("iterations", [4_096, 600_000])
def test_scram_hashes_elsewhere(iterations: int) -> None:
    exchange = scram("SCRAM-SHA-256", CLIENT, "fyko+d2lbbFgONRv9qkxdawL")
    next(exchange)
    step = exchange.send(f"r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i={iterations}".encode())
    assert isinstance(step, Long)


def test_scram_prepares_name_and_password() -> None:
    """RFC 4013: the soft hyphen is nothing, the ligature is its letters; a "," and a "=" are quoted (RFC 5802 5.1)."""
    assert next(scram("SCRAM-SHA-1", Credentials("I\u00adX", "x"), "n")) == b"n,,n=IX,r=n"
    assert next(scram("SCRAM-SHA-1", Credentials("a=b,c", "x"), "n")) == b"n,,n=a=3Db=2Cc,r=n"
    with pytest.raises(Refused, match="RFC 4013") as caught:
        next(scram("SCRAM-SHA-1", Credentials("ann", "s3cret\u0007"), "n"))
    assert "s3cret" not in repr(caught.value)


def bound(certificates: Certificates, **fields: bytes) -> Channel:
    pem = certificates.server.read_text()
    der = x509.load_pem_x509_certificates(pem[pem.index("-----BEGIN CERT") :].encode())[0]
    from cryptography.hazmat.primitives.serialization import Encoding

    return Channel(der.public_bytes(Encoding.DER), **fields)


def play_server(name: str, exchange: Exchange, binding: tuple[str, bytes] | None) -> None:
    """Log in to scramp's server."""
    mechanism = ScramMechanism(name)
    salt, stored, key, iterations = mechanism.make_auth_info("pencil")
    server = mechanism.make_server(lambda username: (salt, stored, key, iterations), channel_binding=binding)
    first = next(exchange)
    assert first is not None
    server.set_client_first(first.decode())
    final = answered(exchange, server.get_server_first().encode())
    assert final is not None
    server.set_client_final(final.decode())
    assert exchange.send(server.get_server_final().encode()) == b""
    with pytest.raises(StopIteration):
        exchange.send(None)


@pytest.mark.parametrize("name", ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("unique", [b"", b"finished"])
def test_scram_plus_is_bound_to_the_channel(ca: Certificates, name: str, unique: bytes) -> None:
    channel = bound(ca, unique=unique)
    kind, data = binding = channel_binding(channel) or ("", b"")
    assert kind == ("tls-unique" if unique else "tls-server-end-point")
    assert data == (unique or hashlib.sha256(channel.certificate).digest())
    credentials = CLIENT._replace(channel=channel, offered=(name, f"{name}-PLUS"))
    play_server(f"{name}-PLUS", scram(f"{name}-PLUS", credentials), binding)
    with pytest.raises(ScramException):  # someone in between ends TLS
        play_server(f"{name}-PLUS", scram(f"{name}-PLUS", credentials), (kind, b"another channel"))


def test_without_plus_the_server_is_told_that_it_was_possible(ca: Certificates) -> None:
    """RFC 5802 6: so that it sees if someone took -PLUS out of its offer."""
    credentials = CLIENT._replace(channel=bound(ca), offered=("SCRAM-SHA-256",))
    assert (next(scram("SCRAM-SHA-256", credentials, "n")) or b"").startswith(b"y,,")
    credentials = credentials._replace(offered=("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"))
    assert (next(scram("SCRAM-SHA-256", credentials, "n")) or b"").startswith(b"n,,")
    assert (next(scram("SCRAM-SHA-256", CLIENT, "n")) or b"").startswith(b"n,,")


def test_plus_needs_something_to_bind_to() -> None:
    with pytest.raises(Refused, match="nothing to bind to"):
        next(scram("SCRAM-SHA-1-PLUS", CLIENT._replace(channel=Channel(b"")), "n"))


def test_the_end_point_is_hashed_by_the_hash_of_its_signature() -> None:
    """RFC 5929 4.1; SHA-1 becomes SHA-256, and Ed25519 has none."""
    from datetime import UTC, datetime

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.example.com")])
    for key, algorithm in (
        (ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
            .sign(key, algorithm)
            .public_bytes(Encoding.DER)
        )
        wanted = None if algorithm is None else hashlib.new(algorithm.name, certificate).digest()
        assert server_end_point(certificate) == wanted


# DIGEST-MD5 ------------------------------------------------------------------------------------------------------

DIGEST = b'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8'
CHRIS = Credentials("chris", "secret", host="elwood.innosoft.com")


def rfc_2831(user: Credentials = CHRIS, challenge: bytes = DIGEST, service: str = "smtp") -> tuple[Exchange, bytes]:
    exchange = digest_md5(user, "OA6MHXh6VqTrRk", service)
    assert next(exchange) is None
    return exchange, exchange.send(challenge) or b""


def test_digest_md5_of_the_rfc() -> None:
    """RFC 2831 4: the example is of IMAP."""
    exchange, answer = rfc_2831(service="imap")
    assert answer == (
        b'charset=utf-8,username="chris",realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",nc=00000001,'
        b'cnonce="OA6MHXh6VqTrRk",digest-uri="imap/elwood.innosoft.com",'
        b"response=d388dad90d4bbd760a152321f2143af7,qop=auth"
    )
    assert exchange.send(b"rspauth=ea40f60335c427b5527b84dbabcdfffd") == b""
    with pytest.raises(StopIteration):
        exchange.send(None)


def test_digest_md5_of_smtp_names_its_service() -> None:
    _, answer = rfc_2831()
    assert directives(answer)["digest-uri"] == ["smtp/elwood.innosoft.com"]


@pytest.mark.parametrize(
    "said", [b"rspauth=ea40f60335c427b5527b84dbabcdfffd", b"rspauth=", b"", b"x=y", b"rspauth=\xff", None]
)
def test_digest_md5_takes_no_other_proof(said: bytes | None) -> None:
    exchange, _ = rfc_2831()
    with pytest.raises(Refused) as caught:
        exchange.send(said)
    assert caught.value.impostor


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"<1896.697170952@postoffice.reston.mci.net>",
        DIGEST.replace(b"md5-sess", b"md5"),
        DIGEST.replace(b'"auth"', b'"auth-conf"'),
        DIGEST.replace(b"nonce", b"once"),
        DIGEST + b',nonce="again"',
        b'nonce="open',
    ],
)
def test_digest_md5_refuses_what_it_cannot_answer(challenge: bytes) -> None:
    with pytest.raises(Refused):
        rfc_2831(challenge=challenge)


def test_digest_md5_chooses_its_realm() -> None:
    both = b'realm="a",realm="lab",' + DIGEST.partition(b",")[2]
    for name, challenge, username, realm in (
        ("ann@lab", both, "ann", ["lab"]),
        ("ann@else", both, "ann@else", ["a"]),
        ("ann", DIGEST.partition(b",")[2], "ann", None),
    ):
        said = directives(rfc_2831(Credentials(name, "x"), challenge)[1])
        assert (said["username"], said.get("realm")) == ([username], realm)


def test_digest_md5_quotes_and_encodes() -> None:
    _, answer = rfc_2831(Credentials('a"\\ü', "x"))
    assert 'username="a\\"\\\\ü"'.encode() in answer
    _, answer = rfc_2831(Credentials("ü", "x"), DIGEST.replace(b",charset=utf-8", b""))
    assert 'username="ü"'.encode("iso-8859-1") in answer
    with pytest.raises(Refused, match="ISO 8859-1"):
        rfc_2831(Credentials("€", "x"), DIGEST.replace(b",charset=utf-8", b""))


# Tokens ----------------------------------------------------------------------------------------------------------

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="


def test_oauthbearer_of_the_rfc() -> None:
    """RFC 7628 4.1."""
    user = Credentials("user@example.com", token=TOKEN, host="server.example.com", port=143)
    initial = next(oauthbearer(user))
    assert initial is not None
    assert base64.b64encode(initial) == (
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyI"
        b"HZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )


def test_oauthbearer_of_the_rfc_refused() -> None:
    """RFC 7628 4.3: the error in JSON, and the dummy."""
    exchange = oauthbearer(Credentials("user@example.com", token=TOKEN))
    next(exchange)
    with pytest.raises(Refused) as caught:
        exchange.send(
            b'{"status":"invalid_token","scope":"example_scope",'
            b'"openid-configuration":"https://example.com/.well-known/openid-configuration"}'
        )
    assert caught.value.answer == b"\x01"
    assert caught.value.details is not None
    assert caught.value.details["status"] == "invalid_token"
    assert caught.value.details["scope"] == "example_scope"


def test_xoauth2() -> None:
    """As Google documents it."""
    user = Credentials("someuser@example.com", token="ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")
    exchange = xoauth2(user)
    assert base64.b64encode(next(exchange) or b"") == (
        b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0"
        b"Q2cBAQ=="
    )
    with pytest.raises(Refused, match="status: 400") as caught:
        exchange.send(b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}')
    assert caught.value.answer == b""


@pytest.mark.parametrize("said", [b"", b"no", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_refusal_too(said: bytes) -> None:
    exchange = xoauth2(Credentials("ann", token=TOKEN))
    next(exchange)
    with pytest.raises(Refused, match="the token is refused") as caught:
        exchange.send(said)
    assert caught.value.details == {}


def test_an_echoed_token_is_hidden() -> None:
    exchange = xoauth2(Credentials("ann", token=TOKEN))
    next(exchange)
    with pytest.raises(Refused) as caught:
        exchange.send(f'{{"status":"{TOKEN}"}}'.encode())
    assert TOKEN not in str(caught.value) + repr(caught.value.details)


# In a session ----------------------------------------------------------------------------------------------------


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def log_in(
    offered: str,
    *answers: bytes,
    credentials: Credentials = ANN,
    mechanisms: list[str] | None = None,
    secure: bool = True,
    **options: bool,
) -> tuple[Script, AuthenticationFailed | None]:
    session = Session("mx.example.com:587", "client.example.org")
    session.capabilities = Capabilities({"AUTH": offered})
    session.secure = secure
    script = Script(*answers)
    try:
        script.run(session.login(credentials, mechanisms, **options))
    except AuthenticationFailed as error:
        assert session.broken
        return script, error
    return script, None


def test_a_server_that_did_not_prove_itself_gets_nothing_more() -> None:
    """Neither by an early 235 nor by a wrong signature, and PLAIN is not tried."""
    for answers in (
        (b"235 ok\r\n",),
        (b"334 " + b64(RFC_5802[3]) + b"\r\n", b"501 cancelled\r\n"),
        (b"334 " + b64(RFC_5802[3]) + b"\r\n", b"235 ok\r\n"),
    ):
        script, error = log_in("SCRAM-SHA-1 PLAIN", *answers, mechanisms=["SCRAM-SHA-1"])
        assert error is not None, answers
        assert not any(b"PLAIN" in line for line in script.sent)
    digest = ["DIGEST-MD5", "PLAIN"]
    script, error = log_in(
        "DIGEST-MD5 PLAIN", b"334 " + b64(DIGEST) + b"\r\n", b"334 cnNwYXV0aD0w\r\n", b"501 no\r\n", mechanisms=digest
    )
    assert error is not None
    assert "did not prove" in str(error)
    assert script.sent[-1] == b"*\r\n"
    assert len(script.sent) == 3
    _, error = log_in("DIGEST-MD5 PLAIN", b"334 " + b64(DIGEST) + b"\r\n", b"235 ok\r\n", mechanisms=digest)
    assert error is not None
    assert "did not prove" in str(error)


@pytest.mark.parametrize(("secure", "allowed", "follows"), [(True, False, True), (False, True, False)])
def test_plain_follows_a_failed_challenge_response_on_a_verified_channel_alone(
    secure: bool, allowed: bool, follows: bool
) -> None:
    script, error = log_in(
        "CRAM-MD5 PLAIN",
        b"334 YQ==\r\n",
        b"535 no\r\n",
        b"235 ok\r\n",
        secure=secure,
        allow_cleartext_auth=allowed,
    )
    assert (error is None) is follows
    assert (b"AUTH PLAIN" in b"".join(script.sent)) is follows


def test_the_json_of_a_refused_token_is_in_the_error() -> None:
    credentials = Credentials("ann", token=TOKEN)
    json = b'{"status":"invalid_token","scope":"mail"}'
    for mechanism, dummy in (("OAUTHBEARER", b"AQ==\r\n"), ("XOAUTH2", b"\r\n")):
        script, error = log_in(mechanism, b"334 " + b64(json) + b"\r\n", b"535 5.7.8 no\r\n", credentials=credentials)
        assert error is not None
        assert error.details == {"status": "invalid_token", "scope": "mail"}
        assert "invalid_token" in str(error)
        assert pickle.loads(pickle.dumps(error)).details == error.details
        assert script.sent[1:] == [dummy]
        _, error = log_in(mechanism, b"334 " + b64(json) + b"\r\n", b"235 well\r\n", credentials=credentials)
        assert error is not None, "a login that was refused is none, whatever comes next"


def test_a_server_that_goes_on_after_the_dummy_is_left() -> None:
    with pytest.raises(ProtocolViolation):
        log_in("XOAUTH2", *[b"334 e30=\r\n"] * 5, credentials=Credentials("ann", token=TOKEN))


def test_a_token_that_is_long_waits_for_its_challenge() -> None:
    """RFC 4954 4: the line of AUTH is no longer than any other; that of a response is."""
    script, error = log_in("XOAUTH2", b"334 \r\n", b"235 ok\r\n", credentials=Credentials("ann", token="x" * 3000))
    assert error is None
    assert script.sent[0] == b"AUTH XOAUTH2\r\n"
    assert base64.b64decode(script.sent[1]) == b"user=ann\x01auth=Bearer " + b"x" * 3000 + b"\x01\x01"


def test_a_token_does_not_leave_in_clear() -> None:
    for mechanism in ("XOAUTH2", "OAUTHBEARER"):
        script, error = log_in(mechanism, credentials=Credentials("ann", token=TOKEN), secure=False)
        assert script.sent == []
        assert "would get the token in clear" in str(error)


def test_external_and_anonymous_are_used_when_asked_for_alone() -> None:
    script, error = log_in("EXTERNAL ANONYMOUS")
    assert script.sent == []
    assert error is not None
    script, error = log_in("EXTERNAL", b"235 ok\r\n", credentials=Credentials(""), mechanisms=["EXTERNAL"])
    assert (script.sent, error) == ([b"AUTH EXTERNAL =\r\n"], None)
    script, error = log_in("ANONYMOUS", b"235 ok\r\n", credentials=Credentials("sirhc"), mechanisms=["ANONYMOUS"])
    assert (script.sent, error) == ([b"AUTH ANONYMOUS c2lyaGM=\r\n"], None)


def test_without_scramp_the_rest_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scramp", None)
    script, error = log_in("SCRAM-SHA-256 PLAIN", b"235 ok\r\n")
    assert error is None
    assert len(script.sent) == 1
    for mechanisms in (None, ["SCRAM-SHA-256"]):
        with pytest.raises(MissingExtra, match=r'pip install "smtpbackend\[scram\]"'):
            log_in("SCRAM-SHA-256", mechanisms=mechanisms)


@pytest.fixture
def forgetting() -> Iterator[None]:
    yield
    for name in ("X-BACKWARDS", "PLAIN", "X-SLOW", "X-BOUND-PLUS"):
        unregister(name)


@pytest.mark.usefixtures("forgetting")
def test_a_mechanism_of_ones_own() -> None:
    def rot13(credentials: Credentials) -> Exchange:
        challenge = yield None
        assert challenge == b"hello"
        yield credentials.username.encode()[::-1]

    register(Mechanism("x-backwards", rot13, in_clear=False, needs=""))
    assert next(iter(known())) == "X-BACKWARDS"
    script, error = log_in("PLAIN X-BACKWARDS", b"334 aGVsbG8=\r\n", b"235 ok\r\n")
    assert error is None
    assert script.sent == [b"AUTH X-BACKWARDS\r\n", b64(b"nna") + b"\r\n"]
    register(Mechanism("PLAIN", rot13, in_clear=False, needs=""))
    assert choose(["PLAIN"], None, False)[0].exchange is rot13


@pytest.mark.usefixtures("forgetting")
def test_a_registered_plus_mechanism_is_not_chosen_without_a_channel() -> None:
    """RFC 5801 3.2: -PLUS says that the login is bound to the channel of TLS, and in clear there is none."""

    def bound(credentials: Credentials) -> Exchange:
        assert credentials.channel is not None
        yield credentials.channel.certificate

    register(Mechanism("x-bound-plus", bound, in_clear=False))
    for wanted in (None, ["X-BOUND-PLUS", "PLAIN"]):
        in_tls = choose(["PLAIN", "X-BOUND-PLUS"], wanted, True, ANN._replace(channel=Channel(b"certificate")))
        assert [mechanism.name for mechanism in in_tls] == ["X-BOUND-PLUS", "PLAIN"]
        in_clear = choose(["PLAIN", "X-BOUND-PLUS"], wanted, True, ANN)
        assert [mechanism.name for mechanism in in_clear] == ["PLAIN"]
    script, error = log_in("PLAIN X-BOUND-PLUS", b"235 ok\r\n")
    assert error is None
    assert script.sent == [b"AUTH PLAIN " + b64(b"\0ann\0s3cret") + b"\r\n"]


@pytest.mark.usefixtures("forgetting")
def test_a_mechanism_that_is_unregistered_gives_its_name_back() -> None:
    builtin = known()["PLAIN"]
    register(builtin._replace(needs=""))
    assert known()["PLAIN"] != builtin
    unregister("plain")
    assert known()["PLAIN"] == builtin


@pytest.mark.usefixtures("forgetting")
def test_an_answer_that_takes_too_long_to_compute_is_a_time_out() -> None:
    def slow(credentials: Credentials) -> Exchange:
        yield (yield Long(lambda: b"y"))

    register(Mechanism("X-SLOW", slow, in_clear=False))
    script = Script()
    script.late = TimeoutError("timed out")
    session = Session("mx.example.com:25", "client.example.org")
    session.capabilities = Capabilities({"AUTH": "X-SLOW"})
    with pytest.raises(TimedOut, match=r"takes too long to compute .*at most 60 s; see timeout"):
        script.run(session.login(ANN))
    assert session.broken
