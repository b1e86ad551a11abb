"""Which servers are asked for the proof that they discard a refused chunk (DESIGN 5.1).

The proof causes an error on purpose, and servers punish errors: Exchange delays every later reply. So only servers of
known families are asked, which do not punish it. They are recognised by what they say of themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from smtpbackend.outcome import Reply
from smtpbackend.protocol.capabilities import Capabilities

__all__ = ["takes_probe"]


class _Family(NamedTuple):
    """Words of the greeting; keywords that stand in the reply to EHLO, and keywords that never do."""

    greeting: tuple[str, ...]
    offers: tuple[str, ...]
    never: tuple[str, ...]


_FAMILIES = (
    # Each answers the probe 503 and 250 at once (tests/mailer/test_real_servers.py). To Postfix it is one error of ten
    # (smtpd_soft_error_limit), forgotten with the next message that it takes; to Exim one of three that it bears on a
    # connection (smtp_max_synprot_errors); Dovecot counts none, behind a login.
    _Family(("ESMTP Postfix",), ("ENHANCEDSTATUSCODES",), ("BINARYMIME",)),
    _Family(("ESMTP Exim ",), ("HELP",), ("BINARYMIME", "ENHANCEDSTATUSCODES")),
    _Family((" Dovecot ", "ready"), ("ENHANCEDSTATUSCODES",), ()),
)


def takes_probe(greeting: Reply | None, offered: Capabilities) -> bool:
    """Whether a server belongs to a family that takes the probe well, by its greeting and what it offers."""
    text = f" {greeting.text} " if greeting is not None else ""
    return any(
        all(word in text for word in family.greeting)
        and all(keyword in offered for keyword in family.offers)
        and not any(keyword in offered for keyword in family.never)
        for family in _FAMILIES
    )
