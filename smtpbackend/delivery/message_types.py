"""The messages of frameworks that every mailer takes, and the function that makes the parcel of each.

An adapter registers them as it is imported. Its function is loaded as a mailer is made, with all else that mails need.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from smtpbackend.address import Address
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.envelope import Envelope

    Maker = Callable[[Any, Envelope | None, Address | None], Parcel]

__all__ = ["maker_of", "modules", "register_messages"]


_places: dict[type, tuple[str, str]] = {}  # of a class of messages: module and function


def register_messages(kind: type, module: str, function: str) -> None:
    """Have every mailer take messages of this class, and of those that inherit it.

    ``function`` of ``module`` is called with the message, an `Envelope` or None, and the mailer's ``bounce_address`` or
    None; it returns the `Parcel`.
    """
    _places[kind] = module, function


def modules() -> set[str]:
    """Those that a mailer loads as it is made."""
    return {module for module, _ in _places.values()}


def maker_of(message: Any) -> Maker | None:
    """The function for this message, or None."""
    if not _places:
        return None
    for kind in type(message).__mro__:
        if kind in _places:
            module, function = _places[kind]
            return cast("Maker", getattr(importlib.import_module(module), function))
    return None
