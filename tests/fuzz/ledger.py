"""The books of one connection, kept by the other side: what the client sent, octet by octet, and what it was answered.

Written from the RFCs and from DESIGN 4 and 5, with nothing of ours: neither the parser of replies nor the writer of
commands is believed. What must not be sent raises `Illegal` at the octet that is wrong.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

LINE = 512  # RFC 5321 4.5.3.1.4, with CRLF
LONGER_BY = {b"SIZE": 26, b"BODY": 17, b"SMTPUTF8": 10, b"RET": 500, b"ENVID": 500, b"NOTIFY": 500, b"ORCPT": 500}
# RFC 1870 3, RFC 6152 2, RFC 6531 3.1, RFC 3461 4
NEEDS = {b"SIZE": b"SIZE", b"BODY": b"8BITMIME", b"SMTPUTF8": b"SMTPUTF8"}
NEEDS |= dict.fromkeys((b"RET", b"ENVID", b"NOTIFY", b"ORCPT"), b"DSN")
RESPONSE = 12288  # RFC 4954 4
TEXT = 998  # octets of a line of content, RFC 5322 2.1.1
TOGETHER = 256 * 1024  # octets of content in flight with its recipients: DESIGN 5.1
UNANSWERED = 256  # commands: DESIGN 5.2
RATION = 9  # messages in flight, and one more for each that was accepted: DESIGN 5.2
UNKNOWN = {500, 502, 504}  # RFC 5321 4.2.2: replies of one who does not know BDAT
SLOW = 1.0  # seconds for the replies to a probe: DESIGN 5.1
REPLY_LINE, REPLY_LINES, REPLY = 8192, 256, 65536  # what is over one of these is no reply: DESIGN 4.9

# RFC 2920 3.1 and the RFC of each extension: behind these nothing, until they are answered
ENDS_A_GROUP = {b"EHLO", b"HELO", b"LHLO", b"DATA", b"VRFY", b"EXPN", b"QUIT", b"NOOP", b"HELP", b"AUTH", b"STARTTLS"}
ENDS_A_GROUP |= {b"QUED"}
BARE = {b"DATA", b"QUIT", b"NOOP", b"STARTTLS", b"RSET", b"QUED"}

_reply_line = re.compile(rb"([2-5][0-9][0-9])(?![0-9])([ \t-]?)(.*)", re.DOTALL)
_path = re.compile(rb"(?:FROM|TO):<([^ ]*|\".*\"@[^ ]*)>((?: [A-Za-z0-9-]+(?:=[!-<>-~]+)?)*)")
_status = re.compile(rb"#?[245]\.[0-9]{1,3}\.[0-9]{1,3} +")
_lonely = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Illegal(AssertionError):
    """The client did what it must not."""


class Heard(NamedTuple):
    """A reply that the client was given."""

    code: int

    @property
    def is_positive(self) -> bool:
        return self.code < 300


class Due:
    """A reply that is due to the client, and what it was.

    ``what`` is the verb, "end" for a content, "chunk" for that of the probe.
    """

    __slots__ = ("asked", "is_good", "mailing", "reply", "took", "what")

    def __init__(self, what: str, mailing: Mailing | None = None, is_good: bool = True) -> None:
        self.what = what
        self.mailing = mailing
        self.is_good = is_good
        """Whether a server that keeps to the rules would say yes."""
        self.reply: Heard | None = None
        self.asked = self.took = 0.0

    @property
    def said_yes(self) -> bool:
        return self.reply is not None and self.reply.is_positive


_order = itertools.count()


class Mailing:
    """One mail transaction, as the server saw it; those of all connections in the ``order`` in which they began."""

    def __init__(self, sender: bytes, parameters: dict[bytes, bytes], mail: Due) -> None:
        self.order = next(_order)
        self.sender = sender
        self.parameters = parameters
        self.mail = mail
        self.rcpt: dict[bytes, Due] = {}
        self.data: Due | None = None
        self.data_went_alone = False
        self.each_has_its_own = False
        """Whether each recipient has an end of content of its own: LMTP."""
        self.is_chunked = False
        self.content = bytearray()
        self.final: dict[bytes, Due] = {}
        """What the end of content is answered to each recipient: in SMTP the same to all."""
        self.was_handed_over = False
        """Whether the end of a content, that of a lone dot not, was given to the wire."""

    @property
    def left_nothing(self) -> bool:
        """Whether nothing is unanswered, and the server holds nothing of it that RSET would have to clear."""
        dues = [self.mail, *self.rcpt.values(), *filter(None, [self.data]), *self.final.values()]
        if any(due.reply is None for due in dues):
            return False
        if self.final and b"" not in self.final:
            return self.each_has_its_own or all(due.said_yes for due in self.final.values())
        return not self.mail.said_yes and not any(due.said_yes for due in self.rcpt.values())

    def answered_yes(self, recipient: bytes) -> bool:
        """Whether the client knows that this recipient was accepted and the content too."""
        final = self.final.get(recipient)
        return self.mail.said_yes and self.rcpt[recipient].said_yes and final is not None and final.said_yes

    def may_have_arrived(self, recipient: bytes, ended: bool) -> bool:
        """Whether the server may have the message for this recipient, for all that the client knows.

        ``ended``: whether a reply ended the connection, after which nothing was done.
        """
        if not self.was_handed_over:
            return False
        rcpt, final = self.rcpt[recipient].reply, self.final.get(recipient)
        if any(reply is not None and not reply.is_positive for reply in (self.mail.reply, rcpt)):
            return False
        if final is None or final.reply is None:
            return not ended
        return final.reply.is_positive


class Ledger:
    """What is known of one connection.

    ``policy`` is the recipient policy; ``probe_from`` the number of the transaction from which on the server may be
    asked for a proof, or None; ``in_clear`` says that secrets may be sent without TLS; ``clock`` gives seconds.
    """

    def __init__(
        self,
        policy: str = "any",
        probe_from: int | None = 1,
        lmtp: bool = False,
        in_clear: bool = True,
        window: int = 32,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.policy = policy
        self.probe_from = probe_from
        self.clock = clock
        self.lmtp = lmtp
        self.in_clear = in_clear
        self.window = window
        self.secure = False
        self.due: list[Due] = [Due("greeting")]
        self.answered = 0
        """How many of ``due`` the client has a reply to."""
        self.mailings: list[Mailing] = []
        self.goodbye = False
        """Whether the client was told 421."""
        self.offers: dict[bytes, bytes] = {}
        self.probed_at = -1
        """Where in the order of all transactions the probe was sent; -1: it was not."""
        self._timed_out = False
        self._taken = 0  # contents that were accepted
        self._ended = False  # the end of the stream, or an error, was given to the client
        self._garbage = False  # something that is no reply was
        self._partial = b""
        self._code = 0
        self._octets = 0
        self._blank = 0
        self._lines: list[bytes] = []
        self._received = b""
        self._mode = "command"
        self._left = 0  # octets of a chunk
        self._chunk = bytearray()
        self._mailing: Mailing | None = None
        self._probe = 0  # 1: BDAT 1 was sent outside of a transaction; 2: and RSET behind it
        self._probed: tuple[Due, Due] | None = None
        self._hello: Due | None = None
        self._behind: list[Due] = []  # the ends of content, each with the RSET that was sent behind it in its write
        self._overlap: tuple[Due, Due] | None = None

    # What the client was told --------------------------------------------------------------------------------------

    def said(self, octets: bytes) -> None:
        """The client was given these; b"" is the end of the stream."""
        if not octets:
            self._ended = True
            return
        self._partial += octets
        while not self._garbage:
            end = self._partial.find(b"\n", 0, REPLY_LINE)
            if end < 0:
                self._garbage = len(self._partial) >= REPLY_LINE
                return
            line, self._partial = self._partial[:end], self._partial[end + 1 :]
            self._octets += len(line) + 1
            match = _reply_line.fullmatch(line)
            if match is not None:
                if self._lines and int(match[1]) != self._code:
                    self._garbage = True
                    return
                self._code = int(match[1])
                self._lines.append(match[3].replace(b"\t", b" ").strip(b" \r"))
                if match[2] != b"-":
                    lines, self._lines, self._blank, self._octets = self._lines, [], 0, 0
                    self._replied(self._code, lines)
                    continue
            elif line.strip():
                self._garbage = True
                return
            else:
                self._blank += 1  # of no reply, but it counts
            self._garbage = len(self._lines) + self._blank >= REPLY_LINES or self._octets > REPLY

    def failed(self, timed_out: bool = False) -> None:
        """The wire told the client that the connection is at its end."""
        self._ended = True
        self._timed_out = timed_out

    @property
    def ended_by_word(self) -> bool:
        """Whether a reply was its end, behind which nothing was read: 421, or a refusal of RSET and the end.

        RFC 5321 3.8; Exim's smtp_accept_max_nonmail.
        """
        last = self.due[self.answered - 1] if 0 < self.answered <= len(self.due) else None
        refused = last is not None and last.what == "RSET" and last.reply is not None and not last.said_yes
        return self.goodbye or (refused and self._ended and not self._timed_out)

    @property
    def is_proven(self) -> bool:
        """Whether it has shown that it discards the chunk of a BDAT that it refuses."""
        if self._probed is None or self._probed[0].reply is None or self._probed[1].reply is None:
            return False
        code = self._probed[0].reply.code
        return code >= 500 and code not in UNKNOWN and self._probed[1].reply.code == 250

    @property
    def probe_failed(self) -> bool:
        """Whether the probe was not answered well: with the proof, and not slowly."""
        if self._probed is None:
            return False
        before = max((due.took for due in self.due[: self.due.index(self._probed[0])]), default=0.0)
        return not self.is_proven or self._probed[1].took > max(SLOW, 2 * before)

    def _replied(self, code: int, lines: list[bytes]) -> None:
        if self.goodbye:  # RFC 5321 3.8: the server had to close the connection, and nothing was done
            return
        self.goodbye = code == 421
        if self.answered == len(self.due):
            self.answered += 1  # one too many: see `_check_order`
            return
        if self.answered > len(self.due):
            return
        due = self.due[self.answered]
        due.reply = Heard(code)
        due.took = self.clock() - due.asked
        self.answered += 1
        self._taken += due.what == "end" and due.said_yes
        if due.what in ("EHLO", "LHLO", "HELO") and code < 300:
            texts = [_status.sub(b"", line) if _status.match(line) else line for line in lines[1:]]
            words = [line.replace(b"AUTH=", b"AUTH ", 1).partition(b" ") for line in texts if due.what != "HELO"]
            self.offers = {}
            for keyword, _, rest in words:
                before = self.offers.get(keyword.upper(), b"")
                self.offers[keyword.upper()] = b" ".join(filter(None, (before, rest.strip())))

    def secured(self) -> None:
        """TLS began."""
        if self.due[-1].what not in ("STARTTLS", "greeting"):
            raise Illegal("TLS without STARTTLS")
        if self._partial or self.answered > len(self.due) or self._received:
            raise Illegal("TLS began with octets unread")
        self.secure = True
        self.offers = {}

    # What the client sent ------------------------------------------------------------------------------------------

    def heard(self, octets: bytes) -> list[Due]:
        """The client gave these to the wire, in one write. The replies that it will wait for."""
        before = len(self.due)
        self._check_order()
        received = self._received + octets
        at = 0
        while at < len(received):
            if self._mode == "content":
                at = self._read_content(received, at)
            elif self._mode == "chunk":
                at = self._read_chunk(received, at)
            else:
                end = received.find(b"\n", at)
                if end < 0:
                    raise Illegal(f"a write ends amid a command: {received[at:]!r}")
                line, at = received[at : end + 1], end + 1
                self._command(line)
            if at < 0:
                return self.due[before:]
        self._received = b""
        if self._mode == "chunk":
            raise Illegal("a write ends amid a chunk")
        # in LMTP the end of a content has many replies
        if len(self.due) - self.answered > UNANSWERED and not self.lmtp:
            raise Illegal(f"{len(self.due) - self.answered} commands are unanswered")
        self._behind.clear()
        return self.due[before:]

    def _check_order(self) -> None:
        if self._ended:
            raise Illegal("something was sent over a connection that is at its end")
        unanswered = len(self.due) - self.answered
        if unanswered < 0 or (not unanswered and (self._partial.strip() or self._lines)):
            raise Illegal("the server spoke unasked, and is still spoken to")
        if self._garbage and unanswered < 2:
            raise Illegal("the server does not speak SMTP, and is still spoken to")
        if self.goodbye and not unanswered:
            raise Illegal("the server said goodbye, and is still spoken to")

    def _command(self, line: bytes) -> None:
        if not line.endswith(b"\r\n") or _lonely.search(line) or re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]", line):
            raise Illegal(f"a control character, a bare CR or LF in a command: {line!r}")
        last = self.due[-1]
        if last.what == "AUTH" and last.reply is not None and last.reply.code == 334:
            self._response(line)
            return
        verb, _, rest = line[:-2].partition(b" ")
        if verb in BARE and rest:
            raise Illegal(f"{verb!r} has no parameters: {line!r}")
        if verb not in (b"MAIL", b"RCPT") and len(line) > LINE:
            raise Illegal(f"a line of {len(line)} octets: {line[:40]!r}")
        if verb not in (b"MAIL", b"RCPT") and not line.isascii():
            raise Illegal(f"8-bit octets in {line!r}")
        self._check_group(verb)
        match verb:
            case b"EHLO" | b"HELO" | b"LHLO":
                if (verb == b"LHLO") is not self.lmtp or not re.fullmatch(rb"[A-Za-z0-9.-]+|\[[A-Za-z0-9:.]+\]", rest):
                    raise Illegal(f"no hello: {line!r}")
                self._mailing = None
                self._hello = self._expect(verb.decode())
            case b"MAIL":
                self._mail(line, rest)
            case b"RCPT":
                self._rcpt(line, rest)
            case b"DATA":
                self._data()
            case b"BDAT":
                self._bdat(rest)
            case b"RSET":
                self._rset()
            case b"AUTH":
                self._auth(rest)
            case b"STARTTLS":
                if b"STARTTLS" not in self.offers or self.secure:
                    raise Illegal("STARTTLS is not offered")
                self._expect("STARTTLS")
            case b"QUIT" | b"NOOP" | b"QUED" | b"VRFY" | b"EXPN" | b"HELP":
                self._expect(verb.decode())
            case _:
                raise Illegal(f"no command: {line!r}")

    def _check_group(self, verb: bytes) -> None:
        """RFC 2920 3.1."""
        waiting = self.due[self.answered :]
        if self._probe == 1 and verb != b"RSET":
            raise Illegal(f"a probe with {verb!r} behind it")
        last = self.due[-1]
        if last.what == "STARTTLS" and last.reply is not None and last.reply.code == 220 and not self.secure:
            raise Illegal("a command in clear after the server is ready for TLS")
        if self.secure and last.what == "STARTTLS" and verb not in (b"EHLO", b"LHLO"):
            raise Illegal("what was learnt before TLS is not forgotten")  # RFC 3207 4.2
        if last.what == "QUIT":
            raise Illegal(f"{verb!r} behind QUIT")
        if not waiting:
            return
        for due in waiting:
            if due.what == "greeting" or due.what.encode() in ENDS_A_GROUP:
                raise Illegal(f"{verb!r} behind {due.what}, which is not answered")
        if b"PIPELINING" not in self.offers:
            raise Illegal(f"{verb!r} behind {waiting[-1].what}, and PIPELINING is not offered")
        if verb in ENDS_A_GROUP and verb != b"DATA":
            raise Illegal(f"{verb!r} in a group")  # it may end one, but ours goes alone
        if any(due.what == "end" for due in waiting) and not self._overlaps():
            # DESIGN 5.2: RSET alone, in the same write, until this server has shown that it reads on
            follows = waiting[-1].what == "end" and bool(self._behind) and self._overlap is None
            if verb != b"RSET" or not follows or self.window < 2:
                raise Illegal(f"{verb!r} behind the end of a content, on a connection that has proven nothing")

    def _overlaps(self) -> bool:
        return self._overlap is not None and self._overlap[1].said_yes and self._overlap[0].reply is not None

    def _expect(self, what: str, mailing: Mailing | None = None, is_good: bool = True) -> Due:
        due = Due(what, mailing, is_good)
        due.asked = self.clock()
        self.due.append(due)
        return due

    def _rset(self) -> None:
        is_clean = self._mailing is None or self._mailing.left_nothing
        # where others may be in flight, what was read of their replies need not be heard yet
        is_alone = self.answered == len(self.due) and (self.window < 2 or b"PIPELINING" not in self.offers)
        if self._probe != 1 and is_clean and is_alone:
            raise Illegal("RSET, and there is nothing to clear")
        due = self._expect("RSET")
        if self._probe == 1:
            self._probe = 2
            self._probed = (self.due[-2], due)
        if self._behind and self.due[-2] is self._behind[-1] and self._overlap is None:
            self._overlap = (self._behind[-1], due)
        self._mailing = None

    def _mail(self, line: bytes, rest: bytes) -> None:
        if self._hello is None or not self._hello.said_yes:
            raise Illegal("MAIL without EHLO")
        if self._mailing is not None and not self._mailing.left_nothing:
            raise Illegal("MAIL without RSET")  # DESIGN 5.2: Exim keeps the old sender
        unanswered = {id(due.mailing) for due in self.due[self.answered :] if due.mailing is not None}
        if len(unanswered) >= min(self.window, RATION + self._taken):
            raise Illegal(f"{len(unanswered)} messages are in flight")
        path, values = self._path(line, rest, b"FROM")
        mailing = self._mailing = Mailing(path, values, self._expect("MAIL"))
        mailing.each_has_its_own = self.lmtp
        mailing.mail.mailing = mailing
        self.mailings.append(mailing)

    def _rcpt(self, line: bytes, rest: bytes) -> None:
        mailing = self._mailing
        if mailing is None or mailing.data is not None or mailing.is_chunked:
            raise Illegal("RCPT outside of a transaction")
        if mailing.mail.reply is not None and not mailing.mail.reply.is_positive:
            raise Illegal("RCPT after a refused MAIL")
        path, _ = self._path(line, rest, b"TO")
        if path in mailing.rcpt or not path:
            raise Illegal(f"RCPT twice, or for nobody: {line!r}")
        mailing.rcpt[path] = self._expect("RCPT", mailing)

    def _path(self, line: bytes, rest: bytes, word: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        match = _path.fullmatch(rest)
        if match is None or not rest.startswith(word + b":"):
            raise Illegal(f"no path: {line!r}")
        values = {}
        for parameter in match[2].split():
            keyword, _, value = parameter.partition(b"=")
            if keyword not in NEEDS or NEEDS[keyword] not in self.offers or keyword in values:
                raise Illegal(f"{keyword!r} is not offered, or twice there: {line!r}")
            values[keyword] = value
        if len(line) > LINE + sum(LONGER_BY[keyword] for keyword in values):
            raise Illegal(f"a line of {len(line)} octets")
        utf8 = word == b"TO" or b"SMTPUTF8" in values
        if not line.isascii() and not (utf8 and b"SMTPUTF8" in self.offers):
            raise Illegal(f"8-bit octets without SMTPUTF8: {line!r}")
        return match[1], values

    def _auth(self, rest: bytes) -> None:
        name, _, initial = rest.partition(b" ")
        if name not in self.offers.get(b"AUTH", b"").upper().split() or self.mailings:
            raise Illegal(f"AUTH {name!r} is not offered, or comes too late")
        if name in (b"PLAIN", b"LOGIN") and not (self.secure or self.in_clear):
            raise Illegal("a secret in clear")  # DESIGN 4.7
        self._check_base64(initial)
        self._expect("AUTH")

    def _response(self, line: bytes) -> None:
        if len(line) > RESPONSE:
            raise Illegal("a response too long")
        if line != b"*\r\n":
            self._check_base64(line[:-2])
        self._expect("AUTH")

    def _check_base64(self, text: bytes) -> None:
        if text != b"=" and (len(text) % 4 or not re.fullmatch(rb"[A-Za-z0-9+/]*={0,2}", text)):
            raise Illegal(f"not base64: {text!r}")

    # The content ---------------------------------------------------------------------------------------------------

    def _wanted(self, mailing: Mailing) -> bool | None:
        """Whether the content may be sent, by the replies to MAIL and RCPT; None where they are not all in."""
        replies = [mailing.mail.reply, *(due.reply for due in mailing.rcpt.values())]
        if None in replies:
            return None
        yes = [reply is not None and reply.is_positive for reply in replies]
        return yes[0] and (all(yes) if self.policy == "all" else any(yes[1:]))

    def _data(self) -> None:
        mailing = self._mailing
        if mailing is None or not mailing.rcpt or mailing.data is not None or mailing.is_chunked:
            raise Illegal("DATA out of order")
        wanted = self._wanted(mailing)
        if wanted is False or (wanted is None and self.policy == "all"):
            raise Illegal("DATA, and too few are accepted")
        mailing.data_went_alone = self.answered == len(self.due)
        mailing.data = self._expect("DATA", mailing)
        self._mode = "content"

    def _read_content(self, received: bytes, at: int) -> int:
        mailing = self._mailing
        assert mailing is not None
        assert mailing.data is not None
        reply = mailing.data.reply
        if reply is None:
            raise Illegal("content behind DATA, which is not answered")
        # some servers say 250 for 354; behind a group it could be another command's
        if not (300 <= reply.code < 400 or (reply.is_positive and mailing.data_went_alone)):
            self._mode = "command"
            return at
        wanted = self._wanted(mailing)
        if not wanted:
            if received[at:] != b".\r\n" or mailing.content or any(due.said_yes for due in mailing.rcpt.values()):
                raise Illegal(f"content for nobody: {received[at : at + 60]!r}")  # RFC 2920 3.1
            self._mode = "command"
            mailing.final[b""] = self._expect("end", mailing, is_good=False)
            return len(received)
        at = self._lines_of_content(mailing, received, at)
        return at

    def _lines_of_content(self, mailing: Mailing, received: bytes, at: int) -> int:
        """Up to the lone dot, or to the end of what came: an unfinished line waits for more."""
        while True:
            end = received.find(b"\r\n", at)
            if end < 0:
                self._received = received[at:]
                if len(self._received) > TEXT + 3:
                    raise Illegal("a line of content is too long")
                return -1
            line = received[at:end]
            at = end + 2
            if line == b".":
                self._mode = "command"
                self._end_of(mailing)
                return at
            mailing.content += line[line[:1] == b"." :] + b"\r\n"
            if line[:1] == b"." and line[:2] != b"..":
                raise Illegal(f"a dot is not stuffed: {line[:40]!r}")

    def _end_of(self, mailing: Mailing) -> None:
        """The content is complete, and legal: no bare CR or LF, no line over the limit."""
        content = bytes(mailing.content)
        if not content.endswith(b"\r\n") or _lonely.search(content):
            raise Illegal("a bare CR or LF in content")
        if max(map(len, content.split(b"\r\n"))) > TEXT:
            raise Illegal("a line of content is too long")
        if not content.isascii() and not (b"8BITMIME" in self.offers and mailing.parameters.get(b"BODY")):
            raise Illegal("8-bit content without 8BITMIME")
        if b"SIZE" in mailing.parameters and int(mailing.parameters[b"SIZE"]) != len(content):
            raise Illegal("SIZE is not the size")
        mailing.was_handed_over = True
        if self.lmtp:  # RFC 2033 4.2
            for path, rcpt in mailing.rcpt.items():
                if rcpt.said_yes:
                    mailing.final[path] = self._expect("end", mailing)
        else:
            mailing.final = dict.fromkeys(mailing.rcpt, self._expect("end", mailing))
        self._behind.append(self.due[-1])

    def _bdat(self, rest: bytes) -> None:
        match = re.fullmatch(rb"([0-9]{1,20})( LAST)?", rest)
        if match is None or b"CHUNKING" not in self.offers:
            raise Illegal(f"BDAT {rest!r}")
        size, last = int(match[1]), bool(match[2])
        if size == 1 and not last:
            self._check_probe()
            self._probe = 1
            self.probed_at = next(_order)
        else:
            self._check_chunk(size, last)
        self._mode = "chunk"
        self._left = size
        self._chunk.clear()
        if size == 0:
            self._end_of_chunk()

    def _check_probe(self) -> None:
        """DESIGN 5.1: once on a connection, where it can harm nobody, and from the transaction that may have it."""
        is_clean = self._mailing is None or self._mailing.left_nothing
        if self._probe or self.lmtp or not is_clean:
            raise Illegal("a probe in LMTP, a second one, or one that RSET would have to clear for")
        if self.probe_from is None or len(self.mailings) + 1 < self.probe_from:
            raise Illegal("a probe that was not asked for")
        if not {b"PIPELINING", b"SIZE"} <= self.offers.keys() or self.answered < len(self.due):
            raise Illegal("a probe that is not the first of its flight")

    def _check_chunk(self, size: int, last: bool) -> None:
        """RFC 3030 2, DESIGN 5.1: a whole content whose size was declared, on a connection with a proof."""
        mailing = self._mailing
        if mailing is None or mailing.data is not None or mailing.final or mailing.is_chunked or not mailing.rcpt:
            raise Illegal("BDAT out of order")
        wanted = self._wanted(mailing)
        if wanted is False:
            raise Illegal("BDAT, and too few are accepted")
        if not self.is_proven or self.lmtp:
            raise Illegal("a chunk on a connection that has proven nothing")
        if wanted is None and self.policy == "all":
            raise Illegal("content in flight under all")
        if size > TOGETHER or not last:
            raise Illegal(f"a chunk of {size} octets, or one of several")
        if mailing.parameters.get(b"SIZE") != b"%d" % size:
            raise Illegal("a chunk of an undeclared size")
        mailing.is_chunked = True

    def _read_chunk(self, received: bytes, at: int) -> int:
        piece = received[at : at + self._left]
        self._chunk += piece
        self._left -= len(piece)
        if not self._left:
            self._end_of_chunk()
        return at + len(piece)

    def _end_of_chunk(self) -> None:
        self._mode = "command"
        if self._probe == 1:
            if self._chunk != b"X":
                raise Illegal(f"a probe of {bytes(self._chunk)!r}")
            self._expect("chunk", is_good=False)
            return
        mailing = self._mailing
        assert mailing is not None
        mailing.content += self._chunk
        self._end_of(mailing)
