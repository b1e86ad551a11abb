"""How secrets are kept out of errors, logs and debug pages: `Secret`, `Mask`, and errors without local variables.

Debug pages, mails to admins and error trackers print the repr of every local variable in a traceback. So a secret is a
`Secret` from when it is read, values made of it are cleared from the frames of an error, and secrets in the text of a
server are masked.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, ParamSpec, TypeVar

__all__ = ["Mask", "Secret", "bares_password", "discreet", "forget_locals", "keep_here"]

P = ParamSpec("P")
T = TypeVar("T")


class Secret(str):
    """A string whose repr is ``'***'``, for settings that are printed: a URL with credentials, a password.

    It is equal to the string and used like it; ``str(secret)`` is the bare string. It is not pickled (``TypeError``).

    >>> {"SERVERS": [Secret("smtps://user:password@smtp.example.com")]}
    {'SERVERS': ['***']}
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Secret:
        return super().__new__(cls, str.__str__(text))  # its characters, also of an enumeration

    def __repr__(self) -> str:
        return "'***'"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here("a secret")


def keep_here(what: str) -> NoReturn:
    """Refuse to pickle ``what``. Raises ``TypeError``."""
    raise TypeError(
        f"{what} cannot be pickled: connections and secrets stay in their process; make the Mailer in the one that "
        "uses it, from the settings that it reads there"
    )


def bares_password(value: Any) -> bool:
    """Whether a setting has in it a URL with a password that is no `Secret`."""
    if isinstance(value, Mapping):
        return any(map(bares_password, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(bares_password, value))
    if not isinstance(value, str) or isinstance(value, Secret):
        return False
    if re.search(r"[?&](?:password|token|client_key_password)=", value) is not None:
        return True
    at, start = value.rfind("@"), value.find("://")
    while start >= 0:  # the password follows the first colon, and may have unquoted characters
        colon = value.find(":", start + 3, _end_of_authority(value, start + 3))
        if 0 <= colon < at:
            return True
        start = value.find("://", start + 3)
    return False


def _end_of_authority(url: str, start: int) -> int:
    ends = [end for end in (url.find(sign, start) for sign in "/?#") if end >= 0]
    return min(ends, default=len(url))


# Secrets in the texts of servers ---------------------------------------------------------------------------------

PIECE = 8  # characters: a part of a secret that is as long is masked
STRIDE = 3  # every third place of a text is looked at: a part of PIECE + STRIDE - 1 characters is always found
LONG = 2000  # characters of a text that is worth an index of the secrets, which may take milliseconds to make
SHORTEST = 4  # characters: a shorter "secret" would be found in every other word
MOST_KNOWN = 256  # texts whose masked form is remembered: most replies of a server are the same few


class Mask:
    """Masks secrets in a text: as they are, quoted for a URL, in base64, and parts from ten characters on.

    The case of letters does not count: a server may change it.
    """

    def __init__(self, *secrets: str) -> None:
        self._written = ""  # every form of every secret
        self._pieces: set[str] | None = None
        self._short: set[str] = set()
        self._known: dict[str, str] = {}
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Hide these as well, in every form."""
        self.add_as_written(*{form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)})

    def add_as_written(self, *texts: str) -> None:
        """Hide these texts, which were made of a secret."""
        self._known.clear()
        self._pieces = None
        forms = [_small(text) for text in texts if len(text) >= SHORTEST]
        self._written = "\n".join([self._written, *forms])
        self._short.update(form for form in forms if len(form) < PIECE + STRIDE - 1)

    def __call__(self, text: str) -> str:
        """The text, with ``***`` in place of each secret."""
        masked = self._known.get(text)
        if masked is None:
            masked = self._masked(text)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            if len(text) <= PIECE * MOST_KNOWN:
                self._known[text] = masked
        return masked

    def _masked(self, text: str) -> str:
        low = _small(text)
        written = self._looked_up(len(low))
        is_clean = not any(low[at : at + PIECE] in written for at in range(0, len(low) - PIECE + 1, STRIDE))
        if is_clean and not any(form in low for form in self._short):
            return text
        shown: list[str] = []
        end = 0
        for start, stop in sorted(self._stretches(low, written)):
            if start > end or not shown:
                shown += [text[end:start], "***"]
            end = max(end, stop)
        return "".join([*shown, text[end:]])

    def _looked_up(self, length: int) -> str | set[str]:
        """Where pieces of a text of this length are looked up: for a long text in a set of all pieces, made once."""
        if length < LONG:
            return self._written
        if self._pieces is None:
            self._pieces = {self._written[at : at + PIECE] for at in range(len(self._written) - PIECE + 1)}
        return self._pieces

    def _stretches(self, low: str, written: str | set[str]) -> Iterator[tuple[int, int]]:
        for at in range(len(low) - PIECE + 1):
            if low[at : at + PIECE] in written:
                yield at, at + PIECE
        for form in self._short:
            at = low.find(form)
            while at >= 0:
                yield at, at + len(form)
                at = low.find(form, at + len(form))


def _small(text: str) -> str:
    """In lower case, and as long as before: some lower-case letters are two characters, or depend on their place."""
    return text.lower() if text.isascii() else "".join([c.lower() if len(c.lower()) == 1 else c for c in text])


def _forms(secret: str) -> Iterator[str]:
    """How a server may write a secret that it repeats."""
    from urllib.parse import quote, quote_plus

    yield secret
    yield repr(str(secret))[1:-1]
    yield quote(secret, safe="", errors="replace")
    yield quote_plus(secret, errors="replace")
    octets = secret.encode("utf-8", "replace")
    for before in range(3):  # there are three forms in base64, depending on the number of octets before it
        encoded = binascii.b2a_base64(b"\0" * before + octets, newline=False).decode("ascii")
        # the first and the last character may depend on the octets beside it
        yield encoded[(0, 2, 3)[before] :].rstrip("=")[: None if (before + len(octets)) % 3 == 0 else -1]


# Errors ----------------------------------------------------------------------------------------------------------


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of the frames in the traceback of an error and of its causes; line numbers stay.

    Frames that still run are left alone, and so is an error that a caller is handling. No generator among the frames
    may be suspended: before Python 3.13 it would be closed.
    """
    running = set()
    frame = sys._getframe(1)
    here = frame
    while frame is not None:
        running.add(frame)
        frame = frame.f_back  # type: ignore[assignment]
    running.discard(here)
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        trace = one.__traceback__
        if one is not error and trace is not None and trace.tb_frame in running:
            continue
        while trace is not None:
            if trace.tb_frame is not here and trace.tb_frame not in running:
                with contextlib.suppress(RuntimeError):  # Python 3.13: it is suspended
                    trace.tb_frame.clear()
            trace = trace.tb_next
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def discreet(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that is given secrets: an error has neither its arguments nor its local variables."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            forget_locals(error)
            raise

    return call
