"""The core writes what Django would write: the same octets, save for the boundaries, the date and the Message-ID."""

from __future__ import annotations

import email.policy
import re
import string
import sys
from collections.abc import Callable
from email.utils import getaddresses
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail import message as mail
from django.core.mail.backends import smtp
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, assume, example, given, reject, settings
from hypothesis import strategies as st

from smtpbackend import mime
from smtpbackend.content import Content
from smtpbackend.envelope import Envelope
from smtpbackend.errors import InvalidInput
from smtpbackend.header import MAX_FOLDED
from smtpbackend.stdlib_mime import plain_addr_spec
from smtpbackend_django.message import IS_MODERN, content_of, envelope_of
from tests.arriving import strictly_decoded
from tests.django.corpus import CASES, PNG
from tests.made_text import Made

ENVELOPE = Envelope("from@example.com", "to@example.org")
STAMPED = {"Date": "Mon, 23 Nov 2026 01:02:03 +0100", "Message-ID": "<given@example.com>"}

# These are of another class, or hold parts that only Django and the email package can render.
NOT_SIMPLE = {
    "latin_1_charset",
    "us_ascii_charset",
    "bcc header",
    "mime_attachment",
    "attached_message",
    "attached_message_as_bytes",
    *(name for name in CASES if name.startswith("subclass")),
    *(("idn", "idn with a name") if IS_MODERN else ()),
}


def djangos_octets(message: EmailMessage) -> bytes:
    """What leaves for the octets that Django's own backend hands to smtplib."""
    if IS_MODERN:
        octets = message.message(policy=email.policy.SMTP).as_bytes()
    else:
        octets = message.message().as_bytes(linesep="\r\n")
    return b"".join(mime.given(octets).chunks())


def alike(octets: bytes) -> bytes:
    """The octets, the boundaries numbered."""
    for number, boundary in enumerate(dict.fromkeys(re.findall(rb"={15}\d{19}==", octets))):
        octets = octets.replace(boundary, b"boundary %d" % number)
    return octets


def ours(message: EmailMessage) -> bytes | None:
    """What the core wrote; None where it left the message to Django."""
    content = content_of(message, ENVELOPE)
    return b"".join(content.chunks()) if isinstance(content, Content) else None


def check(make: Callable[[], EmailMessage], must_be_simple: bool = True) -> None:
    try:
        theirs = djangos_octets(make())
    except Exception:  # Django cannot write it: neither do we
        with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever Django or the email package says
            content_of(make(), ENVELOPE)
        return
    try:
        found = ours(make())
    except InvalidInput as error:
        if not re.search("has a control character|is not the name of a header", str(error)):
            raise
        found = None  # what could begin another header, Django writes it or not
    if found is None:
        assert not must_be_simple
        return
    if alike(found) != alike(theirs):
        assert must_be_left(alike(theirs), alike(found))


def must_be_left(theirs: bytes, ours: bytes) -> bool:
    """Whether the two differ in header fields alone, and only in some that are not read as what was given.

    What stands in a comment is read in as many ways as there are readers: there ours have none.
    """
    (their_head, _, their_body), (our_head, _, our_body) = (one.partition(b"\r\n\r\n") for one in (theirs, ours))
    fields = [re.split(rb"\r\n(?![ \t])", head) for head in (their_head, our_head)]
    differ = [(their, our) for their, our in zip(*fields, strict=True) if their != our]
    return their_body == our_body and all(
        says(their) != says(our) or (b"(" in their and b"(" not in our) for their, our in differ
    )


def says(field: bytes) -> tuple[bytes, object]:
    """What a strict reader finds in a field."""
    name, _, value = re.sub(rb"\r\n(?=[ \t])", b"", field).partition(b":")
    text = value.decode("ascii").strip()
    if name.lower() in (b"from", b"to", b"cc", b"reply-to", b"sender"):
        return name, [(strictly_decoded(one), address) for one, address in getaddresses([text])]
    return name, strictly_decoded(text) if name.lower() == b"subject" else text


def stamped(make: Callable[[], EmailMessage]) -> Callable[[], EmailMessage]:
    def made() -> EmailMessage:
        message = make()
        names = {name.lower() for name in message.extra_headers}
        added = {name: value for name, value in STAMPED.items() if name.lower() not in names}
        message.extra_headers = {**message.extra_headers, **added}
        return message

    return made


@pytest.mark.parametrize("name", CASES)
def test_the_corpus_is_written_by_the_core(name: str) -> None:
    """All that is simple is, and is what Django writes: nobody notices when a fast path is no longer taken."""
    if name in NOT_SIMPLE:
        assert ours(CASES[name]()) is None
    else:
        check(stamped(CASES[name]))


MAKERS: dict[str, Callable[[str], Any]] = {
    "template": mark_safe,
    "translation": gettext_lazy,
    "translated template": lambda text: lazystr(mark_safe(text)),
    "subclass": Made,
}


def converted(message: EmailMessage, convert: Callable[[str], Any]) -> EmailMessage:
    """The message with each of its texts made that way."""

    def texts(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            listed = [texts(one) for one in given]
            return type(given)(*listed) if hasattr(given, "_fields") else type(given)(listed)
        return convert(given) if isinstance(given, str) else given

    for name in ("subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "attachments"):
        setattr(message, name, texts(getattr(message, name)))
    message.extra_headers = {name: texts(value) for name, value in message.extra_headers.items()}
    for number, (content, media_type) in enumerate(getattr(message, "alternatives", [])):
        message.alternatives[number] = mail.EmailAlternative(convert(content), media_type)
    return message


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_SIMPLE])
def test_a_text_is_written_by_the_core_whatever_made_it(name: str, maker: str) -> None:
    """What templates render and translations find is written as the same str is: sites send little else."""
    found = ours(converted(stamped(CASES[name])(), MAKERS[maker]))
    assert found is not None
    assert alike(found) == alike(djangos_octets(stamped(CASES[name])()))


@pytest.mark.parametrize("maker", MAKERS)
def test_an_address_is_parsed_once_whatever_made_it(maker: str) -> None:
    """The core alone parses a plain one: the email package is slow at it."""
    called: list[Any] = []
    prepare = smtp.EmailBackend(alias=None).prep_address if IS_MODERN else None
    plain = EmailMessage("s", "b", "Ann <ann@example.com>", ["bob@example.org"])
    right = envelope_of(plain, prepare)
    message = converted(plain, MAKERS[maker])
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        found = envelope_of(message, prepare)
    finally:
        sys.setprofile(None)
    assert found == right
    assert not [path for path in called if path.endswith(("_header_value_parser.py", "headerregistry.py"))]


def test_date_and_message_id_are_made_as_django_makes_them() -> None:
    shape = re.compile(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d ([+-]\d{4})\r\nMessage-ID: <[\d.]+@(\S+)>\r\n")
    theirs, found = djangos_octets(CASES["plain"]()), ours(CASES["plain"]())
    assert found is not None
    assert shape.sub(rb"\1 \2", found) == shape.sub(rb"\1 \2", theirs)
    assert shape.search(found)


@pytest.mark.parametrize("is_local", [False, True])
def test_the_zone_of_the_date_is_djangos(is_local: bool) -> None:
    from tests.django.conftest import email_settings

    zone = re.compile(rb"\r\nDate: .* ([+-]\d{4})\r\n")
    with email_settings(EMAIL_USE_LOCALTIME=is_local, TIME_ZONE="Asia/Kathmandu"):
        found = ours(CASES["plain"]())
        assert found is not None
        assert zone.findall(found) == zone.findall(djangos_octets(CASES["plain"]()))


# Any text

# Control characters, line ends of all kinds, separators, any script; half surrogate pairs, which nobody can send
ANY = st.text(st.characters(codec="utf-8"), max_size=100)
WORDS = st.lists(
    st.sampled_from(["word", "zwei", "Grüße", "=", "=?utf-8?q?no?=", ".", "", "x" * 70, "日本語"]), max_size=14
)
LINE_END = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n", "\x0c", "\x0b", "\u2028", ""])
BODY = st.one_of(
    ANY,
    st.lists(st.tuples(WORDS.map(" ".join), LINE_END), max_size=25).map(lambda lines: "".join(map("".join, lines))),
    st.text(string.ascii_letters + " .\n", max_size=1500),
    st.integers(70, 1100).map(lambda length: "y" * length),
)
HEADER = st.one_of(WORDS.map(" ".join), st.text(string.printable, max_size=90), ANY)
LABEL = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12)
PLAIN_NAME = st.lists(st.text(string.ascii_letters + "'!#&*_~", min_size=1, max_size=9), min_size=1, max_size=9)
ADDR_SPEC = st.builds(
    lambda local, domain: f"{'.'.join(local)}@{'.'.join(domain)}",
    st.lists(st.text(string.ascii_letters + "+-_=?'", min_size=1, max_size=9), min_size=1, max_size=3),
    st.lists(LABEL, min_size=1, max_size=3),
)
ADDRESS = st.one_of(
    ADDR_SPEC,
    st.builds(lambda name, spec: f"{' '.join(name)} <{spec}>", PLAIN_NAME, ADDR_SPEC),
    st.builds(lambda name, spec: f"{name} <{spec}>", HEADER, ADDR_SPEC),
    HEADER,
)
SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(BODY)
@example("a" * 78)
@example("a" * 79)
@example("ü" * 39)
@example("ü" * 40)
@example("x" * 998 + "\n")
@example("x" * 999 + "\n")
@example("x" * 500 + "\x0c" + "x" * 500)
@example("\n".join(["short"] * 12 + ["ü" * 60]))
@example("日本語" * 40)
@example("a\x00b\x1a\n")
def test_any_body(body: str) -> None:
    # A line that is long but for a separator which is none in mail is left to Django
    must_be_simple = IS_MODERN or re.search("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", body) is None
    must_be_simple = must_be_simple and "\0" not in body  # which Django writes as it is
    check(stamped(lambda: EmailMessage("S", body, "from@example.com", ["to@example.org"])), must_be_simple)


@SETTINGS
@given(HEADER)
@example("x" * 69)
@example("x" * 70)
@example("two  spaces")
@example(" first")
@example("last ")
@example("tab\there")
@example("")
@example("=?utf-8?b?w7w=?= =?utf-8?b?w7w=?=")
def test_any_subject(subject: str) -> None:
    assume(len(subject) <= MAX_FOLDED)  # a longer one is ours to fold, which Django may do for minutes
    must_be_simple = re.search("[\x00-\x1f\x7f]", subject) is None
    check(stamped(lambda: EmailMessage(subject, "B", "from@example.com", ["to@example.org"])), must_be_simple)


@SETTINGS
@given(st.sampled_from(["X-Head", "References", "Sender", "List-Id", "Resent-To", "x-long-name-of-a-header"]), HEADER)
@example("Date", "Mon, 23 Nov 2026 01:02:03 +0100")
@example("Date", "yesterday")
@example("Message-ID", "<a b@example.com>")
@example("message-id", "none")
@example("From", "Other <other@example.com>")
@example("from", "Other <other@example.com>")
@example("To", "friends: a@example.com, b@example.com;")
@example("Reply-To", "")
@example("Content-Language", "de")
@example("Content-Type", "text/html")
@example("MIME-Version", "1.0")
@example("Subject", "another")
@example("subject", "another")
@example("X Y", "a space in a name")
@example("X-Ü", "a letter in a name")
@example("X:", "a colon in a name")
@example("", "no name")
@example("References", "\x850")
def test_any_header(name: str, value: str) -> None:
    def made() -> EmailMessage:
        return EmailMessage("S", "B", "from@example.com", ["to@example.org"], headers={name: value})

    check(stamped(made), must_be_simple=False)


@SETTINGS
@example("0(", [], [])
@given(ADDRESS, st.lists(ADDRESS, max_size=4), st.lists(ADDRESS, max_size=2))
@example("Ann <ann@example.com>", ["b@example.org"] * 5, [])
@example("webmaster", ["root"], [])
@example("a@b", ["Änn <a@b>", '"Q, r" <q@r>'], ["=?utf-8?q?=C3=BC?= <a@b>"])
@example("a@bücher.example", [], ["jörg@example.org"])
@example("a@-b", ["a@b-"], ["a_b@c_d"])
def test_any_address(from_email: str, to: list[str], reply_to: list[str]) -> None:
    check(stamped(lambda: EmailMessage("S", "B", from_email, to, cc=to, reply_to=reply_to)), must_be_simple=False)


FILENAME = st.one_of(
    st.none(),
    st.text(string.ascii_letters + " ._-", min_size=1, max_size=60),
    st.text(string.printable, min_size=1, max_size=40),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
)
PART = st.one_of(
    st.tuples(
        FILENAME, st.binary(max_size=200), st.sampled_from(["application/pdf", "image/png", "x/y", "font/woff2"])
    ),
    st.tuples(FILENAME, BODY, st.sampled_from(["text/plain", "text/csv", "text/x-diff"])),
    st.tuples(
        FILENAME, ANY, st.sampled_from(["application/json", "text/plain; charset=latin-1", "TEXT/html", "a", ""])
    ),
)
ALTERNATIVE = st.one_of(
    st.tuples(BODY, st.sampled_from(["text/html", "text/calendar", "text/markdown"])),
    st.tuples(st.binary(max_size=99), st.sampled_from(["application/x-thing", "text/html"])),
)


@SETTINGS
@given(BODY, st.lists(ALTERNATIVE, max_size=3), st.lists(PART, max_size=3), st.sampled_from(["plain", "html", "x-y"]))
@example("", [("<p>", "text/html")], [], "plain")
@example("", [("<p>ü", "text/html")], [("a.png", PNG, "image/png")], "plain")
@example("", [], [("a.txt", "", "text/plain")], "plain")
@example("", [], [("a.bin", b"", "application/octet-stream")], "plain")
@example("", [], [("ä" * 50, b"1", "application/octet-stream"), (None, b"", "image/png")], "html")
@example("B", [], [("large", b"\0\1\2" * 100_000, "image/png"), ("after", "ü", "text/plain")], "plain")
def test_any_parts(body: str, alternatives: list[Any], attachments: list[Any], subtype: str) -> None:
    def made() -> EmailMessage:
        message = EmailMultiAlternatives("S", body, "from@example.com", ["to@example.org"])
        message.content_subtype = subtype
        for content, media_type in alternatives:
            message.attach_alternative(content, media_type)
        message.attachments = [mail.EmailAttachment(*one) for one in attachments]
        return message

    check(stamped(made), must_be_simple=False)


@pytest.mark.parametrize(
    "change",
    [
        {"body": None},
        {"body": 7},
        {"body": b"octets"},
        {"subject": None},
        {"subject": 7},
        {"encoding": "latin-1"},
        {"encoding": "UTF-8"},
        {"encoding": "none such"},
        {"content_subtype": "html; x=y"},
        {"content_subtype": ""},
        {"mixed_subtype": "related", "attachments": [("a", b"b", "image/png")]},
        {"alternative_subtype": "x", "alternatives": [mail.EmailAlternative("a", "text/html")]},
        {"alternatives": [("a", "text/html")]},
        {"attachments": [("a", b"b", "image/png")]},
        {"attachments": [("a", b"b")]},
        {"attachments": [("a", bytearray(b"b"), "image/png")]},
        {"attachments": [("", b"b", "image/png")]},
        {"attachments": [("a.txt", b"\xff", "text/plain")]},
        {"attachments": [("a.txt", "ü", "application/json")]},
        {"attachments": [("a.eml", "Subject: x\n\ny", "message/rfc822")]},
        {"attachments": ["text"]},
        {"attachments": [7]},
        {"to": "a@example.org"},
        {"to": [None]},
        {"cc": ("a@example.org",)},
        {"reply_to": [7]},
        {"from_email": None},
        {"extra_headers": {"X-Number": 7, **STAMPED}},
        {"extra_headers": {"X-None": None, **STAMPED}},
        {"extra_headers": {"X-One": "1", "x-one": "2", **STAMPED}},
        {"extra_headers": {"date": "Mon, 23 Nov 2026 01:02:03 +0100", **STAMPED}},
        {"extra_headers": {7: "a", **STAMPED}},
    ],
    ids=str,
)
def test_what_nobody_thinks_of_ends_as_with_django(change: dict[str, Any]) -> None:
    """The same octets, or the same exception."""

    def made() -> EmailMessage:
        message = EmailMultiAlternatives("S", "B", "from@example.com", ["to@example.org"], headers=dict(STAMPED))
        vars(message).update(change)
        return message

    try:
        theirs = djangos_octets(made())
    except Exception as error:
        with pytest.raises(type(error)):
            content_of(made(), ENVELOPE)
        return
    content = content_of(made(), ENVELOPE)
    given = mime.given(content) if isinstance(content, bytes) else content
    octets = b"".join(given.chunks()) if isinstance(given, Content) else djangos_octets(made())
    assert alike(octets) == alike(theirs)


# Encoded anew


@SETTINGS
@given(BODY.map("Grüße\n{}".format), BODY)
@example("Grüße\n", "<p>Grüße</p>")
def test_what_is_8_bit_is_encoded_for_a_server_that_wants_it(body: str, html: str) -> None:
    import email

    message = EmailMultiAlternatives("S", body, "from@example.com", ["to@example.org"])
    message.attach_alternative(html, "text/html")
    content = content_of(message, ENVELOPE)
    if not isinstance(content, Content):
        reject()
    encoded = content.as_7bit()
    assert not encoded.is_8bit
    assert encoded.message_id == content.message_id
    before, after = (email.message_from_bytes(b"".join(one.chunks())) for one in (content, encoded))
    assert [part.get_content_type() for part in before.walk()] == [part.get_content_type() for part in after.walk()]
    for one, other in zip(before.walk(), after.walk(), strict=True):
        assert one["Subject"] == other["Subject"]
        if not one.is_multipart():
            lines = [(part.get_payload(decode=True) or b"").splitlines() for part in (one, other)]
            assert lines[0] == lines[1]


# Addresses


@SETTINGS
@given(ADDRESS)
@example("a@b")
@example("Ann Author <ann@example.com>")
@example("=?utf-8?q?a?=@example.com")
def test_an_address_is_taken_as_it_is_only_where_django_does(address: str) -> None:
    plain = plain_addr_spec(address)
    if plain is None:
        return
    if IS_MODERN:
        assert smtp.EmailBackend(alias=None).prep_address(address) == plain
    else:
        assert mail.sanitize_address(address, "utf-8").rpartition("<")[2].rstrip(">") == plain
