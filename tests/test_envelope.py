"""Envelopes: valid from birth, or not born."""

from __future__ import annotations

import email
import enum
import pickle
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.message import Message as StdMessage
from typing import Any

import pytest

from smtpbackend.address import Address
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import InvalidInput
from smtpbackend.message import Message


def people(envelope: Envelope) -> list[str]:
    """The recipients as str."""
    return [str(one.address) for one in envelope.recipients]


def test_addresses_come_in_every_form() -> None:
    """str, Address, Recipient, lists of them, and one string with commas."""
    ann = Address("ann", "x.org")
    assert people(Envelope("s@x.org", "ann@x.org, Bob <bob@x.org>")) == ["ann@x.org", "bob@x.org"]
    assert people(Envelope("s@x.org", ann)) == people(Envelope(ann, Recipient(ann))) == ["ann@x.org"]
    assert people(Envelope("s@x.org", (one for one in [ann, "bob@x.org", Recipient("c@x.org")]))) == [
        *("ann@x.org", "bob@x.org", "c@x.org")
    ]


def test_duplicates_collapse_into_one() -> None:
    """One RCPT for each mailbox, the first spelling and its parameters kept, order too."""
    first = Recipient("ann@EXAMPLE.org", notify=["FAILURE"])
    envelope = Envelope("s@x.org", [first, "b@x.org", "Ann <ann@example.org>", "b@x.org", "Ann@example.org"])
    assert people(envelope) == ["ann@EXAMPLE.org", "b@x.org", "Ann@example.org"]
    assert envelope.recipients[0] is first


@pytest.mark.parametrize("sender", ["", "<>", " ", None])
def test_the_null_reverse_path(sender: Any) -> None:
    """Nobody is told of a bounce (RFC 5321 4.5.5)."""
    assert Envelope(sender, "ann@x.org").sender is None


@pytest.mark.parametrize("recipients", ["", [], (), "undisclosed-recipients:;", iter(())])
def test_nobody_to_send_to(recipients: Any) -> None:
    """At least one recipient."""
    with pytest.raises(InvalidInput) as raised:
        Envelope("s@x.org", recipients)
    assert raised.value.field == "recipients"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("sender", {"sender": "a@b\r\nRCPT TO:<c@d>"}),
        ("sender", {"sender": "a@b, c@d"}),
        ("recipients", {"recipients": "a@b\n"}),
        ("recipients", {"recipients": ["a@b", "c\0@d"]}),
        ("recipients", {"recipients": [1]}),
        ("recipients", {"recipients": 1}),
        ("recipients", {"recipients": b"a@b"}),
        ("dsn_return", {"dsn_return": "ALL"}),
        ("envid", {"envid": "a\r\nb"}),
        ("envid", {"envid": ""}),
        ("envid", {"envid": "é"}),
        ("envid", {"envid": "x" * 101}),
        ("hold_for", {"hold_for": -1}),
        ("hold_for", {"hold_for": 10**9}),
        ("hold_for", {"hold_for": True}),
        ("hold_until", {"hold_until": datetime(2026, 1, 1)}),
        ("hold_until", {"hold_until": "2026-01-01T00:00:00Z"}),
        ("hold_until", {"hold_until": datetime(2026, 1, 1, tzinfo=UTC), "hold_for": 1}),
        ("extra", {"extra": {"A B": None}}),
        ("extra", {"extra": {"A": "b\r\nc"}}),
        ("extra", {"extra": {"A": "b=c"}}),
        ("extra", {"extra": {"A": 1}}),
        ("extra", {"extra": {"size": "1"}}),
    ],
)
def test_a_wrong_parameter_is_named(field: str, given: dict[str, Any]) -> None:
    """InvalidInput with the name of the argument, before anything is opened."""
    with pytest.raises(InvalidInput, match=field) as raised:
        Envelope(**{"sender": "s@x.org", "recipients": "r@x.org", **given})
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("notify", {"notify": ["NEVER", "DELAY"]}),
        ("notify", {"notify": "SOMETIMES"}),
        ("orcpt", {"orcpt": ""}),
        ("orcpt", {"orcpt": "a\nb"}),
        ("orcpt", {"orcpt": "x" * 501}),
        ("orcpt", {"orcpt": 1}),
        ("orcpt", {"orcpt": "a\x85b"}),
        ("orcpt", {"orcpt": "a\ud800b"}),
        ("recipients", {"address": "a b"}),
        ("recipients", {"address": 1}),
    ],
)
def test_a_wrong_recipient_is_named(field: str, given: dict[str, Any]) -> None:
    """The same for what belongs to one recipient."""
    with pytest.raises(InvalidInput, match=field) as raised:
        Recipient(**{"address": "r@x.org", **given})
    assert raised.value.field == field


def test_parameters_are_kept() -> None:
    """DSN, REQUIRETLS, FUTURERELEASE and others, in one spelling."""
    envelope = Envelope(
        "s@x.org",
        [Recipient("r@x.org", "success,failure", "rfc822;Old@x.org"), Recipient("q@x.org", ("never",), "o@x.org")],
        dsn_return="hdrs",
        envid="QQ 314+=",
        require_tls=True,
        hold_for=60,
        extra={"MT-PRIORITY": "3", "X-FLAG": None},
    )
    assert [one.notify for one in envelope.recipients] == [("SUCCESS", "FAILURE"), ("NEVER",)]
    assert [one.orcpt for one in envelope.recipients] == ["Old@x.org", "o@x.org"]
    assert [Recipient("r@x.org", orcpt=one).orcpt for one in ("UTF-8;jü@x.org", "jü@x.org")] == ["jü@x.org"] * 2
    assert (envelope.dsn_return, envelope.envid, envelope.require_tls, envelope.hold_for) == (
        "HDRS",
        "QQ 314+=",
        True,
        60,
    )
    assert envelope.extra == {"MT-PRIORITY": "3", "X-FLAG": None}
    until = datetime(2026, 1, 1, tzinfo=UTC)
    assert Envelope("", "r@x.org", hold_until=until).hold_until == until


def test_envelopes_are_values() -> None:
    """They compare, hash, pickle, and do not change."""
    one, other = (Envelope("s@x.org", "r@x.org", extra={"A": "b"}) for _ in "12")
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError):
        one.sender = None  # type: ignore[misc]


def test_smtputf8_is_needed_for_any_address() -> None:
    """Sender or recipient."""
    assert Envelope("ü@x.org", "r@x.org").needs_smtputf8
    assert Envelope("", ["r@x.org", "ü@x.org"]).needs_smtputf8
    assert not Envelope("", "r@ü.org").needs_smtputf8


# From headers


def std(policy_: Any, *fields: tuple[str, str]) -> StdMessage:
    """A message of the standard library with these header fields."""
    message = EmailMessage(policy=policy_) if policy_ is not policy.compat32 else StdMessage()
    for name, value in fields:
        message[name] = value
    return message


@pytest.mark.parametrize("kind", [policy.compat32, policy.default, policy.SMTP], ids=["compat32", "default", "SMTP"])
def test_everybody_in_the_headers(kind: Any) -> None:
    """From; To, Cc, Bcc and Dcc (tcllib), each once."""
    fields = (
        *(("From", "Ann <ann@x.org>"), ("To", '"B, B" <b@x.org>, friends: c@x.org;'), ("Cc", "d@x.org")),
        *(("Bcc", "e@x.org"), ("Dcc", "f@x.org, b@x.org"), ("Reply-To", "nobody@x.org")),
    )
    envelope = Envelope.from_headers(std(kind, *fields))
    assert str(envelope.sender) == "ann@x.org"
    assert people(envelope) == ["b@x.org", "c@x.org", "d@x.org", "e@x.org", "f@x.org"]


def test_everybody_in_a_message_of_ours() -> None:
    """The same from arguments and headers of one's own."""
    message = Message(
        "s",
        "Ann <ann@x.org>",
        "b@x.org",
        cc=["c@x.org"],
        bcc="d@x.org",
        headers=[("Dcc", "e@x.org"), ("to", "f@x.org")],
    )
    envelope = Envelope.from_headers(message)
    assert str(envelope.sender) == "ann@x.org"
    assert people(envelope) == ["b@x.org", "f@x.org", "c@x.org", "d@x.org", "e@x.org"]
    assert str(Envelope.from_headers(Message(headers={"from": "a@x.org", "TO": "b@x.org"})).sender) == "a@x.org"


def test_the_author_is_the_originator() -> None:
    """From, whatever Sender says; Sender speaks for several authors (RFC 5322 3.6.2)."""
    one = Message(from_="a@x.org", to="c@x.org", sender="s@x.org")
    assert str(Envelope.from_headers(one).sender) == "a@x.org"
    two = Message(from_="a@x.org, b@x.org", to="c@x.org")
    assert str(Envelope.from_headers(two).sender) == "a@x.org"
    two.sender = "s@x.org"
    assert str(Envelope.from_headers(two).sender) == "s@x.org"


def test_nobody_sends() -> None:
    """Without From somebody must name the sender."""
    with pytest.raises(InvalidInput, match="no From") as raised:
        Envelope.from_headers(std(policy.default, ("To", "a@x.org")))
    assert raised.value.field == "From"


def test_the_first_resent_block_counts_alone() -> None:
    """Who forwarded last is on top; everybody of the original message is left in peace (RFC 5322 3.6.6)."""
    source = (
        b"Resent-From: Eve <eve@x.org>\r\nResent-To: new@x.org,\r\n newer@x.org\r\nResent-Bcc: hidden@x.org\r\n"
        b"Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
        b"Resent-Cc: older@x.org\r\nResent-From: old@x.org\r\nFrom: ann@x.org\r\nTo: b@x.org\r\n\r\n."
    )
    for kind in (policy.compat32, policy.default):
        envelope = Envelope.from_headers(email.message_from_bytes(source, policy=kind))  # type: ignore[arg-type]
        assert str(envelope.sender) == "eve@x.org"
        assert people(envelope) == ["new@x.org", "newer@x.org", "hidden@x.org"]


def test_a_repeated_name_begins_an_older_block() -> None:
    """Two blocks without a trace field between them; of our own messages too."""
    fields = [
        ("Resent-From", "a@x.org"),
        ("Resent-To", "b@x.org"),
        ("Resent-From", "c@x.org"),
        ("Resent-To", "d@x.org"),
    ]
    message = Message("s", "e@x.org", "f@x.org", headers=fields)
    envelope = Envelope.from_headers(message)
    assert str(envelope.sender) == "a@x.org"
    assert people(envelope) == ["b@x.org"]
    trace = [*fields[:2], ("Received", "by x"), ("Resent-Cc", "g@x.org")]
    assert people(Envelope.from_headers(Message("s", "e@x.org", headers=trace))) == ["b@x.org"]
    with pytest.raises(InvalidInput) as raised:
        Envelope.from_headers(Message("s", "e@x.org", "f@x.org", headers={"Resent-To": "b@x.org"}))
    assert raised.value.field == "Resent-From"


def test_headers_that_hold_no_addresses_are_named() -> None:
    """The field of the error is the header."""
    with pytest.raises(InvalidInput) as raised:
        Envelope.from_headers(email.message_from_bytes(b"From: a@x.org\r\nTo: b c d\r\n\r\n"))
    assert raised.value.field == "To"


class Word(str, enum.Enum):  # noqa: UP042 -- a StrEnum is written as its value
    ADDRESS = "ann@example.org"
    NOTIFY = "FAILURE"
    RETURN = "HDRS"
    TEXT = "abc"
    NAME = "Ann"


def test_the_members_of_an_enumeration_are_their_characters() -> None:
    """``str`` of a member is its name, which no server must be told."""

    def made(kind: Any) -> Envelope:
        address = Address(kind(Word.NAME), kind(Word.TEXT), kind(Word.NAME))
        asked = Recipient(kind(Word.ADDRESS), notify=[kind(Word.NOTIFY)], orcpt=kind(Word.ADDRESS))
        recipients = [asked, Recipient(address, notify=kind(Word.NOTIFY)), kind(Word.ADDRESS)]
        return Envelope(
            kind(Word.ADDRESS),
            recipients,
            envid=kind(Word.TEXT),
            dsn_return=kind(Word.RETURN),
            extra={kind(Word.NAME): kind(Word.TEXT)},
        )

    found = made(lambda word: word)
    assert found == made(lambda word: word.value)
    assert "Word." not in f"{found.to_json()}{found!r}{found.extra}"
