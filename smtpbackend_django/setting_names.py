"""Django's own settings of mail: what each is called where it is set, and what a flag must be."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import django
from django.conf import settings

from smtpbackend import InvalidSetting

__all__ = ["EMAIL_SETTINGS", "FLAGS", "OF_FILES", "OF_FLAGS", "flag_doubt", "has_mailers", "quietly"]

EMAIL_SETTINGS = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
    "ssl_certfile": "EMAIL_SSL_CERTFILE",
    "ssl_keyfile": "EMAIL_SSL_KEYFILE",
}
"""Django's settings of a server, which are read where ``SMTPBACKEND`` names none, by its options."""
OF_FLAGS = {"required": "use_tls", "implicit": "use_ssl"}
OF_FILES = {"client_cert": "ssl_certfile", "client_key": "ssl_keyfile"}
"""Django's options for the kind of TLS and for files."""
FLAGS = ("use_tls", "use_ssl", "fail_silently")
"""Django's options that are True or False."""


def has_mailers() -> bool:
    """Whether the settings have ``MAILERS``; then Django refuses ``EMAIL_*`` beside them."""
    return django.VERSION >= (6, 1) and hasattr(settings, "MAILERS")


def quietly(name: str) -> Any:
    """``EMAIL_BACKEND`` or another setting that Django 6.1 deprecates: it has told the site where that is set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(settings, name)


def flag_doubt(name: str, value: Any) -> str:
    """Why a string cannot be a flag, or "": Django takes every string for true, even "False"."""
    if not isinstance(value, str) or not value:
        return ""
    from smtpbackend.adapters import flag  # few sites have strings, and all register the checks

    with contextlib.suppress(InvalidSetting):
        if flag(name, value):
            return ""
    return f"{name} is the string {value!r}, which Django takes for true: set True or False, without quotes"
