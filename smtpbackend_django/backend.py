"""The backend: Django's own reads EMAIL_* and OPTIONS, and a shared Mailer opens, sends and closes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import django
from django.core import mail
from django.core.mail.backends import smtp

from smtpbackend import CancelSend, DeliveryError, InvalidInput
from smtpbackend.adapters import discreet
from smtpbackend_django.conf import (
    DJANGO_OPTIONS,
    OF_OTHER_BACKENDS,
    OPTIONS,
    SettingsError,
    hint,
    key_of,
    known_mailer,
    load_for_mail,
    names_server,
    overridden,
    shared_mailer,
    site_options,
)
from smtpbackend_django.setting_names import FLAGS, flag_doubt

# What reads settings and what sends is loaded as the first backend is made, see `_check`
if TYPE_CHECKING:
    from ssl import SSLContext

    from smtpbackend import Mailer, Receipt
    from smtpbackend.adapters import Configuration, Parcel
    from smtpbackend_django.spelling import SiteSettings

__all__ = ["EmailBackend", "mailer_settings"]

_is_given = functools.partial(operator.is_not, None)


class EmailBackend(smtp.EmailBackend):
    """Sends mail through a Mailer that all backends of the same configuration share.

    Positional arguments are Django's; the keywords behind them are the settings of ``docs/reference/settings.md``, and
    None leaves one at its default. An unknown one is an error, but for those of Django's other backends. ``use_tls``
    means ``tls="required"``, ``use_ssl`` ``"implicit"``, neither ``"opportunistic"``.

    `send_messages` tries every message, leaves its Receipt in ``message.smtp_receipt``, and then raises the first
    failure unless ``fail_silently``. A message that was accepted for at least one recipient counts as sent.
    """

    connection: Any  # after `open` the Mailer
    _is_ours = False
    """Whether neither EMAIL_* nor Django's defaults are used."""

    @discreet
    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        use_tls: bool | None = None,
        fail_silently: bool = False,
        use_ssl: bool | None = None,
        timeout: Any = None,
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        *,
        servers: Any = None,
        ports: Any = None,
        tls: str | None = None,
        on_tls_failure: Any = None,
        ca_file: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        client_key_password: str | None = None,
        pinned_sha256: Any = None,
        strict_x509: bool | None = None,
        min_tls: str | None = None,
        token: Any = None,
        auth_mechanisms: Any = None,
        allow_cleartext_auth: bool | None = None,
        client_name: str | None = None,
        ignore_extensions: Any = None,
        window: int | None = None,
        chunk_in_flight: str | None = None,
        rate: float | None = None,
        xque: bool | None = None,
        source_address: str | None = None,
        proxy: str | None = None,
        deadline: float | None = None,
        recipient_policy: str | None = None,
        bounce_address: str | None = None,
        only_to: Any = None,
        redirect_to: str | None = None,
        suppress_send: bool | None = None,
        strategy: str | None = None,
        rest: float | None = None,
        max_connections: int | None = None,
        max_idle: float | None = None,
        max_messages: int | None = None,
        dkim: Any = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        given = dict(locals())  # quickly, for a request may be waiting
        options = dict(itertools.compress(given.items(), map(_is_given, given.values())))
        del options["self"], options["kwargs"]
        options.pop("alias", None)
        if not fail_silently:
            options.pop("fail_silently", None)
        site = site_options() if alias is None else None
        self._by_call = () if alias is not None else _without_silence(options)
        if site is not None:
            options = overridden(site, options)
        self.alias = alias
        self._given = _without_silence(options)
        # A server that is named neither in EMAIL_* nor in Django's OPTIONS has the defaults of the core
        self._is_ours = "servers" in options or (names_server(site) and "host" in options)
        if kwargs:
            self._check_names(kwargs)
        self._check_flags(options)
        self._begin(options, kwargs)
        first = self._check().servers[0]
        if self._is_ours:
            self.host, self.port = first.host, first.port
        self._checked = self._attributes()

    def _check_names(self, kwargs: dict[str, Any]) -> None:
        """Refuse unknown options, as Django does, and say which name may have been meant; also for `get_connection`.

        ``_ignore_unknown_kwargs`` has the names that a call gave beside OPTIONS.
        """
        by_call = kwargs if self.alias is None else kwargs.get("_ignore_unknown_kwargs") or ()
        of_others = OF_OTHER_BACKENDS.intersection(by_call)
        if unknown := sorted(kwargs.keys() - {"_ignore_unknown_kwargs"} - of_others):
            why = f"Unknown options {', '.join(map(repr, unknown))}{hint(unknown, OPTIONS, self._spelling) or '.'}"
            raise self._wrong(why, unknown[0])

    def _check_flags(self, values: Mapping[str, Any]) -> None:
        for name in FLAGS:
            value = values.get(name)
            if isinstance(value, str) and (doubt := flag_doubt(self._spelling(name), value)):
                raise self._wrong(doubt)

    def _begin(self, options: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Have Django read its options."""
        is_ours = self._is_ours
        if "servers" in options and "host" in options:
            raise self._wrong(f"{self._spelling.together('servers', 'host')} are both set; give one of them")
        tls = options.pop("tls", None)
        use_tls, use_ssl = options.get("use_tls"), options.get("use_ssl")
        if tls is not None:
            if (use_tls and tls != "required") or (use_ssl and tls != "implicit"):
                flag = "use_tls" if use_tls else "use_ssl"
                spelled = self._spelling
                why = f"{spelled('tls', tls)} contradicts {spelled(flag, True)}; give one of them"
                raise self._wrong(why, "use_tls")
            options |= {"use_tls": tls == "required", "use_ssl": tls == "implicit"}  # else Django reads EMAIL_USE_*
        # Without a flag Django's backend is opportunistic; a server of ours has the default of the core
        self._tls = tls or (None if is_ours and use_tls is None and use_ssl is None else "opportunistic")
        of_django = {name: options.pop(name, None) for name in DJANGO_OPTIONS}
        of_django["fail_silently"] = bool(of_django["fail_silently"])
        if "servers" in options and of_django["port"] is not None:
            options["port"] = of_django["port"]  # the default of each; the attribute is that of the first
        self._options = options
        if not is_ours:
            try:
                super().__init__(**of_django, alias=self.alias, **kwargs)
            finally:  # also where Django takes two strings for two flags that are true
                self._check_flags(vars(self))
            return
        # None would let Django ask for EMAIL_*
        fillers: dict[str, Any] = dict.fromkeys(DJANGO_OPTIONS, "") | {"host": "localhost", "port": 25}
        for flag in ("use_tls", "use_ssl", "fail_silently"):
            of_django[flag] = fillers[flag] = bool(of_django[flag])
        super().__init__(**fillers, alias=self.alias, **kwargs)
        for name, value in of_django.items():
            setattr(self, name, value)

    def _check(self) -> Configuration:
        """Raise for wrong settings now, and not at the first mail. Files are opened when needed, as in Django."""
        from smtpbackend.adapters import configure

        if type(self).ssl_context is not EmailBackend.ssl_context:
            raise self._wrong(
                f"{type(self).__name__}.ssl_context would not be used; use "
                f"{self._spelling.together('ca_file', 'client_cert', 'min_tls')}"
            )
        try:
            settings = self._settings()
            self._key = key_of(settings, self._face())
            if self._key is not None and (known := known_mailer(self._key)) is not None:
                return known.configuration
            for name in ("client_cert", "client_key"):
                settings.pop(name, None)
            configuration = configure(settings, self._spelling)
        except InvalidInput as error:
            raise self._wrong(str(error), error.field) from error
        load_for_mail(configuration)
        return configuration

    def _wrong(self, why: str, field: str = "") -> Exception:
        """The error of a setting; its ``field`` is the setting's neutral name, or the one that is not known."""
        if self.alias is None or django.VERSION < (6, 1):
            return SettingsError(why, field=field)
        from django.core.mail import InvalidMailer

        # Django puts MAILERS and the alias in front
        why = why.replace(f'MAILERS["{self.alias}"]["OPTIONS"]', "OPTIONS")
        error = InvalidMailer(why, alias=self.alias)
        error.field = field
        return error  # type: ignore[no-any-return]

    def _face(self) -> tuple[Any, ...]:
        """Where the settings of this backend stand: what `SiteSettings` is made of."""
        flags = vars(self)
        flag = "use_tls" if flags.get("use_tls") else "use_ssl" if flags.get("use_ssl") else ""
        return self.alias, self._by_call, self._given, self._is_ours, flag

    @property
    def _spelling(self) -> SiteSettings:
        """How errors write the settings of this backend."""
        from smtpbackend_django.spelling import SiteSettings

        return SiteSettings(*self._face())

    def _settings(self) -> dict[str, Any]:
        """The neutral settings, from the attributes as they are now: a subclass may have changed them."""
        settings = {
            "tls": "required" if self.use_tls else "implicit" if self.use_ssl else self._tls,
            "timeout": self.timeout,
            "client_cert": self.ssl_certfile or None,
            "client_key": self.ssl_keyfile or None,
        }
        settings = {name: value for name, value in settings.items() if value is not None} | self._options
        if "servers" not in settings:
            settings |= {"host": self.host, "port": self.port}
        # Half a login is none, as in Django; of a name with mechanisms it is an error of the core
        is_wanted = self.username and "auth_mechanisms" in self._options
        if (self.username or self.password) and (is_wanted or not self.lacking):
            settings |= {"username": self.username or None, "password": self.password or None}
        return settings

    @property
    def lacking(self) -> str:
        """What a login lacks, for want of which there is none, as in Django: "username", "password", or ""."""
        if self._is_ours:  # told by the core
            return ""
        from smtpbackend.adapters import half_login

        of_ours = self._options.get("token"), self._options.get("auth_mechanisms")
        return half_login(self.username or None, self.password or None, *of_ours) or ""

    def _attributes(self) -> tuple[Any, ...]:
        """Those of Django's that `_settings` reads."""
        return (
            *(self.host, self.port, self.username, self.password, self.use_tls, self.use_ssl),
            *(self.timeout, self.ssl_certfile, self.ssl_keyfile),
        )

    def mailer(self) -> Mailer:
        """The Mailer behind it, which it shares with all that have the same settings."""
        if self._key is not None and self._attributes() == self._checked:
            known = known_mailer(self._key)
            if known is not None:
                return known
        try:
            mailer = shared_mailer(self._settings(), self._face())
        except InvalidInput as error:
            raise self._wrong(str(error), error.field) from error
        if self.lacking == "password":  # with username="" a call asks for no login
            from smtpbackend.adapters import warn_no_login

            warn_no_login(mailer.configuration.servers[0].name, self._spelling("password"))
        return mailer

    def mailer_with(self, **defaults: Any) -> Mailer:
        """A Mailer with these values for options that are not given; shared by all that have the same settings."""
        try:
            return shared_mailer({**defaults, **self._settings()}, self._face())
        except InvalidInput as error:
            raise self._wrong(str(error), error.field) from error

    @property  # without a setter: its value would not be used
    def ssl_context(self) -> SSLContext:
        """What TLS with the first server uses. With a client certificate too it trusts the system's authorities."""
        from smtpbackend.adapters import client_context

        return client_context(self.mailer().configuration.servers[0])

    _is_sending = False

    def open(self) -> bool | None:
        """Have a connection ready: True, False if this backend had one, None if it failed silently."""
        with self._lock:
            if self.connection:
                return False
            mailer = self.mailer()
            if not self._is_sending:  # else the batch connects, so that each of its messages is told of a failure
                try:
                    mailer.connect()
                except OSError:
                    if not self.fail_silently:
                        raise
                    return None
            self.connection = mailer
            return True

    def close(self) -> None:
        """Let go of the connection; the Mailer keeps it for the next message."""
        self.connection = None

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Send messages, and return how many were. Each has its Receipt in ``smtp_receipt`` then."""
        if not email_messages:
            return 0
        with self._lock:
            self._is_sending = True
            try:
                opened = self.open()
            finally:
                self._is_sending = False
            if not self.connection or opened is None:
                return 0
            mailer = self.connection if opened else self.mailer()
        try:
            return self._send_all(mailer, email_messages)
        finally:
            if opened:
                self.close()

    def _send_all(self, mailer: Mailer, email_messages: Iterable[Any]) -> int:
        from smtpbackend_django.message import envelope_of, parcel_with, with_addresses_now
        from smtpbackend_django.monkeypatches import is_untouched
        from smtpbackend_django.signalling import Signalling

        prep_address = getattr(self, "prep_address", None)
        untouched = is_untouched()  # once for all of them: it takes longer than to write one

        def prepare(given: Any) -> Parcel | None:
            message = with_addresses_now(given)
            if not message.recipients():
                return None
            _leave_receipt(given, None)
            return parcel_with(message, envelope_of(message, prep_address, mailer.bounce_address), untouched)

        sent = 0
        failures: list[Exception] = []
        listener = Signalling(type(self), self.alias)
        pairs = mailer.deliver(email_messages, prepare=prepare, listeners=[listener], in_order=True)
        with contextlib.closing(pairs):
            for message, receipt in pairs:
                if receipt is None:
                    continue
                _leave_receipt(message, receipt)
                if receipt.error is None:
                    sent += 1
                elif not isinstance(receipt.error, CancelSend) and not (
                    self.fail_silently and isinstance(receipt.error, DeliveryError)
                ):
                    failures.append(receipt.error)
        if failures:
            raise failures[0]
        return sent


def _without_silence(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of options but ``fail_silently``: a Mailer is the same with it and without."""
    return tuple([name for name in options if name != "fail_silently"])


def _leave_receipt(message: Any, receipt: Receipt | None) -> None:
    """Set ``message.smtp_receipt``. A message that cannot take it, whatever its setter raises, is sent as well."""
    with contextlib.suppress(Exception):
        message.smtp_receipt = receipt


def mailer_settings(using: str = "default") -> dict[str, Any]:
    """The settings of a mailer of this site as those of smtpbackend: ``AsyncMailer(**mailer_settings())``.

    ``using`` is its alias in ``MAILERS``; that of an outbox stands for the mailer behind it. Without ``MAILERS`` there
    is "default" alone, of ``EMAIL_*`` and ``SMTPBACKEND``. Raises `SettingsError`, or Django's ``InvalidMailer`` or
    ``MailerDoesNotExist``.
    """
    if django.VERSION >= (6, 1):
        from django.core.mail import mailers

        backend = mailers[using]
    elif using == "default":
        backend = mail.get_connection()
    else:
        raise SettingsError(f"there is no mailer {using!r}: only Django 6.1 has MAILERS", field="using")
    if getattr(backend, "is_outbox", False):
        backend = backend.behind()
    if not isinstance(backend, EmailBackend):
        kind = type(backend)
        raise SettingsError(
            f"the mailer {using!r} is a {kind.__module__}.{kind.__qualname__} (Django's tests replace it by one that "
            "sends nothing); name smtpbackend_django.EmailBackend in the settings to use its settings",
            field="using",
        )
    return {**backend._settings(), "spelling": backend._spelling}
