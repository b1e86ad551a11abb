"""Names of settings: one that is not known is an error, with the name that may have been meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from smtpbackend.errors import InvalidSetting
from smtpbackend.text import nearest

__all__ = ["check_keys"]


OF_DJANGO = {
    "use_tls": "write tls='required'",
    "use_ssl": "write tls='implicit'",
    "ssl_certfile": "write client_cert",
    "ssl_keyfile": "write client_key",
    "fail_silently": "catch DeliveryError",
}
"""Options of Django that are no settings here, and what does the same."""


def check_keys(given: Iterable[str], known: Collection[str], what: str = "setting", where: str = "") -> None:
    """Raise `InvalidSetting` for the first key that is not known, with the nearest one that is.

    ``what`` the keys are, and ``where`` they stand: " in servers[1]".
    """
    for key in given:
        if key not in known:
            if not (isinstance(key, str) and key.isidentifier()):  # such as a URL in the place of its settings
                raise InvalidSetting(f"unknown {what}{where}: a key that is no name, and is not repeated", field="")
            if ours := OF_DJANGO.get(key):
                raise InvalidSetting(
                    f"unknown {what} {key!r}{where}, which is an option of Django: {ours} here, or have the site's "
                    "read by smtpbackend_django.mailer_settings()",
                    field=key,
                )
            near = nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidSetting(f"unknown {what} {key!r}{where}; {hint}", field=key)
