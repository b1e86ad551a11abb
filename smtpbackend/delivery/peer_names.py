"""Names that other libraries give to settings, and what does the same here. Loaded where a name is not known."""

from __future__ import annotations

from collections.abc import Callable

from smtpbackend.spelling import Spelling

__all__ = ["OF_PEERS", "of_peer"]


def _authority(spelled: Spelling) -> str:
    return (
        f"certificates are always verified; set {spelled('ca_file')} to the authority that signed the server's, or "
        f"{spelled('pinned_sha256')} to its fingerprint"
    )


def _context(spelled: Spelling) -> str:
    return f"TLS is set up by {spelled.together('ca_file', 'client_cert', 'client_key', 'min_tls', 'pinned_sha256')}"


def _sender(spelled: Spelling) -> str:
    return f"the sender is the From of each message; set {spelled('bounce_address')} to where bounces go"


def _required(spelled: Spelling) -> str:
    return f"set {spelled('tls', 'required')}"


def _implicit(spelled: Spelling) -> str:
    return f"set {spelled('tls', 'implicit')}"


def _as(name: str) -> Callable[[Spelling], str]:
    return lambda spelled: f"set {spelled(name)}"


OF_PEERS: dict[str, tuple[str, Callable[[Spelling], str]]] = {
    "use_tls": (
        "Django, Flask-Mail and aiosmtplib",
        lambda spelled: f"set {spelled('tls', 'required')} (STARTTLS), or {spelled('tls', 'implicit')} for port 465",
    ),
    "use_ssl": ("Django and Flask-Mail", _implicit),
    "ssl_certfile": ("Django", _as("client_cert")),
    "ssl_keyfile": ("Django", _as("client_key")),
    "fail_silently": ("Django", lambda spelled: "catch DeliveryError"),
    "local_hostname": ("smtplib and aiosmtplib", _as("client_name")),
    "context": ("smtplib", _context),
    "certfile": ("smtplib", _as("client_cert")),
    "keyfile": ("smtplib", _as("client_key")),
    "hostname": ("aiosmtplib", _as("host")),
    "start_tls": ("aiosmtplib", _required),
    "validate_certs": ("aiosmtplib", _authority),
    "cert_bundle": ("aiosmtplib", _authority),
    "tls_context": ("aiosmtplib", _context),
    "socket_path": ("aiosmtplib", lambda spelled: f"give smtp+unix:///path in {spelled('servers')}"),
    "sender": ("aiosmtplib", _sender),
    "default_sender": ("Flask-Mail", _sender),
    "max_emails": ("Flask-Mail", _as("max_messages")),
    "suppress": ("Flask-Mail", _as("suppress_send")),
    "use_starttls": ("redmail", _required),
    "smtp_starttls": ("yagmail", _required),
    "smtp_ssl": ("yagmail", _implicit),
    "oauth2_file": ("yagmail", _as("token")),
    "verify": ("requests and httpx", _authority),
    "ssl_context": ("other libraries", _context),
    "secure": ("nodemailer", _implicit),
    "requireTLS": ("nodemailer", _required),
    "ignoreTLS": ("nodemailer", lambda spelled: f"set {spelled('tls', 'none')} only if the path is private"),
    "auth": ("nodemailer", lambda spelled: f"set {spelled.together('username', 'password')}"),
    "localAddress": ("nodemailer", _as("source_address")),
    "maxConnections": ("nodemailer", _as("max_connections")),
    "maxMessages": ("nodemailer", _as("max_messages")),
    "rateLimit": ("nodemailer", _as("rate")),
    "connectionTimeout": ("nodemailer", _as("timeout")),
    "greetingTimeout": ("nodemailer", _as("timeout")),
    "socketTimeout": ("nodemailer", _as("timeout")),
}
"""Names of other libraries that are no settings here: whose they are, and what does the same."""


def of_peer(name: str, spelled: Spelling) -> str:
    """Whose a name is that is no setting here, and what does the same; "" where it is not known."""
    if name not in OF_PEERS:
        return ""
    whose, advice = OF_PEERS[name]
    return f"a name of {whose}: {advice(spelled)}"
