"""What has several places fails with the name of the one that was forgotten; CONTRIBUTING.md has the tables.

A setting, a parameter of MAIL that is a field of `Envelope`, and a SASL mechanism that is built in.
"""

from __future__ import annotations

import ast
import inspect
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smtpbackend import Envelope, InvalidInput
from smtpbackend.content import Content
from smtpbackend.delivery import settings
from smtpbackend.delivery.configuration import Configuration, PoolLimits, Rules
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.settings import MAILER_KEYS, SERVER_KEYS
from smtpbackend.mime import given
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.mechanisms import MECHANISMS
from smtpbackend.protocol.transaction import Transaction, notes, objection

ROOT = Path(__file__).parents[1]

# Settings

IN_THE_POOL = PoolLimits._field_defaults | Rules._field_defaults
CONFIGURED = set(IN_THE_POOL) | (set(Configuration._fields) - {"servers", "limits", "rules"})
SECRET = (settings.secret, settings.token, settings.proxy)


@cache
def attributes() -> frozenset[str]:
    """Every name behind a dot, anywhere in the core but in what reads the settings."""
    found: set[str] = set()
    for path in (ROOT / "smtpbackend").rglob("*.py"):
        if path.name not in ("settings.py", "configuration.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return frozenset(found)


@pytest.mark.parametrize("name", SERVER_KEYS)
def test_a_setting_of_a_server_is_a_field_of_server(name: str) -> None:
    assert name in Server._fields, f"{name} is in SETTINGS, and Server in delivery/server.py has no such field"
    default = Server._field_defaults[name]
    assert default in (None, SERVER_KEYS[name].default), f"{name} is {default!r} in Server, and SETTINGS says otherwise"
    if SERVER_KEYS[name].parse in SECRET:
        assert f"{name}=" not in repr(Server("mx")), f"{name} is secret: Server.__repr__ shows it"


@pytest.mark.parametrize("name", MAILER_KEYS)
def test_a_setting_of_a_mailer_is_in_the_configuration(name: str) -> None:
    where = "delivery/configuration.py: put it into PoolLimits, Rules or Configuration"
    assert name in CONFIGURED, f"{name} is in SETTINGS, and dropped in {where}"
    if name in IN_THE_POOL:
        assert IN_THE_POOL[name] == MAILER_KEYS[name].default, f"the default of {name} differs in {where}"


@pytest.mark.parametrize("name", [*SERVER_KEYS, *MAILER_KEYS])
def test_a_setting_is_used(name: str) -> None:
    assert name in attributes(), f"{name} can be set, and nothing in smtpbackend/ reads .{name}"


# Parameters of MAIL


class Asked(NamedTuple):
    """A field of Envelope: a value, the parameter that it becomes, and the keyword that a server offers it by.

    ``needed``: a server without that is not given the message; else the receipt has a note.
    """

    value: Any
    parameter: str
    keyword: str
    needed: bool


ASKED = {
    "dsn_return": Asked("FULL", "RET", "DSN", False),
    "envid": Asked("id+1", "ENVID", "DSN", False),
    "require_tls": Asked(True, "REQUIRETLS", "REQUIRETLS", True),
    "hold_for": Asked(60, "HOLDFOR", "FUTURERELEASE", True),
    "hold_until": Asked(datetime(2030, 1, 1, tzinfo=UTC), "HOLDUNTIL", "FUTURERELEASE", True),
}


def content() -> Content:
    return given(b"Subject: x\r\n\r\nx\r\n")


def test_every_field_of_the_envelope_is_asked_for_below() -> None:
    fields = set(Envelope._fields)
    assert fields - {"sender", "recipients", "extra"} == set(ASKED), "a field of Envelope wants a row in ASKED"
    assert set(inspect.signature(Envelope).parameters) == fields, "Envelope.__init__ and its fields differ"


@pytest.mark.parametrize("name", ASKED)
class TestAFieldOfTheEnvelope:
    def envelope(self, name: str) -> Envelope:
        return Envelope("a@example.org", "b@example.org", **{name: ASKED[name].value})

    def test_it_is_kept_and_shown(self, name: str) -> None:
        envelope = self.envelope(name)
        assert getattr(envelope, name) == ASKED[name].value, f"Envelope.__init__ drops {name}"
        assert f"{name}={ASKED[name].value!r}" in repr(envelope), f"Envelope.__repr__ has no {name}"
        assert name in (Envelope.__doc__ or ""), f"the docstring of Envelope has no {name}"
        assert not envelope.is_plain, f"is_plain is set in Envelope.__init__ without {name}: nothing would look at it"

    def test_it_goes_to_json_and_back(self, name: str) -> None:
        envelope = self.envelope(name)
        kept = json.loads(json.dumps(envelope.to_json()))
        assert name in kept, f"Envelope.to_json has no {name}"
        assert Envelope.from_json(kept) == envelope, f"Envelope.from_json does not restore {name}"

    def test_it_stands_in_mail(self, name: str) -> None:
        envelope, asked = self.envelope(name), ASKED[name]
        transaction = Transaction(envelope, envelope.recipients, content())
        mail = transaction.commands(Capabilities({asked.keyword: ""}))[0]
        where = f"{asked.parameter} of {name} is not in MAIL; see Transaction.mail_parameters"
        assert f" {asked.parameter}".encode() in mail, where

    def test_a_server_without_it_is_not_given_the_message_or_the_receipt_says_so(self, name: str) -> None:
        envelope, asked = self.envelope(name), ASKED[name]
        refused = objection(envelope, content(), Capabilities({}), "mx")
        if asked.needed:
            assert refused is not None, f"objection in protocol/transaction.py does not ask for {asked.keyword}"
        else:
            assert asked.keyword in "".join(notes(envelope, Capabilities({}))), f"notes has no {asked.keyword}"
        assert objection(envelope, content(), Capabilities({asked.keyword: ""}), "mx") is None

    def test_it_is_given_by_its_name_alone(self, name: str) -> None:
        said = "nothing"
        try:
            Envelope("a@example.org", "b@example.org", extra={ASKED[name].parameter: "1"})
        except InvalidInput as error:
            said = str(error)
        where = f"{ASKED[name].parameter} is not in _OURS of envelope.py: {name} and extra may both say it"
        assert f"use {name}" in said, where

    def test_it_has_room_in_the_line(self, name: str) -> None:
        """With every other field, and the longest address (RFC 5321 4.5.3.1.3)."""
        values = {other: asked.value for other, asked in ASKED.items() if other != "hold_until" or name == other}
        if name == "hold_until":
            del values["hold_for"]
        path = f"{'a' * 64}@{'.'.join(['b' * 62] * 2)}.org"
        envelope = Envelope(path, path, **{**values, "envid": "+" * 100})
        offered = Capabilities({"SIZE": "", **{asked.keyword: "" for asked in ASKED.values()}})
        mail = Transaction(envelope, envelope.recipients, content()).commands(offered)[0]
        assert len(mail) <= command.MAX_MAIL


# Mechanisms

# Built in, and in no row of docs/interoperability.md
NOT_TRIED = {
    "SCRAM-SHA-512-PLUS": "no server of the matrix offers it",
    "SCRAM-SHA-256-PLUS": "no server of the matrix offers it",
    "SCRAM-SHA-1-PLUS": "no server of the matrix offers it",
    "ANONYMOUS": "no server of the matrix offers it",
}


@pytest.mark.parametrize("name", [mechanism.name for mechanism in MECHANISMS])
class TestAMechanism:
    def test_it_has_a_row_of_the_matrix_or_a_reason(self, name: str) -> None:
        page = (ROOT / "docs" / "interoperability.md").read_text(encoding="utf-8")
        is_tried = f"| {name} " in page
        assert is_tried or name in NOT_TRIED, (
            f"docs/interoperability.md has no row of {name}: have a server of tests/servers offer it and "
            "`make interop`, or say in NOT_TRIED why not"
        )
        assert not (is_tried and name in NOT_TRIED), f"{name} is tried: take it out of NOT_TRIED"

    @pytest.mark.parametrize("page", ["docs/supported-rfcs.md", "docs/topics/logins.md"])
    def test_a_page_speaks_of_it(self, name: str, page: str) -> None:
        text = (ROOT / page).read_text(encoding="utf-8")
        family = "SCRAM" if name.startswith("SCRAM-") else name
        assert family in text, f"{page} says nothing of {name}"

    def test_its_exchange_is_tested(self, name: str) -> None:
        text = (ROOT / "tests" / "protocol" / "test_sasl.py").read_text(encoding="utf-8")
        spelled = (name, name.removesuffix("-PLUS"), name.lower().replace("-", "_"))
        assert any(one in text for one in spelled), f"tests/protocol/test_sasl.py has no {name}"

    def test_what_is_used_on_request_only_is_told(self, name: str) -> None:
        mechanism = next(one for one in MECHANISMS if one.name == name)
        told = name in SERVER_KEYS["auth_mechanisms"].meaning
        assert told is mechanism.on_request, f"the meaning of auth_mechanisms in SETTINGS is wrong about {name}"


def test_the_tables_name_tests_that_are_there() -> None:
    tables = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## What has several places")[2]
    named = {word for line in tables.splitlines() for word in line.split("`") if word.startswith("test_")}
    here = Path(__file__).read_text(encoding="utf-8")
    elsewhere = (ROOT / "tests" / "test_docs.py", ROOT / "tests" / "django" / "test_backend.py")
    there = here + "".join(path.read_text(encoding="utf-8") for path in elsewhere)
    assert len(named) > 12
    assert [name for name in sorted(named) if f"def {name}(" not in there] == []
