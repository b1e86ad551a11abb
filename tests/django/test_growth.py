"""What a visitor of a Django site can fill takes time in proportion to its length: see `tests.growth`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends import smtp

from smtpbackend.errors import SMTPError
from smtpbackend_django.message import IS_MODERN, content_of, envelope_of
from tests.growth import LARGE, SHAPES, Work, check


def send(**fields: Any) -> None:
    """All but the delivery."""
    given = EmailMultiAlternatives(
        **{"subject": "x", "body": "x", "from_email": "a@b.example", "to": ["bob@example.org"], **fields}
    )
    prepare: Any = smtp.EmailBackend(alias=None).prep_address if IS_MODERN else None
    content: Any = content_of(given, envelope_of(given, prepare))
    if hasattr(content, "chunks"):
        b"".join(content.chunks())


FIELDS: dict[str, Callable[[str], Work]] = {
    "a subject": lambda text: lambda: send(subject=text),
    "a body": lambda text: lambda: send(body=text, alternatives=[(text, "text/html")]),
    "a recipient": lambda text: lambda: send(to=[text]),
    "a Reply-To": lambda text: lambda: send(reply_to=[text]),
    "a header": lambda text: lambda: send(headers={"X-A": text}),
    "a file name": lambda text: lambda: send(attachments=[(text, b"x", "a/b")]),
}


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_what_a_visitor_can_fill_takes_time_in_proportion(field: str) -> None:
    counted = {shape: check(FIELDS[field], shape, (SMTPError, ValueError, IndexError)) for shape in SHAPES}
    most = max(counted, key=lambda shape: counted[shape])
    print(f"Django, {field}: {len(counted)} shapes, at most {counted[most]} calls for {LARGE} characters ({most})")
