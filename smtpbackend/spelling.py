"""How a setting is written where its user wrote it: whatever names a setting in a text asks a `Spelling`.

The core's own is `KEYWORDS`. An adapter has one of its own, and a server knows which of its settings stand in the list
of servers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from smtpbackend.values import Value

__all__ = ["KEYWORDS", "Spelling"]

Form = Literal["URL", "mapping", "name", "Server"]
"""What a server is given as; its name is that of the host."""


class Spelling(Value):
    """As the keywords of a mailer: ``spelled("tls")`` is "tls", ``spelled("tls", "none")`` is "tls='none'".

    A subclass writes both as its users do. Settings are asked for by the names of ``docs/reference/settings.md``;
    ``servers`` and ``ports`` are settings too.
    """

    def __call__(self, setting: str, *value: Any) -> str:
        """A setting, or a setting with a value, as its user writes it."""
        return f"{setting}={value[0]!r}" if value else setting

    def together(self, *settings: str) -> str:
        """Several settings in a list: "host and port"."""
        *others, last = dict.fromkeys(map(self, settings))
        return f"{', '.join(others)} and {last}" if others else last

    def of_server(self, number: int | None, form: Form, given: Collection[str]) -> Spelling:
        """That of one server, which was ``given`` these settings where it stands; the others are the mailer's.

        ``number`` is its place in the list, from 0, or None where it stands alone. ``form``: what stands there.
        """
        place = self("servers") if number is None else f"{self('servers')}[{number}]"
        return OfServer(self, place, form, frozenset(given)) if given else self


class OfServer(Spelling):
    """That of a server whose ``own`` settings stand at ``place``."""

    mailers: Spelling
    place: str
    form: Form
    own: frozenset[str]

    def __call__(self, setting: str, *value: Any) -> str:
        """As `Spelling` does."""
        if setting not in self.own:
            return self.mailers(setting, *value)
        if self.form == "Server":
            return KEYWORDS(setting, *value)
        if self.form == "URL":
            what = f"{setting}={value[0]}" if value else setting
            if setting == "tls" and value:  # smtps:// stands for it, and goes with no other
                what = "smtps://" if value[0] == "implicit" else f"smtp:// with {what}"
            return f"{what} in {self._url}"
        what = self.place if self.form == "name" else f'{self.place}["{setting}"]'
        return f"{what} = {value[0]!r}" if value else what

    def together(self, *settings: str) -> str:
        """As `Spelling` does."""
        if self.form == "URL" and self.own.issuperset(settings):
            return f"{KEYWORDS.together(*settings)} in {self._url}"
        return super().together(*settings)

    @property
    def _url(self) -> str:
        return "the URL" if self.place == "servers" else f"the URL of {self.place}"


KEYWORDS = Spelling()
