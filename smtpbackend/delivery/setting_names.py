"""Names of settings: one that is not known is an error, with the name that may have been meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from smtpbackend.errors import InvalidSetting
from smtpbackend.text import nearest

if TYPE_CHECKING:
    from smtpbackend.spelling import Spelling

__all__ = ["check_keys"]


def check_keys(
    given: Iterable[str],
    known: Collection[str],
    what: str = "setting",
    where: str = "",
    spelled: Spelling | None = None,
) -> None:
    """Raise `InvalidSetting` for the first key that is not known, with the nearest one that is.

    ``what`` the keys are, and ``where`` they stand: " in servers[1]". ``spelled`` is how they are written there,
    by default as keywords.
    """
    for key in given:
        if key not in known:
            if not (isinstance(key, str) and key.isidentifier()):  # such as a URL in the place of its settings
                raise InvalidSetting(f"unknown {what}{where}: a key that is no name, and is not repeated", field="")
            from smtpbackend.delivery.peer_names import of_peer
            from smtpbackend.spelling import KEYWORDS

            if what == "setting" and (ours := of_peer(key, spelled or KEYWORDS)):
                if "Django" in ours:
                    ours += "; or have a site's settings read by smtpbackend_django.mailer_settings()"
                raise InvalidSetting(f"unknown {what} {key!r}{where}, {ours}", field=key)
            near = nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidSetting(f"unknown {what} {key!r}{where}; {hint}", field=key)
