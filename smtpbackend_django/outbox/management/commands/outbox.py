"""``manage.py outbox``: deliver the mail of a site, look at it, and decide about it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError, connections

from smtpbackend.outbox import Options, Priority, State, Store
from smtpbackend_django.outbox import conf
from smtpbackend_django.outbox.database import store
from smtpbackend_django.outbox.process import DjangoSite
from smtpbackend_django.outbox.running import run, run_processes, signals
from smtpbackend_django.outbox.telling import (
    COUNTS,
    counted,
    entry_lines,
    entry_row,
    listed,
    meant,
    pause_line,
    problem,
    shown,
    statistics_lines,
    table,
    time_text,
)

__all__ = ["Command"]

DAY = 86400.0
MAX_ID = 2**63 - 1
PAGE = 500  # entries that are read at a time
STATES = [state.value for state in State]
WHY_TOO_LATE = {
    State.PENDING.value: "too late, it is being sent",
    State.ACCEPTED.value: "too late, a server accepted it",
    State.IN_DOUBT.value: "too late, it may have arrived",
    State.REJECTED.value: "it was rejected already",
    State.EXPIRED.value: "it has expired already",
    State.FAILED.value: "it has failed already",
}
WHY_NO_RETRY = {
    "in hand": "it is being sent now",
    "erased": "its content is erased, and cannot be sent again; have your site send it anew",
    "accepted": "every recipient was accepted already",
    "unknown": "there is no such entry in this environment",
}


class Command(BaseCommand):
    """Exit codes: 0; 1 where something is not as it was wanted; 2 where nothing could be done."""

    help = "Deliver the mail of the outbox, look at it, and decide about it."
    requires_system_checks = ()  # settings that cannot work are told here

    def add_arguments(self, parser: ArgumentParser) -> None:
        """As Django asks for them."""
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

        def action(name: str, text: str) -> ArgumentParser:
            its: ArgumentParser = actions.add_parser(name, help=text, description=text)
            its.add_argument("--database", help="its alias in DATABASES; default: that of the outboxes")
            its.add_argument("--json", action="store_true", help="print JSON")
            return its

        its = action("run", "Deliver all mail of the site until SIGTERM or Ctrl-C.")
        its.add_argument("--once", action="store_true", help="end when nothing is due any more (for cron)")
        its.add_argument("--processes", type=_count, default=1, metavar="N", help="how many; default: 1")
        its = action("list", "List the latest entries.")
        its.add_argument("--state", type=_state, choices=STATES, help="only those with a recipient in this state")
        its.add_argument("--using", metavar="ALIAS", help="only those of this mailer")
        its.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many; default: 50")
        its = action("show", "Show all of an entry but its content.")
        its.add_argument("id", type=_id, metavar="ID")
        its.add_argument("--content", action="store_true", help="print the message that is stored")
        its = action("retry", "Send again to recipients that were not reached. 1 where an entry cannot be sent again.")
        its.add_argument("ids", type=_id, nargs="*", metavar="ID")
        its.add_argument("--state", type=_state, choices=STATES, help="all with a recipient in this state")
        its.add_argument("--from", dest="of", metavar="ALIAS", help="all of this mailer, by default the pending ones")
        its.add_argument("--using", metavar="ALIAS", help="send them by this mailer")
        its = action("cancel", "Cancel entries. 1 where it was too late for a recipient.")
        its.add_argument("ids", type=_id, nargs="+", metavar="ID")
        its = action("pause", "Send nothing of a mailer, or of the site, until it is resumed; also after restarts.")
        its.add_argument("alias", nargs="?", default="", metavar="ALIAS", help="default: all mailers of the site")
        its = action("resume", "Send again what was paused or held.")
        its.add_argument("alias", nargs="?", default="", metavar="ALIAS", help="default: what holds for all mailers")
        action("hold", "Send nothing until `outbox resume`: run it before a restored database is used.")
        its = action("adopt", "Send the mail of a database that was copied or moved, see its environments.")
        its.add_argument("environment", nargs="?", metavar="ENVIRONMENT", help="default: list them")
        its = action("purge", "Delete finished entries, and contents that are kept no longer.")
        its.add_argument("--older-than", type=_number, metavar="DAYS", help="default: what `keep` says in the settings")
        its = action("forget", "Erase an address. 1 where mail to it is still pending.")
        its.add_argument("address", metavar="ADDRESS")
        action("stats", "Tell what waits, by which mailer, and why.")
        its = action("check", "For monitoring: 1 where mail waits that should not, with what to do.")
        its.add_argument("--oldest", type=_number, default=300.0, metavar="SECONDS", help="default: 300")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do one action."""
        try:
            self._all = conf.outboxes()
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=2) from error
        if not self._all:
            raise CommandError(_NO_OUTBOX, returncode=2)
        self._json = options["json"]
        self._chosen = self._of(options["database"])
        action: Callable[[dict[str, Any]], int] = getattr(self, f"_{options['action']}")
        with self._told_for_people():
            code = action(options)
            self._commit()
        if code:
            sys.exit(code)

    def _commit(self) -> None:
        """Where autocommit is off in ``DATABASES``, nobody else does."""
        for database in {one.database for one in self._chosen}:
            connection = connections[database]
            if not connection.in_atomic_block and not connection.get_autocommit():
                connection.commit()

    def _of(self, database: str | None) -> list[conf.Outbox]:
        """The outboxes of a database, or all."""
        found = [one for one in self._all.values() if database in (None, one.database)]
        if not found:
            databases = sorted({one.database for one in self._all.values()})
            raise CommandError(
                f"no outbox is in database {database!r}{meant(str(database), databases)}; they are in "
                f"{listed(databases)}",
                returncode=2,
            )
        return found

    @contextlib.contextmanager
    def _told_for_people(self) -> Iterator[None]:
        try:
            yield
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=2) from error
        except (DatabaseError, InterfaceError) as error:
            for one in self._chosen:
                with contextlib.suppress(DatabaseError, InterfaceError):
                    if "smtpbackend_outbox_due" not in connections[one.database].introspection.table_names():
                        option = "" if one.database == "default" else f" --database={one.database}"
                        raise CommandError(
                            f"database {one.database!r} lacks the tables of the outbox: run `manage.py "
                            f"migrate{option}`",
                            returncode=2,
                        ) from error
            names = listed(sorted({one.database for one in self._chosen}))
            raise CommandError(
                f"database {names}: {str(error).strip()}. Check that it runs, and what DATABASES says of it",
                returncode=2,
            ) from error

    # Stores and aliases

    def _stores(self) -> list[tuple[Store, list[conf.Outbox]]]:
        """The store of each database and environment, with its outboxes."""
        found: dict[tuple[str, str], list[conf.Outbox]] = {}
        for one in self._chosen:
            found.setdefault((one.database, one.options.environment), []).append(one)
        return [(store(*key), its) for key, its in found.items()]

    def _store(self) -> Store:
        """The one that an id, or an environment, belongs to."""
        stores = self._stores()
        if len(stores) > 1:
            names = listed(sorted({one.database for one in self._chosen}))
            raise CommandError(
                f"the outboxes are in several databases or environments: give --database, one of {names}"
            )
        return stores[0][0]

    def _alias(self, given: str, its: Iterable[str] = ()) -> str:
        """The mailer behind the outbox that was meant, or one of ``its``, of which mail is stored."""
        if given in self._all or given in its:
            return given
        for one in self._all.values():
            if one.mailer == given:
                return one.alias
        raise CommandError(
            f"no outbox of the settings sends by {given!r}{meant(given, [*self._all, *its])}; there are: "
            f"{listed([*self._all, *(one for one in its if one not in self._all)])}",
            returncode=2,
        )

    # Actions

    def _run(self, options: dict[str, Any]) -> int:
        sites = [DjangoSite(*key) for key in {(one.database, one.options.environment): None for one in self._chosen}]
        for its, _ in self._stores():
            its.mailers()  # a database that is away, or has no tables, is told at once
        if not options["once"]:
            self._say(f"Delivering the mail of {listed([one.alias for one in self._chosen])}, until SIGTERM or Ctrl-C.")
        with signals() as came:
            if options["processes"] == 1:
                run(sites, came, once=options["once"])
            elif not hasattr(os, "fork"):
                raise CommandError("--processes needs fork, which this system lacks: start this command several times")
            else:
                connections.close_all()  # no process may use that of another
                parent = os.getpid()
                run_processes(options["processes"], lambda: run(sites, came, once=options["once"], parent=parent), came)
        return 0

    def _list(self, options: dict[str, Any]) -> int:
        found = []
        for its, _ in self._stores():
            alias = self._alias(options["using"], its.aliases()) if options["using"] else ""
            found += its.entries(options["state"] or "", alias, options["limit"])
        found.sort(key=lambda row: row[2], reverse=True)
        told = [
            {
                "id": row[0],
                "mailer": row[1],
                "created": time_text(row[2]),
                "finished": time_text(row[3]),
                "subject": row[4],
                "recipients": [{"address": address, "state": state} for address, state in row[5]],
            }
            for row in found[: options["limit"]]
        ]
        self._print(told, lambda: table(("ID", "MAILER", "CREATED", "STATE", "TO", "SUBJECT"), map(entry_row, told)))
        return 0

    def _show(self, options: dict[str, Any]) -> int:
        its = self._store()
        told = its.show(options["id"])
        if told is None:
            raise CommandError(f"there is no entry {options['id']}")
        if options["content"]:
            return self._show_content(its, told)
        for name in ("created", "send_at", "expires", "finished"):
            told[name] = time_text(told[name])
        told["priority"] = Priority(told["priority"]).name.lower()
        if told["due"]:
            told["due"]["next_try"] = time_text(told["due"]["next_try"])
            told["due"]["leased"] = bool(told["due"]["leased"])
        self._print(told, lambda: entry_lines(told))
        return 0

    def _show_content(self, its: Store, told: dict[str, Any]) -> int:
        if told["erased"]:
            raise CommandError(f"the content of entry {told['id']} is erased: nobody is owed it any more")
        self.stdout.flush()
        out = getattr(self.stdout, "buffer", None)
        for octets in its.content(told["id"]):
            if out is not None:
                out.write(octets)
            else:
                self.stdout.write(octets.decode("utf-8", "replace"), ending="")
        return 0

    def _retry(self, options: dict[str, Any]) -> int:
        its = self._store()
        using = self._alias(options["using"]) if options["using"] else None
        wanted = self._wanted(its, options)
        told: dict[int, str] = {}
        for entry_id, alias in wanted:
            if using is None and alias is not None and alias not in self._all:
                told[entry_id] = f"no outbox of the settings sends by {alias!r}: give --using"
                continue
            lasts = (self._all[using or alias].options if alias is not None else Options()).expires
            state = its.retry([entry_id], lasts, using)[entry_id]
            told[entry_id] = WHY_NO_RETRY.get(state, state)
        its.notify()
        failed = {entry_id: why for entry_id, why in told.items() if why != "due"}
        self._print(
            [{"id": entry_id, "retried": why == "due", "why": why} for entry_id, why in told.items()],
            lambda: [
                *(f"{entry_id}: {why}" for entry_id, why in failed.items()),
                f"{counted(len(told) - len(failed), 'entry is', 'entries are')} due again.",
            ],
        )
        return 1 if failed else 0

    def _wanted(self, its: Store, options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        """Entries with their mailers; None where there is no such entry."""
        if options["ids"]:
            for entry_id in options["ids"]:
                found = its.show(entry_id)
                yield entry_id, found and found["alias"]
            return
        if not options["state"] and not options["of"]:
            raise CommandError("give ids of entries, --state or --from", returncode=2)
        alias = self._alias(options["of"], its.aliases()) if options["of"] else ""
        before = None
        while rows := its.entries(options["state"] or State.PENDING.value, alias, PAGE, before):
            for row in rows:
                yield row[0], row[1]
            before = rows[-1][0]

    def _cancel(self, options: dict[str, Any]) -> int:
        its = self._store()
        found = its.cancel(options["ids"])
        told: list[dict[str, Any]] = []
        for entry_id in dict.fromkeys(options["ids"]):
            if entry_id not in found:
                told.append({"id": entry_id, "address": None, "cancelled": False, "why": WHY_NO_RETRY["unknown"]})
            for address, state in found.get(entry_id, ()):
                is_cancelled = state == State.CANCELLED.value
                why = state if is_cancelled else WHY_TOO_LATE[state]
                told.append({"id": entry_id, "address": address, "cancelled": is_cancelled, "why": why})
        self._print(told, lambda: [f"{one['id']}: {one['address'] or ''} {one['why']}" for one in told])
        return 0 if all(one["cancelled"] for one in told) else 1

    def _pause(self, options: dict[str, Any]) -> int:
        return self._set_paused(options["alias"], True)

    def _resume(self, options: dict[str, Any]) -> int:
        return self._set_paused(options["alias"], False)

    def _hold(self, options: dict[str, Any]) -> int:
        return self._set_paused("", True)

    def _set_paused(self, given: str, paused: bool) -> int:
        told = []
        for its, outboxes in self._stores():
            alias = given and self._alias(given, its.aliases())
            if alias in self._all and alias not in {one.alias for one in outboxes}:
                continue  # it has another store
            its.pause(alias, paused)
            its.notify()
            rows = its.mailers()
            still = sorted(name for name, row in rows.items() if row.is_paused and name != alias)
            told.append({"mailer": alias or None, "environment": its.environment, "paused": paused, "also": still})
        self._print(told, lambda: [pause_line(one) for one in told])
        return 0

    def _adopt(self, options: dict[str, Any]) -> int:
        its = self._store()
        others = {name: count for name, count in its.environments().items() if name != its.environment}
        wanted = options["environment"]
        if wanted is None:
            told = {"environment": its.environment, "others": others}
            self._print(
                told,
                lambda: [
                    f"This is {its.environment!r}.",
                    *(f"{name!r} has {counted(count, 'mail', 'mails')} due." for name, count in others.items()),
                    "`manage.py outbox adopt ENVIRONMENT` sends them, and prunes what is finished; end what still runs "
                    "on the old database first."
                    if others
                    else "No other environment has mail here.",
                ],
            )
            return 0
        if wanted not in others:
            raise CommandError(
                f"{wanted!r} is this environment"
                if wanted == its.environment
                else f"no mail of {wanted!r} is here{meant(wanted, others)}",
            )
        count = its.adopt(wanted)
        its.notify()
        self._print(
            {"adopted": wanted, "due": count},
            lambda: [f"{counted(count, 'mail', 'mails')} of {wanted!r} will be sent here."],
        )
        return 0

    def _purge(self, options: dict[str, Any]) -> int:
        erased = deleted = 0
        for its, outboxes in self._stores():
            known = {one.alias: one.options for one in outboxes}
            for alias in list(its.aliases_of_finished()):
                of_mailer = known.get(alias, outboxes[0].options)  # no worker prunes mail of unknown mailers
                keep = of_mailer.keep if options["older_than"] is None else options["older_than"] * DAY
                has_more = True
                while has_more:
                    begun = time.monotonic()
                    step = its.purge(keep, of_mailer.keep_failed, alias=alias)
                    erased, deleted, has_more = erased + step.erased, deleted + step.deleted, step.has_more
                    time.sleep(min(0.5, time.monotonic() - begun) if has_more else 0)  # others write as well
        self._print(
            {"deleted": deleted, "erased": erased},
            lambda: [
                f"{counted(deleted, 'entry', 'entries')} deleted, {counted(erased, 'content', 'contents')} erased."
            ],
        )
        return 0

    def _forget(self, options: dict[str, Any]) -> int:
        erased = pending = 0
        for its, _ in self._stores():
            one = its.forget(options["address"])
            erased, pending = erased + one[0], pending + one[1]
        said = [f"Erased in {counted(erased, 'entry', 'entries')}."]
        if pending:
            said.append(
                f"Still pending in {counted(pending, 'entry', 'entries')}: cancel them, or run this again once they "
                "are sent."
            )
        self._print({"erased": erased, "pending": pending}, lambda: said)
        return 1 if pending else 0

    def _stats(self, options: dict[str, Any]) -> int:
        told = [self._statistics(its, outboxes) for its, outboxes in self._stores()]
        self._print(told, lambda: [line for one in told for line in statistics_lines(one)])
        return 0

    def _statistics(self, its: Store, outboxes: Sequence[conf.Outbox]) -> dict[str, Any]:
        rows = its.mailers()
        counted = {one.pop("alias"): one for one in its.statistics()}
        names = sorted({*counted, *rows, *(one.alias for one in outboxes)} - {""})
        mailers = []
        for name in names:
            row = rows.get(name)
            down_for = row.down_for if row else None
            mailers.append(
                {
                    "mailer": name,
                    "is_known": name in {one.alias for one in outboxes},
                    **{key: (counted.get(name) or {}).get(key) or 0 for key in COUNTS},
                    **{key: (counted.get(name) or {}).get(key) for key in ("oldest", "unclaimed")},
                    "paused": bool(row and row.is_paused),
                    "down_since": time_text(time.time() - down_for) if down_for is not None else None,
                    "last_error": row.last_error if row else "",
                }
            )
        others = {name: count for name, count in its.environments().items() if name != its.environment and count}
        return {
            "environment": its.environment,
            "paused": "" in rows and rows[""].is_paused,
            "mailers": mailers,
            "other_environments": others,
            "old_snapshot": its.old_snapshot(),
        }

    def _check(self, options: dict[str, Any]) -> int:
        found = []
        for one in (self._statistics(*its) for its in self._stores()):
            texts = {mailer["mailer"]: problem(mailer, one["paused"], options["oldest"]) for mailer in one["mailers"]}
            found += [{"mailer": name, "text": text} for name, text in texts.items() if text]
        told = {"ok": not found, "problems": found}
        self._print(told, lambda: [one["text"] for one in found] or ["No mail waits that should not."])
        return 1 if found else 0

    # Printing

    def _print(self, told: Any, lines: Callable[[], Iterable[str]]) -> None:
        if self._json:
            self.stdout.write(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            for line in lines():
                self._say(line)

    def _say(self, line: str) -> None:
        self.stdout.write(shown(line))


_NO_OUTBOX = (
    'the settings have no outbox: set EMAIL_BACKEND = "smtpbackend_django.outbox.OutboxBackend" or, where MAILERS is '
    'defined, {"BACKEND": "smtpbackend_django.outbox.OutboxBackend", "OPTIONS": {"using": ALIAS}} in it'
)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _id(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MAX_ID:
        raise ArgumentTypeError(f"{text!r} is no id of an entry: see `manage.py outbox list`")
    return int(text)


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(text)) < 1e9:
            return number
    raise ArgumentTypeError(f"{text!r} is no number of at least 0")


def _state(text: str) -> str:
    return text.replace("-", "_").replace(" ", "_")
