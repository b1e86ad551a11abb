"""Logging in: AUTH as a dialogue (RFC 4954), one mechanism after the other where it may go on.

What a mechanism says is in ``sasl.py``, and so is which one may follow another; here it is said to the server.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from smtpbackend.errors import (
    AuthenticationFailed,
    ConnectionLost,
    MissingExtra,
    ProtocolViolation,
    SMTPError,
    TimedOut,
    TLSFailed,
)
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command, sasl
from smtpbackend.protocol import mechanisms as choosing
from smtpbackend.protocol.delivering import Delivering
from smtpbackend.protocol.dialogue import Transcript
from smtpbackend.protocol.effects import Channel, Conversation, Work
from smtpbackend.protocol.timeouts import DeadlinePassed, Timeouts

__all__ = ["Attempt", "Authenticating", "asks_for_tls", "needs_tls"]


class Authenticating(Delivering):
    """A dialogue that can log in; ``local_peer`` tells that the peer address is loopback or a unix socket."""

    def __init__(
        self, server: str, timeouts: Timeouts, transcript: Transcript | None, lmtp: bool, local_peer: bool
    ) -> None:
        super().__init__(server, timeouts, transcript, lmtp)
        self.secure = False
        """Whether TLS is in force. All TLS here is verified, so this is what a secret asks for."""
        self.channel: Channel | None = None
        """What a login can be bound to, under TLS."""
        self.local_peer = local_peer
        self.without_tls: TLSFailed | None = None
        """Why there is no TLS, where it was tried and the policy lets the session go on in clear."""
        self.login_goes_on = False
        """After a login that the server hung up on: whether another mechanism may be tried on a new connection."""

    def login(
        self,
        credentials: sasl.Credentials,
        mechanisms: Sequence[str] | None = None,
        allow_cleartext_auth: bool = False,
        attempt: Attempt | None = None,
    ) -> Conversation[None]:
        """AUTH with each mechanism that may be used, strongest first, until one passes (RFC 4954).

        ``attempt`` knows what was tried on connections before this one, and is told what is tried here.
        """
        if self._mask is None:
            self._hide(credentials.password, credentials.token)
        attempt = attempt or Attempt()
        offered = self.capabilities.auth_mechanisms
        credentials = credentials._replace(channel=self.channel, offered=tuple(offered))
        verified = self.secure or self.local_peer
        clear_allowed = verified or allow_cleartext_auth
        candidates = choosing.choose(offered, mechanisms, clear_allowed, credentials)
        if not candidates and not attempt.said:
            if self.without_tls is not None and not choosing.choose(offered, mechanisms, True, credentials):
                names = self._masked(", ".join(offered))
                what = f"offers no login but {names}" if offered else "offers no login (AUTH)"
                self.phase, self.broken = "tls", True
                raise needs_tls(self.without_tls, what)
            raise self._failed(AuthenticationFailed, self._no_mechanism(credentials, mechanisms, clear_allowed))
        before = len(attempt.said)
        lost: SMTPError | None = None
        missing: MissingExtra | None = None
        while (mechanism := attempt.following(candidates, verified)) is not None:
            if lost is not None:
                self.login_goes_on = True
                raise lost
            try:
                reply, refusal, cancelled = yield from self._authenticate(mechanism, credentials)
            except MissingExtra as error:
                if mechanisms is not None:
                    raise
                missing = missing or error
                attempt.skip(mechanism)
                continue
            except ConnectionLost as error:
                lost = error
                if error.reply is None:
                    attempt.hung_up(mechanism)
                elif len(attempt.said) == before:
                    break  # the server was going before it heard of a login
                continue  # behind a refusal: perhaps this mechanism was not heard any more
            if refusal is None and reply is not None and reply.is_positive:  # 235, or 250 from who knows no better
                return
            if reply is not None and reply.code == 421:
                lost = self._left(reply)
                if len(attempt.said) == before:
                    break
                continue  # it may have been on its way when this mechanism was named
            attempt.ended(mechanism, reply, refusal, cancelled)
        self.broken = True
        if lost is not None and not attempt.was_answered:
            raise lost
        if missing is not None and not attempt.said:
            raise missing
        reply = attempt.reply
        if self.without_tls is not None and asks_for_tls(reply):
            self.phase = "tls"
            raise needs_tls(self.without_tls, f"answers AUTH with {reply}", reply)
        secret = "token" if credentials.token else "password"
        is_passing = reply is not None and reply.is_transient
        raise AuthenticationFailed(
            f"{self.server} refused the login of {credentials.username!r} ({self._masked('; '.join(attempt.said))}); "
            + ("try again later" if is_passing else f"check username and {secret}"),
            server=self.server,
            reply=reply,
            details=attempt.details,
        ) from lost

    def _no_mechanism(self, credentials: sasl.Credentials, wanted: Sequence[str] | None, clear_allowed: bool) -> str:
        offered = credentials.offered
        if not offered:
            return f"{self.server} offers no login (AUTH); remove username and password, or check the port and tls"
        if not clear_allowed and choosing.choose(offered, wanted, True, credentials):
            secret = "token" if credentials.token else "password"
            return (
                f"{self.server} would get the {secret} in clear, over a connection that is not verified"
                f"{f' ({self.without_tls})' if self.without_tls else ''}; "
                "set tls='required' or 'implicit', or allow_cleartext_auth=True if the path is private"
            )
        usable = [
            known for known in choosing.choose(choosing.known(), None, True, credentials) if "-PLUS" not in known.name
        ]
        ours = ", ".join(wanted or [known.name for known in usable])
        names = self._masked(", ".join(offered))
        return f"{self.server} offers {names} to log in, and none of {ours}; see auth_mechanisms"

    def _authenticate(
        self, mechanism: sasl.Mechanism, credentials: sasl.Credentials
    ) -> Conversation[tuple[Reply | None, sasl.Refused | None, bool]]:
        """One exchange: the reply that ended it, why the mechanism did not go on, and whether it was cancelled."""
        exchange = mechanism.exchange(credentials)
        refusal: sasl.Refused | None = None
        try:
            initial = yield from self._answer(exchange, None)
        except sasl.Refused as error:  # it cannot be used here; nothing has been said
            return None, error, True
        # RFC 4954 4: an empty initial response is "="
        encoded = None if initial is None else self._encoded(initial) or "="
        line = command.auth(mechanism.name, encoded)
        shown = f"AUTH {mechanism.name}" + (" ***" if encoded else "")
        held = None  # an initial response that has to wait for its challenge
        if len(line) > command.MAX_LINE:  # RFC 4954 4: the line of AUTH is bound as any other
            line, shown, held = command.auth(mechanism.name), f"AUTH {mechanism.name}", initial
        reply = yield from self._ask(line, shown)
        while reply.code == 334:
            if shown == "*" or (refusal is not None and refusal.answer is None):
                raise self._failed(ProtocolViolation, f"{self.server} goes on with a login that was cancelled")
            shown = "***"
            try:
                if refusal is not None:
                    answer = shown = "*"  # it was told that this is the end
                elif held is not None:
                    answer, held = self._encoded(held), None
                elif mechanism.prompted:
                    said = self._said(reply).text.encode()
                    answer = self._encoded((yield from self._answer(exchange, said)) or b"")
                else:
                    challenge = binascii.a2b_base64(self._said(reply).text.encode("ascii"), strict_mode=True)
                    answer = self._encoded((yield from self._answer(exchange, challenge)) or b"")
            except sasl.Refused as error:
                refusal = error
                answer = "*" if error.answer is None else self._encoded(error.answer)
                shown = answer if answer == "*" else shown
            except (_Over, ValueError):  # one challenge too many, or no base64
                answer = shown = "*"  # RFC 4954 4: cancels, and is answered 501
            reply = yield from self._ask(command.auth_response(answer), shown)
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
        """What a mechanism answers to a challenge; what takes it long is done by whoever performs this."""
        try:
            step = exchange.send(challenge)
            while isinstance(step, sasl.Long):
                done, error = yield Work(_attempt(step.do), self.timeouts.reply)
                step = exchange.send(done) if error is None else exchange.throw(error)
        except StopIteration:
            raise _Over from None
        except TimeoutError as late:
            limit = str(late) if isinstance(late, DeadlinePassed) else f"at most {self.timeouts.reply:g} s; see timeout"
            what = f"what {self.server} asks for a login takes too long to compute ({self.phase}, {limit})"
            raise self._failed(TimedOut, what) from late
        return step

    def _encoded(self, answer: bytes) -> str:
        """What is sent to a server; it is not shown either, should the server repeat it."""
        encoded = binascii.b2a_base64(answer, newline=False).decode("ascii")
        if self._mask is not None:
            self._mask.add_as_written(encoded)
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
    """Why nothing came of going on in clear: the trouble that TLS had."""
    return TLSFailed(f"{trouble}; in clear it {what}", server=trouble.server, reply=reply)


# RFC 5321 4.2.4 and RFC 4954 4, 6: of the command, its place or the mechanism, and not of the name and its secret
_OF_THE_MECHANISM = frozenset((500, 501, 502, 503, 504, 530, 534, 538))


class Attempt:
    """One login with one secret, over as many connections as it takes: what was tried, and what came of it.

    Servers lock an account after a few refused passwords, so one is tried once: again only where a challenge-response
    was refused, which needs the password stored in another form than PLAIN and LOGIN do, and not everybody has it so.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        """For each mechanism tried, what the server said, or why it did not go on."""
        self.reply: Reply | None = None
        """The one that tells most: of the secret, rather than of a mechanism."""
        self.details: Mapping[str, Any] | None = None
        self._tried: set[str] = set()
        self._is_over = False
        self._is_refused = False  # the secret
        self._is_proven = True  # nobody has failed a challenge-response yet

    def following(self, candidates: Iterable[sasl.Mechanism], verified: bool) -> sasl.Mechanism | None:
        """The next mechanism to try, each once. ``verified``: whether we know who is on the other side."""
        for mechanism in () if self._is_over else candidates:
            if mechanism.name in self._tried:
                continue
            if mechanism.in_clear and not (self._is_proven or verified):
                continue  # who failed it may be an impostor that is after the password
            if not self._is_refused or (verified and mechanism.in_clear and mechanism.needs == "password"):
                return mechanism
        return None

    def skip(self, mechanism: sasl.Mechanism) -> None:
        """Leave one out that cannot be used here."""
        self._tried.add(mechanism.name)

    def ended(
        self, mechanism: sasl.Mechanism, reply: Reply | None, refusal: sasl.Refused | None, cancelled: bool
    ) -> None:
        """Take down how a mechanism ended that did not pass: by which reply, and why it did not go on itself."""
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
        """Take down that the server closed the connection and said nothing to this mechanism."""
        self._note(mechanism, "the connection was closed")
        self._is_over = self._is_refused

    def _note(self, mechanism: sasl.Mechanism, what: str) -> None:
        self._tried.add(mechanism.name)
        self.said.append(f"{mechanism.name}: {what}")
        self._is_proven = self._is_proven and mechanism.in_clear

    @property
    def was_answered(self) -> bool:
        """Whether the server said something of the secret, or that it cannot tell now."""
        return self._is_refused or (self.reply is not None and self.reply.is_transient)
