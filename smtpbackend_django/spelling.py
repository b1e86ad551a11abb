"""How errors write the settings of a site: ``EMAIL_*``, ``SMTPBACKEND``, ``MAILERS``, or what a call was given."""

from __future__ import annotations

from typing import Any

from smtpbackend.adapters import Spelling
from smtpbackend_django.setting_names import EMAIL_SETTINGS, OF_FILES, OF_FLAGS

__all__ = ["SiteSettings"]


class SiteSettings(Spelling):
    """``alias`` is that of a mailer in ``MAILERS``, or None: then the settings are ``EMAIL_*`` and ``SMTPBACKEND``.

    ``by_call`` are the options that ``get_connection`` was given, and ``given`` also those of ``SMTPBACKEND`` or
    ``OPTIONS``. ``is_ours``: ``EMAIL_*`` are not read. ``flag`` is the one of use_tls and use_ssl that is true, or "".
    """

    alias: str | None = None
    by_call: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    is_ours: bool = False
    flag: str = ""

    def __call__(self, setting: str, *value: Any) -> str:
        """As `Spelling` does; options of Django (``use_tls``) are settings too."""
        if setting == "tls" and "tls" not in self.given:
            return self._by_flags(*value)
        if setting not in self.given:
            setting = OF_FILES.get(setting, setting)
        return self._written(setting, *value)

    def _by_flags(self, *value: Any) -> str:
        """The kind of TLS by ``use_tls`` and ``use_ssl``; they have no word for "none"."""
        if not value:
            return self._written(self.flag or "use_tls")
        if value[0] == "opportunistic":
            return self._written(self.flag or "use_tls", False)
        wanted = OF_FLAGS.get(value[0])
        text = self._written(wanted, True) if wanted else self._written("tls", *value)
        return f"{text} instead of {self._written(self.flag)}" if self.flag not in ("", wanted) else text

    def _written(self, option: str, *value: Any) -> str:
        shown = f" = {value[0]!r}" if value else ""
        if option in self.by_call:
            return f"get_connection({option}={repr(value[0]) if value else '...'})"
        if option == "fail_silently" and self.alias is None:
            return option + shown
        if self.alias is not None:
            return f'MAILERS["{self.alias}"]["OPTIONS"]["{option}"]{shown}'
        if option in EMAIL_SETTINGS and not self.is_ours and option not in self.given:
            return EMAIL_SETTINGS[option] + shown
        return f'SMTPBACKEND["{option.upper()}"]{shown}'
