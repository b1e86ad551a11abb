"""`Check`: what was found out about one server, step by step, by `Mailer.check`.

Nothing is said to a server here. A `Watch` is told what happens on a connection while it is made ready for mail, as
each connection is; a `Check` is made of what it was told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from smtpbackend.delivery.addresses import Info
from smtpbackend.delivery.experience import Experience
from smtpbackend.delivery.server import Server, reason_of, shown
from smtpbackend.errors import HelloRefused, shortened
from smtpbackend.outcome import Receipt
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.effects import Conversation
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.transaction_steps import MAX_CHUNK
from smtpbackend.values import Value

__all__ = ["Check", "Security", "Step", "Watch", "check_of", "message_to"]

MAX_DETAIL = 1000  # characters of a step's detail: a server chooses what stands in it
_STEPS = {  # the phase of a session, and the step that it belongs to; those of "connect" are told by its marks
    "greeting": "greeting",
    "hello": "EHLO",
    "tls": "TLS",
    "auth": "login",
    "mail": "message",
    "rcpt": "message",
    "data": "message",
}


class Step(Value):
    """One step: its ``name``, how many ``seconds`` it took, whether it was ``ok``, and in ``detail`` what was found.

    The names are "look-up", "connect", "greeting", "EHLO", "TLS", "login" and "message". After a step
    that failed come those of another connection, if a mail would have opened one: in clear, or to log in another way.
    """

    name: str
    ok: bool
    seconds: float
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {"name": self.name, "ok": self.ok, "seconds": round(self.seconds, 6), "detail": self.detail}


class Security(Value):
    """The TLS of a connection. ``chain`` has subject, issuer and dates of each certificate, the server's own first.

    ``names`` are the hosts that the server's own is for, and ``days`` is how many days it is still valid. If it is
    trusted by a pin, it stands alone in ``chain``. Nothing else was verified, so ``days`` may be negative.
    """

    protocol: str
    cipher: str
    chain: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    days: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        chain, names = list(self.chain), list(self.names)
        return {"protocol": self.protocol, "cipher": self.cipher, "chain": chain, "names": names, "days": self.days}


class Check(Value):
    """What was found out about one server. ``ok``: it would take mail now, as far as that was tried.

    ``error`` is the one that a mail would have raised, and its text says what to do. ``extensions`` are the keywords
    of the last reply to EHLO with their parameters, also where a later step failed; ``waits`` says for how many replies
    a message waits here, and why, where the server is ready for mail. ``unreachable`` has those of its ``addresses``
    that do not connect, with the reason: mail takes another one, up to 0.25 s later. ``receipt`` is that of the
    message, where one was sent.
    """

    server: str
    steps: tuple[Step, ...]
    error: Exception | None = None
    addresses: tuple[str, ...] = ()
    unreachable: Mapping[str, str] = {}
    greeting: str = ""
    security: Security | None = None
    extensions: Mapping[str, str] = {}
    mechanisms: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    receipt: Receipt | None = None

    @property
    def ok(self) -> bool:
        """Whether no step failed, and every recipient of the message was accepted."""
        return self.error is None and (self.receipt is None or self.receipt.ok)

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "server": self.server,
            "ok": self.ok,
            "steps": [step.to_json() for step in self.steps],
            "error": None if self.error is None else str(self.error),
            "addresses": list(self.addresses),
            "unreachable": dict(self.unreachable),
            "greeting": self.greeting,
            "security": self.security and self.security.to_json(),
            "extensions": dict(self.extensions),
            "mechanisms": list(self.mechanisms),
            "waits": list(self.waits),
            "receipt": self.receipt and self.receipt.to_json(),
        }


class Mark(NamedTuple):
    """What happened, when, and what goes with it; ``phase`` and ``offered`` are those of the session at that time."""

    at: float
    what: str
    given: tuple[Any, ...]
    phase: str
    offered: Capabilities


class Watch:
    """Is told what happens on the connections to one server, one after the other.

    ``clock`` gives seconds; ``policy`` is the setting ``recipient_policy``, and ``experience`` what a mailer has learnt
    of its servers. What happens: "found" with the addresses as ``getaddrinfo`` gives them, "tried" with one and its
    error, "connected" with one, "session" with the session that begins, "tls" with what `facts` in ``tls.py`` gives,
    "line" with a direction and a text of the dialogue, "ended" with the error that ends the session, "ready".
    """

    def __init__(self, server: Server, clock: Callable[[], float], policy: str, experience: Experience) -> None:
        self._server = server
        self._clock = clock
        self._policy = policy
        self._experience = experience
        self.begun = clock()
        self.marks: list[Mark] = []
        self.session: Session | None = None
        self.waits: list[str] = []
        self.dead: dict[Info, OSError] = {}  # which of `others` do not connect

    def note(self, what: str, *given: Any) -> None:
        """Note what happened: the ``watch`` of a `Server`."""
        if what == "session":
            self.session = given[0]
        phase, offered = "connect", Capabilities()
        if self.session is not None:
            phase, offered = self.session.line.phase, self.session.capabilities
        self.marks.append(Mark(self._clock(), what, given, phase, offered))

    def look(self, session: Session) -> Conversation[None]:
        """Ask nothing: note that the session is ready for mail, and how it will be sent."""
        self.note("ready")
        self.waits = _waits(self._server, session, self._policy, self._experience, self._clock())
        return
        yield  # as every conversation, it is a generator

    def others(self) -> list[Info]:
        """The addresses that were not tried, or not to their end, on the way to one that is ready for mail."""
        found: list[Info] = []
        ended: list[Info] = []
        for mark in self.marks:
            if mark.what == "found":
                found = list(dict.fromkeys(mark.given[0]))
            elif mark.what in ("tried", "connected"):
                ended.append(mark.given[0])
        return [info for info in found if info not in ended] if self.waits else []


def check_of(
    server: Server, watch: Watch, error: Exception | None, now: float, receipt: Receipt | None = None
) -> Check:
    """What a watch was told, as a `Check`. ``now`` is in seconds since 1970."""
    session = watch.session
    steps = _Steps(server, watch.begun, now, watch.dead)
    for mark in watch.marks:
        if mark.what == "line" and mark.given == (">", "QUIT"):
            break
        steps.take(mark)
    steps.end(error or (receipt.error if receipt is not None else None))
    return Check(
        server.name,
        tuple(steps.made),
        error,
        tuple(steps.addresses),
        steps.unreachable,
        session.greeting.text if session and session.greeting else "",
        steps.security,
        dict(session.capabilities) if session else {},
        session.capabilities.auth_mechanisms if session else (),
        tuple(watch.waits),
        receipt,
    )


class _Steps:
    """Makes steps of marks, in their order. A step ends with the last reply that belongs to it."""

    def __init__(self, server: Server, begun: float, now: float, dead: Mapping[Info, OSError]) -> None:
        self.made: list[Step] = []
        self.addresses: list[str] = []
        self.unreachable = {shown(info[4]): reason_of(error) for info, error in dead.items()}
        self.security: Security | None = None  # of the last connection
        self._server = server
        self._now = now
        self._dead = dead
        self._first = "look-up" if server.path is None else "connect"
        self._begin(self._first, begun)
        self._has_failed = False  # and no other connection was begun since

    def _begin(self, name: str, at: float) -> None:
        self._name, self._begun, self._last = name, at, at
        self._details: list[str] = []

    def _turn_to(self, name: str, offered: Capabilities) -> None:
        """What follows belongs to this step: the one before it is over."""
        if name == self._name:
            return
        is_in_clear = self._name == "TLS" and self.security is None
        if is_in_clear and self._details:
            self._details.append("mail goes in clear")
        if self._name == "EHLO" and offered:
            self._details = [", ".join(f"{keyword} {said}".strip() for keyword, said in offered.items())]
        if self._details:
            detail = shortened("; ".join(self._details), MAX_DETAIL)
            self.made.append(Step(self._name, not is_in_clear, self._last - self._begun, detail))
        self._begin(name, self._last)

    def _fail(self, name: str, error: Exception, offered: Capabilities) -> None:
        self._turn_to(name, offered)
        if self.made and self.made[-1].name == name == "TLS":  # in TLS 1.3 a server may refuse it after the handshake
            self.made.pop()
        self.made.append(Step(name, False, self._last - self._begun, str(error)))
        self._has_failed = True

    def take(self, mark: Mark) -> None:
        """The next mark."""
        what, given = mark.what, mark.given
        if self._has_failed:  # another connection
            self._begin(self._first, self._last)
            self._has_failed = False
        if what in ("found", "tried", "connected", "tls") or given[:1] == ("<",):
            self._last = mark.at
        if what == "found":
            self._take_addresses(given[0], mark.offered)
        elif what == "connected":
            self._details.append(shown(given[0][4]))
        elif what == "tried":
            address = shown(given[0][4])
            self.unreachable[address] = reason_of(given[1])
            self._details = [one for one in self._details if one != address]
            self._details.append(f"{address}: {reason_of(given[1])}")
        elif what == "session":
            self._details += [f"{shown(info[4])}: {reason_of(error)}" for info, error in self._dead.items()]
            self._turn_to("TLS" if self._server.tls == "implicit" else "greeting", mark.offered)
        elif what == "tls":
            self.security = _security(given[0], self._now)
            self._details = [_shown(self.security)]
        elif what == "line":
            self._take_line(mark)
        elif what == "ended":
            self._last = mark.at
            name = _STEPS.get(mark.phase, self._name)
            if mark.phase == "tls" and isinstance(given[0], HelloRefused):
                name = "EHLO"
            self._fail(name, given[0], mark.offered)
        elif what == "ready":
            self._turn_to("message", mark.offered)

    def _take_addresses(self, found: list[Info], offered: Capabilities) -> None:
        self.security = None
        if self._server.path is not None:  # a unix socket has no address
            return
        self.addresses = list(dict.fromkeys(shown(info[4]) for info in found))
        whose = " (of the proxy)" if self._server.proxy is not None else ""
        self._details = [f"{', '.join(self.addresses)}{whose}"]
        self._turn_to("connect", offered)

    def _take_line(self, mark: Mark) -> None:
        direction, line = mark.given
        name = _STEPS.get(mark.phase, self._name)
        if mark.phase == "tls" and self.security is not None:
            name = "EHLO"  # what follows the handshake is of that phase as well
        self._turn_to(name, mark.offered)
        if name == "login":
            if direction == ">" and line.startswith("AUTH "):
                self._details = [f"{self._server.username or 'no user name'} by {line.split()[1]}"]
        elif direction == "<":
            self._details = [line]

    def end(self, error: Exception | None) -> None:
        """There are no more marks; ``error`` is that of the last step, if it failed."""
        if error is None:
            self._turn_to("", Capabilities())
        elif not self._has_failed:
            self._fail(self._name, error, Capabilities())


def _security(facts: Any, now: float) -> Security:
    protocol, cipher, chain, hosts, last_day = facts
    days = None
    with contextlib.suppress(ValueError):  # it could not be read, or is no day of the calendar
        days = (date.fromisoformat(last_day) - datetime.fromtimestamp(now, UTC).date()).days
    return Security(protocol, cipher, chain, hosts, days)


def _shown(security: Security) -> str:
    parts = [f"{security.protocol}, {security.cipher}", *security.chain[:1]]
    if security.names:
        parts.append(f"for {', '.join(security.names)}")
    if security.days is not None:
        parts.append(f"{security.days} days left")
    return "; ".join(parts)


def _waits(server: Server, session: Session, policy: str, experience: Experience, now: float) -> list[str]:
    """For how many replies a message waits here, with the reason: what `Experience.deliver` and its steps decide."""
    spelled = server.spelling
    terms = session.terms(policy, None, not experience.allows(server, "groups", now))
    if not terms.grouped:
        why = "the server does not offer PIPELINING"
        if "PIPELINING" in terms.capabilities:
            why = "the server did not read all commands of a group, and gets one at a time for an hour"
        return [f"4 replies a message, and 1 for each further recipient: {why}"]
    if policy == "all":
        ahead = 1  # DATA, or the chunk, awaits the replies to all recipients
        why = f"DATA waits for every recipient, as {spelled('recipient_policy', 'all')} is set"
        found = [f"3 replies a message: MAIL and RCPT leave together (PIPELINING), {why}"]
    else:
        ahead = 0
        found = ["2 replies a message: MAIL, RCPT and DATA leave together, then the content (PIPELINING)"]
    if not terms.can_prove:
        return found
    fewer = f"{1 + ahead} {'replies' if ahead else 'reply'}"
    if server.chunk_in_flight == "never":
        return [*found, f"never {1 + ahead}: {spelled('chunk_in_flight', 'never')} is set"]
    if not experience.allows(server, "chunks", now):
        return [*found, f"never {1 + ahead}: the server did not take the proof well, or refused BDAT"]
    if experience.may_probe(server, session, now):
        size = f"up to {MAX_CHUNK // 1024} KiB"
        return [*found, f"{fewer} a message {size}, once the connection has proven that it discards what it refuses"]
    return [
        *found,
        f"never {1 + ahead}: the server is not known to take the proof well (see {spelled('chunk_in_flight')})",
    ]


def message_to(to: str, sender: Any) -> Any:
    """The message that a check sends."""
    from smtpbackend.message import Message

    text = "This message was sent to find out whether mail can be sent and arrives. It needs no answer.\n"
    return Message("Test of a mail server", from_=sender or to, to=[to], text=text)
