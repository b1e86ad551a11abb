"""What is refused or raised where mail is stored, and that nothing of it is stored then."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, IntegrityError, transaction

from smtpbackend import InvalidInput
from smtpbackend.testing import ScriptedServer
from smtpbackend_django import outbox
from tests.outbox.desk import Desk
from tests.outbox.sites import HAS_MAILERS, Site
from tests.outbox.tables import Tables
from tests.outbox.test_process import arrived, options, run

MakeDesk = Callable[..., Desk]
MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]

NOWHERE = {"host": "127.0.0.1", "port": 1, "tls": "none"}
HELLO = ("Hello", "Text", "shop@example.com", ["ann@example.com"])


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk(NOWHERE)


@pytest.fixture(autouse=True)
def calls_of_before_mailers() -> Iterator[None]:
    """Django 6.1 deprecates them, which is not what is tested. What a line of ours does is an error all the same."""
    with warnings.catch_warnings():
        if HAS_MAILERS:
            from django.utils.deprecation import RemovedInDjango2028Warning

            warnings.filterwarnings("ignore", category=RemovedInDjango2028Warning, module=r"(?!smtpbackend)")
        yield


def stored(desk: Desk) -> int:
    return int(desk.rows("SELECT count(*) FROM smtpbackend_outbox_entry")[0][0])


# What is given for one connection


@pytest.mark.parametrize("silently", [{}, {"fail_silently": True}], ids=["", "silently"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "smtp.example.com"),
        ("port", 2525),
        ("use_tls", True),
        ("use_ssl", False),
        ("timeout", 3),
        ("ssl_certfile", "cert.pem"),
        ("servers", ["smtp://smtp.example.com"]),
        ("bounce_address", "bounces@example.com"),
        ("rate", 3),
    ],
)
def test_an_option_of_a_connection_is_refused_by_its_name(
    desk: Desk, name: str, value: Any, silently: dict[str, Any]
) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{name} was given for one connection, and the outbox has none"):
        mail.get_connection(**{name: value}, **silently)
    assert stored(desk) == 0


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("name", ["auth_user", "auth_password"])
def test_a_login_of_a_call_is_refused_by_its_name(desk: Desk, name: str, silently: bool) -> None:
    login = {name: "secret"}
    with pytest.raises(ImproperlyConfigured, match=f"{name} was given for one connection") as refused:
        mail.send_mail(*HELLO, fail_silently=silently, **login)
    assert "secret" not in str(refused.value)
    with pytest.raises(ImproperlyConfigured, match=f"{name} was given for one connection"):
        mail.send_mass_mail([HELLO], fail_silently=silently, **login)
    assert stored(desk) == 0


@pytest.mark.skipif(HAS_MAILERS, reason="there they are the OPTIONS of a mailer")
def test_an_option_of_the_outbox_is_one_of_the_site(desk: Desk) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"expires was given for one connection.*\"OUTBOX\"\]\[\"EXPIRES\"\]"
    ):
        mail.get_connection(expires=60)
    with pytest.raises(ImproperlyConfigured, match="Unknown options 'expirse'; did you mean 'expires'"):
        mail.get_connection(expirse=60)


@pytest.mark.parametrize("name", ["send_at", "expires"])
@pytest.mark.parametrize("given", ["tomorrow", 5, date(2030, 1, 1), timedelta(days=1), datetime(2030, 1, 1)])
def test_what_is_no_time_with_a_zone_is_refused(desk: Desk, name: str, given: Any) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be a datetime with its time zone, not"):
        outbox.send(mail.EmailMessage(*HELLO), **{name: given})
    assert stored(desk) == 0


def test_what_is_for_other_backends_is_passed_over(desk: Desk) -> None:
    assert mail.get_connection(file_path="/tmp", stream=None).send_messages([mail.EmailMessage(*HELLO)]) == 1
    assert stored(desk) == 1


# Errors of the database


@contextmanager
def without_tables(desk: Desk) -> Iterator[str]:
    desk.rows("ALTER TABLE smtpbackend_outbox_entry RENAME TO away")
    yield "smtpbackend_outbox_entry"
    desk.rows("ALTER TABLE away RENAME TO smtpbackend_outbox_entry")


@contextmanager
def that_allows_nothing(desk: Desk) -> Iterator[str]:
    if desk.store.connection.dialect == "sqlite":
        desk.rows(
            "CREATE TRIGGER refuse BEFORE INSERT ON smtpbackend_outbox_recipient "
            "BEGIN SELECT RAISE(ABORT, 'it is refused'); END"
        )
        yield "it is refused"
        desk.rows("DROP TRIGGER refuse")
    else:
        desk.rows("ALTER TABLE smtpbackend_outbox_recipient ADD CONSTRAINT refuse CHECK (position < 0) NOT VALID")
        yield "refuse"
        desk.rows("ALTER TABLE smtpbackend_outbox_recipient DROP CONSTRAINT refuse")


@contextmanager
def that_is_read_only(desk: Desk) -> Iterator[str]:
    is_sqlite = desk.store.connection.dialect == "sqlite"
    desk.rows("PRAGMA query_only = ON" if is_sqlite else "SET default_transaction_read_only = on")
    yield "readonly" if is_sqlite else "read-only"
    desk.rows("PRAGMA query_only = OFF" if is_sqlite else "SET default_transaction_read_only = off")


@pytest.mark.parametrize("database_", [without_tables, that_allows_nothing, that_is_read_only])
@pytest.mark.parametrize("count", [1, 2])
def test_fail_silently_hides_no_error_of_the_database(desk: Desk, database_: Any, count: int) -> None:
    with database_(desk) as why:
        with pytest.raises(DatabaseError, match=why) as refused:
            mail.send_mass_mail([HELLO] * count, fail_silently=True)
        assert isinstance(refused.value, IntegrityError) == (database_ is that_allows_nothing)
        with pytest.raises(DatabaseError, match=why):
            mail.EmailMessage(*HELLO, connection=mail.get_connection(fail_silently=True)).send()
    assert stored(desk) == 0
    assert mail.send_mail(*HELLO, fail_silently=True) == 1


# One bad address


@pytest.mark.parametrize("before", [0, 3, 150])
@pytest.mark.parametrize("silently", [False, True])
def test_a_wrong_address_in_a_list_stores_nothing_of_it(desk: Desk, before: int, silently: bool) -> None:
    """Also if it is found after others were written, and within a transaction that goes on."""
    wrong = ("Hello", "Text", "shop@example.com", ["no address"])
    mails = [*[HELLO] * before, wrong, HELLO]
    with pytest.raises(ValueError, match="no address"):
        mail.send_mass_mail(mails, fail_silently=silently)
    with transaction.atomic():
        mail.send_mail(*HELLO)
        with pytest.raises(ValueError, match="no address"):
            mail.send_mass_mail(mails, fail_silently=silently)
        mail.send_mail(*HELLO)
    assert stored(desk) == desk.pending == 2


@pytest.mark.slow
@pytest.mark.parametrize("atomic_requests", [False, True])
def test_a_wrong_address_in_a_list_of_a_request(
    make_site: MakeSite, smtp_server: Start, tables: Tables, database: dict[str, Any], atomic_requests: bool
) -> None:
    """What the request wrote besides stays if the error is caught, or if nothing is atomic."""
    server = smtp_server()
    site = make_site(server=options(server), DATABASES={"default": {**database, "ATOMIC_REQUESTS": atomic_requests}})
    run(
        site,
        """
        from django.test import Client
        from site_app.models import Order
        client = Client(raise_request_exception=False)
        for catch, status in (("1", 200), ("0", 500)):
            got = client.get("/mass", {"to": ["ann@example.com", "no address", "bob@example.com"], "catch": catch})
            assert got.status_code == status, got.content
        assert client.get("/mass", {"to": ["ann@example.com", "bob@example.com"]}).status_code == 200
        """,
    )
    assert arrived(server) == ["ann@example.com", "bob@example.com"]
    assert tables.states() == {"accepted": 2}
    assert tables.rows("SELECT count(*) FROM site_app_order")[0][0] == (2 if atomic_requests else 3)
