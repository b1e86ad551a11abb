"""The client's side of one SMTP connection: every dialogue there is, as conversations.

Everything that is known of a connection is known to its session: what the server offers, whether the channel is
verified, whether it may be used again. How mail is carried is in ``transacting.py`` and ``delivering.py``, how one logs
in is in ``authenticating.py``. No socket, no clock, no thread: a conversation yields `Write`, `Read` and `StartTLS` and
is sent the answers. Any exception that leaves a conversation leaves the session ``broken``: its connection must be
closed and never be used again (DESIGN 4.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from smtpbackend.errors import (
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    HelloRefused,
    ProtocolViolation,
    SMTPError,
    TimedOut,
    TLSFailed,
)
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command, sasl
from smtpbackend.protocol.authenticating import Attempt, Authenticating
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.dialogue import Transcript
from smtpbackend.protocol.effects import NOW, Conversation, StartTLS
from smtpbackend.protocol.timeouts import Timeouts

__all__ = ["Session"]

T = TypeVar("T")


class Session(Authenticating):
    """One connection to one server.

    ``server`` names it in errors; ``client_name`` stands behind EHLO; ``local_peer`` tells that the peer address is
    loopback or a unix socket; ``ignore`` masks keywords that the server wrongly offers. With ``lmtp`` it is LMTP.
    """

    def __init__(
        self,
        server: str,
        client_name: str,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        ignore: Sequence[str] = (),
        local_peer: bool = False,
        lmtp: bool = False,
        transcript: Transcript | None = None,
    ) -> None:
        super().__init__(server, timeouts, transcript, lmtp, local_peer)
        self.client_name = command.check_client_name(client_name)
        self.greeting: Reply | None = None
        self.may_go_on_in_clear = False
        """After a failed handshake: whether ``on_tls_failure`` allows a new connection without TLS."""
        self._ignore = ignore

    # Opening -----------------------------------------------------------------------------------------------------

    def open(
        self,
        tls: str,
        login: sasl.Credentials | None = None,
        *,
        mechanisms: Sequence[str] | None = None,
        allow_cleartext_auth: bool = False,
        on_tls_failure: Callable[[Reply | SMTPError], str] = lambda trouble: "secure",
        queue: bool = False,
        attempt: Attempt | None = None,
    ) -> Conversation[None]:
        """Greeting, EHLO, TLS as the policy says, login. ``on_tls_failure`` is asked under "opportunistic" only.

        ``queue``: say QUED where XQUE is offered. ``attempt``: what was tried to log in on connections before this one.
        """
        self.broken = True  # until it is open
        if login is not None:  # also ahead of the login: this server may have heard it before
            self._hide(login.password, login.token)
        if tls == "implicit":  # RFC 8314 3
            self.phase = "tls"
            yield from self._secure(self.timeouts.greeting)
        self.phase = "greeting"
        self.greeting = reply = yield from self._greet()
        if reply.code != 220:
            raise self._failed(ConnectFailed, f"{self.server} does not welcome us: {reply}", reply)
        self.phase = "hello"
        yield from self.hello(tls == "required" or login is not None)
        if tls in ("required", "opportunistic"):
            self.phase = "tls"
            yield from self._upgrade(tls == "required", on_tls_failure, login is not None)
        if login is not None:
            self.phase = "auth"
            yield from self.login(login, mechanisms, allow_cleartext_auth, attempt)
        if queue and "XQUE" in self.capabilities:
            self.phase = "hello"
            reply = yield from self._ask(command.QUED)  # whatever it is, but for the end
            if reply.code == 421:
                raise self._left(reply)
        if not self._replies.is_empty:
            yield from self._hear_out()
        if self._unwritable is not None:
            raise self._failed(ConnectionLost, f"{self.server} could not be written to: {self._unwritable}")
        self.phase = "idle"
        self.broken = False

    def _greet(self) -> Conversation[Reply]:
        """The greeting; where it does not come in clear, the error says which settings make a server wait for TLS."""
        begun = yield NOW
        try:
            reply = yield from self._behind_handshake(self._reply(self.timeouts.greeting, goes_on=self.secure))
        except (ConnectionLost, TimedOut) as error:
            if not self.secure and not self.reads and not self.lmtp:
                error.args = (
                    f"{error}; a port of implicit TLS (465) does so: for that, set tls='implicit' (USE_SSL instead of "
                    "USE_TLS), or change port to 587",
                )
            raise
        self.slowest = (yield NOW) - begun
        return reply

    def hello(self, extended: bool = False) -> Conversation[None]:
        """EHLO, and HELO for a server that refuses it (RFC 5321 3.2): then no extension is assumed.

        Refused with 4yz too (nodemailer does so), but where ``extended`` says that only EHLO will do, for STARTTLS or
        AUTH: it may be answered later. In LMTP it is LHLO, and nothing else will do (RFC 2033 4.1).
        """
        reply = yield from self._ask((command.lhlo if self.lmtp else command.ehlo)(self.client_name))
        if reply.is_positive:
            self.capabilities = Capabilities.from_reply(self._said(reply), self._ignore)
            return
        if self.lmtp:
            raise self._failed(
                HelloRefused,
                f"{self.server} refused LHLO with {reply}; if it speaks SMTP, the URL begins with smtp",
                reply,
            )
        what = "EHLO"
        if reply.is_permanent or (reply.is_transient and reply.code != 421 and not extended):
            self.capabilities = Capabilities()
            refusal = reply
            try:
                reply = yield from self._ask(command.helo(self.client_name))
            except ConnectionLost:  # who hangs up has said why
                reply = refusal
            else:
                what = "EHLO and HELO"
                if refusal.is_transient and reply.is_permanent:
                    reply = refusal  # EHLO may be answered later
        if not reply.is_positive:
            raise self._failed(
                HelloRefused,
                f"{self.server} refused {what} with {reply}; "
                f"if it dislikes the name {self.client_name!r}, set client_name",
                reply,
            )

    def _upgrade(
        self, required: bool, on_failure: Callable[[Reply | SMTPError], str], extended: bool
    ) -> Conversation[None]:
        """STARTTLS (RFC 3207). Returns without TLS only where policy and ``on_failure`` let it."""
        trouble: Reply | SMTPError
        if "STARTTLS" not in self.capabilities:
            error = self._tls_failed("offers no STARTTLS", required)
            trouble = error
        else:
            trouble = reply = yield from self._ask(command.STARTTLS)
            if reply.code == 220:
                try:
                    yield from self._secure(self.timeouts.connect)
                    self.capabilities = Capabilities()  # RFC 3207 4.2: what was learnt before is forgotten
                    yield from self._behind_handshake(self.hello(extended))
                except TLSFailed as failure:
                    # The connection is lost with the handshake; only a new one could go on in clear.
                    self.may_go_on_in_clear = not required and on_failure(failure) == "insecure"
                    raise
                return
            if reply.code == 421:
                raise self._left(reply)
            error = self._tls_failed(f"refused STARTTLS with {reply}", required, reply)
            self.without_tls = TLSFailed(
                f"{self.server} refused STARTTLS with {reply}", server=self.server, reply=reply
            )
        if required or on_failure(trouble) != "insecure":
            self.broken = True
            raise error

    def _tls_failed(self, what: str, required: bool, reply: Reply | None = None) -> TLSFailed:
        why = "tls is 'required'" if required else "on_tls_failure says 'secure'"
        remedy = "set tls='none' only if the path is private" if required else "tls='none' only if the path is private"
        return TLSFailed(f"{self.server} {what} and {why}; {remedy}", server=self.server, reply=reply)

    def _secure(self, timeout: float) -> Conversation[None]:
        if self._replies.has_unread:
            raise self._failed(
                ProtocolViolation, f"{self.server} (or someone in between) sent data ahead of the TLS handshake"
            )
        try:
            self.channel = yield StartTLS(timeout)
        except OSError as error:
            self.broken = True
            if self.greeting is None and _is_clear(error):
                raise TLSFailed(
                    f"{self.server} speaks in clear, and tls is 'implicit'; check that port and tls fit together: for "
                    "this port set tls='required' (STARTTLS; USE_TLS instead of USE_SSL), or change port to 465",
                    server=self.server,
                ) from error
            if isinstance(error, SMTPError):
                raise
            reason = getattr(error, "verify_message", "") or str(error) or type(error).__name__
            if hasattr(error, "verify_message"):
                # which certificate and what to set, by whoever performed the handshake
                shown = f" ({certificate})" if (certificate := getattr(error, "certificate", "")) else ""
                what = f"the certificate of {self.server}{shown} is not trusted: {reason.rstrip('.')}"
                remedy = getattr(error, "remedy", "set ca_file to the authority that signed it")
            else:
                what = f"the TLS handshake with {self.server} failed: {reason}"
                remedy = _remedy(getattr(error, "reason", None) or "")
            raise TLSFailed(f"{what}; {remedy}", server=self.server) from error
        self.secure = True
        self._replies.clear()

    def _behind_handshake(self, conversation: Conversation[T]) -> Conversation[T]:
        """The first replies in TLS: there a TLS 1.3 server says what it has against the client (RFC 8446 4.4.2.4)."""
        try:
            return (yield from conversation)
        except ConnectionLost as lost:
            alert = lost.__cause__
            if getattr(alert, "library", "") != "SSL":  # as every ssl.SSLError has it
                raise
            self.phase, self.secure = "tls", False
            reason = getattr(alert, "reason", None) or ""
            raise TLSFailed(
                f"the TLS handshake with {self.server} failed: {alert}; {_remedy(reason)}", server=self.server
            ) from alert

    # Asking ------------------------------------------------------------------------------------------------------

    def verify(self, address: str) -> Conversation[Reply]:
        """VRFY: 250, 251, 252 and 550 are told apart by the caller (RFC 5321 3.5)."""
        return (yield from self._ask(command.vrfy(address, "SMTPUTF8" in self.capabilities and not address.isascii())))

    def expand(self, name: str) -> Conversation[Reply]:
        """EXPN: the members of a mailing list (RFC 5321 3.5)."""
        return (yield from self._ask(command.expn(name)))

    def is_new(self) -> Conversation[bool]:
        """Whether this connection was just opened. Says nothing to the server."""
        return not self._resumed
        yield

    def help(self, argument: str = "") -> Conversation[Reply]:
        """HELP (RFC 5321 4.1.1.8)."""
        return (yield from self._ask(command.help_(argument)))

    def noop(self) -> Conversation[Reply]:
        """NOOP (RFC 5321 4.1.1.9)."""
        return (yield from self._ask(command.NOOP))

    def reset(self) -> Conversation[None]:
        """RSET (RFC 5321 4.1.1.5)."""
        reply = yield from self._ask(command.RSET)
        if not reply.is_positive:
            raise self._failed(CommandRefused, f"{self.server} refused RSET with {reply}", reply)
        self._latest = None

    def quit(self) -> Conversation[None]:
        """QUIT, and whatever the server says to it (RFC 5321 4.1.1.10)."""
        self.broken = True
        yield from self._ask(command.QUIT)


def _remedy(reason: str) -> str:
    """What to do about a failed handshake; ``reason`` is OpenSSL's name for it."""
    ours = "client_cert and client_key to a certificate that the server takes"
    if "_ALERT_" in reason and ("CERTIFICATE" in reason or reason.endswith("UNKNOWN_CA")):
        return f"it wants a client certificate: set {ours}"  # of such alerts only the client's can be the reason
    check = "check that port and tls fit together (465 is 'implicit', 587 and 25 are 'required')"
    return f"{check}, or set {ours} if it asks for one" if reason.endswith("ALERT_HANDSHAKE_FAILURE") else check


def _is_clear(error: OSError) -> bool:
    """Whether a handshake that nothing went before was ended by words of SMTP, ahead of it or in answer to it."""
    # OpenSSL's names for what does not look like TLS; the second is that of 3.2 and later
    reasons = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
    return isinstance(error, ProtocolViolation) or getattr(error, "reason", None) in reasons
