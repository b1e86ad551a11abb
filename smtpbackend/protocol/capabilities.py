"""What a server says it can do: the EHLO reply (RFC 5321 4.1.1.1) as a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from smtpbackend.outcome import Reply

__all__ = ["Capabilities"]


class Capabilities(Mapping[str, str]):
    """Extension keywords in upper case, mapped to their parameters as one string.

    >>> Capabilities.from_reply(Reply(250, None, ("mx", "PIPELINING", "SIZE 1000")))["SIZE"]
    '1000'
    """

    def __init__(self, keywords: Mapping[str, str] | None = None) -> None:
        self._keywords = dict(keywords or {})

    @classmethod
    def from_reply(cls, reply: Reply, ignore: Iterable[str] = ()) -> Capabilities:
        """Read an EHLO reply; keywords in ``ignore`` (in any case) are taken as not offered."""
        ignored = {keyword.upper() for keyword in ignore}
        keywords: dict[str, str] = {}
        for line in reply.lines[1:]:
            # "AUTH=LOGIN PLAIN" is the form before RFC 2554, still sent beside the proper one
            line = line.strip()
            keyword, _, parameters = line.partition("=" if line[:5].upper() == "AUTH=" else " ")
            keyword = keyword.upper()
            if not keyword or keyword in ignored:
                continue
            before = keywords.get(keyword)
            keywords[keyword] = f"{before} {parameters.strip()}" if before else parameters.strip()
        return cls(keywords)

    def __getitem__(self, keyword: str) -> str:
        return self._keywords[keyword]

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._keywords

    def __iter__(self) -> Iterator[str]:
        return iter(self._keywords)

    def __len__(self) -> int:
        return len(self._keywords)

    def __repr__(self) -> str:
        return f"Capabilities({self._keywords!r})"

    @property
    def size_limit(self) -> int | None:
        """The largest content in octets (RFC 1870 4), None where unknown or without limit."""
        first = self._keywords.get("SIZE", "").partition(" ")[0]
        # isdecimal alone takes other scripts' digits; 20 digits are the most RFC 1870 4 allows
        return int(first) or None if first.isascii() and first.isdecimal() and len(first) <= 20 else None

    @property
    def auth_mechanisms(self) -> tuple[str, ...]:
        """SASL mechanism names in upper case, as offered (RFC 4954 3)."""
        return tuple(dict.fromkeys(self._keywords.get("AUTH", "").upper().split()))
