"""Who a mail goes to: what was given, what the envelope says, and what a reader finds in the headers are the same."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.header import Header, decode_header, make_header
from email.message import EmailMessage
from email.mime.text import MIMEText
from email.utils import getaddresses
from functools import partial
from inspect import signature
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpbackend import Address, Envelope, Message
from smtpbackend.envelope import Routing
from smtpbackend.errors import Injection, InvalidInput
from smtpbackend.mime import render

DATE = datetime(2026, 11, 26, tzinfo=UTC)

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=40)
LOCAL_PARTS = st.text("abc.+=-_ ,;:<>()@\"\\'", min_size=1, max_size=90)
DOMAINS = st.sampled_from(["example.org", "faß.example", "bücher.example", "i❤.example", "日本.example", "[192.0.2.1]"])


# newer releases of Python give up, unless they are told not to, where a local part has a colon in quotes
read_list: Any = partial(getaddresses, strict=False) if "strict" in signature(getaddresses).parameters else getaddresses


def mailboxes(octets: bytes, name: str) -> list[tuple[str, str, str]]:
    """Name, local part and domain of each, as the email package reads them.

    Its parser puts blanks between the words of an encoded name, so that is read by its decoder.
    """
    field: Any = email.message_from_bytes(octets, policy=email.policy.default)[name]
    raw = re.sub(r"\r?\n(?=[ \t])", "", str(email.message_from_bytes(octets)[name]))
    names = [str(make_header(decode_header(one))) for one, _ in read_list([raw])]
    return [(said, one.username, one.domain) for said, one in zip(names, field.addresses, strict=True)]


def sent(message: Any) -> bytes:
    return b"".join(render(message, date=DATE, token="t").chunks())


def as_read(name: str) -> str:
    """Runs of blanks are one in a phrase, and its ends are cut off: readers differ about no more than these."""
    return " ".join("".join(" " if character < " " or character == "\x7f" else character for character in name).split())


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, LOCAL_PARTS, DOMAINS), min_size=1, max_size=4))
@example([("Bob\tSmith", "bob", "example.org"), ("O\x92Neil", "o", "faß.example"), ("A\x85B\u2028C", "a", "x.org")])
@example([("0", ":", "[192.0.2.1]")])
@example([("Smith, Bob", "bounce+ann=example.org-" + "k" * 90, "i❤.example")])
def test_a_reader_finds_who_was_given_and_the_envelope_names_the_same(people: list[tuple[str, str, str]]) -> None:
    """As pairs, as addresses and as their text: names, mailboxes and hosts; in To, Cc, From and Reply-To."""
    addresses = [Address(local_part, domain, name) for name, local_part, domain in people]
    pairs = [(name, str(Address(local_part, domain))) for name, local_part, domain in people]
    for listed in (addresses, pairs):
        message = Message("s", listed[0], listed, listed, reply_to=listed, text="x")  # type: ignore[arg-type]
        octets = sent(message)
        for field in ("To", "Cc", "Reply-To", "From"):
            found = mailboxes(octets, field)
            wanted = addresses if field != "From" else addresses[:1]
            assert [(as_read(name), box, host) for name, box, host in found] == [
                (as_read(one.display_name), one.local_part, one.ascii_domain) for one in wanted
            ]
        envelope = Envelope.from_headers(message)
        assert [one.address.addr_spec for one in envelope.recipients] == list(dict.fromkeys(map(str, addresses)))
        assert str(envelope.sender) == str(addresses[0])


@settings(deadline=None)
@given(
    st.sampled_from(["s{}x", "Bob {}.", "{}x"]),
    st.sampled_from(["\r", "\n", "\0", "\r\nBcc: eve@example.org"]),
    st.sampled_from(["pair", "text", "Address", "Header"]),
)
def test_no_line_end_comes_in_by_a_name(name: str, breach: str, way: str) -> None:
    """The message is refused as a whole, however the name is given."""
    name = name.format(breach)
    ways: dict[str, Callable[[], Any]] = {
        "pair": lambda: [(name, "bob@example.org")],
        "text": lambda: f'"{name}" <bob@example.org>',
        "Address": lambda: Address("bob", "example.org", name),
        "Header": lambda: [Header(f"{name} <bob@example.org>", "utf-8")],
    }
    with pytest.raises(Injection):
        Message("s", "a@example.com", ways[way]())


def test_a_pair_is_an_address_wherever_one_is_taken() -> None:
    """Author, sender, recipients, answers, and both sides of an envelope."""
    pair = ("Lee, Ann", "ann@example.org")
    message = Message("s", pair, pair, [pair], (pair,), reply_to=pair, sender=pair, text="x")
    message.to.append(("Bob", "bob@example.org"))
    octets = sent(message)
    for field in ("From", "Sender", "Cc", "Reply-To"):
        assert mailboxes(octets, field) == [("Lee, Ann", "ann", "example.org")]
    assert mailboxes(octets, "To") == [("Lee, Ann", "ann", "example.org"), ("Bob", "bob", "example.org")]
    for envelope in (Envelope.from_headers(message), Envelope(pair, [pair, ("Bob", "bob@example.org")])):
        assert str(envelope.sender) == "ann@example.org"
        assert [str(one.address) for one in envelope.recipients] == ["ann@example.org", "bob@example.org"]
    assert [str(one.address) for one in Envelope(pair, pair).recipients] == ["ann@example.org"]


def test_a_tuple_of_two_addresses_is_two_recipients_and_one_author() -> None:
    """Nobody is left out as the name of another, and the name that somebody chose is no reverse-path."""
    both = ("ann@example.org", "bob@example.org")
    message = Message("s", "a@example.com", both, text="x")
    assert [str(one.address) for one in Envelope.from_headers(message).recipients] == list(both)
    assert [str(one.address) for one in Envelope("a@example.com", both).recipients] == list(both)
    for message in (Message("s", both, "a@example.com"), Message("s", "a@x.org", "a@example.com", sender=both)):
        assert str(Envelope.from_headers(message).sender) in ("bob@example.org", "a@x.org")
        assert b'"ann@example.org" <bob@example.org>\r\n' in sent(message)


EVIL = "ann@bank.example, eve@evil.example"


@pytest.mark.parametrize("element", [EVIL, f"x: {EVIL};", "", " ", None, 1, ...], ids=repr)
def test_an_element_of_a_list_is_one_recipient_or_none(element: Any) -> None:
    """What a form or a model gives for one address never adds recipients."""
    for field in ("to", "cc", "bcc"):
        message = Message("s", "a@example.com", **{field: ["bob@example.org", element]})  # type: ignore[arg-type]
        found, ((text, error),) = Routing(message).recipients()
        assert [str(one) for one in found] == ["bob@example.org"]
        assert (text, error.field) == (element if isinstance(element, str) else repr(element), f"{field}[1]")
    with pytest.raises(InvalidInput) as raised:
        Message("s", "a@example.com", reply_to=["bob@example.org", element])  # type: ignore[list-item]
    assert raised.value.field == "reply_to"
    for given_ in ([element], ("bob@example.org", "carl@example.org", element)):
        with pytest.raises(InvalidInput):
            Envelope("a@example.com", given_)


def test_one_bare_str_is_a_list() -> None:
    """Of an argument, of an attribute that is set later, and of a header."""
    message = Message("s", "a@example.com", "ann@x.org, bob@x.org", text="x", headers=[("Cc", "c@x.org, d@x.org")])
    message.bcc = "e@x.org, friends: f@x.org;"  # type: ignore[assignment]
    found = [str(one.address) for one in Envelope.from_headers(message).recipients]
    assert found == ["ann@x.org", "bob@x.org", "c@x.org", "d@x.org", "e@x.org", "f@x.org"]
    assert [box for _, box, _ in mailboxes(sent(message), "To")] == ["ann", "bob"]


@pytest.mark.parametrize("text", ["Ann, Inc. <a@example.com>", "Smith, Bob <bob@example.org>", "root, a@example.com"])
def test_half_a_name_is_no_mailbox(text: str) -> None:
    """Neither of a Message nor of a message of the email package, whatever its policy: MAIL FROM:<Ann> never leaves."""
    with pytest.raises(InvalidInput, match="stands in quotes"):
        Message("s", text, text="x")
    for to in (text, [text]):
        found, ((given_, error),) = Routing(Message("s", "a@example.com", to, text="x")).recipients()
        assert (found, given_) == ([], text)
        assert "stands in quotes" in str(error)
    for name in ("From", "To"):
        for policy in (email.policy.default, email.policy.compat32):
            message = email.message_from_string(f"{name}: {text}\n\nx", policy=policy)
            message["To" if name == "From" else "From"] = "bob@example.org"
            with pytest.raises(InvalidInput, match="stands in quotes"):
                Envelope.from_headers(message)


@pytest.mark.parametrize(
    "given_",
    [("Bob", None), ("Bob", ""), ("Ann", "ann@example.org", "bob@example.org"), ("ann@example.org", "Ann", None)],
)
def test_no_name_in_a_tuple_becomes_a_mailbox(given_: Any) -> None:
    """``to=(user.name, user.email)`` of a user without an address, and a name with two."""
    for field in ("to", "cc", "bcc"):
        with pytest.raises(InvalidInput):
            Message("s", "a@example.com", **{field: given_})
    with pytest.raises(InvalidInput):
        Envelope("a@example.com", given_)


@pytest.mark.parametrize(
    "given_",
    [("Ann", "ann@example.org", "bob@example.org"), ("bob@example.org", "Ann", "ann@example.org"), ("Bob", None)],
)
@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_nor_does_one_in_a_tuple_that_is_set_later(field: str, given_: Any) -> None:
    """``message.to = ...``, which no constructor looks at: the name is refused, and the addresses have the mail."""
    message = Message("s", "a@example.com", "carol@example.org")
    setattr(message, field, given_)
    found, refused = Routing(message).recipients()
    addresses = [one for one in given_ if one and "@" in one]
    assert {str(one) for one in found} - {"carol@example.org"} == set(addresses)
    assert [text for text, _ in refused] == (["Ann"] if addresses else [repr(given_)])
    with pytest.raises(InvalidInput):
        Envelope.from_headers(message)


@pytest.mark.parametrize("others", [["Ann", "a@example.com"], ["a@example.com", "Ann"]])
def test_an_author_without_a_domain_beside_one_with_is_none(others: list[str]) -> None:
    """A pair that came as a list, as JSON has it: its name is no reverse-path."""
    with pytest.raises(InvalidInput, match="as a pair"):
        Message("s", others, "bob@example.org")


class TestHeaderObjects:
    """``email.header.Header``, as tutorials have it: ``Header("Bøb <bob@example.org>", "utf-8")``."""

    def message(self, field: str, value: Any) -> MIMEText:
        message = MIMEText("x", "plain", "utf-8")
        for name in ("From", "To", "Cc"):
            message[name] = value if name == field else "ann@example.org"
        return message

    @pytest.mark.parametrize("field", ["From", "To", "Cc"])
    @pytest.mark.parametrize("name", ["Bøb", "Bøb" * 40, "Bob", '"Smith, Bøb"'])
    def test_the_address_is_the_one_in_it(self, field: str, name: str) -> None:
        """The envelope has it, and so has who reads the header."""
        message = self.message(field, Header(f"{name} <bob@example.org>", "utf-8"))
        envelope = Envelope.from_headers(message)
        assert "bob@example.org" in {str(envelope.sender), *(str(one.address) for one in envelope.recipients)}
        assert mailboxes(sent(message), field) == [(name.strip('"'), "bob", "example.org")]

    def test_one_that_is_well_made_stays(self) -> None:
        """The name alone is encoded; whatever it says adds nobody."""
        value = Header("Bøb, eve@example.org", "utf-8")
        value.append("<bob@example.org>", "us-ascii")
        message = self.message("To", value)
        assert f"To: {value.encode()}\r\n".replace("\r\n", "\n") in sent(message).decode().replace("\r\n", "\n")
        recipients = [str(one.address) for one in Envelope.from_headers(message).recipients]
        assert recipients == ["bob@example.org", "ann@example.org"]

    def test_it_is_taken_where_a_str_is(self) -> None:
        """By a Message and by an envelope."""
        value: Any = Header("Bøb <bob@example.org>", "utf-8")
        message = Message("s", value, [value], value, text="x")
        for field in ("From", "To", "Cc"):
            assert mailboxes(sent(message), field) == [("Bøb", "bob", "example.org")]
        assert str(Envelope(value, [value]).sender) == "bob@example.org"

    def test_what_is_encoded_as_a_str_is_no_address(self) -> None:
        """There it is text of somebody, who may have written anything into it."""
        with pytest.raises(InvalidInput, match="encoded word"):
            Envelope.from_headers(self.message("To", Header("Bøb <bob@example.org>", "utf-8").encode()))


@pytest.mark.parametrize("host", ["faß.example", "i❤.example", "bücher.example", "Ⅷ.example"])
@pytest.mark.parametrize("policy", [email.policy.default, email.policy.SMTP, email.policy.compat32])
def test_a_message_of_the_email_package_names_the_host_of_the_envelope(host: str, policy: Any) -> None:
    message: Any = EmailMessage(policy) if policy is not email.policy.compat32 else MIMEText("x")
    message["From"] = "Bøb <bob@example.org>"
    message["To"] = f"Ann <ann@{host}>"
    (recipient,) = Envelope.from_headers(message).recipients
    assert mailboxes(sent(message), "To") == [("Ann", "ann", recipient.address.ascii_domain)]
