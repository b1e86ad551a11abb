"""The client's side of one SMTP connection: opening it, mail, questions and QUIT, each as a conversation.

A `Session` is made of a `Line`, which carries commands and replies, a `History` of what happened on the connection, and
a `Pipeline` for each run of mail. What the server offers, and how the channel is secured, it sets itself. No socket, no
clock, no thread: a conversation yields `Write`, `Read` and `StartTLS` and is sent the answers.

The states of a connection are the phases of its line:

| phase | what is going on | set by | what follows |
| --- | --- | --- | --- |
| connect | nothing was read yet | `Line` | tls, greeting |
| tls | the handshake, or STARTTLS before it | `open` | greeting, hello, auth, idle |
| greeting | waiting for the first reply | `open` | hello |
| hello | EHLO, LHLO or HELO; QUED | `open` | tls, auth, idle |
| auth | AUTH; before `connect`: a token is fetched (delivery) | `open`, delivery | hello, idle; connect |
| idle | everything was answered | `open`, `Pipeline.run` | mail |
| mail, rcpt, data | the command of the oldest transaction that is awaited | `TransactionSteps` | each other, idle |

In every phase a connection may end (`Line.end`): by an error that leaves a conversation, by 421 or QUIT, where a
conversation is broken off, or where the pool or a delivery says so. It keeps its phase, is closed and never used again
(DESIGN 4.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from smtpbackend.errors import (
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    HandshakeFailed,
    HelloRefused,
    ProtocolViolation,
    SMTPError,
    TimedOut,
    TLSFailed,
    TLSNotOffered,
    TLSRefused,
    handshake_failed,
)
from smtpbackend.known_replies import explained, remedy
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command, sasl
from smtpbackend.protocol.authentication import Attempt, Authentication
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.effects import Channel, Conversation, StartTLS
from smtpbackend.protocol.history import History
from smtpbackend.protocol.line import Line, Transcript
from smtpbackend.protocol.pipeline import Pipeline
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transaction_steps import Terms
from smtpbackend.spelling import KEYWORDS, Spelling

__all__ = ["Session"]

T = TypeVar("T")


class Session:
    """One connection to one server.

    ``server`` names it in errors, and ``spelling`` says how they write settings; ``client_name`` stands behind EHLO;
    ``local_peer`` tells that the peer address is loopback or a unix socket; ``ignore`` masks keywords that the server
    wrongly offers. With ``lmtp`` it is LMTP (RFC 2033): each accepted recipient has a final reply of its own.
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
        spelling: Spelling = KEYWORDS,
    ) -> None:
        self.line = Line(server, timeouts, transcript, spelling)
        self.spelled = spelling
        self.history = History()
        self.server = server
        self.client_name = command.check_client_name(client_name)
        self.local_peer = local_peer
        self.lmtp = lmtp
        self.greeting: Reply | None = None
        self.capabilities = Capabilities()
        self.secure = False
        """Whether TLS is in force. All TLS here is verified, so this is what a secret needs."""
        self.channel: Channel | None = None
        """What a login can be bound to in TLS."""
        self.without_tls: TLSFailed | None = None
        """Why there is no TLS, where it was tried and the policy lets the session go on in clear."""
        self.may_go_on_in_clear = False
        """After a failed handshake: whether ``on_tls_failure`` allows a new connection without TLS."""
        self.login_goes_on = False
        """After a login that the server hung up on: whether another mechanism may be tried on a new connection."""
        self._ignore = ignore

    @property
    def broken(self) -> bool:
        """Whether the connection must be closed and never be used again."""
        return self.line.ended is not None

    def end(self, why: str) -> None:
        """Never use this connection again."""
        self.line.end(why)

    # Opening -----------------------------------------------------------------------------------------------------

    def open(
        self,
        tls: str,
        login: sasl.Credentials | None = None,
        *,
        mechanisms: Sequence[str] | None = None,
        allow_cleartext_auth: bool = False,
        on_tls_failure: Callable[[Reply | SMTPError], str] = lambda trouble: "secure",
        xque: bool = False,
        attempt: Attempt | None = None,
    ) -> Conversation[None]:
        """Greeting, EHLO, TLS as the policy says, login. ``on_tls_failure`` is asked under "opportunistic" only.

        ``xque``: say QUED where XQUE is offered. ``attempt``: what was tried to log in on connections before this one.
        """
        line = self.line
        with line.ending():
            if login is not None:  # also before the login: this server may have been told the secret earlier
                line.hide(login.password, login.token)
            if tls == "implicit":  # RFC 8314 3
                line.phase = "tls"
                yield from self._secure(line.timeouts.greeting)
            line.phase = "greeting"
            self.greeting = reply = yield from self._greet()
            if reply.code != 220:
                why = explained(reply, line.phase, self.spelled)
                raise line.fatal(ConnectFailed, f"{self.server} refused the connection: {why}", reply)
            line.phase = "hello"
            yield from self.hello(tls == "required" or login is not None)
            if tls in ("required", "opportunistic"):
                line.phase = "tls"
                yield from self._upgrade(tls == "required", on_tls_failure, login is not None)
            if login is not None:
                yield from self.login(login, mechanisms, allow_cleartext_auth, attempt)
            if xque and "XQUE" in self.capabilities:
                line.phase = "hello"
                reply = yield from line.ask(command.QUED)  # any reply will do, but 421
                if reply.code == 421:
                    raise line.goodbye(reply)
            yield from line.expect_silence()
            if line.unwritable is not None:
                raise line.lost()
            line.phase = "idle"

    def login(
        self,
        credentials: sasl.Credentials,
        mechanisms: Sequence[str] | None = None,
        allow_cleartext_auth: bool = False,
        attempt: Attempt | None = None,
    ) -> Conversation[None]:
        """AUTH, as `Authentication` does it. ``attempt`` and the others are those of `open`."""
        self.line.phase = "auth"
        self.line.hide(credentials.password, credentials.token)
        verified = self.secure or self.local_peer
        authentication = Authentication(
            self.line,
            credentials._replace(channel=self.channel, offered=self.capabilities.auth_mechanisms),
            mechanisms,
            verified=verified,
            clear_allowed=verified or allow_cleartext_auth,
            without_tls=self.without_tls,
        )
        try:
            with self.line.ending():
                yield from authentication.run(attempt or Attempt())
        finally:
            self.login_goes_on = authentication.goes_on

    def _greet(self) -> Conversation[Reply]:
        """The greeting. If none comes in clear, the error names the settings for a port of implicit TLS."""
        try:
            return (yield from self._behind_handshake(self.line.greeting(goes_on=self.secure)))
        except (ConnectionLost, TimedOut) as error:
            if not self.secure and not self.line.reads and not self.lmtp:
                error.args = (
                    f"{error}; if it is a port of implicit TLS (465), set {self.spelled('tls', 'implicit')}, or "
                    f"{self.spelled('port', 587)}",
                )
            raise

    def hello(self, extended: bool = False) -> Conversation[None]:
        """EHLO, and HELO for a server that refuses it (RFC 5321 3.2): then no extension is assumed.

        HELO follows 4yz as well (as in nodemailer), unless ``extended``: STARTTLS and AUTH need EHLO, which may be
        accepted later. LMTP has LHLO alone (RFC 2033 4.1).
        """
        reply = yield from self.line.ask((command.lhlo if self.lmtp else command.ehlo)(self.client_name))
        if reply.is_positive:
            self.capabilities = Capabilities.from_reply(self.line.as_said(reply), self._ignore)
            return
        if self.lmtp:
            raise self.line.fatal(
                HelloRefused,
                f"{self.server} refused LHLO with {reply}; if it is an SMTP server, use a URL that begins with smtp",
                reply,
            )
        what = "EHLO"
        if reply.is_permanent or (reply.is_transient and reply.code != 421 and not extended):
            self.capabilities = Capabilities()
            refusal = reply
            try:
                reply = yield from self.line.ask(command.helo(self.client_name))
            except ConnectionLost:  # the refusal is the reason
                reply = refusal
            else:
                what = "EHLO and HELO"
                if refusal.is_transient and reply.is_permanent:
                    reply = refusal  # EHLO may be accepted later
        if not reply.is_positive:
            what_to_do = remedy(reply, "hello", self.spelled) or (
                f"if it refuses the name {self.client_name!r}, set {self.spelled('client_name')}"
            )
            raise self.line.fatal(HelloRefused, f"{self.server} refused {what} with {reply}; {what_to_do}", reply)

    def _upgrade(
        self, required: bool, on_failure: Callable[[Reply | SMTPError], str], extended: bool
    ) -> Conversation[None]:
        """STARTTLS (RFC 3207). Returns without TLS only where policy and ``on_failure`` allow it."""
        trouble: Reply | SMTPError
        if "STARTTLS" not in self.capabilities:
            error = self._no_tls("offers no STARTTLS", required)
            trouble = error
        else:
            trouble = reply = yield from self.line.ask(command.STARTTLS)
            if reply.code == 220:
                try:
                    yield from self._secure(self.line.timeouts.connect)
                    self.capabilities = Capabilities()  # RFC 3207 4.2: what was learnt before is forgotten
                    yield from self._behind_handshake(self.hello(extended))
                except TLSFailed as failure:
                    # The connection is lost with the handshake; only a new one could go on in clear.
                    self.may_go_on_in_clear = not required and on_failure(failure) == "insecure"
                    raise
                return
            if reply.code == 421:
                raise self.line.goodbye(reply)
            error = self._no_tls(f"refused STARTTLS with {reply}", required, reply)
            self.without_tls = TLSRefused(
                f"{self.server} refused STARTTLS with {reply}", server=self.server, reply=reply
            )
        if required or on_failure(trouble) != "insecure":
            raise error

    def _no_tls(self, what: str, required: bool, reply: Reply | None = None) -> TLSFailed:
        spelled = self.spelled
        why = f"{spelled('tls', 'required')} is set" if required else "without TLS nothing may be sent there"
        remedy = f"check {spelled('port')}; set {spelled('tls', 'none')} only if the path is private"
        kind = TLSNotOffered if reply is None else TLSRefused
        return kind(f"{self.server} {what}, and {why}; {remedy}", server=self.server, reply=reply)

    def _secure(self, timeout: float) -> Conversation[None]:
        if self.line.replies.has_unread:
            raise self.line.fatal(
                ProtocolViolation, f"{self.server} (or someone in between) sent data ahead of the TLS handshake"
            )
        try:
            self.channel = yield StartTLS(timeout)
        except OSError as error:
            if self.greeting is None and _is_clear(error):
                raise HandshakeFailed(
                    f"{self.server} speaks in clear, and {self.spelled('tls', 'implicit')} does not: set "
                    f"{self.spelled('tls', 'required')} (STARTTLS) for this port, or {self.spelled('port', 465)}",
                    cause=error,
                    server=self.server,
                ) from error
            if isinstance(error, SMTPError):
                raise
            reason = getattr(error, "verify_message", "") or str(error) or type(error).__name__
            if hasattr(error, "verify_message"):
                # the wire adds which certificate it is, and what to set
                shown = f" ({certificate})" if (certificate := getattr(error, "certificate", "")) else ""
                what = f"the certificate of {self.server}{shown} is not trusted: {reason.rstrip('.')}"
                remedy = getattr(error, "remedy", f"set {self.spelled('ca_file')} to the authority that signed it")
            else:
                what = f"the TLS handshake with {self.server} failed: {reason}"
                remedy = self._remedy(getattr(error, "reason", None) or "")
            raise handshake_failed(f"{what}; {remedy}", error, self.server) from error
        self.secure = True
        self.line.replies.clear()

    def _behind_handshake(self, conversation: Conversation[T]) -> Conversation[T]:
        """The first replies in TLS: a TLS 1.3 server refuses a client's certificate here (RFC 8446 4.4.2.4)."""
        try:
            return (yield from conversation)
        except ConnectionLost as lost:
            alert = lost.__cause__
            if getattr(alert, "library", "") != "SSL":  # as every ssl.SSLError has it
                raise
            self.line.phase, self.secure = "tls", False
            reason = getattr(alert, "reason", None) or ""
            raise handshake_failed(
                f"the TLS handshake with {self.server} failed: {alert}; {self._remedy(reason)}", alert, self.server
            ) from alert

    def _remedy(self, reason: str) -> str:
        """What to do about a failed handshake; ``reason`` is OpenSSL's name for it."""
        spelled = self.spelled
        ours = f"{spelled.together('client_cert', 'client_key')} to a certificate that the server takes"
        if "_ALERT_" in reason and ("CERTIFICATE" in reason or reason.endswith("UNKNOWN_CA")):
            return f"it wants a client certificate: set {ours}"  # the client's is the only one that it can refuse
        if reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"):
            return f"it has no TLS version that {spelled('min_tls')} allows (1.2 or 1.3): its operator has to update it"
        check = (
            f"check that port and kind of TLS fit together: {spelled('tls', 'implicit')} for port 465, "
            f"{spelled('tls', 'required')} for 587 and 25"
        )
        return f"{check}; or set {ours} if it asks for one" if reason.endswith("ALERT_HANDSHAKE_FAILURE") else check

    # Mail --------------------------------------------------------------------------------------------------------

    def deliver(
        self, policy: str = "any", window: int = 1, probe_from: int | None = None, in_lock_step: bool = False
    ) -> Conversation[None]:
        """Take a stream of transactions (`Next`) and give each back when it is settled (`Settled`), in order.

        At most ``window`` are in flight. From the transaction of number ``probe_from`` on the connection may be asked
        to prove that it discards refused chunks; None: never. ``in_lock_step``: each command waits for the reply to the
        one before it, whatever the server offers. A connection that ends settles what is in flight; nothing is raised.
        """
        return Pipeline(self.line, self.history, self.terms(policy, probe_from, in_lock_step), window).run()

    def terms(self, policy: str, probe_from: int | None, in_lock_step: bool) -> Terms:
        """How mail is sent on this connection, with the arguments of `deliver`."""
        grouped = "PIPELINING" in self.capabilities and not in_lock_step
        return Terms(self.capabilities, self.lmtp, policy, probe_from, grouped)

    # Asking ------------------------------------------------------------------------------------------------------

    def verify(self, address: str) -> Conversation[Reply]:
        """VRFY (RFC 5321 3.5): the caller tells 250, 251, 252 and 550 apart."""
        return (
            yield from self.line.ask(command.vrfy(address, "SMTPUTF8" in self.capabilities and not address.isascii()))
        )

    def expand(self, name: str) -> Conversation[Reply]:
        """EXPN (RFC 5321 3.5): the members of a mailing list."""
        return (yield from self.line.ask(command.expn(name)))

    def is_new(self) -> Conversation[bool]:
        """Whether this connection was just opened. Says nothing to the server."""
        return not self.line.is_reused
        yield

    def help(self, argument: str = "") -> Conversation[Reply]:
        """HELP (RFC 5321 4.1.1.8)."""
        return (yield from self.line.ask(command.help_(argument)))

    def noop(self) -> Conversation[Reply]:
        """NOOP (RFC 5321 4.1.1.9)."""
        return (yield from self.line.ask(command.NOOP))

    def reset(self) -> Conversation[None]:
        """RSET (RFC 5321 4.1.1.5)."""
        reply = yield from self.line.ask(command.RSET)
        if not reply.is_positive:
            raise self.line.fatal(CommandRefused, f"{self.server} refused RSET with {reply}", reply)
        self.history.latest = None

    def quit(self) -> Conversation[None]:
        """QUIT, and whatever the server says to it (RFC 5321 4.1.1.10)."""
        self.end("QUIT")
        yield from self.line.ask(command.QUIT)


def _is_clear(error: OSError) -> bool:
    """Whether the server sent SMTP in clear where the first handshake was due."""
    # OpenSSL's names for what does not look like TLS; the second is that of 3.2 and later
    reasons = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
    return isinstance(error, ProtocolViolation) or getattr(error, "reason", None) in reasons
