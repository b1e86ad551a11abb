"""The client's side of one SMTP connection: every dialogue there is, as conversations.

Everything that is known of a connection lives here: what the server offers, whether the channel is verified, whether
the last transaction left it clean, whether it may be used again. No socket, no clock, no thread: a conversation yields
`Write`, `Read` and `StartTLS` and is sent the answers. Any exception that leaves a conversation leaves the session
``broken``: its connection must be closed and never be used again (DESIGN 4.5).
"""

from __future__ import annotations

import binascii
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from smtpbackend.errors import (
    AuthenticationFailed,
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    DeliveryError,
    HelloRefused,
    InvalidInput,
    ProtocolViolation,
    SMTPError,
    TimedOut,
    TLSFailed,
)
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command, sasl
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.effects import LATER, Conversation, Next, Read, Settled, StartTLS, Write
from smtpbackend.protocol.reply import ReplyReader
from smtpbackend.protocol.transaction import Transaction

__all__ = ["Session", "Timeouts"]

MAX_UNANSWERED = 256  # commands in flight on one connection: DESIGN 5.2
IN_ONE_PIECE = 65536  # octets of content that may share a write with commands


class Timeouts(NamedTuple):
    """Seconds. RFC 5321 4.5.3.2 asks for minutes; a web request cannot wait for them, so these are shorter."""

    connect: float = 10.0
    reply: float = 60.0
    content: float = 60.0  # for each piece of progress
    final: float = 300.0  # RFC 5321 4.5.3.2.6 says 10 minutes
    reused: float = 10.0  # for the first reply on a connection from the pool (DESIGN 4.5)


Transcript = Callable[[str, str], object]
"""Takes ">" or "<" and a line that is safe to log."""


class Session:
    """One connection to one server.

    ``server`` names it in errors; ``client_name`` stands behind EHLO; ``local_peer`` tells that the peer address is
    loopback or a unix socket; ``ignore`` masks keywords that the server wrongly offers.
    """

    def __init__(
        self,
        server: str,
        client_name: str,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        ignore: Sequence[str] = (),
        local_peer: bool = False,
        transcript: Transcript | None = None,
    ) -> None:
        self.server = server
        self.client_name = command.check_client_name(client_name)
        self.timeouts = timeouts
        self.capabilities = Capabilities()
        self.greeting: Reply | None = None
        self.phase = "connect"
        self.secure = False
        """Whether TLS is in force. All TLS here is verified, so this is what a secret asks for."""
        self.local_peer = local_peer
        self.may_go_on_in_clear = False
        """After a failed handshake: whether ``on_tls_failure`` allows a new connection without TLS."""
        self.broken = False
        self.transactions = 0
        """How many were begun on this connection."""
        self._ignore = ignore
        self._transcript = transcript
        self._replies = ReplyReader()
        self._unsent = bytearray()
        self._ending: list[Transaction] = []  # their last octets are in _unsent
        self._clean = True
        self._resumed = False
        self._unwritable: OSError | None = None

    # Opening -----------------------------------------------------------------------------------------------------

    def open(
        self,
        tls: str,
        login: sasl.Login | None = None,
        *,
        mechanisms: Sequence[str] | None = None,
        allow_cleartext_auth: bool = False,
        on_tls_failure: Callable[[Reply | SMTPError], str] = lambda trouble: "secure",
    ) -> Conversation[None]:
        """Greeting, EHLO, TLS as the policy says, login. ``on_tls_failure`` is asked under "opportunistic" only."""
        self.broken = True  # until it is open
        if tls == "implicit":  # RFC 8314 3
            self.phase = "tls"
            yield from self._secure()
        self.phase = "greeting"
        self.greeting = reply = yield from self._reply(self.timeouts.reply)
        if reply.code != 220:
            raise self._failed(ConnectFailed, f"{self.server} does not welcome us: {reply}", reply)
        self.phase = "hello"
        yield from self.hello()
        if tls in ("required", "opportunistic"):
            self.phase = "tls"
            yield from self._upgrade(tls == "required", on_tls_failure)
        if login is not None:
            self.phase = "auth"
            yield from self.login(login, mechanisms, allow_cleartext_auth)
        self.phase = "idle"
        self.broken = self._unwritable is not None

    def hello(self) -> Conversation[None]:
        """EHLO, and HELO for a server that refuses it with 5yz (RFC 5321 3.2): then no extension is assumed."""
        reply = yield from self._ask(command.ehlo(self.client_name))
        if reply.is_positive:
            self.capabilities = Capabilities.from_reply(reply, self._ignore)
            return
        if reply.is_permanent:
            self.capabilities = Capabilities()
            reply = yield from self._ask(command.helo(self.client_name))
        if not reply.is_positive:
            raise self._failed(
                HelloRefused,
                f"{self.server} refused EHLO and HELO with {reply}; if it dislikes the name {self.client_name!r}, set client_name",
                reply,
            )

    def _upgrade(self, required: bool, on_failure: Callable[[Reply | SMTPError], str]) -> Conversation[None]:
        """STARTTLS (RFC 3207). Returns without TLS only where policy and ``on_failure`` let it."""
        trouble: Reply | SMTPError
        if "STARTTLS" not in self.capabilities:
            error = self._tls_failed("offers no STARTTLS", required)
            trouble = error
        else:
            trouble = reply = yield from self._ask(command.STARTTLS)
            if reply.code == 220:
                try:
                    yield from self._secure()
                except TLSFailed as failure:
                    # The connection is lost with the handshake; only a new one could go on in clear.
                    self.may_go_on_in_clear = not required and on_failure(failure) == "insecure"
                    raise
                self.capabilities = Capabilities()  # RFC 3207 4.2: what was learnt before is forgotten
                yield from self.hello()
                return
            if reply.code == 421:
                raise self._failed(ConnectionLost, f"{self.server} closed the connection: {reply}", reply)
            error = self._tls_failed(f"refused STARTTLS with {reply}", required, reply)
        if required or on_failure(trouble) != "insecure":
            self.broken = True
            raise error

    def _tls_failed(self, what: str, required: bool, reply: Reply | None = None) -> TLSFailed:
        why = "tls is 'required'" if required else "on_tls_failure says 'secure'"
        remedy = "set tls='none' only if the path is private" if required else "tls='none' only if the path is private"
        return TLSFailed(f"{self.server} {what} and {why}; {remedy}", server=self.server, reply=reply)

    def _secure(self) -> Conversation[None]:
        if not self._replies.is_empty:
            raise self._failed(ProtocolViolation, f"{self.server} (or someone in between) sent data ahead of the TLS handshake")
        try:
            yield StartTLS(self.timeouts.connect)
        except OSError as error:
            self.broken = True
            if isinstance(error, SMTPError):
                raise
            reason = getattr(error, "verify_message", "") or str(error) or type(error).__name__
            if hasattr(error, "verify_message"):
                what = f"the certificate of {self.server} is not trusted: {reason}"
                remedy = "connect by a name that stands in the certificate, or set ca_file to the CA that signed it"
            else:
                what = f"the TLS handshake with {self.server} failed: {reason}"
                remedy = "check that port and tls fit together (465 is 'implicit', 587 and 25 are 'required')"
            raise TLSFailed(f"{what}; {remedy}", server=self.server) from error
        self.secure = True
        self._replies.clear()

    def login(
        self, credentials: sasl.Login, mechanisms: Sequence[str] | None = None, allow_cleartext_auth: bool = False
    ) -> Conversation[None]:
        """AUTH with each mechanism that may be used, strongest first, until one passes (RFC 4954)."""
        offered = self.capabilities.auth_mechanisms
        clear_allowed = self.secure or self.local_peer or allow_cleartext_auth
        candidates = sasl.choose(offered, mechanisms, clear_allowed)
        if not candidates:
            raise self._failed(AuthenticationFailed, self._no_mechanism(offered, mechanisms, clear_allowed))
        refused = []
        for mechanism in candidates:
            reply = yield from self._authenticate(mechanism, credentials)
            if reply.code == 235:
                return
            refused.append(f"{mechanism.name}: {reply}")
            if not reply.is_permanent:
                break  # 421, 454: the server, not the mechanism, is in trouble
        self.broken = True
        raise AuthenticationFailed(
            f"{self.server} refused the login of {credentials.username!r} ({'; '.join(refused)}); check username and password",
            server=self.server,
            reply=reply,
        )

    def _no_mechanism(self, offered: Sequence[str], wanted: Sequence[str] | None, clear_allowed: bool) -> str:
        if not offered:
            return f"{self.server} offers no login (AUTH); remove username and password, or check the port and tls"
        if not clear_allowed and sasl.choose(offered, wanted, True):
            return (
                f"{self.server} would get the password in clear, over a connection that is not verified; "
                "set tls='required' or 'implicit', or allow_cleartext_auth=True if the path is private"
            )
        ours = ", ".join(wanted or [mechanism.name for mechanism in sasl.MECHANISMS])
        return f"{self.server} offers {', '.join(offered)} to log in, and none of {ours}; see auth_mechanisms"

    def _authenticate(self, mechanism: sasl.Mechanism, credentials: sasl.Login) -> Conversation[Reply]:
        exchange = mechanism.exchange(credentials)
        initial = next(exchange)
        # RFC 4954 4: an empty initial response is "="
        encoded = None if initial is None else _base64(initial) or "="
        shown = f"AUTH {mechanism.name}" + (" ***" if encoded else "")
        reply = yield from self._ask(command.auth(mechanism.name, encoded), shown)
        while reply.code == 334:
            if shown == "*":
                raise self._failed(ProtocolViolation, f"{self.server} goes on with a login that was cancelled: {reply}")
            try:
                answer = _base64(exchange.send(binascii.a2b_base64(reply.text.encode("ascii"), strict_mode=True)) or b"")
                shown = "***"
            except (StopIteration, ValueError):  # one challenge too many, or no base64
                answer = shown = "*"  # RFC 4954 4: cancels, and is answered 501
            reply = yield from self._ask(command.auth_response(answer), shown)
        return reply

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
        self._clean = True

    def quit(self) -> Conversation[None]:
        """QUIT, and whatever the server says to it (RFC 5321 4.1.1.10)."""
        self.broken = True
        yield from self._ask(command.QUIT)

    # Delivering --------------------------------------------------------------------------------------------------

    def deliver(self, policy: str = "any", window: int = 1) -> Conversation[None]:
        """Take a stream of transactions (`Next`) and give each back when it is settled (`Settled`), in order.

        At most ``window`` are in flight. Replies are matched by counting (RFC 2920 3.1): those still to come belong to
        the oldest transaction first, because each one's commands are contiguous. A connection that ends settles
        what is in flight and leaves the session ``broken``; nothing is raised.
        """
        if "PIPELINING" not in self.capabilities:
            window = 1
        flights: deque[_Flight] = deque()
        more = True
        unanswered = 0
        try:
            while True:
                while more and not self.broken and len(flights) < window and unanswered < MAX_UNANSWERED:
                    if flights and not flights[-1].line_free:
                        break
                    if not flights:
                        self._check_quiet()
                    transaction = yield Next(bool(self._unsent))
                    if transaction is LATER:
                        yield from self._flush()
                        continue
                    if transaction is None:
                        more = False
                        break
                    flight = _Flight(transaction)
                    flight.steps = self._transact(flight, policy)
                    flights.append(flight)
                    try:
                        yield from self._step(flight, None)
                    except InvalidInput as error:  # refused by the write gate, before anything of it was composed
                        transaction.error = error
                    unanswered += len(transaction.recipients) + 3
                yield from self._flush()
                if not flights:
                    break
                flight = flights[0]
                if flight.wait is not None:
                    reply = yield from self._reply(self._patience(flight.wait))
                    if reply.code == 421:
                        raise _Closed(reply)
                    yield from self._step(flight, reply)
                if flight.wait is None:
                    flights.popleft()
                    unanswered -= len(flight.transaction.recipients) + 3
                    yield Settled(flight.transaction)
        except _Closed as closed:
            self.broken = True
            for flight in flights:
                flight.transaction.was_closed = True
                flight.transaction.error = ConnectionLost(
                    f"{self.server} closed the connection: {closed.reply}", server=self.server, reply=closed.reply
                )
                yield Settled(flight.transaction)
        except DeliveryError as error:
            self.broken = True
            for flight in flights:
                flight.transaction.error = flight.transaction.error or error
                yield Settled(flight.transaction)
        except BaseException:
            self.broken = self.broken or bool(flights)
            raise
        self._unsent.clear()
        self._ending.clear()
        if not self.broken:
            self.phase = "idle"

    def resume(self) -> None:
        """Say that the connection comes from the pool: the first reply has `Timeouts.reused` (DESIGN 4.5)."""
        self._resumed = True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that was read waits to be understood: on an idle connection it could only be bad news."""
        return self._replies.is_empty

    def _step(self, flight: _Flight, reply: Reply | None) -> Conversation[None]:
        """Let a transaction go on until it waits for its next reply, or is over (``wait`` is None)."""
        steps = flight.steps
        try:
            step = steps.send(reply)
            while type(step) is Write:
                # A piece of a large content; what was composed before it goes first.
                try:
                    yield from self._flush()
                    if self._unwritable is not None:
                        raise self._unwritable
                    yield step
                except OSError as error:
                    self._unwritable = error
                    step = steps.throw(error)
                else:
                    step = next(steps)
            flight.wait = step
        except StopIteration:
            flight.wait = None

    def _transact(self, flight: _Flight, policy: str) -> Generator[Any, Any, None]:
        """One transaction as a straight dialogue: composes commands, yields the time-out of each reply it needs."""
        transaction = flight.transaction
        timeouts = self.timeouts
        offered = self.capabilities
        utf8 = transaction.needs_smtputf8
        grouped = "PIPELINING" in offered
        try:
            mail = command.mail(transaction.envelope.sender, transaction.mail_parameters(offered), utf8)
            rcpts = [
                command.rcpt(recipient, transaction.rcpt_parameters(recipient, offered), utf8)
                for recipient in transaction.recipients
            ]
        except InvalidInput as error:  # such as parameters over the limit of a line
            transaction.error = error
            return
        # DESIGN 5.2: without RSET Exim keeps the old sender. In lock step a clean end leaves nothing to reset.
        reset = self.transactions > 0 and (grouped or not self._clean)
        self.transactions += 1
        number = self.transactions
        was_clean, self._clean = self._clean, False
        with_data = grouped and policy == "any"

        if grouped:
            group, rest = rcpts[: MAX_UNANSWERED - 3], rcpts[MAX_UNANSWERED - 3 :]
            if reset:
                self._put(command.RSET)
            self._put(mail, *group)
            if with_data and not rest:
                self._put(command.DATA)
            if reset:
                self._reset_answered((yield timeouts.reply), was_clean)
            self.phase = "mail"
            transaction.mail = yield timeouts.reply
            self.phase = "rcpt"
            for place in range(len(group)):
                transaction.rcpt[place] = yield timeouts.reply
            done = len(group)
            while rest and transaction.mail.is_positive:
                group, rest = rest[: MAX_UNANSWERED - 1], rest[MAX_UNANSWERED - 1 :]
                self._put(*group)
                if with_data and not rest:
                    self._put(command.DATA)
                for place in range(done, done + len(group)):
                    transaction.rcpt[place] = yield timeouts.reply
                done += len(group)
            if rest:
                return  # MAIL was refused, and DATA has not been sent
        else:
            if reset:
                self._put(command.RSET)
                self._reset_answered((yield timeouts.reply), was_clean)
            self.phase = "mail"
            self._put(mail)
            transaction.mail = yield timeouts.reply
            self.phase = "rcpt"
            if not transaction.mail.is_positive:
                return
            for place, line in enumerate(rcpts):
                self._put(line)
                transaction.rcpt[place] = yield timeouts.reply

        self.phase = "data"
        wanted = transaction.everybody_accepted if policy == "all" else transaction.has_recipients
        if not with_data:
            if not wanted:
                return
            self._put(command.DATA)
        data = yield timeouts.reply
        if not 300 <= data.code < 400:
            if data.is_positive:
                raise self._failed(ProtocolViolation, f"{self.server} answered DATA with {data}")
            if wanted:
                transaction.final = data
            return
        if not wanted:
            if any(reply and reply.is_positive for reply in transaction.rcpt):
                # MAIL refused, recipients taken, content awaited: whose mail would an empty content be?
                raise self._failed(ProtocolViolation, f"{self.server} refused MAIL and went on to ask for the content")
            self._put(command.END)  # RFC 2920 3.1
            yield timeouts.final
            return
        try:
            yield from self._put_content(transaction)
        except DeliveryError:
            raise
        except OSError:
            # DESIGN 4.3: what did the server have to say (421, 552)?
            final = yield timeouts.reply
            if final.is_positive:
                raise self._failed(ProtocolViolation, f"{self.server} accepted content that was not sent in full") from None
            transaction.final = final
            self.broken = True
            return
        flight.line_free = True
        final = yield timeouts.final
        if 300 <= final.code < 400:
            raise self._failed(ProtocolViolation, f"{self.server} answered the end of content with {final}")
        transaction.final = final
        if self.transactions == number:  # nobody has begun another one behind it
            self._clean = final.is_positive

    def _put_content(self, transaction: Transaction) -> Generator[Write, None, None]:
        """Stuffed content and the final dot; a large one leaves piece by piece, up to the end that hands it over."""
        size = 0
        content = iter(command.stuffed(transaction.content.chunks()))
        while True:
            try:
                chunk = next(content, None)
            except Exception as error:
                # DESIGN 4.3: a source that fails in mid-content closes the connection.
                raise self._source_failed(transaction, error) from error
            if chunk is None:
                break
            size += len(chunk)
            if size <= IN_ONE_PIECE:
                self._unsent += chunk
            else:
                yield Write(chunk, self.timeouts.content)
        self._unsent += command.END
        self._ending.append(transaction)
        if self._transcript:
            self._transcript(">", f"<{size} octets>")
            self._transcript(">", ".")

    def _source_failed(self, transaction: Transaction, error: Exception) -> DeliveryError:
        what = f"the content could not be read to its end: {type(error).__name__}: {error}"
        transaction.error = InvalidInput(what, field="content", server=self.server)
        return self._failed(DeliveryError, what)

    def _reset_answered(self, reply: Reply, was_clean: bool) -> None:
        """A server without RSET is survived where there was nothing to reset."""
        if not reply.is_positive and not was_clean:
            raise self._failed(ProtocolViolation, f"{self.server} refused RSET with {reply}")

    # The wire ----------------------------------------------------------------------------------------------------

    def _put(self, *lines: bytes) -> None:
        for line in lines:
            self._unsent += line
            if self._transcript:
                self._transcript(">", line[:-2].decode("utf-8"))

    def _flush(self) -> Conversation[None]:
        """Send what is composed, in one write: a write ends at a command's end, and a flight is one write (Nagle)."""
        if not self._unsent:
            return
        # What is composed comes after every reply to what was sent before it.
        self._check_quiet()
        if self._unwritable is not None:
            raise self._failed(ConnectionLost, f"{self.server} could not be written to: {self._unwritable}")
        data, self._unsent = self._unsent, bytearray()
        for transaction in self._ending:
            transaction.handed_over = True
        self._ending.clear()
        try:
            yield Write(data, self.timeouts.content)
        except OSError as error:
            # Not the end yet: a server that hangs up has often said why (DESIGN 4.3).
            self._unwritable = error
            self.broken = True

    def _patience(self, timeout: float) -> float:
        return min(timeout, self.timeouts.reused) if self._resumed or self._unwritable is not None else timeout

    def _ask(self, line: bytes, shown: str | None = None) -> Conversation[Reply]:
        """One command, one reply."""
        self._check_quiet()
        if self._transcript:
            self._transcript(">", shown or line[:-2].decode("utf-8"))
        try:
            yield Write(line, self.timeouts.reply)
        except OSError as error:
            self._unwritable = error
            self.broken = True
        reply = yield from self._reply(self._patience(self.timeouts.reply))
        if reply.code == 421:
            self.broken = True
        return reply

    def _check_quiet(self) -> None:
        """DESIGN 4.5: what came before it was asked for would be taken for the answer to the next command."""
        if not self._replies.is_empty:
            raise self._failed(ProtocolViolation, f"{self.server} spoke when it was not asked ({self.phase})")

    def _reply(self, timeout: float) -> Conversation[Reply]:
        """The next reply, whatever it is. ``timeout`` (seconds) is for all of it."""
        read: Read | None = None
        try:
            while (reply := self._replies.next()) is None:
                read = read or Read(timeout)
                data = yield read
                if not data:
                    raise self._failed(ConnectionLost, f"{self.server} closed the connection ({self.phase})")
                self._replies.feed(data)
        except TimeoutError as error:
            if isinstance(error, SMTPError):
                self.broken = True
                raise
            raise self._failed(
                TimedOut, f"{self.server} did not answer within {timeout:g} s ({self.phase}); see timeout and deadline"
            ) from error
        except ProtocolViolation as error:
            raise self._failed(ProtocolViolation, f"{self.server}: {error}") from error
        except OSError as error:
            if isinstance(error, SMTPError):
                self.broken = True
                raise
            raise self._failed(ConnectionLost, f"the connection to {self.server} was lost ({self.phase}): {error}") from error
        self._resumed = False
        if self._transcript:
            self._transcript("<", str(reply))
        return reply

    def _failed(self, kind: type[DeliveryError], message: str, reply: Reply | None = None) -> DeliveryError:
        self.broken = True
        return kind(message, server=self.server, reply=reply)


class _Flight:
    """A transaction in flight: its steps, the time-out of the reply it waits for, whether others may follow it."""

    __slots__ = ("line_free", "steps", "transaction", "wait")

    steps: Generator[Any, Any, None]

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.wait: float | None = None
        self.line_free = False  # nothing that this one still sends could come between another's commands


class _Closed(Exception):
    """The server said 421."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
