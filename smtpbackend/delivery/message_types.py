"""The messages of frameworks that every mailer takes, and the function that makes the parcel of each.

An adapter registers its class when it is imported. The function is loaded when a mailer is made. If it cannot be
loaded, the error comes when such a message is sent, for a mailer may never be given one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from smtpbackend.errors import InvalidInput

if TYPE_CHECKING:
    from smtpbackend.address import Address
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.envelope import Envelope

    Maker = Callable[[Any, Envelope | None, Address | None], Parcel]

__all__ = ["load", "maker_of", "places", "register_messages"]

places: dict[type, tuple[str, str]] = {}  # by class of messages: the module and its function


def register_messages(kind: type, module: str, function: str) -> None:
    """Have every mailer take messages of this class and of its subclasses.

    ``function`` of ``module`` is called with the message, an `Envelope` or None, and the mailer's ``bounce_address`` or
    None; it returns the `Parcel`.
    """
    places[kind] = module, function


def load() -> None:
    """Load the module of every function that is registered."""
    for module in {module for module, _ in places.values()}:
        with suppress(Exception):  # `maker_of` raises it, if such a message is sent
            importlib.import_module(module)


def maker_of(message: Any) -> Maker | None:
    """The function for this message, or None. Raises `InvalidInput` if the function cannot be loaded."""
    if not places:
        return None
    for kind in type(message).__mro__:
        if kind in places:
            module, function = places[kind]
            try:
                return cast("Maker", getattr(importlib.import_module(module), function))
            except Exception as error:
                raise InvalidInput(
                    f"a {type(message).__name__} is sent by {module}.{function}, which cannot be loaded: {error}",
                    field="message",
                ) from error
    return None
