"""The backend that stores: messages are rendered, and written in the transaction of the caller."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction

from smtpbackend import Address
from smtpbackend.adapters import stamp
from smtpbackend.outbox import Draft, Entry, Options, Stored, clock, draft, lane_of
from smtpbackend_django import EmailBackend
from smtpbackend_django.message import djangos_prep_address, envelope_of, parcel_of, parcel_with, with_addresses_now
from smtpbackend_django.monkeypatches import is_untouched
from smtpbackend_django.outbox import conf, process
from smtpbackend_django.outbox.database import store
from smtpbackend_django.setting_names import has_mailers

__all__ = ["OutboxBackend", "send"]

CHUNK = 100  # messages that are rendered and written at a time


class OutboxBackend(BaseEmailBackend):
    """Stores messages; they leave after the transaction of the caller has committed.

    ``using`` is the alias in ``MAILERS`` of the mailer that sends; ``database`` the one that has the tables of the
    outbox. The other keywords are those of `smtpbackend.outbox.Options`. In sites without ``MAILERS`` all of them stand
    in ``SMTPBACKEND["OUTBOX"]``.
    """

    is_outbox = True

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        using: str | None = None,
        database: str | None = None,
        worker: str | None = None,
        window: int | None = None,
        connections: int | None = None,
        expires: float | None = None,
        retry_in_doubt: int | None = None,
        keep: float | None = None,
        keep_failed: float | None = None,
        environment: str | None = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        given = dict(locals())
        for name in ("self", "fail_silently", "alias", "kwargs", "__class__"):
            given.pop(name, None)
        conf.check_names({key: value for key, value in kwargs.items() if key != "_ignore_unknown_kwargs"}, alias)
        super().__init__(alias=alias)
        self.alias, self.fail_silently = alias, fail_silently  # Django 6.1 sets the first alone, 5.2 and 6.0 the other
        self.outbox = conf.outbox_of(given, alias)

    def behind(self) -> Any:
        """The backend that sends what is stored."""
        return conf.behind(self.outbox)

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Store all messages or none, and return how many. Each has the id of its entry in ``outbox_entry`` then.

        ``fail_silently`` hides nothing: what is not stored is lost, and the caller has to know.
        """
        if not email_messages:
            return 0
        return sum(1 for _ in self._stored(email_messages, {}))

    def _stored(self, messages: Iterable[Any], wanted: dict[str, Any]) -> Iterator[Stored]:
        """Store messages in one transaction; what became of each."""
        outbox = self.outbox
        made = _drafts(outbox, messages, wanted)
        first = list(itertools.islice(made, CHUNK))
        if not first:
            return
        hook = process.Committed.of(outbox)
        several = len(first) > 1
        with transaction.atomic(using=outbox.database) if several else nullcontext():
            while first:
                yield from self._store(outbox, hook, first)
                first = list(itertools.islice(made, CHUNK)) if several else []
            hook.register()

    def _store(self, outbox: conf.Outbox, hook: Any, made: list[tuple[Any, Draft]]) -> list[Stored]:
        drafts: list[Draft] = [one for _, one in made]
        stored_at, created = clock(), time.time()
        born = min(hook.room, len(drafts))
        stored: list[Stored] = store(outbox.database, outbox.options.environment).enqueue(
            drafts, outbox.alias, hook.group, hook.place, born
        )
        for number, ((message, one), its) in enumerate(zip(made, stored, strict=True)):
            message.outbox_entry = its.id
            if not its.is_new or one.envelope is None:
                continue
            if number < born and one.send_at is None:
                lane = lane_of(one.priority, hook.place + number)
                hook.born.append(Entry(its.id, outbox.alias, one, lane, stored_at, created))
            else:
                hook.others = True
        hook.place += len(drafts)
        hook.room -= born
        return stored


def send(
    message: Any,
    *,
    using: str | None = None,
    send_at: datetime | None = None,
    expires: datetime | None = None,
    priority: str | None = None,
    key: str | None = None,
) -> Stored:
    """Store one message, with more than Django's functions can say.

    ``using`` is the alias of the outbox in ``MAILERS`` ("default"). ``send_at`` and ``expires`` are aware datetimes;
    ``priority`` is "high", "normal" or "low". ``key``: at most one entry of this key is stored; the result says whether
    it was this one (``is_new``), and whether the other says the same (``is_same``). Where Django's tests have put their
    backend in the place of the outbox, the message is in ``mail.outbox`` at once, and the id is 0.
    """
    backend = _outbox_backend(using)
    wanted: dict[str, Any] = {"send_at": send_at, "expires": expires, "priority": priority, "key": key}
    if not message.recipients():
        raise ValueError("the message has no recipients")
    if not isinstance(backend, OutboxBackend):
        draft(parcel_of(message), stamp, time.time(), lasts=Options().expires, **wanted)  # raises what is wrong
        backend.send_messages([message])
        return Stored(0, True, True)
    with transaction.atomic(using=backend.outbox.database) if key is not None else nullcontext():
        [stored] = backend._stored([_dated(message, send_at)], wanted)
    return stored


def _outbox_backend(using: str | None) -> Any:
    """The outbox of an alias, or what Django's tests have put in its place."""
    if has_mailers():
        from django.core.mail import mailers

        backend = mailers[using or "default"]
    else:
        if using not in (None, "default"):
            raise conf.wrong(None, f"using is {using!r}, and there is one mailer: the settings have no MAILERS")
        backend = mail.get_connection()
    if not isinstance(backend, OutboxBackend) and not conf.in_tests():
        raise conf.wrong(
            using or "default" if has_mailers() else None,
            f"it is a {type(backend).__module__}.{type(backend).__qualname__}, and no outbox: name "
            "smtpbackend_django.outbox.OutboxBackend in the settings",
        )
    return backend


def _dated(message: Any, send_at: datetime | None) -> Any:
    """The message, with the date at which it leaves: a reader sorts by it."""
    if not isinstance(send_at, datetime) or send_at.timestamp() <= time.time():
        return message  # what is no time is refused with the rest
    if any(name.lower() == "date" for name in message.extra_headers):
        return message
    dated = copy.copy(message)
    dated.extra_headers = {**message.extra_headers, "Date": format_datetime(send_at)}
    return dated


def _drafts(outbox: conf.Outbox, messages: Iterable[Any], wanted: dict[str, Any]) -> Iterator[tuple[Any, Draft]]:
    """Each message with what is stored of it. Raises what Django's own backend raises for it."""
    prep_address, bounce_address = _preparing(outbox)
    untouched = is_untouched()
    for given in messages:
        message = with_addresses_now(given)
        if not message.recipients():
            continue
        parcel = parcel_with(message, envelope_of(message, prep_address, bounce_address), untouched)
        yield given, draft(parcel, stamp, time.time(), lasts=outbox.options.expires, **wanted)


@conf.until_settings_change
def _preparing(outbox: conf.Outbox) -> tuple[Any, Address | None]:
    """``prep_address`` and ``bounce_address`` of the backend behind an outbox: to make one is most of the work.

    All threads share what it gives. Raises for settings that cannot work.
    """
    backend = conf.behind(outbox)
    if not isinstance(backend, EmailBackend):  # Django's tests put another one in its place
        return djangos_prep_address, None
    return getattr(backend, "prep_address", None), backend.mailer().bounce_address
