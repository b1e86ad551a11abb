"""What a server offers: the EHLO reply (RFC 5321 4.1.1.1) as a value."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

from smtpbackend.outcome import Reply

__all__ = ["Capabilities", "Limits"]


class Limits(NamedTuple):
    """What LIMITS says (RFC 9422 4): the most recipients of a transaction, transactions of a connection, and domains
    among the recipients of a transaction. None: it does not say.
    """

    rcptmax: int | None = None
    mailmax: int | None = None
    rcptdomainmax: int | None = None


class Capabilities(dict[str, str]):
    """Extension keywords in upper case, mapped to their parameters as one string. It is never changed.

    >>> Capabilities.from_reply(Reply(250, None, ("mx", "PIPELINING", "SIZE 1000")))["SIZE"]
    '1000'
    """

    @classmethod
    def from_reply(cls, reply: Reply, ignore: Iterable[str] = ()) -> Capabilities:
        """Read an EHLO reply; keywords in ``ignore`` (in any case) are taken as not offered."""
        ignored = {keyword.upper() for keyword in ignore}
        keywords: dict[str, str] = {}
        for line in reply.lines[1:]:
            # "AUTH=LOGIN PLAIN" is from before RFC 2554, and still sent beside the other form
            line = line.strip()
            keyword, _, parameters = line.partition("=" if line[:5].upper() == "AUTH=" else " ")
            keyword = keyword.upper()
            if not keyword or keyword in ignored:
                continue
            before = keywords.get(keyword)
            keywords[keyword] = f"{before} {parameters.strip()}" if before else parameters.strip()
        return cls(keywords)

    def __repr__(self) -> str:
        return f"Capabilities({dict(self)!r})"

    @cached_property
    def size_limit(self) -> int | None:
        """The largest content in octets (RFC 1870 4), None where unknown or without limit."""
        first = self.get("SIZE", "").partition(" ")[0]
        # isdecimal accepts digits of other scripts; RFC 1870 4 allows 20 digits
        return int(first) or None if first.isascii() and first.isdecimal() and len(first) <= 20 else None

    @property
    def limits(self) -> Limits:
        """What LIMITS says (RFC 9422); unknown names and invalid values are ignored."""
        found: dict[str, int] = {}
        for item in self.get("LIMITS", "").split():
            name, _, value = item.lower().partition("=")
            # RFC 9422 4: no leading zero, at most six digits
            if name in Limits._fields and value.isascii() and value.isdecimal() and 0 < int(value[:7]) <= 999_999:
                found[name] = int(value)
        return Limits(**found)

    @property
    def hold_limits(self) -> tuple[int | None, datetime | None]:
        """The longest HOLDFOR in seconds and the latest HOLDUNTIL (RFC 4865 3), None where it does not say."""
        seconds, _, latest = self.get("FUTURERELEASE", "").partition(" ")
        try:
            until = datetime.fromisoformat(latest.strip())
        except ValueError:
            until = None
        if until is not None and until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        longest = int(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) <= 9 else None
        return longest, until

    @property
    def auth_mechanisms(self) -> tuple[str, ...]:
        """SASL mechanism names in upper case, as offered (RFC 4954 3)."""
        return tuple(dict.fromkeys(self.get("AUTH", "").upper().split()))
