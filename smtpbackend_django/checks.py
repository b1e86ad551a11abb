"""System checks of the settings. They open no connection."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import django
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from smtpbackend import MissingExtra, Server
from smtpbackend.adapters import bares_password, is_loopback, port_doubt
from smtpbackend_django.backend import EmailBackend

__all__ = ["check_credentials", "check_settings", "register_checks"]

TAG = "mail"  # Django 6.1's Tags.mail
UNUSABLE = (ImproperlyConfigured, ValueError, TypeError, MissingExtra)


def register_checks() -> None:
    """What the app does when Django is ready."""
    register(check_settings, TAG)
    register(check_credentials, TAG, deploy=True)


def check_settings(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Settings that cannot work, or hardly are what was meant.

    E001: a setting is unknown or cannot work. W002: ``SMTPBACKEND`` is set and not read. W003: the port does not fit
    the kind of TLS. W004: a URL has a password in it, which Django's error pages and mails show. W005: a password
    without a username.
    """
    found: list[CheckMessage] = []
    for name, backend in _backends():
        if isinstance(backend, Exception):
            hint = "The settings are listed in docs/reference/settings.md."
            found.append(Error(str(backend), id="smtpbackend.E001", hint=hint))
            continue
        if backend.password and not backend.username and not backend._is_ours:  # else it is an error
            found.append(
                Warning(
                    f"{name} has a password and no username: there is no login.",
                    id="smtpbackend.W005",
                    hint="Set EMAIL_HOST_USER (username) too, or leave EMAIL_HOST_PASSWORD (password) out.",
                )
            )
        for server in backend.mailer().configuration.servers:
            if doubt := port_doubt(server):
                found.append(Warning(f"{name}, {server.name}: {doubt}.", id="smtpbackend.W003", hint=_remedy(server)))
    if _mailers() is not None and getattr(settings, "SMTPBACKEND", None) is not None:
        found.append(
            Warning(
                "SMTPBACKEND is not read where MAILERS is defined.",
                id="smtpbackend.W002",
                hint="Move its keys, in lower case, to OPTIONS of a mailer.",
            )
        )
    for name, options in _options():
        for key, value in options.items():
            if bares_password(value):
                found.append(
                    Warning(
                        f"{name} has a password in a URL of {key!r}: Django's error pages and error mails show it.",
                        id="smtpbackend.W004",
                        hint='Write {"url": "smtp://host", "username": ..., "password": ...}, of which Django hides '
                        "the password, or wrap the URL: smtpbackend.Secret(url).",
                    )
                )
    return found


def _options() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name and the options of each mailer of ours, as they are written in the settings."""
    mailers = _mailers()
    if mailers is None:
        if isinstance(given := getattr(settings, "SMTPBACKEND", None), Mapping):
            yield "SMTPBACKEND", given
        return
    for alias, mailer in mailers.items():
        if _is_ours(mailer.get("BACKEND", "")):
            yield f"MAILERS[{alias!r}]", mailer.get("OPTIONS", {})


def _remedy(server: Server) -> str:
    if server.tls == "implicit":
        return "Set EMAIL_USE_TLS instead of EMAIL_USE_SSL (use_tls, or tls='required'), or port 465."
    return "Set EMAIL_USE_SSL instead of EMAIL_USE_TLS (use_ssl, or tls='implicit'), or port 587."


def check_credentials(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """W001: a login on another host that does not require TLS."""
    return [
        Warning(
            f"{name} logs in to {server.name} and does not require TLS: mail fails there whenever TLS does"
            + (", or the password is sent in clear." if server.allow_cleartext_auth else "."),
            id="smtpbackend.W001",
            hint="Set use_tls (STARTTLS) or use_ssl (implicit TLS), or tls='required' or 'implicit'.",
        )
        for name, backend in _backends()
        if isinstance(backend, EmailBackend)
        for server in backend.mailer().configuration.servers
        if server.username and server.tls in ("none", "opportunistic") and not is_loopback(server.host)
    ]


def _mailers() -> Any:
    """``MAILERS`` where Django knows it and it is defined, else None."""
    return getattr(settings, "MAILERS", None) if django.VERSION >= (6, 1) else None


def _backends() -> Iterator[tuple[str, EmailBackend | Exception]]:
    """The name of each mailer of ours in the settings, and its backend or error."""
    mailers = _mailers()
    if mailers is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Django 6.1 has warned the site of EMAIL_BACKEND already
            path = settings.EMAIL_BACKEND
        if _is_ours(path):
            name = "EMAIL_BACKEND" if getattr(settings, "SMTPBACKEND", None) is None else "SMTPBACKEND"
            try:
                backend = import_string(path)()
                backend.mailer()
                yield name, backend
            except UNUSABLE as error:
                yield name, error
        return
    from django.core.mail import mailers as handler

    for alias, mailer in mailers.items():
        if _is_ours(mailer.get("BACKEND", "")):
            try:
                backend = handler[alias]
                backend.mailer()
                yield f"MAILERS[{alias!r}]", backend
            except UNUSABLE as error:
                yield f"MAILERS[{alias!r}]", error


def _is_ours(path: str) -> bool:
    try:
        backend = import_string(path)
    except ImportError:
        return False  # Django says so when it is used
    return isinstance(backend, type) and issubclass(backend, EmailBackend)
