"""One mail transaction on one connection (RFC 5321 3.3): what is sent, and the reply to each part.

``transaction_steps.py`` notes the replies here; ``delivery/judgement.py`` decides what they mean for each recipient.
"""

from __future__ import annotations

from datetime import UTC, datetime

from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import NotSupported, SMTPError
from smtpbackend.mime import Content
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities

__all__ = ["Transaction", "notes", "objection"]

LONGEST_LINE = 998  # RFC 5322 2.1.1; RFC 5321 4.5.3.1.6 counts 1000 with CRLF


class Transaction:
    """A sender, some recipients and a content, with the replies to each.

    ``is_awake``: whether the server answered on this connection lately, so that content may leave ahead of replies.
    """

    def __init__(
        self, envelope: Envelope, recipients: tuple[Recipient, ...], content: Content, is_awake: bool = True
    ) -> None:
        self.envelope = envelope
        self.recipients = recipients
        self.content = content
        self.is_awake = is_awake
        self.rcpt: list[Reply | None] = [None] * len(recipients)

    is_last = False
    """Whether no other is known to follow: `Next` is not yielded before this one is settled."""
    mail: Reply | None = None
    final: Reply | None = None
    """The reply to the end of content, or the one that refused DATA."""
    finals: list[Reply | None] | None = None
    """In LMTP the replies to the end of content, one for each recipient that was accepted (RFC 2033 4.2)."""
    handed_over = False
    """Whether the write that ends the content was given to the wire (DESIGN 4.3)."""
    error: SMTPError | None = None
    """Why the conversation ended before the transaction did."""
    is_settled = False
    """Whether it has all its replies: nothing that happens later changes it."""
    is_confused = False
    """Whether the content was in flight, and the server gave more replies than there were commands."""
    was_closed = False
    """Whether a command of its own was answered 421: nothing unanswered was done."""
    is_unread = False
    """Whether the server had ended the conversation before: nothing of it was read, whatever was sent."""
    is_chunked = False
    """Whether its content left by BDAT."""
    number = 0
    """Its number on the connection, from 1; 0: it was not begun."""
    unwanted: Reply | None = None
    """The reply to DATA or BDAT, where it was in flight and no recipient was to get the content."""
    had_answer = False
    """Whether MAIL was answered before the replies were forgotten."""
    _answered = 0
    """In LMTP: every recipient before this place has its reply to the content, or gets none."""

    @property
    def next_final(self) -> int | None:
        """The place of the recipient that the next reply to the content is for; None when no reply is due.

        Without LMTP the only reply is at place 0, for all recipients.
        """
        if self.finals is None:
            return 0 if self.final is None else None
        # replies come in order, and only `forget_replies` takes them back: the search goes on where it ended
        for place in range(self._answered, len(self.rcpt)):
            rcpt = self.rcpt[place]
            if self.finals[place] is None and rcpt is not None and rcpt.is_positive:
                self._answered = place
                return place
        self._answered = len(self.rcpt)
        return None

    def final_for(self, place: int) -> Reply | None:
        """The reply to the content for this recipient."""
        own = self.finals[place] if self.finals is not None else None
        return own or self.final

    def refuse(self, reply: Reply, wanted: bool) -> None:
        """Note that DATA or BDAT was refused. ``wanted``: a recipient was to get the content."""
        if wanted:
            self.final = reply
        else:
            self.unwanted = reply

    def close(self, reply: Reply, is_own: bool) -> None:
        """Note that the server ended the connection with this reply, to a command of this transaction or of another."""
        self.was_closed = is_own
        self.is_unread = not is_own
        if is_own and self.finals is not None and self.handed_over and (place := self.next_final) is not None:
            self.finals[place] = reply

    def forget_replies(self) -> None:
        """The replies cannot be told apart: each may be the reply to another command."""
        self.had_answer = self.is_answered
        self.mail = self.final = None
        self._answered = 0
        self.rcpt = [None] * len(self.recipients)
        self.finals = None if self.finals is None else [None] * len(self.recipients)

    @property
    def is_answered(self) -> bool:
        """Whether the server answered MAIL; 421 to it counts too."""
        return self.mail is not None or self.was_closed or self.had_answer

    @property
    def left_nothing(self) -> bool:
        """Whether the server holds nothing of it that RSET would clear."""
        if self.finals is not None:
            return self.next_final is None
        if self.final is not None:
            return self.final.code < 300
        return self.mail is not None and not self.mail.is_positive and not self.accepted

    @property
    def last_word(self) -> Reply | None:
        """The reply that decides: to MAIL or the content, or the one that ended the connection."""
        if self.was_closed and self.error is not None:
            return self.error.reply
        return self.final if self.mail is None or self.mail.is_positive else self.mail

    @property
    def was_taken(self) -> bool:
        """Whether the server accepted the content for any recipient."""
        if self.finals is None:
            return self.final is not None and self.final.code < 300
        return any(reply is not None and reply.is_positive for reply in self.finals)

    @property
    def refusals(self) -> int:
        """How many errors the server counted: refused senders, recipients and contents, also `unwanted` ones."""
        replies = (self.mail, *self.rcpt, self.final, self.unwanted, *(self.finals or ()))
        return sum(reply is not None and reply.code >= 400 for reply in replies)

    @property
    def accepted(self) -> int:
        """How many recipients the server accepted."""
        return sum(reply is not None and reply.is_positive for reply in self.rcpt)

    @property
    def has_recipients(self) -> bool:
        """Whether the server accepted the sender and at least one recipient."""
        if self.mail is None or not self.mail.is_positive:
            return False
        for reply in self.rcpt:  # noqa: SIM110
            if reply is not None and 200 <= reply.code < 300:
                return True
        return False

    @property
    def everybody_accepted(self) -> bool:
        """Whether the server accepted the sender and every recipient."""
        if self.mail is None or not self.mail.is_positive:
            return False
        for reply in self.rcpt:  # noqa: SIM110 - a generator would cost twice as much
            if reply is None or not 200 <= reply.code < 300:
                return False
        return True

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address or a header can only travel as UTF-8 (RFC 6531)."""
        return self.content.needs_smtputf8 or self.envelope.needs_smtputf8

    @property
    def is_accepted(self) -> bool:
        """Whether the server accepted the sender, every recipient and the content, by one reply for all."""
        final = self.final
        if final is None or final.code >= 300 or self.error is not None or self.finals is not None:
            return False
        return self.everybody_accepted

    def commands(self, offered: Capabilities) -> list[bytes]:
        """MAIL and each RCPT, with their parameters. Raises `InvalidInput`."""
        utf8 = self.needs_smtputf8
        wants_dsn = self.envelope.wants_dsn and "DSN" in offered
        return [
            command.mail(self.envelope.sender, self.mail_parameters(offered), utf8),
            *[command.rcpt(one, rcpt_parameters(one) if wants_dsn else {}, utf8) for one in self.recipients],
        ]

    def mail_parameters(self, offered: Capabilities) -> dict[str, str | None]:
        """The parameters of MAIL that the server offers."""
        values: dict[str, str | None] = {}
        if "SIZE" in offered:  # RFC 1870 5
            values["SIZE"] = str(self.content.size)
        if "8BITMIME" in offered and self.content.is_8bit:  # RFC 6152 3
            values["BODY"] = "8BITMIME"
        if self.needs_smtputf8:  # RFC 6531 3.4
            values["SMTPUTF8"] = None
        envelope = self.envelope
        if envelope.is_plain:
            return values
        if "DSN" in offered:  # RFC 3461 4.3, 4.4
            if envelope.dsn_return:
                values["RET"] = envelope.dsn_return
            if envelope.envid:
                values["ENVID"] = xtext(envelope.envid)
        if envelope.require_tls:  # RFC 8689 3
            values["REQUIRETLS"] = None
        if envelope.hold_for is not None:  # RFC 4865 4
            values["HOLDFOR"] = str(envelope.hold_for)
        if envelope.hold_until is not None:
            values["HOLDUNTIL"] = timestamp(envelope.hold_until)
        for keyword, value in envelope.extra.items():
            if _extension(keyword) in offered:
                values[keyword] = value
        return values


def rcpt_parameters(recipient: Recipient) -> dict[str, str | None]:
    """The parameters of RCPT of a server that offers DSN (RFC 3461 4.1, 4.2)."""
    values: dict[str, str | None] = {}
    if recipient.notify:
        values["NOTIFY"] = ",".join(recipient.notify)
    if recipient.orcpt:
        values["ORCPT"] = original_recipient(recipient.orcpt)
    return values


def _extension(parameter: str) -> str:
    """The EHLO keyword of a parameter of MAIL: the same name, but DELIVERBY for BY (RFC 2852 4)."""
    return "DELIVERBY" if parameter.upper() == "BY" else parameter.upper()


def timestamp(date: datetime) -> str:
    """A date as RFC 3339 and RFC 4865 4 write it."""
    return f"{date.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def xtext(text: str) -> str:
    """Text as RFC 3461 4 writes it: "+", "=" and everything but printable ASCII in hexadecimal."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def original_recipient(address: str) -> str:
    """The value of ORCPT: of type rfc822, or utf-8 in its form for a 7-bit line (RFC 6533 3, utf-8-addr-xtext)."""
    if address.isascii():
        return f"rfc822;{xtext(address)}"
    return "utf-8;" + "".join(c if "!" <= c <= "~" and c not in "+=\\" else f"\\x{{{ord(c):X}}}" for c in address)


def objection(
    envelope: Envelope, content: Content, offered: Capabilities, server: str, secure: bool = True
) -> NotSupported | None:
    """Why this server, by what it offers, cannot be given this message; None when it can.

    ``secure``: whether the channel is verified TLS, which REQUIRETLS needs (RFC 8689 4.1).
    """
    why = None if envelope.is_plain else _unmet_request(envelope, offered, server, secure)
    why = why or _unfit_content(envelope, content, offered, server)
    return None if why is None else NotSupported(why, server=server)


def _unmet_request(envelope: Envelope, offered: Capabilities, server: str, secure: bool) -> str | None:
    if envelope.require_tls and not (secure and "REQUIRETLS" in offered):
        why = "offers no REQUIRETLS" if secure else "is not connected by TLS"
        return f"the envelope says require_tls, and {server} {why}"
    if (envelope.hold_for is not None or envelope.hold_until is not None) and "FUTURERELEASE" not in offered:
        return f"the envelope asks to hold the message, and {server} offers no FUTURERELEASE: it would be sent at once"
    longest, latest = offered.hold_limits
    if envelope.hold_for is not None and longest is not None and envelope.hold_for > longest:
        return (
            f"hold_for is {envelope.hold_for} s, and {server} holds a message for at most {longest} s (FUTURERELEASE)"
        )
    if envelope.hold_until is not None and latest is not None and envelope.hold_until > latest:
        until = timestamp(envelope.hold_until)
        return f"hold_until is {until}, and {server} allows {timestamp(latest)} at the latest (FUTURERELEASE)"
    return None


def _unfit_content(envelope: Envelope, content: Content, offered: Capabilities, server: str) -> str | None:
    if (content.needs_smtputf8 or envelope.needs_smtputf8) and "SMTPUTF8" not in offered:
        addresses = (envelope.sender, *(recipient.address for recipient in envelope.recipients))
        found = next((str(one) for one in addresses if one is not None and one.needs_smtputf8), None)
        whose = found or "an address in the header of the message"
        return (
            f"{whose} has a local part outside ASCII, and {server} offers no SMTPUTF8; use an address in ASCII, or a "
            "server that offers it"
        )
    if content.is_8bit and "8BITMIME" not in offered:
        return (
            f"the content has 8-bit octets, and {server} offers no 8BITMIME; "
            "give a Message, which is rendered as 7-bit, or encode the content as base64 or quoted-printable"
        )
    if content.longest_line > LONGEST_LINE:
        return (
            f"the content has a line of {content.longest_line} octets; "
            f"{server} may take {LONGEST_LINE} (RFC 5322 2.1.1): encode the content as base64 or quoted-printable"
        )
    limit = offered.size_limit
    if limit is not None and content.size > limit:
        return (
            f"the content has {content.size:,} octets, and {server} takes at most {limit:,} (SIZE); send less: smaller "
            "attachments, or links to them"
        )
    return None


def notes(envelope: Envelope, offered: Capabilities) -> tuple[str, ...]:
    """What the envelope asks for and the server does not offer, where the mail is sent without it."""
    if envelope.is_plain:
        return ()
    missing = [keyword for keyword in envelope.extra if _extension(keyword) not in offered]
    if envelope.wants_dsn and "DSN" not in offered:
        missing.insert(0, "DSN")
    return tuple(f"{keyword} was asked for and is not offered" for keyword in missing)
