"""The contract of Django's SMTP backend, and what ours adds to it."""

from __future__ import annotations

import importlib
import inspect
import io
import logging
import os
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core import mail as django_mail
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp

from smtpbackend import Mailer
from smtpbackend.errors import ConnectFailed, RecipientsRefused, SMTPError
from smtpbackend_django import EmailBackend, conf
from tests.django.conftest import HAS_MAILERS, PATH, Start, email_settings, mail
from tests.servers.aiosmtpd_server import AiosmtpdServer

Configure = Callable[..., EmailBackend]


@pytest.fixture
def closed_port() -> int:
    """A loopback port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def test_the_package_lists_its_names_before_one_is_used() -> None:
    code = "import smtpbackend_django as ours; assert {'EmailBackend', 'mailer_settings'} <= set(dir(ours))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import smtpbackend_django

    with pytest.raises(AttributeError, match="module 'smtpbackend_django' has no attribute 'Backend'"):
        _ = smtpbackend_django.Backend


# Construction


def test_positional_arguments_are_djangos() -> None:
    """Code that calls the constructor of Django's backend calls ours."""
    theirs = list(inspect.signature(smtp.EmailBackend.__init__).parameters.values())
    ours = list(inspect.signature(EmailBackend.__init__).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs) - 1]] == [(p.name, p.default) for p in theirs[:-1]]


def test_every_setting_of_the_core_is_a_keyword() -> None:
    """One vocabulary: what the table has, the constructor takes."""
    names = set(inspect.signature(EmailBackend.__init__).parameters)
    assert names - {"self", "kwargs", "alias"} == conf.OPTIONS


ATTRIBUTES = {
    "host": "mail.example.com",
    "port": 2525,
    "username": "user",
    "password": "secret",
    "timeout": 7,
}


def test_attributes_are_those_of_django(configured: Configure) -> None:
    """Other code reads them."""
    backend = configured(**ATTRIBUTES)
    for name, value in ATTRIBUTES.items():
        assert getattr(backend, name) == value
    assert (backend.use_tls, backend.use_ssl) == (False, False)
    assert (backend.ssl_certfile, backend.ssl_keyfile) == (None, None)
    assert backend.fail_silently is False
    assert backend.connection is None
    assert backend._partial_connection is None
    assert isinstance(backend._lock, type(threading.RLock()))
    assert backend.connection_class is smtplib.SMTP
    assert isinstance(backend.ssl_context, ssl.SSLContext)


@pytest.mark.parametrize(("flag", "tls"), [("use_tls", "required"), ("use_ssl", "implicit"), (None, "opportunistic")])
def test_flags_of_django_become_tls(flag: str | None, tls: str, configured: Configure) -> None:
    backend = configured(host="localhost", **({flag: True} if flag else {}))
    (server,) = backend.mailer().configuration.servers
    assert server.tls == tls
    assert (backend.use_tls, backend.use_ssl) == (flag == "use_tls", flag == "use_ssl")


def test_neither_flag_is_opportunistic_off_loopback_too() -> None:
    """The whole migration is the name of the backend: a server without TLS goes on working."""
    (server,) = EmailBackend(host="mail.example.com").mailer().configuration.servers
    assert server.tls == "opportunistic"


def test_keyword_beats_setting() -> None:
    with email_settings(
        EMAIL_HOST="a.example", EMAIL_HOST_USER="user", EMAIL_HOST_PASSWORD="secret", EMAIL_USE_TLS=True
    ):
        backend = EmailBackend(host="b.example", username="", use_tls=False)
    assert (backend.host, backend.username, backend.use_tls) == ("b.example", "", False)


def test_empty_username_disables_the_login(aiosmtpd: Start) -> None:
    server = aiosmtpd()
    with email_settings(EMAIL_HOST_USER="user", EMAIL_HOST_PASSWORD="secret"):
        assert EmailBackend(host=server.host, port=server.port, username="").send_messages([mail()]) == 1


def test_arguments_that_are_none_leave_the_settings(configured: Configure) -> None:
    """`send_mail` always gives username=None and password=None."""
    configured(host="mail.example.com", username="user", password="secret")
    if not HAS_MAILERS or not hasattr(django_mail, "mailers") or not django_mail.mailers._is_configured:
        backend = EmailBackend(username=None, password=None)
        assert (backend.username, backend.password) == ("user", "secret")


def test_both_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="mutually exclusive"):
        EmailBackend(use_tls=True, use_ssl=True)


def test_port_is_25_in_email_mode_whatever_the_flags() -> None:
    assert EmailBackend(host="mail.example.com", use_tls=True).port == 25


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"deadlne": 2}, "'deadline'"),
        ({"usename": "ann"}, "'username'"),
        ({"EMAIL_HOST": "x", "port": 1}, "'EMAIL_HOST'"),
    ],
)
def test_a_misspelt_keyword_is_told(given: dict[str, Any], meant: str) -> None:
    """Before a mail is sent without what was asked for."""
    with pytest.raises(conf.SettingsError, match="Unknown options") as caught:
        EmailBackend(host="localhost", **given)
    assert meant in str(caught.value)


def test_code_for_any_backend_gives_the_options_of_all(server: AiosmtpdServer) -> None:
    """Those that Django's own backends take between them; every one of them may be given by `get_connection`."""
    taken: set[str] = set()
    for name in ("smtp", "filebased", "console", "locmem", "dummy", "base"):
        backend = importlib.import_module(f"django.core.mail.backends.{name}")
        kind = getattr(backend, "EmailBackend", None) or backend.BaseEmailBackend
        taken |= set(inspect.signature(kind.__init__).parameters)
    taken -= {"self", "args", "kwargs", "alias", "_ignore_unknown_kwargs"}
    given = dict.fromkeys(taken) | {
        "host": server.host,
        "port": server.port,
        "file_path": "/tmp/x",
        "stream": io.StringIO(),
    }
    with email_settings(EMAIL_BACKEND=PATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django 6.1 deprecates get_connection
        assert django_mail.get_connection(**given).send_messages([mail()]) == 1


@pytest.mark.skipif(HAS_MAILERS, reason="get_connection is deprecated")
def test_get_connection_makes_it() -> None:
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="a.example"):
        backend = django_mail.get_connection(fail_silently=True)
    assert type(backend) is EmailBackend
    assert backend.fail_silently is True
    assert backend.host == "a.example"
    assert backend.alias is None


def test_construction_is_silent_and_opens_nothing(server: AiosmtpdServer) -> None:
    """No deprecation warning of Django 6.1: in these tests warnings are errors."""
    EmailBackend(host=server.host, port=server.port)
    assert server.connections == 0


def test_the_error_of_several_servers_names_each(closed_port: int, aiosmtpd: Start) -> None:
    """Of a message, of `open`, and of each message of a batch."""
    server = aiosmtpd(users={"user": "secret"}, auth_in_clear=True)
    names = (f"localhost:{server.port}", f"localhost:{closed_port}")
    backend = EmailBackend(servers=[f"smtp://user:wrong@{names[0]}", f"smtp://{names[1]}"])
    messages = [mail(), mail()]
    for fail in (lambda: backend.send_messages(messages), backend.open):
        with pytest.raises(ConnectFailed) as caught:
            fail()
        for name, reason in zip(names, ("refused the login", "Connection refused"), strict=True):
            assert name in str(caught.value)
            assert reason in str(caught.value)
    assert [str(message.smtp_receipt.error).count("localhost:") for message in messages] == [2, 2]


def test_override_of_ssl_context_is_not_silently_ignored() -> None:
    class Mine(EmailBackend):
        ssl_context = None

    with pytest.raises(conf.SettingsError, match="CA_FILE"):
        Mine(host="localhost")
    with pytest.raises(AttributeError):
        EmailBackend(host="localhost").ssl_context = None


def test_subclass_may_set_credentials_when_it_opens(aiosmtpd: Start) -> None:
    """A token that was fetched just now, for one."""
    server = aiosmtpd(users={"user": "token"}, auth_in_clear=True, auth_required=True)

    class Fetching(EmailBackend):
        def open(self) -> bool | None:
            self.username, self.password = "user", "token"
            return super().open()

    assert Fetching(host=server.host, port=server.port).send_messages([mail()]) == 1
    assert server.arrived[0].login == "user"


# open and close


def test_open_says_what_it_did(backend: EmailBackend, server: AiosmtpdServer) -> None:
    assert backend.open() is True
    assert backend.connection
    assert server.connections == 1
    assert backend.open() is False
    assert server.connections == 1
    backend.close()
    assert backend.connection is None


def test_close_without_open_does_nothing(backend: EmailBackend) -> None:
    backend.close()
    backend.close()
    assert backend.connection is None


def test_close_keeps_the_connection_for_whoever_sends_next(backend: EmailBackend, server: AiosmtpdServer) -> None:
    with backend:
        pass
    other = EmailBackend(host=server.host, port=server.port)
    assert other.open() is True
    other.send_messages([mail()])
    assert server.connections == 1


def test_close_when_the_server_is_gone(backend: EmailBackend, server: AiosmtpdServer) -> None:
    backend.open()
    server.drop_connections()
    backend.close()


def test_open_raises(closed_port: int) -> None:
    backend = EmailBackend(host="127.0.0.1", port=closed_port)
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{closed_port}"):
        backend.open()
    assert backend.connection is None


def test_open_returns_none_when_it_failed_silently(closed_port: int) -> None:
    backend = EmailBackend(host="127.0.0.1", port=closed_port, fail_silently=True)
    assert backend.open() is None
    assert backend.connection is None


def test_fail_silently_may_be_changed_later(closed_port: int) -> None:
    backend = EmailBackend(host="127.0.0.1", port=closed_port)
    backend.fail_silently = True
    assert backend.open() is None


def test_failed_starttls_leaves_nothing_to_send_on(aiosmtpd: Start) -> None:
    """CVE-2026-7666: silenced, it left a connection in clear that the next message went over."""
    server = aiosmtpd()  # offers no STARTTLS
    backend = EmailBackend(host=server.host, port=server.port, use_tls=True, fail_silently=True)
    assert backend.open() is None
    assert backend.connection is None
    assert backend.send_messages([mail()]) == 0
    assert server.arrived == []


def test_context_manager(backend: EmailBackend, server: AiosmtpdServer) -> None:
    with backend as entered:
        assert entered is backend
        assert backend.connection
        entered.send_messages([mail()])
        entered.send_messages([mail()])
        assert backend.connection
    assert backend.connection is None
    assert len(server.arrived) == 2
    assert server.connections == 1


def test_context_manager_closes_and_raises(closed_port: int) -> None:
    backend = EmailBackend(host="127.0.0.1", port=closed_port)
    with pytest.raises(OSError, match="cannot connect"), backend:
        pass
    assert backend.connection is None


def test_login_and_starttls(aiosmtpd: Start) -> None:
    server = aiosmtpd(tls="required", users={"user": "secret"}, auth_required=True)
    backend = EmailBackend(
        host="localhost",
        port=server.port,
        username="user",
        password="secret",
        use_tls=True,
        ca_file=str(server.ca_file),
    )
    assert backend.send_messages([mail()]) == 1
    assert (server.arrived[0].login, server.arrived[0].tls) == ("user", True)


def test_implicit_tls_with_a_client_certificate(aiosmtpd: Start, ca: Any) -> None:
    """Django's context for a client certificate knows no authority at all; ours knows the system's and ca_file."""
    server = aiosmtpd(tls="implicit")
    backend = EmailBackend(
        host="localhost",
        port=server.port,
        use_ssl=True,
        ssl_certfile=str(ca.client_cert),
        ssl_keyfile=str(ca.client_key),
        ca_file=str(ca.ca_file),
    )
    assert backend.send_messages([mail()]) == 1
    assert backend.ssl_context.cert_store_stats()["x509_ca"] > 1


def test_untrusted_certificate(aiosmtpd: Start) -> None:
    server = aiosmtpd(tls="starttls")
    backend = EmailBackend(host="localhost", port=server.port, use_tls=True)
    with pytest.raises(smtplib.SMTPException, match="CA_FILE"):
        backend.send_messages([mail()])
    assert server.arrived == []


def test_refused_login_is_smtplibs_error(aiosmtpd: Start) -> None:
    server = aiosmtpd(users={"user": "secret"}, auth_in_clear=True)
    backend = EmailBackend(host=server.host, port=server.port, username="user", password="wrong")
    with pytest.raises(smtplib.SMTPAuthenticationError):
        backend.open()


# send_messages


@pytest.mark.parametrize("nothing", [[], (), None])
def test_nothing_to_send_is_0_without_a_connection(nothing: Any, backend: EmailBackend, server: AiosmtpdServer) -> None:
    assert backend.send_messages(nothing) == 0
    assert server.connections == 0


def test_empty_iterator_is_0(backend: EmailBackend) -> None:
    assert backend.send_messages(iter([])) == 0
    assert backend.connection is None


def test_iterator(backend: EmailBackend, server: AiosmtpdServer) -> None:
    assert backend.send_messages(mail(f"user{number}@example.org") for number in range(3)) == 3
    assert [one.recipients[0] for one in server.arrived] == [f"user{number}@example.org" for number in range(3)]
    assert server.connections == 1


def test_long_iterator_is_not_read_ahead(backend: EmailBackend, server: AiosmtpdServer) -> None:
    """A query of a hundred thousand rows is not first made into a list."""
    ahead = []

    def messages() -> Iterator[EmailMessage]:
        for number in range(30):
            ahead.append(number - len(server.arrived))
            yield mail(f"user{number}@example.org")

    assert backend.send_messages(messages()) == 30
    assert max(ahead) < 30


def test_iterator_that_raises_after_what_it_gave_was_sent(backend: EmailBackend, server: AiosmtpdServer) -> None:
    first = mail()

    def messages() -> Iterator[EmailMessage]:
        yield first
        raise LookupError("the database is gone")

    with pytest.raises(LookupError, match="gone"):
        backend.send_messages(messages())
    assert len(server.arrived) == 1
    assert first.smtp_receipt.ok
    assert backend.connection is None


def test_messages_without_recipients_are_not_counted(backend: EmailBackend, server: AiosmtpdServer) -> None:
    nobody = EmailMessage("Subject", "Body", "from@example.com", [])
    empty = EmailMessage("Subject", "Body", "from@example.com", ["", None])
    assert backend.send_messages([nobody, mail(), empty]) == 1
    assert len(server.arrived) == 1


def test_a_message_that_somebody_got_is_sent(backend: EmailBackend, server: AiosmtpdServer) -> None:
    message = mail("ann@example.org", "nobody@example.org", bcc=["later@example.org"])
    assert backend.send_messages([message]) == 1
    receipt = message.smtp_receipt
    assert [str(outcome.address) for outcome in receipt.accepted] == ["ann@example.org"]
    assert [str(outcome.address) for outcome in receipt.rejected] == ["nobody@example.org"]
    assert [str(outcome.address) for outcome in receipt.deferred] == ["later@example.org"]
    assert server.arrived[0].recipients == ("ann@example.org",)


def test_under_all_nobody_gets_what_not_everybody_can(server: AiosmtpdServer) -> None:
    backend = EmailBackend(host=server.host, port=server.port, recipient_policy="all")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        backend.send_messages([mail("ann@example.org", "nobody@example.org")])
    assert server.arrived == []


def test_every_message_of_a_batch_is_tried_then_the_first_failure_is_raised(
    backend: EmailBackend, server: AiosmtpdServer
) -> None:
    """Django gives up at the first refused one, and the count of those before it is lost."""
    batch = [mail("a@example.org"), mail("nobody@example.org"), mail("b@example.org"), mail("later@example.org")]
    with pytest.raises(RecipientsRefused, match=r"nobody@example\.org") as caught:
        backend.send_messages(batch)
    assert [one.recipients for one in server.arrived] == [("a@example.org",), ("b@example.org",)]
    assert [bool(message.smtp_receipt.accepted) for message in batch] == [True, False, True, False]
    assert caught.value.receipt is batch[1].smtp_receipt


def test_fail_silently_counts_those_that_were_sent(server: AiosmtpdServer) -> None:
    backend = EmailBackend(host=server.host, port=server.port, fail_silently=True)
    batch = [mail("a@example.org"), mail("nobody@example.org"), mail("b@example.org")]
    assert backend.send_messages(batch) == 2
    assert batch[1].smtp_receipt.rejected


def test_unreachable_server_gives_every_message_a_receipt(closed_port: int) -> None:
    backend = EmailBackend(host="127.0.0.1", port=closed_port)
    batch = [mail(), mail()]
    with pytest.raises(ConnectFailed):
        backend.send_messages(batch)
    assert all(message.smtp_receipt.deferred for message in batch)
    backend.fail_silently = True
    assert backend.send_messages(batch) == 0


def test_content_refused(aiosmtpd: Start) -> None:
    server = aiosmtpd(refused_content="554 5.7.1 Spam")
    with pytest.raises(smtplib.SMTPDataError, match="Spam"):
        EmailBackend(host=server.host, port=server.port).send_messages([mail()])


def test_invalid_message_does_not_keep_the_others_from_being_sent(server: AiosmtpdServer) -> None:
    """Invalid input is raised under fail_silently too, once everything else was tried."""
    backend = EmailBackend(host=server.host, port=server.port, fail_silently=True)
    batch = [mail("a@example.org"), mail("to@"), mail("nobody@example.org"), mail("b@example.org")]
    with pytest.raises(ValueError):  # noqa: PT011 -- Django's words
        backend.send_messages(batch)
    assert [one.recipients for one in server.arrived] == [("a@example.org",), ("b@example.org",)]
    assert isinstance(batch[1].smtp_receipt.error, ValueError)


def test_error_of_a_subclass_is_raised_under_fail_silently(server: AiosmtpdServer) -> None:
    class NoKey(EmailMessage):
        def message(self, **_: Any) -> Any:
            raise KeyError("no key for ann")

    backend = EmailBackend(host=server.host, port=server.port, fail_silently=True)
    with pytest.raises(KeyError, match="no key"):
        backend.send_messages([NoKey("S", "B", "from@example.com", ["ann@example.org"]), mail()])
    assert len(server.arrived) == 1


def test_returns_0_when_open_failed_silently(backend: EmailBackend, server: AiosmtpdServer) -> None:
    """As Django's: a subclass that cannot open says None."""
    backend.open = lambda: None  # type: ignore[method-assign]
    backend.connection = True
    assert backend.send_messages([mail()]) == 0
    assert server.connections == 0


def test_closes_only_what_it_opened(backend: EmailBackend) -> None:
    backend.open()
    backend.send_messages([mail()])
    assert backend.connection
    backend.close()
    backend.send_messages([mail()])
    assert backend.connection is None


def test_closes_what_it_opened_after_a_failure(backend: EmailBackend) -> None:
    with pytest.raises(smtplib.SMTPException):
        backend.send_messages([mail("nobody@example.org")])
    assert backend.connection is None


def test_receipt_is_that_of_the_last_sending(backend: EmailBackend) -> None:
    message = mail("nobody@example.org")
    with pytest.raises(smtplib.SMTPException):
        backend.send_messages([message])
    message.to = ["ann@example.org"]
    backend.send_messages([message])
    assert message.smtp_receipt.ok


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, ValueError, TypeError, KeyError])
def test_a_message_that_takes_no_receipt_is_sent_as_the_others_are(
    error: type[Exception], backend: EmailBackend, server: AiosmtpdServer
) -> None:
    """Such as one with a property of that name: the attribute is lost, and no mail."""

    class ReadOnly(EmailMessage):
        @property
        def smtp_receipt(self) -> Any:
            return None

        @smtp_receipt.setter
        def smtp_receipt(self, value: Any) -> None:
            raise error("read-only")

    batch = [mail("a@example.org"), ReadOnly("S", "B", "from@example.com", ["b@example.org"]), mail("c@example.org")]
    assert backend.send_messages(batch) == 3
    assert [one.recipients for one in server.arrived] == [("a@example.org",), ("b@example.org",), ("c@example.org",)]
    assert [bool(message.smtp_receipt) for message in batch] == [True, False, True]


def test_same_message_twice_in_a_batch(backend: EmailBackend, server: AiosmtpdServer) -> None:
    message = mail()
    assert backend.send_messages([message, message]) == 2
    assert len(server.arrived) == 2


def test_send_of_the_message(configured: Configure, server: AiosmtpdServer) -> None:
    """The usual way: `message.send()`, and `send_mail`."""
    configured(host=server.host, port=server.port)
    message = mail()
    assert message.send() == 1
    assert message.smtp_receipt.ok
    assert django_mail.send_mail("Subject", "Body", None, ["ann@example.org"]) == 1
    assert [one.sender for one in server.arrived] == ["from@example.com", "webmaster@example.com"]


def test_send_mass_mail(configured: Configure, server: AiosmtpdServer) -> None:
    configured(host=server.host, port=server.port)
    batch = [("Subject", "Body", "from@example.com", [f"user{number}@example.org"]) for number in range(5)]
    assert django_mail.send_mass_mail(batch) == 5
    assert server.connections == 1


def test_mail_admins(configured: Configure, server: AiosmtpdServer) -> None:
    configured(host=server.host, port=server.port)
    admins = (
        ["root@example.org"]
        if django_mail.__dict__.get("mailers") or hasattr(smtp.EmailBackend, "prep_address")
        else [("Root", "root@example.org")]
    )
    with email_settings(ADMINS=admins, SERVER_EMAIL="server@example.com"):
        django_mail.mail_admins("Subject", "Body")
    assert server.arrived[0].recipients == ("root@example.org",)


def test_lost_connection_is_replaced(backend: EmailBackend, server: AiosmtpdServer) -> None:
    backend.send_messages([mail()])
    server.drop_connections()
    assert backend.send_messages([mail()]) == 1
    assert server.connections == 2


# Threads, forks, secrets


def test_one_instance_in_several_threads(backend: EmailBackend, server: AiosmtpdServer) -> None:
    counts: list[int] = []
    errors: list[BaseException] = []

    def send(number: int) -> None:
        try:
            batch = [mail(f"t{number}-{one}@example.org") for one in range(5)]
            counts.append(backend.send_messages(batch))
            assert all(
                str(message.smtp_receipt.outcomes[0].address) == message.to[0] and message.smtp_receipt.ok
                for message in batch
            )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert counts == [5] * 8
    assert len(server.arrived) == 40
    assert server.connections <= 4  # max_connections
    assert backend.connection is None


def test_threads_with_instances_of_their_own_share_connections(server: AiosmtpdServer) -> None:
    def send() -> None:
        for _ in range(5):
            EmailBackend(host=server.host, port=server.port, max_connections=2).send_messages([mail()])

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(server.arrived) == 30
    assert server.connections <= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_each_process_has_its_own_connection(backend: EmailBackend, server: AiosmtpdServer) -> None:
    """A worker that was forked with a warm Mailer."""
    backend.send_messages([mail()])
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if backend.send_messages([mail()]) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.send_messages([mail()]) == 1
    assert len(server.arrived) == 3
    assert server.connections == 2


def test_no_secret_leaks(aiosmtpd: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a log, an error, or what a debugger shows of the backend, its Mailer and the registry."""
    secret = "correct-horse-battery"
    server = aiosmtpd(users={"user": "other"}, auth_in_clear=True)
    with caplog.at_level(logging.DEBUG):
        backend = EmailBackend(host=server.host, port=server.port, username="user", password=secret)
        with pytest.raises(SMTPError) as caught:
            backend.send_messages([mail()])
        with pytest.raises(conf.SettingsError) as invalid:
            EmailBackend(host="", servers=[f"smtp://user:{secret}@localhost:99999"])
    shown = [
        caplog.text,
        *(str(vars(record)) for record in caplog.records),
        repr(caught.value),
        str(invalid.value) + repr(invalid.value) + repr(invalid.value.__cause__),
        repr(backend),
        repr(backend.mailer()),
        repr(backend.mailer().configuration),
        repr(conf.shared_mailers),
    ]
    assert not any(secret in text for text in shown)


def test_a_mailer_of_the_core_is_what_sends(backend: EmailBackend) -> None:
    backend.open()
    assert isinstance(backend.connection, Mailer)
