"""What a visitor of a Flask site can fill takes time in proportion to its length: see `tests.growth`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend.errors import SMTPError
from smtpbackend.mime import render
from smtpbackend_flask import Attachment, Message
from smtpbackend_flask.translate import translate
from tests.growth import LARGE, SHAPES, Work, check
from tests.test_growth import DATE

pytestmark = pytest.mark.exhaustive  # nothing in it depends on the Python or the framework


def send(text: str = "x", **fields: Any) -> None:
    """All but the delivery."""
    given = Message(
        **{"subject": "x", "recipients": ["bob@example.org"], "body": text, "sender": "a@b.example", **fields}
    )
    content = translate(given, None).content
    if not hasattr(content, "chunks"):
        content = render(content, date=DATE, token="t")
    b"".join(content.chunks())


FIELDS: dict[str, Callable[[str], Work]] = {
    "a subject": lambda text: lambda: send(subject=text),
    "a subject beside a file": lambda text: lambda: send(subject=text, attachments=[Attachment("f", "a/b", b"x")]),
    "a body": lambda text: lambda: send(text, html=text),
    "a recipient": lambda text: lambda: send(recipients=[text]),
    "the name of a recipient": lambda text: lambda: send(recipients=[(text, "bob@example.org")]),
    "a Reply-To": lambda text: lambda: send(reply_to=text),
    "a Reply-To beside a file": lambda text: lambda: send(reply_to=text, attachments=[Attachment("f", "a/b", b"x")]),
    "a header": lambda text: lambda: send(extra_headers={"X-A": text}),
    "a header of addresses": lambda text: lambda: send(extra_headers={"Errors-To": text}),
    "a file name": lambda text: lambda: send(attachments=[Attachment(text, "a/b", b"x")]),
    "a media type": lambda text: lambda: send(attachments=[Attachment("f", text, b"x")]),
    "a forwarded mail": lambda text: (
        lambda: send(attachments=[Attachment("f", "message/rfc822", f"Content-Type: {text}\n\n{text}".encode())])
    ),
    "options": lambda text: lambda: send(mail_options=[f"ENVID={text}", text], rcpt_options=[f"ORCPT={text}"]),
}


@pytest.mark.parametrize("field", FIELDS)
def test_what_a_visitor_can_fill_takes_time_in_proportion(field: str) -> None:
    counted = {shape: check(FIELDS[field], shape, (SMTPError, ValueError)) for shape in SHAPES}
    most = max(counted, key=lambda shape: counted[shape])
    print(f"Flask, {field}: {len(counted)} shapes, at most {counted[most]} calls for {LARGE} characters ({most})")
