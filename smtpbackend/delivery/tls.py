"""TLS as data becomes an ``ssl.SSLContext`` here; and the decision what a failure means. Every context verifies."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from smtpbackend.delivery.server import Server, is_loopback
from smtpbackend.errors import InvalidSetting, SMTPError
from smtpbackend.outcome import Reply

__all__ = ["client_context", "on_failure", "server_hostname"]


def client_context(server: Server) -> ssl.SSLContext:
    """A context that verifies against the system's authorities and ``ca_file``. A bad path is an `InvalidSetting`."""
    # create_default_context loads the roots, which takes some 30 ms; under "none" nobody is verified against them
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if server.tls == "none" else ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if server.min_tls == "1.3" else ssl.TLSVersion.TLSv1_2
    if server.ca_file:
        try:
            context.load_verify_locations(server.ca_file)
        except OSError as error:
            raise InvalidSetting(f"ca_file {server.ca_file!r} cannot be used: {error}", field="ca_file") from error
    if server.client_cert:
        try:
            # without a password of its own, OpenSSL would ask the terminal for the one of an encrypted key, and wait
            context.load_cert_chain(server.client_cert, server.client_key, password="")
        except OSError as error:
            names = f"client_cert {server.client_cert!r}" + (
                f", client_key {server.client_key!r}" if server.client_key else ""
            )
            raise InvalidSetting(f"{names} cannot be used: {error}", field="client_cert") from error
    return context


def server_hostname(host: str) -> str:
    """The name that the certificate must hold: A-labels for an IDN, the address itself for an address."""
    if host.isascii():
        return host
    import idna

    return idna.encode(host, uts46=True).decode("ascii")


def on_failure(server: Server, local_peer: bool) -> Callable[[Reply | SMTPError], str]:
    """What follows under ``tls="opportunistic"`` when TLS cannot be had: "secure" or "insecure" (DESIGN 4.6)."""

    def decide(trouble: Reply | SMTPError) -> str:
        decision = server.on_tls_failure
        if callable(decision):
            try:
                decision = decision(server, trouble)
            except Exception as error:
                raise InvalidSetting(
                    f"on_tls_failure raised {type(error).__name__}: {error}", field="on_tls_failure", server=server.name
                ) from error
            if decision not in ("secure", "insecure"):
                raise InvalidSetting(
                    f"on_tls_failure returned {decision!r}; 'secure' or 'insecure' is wanted",
                    field="on_tls_failure",
                    server=server.name,
                )
        if decision is None:
            return "insecure" if server.login is None or local_peer else "secure"
        return str(decision)

    return decide


def is_local(peer: str | None) -> bool:
    """Whether a peer address (None: a unix socket) is this machine's own."""
    return peer is None or is_loopback(peer)
