"""What goes into `Mailer.deliver`: a message in its parcel."""

from __future__ import annotations

from typing import Any, NamedTuple

from smtpbackend.address import Address
from smtpbackend.delivery.message_types import maker_of
from smtpbackend.envelope import Envelope, Routing
from smtpbackend.errors import InvalidInput
from smtpbackend.outcome import Outcome, Status

__all__ = ["Parcel"]


class Parcel(NamedTuple):
    """What ``prepare`` makes of an item: a message that is ready to be sent.

    ``envelope`` is None where no recipient is left. ``content`` is what ``Mailer.send`` takes (a `Message`, an
    ``email.message.Message``, bytes, a path, a binary file, an iterable of bytes), a `Content`, or an exception: then
    the content could not be made, and every recipient fails with it. ``refused`` are recipients refused here, with the
    text as it was given. ``notes`` comes back in each event of the message. With neither an envelope nor refused
    recipients there is nothing to send.
    """

    envelope: Envelope | None
    content: Any
    refused: tuple[Outcome, ...] = ()
    notes: Any = None

    @classmethod
    def of(cls, message: Any, envelope: Envelope | None = None, bounce_address: Address | None = None) -> Parcel:
        """The parcel of what ``Mailer.send`` takes.

        Without an envelope the headers name originator and recipients; ``bounce_address`` takes the place of the
        originator. Raises `InvalidInput`.
        """
        if isinstance(envelope, Envelope):
            try:
                return _by_adapter(message, envelope, bounce_address) or cls(envelope, message)
            except Exception as error:  # every recipient fails with it
                return cls(envelope, error)
        if envelope is not None:
            raise InvalidInput(f"envelope must be an Envelope, not {type(envelope).__name__}", field="envelope")
        if not hasattr(message, "raw_items") and not hasattr(message, "address_fields"):
            if (parcel := _by_adapter(message, None, bounce_address)) is not None:
                return parcel
            raise InvalidInput(
                f"a {type(message).__name__} has no originator and recipients that could be read: give an envelope"
                f"{_remedy(message)}",
                field="envelope",
            )
        routing = Routing(message)
        recipients, badly_written = routing.recipients()
        refused = tuple(Outcome(text, Status.REJECTED, error=error) for text, error in badly_written)
        if refused and not recipients:
            return cls(None, message, refused)
        try:
            return cls(Envelope(bounce_address or routing.originator(), recipients), message, refused)
        except InvalidInput as error:
            if not recipients:
                raise
            return cls(Envelope(None, recipients), error, refused)  # the receipt has an outcome for each recipient


def _by_adapter(message: Any, envelope: Envelope | None, bounce_address: Address | None) -> Parcel | None:
    """The parcel that the adapter of a framework makes; None for a message of no framework."""
    if (make := maker_of(message)) is None:
        return None
    parcel: Any = make(message, envelope, bounce_address)
    maker, kind = f"{make.__module__}.{make.__qualname__}", type(message).__name__
    if not isinstance(parcel, Parcel):
        raise InvalidInput(f"{maker} must return the Parcel of a {kind}, not {type(parcel).__name__}", field="message")
    if parcel.envelope is None and not parcel.refused:
        raise InvalidInput(f"{maker} gave the Parcel of a {kind} no recipient", field="message")
    return parcel


def _remedy(message: Any) -> str:
    """What else to do with a message of a framework whose adapter is installed and was not imported."""
    from importlib.util import find_spec

    packages = dict.fromkeys(kind.__module__.partition(".")[0] for kind in type(message).__mro__)
    adapters = [f"smtpbackend_{package}" for package in packages if find_spec(f"smtpbackend_{package}") is not None]
    return f", or import {adapters[0]} first: then every mailer takes it" if adapters else ""
