"""Nobody waits behind a newsletter, and to store it takes no memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.outbox.lab import Lab, letter
from tests.outbox.sites import Site
from tests.outbox.test_process import options, run

MakeLab = Callable[..., Lab]
MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]


@pytest.mark.parametrize("priority", ["normal", "high"])
def test_a_single_mail_overtakes_a_newsletter(lab: MakeLab, smtp_server: Start, priority: str) -> None:
    """It goes with the claim that follows: at most what is in hand goes before it, and one more claim."""
    order: list[str] = []

    def rcpt(line: str) -> str:
        order.append(line.split("<")[1].split("@")[0])
        if len(order) == 100:
            its = here.open()
            its.enqueue([letter("reset@example.com", priority=priority)], "default", 2)
            its.connection.close()
        return "250 2.1.5 OK"

    server = smtp_server(Play({"RCPT": rcpt}))
    here = lab(default={"servers": [server.url], "rest": 0})
    here.put(*[letter(f"reader{number}@example.com") for number in range(600)])
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert len(order) == len(set(order)) == 601
    assert order.index("reset") <= 100 + 2 * 32


def test_endless_high_traffic_leaves_low_a_tenth(lab: MakeLab, smtp_server: Start) -> None:
    order: list[str] = []

    def rcpt(line: str) -> str:
        order.append(line.split("<")[1].split("@")[0])
        return "250 2.1.5 OK"

    server = smtp_server(Play({"RCPT": rcpt}))
    here = lab(default={"servers": [server.url], "rest": 0})
    here.put(*[letter("low@example.com", priority="low") for _ in range(100)], group=1)
    here.put(*[letter("high@example.com", priority="high") for _ in range(900)], group=2)
    with here.worker():
        here.wait_for(lambda: len(order) >= 500)
    low = order[:500].count("low")
    assert 25 <= low <= 75, f"{low} of 500"


@pytest.mark.exhaustive
def test_100_000_mails_take_no_memory_and_a_statement_for_a_hundred(make_site: MakeSite, smtp_server: Start) -> None:
    site = make_site(server=options(smtp_server()), outbox={"worker": "none"}, DEBUG=False)
    said = run(
        site,
        """
        import resource
        from django.core import mail
        from django.core.mail import EmailMessage
        from django.db import connection
        from smtpbackend_django.outbox.backend import OutboxBackend

        def mails(count):
            for number in range(count):
                yield EmailMessage("News", "Text " * 200, None, [f"to{number}@example.com"])

        class Counter:
            count = 0
            def __call__(self, execute, sql, params, many, context):
                Counter.count += 1
                return execute(sql, params, many, context)

        backend = mail.mailers["default"] if hasattr(mail, "mailers") else OutboxBackend()
        backend.send_messages(mails(1000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with connection.execute_wrapper(Counter()):
            assert backend.send_messages(mails(100_000)) == 100_000
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(Counter.count, more)
        """,
        timeout=300.0,
    )
    statements, kilobytes = map(int, said.split())
    print(said)
    tables = 4 if "sqlite3" in (site.folder / "settings.py").read_text() else 1  # PostgreSQL: one for all tables
    assert statements <= 1000 * (tables + 2) + 10  # and a savepoint for each hundred; and the transaction
    assert kilobytes < 20_000
