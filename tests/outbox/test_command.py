"""``manage.py outbox``: what it does, says and returns."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db import connections
from django.utils.timezone import localtime

from smtpbackend.outbox import State
from smtpbackend.testing import Play, ScriptedServer, delay
from smtpbackend_django.outbox.database import own_store, store
from smtpbackend_django.outbox.models import Entry
from tests.django.conftest import email_settings
from tests.outbox.desk import ALIAS, Desk, database_of_site
from tests.outbox.lab import letter
from tests.outbox.sites import HAS_MAILERS, OUTBOX_BACKEND, Site, mail_settings, sqlite
from tests.processes.sockets import children
from tests.servers.ports import free_ports, wait_until
from tests.servers.postgresql import state

MakeDesk = Callable[..., Desk]
Start = Callable[..., ScriptedServer]
NOWHERE = {"host": "127.0.0.1", "port": 1, "tls": "none"}


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk(NOWHERE)


def at(server: ScriptedServer) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.port, "tls": "none"}


# What is there


def test_entries_are_listed(desk: Desk) -> None:
    first, second, third = desk.put(letter(), letter("bob@example.com", "cid@example.com"), letter(subject="Last"))
    desk.end(first)
    code, said = desk.ask("list")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == ["ID", str(third), str(second), str(first)]
    assert "bob@example.com, cid@example.com" in said
    assert "failed" in said.splitlines()[-1]
    told = desk.json("list", "--state", "failed")
    assert [one["id"] for one in told] == [first]
    assert told[0]["recipients"] == [{"address": "ann@example.com", "state": "failed"}]
    assert told[0]["finished"].endswith("+00:00")
    assert [one["id"] for one in desk.json("list", "--state", "pending", "--limit", 1)] == [third]
    assert len(desk.json("list", "--using", ALIAS)) == 3


def test_the_words_of_others_do_not_command_a_terminal(desk: Desk) -> None:
    desk.put(letter(subject="red"))
    desk.rows("UPDATE smtpbackend_outbox_entry SET subject = %s", "\x1b[31mred\r\n\u202e")
    said = desk.ask("list")[1]
    assert "red" in said
    assert all(char.isprintable() for line in said.split("\n") for char in line)


def test_an_entry_is_shown(desk: Desk) -> None:
    (entry,) = desk.put(letter(text="One\n"))
    code, said = desk.ask("show", entry)
    assert (code, "recipient: ann@example.com: pending" in said, "priority: normal" in said) == (0, True, True)
    told = desk.json("show", entry)
    assert (told["due"]["leased"], told["alias"], told["recipients"][0]["attempts"]) == (False, ALIAS, 0)
    assert "One\r\n" in desk.ask("show", entry, "--content")[1]
    assert desk.ask("show", 9999) == (1, "there is no entry 9999")
    desk.rows("UPDATE smtpbackend_outbox_entry SET erased = true")
    assert desk.ask("show", entry, "--content")[0] == 1


def test_mail_that_expires_behind_the_last_year_of_python_is_shown(desk: Desk) -> None:
    """As where `expires` is so large that it means never."""
    (entry,) = desk.put(letter(lasts=1e12))
    assert "expires: 9999-12-30T00:00:00+00:00" in desk.ask("show", entry)[1]
    assert localtime(Entry.objects.get(pk=entry).expires, ZoneInfo("Pacific/Auckland")).year == 9999


# What people decide


def test_what_failed_is_retried(desk: Desk) -> None:
    first, second, third = desk.put(letter(), letter("bob@example.com"), letter("cid@example.com"))
    for entry in (first, second):
        desk.end(entry)
        desk.age(61)
    assert desk.ask("retry", first) == (0, "1 entry is due again.\n")
    assert desk.states(first) == ["pending"]
    assert desk.ask("retry", "--state", "failed") == (0, "1 entry is due again.\n")
    assert [desk.states(entry) for entry in (first, second, third)] == [["pending"]] * 3
    assert desk.ask("retry")[0] == 2


def test_what_cannot_be_retried_is_told(desk: Desk) -> None:
    gone, in_hand, accepted = desk.put(letter(), letter("bob@example.com"), letter("cid@example.com"))
    desk.rows("UPDATE smtpbackend_outbox_entry SET erased = true WHERE id = %s OR id = %s", gone, accepted)
    desk.rows("UPDATE smtpbackend_outbox_recipient SET state = 'accepted' WHERE entry_id = %s", accepted)
    desk.store.claim(ALIAS, [(lane, 9) for lane in range(9)], 9)
    desk.rows("UPDATE smtpbackend_outbox_due SET leased = 0 WHERE entry_id <> %s", in_hand)
    code, said = desk.ask("retry", gone, in_hand, accepted, 9999)
    assert code == 1
    assert said.splitlines() == [
        f"{gone}: its content is erased, and cannot be sent again; have your site send it anew",
        f"{in_hand}: it is being sent now",
        f"{accepted}: every recipient was accepted already",
        "9999: there is no such entry in this environment",
        "0 entries are due again.",
    ]
    assert [one["retried"] for one in desk.json("retry", gone, 9999)] == [False, False]


def test_mail_moves_to_another_mailer(desk: Desk) -> None:
    """Of an alias that the settings have no more, which is told also by `check`."""
    (old,) = desk.put(alias="old")
    desk.put()
    code, said = desk.ask("retry", old)
    assert (code, said.splitlines()[0]) == (1, f"{old}: no outbox of the settings sends by 'old': give --using")
    assert desk.ask("retry", "--from", "old", "--using", ALIAS) == (0, "1 entry is due again.\n")
    assert [one["mailer"] for one in desk.json("list")] == [ALIAS, ALIAS]


def test_a_wrong_alias_has_a_nearest_name(desk: Desk) -> None:
    wrong = ALIAS[:-1]
    for arguments in (("list", "--using", wrong), ("pause", wrong), ("retry", "1", "--using", wrong)):
        code, said = desk.ask(*arguments)
        assert code == 2
        assert f"sends by {wrong!r}; did you mean {ALIAS!r}?" in said


@pytest.mark.skipif(not HAS_MAILERS, reason="6.1")
def test_the_alias_of_the_outbox_names_the_mailer_behind(desk: Desk) -> None:
    desk.put()
    assert len(desk.json("list", "--using", "default")) == 1


def test_what_is_cancelled_is_told_for_each_recipient(desk: Desk) -> None:
    free, in_hand, done = desk.put(letter(), letter("bob@example.com", "cid@example.com"), letter("dan@example.com"))
    desk.end(done, "accepted")
    desk.age(61)
    desk.rows("UPDATE smtpbackend_outbox_due SET leased = 0 WHERE entry_id = %s", free)
    desk.rows("UPDATE smtpbackend_outbox_due SET next_try = next_try + 120 WHERE entry_id = %s", in_hand)
    foreign = desk.put(environment="other")[0]
    code, said = desk.ask("cancel", free, in_hand, done, 9999, foreign)
    assert code == 1
    assert said.splitlines() == [
        f"{free}: ann@example.com cancelled",
        f"{in_hand}: bob@example.com too late, it is being sent",
        f"{in_hand}: cid@example.com too late, it is being sent",
        f"{done}: dan@example.com too late, a server accepted it",
        "9999:  there is no such entry in this environment",
        f"{foreign}:  there is no such entry in this environment",
    ]
    (another,) = desk.put()
    assert desk.json("cancel", another) == [
        {"id": another, "address": "ann@example.com", "cancelled": True, "why": "cancelled"}
    ]
    assert desk.states(another) == ["cancelled"]


def test_what_was_in_hand_at_a_backup_can_be_cancelled(desk: Desk) -> None:
    """While all is held nobody claims it, and its lease is over."""
    (restored,) = desk.put()
    assert desk.store.claim(ALIAS, [(lane, 1) for lane in range(9)], 1)
    desk.age(3600)
    desk.ask("hold")
    assert desk.ask("cancel", restored) == (0, f"{restored}: ann@example.com cancelled\n")
    assert desk.rows("SELECT may_have_arrived FROM smtpbackend_outbox_entry")[0][0]


@pytest.mark.parametrize("given", ["99999999999999999999", "0", "-1", "x"])
def test_what_is_no_id_is_told(desk: Desk, given: str) -> None:
    for action in ("show", "retry", "cancel"):
        code, said = desk.ask(action, "--", given)
        assert (code, "is no id of an entry" in said) == (1, True), said


def test_what_is_changed_without_autocommit_is_committed(database: dict[str, Any], make_desk: MakeDesk) -> None:
    """A site whose ``DATABASES`` turn autocommit off commits by itself; for the command nobody else does."""
    desk = make_desk(NOWHERE)
    connections["default"].close()
    with database_of_site({**database, "AUTOCOMMIT": False}):
        (its,) = desk.put(letter())
        connections["default"].commit()
        assert desk.ask("hold")[0] == desk.ask("cancel", its)[0] == 0
        own = own_store("default", desk.store.environment)
    assert own.mailers()[""].is_paused
    own.pause("", False)
    assert own.environments() == {own.environment: 0}
    own.connection.close()
    desk.store.connection.rows("SELECT 1")
    assert not desk.store.mailers()[""].is_paused, "the connection of a worker commits too"


def test_paused_mail_waits_until_it_is_resumed(make_desk: MakeDesk, smtp_server: Start) -> None:
    server = smtp_server()
    desk = make_desk(at(server))
    desk.put()
    for pause, resume in ((("pause", ALIAS), ("resume", ALIAS)), (("pause",), ("resume",)), (("hold",), ("resume",))):
        assert desk.ask(*pause)[0] == 0
        assert desk.ask("run", "--once")[0] == 0
        assert not server.taken
        assert desk.ask(*resume)[0] == 0
    desk.ask("pause", ALIAS)
    desk.ask("hold")
    assert f"Still paused: mailer {ALIAS!r}" in desk.ask("resume")[1]
    assert desk.json("resume", ALIAS)[0]["also"] == []
    assert desk.ask("run", "--once")[0] == 0
    assert len(server.taken) == 1


def test_another_environment_is_adopted(make_desk: MakeDesk, smtp_server: Start) -> None:
    server = smtp_server()
    desk = make_desk(at(server))
    assert "No other environment" in desk.ask("adopt")[1]
    desk.put(letter(), letter("bob@example.com"), environment="the old one")
    assert desk.ask("run", "--once")[0] == 0
    assert not server.taken
    assert "'the old one' has 2 mails due." in desk.ask("adopt")[1]
    assert "of another environment, 'the old one'" in desk.ask("stats")[1]
    code, said = desk.ask("adopt", "the old ones")
    assert (code, said) == (1, "no mail of 'the old ones' is here; did you mean 'the old one'?")
    assert desk.ask("adopt", desk.store.environment)[0] == 1
    assert desk.json("adopt", "the old one") == {"adopted": "the old one", "due": 2}
    assert desk.ask("run", "--once")[0] == 0
    assert len(server.taken) == 2


def test_what_was_paused_elsewhere_is_paused_where_it_is_adopted(desk: Desk) -> None:
    desk.put(environment="the old one")
    store("default", "the old one").pause("", True)
    desk.ask("adopt", "the old one")
    assert desk.json("stats")[0]["paused"]


def test_finished_entries_are_purged(make_desk: MakeDesk) -> None:
    desk = make_desk(NOWHERE, keep=10 * 86400.0, keep_failed=86400.0)
    first, second = desk.put(letter(), letter("bob@example.com"))
    desk.end(first)
    desk.age(2 * 86400)
    assert desk.ask("purge") == (0, "0 entries deleted, 1 content erased.\n")
    assert desk.json("purge", "--older-than", 3) == {"deleted": 0, "erased": 0}
    assert desk.json("purge", "--older-than", 1) == {"deleted": 1, "erased": 0}
    assert [one["id"] for one in desk.json("list")] == [second]


def test_mail_of_mailers_that_are_gone_is_purged(desk: Desk) -> None:
    """No worker does it."""
    (old,) = desk.put(alias="old")
    desk.ask("cancel", old)
    desk.age(40 * 86400)
    assert desk.json("purge") == {"deleted": 1, "erased": 0}


def test_an_address_is_forgotten(desk: Desk) -> None:
    first, second = desk.put(letter(), letter())
    desk.end(first)
    code, said = desk.ask("forget", "Ann@example.com")
    assert (code, said.splitlines()[0]) == (1, "Erased in 1 entry.")
    assert desk.json("show", first)["recipients"][0]["address"] == ""
    desk.age(61)
    desk.rows("UPDATE smtpbackend_outbox_due SET leased = 0")
    desk.ask("cancel", second)
    assert desk.json("forget", "ann@example.com") == {"erased": 1, "pending": 0}


# What is wrong


def test_statistics(desk: Desk) -> None:
    desk.put(letter(), letter("bob@example.com"))
    desk.put(alias="old")
    desk.age(600)
    told = desk.json("stats")[0]
    mailers = {one["mailer"]: one for one in told["mailers"]}
    assert set(mailers) == {ALIAS, "old"}
    assert (mailers[ALIAS]["due"], mailers[ALIAS]["in_hand"], mailers["old"]["is_known"]) == (2, 0, False)
    assert 600 <= mailers[ALIAS]["oldest"] < 660
    said = desk.ask("stats")[1]
    assert "10 min" in said
    assert "not in the settings" in said
    assert ("dead rows" in said) == (desk.store.connection.dialect == "postgresql")


def test_the_check_is_content(desk: Desk) -> None:
    assert desk.ask("check") == (0, "No mail waits that should not.\n")
    desk.put()
    desk.age(60)
    assert desk.json("check") == {"ok": True, "problems": []}


def check(desk: Desk, *arguments: Any) -> str:
    code, said = desk.ask("check", *arguments)
    assert code == 1, said
    return said


def test_the_check_finds_mail_that_nobody_sends(desk: Desk) -> None:
    desk.put(letter(), letter("bob@example.com"))
    desk.age(130)
    assert "no process sends it: start `manage.py outbox run`" in check(desk)
    desk.store.claim(ALIAS, [(lane, 1) for lane in range(9)], 1)  # somebody does, as fast as the server
    assert desk.ask("check")[0] == 0
    assert "longer than 100 s" in check(desk, "--oldest", 100)


def test_the_check_finds_a_mailer_that_is_down_or_paused(desk: Desk) -> None:
    desk.put()
    desk.store.rest(ALIAS, lambda last: 5.0, "nobody answers")
    said = check(desk)
    assert "is down since" in said
    assert "nobody answers. It is tried again by itself; `manage.py smtpcheck`" in said
    desk.store.end_rest(ALIAS)
    desk.ask("pause", ALIAS)
    assert desk.ask("check")[0] == 0
    desk.age(301)
    assert f"but paused: run `manage.py outbox resume {ALIAS}`" in check(desk)


def test_the_check_finds_mail_of_an_unknown_mailer(desk: Desk) -> None:
    desk.put(alias="old")
    assert "manage.py outbox retry --from old --using ALIAS" in check(desk)
    assert desk.json("check")["problems"][0]["mailer"] == "old"


def test_entries_that_are_claimed_alone_are_no_sign_that_nobody_claims(desk: Desk) -> None:
    desk.put()
    desk.rows("UPDATE smtpbackend_outbox_due SET lane = 9")
    desk.age(200)
    assert desk.ask("check")[0] == 0


# Errors


def test_missing_tables_name_the_command(database: dict[str, Any]) -> None:
    with email_settings(**mail_settings(OUTBOX_BACKEND, NOWHERE, {})), database_of_site(database):
        desk = Desk()
        for arguments in (("list",), ("run", "--once"), ("check",)):
            code, said = desk.ask(*arguments)
            assert (code, said) == (
                2,
                "database 'default' lacks the tables of the outbox: run `manage.py migrate`",
            )


def test_a_site_without_outbox_is_told_what_to_set() -> None:
    with email_settings(**mail_settings("smtpbackend_django.EmailBackend", NOWHERE, {})):
        code, said = Desk.ask("list")
    assert (code, OUTBOX_BACKEND in said) == (2, True)


def test_wrong_options_and_databases_are_told(desk: Desk) -> None:
    assert desk.ask("list", "--database", "defualt") == (
        2,
        "no outbox is in database 'defualt'; did you mean 'default'?; they are in 'default'",
    )
    with email_settings(**mail_settings(OUTBOX_BACKEND, NOWHERE, {"keep_faild": 3})):
        code, said = desk.ask("list")
    assert code == 2
    assert "did you mean" in said


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    with (
        email_settings(**mail_settings(OUTBOX_BACKEND, NOWHERE, {})),
        database_of_site(sqlite(tmp_path / "no_such_folder" / "db")),
    ):
        code, said = Desk().ask("stats")
    assert (code, "unable to open database file. Check that it runs" in said) == (2, True)


@pytest.mark.servers
def test_a_postgresql_that_is_away_is_told(postgresql: Any) -> None:
    gone = {**postgresql.settings("site"), "PORT": str(free_ports(1)[0])}
    with email_settings(**mail_settings(OUTBOX_BACKEND, NOWHERE, {})), database_of_site(gone):
        code, said = Desk().ask("run")
    assert (code, "refused" in said, "what DATABASES says of it" in said) == (2, True, True)


# run


def test_once_delivers_what_is_due_and_ends(make_desk: MakeDesk, smtp_server: Start) -> None:
    server = smtp_server()
    desk = make_desk(at(server))
    desk.put(*[letter(f"to{number}@example.com") for number in range(100)])
    assert desk.ask("run", "--once") == (0, "")
    assert (len(server.taken), desk.pending) == (100, 0)


def test_once_ends_where_the_server_is_down_and_tries_it_after_its_rest(make_desk: MakeDesk) -> None:
    (port,) = free_ports(1)
    desk = make_desk({"host": "127.0.0.1", "port": port, "tls": "none"})
    desk.put(*[letter(f"to{number}@example.com") for number in range(40)])
    assert desk.ask("run", "--once")[0] == 0
    assert desk.store.mailers()[ALIAS].rest_left > 0
    with ScriptedServer(port=port) as server:
        desk.age(61)
        assert desk.ask("run", "--once")[0] == 0
        assert (len(server.taken), desk.pending) == (40, 0)


def test_once_leaves_what_is_due_later(make_desk: MakeDesk, smtp_server: Start) -> None:
    server = smtp_server(Play({"RCPT TO:<bob@example.com": "450 4.2.1 later"}))
    desk = make_desk(at(server))
    ann, bob = desk.put(letter(), letter("bob@example.com"))
    assert desk.ask("run", "--once")[0] == 0
    assert (desk.states(ann), desk.states(bob)) == ([State.ACCEPTED.value], [State.PENDING.value])


SENDTESTEMAIL = ("sendtestemail", "ann@example.com")


@pytest.mark.slow
def test_a_signal_ends_it_and_mail_under_way_is_finished(make_site: Callable[..., Site], smtp_server: Start) -> None:
    """SIGTERM comes while the server thinks about a message: that one is recorded, and no lease is left."""
    server = smtp_server(Play({".": (delay(1), "250 taken")}))
    site = make_site(server=at(server), outbox={"worker": "none"})
    for _ in range(3):
        assert site.manage(*SENDTESTEMAIL).returncode == 0
    running = site.start_manage("outbox", "run")
    assert wait_until(lambda: bool(server.taken), 60), site.log
    running.terminate()
    assert running.wait(25) == 0, site.log
    told = json.loads(site.manage("outbox", "stats", "--json").stdout)[0]["mailers"][0]
    states = [one["recipients"][0]["state"] for one in json.loads(site.manage("outbox", "list", "--json").stdout)]
    assert (told["in_hand"], told["lapsed"]) == (0, 0)
    assert states.count("accepted") == len(server.taken)
    running = site.start_manage("outbox", "run")
    assert wait_until(lambda: len(server.taken) == 3, 60), site.log
    running.send_signal(signal.SIGINT)
    assert running.wait(25) == 0, site.log


@pytest.mark.slow
def test_several_processes_are_replaced_and_end_together(make_site: Callable[..., Site], smtp_server: Start) -> None:
    server = smtp_server()
    site = make_site(server=at(server), outbox={"worker": "none"})
    running = site.start_manage("outbox", "run", "--processes", "2")
    assert wait_until(lambda: len(children(running.pid)) == 2, 60), site.log
    first, second = children(running.pid)
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: len(set(children(running.pid)) - {first}) == 2, 60), site.log
    assert f"process {first} ended with -9" in site.log
    assert second in children(running.pid)
    assert site.manage(*SENDTESTEMAIL).returncode == 0
    assert wait_until(lambda: len(server.taken) == 1, 60), site.log
    pids = children(running.pid)
    running.terminate()
    assert running.wait(25) == 0, site.log
    assert not any(map(state, pids))


@pytest.mark.slow
def test_processes_end_with_their_parent(make_site: Callable[..., Site], smtp_server: Start) -> None:
    site = make_site(server=at(smtp_server()), outbox={"worker": "none"})
    running = site.start_manage("outbox", "run", "--processes", "2")
    assert wait_until(lambda: len(children(running.pid)) == 2, 60), site.log
    pids = children(running.pid)
    running.kill()
    assert wait_until(lambda: not any(map(state, pids)), 30), site.log


@pytest.mark.slow
def test_several_processes_drain_once(make_site: Callable[..., Site], smtp_server: Start) -> None:
    server = smtp_server()
    site = make_site(server=at(server), outbox={"worker": "none"})
    assert site.manage(*SENDTESTEMAIL).returncode == 0
    done = site.manage("outbox", "run", "--once", "--processes", "2")
    assert (done.returncode, len(server.taken)) == (0, 1), done.stderr


def test_the_connection_of_requests_is_used_by_no_worker(desk: Desk) -> None:
    """Nor is one taken from a pool of theirs, which is asked for here and not installed."""
    if desk.store.connection.dialect == "sqlite":
        pytest.skip("PostgreSQL")
    connections["default"].settings_dict["OPTIONS"]["pool"] = True
    try:
        its = desk.site().open()
        assert its.statistics() == []
        its.connection.close()
    finally:
        del connections["default"].settings_dict["OPTIONS"]["pool"]


def test_help_names_every_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("outbox", "--help")
    said = capsys.readouterr().out
    for name in ("run", "list", "show", "retry", "cancel", "pause", "resume", "hold", "adopt", "purge", "forget"):
        assert f"\n    {name}" in said
