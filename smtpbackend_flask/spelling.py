"""How errors write the settings of an app: as the keys of its ``app.config``."""

from __future__ import annotations

from typing import Any

from smtpbackend.adapters import Spelling

__all__ = ["FLAGS", "PREFIX", "AppConfig"]

PREFIX = "SMTPBACKEND_"
FLAGS = {"required": "MAIL_USE_TLS", "implicit": "MAIL_USE_SSL"}


class AppConfig(Spelling):
    """``keys`` are the ``MAIL_*`` that are read, with the settings they stand for; other settings have our prefix.

    ``flag`` is the one of MAIL_USE_TLS and MAIL_USE_SSL that is true, or "".
    """

    keys: tuple[tuple[str, str], ...] = ()
    flag: str = ""

    def __call__(self, setting: str, *value: Any) -> str:
        """As `Spelling` does."""
        key = dict(self.keys).get(setting, PREFIX + setting.upper())
        if not value:
            return key
        if not key.startswith("MAIL_USE_"):
            return f"{key} = {value[0]!r}"
        wanted = FLAGS.get(value[0])
        if wanted is None:  # neither flag
            off = f"{self.flag or 'MAIL_USE_TLS'} = False"
            return off if value[0] == "opportunistic" else f"{PREFIX}TLS = {value[0]!r}"
        return f"{wanted} = True" + (f" instead of {self.flag}" if self.flag not in ("", wanted) else "")
