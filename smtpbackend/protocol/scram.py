"""SCRAM (RFC 5802, RFC 7677) by scramp, which has the arithmetic and SASLprep (RFC 4013).

The server says how often the password is hashed. A number too small to protect the password, or too large to wait for,
is refused before any hashing.
"""

from __future__ import annotations

from smtpbackend.protocol.effects import Channel
from smtpbackend.protocol.sasl import Credentials, Exchange, Long, Refused, missing

__all__ = ["MAX_ITERATIONS", "MIN_ITERATIONS", "channel_binding", "scram"]

MIN_ITERATIONS = 4096  # RFC 7677 4, and RFC 5802 5.1 for SHA-1: fewer make guessing cheap
# What OWASP advised in 2023 for PBKDF2 with SHA-256, its largest number. OpenSSL takes 0.25 s for it, and 0.6 s with
# SHA-512.
MAX_ITERATIONS = 600_000


def scram(mechanism: str, credentials: Credentials, nonce: str | None = None) -> Exchange:
    """Client first, client final; then the server's signature is checked, without which the login fails."""
    try:
        from scramp import ScramClient, ScramException
    except ImportError as error:
        raise missing(mechanism, "scramp") from error

    plus = mechanism.endswith("-PLUS")
    binding = channel_binding(credentials.channel) if credentials.channel is not None else None
    if plus and binding is None:
        raise Refused(f"{mechanism} has nothing to bind to in this channel")
    # RFC 5802 6: without -PLUS "y" says that the client could bind the channel and believes that the server cannot; a
    # server that offers -PLUS takes that for an attack
    offers_plus = any(name.startswith("SCRAM-") and name.endswith("-PLUS") for name in credentials.offered)
    if not plus and offers_plus:
        binding = None
    try:
        client = ScramClient([mechanism], credentials.username, credentials.password, binding, nonce)
        first = client.get_client_first().encode()
    except ScramException as error:  # characters that SASLprep forbids; the error may quote them
        raise Refused(f"username or password cannot be used for {mechanism} (RFC 4013)") from (
            None if credentials.password in str(error) else error
        )
    challenge = yield first
    try:
        client.set_server_first(_text(challenge))
        iterations = int(client.iterations)
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            allowed = f"from {MIN_ITERATIONS:,} to {MAX_ITERATIONS:,} are allowed"
            raise Refused(f"the server asks for {iterations:,} iterations; {allowed}")
        final = (yield Long(client.get_client_final)).encode()
    except ScramException as error:
        raise Refused(f"the server's first message is refused: {error}") from None
    challenge = yield final
    try:
        client.set_server_final(message := _text(challenge))
    except ScramException as error:
        said = "" if challenge is None else message
        if said.startswith("e="):  # RFC 5802 7: the server refuses in its own message
            raise Refused(f"the server says {said[2:]}", by_server=True) from None
        raise Refused("the server did not prove that it knows the password", impostor=True) from error
    challenge = yield b""
    if challenge is not None:
        raise Refused("the server sent a challenge after its last message", impostor=True)


def _text(challenge: bytes | None) -> str:
    if challenge is None:
        raise Refused("the server accepted the login without proving that it knows the password", impostor=True)
    try:
        return challenge.decode()
    except UnicodeDecodeError:
        raise Refused("the server's message is not UTF-8") from None


def channel_binding(channel: Channel) -> tuple[str, bytes] | None:
    """The type of channel binding to use and its data, or None where there is none."""
    from scramp.core import CbName

    if channel.exporter and "tls-exporter" in CbName.SUPPORTED_TYPES:  # RFC 9266
        return "tls-exporter", channel.exporter
    if channel.unique:  # RFC 5929 3, below TLS 1.3
        return "tls-unique", channel.unique
    end_point = server_end_point(channel.certificate)
    return None if end_point is None else ("tls-server-end-point", end_point)


def server_end_point(certificate: bytes) -> bytes | None:
    """RFC 5929 4.1: the certificate's hash, by the hash function of its signature, but MD5 and SHA-1 by SHA-256.

    None where the signature uses no single hash function, such as Ed25519: then it is not defined.
    """
    import hashlib

    from asn1crypto.x509 import Certificate

    if not certificate:
        return None
    try:
        signed = Certificate.load(certificate)["signature_algorithm"]
        algorithm = signed.hash_algo
    except ValueError:
        return None
    if signed.signature_algo in ("ed25519", "ed448"):
        return None
    return hashlib.new("sha256" if algorithm in ("md5", "sha1") else algorithm, certificate).digest()
