"""The grammar of an address list (RFC 5322 3.4): from a text to the parts of each mailbox in it.

Obsolete forms (4.4) are read too, and comments as names. ``address.py`` checks whether the parts can be sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from smtpbackend.errors import InvalidInput

__all__ = ["mailboxes"]

# One token of an address list (RFC 5322 3.4). White space and comments are skipped by the caller.
_token = re.compile(
    r'(?P<atom>[^ \t()<>\[\]:;@\\,"]+)'
    r'|"(?P<quoted>(?:[^"\\]|\\.)*)"'
    r"|(?P<literal>\[[^\[\]\\]*\])"
    r"|(?P<special>[<>@,;:])"
).match
_white = re.compile(r"[ \t]*").match
_comment_run = re.compile(r"[^()\\]*").match
_quoted_pair = re.compile(r"\\(.)")

_STRAY = {
    '"': "a quotation mark is not closed",
    ")": "')' without '('",
    "[": "'[' without ']'",
    "]": "']' without '['",
    "\\": "a backslash stands outside of quotes",
}
"""What is wrong with a character that begins no token."""
_TWO_SIGNS = "it has more than one @"

_Token = tuple[str, str, bool]
"""Kind ("atom", "quoted", "literal", "special"), text, and whether space or a comment stands before it."""


def _not_an_address(field: str, text: str, why: str) -> InvalidInput:
    return InvalidInput(f"{field}: {text!r} is not an address: {why}", field=field)


def _tokens(text: str, field: str, comments: dict[int, list[str]]) -> Iterator[_Token]:
    """The tokens of ``text``. Puts into ``comments`` the comments before each token, by its number."""
    position, end, spaced, number = 0, len(text), False, 0
    while True:
        if (white := _white(text, position)) and white.end() > position:
            position, spaced = white.end(), True
        if position >= end:
            return
        if text[position] == "(":
            begin, position, spaced = position + 1, _after_comment(text, position, field), True
            comments.setdefault(number, []).append(_quoted_pair.sub(r"\1", text[begin : position - 1]).strip())
            continue
        match = _token(text, position)
        if match is None:
            raise _not_an_address(field, text, _STRAY[text[position]])
        kind = str(match.lastgroup)
        token = match[kind]
        yield kind, _quoted_pair.sub(r"\1", token) if kind == "quoted" else token, spaced
        position, spaced, number = match.end(), False, number + 1


def _after_comment(text: str, position: int, field: str) -> int:
    """The position behind the comment that begins at ``position``; comments nest (RFC 5322 3.2.2)."""
    depth, end = 0, len(text)
    while position < end:
        char = text[position]
        if char == "\\":
            position += 1  # a quoted-pair
        elif char == "(":
            depth += 1
        elif depth := depth - 1:
            pass
        else:
            return position + 1
        run = _comment_run(text, position + 1)
        position = run.end() if run else end
    raise _not_an_address(field, text, "a comment, which begins with '(', does not end")


def mailboxes(text: str, field: str) -> Iterator[tuple[str, str, str]]:
    """Local part, domain and display name of each mailbox, groups flattened. Raises `InvalidInput` naming ``field``."""
    return _Reader(text, field).mailboxes()


class _Reader:
    """The tokens of a list, and how far they have been read."""

    def __init__(self, text: str, field: str) -> None:
        self._text, self._field = text, field
        self._comments: dict[int, list[str]] = {}
        self._tokens = [*_tokens(text, field, self._comments), ("special", "", False)]
        self._position = 0

    def _wrong(self, why: str) -> InvalidInput:
        return _not_an_address(self._field, self._text, why)

    def mailboxes(self) -> Iterator[tuple[str, str, str]]:
        in_group = False
        while self._position < len(self._tokens):
            begin = self._position
            words = self._words()
            sign = self._sign()
            if sign == "<" or sign == "@" or (words and sign not in (":", ">")):
                yield self._mailbox(words, begin)
                if self._sign() not in (",", ";", ""):
                    raise self._wrong(self._trouble_behind_one())
                if self._sign() == ",":
                    self._position += 1
                continue
            if sign == ">":
                raise self._wrong("'>' without '<'")
            if sign == ":" and in_group:
                raise self._wrong("a group cannot stand in a group")
            if sign == ";" and not in_group:
                raise self._wrong("';' ends a group, and none was begun; addresses are separated by commas")
            if sign == "" and in_group:
                is_link = self._text.lstrip().lower().startswith("mailto:")
                raise self._wrong(
                    "'mailto:' belongs to a link" if is_link else "the group that ':' begins does not end in ';'"
                )
            in_group = sign == ":" or (in_group and sign != ";")
            self._position += 1

    def _trouble_behind_one(self) -> str:
        """What is wrong where neither a comma nor the end follows an address."""
        return {
            "@": _TWO_SIGNS,
            ">": "'>' without '<'",
            "<": "a name that has an @ in it stands in quotes",
            ":": "a ':' stands behind it",
        }.get(self._sign() or "", "addresses are separated by commas")

    def _sign(self) -> str | None:
        """The special character that is the next token, "" at the end; None for any other token."""
        kind, token, _ = self._tokens[self._position]
        return token if kind == "special" else None

    def _words(self) -> list[_Token]:
        begin = self._position
        while self._sign() is None:
            self._position += 1
        return self._tokens[begin : self._position]

    def _mailbox(self, words: list[_Token], begin: int) -> tuple[str, str, str]:
        """An addr-spec that begins with ``words``, or one in angle brackets behind a name."""
        if self._sign() != "<":
            local_part, domain = self._addr_spec(words)
            return local_part, domain, self._with_comments("", begin)
        self._position += 1
        local_part, domain = self._addr_spec(self._words())
        if self._sign() != ">":
            raise self._wrong(_TWO_SIGNS if self._sign() == "@" else "'<' without '>'")
        display_name = self._with_comments(" ".join(word for _, word, _ in words), begin)
        self._position += 1
        return local_part, domain, display_name

    def _with_comments(self, display_name: str, begin: int) -> str:
        """The name with the comments since the token ``begin``: they are the old place for names.

        As in `email.utils.parseaddr`, one behind the address within the brackets is left out.
        """
        if not self._comments:
            return display_name
        numbers = range(begin, self._position + 1)
        said = " ".join(comment for number in numbers for comment in self._comments.get(number, ()) if comment)
        if display_name and said:
            return f"{display_name} ({said})"
        return display_name or said

    def _addr_spec(self, words: list[_Token]) -> tuple[str, str]:
        """The local part in ``words``, and the domain if an @ follows."""
        if not words:
            nothing = {"@": "nothing stands before the @", "<": "'<' stands in '<'"}
            raise self._wrong(nothing.get(self._sign() or "", "nothing stands between '<' and '>'"))
        local_part = ""
        for number, (kind, word, spaced) in enumerate(words):
            if kind == "literal":
                raise self._wrong("an address literal stands after the @")
            # RFC 5322 4.4 obs-local-part: words may be separated by a dot and white space around it.
            if number and (spaced or kind == "quoted" or words[number - 1][0] == "quoted"):
                dotted = words[number - 1][0] == "atom" and local_part.endswith(".")
                if not dotted and not (kind == "atom" and word.startswith(".")):
                    raise self._wrong(self._trouble_with_words(spaced))
            local_part += word
        return local_part, self._domain() if self._sign() == "@" else ""

    def _trouble_with_words(self, spaced: bool) -> str:
        """What is wrong where several words stand for a local part."""
        if not spaced:
            return "quotes stand around a part of what is before the @"
        if self._sign() == "@":
            return "white space stands before the @; behind a name the address stands in <>"
        return "it has no @"

    def _domain(self) -> str:
        self._position += 1
        kind, domain, _ = self._tokens[self._position]
        if kind == "literal":
            self._position += 1
            return domain
        domain = ""
        while self._tokens[self._position][0] == "atom":
            _, atom, spaced = self._tokens[self._position]
            if domain and not (spaced and (domain.endswith(".") or atom.startswith("."))):  # RFC 5322 4.4 obs-domain
                follows = self._tokens[self._position + 1][1]
                raise self._wrong(
                    "addresses are separated by commas" if follows == "@" else "white space stands in the domain"
                )
            domain += atom
            self._position += 1
        if not domain and self._sign() == "@":
            raise self._wrong(_TWO_SIGNS)
        if self._tokens[self._position][0] == "quoted":
            raise self._wrong("a quotation mark stands in the domain")
        if not domain:
            raise self._wrong("nothing stands after the @")
        return domain
