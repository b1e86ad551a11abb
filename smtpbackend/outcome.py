"""What became of a message: a Reply from a server, an Outcome for each recipient, a Receipt for each message.

Values only. How a Reply is read off the wire is the matter of ``protocol/reply.py``; which Status follows from which
Reply is decided in ``delivery/judgement.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from smtpbackend import errors
from smtpbackend.address import Address
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import MAX_NAMED, DeliveryError, InvalidInput, RecipientsRefused, SMTPError, few, shortened
from smtpbackend.values import Value

__all__ = ["Outcome", "Receipt", "Reply", "Status", "named", "refusals", "said_of"]

MAX_SHOWN = 512  # characters of a reply where it is shown and not kept: the whole line that RFC 5321 4.5.3.1.5 allows


class Reply(Value):
    """What a server said to one command (RFC 5321 4.2).

    ``code`` has three digits; ``enhanced`` is the RFC 3463 status as a triple of ints, or None; ``lines`` are the
    texts behind the code, with the enhanced status taken off.
    """

    code: int
    enhanced: tuple[int, int, int] | None
    lines: tuple[str, ...]

    def __init__(self, code: int, enhanced: tuple[int, int, int] | None = None, lines: tuple[str, ...] = ()) -> None:
        put = self.__dict__  # past `__setattr__`, which refuses
        put["code"] = code
        put["enhanced"] = enhanced
        put["lines"] = lines

    @property
    def is_positive(self) -> bool:
        """2yz: done as asked (RFC 5321 4.2.1)."""
        return 200 <= self.code < 300

    @property
    def is_transient(self) -> bool:
        """4yz: the same command may be accepted later (RFC 5321 4.2.1)."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: the same command must not be repeated (RFC 5321 4.2.1)."""
        return 500 <= self.code < 600

    @property
    def text(self) -> str:
        """The lines as one string."""
        return "\n".join(self.lines)

    @property
    def as_smtplib(self) -> tuple[int, bytes]:
        """Code and text as the errors of smtplib have them; of a long text the beginning and the end.

        The enhanced status stands before each line, as a server writes it (RFC 2034 4).
        """
        text = "\n".join(f"{self._status} {line}".strip() for line in self.lines) or self._status
        return self.code, shortened(text, MAX_SHOWN).encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        """For a log or an error: of a long reply the beginning and the end."""
        return shortened(self.whole, MAX_SHOWN)

    @property
    def whole(self) -> str:
        """All of it on one line."""
        return " ".join(filter(None, (str(self.code), self._status, " ".join(self.lines))))

    @property
    def _status(self) -> str:
        return ".".join(map(str, self.enhanced)) if self.enhanced else ""

    def to_json(self) -> dict[str, Any]:
        """A mapping that ``json.dumps`` takes."""
        return {"code": self.code, "enhanced": self.enhanced and list(self.enhanced), "lines": list(self.lines)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Reply:
        """The reply that `to_json` was called on."""
        enhanced = given["enhanced"]
        return cls(given["code"], enhanced and tuple(enhanced), tuple(given["lines"]))

    def __repr__(self) -> str:
        lines = shortened(repr(self.lines), MAX_SHOWN)
        return f"Reply(code={self.code!r}, enhanced={self.enhanced!r}, lines={lines})"


class Status(Enum):
    """The state of one recipient after a delivery."""

    ACCEPTED = "accepted"
    """A server took responsibility for this recipient."""
    REJECTED = "rejected"
    """This recipient was refused for good: by a server, or here, where it is no address or `only_to` leaves it out."""
    DEFERRED = "deferred"
    """Certainly not handed over, tried or not; may be tried again."""
    IN_DOUBT = "in_doubt"
    """Handed over, and the connection ended before the answer: it may have arrived."""
    FAILED = "failed"
    """Not sent, through no fault of the recipient: the message, or our side. It has to be mended first."""


class Outcome(Value):
    """What became of one recipient.

    ``recipient`` is as it stood in the envelope, NOTIFY and ORCPT included, or the text as it was given where that is
    no address. ``reply`` is the last thing a server said about it, ``error`` why no reply settled it, ``server`` the
    one that spoke last, and ``attempts`` in how many transactions it was named, without those that the server did not
    read.
    """

    recipient: Recipient | str
    status: Status
    reply: Reply | None
    server: str | None
    error: Exception | None
    attempts: int

    def __init__(
        self,
        recipient: Recipient | str,
        status: Status,
        reply: Reply | None = None,
        server: str | None = None,
        error: Exception | None = None,
        attempts: int = 0,
    ) -> None:
        put = self.__dict__  # past `__setattr__`, which refuses
        put["recipient"] = recipient
        put["status"] = status
        put["reply"] = reply
        put["server"] = server
        put["error"] = error
        put["attempts"] = attempts

    @property
    def address(self) -> Address | str:
        """The address of the recipient, or the text as it was given where that is none."""
        return self.recipient.address if isinstance(self.recipient, Recipient) else self.recipient

    def to_json(self) -> dict[str, Any]:
        """A mapping that ``json.dumps`` takes, without what is None."""
        given = {
            "recipient": self.recipient if isinstance(self.recipient, str) else self.recipient.to_json(),
            "status": self.status.value,
            "reply": self.reply and self.reply.to_json(),
            "server": self.server,
            "error": self.error and error_to_json(self.error),
            "attempts": self.attempts,
        }
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` was called on; of its error the class and the text. Raises `InvalidInput`."""
        recipient, reply, error = given["recipient"], given.get("reply"), given.get("error")
        return cls(
            recipient if isinstance(recipient, str) else Recipient.from_json(recipient),
            Status(given["status"]),
            reply and Reply.from_json(reply),
            given.get("server"),
            error and error_from_json(error),
            given.get("attempts", 0),
        )

    @property
    def no_such_mailbox(self) -> bool:
        """Whether the address itself is at fault, so that no other message would arrive there either.

        It is no address, or a server answered RCPT with 5.1.x (RFC 3463 3.2) that is of the recipient. False where
        content, sender or a policy was refused, and where a server gave no such status: these say nothing of it.
        """
        if self.status is not Status.REJECTED:
            return False
        if self.reply is None:
            return isinstance(self.recipient, str)
        status = self.reply.enhanced
        # 5.1.7 and 5.1.8 are of the sender, and so may 5.1.0 be: Postfix refuses an unknown sender so, to RCPT.
        # Beside a reply to MAIL or to the content, or about the address of redirect_to, stands an error
        return self.error is None and status is not None and status[:2] == (5, 1) and status[2] not in (0, 7, 8)


class Receipt(Value):
    """What became of one message, recipient by recipient.

    ``reply``, ``server`` and ``queue_id`` are those of the (last) acceptance of the content; ``error`` is set when
    nobody was accepted: a `SMTPError`, or what your own iterable or file raised; ``notes`` say what was asked for and
    not offered. ``envelope`` is what the message was sent with; None where it had no recipient that is an address.

    ``answered``: whether any server answered the MAIL command of this message, whatever it said. False where it did not
    get so far: no connection, TLS, EHLO or login failed, it was refused here, or the deadline passed before. A reply
    that ended the connection before MAIL, as 421 in the greeting, is no answer to it. One in doubt may have none.
    """

    message_id: str | None
    outcomes: tuple[Outcome, ...]
    reply: Reply | None = None
    server: str | None = None
    queue_id: str | None = None
    error: Exception | None = None
    notes: tuple[str, ...] = ()
    envelope: Envelope | None = None
    answered: bool = False

    def __repr__(self) -> str:
        """Of many outcomes the first few."""
        shown = few(self.outcomes)
        return (
            f"Receipt(message_id={self.message_id!r}, outcomes={shown}, reply={self.reply!r}, server={self.server!r}, "
            f"queue_id={self.queue_id!r}, error={self.error!r}, notes={self.notes!r}, envelope={self.envelope!r}, "
            f"answered={self.answered!r})"
        )

    def owed(self, *statuses: Status) -> Envelope | None:
        """The envelope of those still owed this message: what another `send` of it takes. None: there are none.

        These are the deferred ones, or all that have one of ``statuses``. Those in doubt may have the message already.
        """
        wanted = statuses or (Status.DEFERRED,)
        owed = [o.recipient for o in self.outcomes if o.status in wanted and isinstance(o.recipient, Recipient)]
        return self.envelope.replace(recipients=tuple(owed)) if self.envelope is not None and owed else None

    def to_json(self) -> dict[str, Any]:
        """A mapping that ``json.dumps`` takes, without what is None."""
        given = {
            "message_id": self.message_id,
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "reply": self.reply and self.reply.to_json(),
            "server": self.server,
            "queue_id": self.queue_id,
            "error": self.error and error_to_json(self.error),
            "notes": list(self.notes),
            "envelope": self.envelope and self.envelope.to_json(),
            "answered": self.answered,
        }
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Receipt:
        """The receipt that `to_json` was called on; of its errors the class and the text. Raises `InvalidInput`."""
        reply, error, envelope = given.get("reply"), given.get("error"), given.get("envelope")
        return cls(
            given.get("message_id"),
            tuple(Outcome.from_json(outcome) for outcome in given.get("outcomes", ())),
            reply and Reply.from_json(reply),
            given.get("server"),
            given.get("queue_id"),
            error and error_from_json(error),
            tuple(given.get("notes", ())),
            envelope and Envelope.from_json(envelope),
            given.get("answered", False),
        )

    def _having(self, status: Status) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status is status)

    @property
    def accepted(self) -> tuple[Outcome, ...]:
        """Recipients a server took responsibility for."""
        return self._having(Status.ACCEPTED)

    @property
    def rejected(self) -> tuple[Outcome, ...]:
        """Recipients refused for good."""
        return self._having(Status.REJECTED)

    @property
    def deferred(self) -> tuple[Outcome, ...]:
        """Recipients that were certainly not handed over and may be tried again."""
        return self._having(Status.DEFERRED)

    @property
    def in_doubt(self) -> tuple[Outcome, ...]:
        """Recipients whose message was handed over without an answer."""
        return self._having(Status.IN_DOUBT)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Recipients that were not sent the message through no fault of theirs."""
        return self._having(Status.FAILED)

    @property
    def ok(self) -> bool:
        """True when everybody was accepted."""
        for outcome in self.outcomes:
            if outcome.status is not Status.ACCEPTED:
                return False
        return bool(self.outcomes)

    def raise_for_failure(self) -> None:
        """Raise unless everybody was accepted; the error carries this receipt.

        ``error`` where nobody was, else a `RecipientsRefused` that names those who were not.
        """
        if self.error is not None:
            raise self.error
        if not self.ok:
            raise self._partial()

    def _partial(self) -> DeliveryError:
        failed = [outcome for outcome in self.outcomes if outcome.status is not Status.ACCEPTED]
        names = named([(o.address, f"{o.status.value}: {said_of(o)}") for o in failed])
        return RecipientsRefused(
            f"{len(failed)} of {len(self.outcomes)} recipients were not accepted: {names}",
            recipients=refusals(tuple(failed)),
            transient=all(outcome.status is Status.DEFERRED for outcome in failed),
            server=self.server,
            receipt=self,
        )

    def unacceptable(self) -> list[tuple[str, int, str]]:
        """Those not accepted, as tcllib gives them: ``(address, code, text)``; the code is 0 without a reply."""
        return [
            (str(o.address), o.reply.code if o.reply else 0, o.reply.text if o.reply else str(o.error or ""))
            for o in self.outcomes
            if o.status is not Status.ACCEPTED
        ]


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An error as a mapping that ``json.dumps`` takes: its class, its text, the server, the reply, the setting."""
    if not isinstance(error, SMTPError):
        return {"type": SMTPError.__name__, "text": f"{type(error).__name__}: {error}"}
    told: dict[str, Any] = {"type": type(error).__name__, "text": str(error)}
    if isinstance(error, RecipientsRefused):
        refused = error.recipients.items()
        told["recipients"] = {address: [code, said.decode("utf-8", "replace")] for address, (code, said) in refused}
    told |= {"server": error.server, "reply": error.reply and error.reply.to_json()}
    told |= {"transient": error.is_transient, "field": getattr(error, "field", None)}
    return {name: value for name, value in told.items() if value is not None}


def error_from_json(given: Mapping[str, Any]) -> SMTPError:
    """The error that `error_to_json` was given, without its receipt; one that is not ours becomes an `SMTPError`."""
    kind, text, reply = getattr(errors, given["type"], SMTPError), given["text"], given.get("reply")
    context: dict[str, Any] = {"server": given.get("server"), "reply": reply and Reply.from_json(reply)}
    if issubclass(kind, InvalidInput):
        context["field"] = given.get("field", "")
    if issubclass(kind, RecipientsRefused):
        context["transient"] = given.get("transient", False)
        context["recipients"] = {one: (code, said.encode()) for one, (code, said) in given["recipients"].items()}
    return kind(text, **context)


def refusals(outcomes: tuple[Outcome, ...]) -> dict[str, tuple[int, bytes]]:
    """Outcomes as smtplib's dictionary of refused recipients."""
    return {
        str(o.address): o.reply.as_smtplib
        if o.reply
        else (0, shortened(str(o.error or ""), MAX_SHOWN).encode("utf-8", "replace"))
        for o in outcomes
    }


def said_of(outcome: Outcome) -> str:
    """What kept a recipient from being accepted, for an error: the last reply with its server, or the error."""
    if outcome.reply is not None:
        return f"{outcome.server}: {outcome.reply}" if outcome.server else str(outcome.reply)
    return "" if outcome.error is None else str(outcome.error)


def named(said: Sequence[tuple[object, object]]) -> str:
    """Recipients with what was said of each, for an error: the first few, and how many more there are."""
    names = ", ".join(f"{address} ({shortened(str(why), MAX_SHOWN)})" for address, why in said[:MAX_NAMED])
    return names if len(said) <= MAX_NAMED else f"{names} and {len(said) - MAX_NAMED:,} more"
