"""Every error: made, printed, pickled, copied, caught by the class it stands for."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smtpbackend
import smtpbackend_django
import smtpbackend_flask
from smtpbackend import Mailer, Message, errors
from smtpbackend.errors import (
    AuthenticationFailed,
    CancelSend,
    CertificateRefused,
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    ConnectionRefused,
    ConnectTimedOut,
    ContentRefused,
    DeliveryError,
    HandshakeFailed,
    HelloRefused,
    HostNotFound,
    InDoubt,
    Injection,
    InvalidInput,
    InvalidSetting,
    LoginNotOffered,
    MailerClosed,
    MissingExtra,
    NotSupported,
    ProtocolViolation,
    RecipientsRefused,
    SenderRefused,
    SMTPError,
    TimedOut,
    TLSFailed,
    TLSNotOffered,
    TLSRefused,
)
from smtpbackend.outcome import Receipt, Reply
from tests.servers.ports import free_ports

STANDS_FOR: dict[type[SMTPError], tuple[type[BaseException], ...]] = {
    SMTPError: (Exception,),
    InvalidInput: (SMTPError, ValueError),
    Injection: (InvalidInput, ValueError),
    InvalidSetting: (InvalidInput, ValueError),
    MissingExtra: (SMTPError, ImportError),
    CancelSend: (SMTPError,),
    DeliveryError: (SMTPError, smtplib.SMTPException),
    ConnectFailed: (DeliveryError, ConnectionError, smtplib.SMTPConnectError),
    ConnectionRefused: (ConnectFailed, ConnectionRefusedError),
    ConnectTimedOut: (ConnectFailed, TimeoutError),
    HostNotFound: (ConnectFailed, socket.gaierror),
    ConnectionLost: (DeliveryError, ConnectionError, smtplib.SMTPServerDisconnected),
    MailerClosed: (DeliveryError,),
    TimedOut: (DeliveryError, TimeoutError, smtplib.SMTPServerDisconnected),
    HelloRefused: (DeliveryError, smtplib.SMTPHeloError),
    TLSFailed: (DeliveryError,),
    TLSNotOffered: (TLSFailed, smtplib.SMTPNotSupportedError),
    TLSRefused: (TLSFailed, smtplib.SMTPResponseException),
    HandshakeFailed: (TLSFailed, ssl.SSLError),
    CertificateRefused: (HandshakeFailed, ssl.SSLCertVerificationError),
    AuthenticationFailed: (DeliveryError, smtplib.SMTPAuthenticationError),
    LoginNotOffered: (AuthenticationFailed, smtplib.SMTPNotSupportedError),
    ProtocolViolation: (DeliveryError,),
    NotSupported: (DeliveryError, smtplib.SMTPNotSupportedError),
    CommandRefused: (DeliveryError, smtplib.SMTPResponseException),
    SenderRefused: (DeliveryError, smtplib.SMTPSenderRefused),
    RecipientsRefused: (DeliveryError, smtplib.SMTPRecipientsRefused),
    ContentRefused: (DeliveryError, smtplib.SMTPDataError),
    InDoubt: (DeliveryError,),
}
ALL = list(STANDS_FOR)

REFUSED = Reply(550, (5, 7, 1), ("not", "you"))
LATER = Reply(450, (4, 2, 1), ("later",))


def everything(kind: type[SMTPError]) -> SMTPError:
    """An error of that kind with all that it can carry."""
    more: dict[str, Any] = {}
    if issubclass(kind, InvalidInput):
        more["field"] = "subject"
    if kind is SenderRefused:
        more["sender"] = "ann@example.org"
    if kind is RecipientsRefused:
        more |= {"recipients": {"bob@example.com": (550, b"unknown")}, "transient": True}
    if issubclass(kind, HandshakeFailed):
        more["cause"] = ssl.SSLCertVerificationError(1, "[SSL: NO] no")
    receipt = Receipt("<1@example.org>", ())
    return kind("what happened; what to do", server="mx.example.com:25", reply=REFUSED, receipt=receipt, **more)


def duplicates() -> list[Callable[[Any], Any]]:
    pickles = [
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    return [copy.copy, copy.deepcopy, *pickles]


def test_no_class_is_forgotten() -> None:
    """What is public here is what is tested, and what the tree in the docstring shows."""
    classes = inspect.getmembers(errors, inspect.isclass)
    defined = {one for name, one in classes if one.__module__ == errors.__name__ and not name.startswith("_")}
    assert defined == set(ALL)
    assert {one.__name__ for one in defined} == set(errors.__all__)
    drawn = re.findall(r"^[ │├└─]*([A-Za-z]+)(?: |$)", errors.__doc__.split("\n\n", 2)[2], re.MULTILINE)  # type: ignore[union-attr]
    assert set(drawn) == set(errors.__all__)


@pytest.mark.parametrize("kind", ALL)
def test_caught_by_the_classes_it_stands_for(kind: type[SMTPError]) -> None:
    """And by the one root."""
    for wanted in (SMTPError, *STANDS_FOR[kind]):
        with pytest.raises(wanted):
            raise everything(kind)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("duplicate", duplicates())
def test_pickled_and_copied_with_all_that_it_carries(
    kind: type[SMTPError], duplicate: Callable[[SMTPError], SMTPError]
) -> None:
    error = everything(kind)
    twin = duplicate(error)
    assert type(twin) is kind
    assert twin is not error
    assert (str(twin), twin.args, twin.is_transient) == (str(error), error.args, error.is_transient)
    assert vars(twin) == vars(error)
    for name in ("smtp_code", "smtp_error", "sender", "recipients", "field", "msg", "strerror", "errno"):
        assert getattr(twin, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not CancelSend])
def test_a_message_alone_makes_it(kind: type[SMTPError]) -> None:
    """Whoever raises one of them in a test of their own needs no more."""
    error = kind("what happened")
    assert (str(error), error.args) == ("what happened", ("what happened",))
    assert (error.server, error.reply, error.receipt) == (None, None, None)
    assert repr(error) == f"{kind.__name__}('what happened')"


def test_a_receiver_cancels_without_many_words() -> None:
    assert "cancelled by a receiver of message_sending" in str(CancelSend())
    assert str(CancelSend("not on Sundays")) == "not on Sundays"


@pytest.mark.parametrize(
    "kind",
    [ConnectFailed, HelloRefused, TLSRefused, AuthenticationFailed, CommandRefused, SenderRefused, ContentRefused],
)
def test_the_attributes_of_smtplib_are_there(kind: type[Any]) -> None:
    """smtp_code and smtp_error: those of the reply, -1 without one."""
    error = kind("refused", reply=REFUSED)
    assert (error.smtp_code, error.smtp_error) == (550, b"5.7.1 not\n5.7.1 you")
    assert (kind("refused").smtp_code, kind("refused").smtp_error) == (-1, b"")


def test_a_refused_sender_and_refused_recipients_are_named_as_in_smtplib() -> None:
    assert SenderRefused("no", sender="ann@example.org").sender == "ann@example.org"
    refused = {"bob@example.com": (550, b"unknown")}
    assert RecipientsRefused("no", recipients=refused).recipients == refused
    assert RecipientsRefused("no").recipients == {}


def test_an_os_error_of_ours_has_no_errno() -> None:
    """With two arguments OSError would make errno and strerror of them, and forget the message."""
    for kind in (ConnectFailed, ConnectionLost, TimedOut):
        error = kind("gone", server="mx.example.com:25")
        assert isinstance(error, OSError)
        assert (error.errno, error.strerror, str(error)) == (None, None, "gone")


TRANSIENT = {
    MailerClosed,
    DeliveryError,
    ConnectFailed,
    ConnectionLost,
    TimedOut,
    HelloRefused,
    TLSFailed,
    ProtocolViolation,
    ConnectionRefused,
    ConnectTimedOut,
    HostNotFound,
    TLSNotOffered,
    TLSRefused,
    HandshakeFailed,
    CertificateRefused,
}


@pytest.mark.parametrize("kind", ALL)
def test_without_a_reply_its_kind_says_whether_it_is_transient(kind: type[SMTPError]) -> None:
    """True: the same message may be accepted later, and cannot have been accepted already."""
    assert kind("what happened").is_transient is (kind in TRANSIENT)


@pytest.mark.parametrize(
    "kind", [HelloRefused, AuthenticationFailed, CommandRefused, SenderRefused, ContentRefused, NotSupported]
)
def test_with_a_reply_the_server_says_it(kind: type[SMTPError]) -> None:
    """4yz is transient, 5yz is not (RFC 5321 4.2.1)."""
    assert kind("later", reply=LATER).is_transient
    assert not kind("never", reply=REFUSED).is_transient


def test_what_no_reply_changes() -> None:
    """A server may be mended; what is in doubt must not be sent again; recipients have replies of their own."""
    assert ConnectFailed("no welcome", reply=Reply(554)).is_transient
    assert TLSFailed("refused", reply=Reply(501)).is_transient
    assert not InDoubt("in doubt", reply=LATER).is_transient
    assert RecipientsRefused("later", transient=True).is_transient


def test_what_is_in_doubt_invites_nobody_to_try_again() -> None:
    """Code that tries again does so for a ConnectionError or a TimeoutError. (Every SMTPException is an OSError.)"""
    assert not issubclass(InDoubt, ConnectionError | TimeoutError | smtplib.SMTPServerDisconnected)
    assert not issubclass(InvalidInput, OSError)


def test_the_error_of_a_delivery_carries_its_receipt_through_pickle_and_copy() -> None:
    """The receipt has the error and the error the receipt: a circle that stays one."""
    (port,) = free_ports(1)
    with Mailer(f"smtp://127.0.0.1:{port}") as mailer, pytest.raises(ConnectFailed) as raised:
        mailer.send(Message("Hi", "ann@example.org", "bob@example.com", text="Hello"))
    error = raised.value
    assert error.server == f"127.0.0.1:{port}"
    assert error.receipt is not None
    assert error.receipt.error is error
    for duplicate in duplicates()[1:]:
        for twin in (duplicate(error), duplicate(error.receipt).error):
            assert str(twin) == str(error)
            assert twin.receipt.error is twin
            assert [str(outcome.address) for outcome in twin.receipt.deferred] == ["bob@example.com"]


ROOT = Path(__file__).parents[1]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py")])
PAGES.remove(ROOT / "docs" / "design.md")  # of what is inside
RAISED = {
    node.name
    for package in ("smtpbackend", "smtpbackend_django", "smtpbackend_flask")
    for path in (ROOT / package).rglob("*.py")
    # For type checkers alone; and what only a site of Django can import
    if path.stem != "typed_settings" and path.parent.name != "migrations" and path.stem != "models"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
    and issubclass(getattr(importlib.import_module(module_of(path)), node.name, type), BaseException)
}
"""Every class of an error in the packages, also those that are in no list of names."""


def errors_named(text: str) -> set[str]:
    """The errors that a page names as code, apart from those of a module that it names with them."""
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    return {name for name in re.findall(r"(?<![\w.])[A-Z]\w+", code) if name in RAISED}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_an_error_that_a_page_names_is_imported_from_the_package(page: Path) -> None:
    """Or from an adapter; or it is of those who write mechanisms, and the page imports it from there."""
    text = page.read_text(encoding="utf-8")
    missing = errors_named(text) - {*smtpbackend.__all__, *smtpbackend_django.__all__, *smtpbackend_flask.__all__}
    missing -= set(re.findall(r"\w+", " ".join(re.findall(r"from smtpbackend\.sasl import (.*)", text))))
    assert not missing, f"{page.name} names {', '.join(sorted(missing))}, which no package has"


def test_the_pages_name_errors() -> None:
    named = set().union(*(errors_named(page.read_text(encoding="utf-8")) for page in PAGES))
    assert {"DeliveryError", "InvalidInput", "InDoubt", "MailerClosed"} <= named
    assert errors_named("`DeadlinePassed` and `smtpbackend.sasl.Refused`, not Closed") == {"DeadlinePassed"}
