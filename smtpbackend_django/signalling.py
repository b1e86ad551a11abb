"""The Listener that sends the signals of ``signals.py``. It is loaded as a mailer is made."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync

from smtpbackend import CancelSend
from smtpbackend.adapters import ENDINGS, begin_receiver, call_receiver, signals_of
from smtpbackend_django.signals import SIGNALS

__all__ = ["Signalling"]


class Signalling:
    """A Listener for one call of `send_messages`.

    It calls the receivers itself: `Signal.send_robust` would call one inside of itself, and log an error once a mail.
    """

    is_reentrant = True  # and each receiver is not

    def __init__(self, sender: type, alias: str | None) -> None:
        self.sender = sender
        self.alias = alias

    def wants(self, name: str) -> bool:
        """Whether a signal that tells an event of that name has receivers."""
        return any(
            one in SIGNALS and SIGNALS[one].receivers for one in (ENDINGS if name == "message_ended" else (name,))
        )

    def __call__(self, event: Any) -> None:
        if self.wants(event.name):
            for name, fields in signals_of(event):
                self._send(name, fields)

    def _send(self, name: str, fields: dict[str, Any]) -> None:
        signal = SIGNALS[name]
        receivers, awaited = signal._live_receivers(self.sender)
        if not receivers and not awaited:
            return
        fields |= {"signal": signal, "sender": self.sender, "alias": self.alias}
        cancelled: list[CancelSend] = []
        for receiver in receivers:
            try:
                call_receiver(receiver, name, **fields)
            except CancelSend as error:
                cancelled.append(error)
        try:
            if awaited:  # which raises where an event loop runs
                answers = async_to_sync(_await_all)(awaited, name, fields)
                cancelled += [answer for answer in answers if isinstance(answer, CancelSend)]
        finally:
            if cancelled:
                raise cancelled[0]


async def _await_all(receivers: list[Any], event: str, fields: dict[str, Any]) -> list[Any]:
    """Call receivers that are asynchronous, all at once, each in a context of its own; what they raised, or None."""

    async def hear(receiver: Any) -> None:
        if (begun := begin_receiver(receiver, event)) is not None:
            with begun:
                await receiver(**fields)

    return await asyncio.gather(*map(hear, receivers), return_exceptions=True)
