"""`Check`: what was found out about one server, step by step, by `Mailer.check`.

Nothing is said to a server here. A `Watch` is told what happens on a connection while it is made ready for mail, as
each connection is; a `Check` is made of what it was told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smtpbackend.delivery.probing import takes_probe
from smtpbackend.delivery.server import Server
from smtpbackend.errors import shortened
from smtpbackend.events import Event, ServerFailed
from smtpbackend.outcome import Receipt
from smtpbackend.protocol.effects import Conversation
from smtpbackend.protocol.session import Session
from smtpbackend.values import Value

__all__ = ["Check", "Security", "Step", "Watch", "check_of", "message_to"]

A_DAY = 86400.0  # seconds
MAX_DETAIL = 1000  # characters of a step's detail: a server chooses what stands in it
_STEPS = {  # the phase in which a server failed, and the step that it stands for
    "connect": "connect",
    "greeting": "greeting",
    "hello": "EHLO",
    "auth": "login",
    "mail": "message",
    "rcpt": "message",
    "data": "message",
}
_OF_VERBS = {"EHLO": "EHLO", "LHLO": "EHLO", "HELO": "EHLO", "STARTTLS": "TLS", "AUTH": "login"}


class Step(Value):
    """One step: its ``name``, how many ``seconds`` it took, whether it was ``ok``, and in ``detail`` what was found.

    The names are "look-up", "connect", "greeting", "EHLO", "TLS", "login" and "message".
    """

    name: str
    ok: bool
    seconds: float
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {"name": self.name, "ok": self.ok, "seconds": round(self.seconds, 6), "detail": self.detail}


class Security(Value):
    """The TLS of a connection. ``chain`` has subject and issuer of each certificate, the server's own first.

    ``names`` are those that it is for, and ``days`` how many it holds still. Both are empty (None) where the
    certificate is trusted by a pin alone.
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
    of the reply to EHLO with their parameters, ``waits`` says for how many replies a message waits here, and why.
    ``receipt`` is that of the message, where one was sent.
    """

    server: str
    steps: tuple[Step, ...]
    error: Exception | None = None
    addresses: tuple[str, ...] = ()
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
            "greeting": self.greeting,
            "security": self.security and self.security.to_json(),
            "extensions": dict(self.extensions),
            "mechanisms": list(self.mechanisms),
            "waits": list(self.waits),
            "receipt": self.receipt and self.receipt.to_json(),
        }


class Watch:
    """Is told what happens on the connections to one server; also a Listener of `ServerFailed`.

    ``clock`` gives seconds. Each mark has the time, what happened, and what goes with it: "found" the addresses,
    "tried" an address and its error, "connected" an address, "tls" what `facts` in ``tls.py`` gives, "line" a direction
    and a text of the dialogue.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.begun = clock()
        self.marks: list[tuple[float, str, tuple[Any, ...]]] = []
        self.phase = "connect"
        self.session: Session | None = None

    def note(self, what: str, *details: Any) -> None:
        """Note what happened: the ``watch`` of a `Server`."""
        self.marks.append((self._clock(), what, details))

    def __call__(self, event: Event) -> None:
        """Note in which phase the server failed."""
        if isinstance(event, ServerFailed):
            self.phase = event.phase
            self.note("failed")

    def look(self, session: Session) -> Conversation[None]:
        """Ask nothing: keep the session that is ready for mail."""
        self.session = session
        return
        yield  # as every conversation, it is a generator


def check_of(
    server: Server, watch: Watch, error: Exception | None, now: float, receipt: Receipt | None = None
) -> Check:
    """What a watch was told, as a `Check`. ``now`` is in seconds since 1970."""
    session = watch.session
    told = {what: details for _, what, details in watch.marks}
    security = None
    if "tls" in told:
        protocol, cipher, chain, names, until = told["tls"][0]
        days = None if until is None else int((until - now) // A_DAY)
        security = Security(protocol, cipher, chain, names, days)
    return Check(
        server.name,
        tuple(_steps(server, watch, security, error, receipt)),
        error,
        tuple(told["found"][0]) if "found" in told else (),
        session.greeting.text if session and session.greeting else "",
        security,
        dict(session.capabilities) if session else {},
        session.capabilities.auth_mechanisms if session else (),
        tuple(_waits(server, session)) if session else (),
        receipt,
    )


def _steps(
    server: Server, watch: Watch, security: Security | None, error: Exception | None, receipt: Receipt | None
) -> list[Step]:
    """The steps in their order; the last one is that which failed."""
    steps: list[Step] = []
    name, begun, last = "look-up", watch.begun, watch.begun
    details: list[str] = []

    def end(following: str) -> None:
        nonlocal name, begun, details
        if name == "EHLO" and watch.session is not None:
            details = [", ".join(f"{key} {said}".strip() for key, said in watch.session.capabilities.items())]
        steps.append(Step(name, True, last - begun, shortened("; ".join(details), MAX_DETAIL)))
        name, begun, details = following, last, []

    for at, what, given in watch.marks:
        if what == "found":
            last, details = at, [", ".join(given[0])]
            end("connect")
        elif what == "connected":
            last = at
            details.append(given[0])
            end("TLS" if server.tls == "implicit" else "greeting")
        elif what == "tried" and given[1] is not None:
            details.append(f"{given[0]}: {given[1].strerror or given[1]}")
        elif what == "tls":
            last, details = at, [_shown(security)]
            end("EHLO" if any(step.name == "EHLO" for step in steps) else "greeting")
        elif what == "line" and given == (">", "QUIT"):
            break
        elif what == "line" and given[0] == ">":
            step = _OF_VERBS.get(given[1].partition(" ")[0].upper(), "message" if given[1].startswith("MAIL") else name)
            if step != name and details:
                end(step)
            name = step
            if step == "login" and given[1].startswith("AUTH"):
                details = [f"{server.username or 'no user name'} by {given[1].split()[1]}"]
        elif what == "line":
            last = at
            details = details if name == "login" else [given[1]]
        elif what == "failed":
            last = at
    failed = error or (receipt.error if receipt is not None else None)
    if failed is not None:
        in_step = _failed_in(server, watch, name)
        if details and in_step != name:
            end(in_step)
        steps.append(Step(in_step, False, max(last - begun, 0.0), str(failed)))
    elif details:
        end("")
    return steps


def _failed_in(server: Server, watch: Watch, name: str) -> str:
    """The step that failed."""
    if watch.phase == "tls":
        return "TLS"
    if watch.phase == "connect" and server.path is None and all(what != "found" for _, what, _ in watch.marks):
        return "look-up"
    return _STEPS.get(watch.phase, name) if watch.session is None else "message"


def _shown(security: Security | None) -> str:
    if security is None:
        return ""
    parts = [f"{security.protocol}, {security.cipher}", *security.chain[:1]]
    if security.names:
        parts.append(f"for {', '.join(security.names)}")
    if security.days is not None:
        parts.append(f"{security.days} days left")
    return "; ".join(parts)


def _waits(server: Server, session: Session) -> Sequence[str]:
    """For how many replies a message waits here, with the reason, as DESIGN 5.1 has it."""
    offered = session.capabilities
    if "PIPELINING" not in offered:
        return ["4 replies a message, and 1 for each further recipient: the server does not offer PIPELINING"]
    found = ["2 replies a message: MAIL, RCPT and DATA leave together, then the content (PIPELINING)"]
    if "CHUNKING" not in offered or "SIZE" not in offered:
        return found
    if server.chunk_in_flight == "never":
        return [*found, f"never 1: {server.spelling('chunk_in_flight', 'never')} is set"]
    if server.chunk_in_flight == "probe" or takes_probe(session.greeting, offered):
        return [
            *found,
            "1 reply a message up to 256 KiB, once the connection has proven that it discards what it refuses",
        ]
    return [
        *found,
        f"never 1: the server is not known to take the proof well (see {server.spelling('chunk_in_flight')})",
    ]


def message_to(to: str, sender: Any) -> Any:
    """The message that a check sends."""
    from smtpbackend.message import Message

    text = "This message was sent to find out whether mail can be sent and arrives. It needs no answer.\n"
    return Message("Test of a mail server", from_=sender or to, to=[to], text=text)
