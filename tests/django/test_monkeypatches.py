"""Where somebody else's function would render a message, that function does: on each Django, wherever it was put."""

from __future__ import annotations

import email.generator
import email.message
import email.policy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail import message as mail
from django.core.mail.backends import smtp

from smtpbackend.content import Content
from smtpbackend.envelope import Envelope
from smtpbackend_django import EmailBackend
from smtpbackend_django.message import IS_MODERN, content_of, envelope_of
from smtpbackend_django.monkeypatches import is_untouched
from tests.servers.aiosmtpd_server import AiosmtpdServer

ENVELOPE = Envelope("from@example.com", "to@example.org")


def make() -> EmailMultiAlternatives:
    """A message in which every function that renders has something to do."""
    message = EmailMultiAlternatives("Subject", "Body\n", "from@example.com", ["to@example.org"])
    message.attach_alternative("<p>Body</p>\n", "text/html")
    message.attach("a.pdf", b"%PDF", "application/pdf")
    message.attach("a.txt", "text\n", "text/plain")
    return message


def octets(message: EmailMessage) -> bytes:
    content = content_of(message, ENVELOPE)
    if isinstance(content, bytes):
        return content
    if isinstance(content, Content):
        return b"".join(content.chunks())
    return content.as_bytes()


def test_djangos_own_message_is_written_by_the_core() -> None:
    assert is_untouched()
    for message in (make(), EmailMessage("S", "B", "from@example.com", ["to@example.org"])):
        assert isinstance(content_of(message, ENVELOPE), Content)


# Who renders, and what each of them is asked for when a message is rendered
METHODS = (
    ["message", "_add_bodies", "_add_attachments", "_add_attachment", "_set_list_header_if_not_empty"]
    if IS_MODERN
    else ["message", "_create_message", "_create_alternatives", "_create_attachments", "_create_mime_attachment"]
)
if IS_MODERN:
    CLASSES: list[tuple[Any, str]] = [
        *((email.message.EmailMessage, name) for name in ("as_bytes", "set_content", "__setitem__", "add_attachment")),
        *((email.message.MIMEPart, name) for name in ("as_bytes", "set_content", "add_attachment", "make_mixed")),
        *((email.message.Message, name) for name in ("__setitem__", "set_payload", "set_param")),
        (email.policy.EmailPolicy, "fold_binary"),
    ]
else:
    CLASSES = [
        *((mail.SafeMIMEText, name) for name in ("as_bytes", "__setitem__", "set_payload")),
        *((mail.SafeMIMEMultipart, name) for name in ("as_bytes", "__setitem__", "attach")),
        (mail.MIMEMixin, "as_bytes"),
        (mail.MIMEText, "set_payload"),
        (mail.MIMEBase, "set_payload"),
        *((email.message.Message, name) for name in ("__setitem__", "set_payload", "add_header")),
    ]
CLASSES += [(kind, name) for kind in (EmailMessage, EmailMultiAlternatives) for name in METHODS if hasattr(kind, name)]
CLASSES += [(email.generator.BytesGenerator, "flatten"), (email.generator.Generator, "_write_headers")]


def watched(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def watch(*args: Any, **options: Any) -> Any:
        calls.append("called")
        return function(*args, **options)

    return watch


@pytest.mark.parametrize(("kind", "name"), CLASSES, ids=lambda one: getattr(one, "__qualname__", one))
def test_a_method_put_on_a_class_is_called(kind: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(kind, name, watched(getattr(kind, name), calls))
    octets(make())
    # a class below may have its own; what is above is looked at all the same, for who calls it is Django's matter
    assert calls or not is_untouched()
    monkeypatch.undo()
    assert is_untouched()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_put_on_a_message_is_called(name: str) -> None:
    calls: list[str] = []
    message = make()
    setattr(message, name, watched(getattr(message, name), calls))
    octets(message)
    assert calls
    assert is_untouched()


@pytest.mark.parametrize(
    "name", ["email", "punycode", "AddressHeader"] if IS_MODERN else ["SafeMIMEText", "forbid_multi_line_headers"]
)
def test_what_is_put_into_djangos_module_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "email":
        monkeypatch.setattr(mail.email.message, "EmailMessage", type("Mine", (email.message.EmailMessage,), {}))
    elif isinstance(getattr(mail, name), type):
        monkeypatch.setattr(mail, name, type("Mine", (getattr(mail, name),), {}))
    else:
        monkeypatch.setattr(mail, name, lambda *given: getattr(mail, name)(*given))
    assert not is_untouched()


def test_a_header_class_of_the_site_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not IS_MODERN:
        pytest.skip("Django 5.2 knows no header classes")
    from email.headerregistry import UnstructuredHeader

    class Loud(UnstructuredHeader):
        @classmethod
        def parse(cls, value: str, kwds: dict[str, Any]) -> None:
            super().parse(value.upper(), kwds)

    registry = email.policy.SMTP.header_factory.registry  # type: ignore[attr-defined]
    monkeypatch.setitem(registry, "x-head", Loud)
    message = make()
    message.extra_headers = {"X-Head": "quiet"}
    assert b"X-Head: QUIET\r\n" in octets(message)


def test_a_content_manager_of_the_site_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not IS_MODERN:
        pytest.skip("Django 5.2 knows no content managers")
    handlers = email.policy.SMTP.content_manager.set_handlers  # type: ignore[attr-defined]
    calls: list[str] = []
    monkeypatch.setitem(handlers, str, watched(handlers[str], calls))
    octets(make())
    assert calls


def test_a_subclass_renders_itself(backend: EmailBackend, server: AiosmtpdServer) -> None:
    """Whatever it overrides: ``message()`` here, as those do that encrypt."""

    class Encrypting(EmailMultiAlternatives):
        def message(self, **options: Any) -> Any:
            rendered = super().message(**options)
            rendered.set_payload("-----BEGIN PGP MESSAGE-----\n")
            rendered.replace_header("Content-Type", "application/octet-stream")
            return rendered

    backend.send_messages([Encrypting("S", "secret", "from@example.com", ["to@example.org"])])
    (one,) = server.arrived
    assert b"BEGIN PGP" in one.content
    assert b"secret" not in one.content


def test_a_patched_method_leaves_as_it_rendered(
    backend: EmailBackend, server: AiosmtpdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendering = EmailMessage.message

    def message(self: EmailMessage, **options: Any) -> Any:
        rendered = rendering(self, **options)
        rendered["X-Patched"] = "yes"
        return rendered

    monkeypatch.setattr(EmailMessage, "message", message)
    backend.send_messages([make()])
    assert b"X-Patched: yes" in server.arrived[0].content


@pytest.mark.parametrize("wrapped", ["", "functools.wraps(rendering)"])
def test_what_was_patched_before_the_import_is_not_taken_for_djangos(wrapped: str) -> None:
    """A site may do so in its settings; what this module finds then is not Django's, though it may take its name."""
    script = f"""
        import functools
        from django.conf import settings
        settings.configure()
        from django.core.mail import EmailMessage
        rendering = EmailMessage.message
        EmailMessage.message = {wrapped}(lambda self, **options: rendering(self, **options))
        from smtpbackend_django.monkeypatches import is_untouched
        assert not is_untouched()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parents[2])


def test_a_header_class_that_was_there_before_the_import_is_not_taken_for_one_of_python() -> None:
    script = """
        import email.policy
        from email.headerregistry import UnstructuredHeader
        from django.conf import settings
        settings.configure()
        email.policy.SMTP.header_factory.registry["x-head"] = type("Loud", (UnstructuredHeader,), {})
        from smtpbackend_django.monkeypatches import is_untouched
        assert not is_untouched()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parents[2])


def test_who_only_looks_changes_nothing() -> None:
    """A class keeps its annotations, and what `copy` wants of it, from when they are first asked for."""
    script = """
        import copy
        from django.conf import settings
        settings.configure()
        from smtpbackend_django import monkeypatches
        for one in monkeypatches._CLASSES:
            one.__annotations__, one.__doc__, one.__subclasses__(), dir(one)
        copy.copy(monkeypatches.email.message.EmailMessage())
        assert monkeypatches.is_untouched()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parents[2])


def test_what_was_taken_away_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(EmailMessage, "message")
    assert not is_untouched()


def test_an_overridden_way_to_prepare_addresses_is_asked() -> None:
    if not IS_MODERN:
        pytest.skip("Django 5.2 has no prep_address")

    class Other(smtp.EmailBackend):
        def prep_address(self, address: Any, force_ascii: bool = True) -> str:
            return "other@example.org"

    message = EmailMessage("S", "B", "from@example.com", ["to@example.org"])
    assert str(envelope_of(message, Other(alias=None).prep_address).sender) == "other@example.org"


def test_a_patched_way_to_prepare_addresses_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    place, name = (smtp.EmailBackend, "prep_address") if IS_MODERN else (mail, "sanitize_address")
    monkeypatch.setattr(place, name, watched(getattr(place, name), calls))
    prepare = EmailBackend().prep_address if IS_MODERN else None
    envelope_of(EmailMessage("S", "B", "from@example.com", ["to@example.org"]), prepare)
    assert len(calls) == 2


def test_nothing_of_django_renders_a_simple_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it quick, and no clock can say: not a function of the email package or of Django's rendering runs."""
    message, called = make(), set()
    octets(make())  # what is folded once is kept

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            called.add((frame.f_globals.get("__name__", ""), frame.f_code.co_name))

    sys.setprofile(watch)
    try:
        content_of(message, ENVELOPE)
    finally:
        sys.setprofile(None)
    mine = {name for module, name in called if module.startswith("smtpbackend")}
    others = {one for one in called if one[0].startswith(("email", "django.core.mail.message"))}
    assert "render" in mine
    assert others <= {
        *(
            ("email.utils", name)
            for name in ("make_msgid", "formatdate", "format_datetime", "_format_timetuple_and_zone")
        ),
    }
