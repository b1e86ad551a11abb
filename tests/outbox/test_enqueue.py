"""What is written of a draft is the same, whether it is stored by itself or in a list."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import DatabaseError, connection, transaction

from smtpbackend import Envelope, Outcome, Recipient, Status
from smtpbackend.adapters import Parcel, stamp
from smtpbackend.outbox import Draft, draft
from smtpbackend_django.outbox import conf
from tests.django.conftest import email_settings
from tests.outbox.desk import Desk
from tests.outbox.lab import Lab, letter
from tests.outbox.sites import HAS_MAILERS, OUTBOX_BACKEND, mail_settings

TABLES = {
    "entry": "envelope, message_id, subject, priority, place, key, digest, version, size, is_8bit, send_at, "
    "CASE WHEN finished IS NULL THEN 0 ELSE 1 END, may_have_arrived, erased",
    "recipient": "position, address, data, state, attempts, doubts, reply, server, error",
    "content": "number, octets",
    "due": "environment, alias, lane, version, lease, leased, lapses, tries",
}


def drafts() -> list[Draft]:
    refused = Outcome(Recipient("nobody@example.com"), Status.REJECTED, error=ValueError("50% 'bad'\0"))
    return [
        letter("ann@example.com"),
        letter("ann@example.com", "bob@example.com", subject='Grüße, "it\'s" {1,2} \\ 100%s'),
        letter(send_at=datetime.now(UTC) + timedelta(seconds=3590)),
        letter(key="a 'key'"),
        letter(priority="low", text="é" * 1000),
        draft(Parcel(None, ValueError("all were refused"), (refused,)), stamp, time.time(), lasts=60.0),
        draft(
            Parcel(Envelope("shop@example.com", ["ann@example.com"]), b"Subject: \xff\r\n\r\n\x00\x80", (refused,)),
            *(stamp, time.time()),
            lasts=60.0,
        ),
    ]


def rows(lab: Lab, group: int) -> dict[str, list[list[tuple[Any, ...]]]]:
    """All that is stored of a group, by table and entry; of times how far they are from that of the entry."""
    ids = [
        row[0]
        for row in lab.rows("SELECT id FROM smtpbackend_outbox_entry WHERE group_number = %s ORDER BY place", group)
    ]
    found = {}
    for table, columns in TABLES.items():
        of = "id" if table == "entry" else "entry_id"
        order = {"recipient": "position", "content": "number"}.get(table, of)
        found[table] = [
            [
                tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
                for row in lab.rows(
                    f"SELECT {columns} FROM smtpbackend_outbox_{table} WHERE {of} = %s ORDER BY {order}", one
                )
            ]
            for one in ids
        ]
    waits = lab.rows(
        "SELECT round(CAST(d.next_try - e.created AS numeric)), d.expires - e.expires FROM smtpbackend_outbox_due d "
        "JOIN smtpbackend_outbox_entry e ON e.id = d.entry_id WHERE e.group_number = %s ORDER BY e.place",
        group,
    )
    found["waits"] = [[(int(wait), int(more))] for wait, more in waits]
    return found


def test_a_list_is_written_like_its_entries(lab: Callable[..., Lab]) -> None:
    its = lab(default={})
    made = drafts()
    its.store.enqueue(made, "default", 1, 0, 2)
    listed = rows(its, 1)
    for table in TABLES:
        its.rows(f"DELETE FROM smtpbackend_outbox_{table}")
    for place, one in enumerate(made):
        its.store.enqueue([one], "default", 2, place, int(place < 2))
    assert rows(its, 2) == listed
    assert [len(row) for row in listed["recipient"]] == [1, 2, 1, 1, 1, 1, 2]
    assert [row[0][0] // 60 for row in listed["waits"]] == [1, 1, 59, 0, 0, 0]


@pytest.mark.parametrize("count", [1, 100])
def test_to_store_mail_takes_a_statement_or_one_for_each_table(lab: Callable[..., Lab], count: int) -> None:
    its = lab(default={})
    asked: list[str] = []

    def note(execute: Any, sql: str, *args: Any) -> Any:
        asked.append(sql.split()[0])
        return execute(sql, *args)

    with its.store.connection._own.execute_wrapper(note):  # type: ignore[attr-defined]
        its.put(*[letter() for _ in range(count)])
    wanted = ["WITH"] if its.dialect == "postgresql" else ["BEGIN", *["INSERT"] * 4, "COMMIT"]
    assert asked == wanted


def test_a_newsletter_takes_no_memory_for_each_mail(make_desk: Callable[..., Desk]) -> None:
    """What is made as it is asked for is forgotten once it is stored."""

    def held(count: int) -> int:
        """Octets that are in use as the last one is made."""
        found = []

        def messages() -> Iterator[mail.EmailMessage]:
            for number in range(count):
                if number == count - 1:
                    gc.collect()
                    found.append(tracemalloc.get_traced_memory()[0])
                yield mail.EmailMessage("News", "Text", "shop@example.com", ["ann@example.com"])

        tracemalloc.start()
        try:
            assert backend.send_messages(messages()) == count
        finally:
            tracemalloc.stop()
        return int(found[0])

    make_desk({"host": "127.0.0.1", "port": 1})
    backend = outbox_backend()
    held(200)
    assert held(1500) - held(300) < 60_000  # 50 octets a mail


def outbox_backend() -> Any:
    return mail.mailers["default"] if HAS_MAILERS else mail.get_connection(OUTBOX_BACKEND)


def test_what_is_read_of_the_settings_is_kept_until_they_change(make_desk: Callable[..., Desk]) -> None:
    """The mailer behind an outbox is made for its first mail, and not for each."""
    made: list[str] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is conf.behind.__code__:
            made.append(event)

    def sender_of_next() -> Any:
        message = mail.EmailMessage("News", "Text", "shop@example.com", ["ann@example.com"])
        outbox_backend().send_messages([message])
        (row,) = desk.rows("SELECT envelope FROM smtpbackend_outbox_entry WHERE id = %s", message.outbox_entry)
        return json.loads(row[0])["sender"]

    server = {"host": "127.0.0.1", "port": 1}
    desk = make_desk(server)
    sys.setprofile(note)
    try:
        senders = [sender_of_next() for _ in range(3)]
    finally:
        sys.setprofile(None)
    assert (senders, len(made)) == ([["shop", "example.com"]] * 3, 1)
    with email_settings(**mail_settings(OUTBOX_BACKEND, {**server, "bounce_address": "bounce@example.com"}, {})):
        assert sender_of_next() == ["bounce", "example.com"]
    assert sender_of_next() == ["shop", "example.com"]
    with email_settings(**mail_settings(OUTBOX_BACKEND, server, {"environment": "another"})):
        sender_of_next()
    assert desk.rows("SELECT environment FROM smtpbackend_outbox_entry ORDER BY id")[-1][0] == "another"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_where_the_database_fails_amid_a_mail_nothing_of_it_is_stored(make_desk: Callable[..., Desk]) -> None:
    """It takes no savepoint: the transaction of the caller ends, as it does on PostgreSQL, also if it goes on."""
    desk = make_desk({"host": "127.0.0.1", "port": 1})
    message = mail.EmailMessage("News", "Text", "shop@example.com", ["ann@example.com"])
    asked: list[str] = []

    def note(execute: Any, sql: str, *args: Any) -> Any:
        asked.append(sql.split()[0])
        return execute(sql, *args)

    with transaction.atomic(), connection.execute_wrapper(note):
        outbox_backend().send_messages([message])
    assert asked == ["INSERT"] * 4
    fails = "BEFORE INSERT ON smtpbackend_outbox_due BEGIN SELECT RAISE(ABORT, 'it is full'); END"
    desk.rows(f"CREATE TRIGGER fails {fails}")
    desk.rows("CREATE TABLE sold (id integer)")
    with transaction.atomic(), contextlib.suppress(DatabaseError):
        connection.cursor().execute("INSERT INTO sold VALUES (1)")
        outbox_backend().send_messages([message])
    assert desk.rows("SELECT count(*) FROM smtpbackend_outbox_entry") == [(1,)]
    assert desk.rows("SELECT * FROM sold") == []
