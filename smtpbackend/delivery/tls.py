"""From the TLS settings of a server to its ``ssl.SSLContext``; and what a failure of TLS means.

Every context verifies the chain and the name, or that the server has a pinned certificate or key. It also keeps the
last TLS session of its server, and so cannot be used for another server.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smtpbackend.delivery.server import Server, Watch
from smtpbackend.errors import InvalidSetting, SMTPError
from smtpbackend.hiding import discreet
from smtpbackend.outcome import Reply
from smtpbackend.spelling import KEYWORDS, Spelling

if TYPE_CHECKING:
    from smtpbackend.delivery.certificate import Certificate

__all__ = ["Context", "check_files", "client_context", "on_failure"]

# X509_V_ERR_*, as in ssl.SSLCertVerificationError.verify_code
_NAME_CODES = (62, 64)  # of host and address
_DATE_CODES = (9, 10)  # not yet, and no longer valid
_STRICT_CODES = (78, *range(80, 94))  # of VERIFY_X509_STRICT alone
_NO_CA_CODE = 79  # and of it where the authority is a root of X.509 version 1
STRICT = ssl.VERIFY_X509_STRICT if sys.version_info >= (3, 13) else 0  # as ssl.create_default_context


class Context(ssl.SSLContext):
    """A context for one server. With ``pins`` it accepts only one of these certificates or keys.

    ``spelled`` says how errors write settings; ``watch`` is told of each handshake that ends well.
    """

    pins: tuple[str, ...] = ()
    spelled: Spelling = KEYWORDS
    watch: Watch | None = None

    def take_session(self) -> ssl.SSLSession | None:
        """The session that a new connection should resume: each is used once (RFC 8446 C.4)."""
        # one step, so that only one of several threads gets it
        session: ssl.SSLSession | None = self.__dict__.pop("session", None)
        return session

    def keep_session(self, tls: ssl.SSLSocket | ssl.SSLObject) -> None:
        """Have the next connection resume this one. In TLS 1.3 a session follows the handshake: call it last."""
        session = tls.session
        if session is not None and (session.has_ticket or session.id):
            self.__dict__["session"] = session


class _Checked:
    """A TLS connection that also checks pins in its handshake, and explains a failed verification."""

    def do_handshake(self, *block: bool) -> None:
        try:
            super().do_handshake(*block)  # type: ignore[misc]
            _check_pins(self)
        except ssl.SSLCertVerificationError as error:
            _explain(error, self)
            raise
        if self.context.watch is not None:  # type: ignore[attr-defined]
            self.context.watch("tls", facts(self))  # type: ignore[attr-defined]


class _Socket(_Checked, ssl.SSLSocket):
    pass


class _Object(_Checked, ssl.SSLObject):
    pass


@discreet
def client_context(server: Server) -> Context:
    """A context that verifies against the system's authorities and ``ca_file``, or the pins of ``pinned_sha256``.

    Raises `InvalidSetting` for a file that cannot be used, with its path and the setting's name.
    """
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.spelled, context.watch = server.spelling, server.watch
    context.sslsocket_class = _Socket
    context.sslobject_class = _Object
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if server.min_tls == "1.3" else ssl.TLSVersion.TLSv1_2
    if server.pinned_sha256:
        context.pins = server.pinned_sha256
        context.check_hostname = False  # _check_pins verifies the server
        context.verify_mode = ssl.CERT_NONE
    elif server.tls != "none":  # which needs no roots, and they take some 30 ms to load
        # the same as ssl.create_default_context, which makes no context of another class
        context.load_default_certs()
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags |= STRICT if server.strict_x509 else 0
    if (key_log := os.environ.get("SSLKEYLOGFILE")) and not sys.flags.ignore_environment:
        context.keylog_filename = key_log
    _load_files(context, server)
    return context


@discreet
def check_files(server: Server) -> None:
    """Raise `InvalidSetting` for a file that cannot be used, without loading the system's authorities."""
    if server.ca_file or server.client_cert:
        _load_files(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), server)


def expired_files(server: Server) -> list[tuple[str, str, str]]:
    """The settings of files that hold an expired certificate: the setting, the path, and the last day."""
    from datetime import UTC, datetime

    from smtpbackend.delivery.certificate import read_certificate

    today = datetime.now(UTC).date().isoformat()
    found = []
    for setting in ("ca_file", "client_cert"):
        path = getattr(server, setting)
        if not path:
            continue
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii", errors="replace") as file:
            for block in file.read().split(_BEGIN)[1:]:
                pem = f"{_BEGIN}{block.partition(_END)[0]}{_END}"
                last = read_certificate(ssl.PEM_cert_to_DER_cert(pem)).not_after
                if last < today:
                    found.append((setting, path, last))
                    break
    return found


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def _load_files(context: ssl.SSLContext, server: Server) -> None:
    if server.ca_file:
        try:
            context.load_verify_locations(server.ca_file)
        except OSError as error:
            raise _unusable(server, "ca_file", error, "a PEM file of certificates is wanted") from error
    if server.client_cert:
        _load_client(context, server)


def _load_client(context: ssl.SSLContext, server: Server) -> None:
    """Load the client's certificate and key. An error names the setting that is wrong, which OpenSSL does not tell."""
    assert server.client_cert is not None
    spelled = server.spelling
    key = server.client_key or server.client_cert
    key_setting = "client_key" if server.client_key else "client_cert"
    for setting, path, wanted, what in (
        ("client_cert", server.client_cert, b"-----BEGIN CERTIFICATE-----", "certificate"),
        (key_setting, key, b"PRIVATE KEY-----", "private key"),
    ):
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise _unusable(server, setting, error) from error
        if wanted not in content:
            alone = setting == "client_cert" and what == "private key"
            hint = f"; set {spelled('client_key')} to the file that does" if alone else ""
            raise _unusable(server, setting, f"it holds no {what} in PEM{hint}")
    is_encrypted = b"ENCRYPTED" in content
    try:
        # without a password OpenSSL would ask the terminal for that of an encrypted key, and wait
        context.load_cert_chain(server.client_cert, server.client_key, password=server.client_key_password or "")
    except (OSError, ValueError) as error:  # ValueError: a password of over 1024 octets
        if is_encrypted:
            why = "is wrong" if server.client_key_password else "is not set"
            raise InvalidSetting(
                f"{spelled(key_setting)} {key!r} is encrypted, and {spelled('client_key_password')} {why}",
                field="client_key_password",
            ) from error
        both = f", {spelled(key_setting)} {server.client_key!r}" if server.client_key else ""
        raise InvalidSetting(
            f"{spelled('client_cert')} {server.client_cert!r}{both} cannot be used: {_reason(error)}", field=key_setting
        ) from error


def _unusable(server: Server, setting: str, why: str | OSError, hint: str = "") -> InvalidSetting:
    """The error of a setting whose file cannot be used; ``hint`` is for one that OpenSSL cannot read."""
    reason = _reason(why) if isinstance(why, OSError) else why
    if hint and isinstance(why, ssl.SSLError):
        reason += f"; {hint}"
    return InvalidSetting(
        f"{server.spelling(setting)} {getattr(server, setting)!r} cannot be used: {reason}", field=setting
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        known = {
            "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
            "NO_CERTIFICATE_OR_CRL_FOUND": "it holds no certificate in PEM",
        }
        return known.get(error.reason or "", str(error))
    return (isinstance(error, OSError) and error.errno and os.strerror(error.errno)) or str(error)


def _check_pins(tls: Any) -> None:
    pins = tls.context.pins
    if not pins:
        return
    from smtpbackend.delivery.certificate import fingerprints

    try:
        found = fingerprints(tls.getpeercert(binary_form=True) or b"")
    except ValueError:
        found = "", ""
    if not set(pins) & set(found):
        why = f"neither the certificate nor its key is in {tls.context.spelled('pinned_sha256')}"
        error = ssl.SSLCertVerificationError(1, why)
        error.verify_code, error.verify_message = 0, why
        raise error


def _explain(error: ssl.SSLCertVerificationError, tls: Any) -> None:
    """Add to an error the certificate that it is about, and the setting that helps."""
    from smtpbackend.delivery.certificate import fingerprints, read_certificate

    certificate = None
    fingerprint = ("", "")
    der = presented(tls)
    if der is not None:
        try:
            certificate, fingerprint = read_certificate(der), fingerprints(der)
        except ValueError:
            der = None
    spelled = tls.context.spelled
    lenient = spelled("strict_x509", False)
    pins = f"{spelled('pinned_sha256', fingerprint[1])} (its key)" if der else spelled("pinned_sha256")
    if tls.context.pins:
        setting = spelled("pinned_sha256")
        remedy = f"if the server has a new key and its operator confirms it, add {fingerprint[1]!r} to {setting}"
    elif error.verify_code in _NAME_CODES:
        remedy = (
            f"set {spelled('host')} to a name that stands in the certificate, or {pins} if its operator confirms that"
        )
    elif error.verify_code in _STRICT_CODES:
        remedy = (
            f"only Python's strict mode refuses it: set {lenient}, which leaves all other checks, or {pins} if the "
            "server's operator confirms that"
        )
    elif error.verify_code in _DATE_CODES:
        remedy = f"check this machine's clock; the server's operator has to renew it, or set {pins} meanwhile"
    else:
        ca_file = spelled("ca_file")
        remedy = f"set {ca_file} to the authority that signed it, or {pins} if the server's operator confirms that"
        if error.verify_code == _NO_CA_CODE and tls.context.verify_flags & ssl.VERIFY_X509_STRICT:
            remedy = f"if its authority is an old root without extensions, set {lenient}; else {remedy}"
    described = ""
    if certificate is not None:
        described = f"{_described(certificate)}, SHA-256 {fingerprint[0]}"
    error.certificate, error.remedy = described, remedy  # type: ignore[attr-defined]


def facts(tls: Any) -> tuple[str, str, tuple[str, ...], tuple[str, ...], str]:
    """Protocol, cipher, the certificates of the chain, the hosts that the first is for, and its last day.

    Of one that is trusted by a pin alone there is no chain, but itself.
    """
    from smtpbackend.delivery.certificate import hosts_of, read_certificate

    try:  # public from Python 3.13 on
        chain = (tls if hasattr(tls, "get_verified_chain") else tls._sslobj).get_verified_chain() or ()
        certificates = [one if isinstance(one, bytes) else bytes(one.public_bytes(2)) for one in chain]  # 2: as DER
    except (AttributeError, TypeError, ValueError, OSError):
        certificates = []
    first: bytes = tls.getpeercert(binary_form=True) or b""
    shown: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    last_day = ""
    with contextlib.suppress(ValueError):
        last_day = read_certificate(first).not_after
        shown = tuple(_described(read_certificate(der)) for der in certificates or [first])
        hosts = hosts_of(first)
    return tls.version() or "", (tls.cipher() or ("",))[0], shown, hosts, last_day


def _described(certificate: Certificate) -> str:
    dates = f"valid from {certificate.not_before} to {certificate.not_after}"
    return f"{certificate.subject}, issued by {certificate.issuer}, {dates}"


def presented(tls: Any) -> bytes | None:
    """The server's certificate, even if it was not accepted; None where Python does not give it."""
    try:
        # public from Python 3.13 on
        chain = (tls if hasattr(tls, "get_unverified_chain") else tls._sslobj).get_unverified_chain()
        first = chain[0]
        return first if isinstance(first, bytes) else bytes(first.public_bytes(2))  # 2: as DER
    except (AttributeError, LookupError, TypeError, ValueError, OSError):
        return None


def on_failure(server: Server, local_peer: bool) -> Callable[[Reply | SMTPError], str]:
    """What follows under ``tls="opportunistic"`` when TLS cannot be had: "secure" or "insecure" (DESIGN 4.6)."""

    setting = server.spelling("on_tls_failure")

    def decide(trouble: Reply | SMTPError) -> str:
        decision = server.on_tls_failure
        if callable(decision):
            try:
                decision = decision(server, trouble)
            except Exception as error:
                raise InvalidSetting(
                    f"{setting} raised {type(error).__name__}: {error}", field="on_tls_failure", server=server.name
                ) from error
            if decision not in ("secure", "insecure"):
                raise InvalidSetting(
                    f"{setting} returned {decision!r}; 'secure' or 'insecure' is wanted",
                    field="on_tls_failure",
                    server=server.name,
                )
        if decision is None:
            # a pin says that it must be this server
            return "insecure" if (server.login is None or local_peer) and not server.pinned_sha256 else "secure"
        return str(decision)

    return decide
