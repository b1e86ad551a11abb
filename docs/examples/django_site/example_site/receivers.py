"""What the site does when mail was sent, or was not: it writes a line to its log.

At WARNING at most: an error may be mailed to the administrators, and mail is what fails.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import receiver

from smtpbackend_django import signals

logger = logging.getLogger("example_site.mail")


@receiver(signals.message_sent)
def log_sent(sender: type, message: Any, receipt: Any, **kwargs: Any) -> None:
    for outcome in receipt.accepted:
        logger.info("%r: %s took it for %s", message.subject, outcome.server, outcome.address)


@receiver(signals.recipient_rejected)
def log_rejected(sender: type, message: Any, outcome: Any, **kwargs: Any) -> None:
    logger.warning("%r: refused for %s: %s", message.subject, outcome.address, outcome.reply or outcome.error)


@receiver(signals.server_failed)
def log_server_failed(sender: type, server: str, phase: str, error: Exception, **kwargs: Any) -> None:
    logger.warning("%s failed (%s): %s", server, phase, error)
