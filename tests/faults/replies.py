"""What may be said at each point of the dialogue, and what becomes of the message then: DESIGN 4, as data.

A fate is written for each of the two recipients:

    sent      accepted on the same connection
    again     accepted by the same server, in another transaction or over another connection
    next      accepted by the next server; deferred where there is none
    rejected  refused for good, by that reply
    doubt     in doubt
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from smtpbackend import errors

__all__ = ["ALONE", "EXPECTED", "EXPECTED_OF_ALL", "GOOD", "SAID", "Fate", "Spoken", "counted"]

GOOD = {
    "greeting": 220,
    "EHLO": 250,
    "HELO": 250,
    "STARTTLS": 220,
    "EHLO again": 250,
    "AUTH": 334,
    "AUTH name": 334,
    "AUTH password": 235,
    "RSET": 250,
    "probe": 503,
    "RSET of the probe": 250,
    "MAIL": 250,
    "RCPT 1": 250,
    "RCPT 2": 250,
    "DATA": 354,
    "END": 250,
    "BDAT LAST": 250,
    "QUIT": 221,
}
"""The points of the dialogue, and what a server says there when all is well."""


class Spoken(NamedTuple):
    """Octets (the good code stands for ``%d``), said so many times, and the kind that the table below knows.

    "nothing" is only said behind a good reply: in its place it would be silence.
    """

    kind: str
    octets: bytes
    times: int = 1

    def at(self, point: str) -> bytes:
        """What is said at this point."""
        return self.octets.replace(b"%d", str(GOOD[point]).encode())


SAID = {
    "2xx": Spoken("2xx", b"299 2.0.0 odd\r\n"),
    "3xx": Spoken("3xx", b"399 odd\r\n"),
    "421": Spoken("421", b"421 4.3.2 closing\r\n"),
    "450": Spoken("4xx", b"450 4.2.0 busy\r\n"),
    "451": Spoken("4xx", b"451 4.3.0 later\r\n"),
    "452": Spoken("4xx", b"452 4.3.1 full\r\n"),
    "452 4.5.3": Spoken("too many", b"452 4.5.3 too many\r\n"),
    "451 #4.5.3": Spoken("too many", b"451 #4.5.3 too many\r\n"),
    "500": Spoken("unknown", b"500 5.5.1 what\r\n"),
    "501": Spoken("5xx", b"501 5.5.4 syntax\r\n"),
    "502": Spoken("unknown", b"502 5.5.1 not here\r\n"),
    "503": Spoken("order", b"503 5.5.1 order\r\n"),
    "530": Spoken("5xx", b"530 5.7.0 log in\r\n"),
    "535": Spoken("5xx", b"535 5.7.8 no\r\n"),
    "550": Spoken("5xx", b"550 5.1.1 nobody\r\n"),
    "552": Spoken("5xx", b"552 5.3.4 too big\r\n"),
    "554": Spoken("5xx", b"554 5.0.0 no\r\n"),
    "garbage": Spoken("no reply", b"\xff\xfe mail? never heard of it\r\n"),
    "another protocol": Spoken("no reply", b"HTTP/1.1 400 Bad Request\r\n"),
    "a blank line": Spoken("nothing", b"\r\n"),
    "a blank line ahead": Spoken("text", b"\r\n%d k\r\n"),
    "a tab": Spoken("text", b"%d\tk\r\n"),
    "no blank": Spoken("text", b"%dOK\r\n"),
    "nine digits": Spoken("no reply", b"250250250 k\r\n"),
    "two codes": Spoken("no reply", b"%d-k\r\n551 k\r\n"),
    "NUL alone": Spoken("no reply", b"\0\r\n"),
    "NUL": Spoken("text", b"%d k\0k\r\n"),
    "UTF-8": Spoken("text", "%d grüß göd ✓\r\n".encode()),
    "no UTF-8": Spoken("text", b"%d gr\xfc\xdf\r\n"),
}
FLOODS = {
    "1 MB without an end": Spoken("no reply", b"x" * 65536, 16),
    "1 MB of one reply": Spoken("no reply", b"%d " + b"%d " * 16384, 22),
    "a million lines": Spoken("no reply", b"%d-x\r\n" * 10000, 100),
}


class Fate(NamedTuple):
    """What becomes of a message for its first and its second recipient, and whether its connection is used again.

    ``kept`` is None where nobody says.
    """

    first: str
    second: str
    kept: bool | None

    def elsewhere(self, proven: bool) -> Fate:
        """DESIGN 4.3: a connection that has done its work before is replaced; of a new one the server is left."""
        return Fate(*(f"{'again' if proven else 'next'}" if f == "elsewhere" else f for f in self[:2]), self.kept)


SENT = Fate("sent", "sent", True)
ELSEWHERE = Fate("elsewhere", "elsewhere", False)  # again or next: see `Fate.elsewhere`
AGAIN = Fate(
    "again", "again", False
)  # DESIGN 4.4: the one that 421 was said to is tried once more, on a fresh connection
MOVED = Fate("next", "next", True)
NEXT = Fate("next", "next", False)
REJECTED = Fate("rejected", "rejected", True)
DOUBT = Fate("doubt", "doubt", False)

# DESIGN 4.4: "moves on for connect, greeting, EHLO, TLS or login failure"; never with a connection that is half open
_NEVER = {"2xx": NEXT, "3xx": NEXT, "421": NEXT, "4xx": NEXT, "too many": NEXT, "5xx": NEXT, "no reply": NEXT}
# RFC 5321 4.2.1: whatever begins with 2 is "done as asked"
_HELLO = {**_NEVER, "2xx": SENT, "text": SENT}
_HELO = {"4xx": SENT, "too many": SENT, "5xx": SENT}  # HELO is good enough where nobody logs in: RFC 5321 3.2

EXPECTED: dict[str, dict[str, Fate]] = {
    "greeting": {**_NEVER, "text": SENT},  # RFC 5321 4.3.2: 220 and nothing else
    "EHLO": {**_HELLO, **_HELO},
    "HELO": _HELLO,
    "STARTTLS": {**_NEVER, "text": SENT},  # tls is "required"
    "EHLO again": {**_HELLO, **_HELO},
    # draft-murchison-sasl-login-00: what the prompts of LOGIN say is ignored
    "AUTH": {**_NEVER, "2xx": SENT, "text": SENT},
    "AUTH name": {**_NEVER, "2xx": SENT, "text": SENT},
    "AUTH password": {**_NEVER, "2xx": SENT, "text": SENT},
    # go-mail #551: a server without RSET is survived
    "RSET": {
        "2xx": SENT,
        "3xx": SENT._replace(kept=None),
        "421": ELSEWHERE,
        "4xx": SENT,
        "too many": SENT,
        "5xx": SENT,
        "no reply": ELSEWHERE,
        "text": SENT,
    },
    # but not where it has something to reset (DESIGN 5.2)
    "RSET unclean": {
        "2xx": SENT,
        "3xx": ELSEWHERE,
        "421": ELSEWHERE,
        "4xx": ELSEWHERE,
        "too many": ELSEWHERE,
        "5xx": ELSEWHERE,
        "no reply": ELSEWHERE,
        "text": SENT,
    },
    "MAIL": {
        "2xx": SENT,
        "3xx": MOVED._replace(kept=None),
        "421": ELSEWHERE,
        "4xx": MOVED,
        "too many": ELSEWHERE,  # DESIGN 4.4: "to MAIL, a fresh connection"
        "5xx": REJECTED,
        "no reply": ELSEWHERE,
        "text": SENT,
    },
    "RCPT 1": {
        "2xx": SENT,
        "3xx": Fate("next", "sent", None),
        "421": AGAIN,
        "4xx": Fate("next", "sent", True),
        "too many": Fate("again", "sent", True),  # DESIGN 4.4: "another transaction on the same server"
        "5xx": Fate("rejected", "sent", True),
        "no reply": ELSEWHERE,
        "text": SENT,
    },
    "DATA": {
        "2xx": SENT,  # some servers say it and go on; in a group it could be another command's
        "3xx": SENT,
        "421": AGAIN,
        "4xx": MOVED,
        "too many": MOVED,
        "5xx": REJECTED,
        "no reply": ELSEWHERE,
        "text": SENT,
    },
    "END": {
        "2xx": SENT,
        "3xx": DOUBT,
        "421": AGAIN,  # DESIGN 5.2: "after a 421 nothing was done"
        "4xx": MOVED,
        "too many": MOVED,
        "5xx": REJECTED,
        "no reply": DOUBT,
        "text": SENT,
    },
    "QUIT": dict.fromkeys([*_NEVER, "text"], SENT._replace(kept=False)),
}
EXPECTED["RCPT 2"] = {kind: Fate(two, one, kept) for kind, (one, two, kept) in EXPECTED["RCPT 1"].items()}
BY_DATA = Fate("again", "again", True)  # DESIGN 5.1: the same content on the same connection
EXPECTED["BDAT LAST"] = {**EXPECTED["END"], "unknown": BY_DATA, "4xx": BY_DATA, "too many": BY_DATA}
# DESIGN 5.1: "a probe changes no outcome"
EXPECTED["probe"] = {**dict.fromkeys([*_NEVER, "text"], SENT), "421": AGAIN, "no reply": AGAIN}
EXPECTED["RSET of the probe"] = EXPECTED["probe"]
IN_ORDER = Fate("again", "again", None)
"""Who answers 503 to the first group of a connection has not read all of it: it is spoken to in lock step."""

# DESIGN 4.2: "nobody gets the mail unless everybody is accepted: a needed split is a refusal of the whole, a recipient
# answered 4xx moves the whole message on"
EXPECTED_OF_ALL: dict[str, Fate] = {
    "2xx": SENT,
    "4xx": MOVED,
    "421": AGAIN,
    "too many": Fate("rejected", "deferred", True),
    "5xx": Fate("rejected", "deferred", True),
    "no reply": ELSEWHERE,
    "text": SENT,
}

_PROTOCOL = (errors.ProtocolViolation,)
_LOST = (errors.ConnectionLost,)
ALONE: dict[str, dict[str, tuple[type[errors.SMTPError], ...]]] = {
    # of each point, what is raised where nobody is accepted: what each class is for stands in errors.py
    # a welcome that ends in a refusal ("220-" and "551") is a refusal
    "greeting": {"no reply": (*_PROTOCOL, errors.ConnectFailed), "": (errors.ConnectFailed,)},
    "EHLO": {"no reply": _PROTOCOL, "421": (errors.HelloRefused, errors.ConnectionLost), "": (errors.HelloRefused,)},
    "HELO": {"no reply": _PROTOCOL, "421": (errors.HelloRefused, errors.ConnectionLost), "": (errors.HelloRefused,)},
    "STARTTLS": {"no reply": (*_PROTOCOL, errors.TLSFailed), "421": _LOST, "": (errors.TLSFailed,)},
    "AUTH": {"no reply": _PROTOCOL, "421": _LOST, "": (errors.AuthenticationFailed,)},
    "MAIL": {"no reply": _PROTOCOL, "421": _LOST, "": (errors.SenderRefused,)},
    "RCPT 1": {"no reply": _PROTOCOL, "421": _LOST, "": (errors.RecipientsRefused,)},
    "DATA": {"no reply": _PROTOCOL, "2xx": _PROTOCOL, "421": _LOST, "": (errors.ContentRefused,)},
    "END": {
        "no reply": (errors.InDoubt,),
        "3xx": (errors.InDoubt,),
        "421": _LOST,
        "": (errors.ContentRefused,),
    },
}
ALONE["EHLO again"] = ALONE["EHLO"]
ALONE["AUTH name"] = ALONE["AUTH password"] = ALONE["AUTH"]
ALONE["RCPT 2"] = ALONE["RCPT 1"]
ALONE["BDAT LAST"] = ALONE["END"]


def look_up(row: dict[str, Any], kind: str) -> Any:
    """What a row says of a kind of reply: most say nothing of "unknown" and "order", which are 5xx like any other."""
    return row["5xx"] if kind in ("unknown", "order") and kind not in row else row[kind]


def counted(commands: list[str], point: str, kind: str) -> dict[str, str]:
    """What replies are taken for when one too many stands behind the good reply at ``point`` (RFC 2920 3.1).

    Answers the kind of reply that each of these commands of one flight gets, up to where the conversation ends.
    """
    replies: list[str] = []
    for command in commands:
        replies.append({"DATA": "3xx", "probe": "order"}.get(command, "2xx"))
        if command == point:
            replies.append(kind)
    got: dict[str, str] = {}
    for command, reply in zip(commands, replies, strict=False):
        if reply in ("421", "no reply"):
            break
        got[command] = "4xx" if reply == "too many" else reply
    return got


def points_of(opening: bool) -> Iterator[str]:
    """The points before mail is spoken of, or those after."""
    names = list(GOOD)
    yield from names[: names.index("RSET")] if opening else names[names.index("RSET") :]
