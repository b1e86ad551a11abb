"""Logging in: AUTH as a dialogue (RFC 4954), one mechanism after the other where it may go on.

What a mechanism says is in its own module, and which ones may be used on a connection in ``mechanisms.py``. Which one
follows another that failed is decided here, by `Attempt`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from smtpbackend.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DeliveryError,
    LoginNotOffered,
    MissingExtra,
    ProtocolViolation,
    SMTPError,
    TimedOut,
    TLSFailed,
)
from smtpbackend.known_replies import remedy
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command, sasl
from smtpbackend.protocol.effects import Conversation, Work
from smtpbackend.protocol.line import Line
from smtpbackend.protocol.mechanisms import choose, known
from smtpbackend.protocol.timeouts import DeadlinePassed

__all__ = ["Attempt", "Authentication", "asks_for_tls", "needs_tls"]

# RFC 5321 4.2.4 and RFC 4954 4, 6: about the command, its place or the mechanism, and not about the credentials
_OF_THE_MECHANISM = frozenset((500, 501, 502, 503, 504, 530, 534, 538))


class Attempt:
    """One login with one secret, over as many connections as it takes: what was tried, and how it ended.

    Servers lock an account after a few refused passwords, so a password is tried once. It is tried again only where a
    challenge-response was refused: that needs the password stored in another form than PLAIN and LOGIN do, and not
    every server has it.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        """For each mechanism tried, what the server said, or why the mechanism did not go on."""
        self.reply: Reply | None = None
        """The reply that tells most: about the secret, rather than about a mechanism."""
        self.details: Mapping[str, Any] | None = None
        self._tried: set[str] = set()
        self._is_over = False
        self._is_refused = False  # the secret
        self._is_proven = True  # no server has failed a challenge-response yet

    def following(self, candidates: Iterable[sasl.Mechanism], verified: bool) -> sasl.Mechanism | None:
        """The next mechanism to try, each once. ``verified``: whether the server's identity is known."""
        for mechanism in () if self._is_over else candidates:
            if mechanism.name in self._tried:
                continue
            if mechanism.in_clear and not (self._is_proven or verified):
                continue  # a server that failed to prove itself may be an impostor that wants the password
            if not self._is_refused or (verified and mechanism.in_clear and mechanism.needs == "password"):
                return mechanism
        return None

    def skip(self, mechanism: sasl.Mechanism) -> None:
        """Leave out one that cannot be used here."""
        self._tried.add(mechanism.name)

    def ended(
        self, mechanism: sasl.Mechanism, reply: Reply | None, refusal: sasl.Refused | None, cancelled: bool
    ) -> None:
        """Note how a mechanism failed: by which reply, and why it did not go on itself."""
        self._note(mechanism, "; ".join(str(why) for why in (refusal, reply) if why is not None))
        refused = refusal is not None and refusal.by_server
        if refusal is not None:
            self.details = refusal.details or self.details
            self._is_over = refusal.impostor
        if reply is not None and not reply.is_positive:
            of_mechanism = cancelled or reply.code in _OF_THE_MECHANISM
            refused = refused or (reply.is_permanent and not of_mechanism)
            if refused or reply.is_transient or self.reply is None:
                self.reply = reply
            if reply.code < 400:
                self._is_over = True  # no answer to AUTH
        if refused:
            is_challenge = mechanism.needs == "password" and not mechanism.in_clear
            self._is_over = self._is_over or self._is_refused or not is_challenge
            self._is_refused = True

    def hung_up(self, mechanism: sasl.Mechanism) -> None:
        """Note that the server closed the connection and said nothing to this mechanism."""
        self._note(mechanism, "the connection was closed")
        self._is_over = self._is_refused

    def _note(self, mechanism: sasl.Mechanism, what: str) -> None:
        self._tried.add(mechanism.name)
        self.said.append(f"{mechanism.name}: {what}")
        self._is_proven = self._is_proven and mechanism.in_clear

    @property
    def was_answered(self) -> bool:
        """Whether the server said something about the secret, or that it cannot tell now."""
        return self._is_refused or (self.reply is not None and self.reply.is_transient)


class Authentication:
    """A login on one connection.

    ``wanted`` are the mechanisms that the settings name. ``verified``: TLS is in force, or the peer is local.
    ``clear_allowed``: a secret may be sent as it is. ``without_tls``: why there is no TLS, where it was tried.
    """

    goes_on = False
    """After a hang-up: whether another mechanism may be tried on a new connection."""

    def __init__(
        self,
        line: Line,
        credentials: sasl.Credentials,
        wanted: Sequence[str] | None,
        *,
        verified: bool,
        clear_allowed: bool,
        without_tls: TLSFailed | None,
    ) -> None:
        self.line = line
        self.credentials = credentials
        self.wanted = wanted
        self.verified = verified
        self.clear_allowed = clear_allowed
        self.without_tls = without_tls

    def run(self, attempt: Attempt) -> Conversation[None]:
        """AUTH with each mechanism that may be used, strongest first, until one passes (RFC 4954).

        ``attempt`` knows what was tried on connections before this one, and is told what is tried here.
        """
        candidates = self._choose(self.clear_allowed)
        if not candidates and not attempt.said:
            raise self._no_mechanism()
        before = len(attempt.said)
        lost: SMTPError | None = None
        missing: MissingExtra | None = None
        while (mechanism := attempt.following(candidates, self.verified)) is not None:
            if lost is not None:
                self.goes_on = True
                raise lost
            try:
                reply, refusal, cancelled = yield from self._exchange(mechanism)
            except MissingExtra as error:
                if self.wanted is not None:
                    raise
                missing = missing or error
                attempt.skip(mechanism)
                continue
            except ConnectionLost as error:
                lost = error
                if error.reply is None:
                    attempt.hung_up(mechanism)
                elif len(attempt.said) == before:
                    break  # the server closed before it read of a login
                continue  # after a refusal: perhaps this mechanism was not read any more
            if refusal is None and reply is not None and reply.is_positive:  # 235; some servers say 250
                return
            if reply is not None and reply.code == 421:
                lost = self.line.goodbye(reply)
                if len(attempt.said) == before:
                    break
                continue  # the server may have sent it before it read this AUTH
            attempt.ended(mechanism, reply, refusal, cancelled)
        if lost is not None and not attempt.was_answered:
            raise lost
        if missing is not None and not attempt.said:
            raise missing
        raise self._refused(attempt) from lost

    # Errors ------------------------------------------------------------------------------------------------------

    def _refused(self, attempt: Attempt) -> DeliveryError:
        """The error of a login that no mechanism passed."""
        server, reply = self.line.server, attempt.reply
        if self.without_tls is not None and asks_for_tls(reply):
            self.line.phase = "tls"
            return needs_tls(self.without_tls, f"answers AUTH with {reply}", reply)
        spelled = self.line.spelled
        what_to_do = remedy(reply, "token" if self.credentials.token else "auth", spelled)
        if not what_to_do:
            is_transient = reply is not None and reply.is_transient
            what_to_do = "try again later" if is_transient else f"check {spelled.together('username', self._secret)}"
        said = self.line.masked("; ".join(attempt.said))
        return AuthenticationFailed(
            f"{server} refused the login of {self.credentials.username!r} ({said}); {what_to_do}",
            server=server,
            reply=reply,
            details=attempt.details,
        )

    def _no_mechanism(self) -> DeliveryError:
        """The error of a server none of whose mechanisms may be used."""
        server, spelled, offered = self.line.server, self.line.spelled, self.credentials.offered
        names = self.line.masked(", ".join(offered))
        if self.without_tls is not None and not self._choose(True):
            self.line.phase = "tls"
            return needs_tls(self.without_tls, f"offers no login but {names}" if offered else "offers no login (AUTH)")
        if not offered:
            why = (
                f"{server} offers no login (AUTH); check {spelled.together('port', 'tls')}, or remove "
                f"{spelled.together('username', self._secret)}"
            )
        elif not self.clear_allowed and self._choose(True):
            why = (
                f"{server} would get the {self._secret} in clear, over a connection that is not verified"
                f"{f' ({self.without_tls})' if self.without_tls else ''}; "
                f"set {spelled('tls', 'required')} or {spelled('tls', 'implicit')}, or "
                f"{spelled('allow_cleartext_auth', True)} if the path is private"
            )
        else:
            usable = choose(known(), None, True, self.credentials)
            ours = ", ".join(self.wanted or [one.name for one in usable if "-PLUS" not in one.name])
            why = f"{server} offers {names} to log in, and none of {ours}; see {spelled('auth_mechanisms')}"
        return (AuthenticationFailed if offered else LoginNotOffered)(why, server=server)

    @property
    def _secret(self) -> str:
        return "token" if self.credentials.token else "password"

    def _choose(self, clear_allowed: bool) -> list[sasl.Mechanism]:
        return choose(self.credentials.offered, self.wanted, clear_allowed, self.credentials)

    # One mechanism -----------------------------------------------------------------------------------------------

    def _exchange(self, mechanism: sasl.Mechanism) -> Conversation[tuple[Reply | None, sasl.Refused | None, bool]]:
        """One exchange: the reply that ended it, why the mechanism did not go on, and whether it was cancelled."""
        line = self.line
        exchange = mechanism.exchange(self.credentials)
        refusal: sasl.Refused | None = None
        try:
            initial = yield from self._answer(exchange, None)
        except sasl.Refused as error:  # it cannot be used here; nothing has been said
            return None, error, True
        # RFC 4954 4: an empty initial response is "="
        encoded = None if initial is None else self._encoded(initial) or "="
        auth = command.auth(mechanism.name, encoded)
        shown = f"AUTH {mechanism.name}" + (" ***" if encoded else "")
        held = None  # an initial response that has to wait for its challenge
        if len(auth) > command.MAX_LINE:  # RFC 4954 4: the line of AUTH has the limit of any command
            auth, shown, held = command.auth(mechanism.name), f"AUTH {mechanism.name}", initial
        reply = yield from line.ask(auth, shown)
        while reply.code == 334:
            if shown == "*" or (refusal is not None and refusal.answer is None):
                raise line.fatal(ProtocolViolation, f"{line.server} sent a challenge after the login was cancelled")
            shown = "***"
            try:
                if refusal is not None:
                    answer = shown = "*"  # the server was told that the login is over
                elif held is not None:
                    answer, held = self._encoded(held), None
                else:
                    text = line.as_said(reply).text
                    challenge = (
                        text.encode()
                        if mechanism.prompted
                        else binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
                    )
                    answer = self._encoded((yield from self._answer(exchange, challenge)) or b"")
            except sasl.Refused as error:
                refusal = error
                answer = "*" if error.answer is None else self._encoded(error.answer)
                shown = answer if answer == "*" else shown
            except (_Over, ValueError):  # one challenge too many, or no base64
                answer = shown = "*"  # RFC 4954 4: cancels, and is answered 501
            reply = yield from line.ask(command.auth_response(answer), shown)
        if reply.is_positive and refusal is None:
            try:
                yield from self._answer(exchange, None)
            except _Over:
                pass
            except sasl.Refused as error:
                refusal = error
        exchange.close()
        return reply, refusal, shown == "*"

    def _answer(self, exchange: sasl.Exchange, challenge: bytes | None) -> Conversation[bytes | None]:
        """What a mechanism answers to a challenge; the wire does what takes long."""
        line = self.line
        try:
            step = exchange.send(challenge)
            while isinstance(step, sasl.Long):
                done, error = yield Work(_attempt(step.do), line.timeouts.reply)
                step = exchange.send(done) if error is None else exchange.throw(error)
        except StopIteration:
            raise _Over from None
        except TimeoutError as late:
            limit = (
                str(late)
                if isinstance(late, DeadlinePassed)
                else f"at most {line.timeouts.reply:g} s; see {line.spelled('timeout')}"
            )
            what = f"the login that {line.server} asks for takes too long to compute ({line.phase}, {limit})"
            raise line.fatal(TimedOut, what) from late
        return step

    def _encoded(self, answer: bytes) -> str:
        """An answer in base64, which is hidden too, should the server repeat it."""
        encoded = binascii.b2a_base64(answer, newline=False).decode("ascii")
        self.line.hide_as_written(encoded)
        return encoded


class _Over(Exception):
    """A mechanism has nothing more to say."""


def _attempt(do: Callable[[], Any]) -> Callable[[], tuple[Any, Exception | None]]:
    def attempt() -> tuple[Any, Exception | None]:
        try:
            return do(), None
        except Exception as error:
            return None, error

    return attempt


def asks_for_tls(reply: Reply | None) -> bool:
    """Whether it says that TLS comes first: 530 "Must issue a STARTTLS command first" (RFC 3207 4), and others."""
    return reply is not None and reply.code >= 400 and _TLS.search(reply.text) is not None


_TLS = re.compile(r"\b(?:START)?TLS\b|\bSSL\b|encrypt", re.I)


def needs_tls(trouble: TLSFailed, what: str, reply: Reply | None = None) -> TLSFailed:
    """Why going on in clear failed: the trouble that TLS had."""
    return TLSFailed(f"{trouble}; in clear it {what}", server=trouble.server, reply=reply)
