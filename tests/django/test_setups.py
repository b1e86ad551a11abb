"""Broken set-ups: each face names the cause, and what to set by the name that it has there; `check` does so too."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from django.core.mail import EmailMessage as DjangoMessage
from django.test import override_settings
from flask import Flask

from smtpbackend import Mailer, Message
from smtpbackend.testing import SILENCE, Play, ScriptedServer
from smtpbackend_django import EmailBackend
from smtpbackend_django.setting_names import EMAIL_SETTINGS, OF_FILES
from smtpbackend_flask import Mail
from smtpbackend_flask import Message as FlaskMessage
from tests.django.conftest import HAS_MAILERS, PATH, email_settings
from tests.servers.ports import free_ports
from tests.servers.proxy import Proxy
from tests.servers.tls import Certificates

Start = Callable[..., ScriptedServer]


class Mail_(NamedTuple):
    """What is sent."""

    to: str = "bob@example.org"
    text: str = "Hello"


class SetUp(NamedTuple):
    """One set-up: neutral settings and what is sent; the cause and the settings that each error has to name."""

    settings: dict[str, Any]
    cause: str
    names: tuple[str, ...] = ()
    mail: Mail_ = Mail_()
    by_check: bool = True


# The faces --------------------------------------------------------------------------------------------------------


def told_by(send: Callable[[], object]) -> str:
    try:
        send()
    except Exception as error:
        return str(error)
    return "sent"


def core(settings: dict[str, Any], mail: Mail_) -> str:
    def send() -> None:
        with Mailer(**settings) as mailer:
            mailer.send(Message("Hi", "ann@example.com", mail.to, text=mail.text))

    return told_by(send)


def check(settings: dict[str, Any], mail: Mail_) -> str:
    def find_out() -> None:
        with Mailer(**settings) as mailer:
            for found in mailer.check(send_to=mail.to):
                if not found.ok:
                    raise found.error or (found.receipt and found.receipt.error) or AssertionError
                told = " ".join(step.detail for step in found.steps)
                raise AssertionError(told)

    return told_by(find_out)


def django_options(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by Django's names of options."""
    options = {OF_FILES.get(name, name): value for name, value in settings.items()}
    tls = options.pop("tls", None)
    if tls in ("required", "implicit"):
        options["use_tls" if tls == "required" else "use_ssl"] = True
    elif tls == "none":
        options["tls"] = tls
    return options


def by_email_settings(settings: dict[str, Any], mail: Mail_) -> str:
    options = django_options(settings)
    written = {EMAIL_SETTINGS[name]: value for name, value in options.items() if name in EMAIL_SETTINGS}
    ours = {name.upper(): value for name, value in options.items() if name not in EMAIL_SETTINGS}
    with email_settings(EMAIL_BACKEND=PATH, **written, SMTPBACKEND=ours):
        return told_by(lambda: EmailBackend().send_messages([django_message(mail)]))


def by_mailers(settings: dict[str, Any], mail: Mail_) -> str:
    from django.core.mail import mailers

    with override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": django_options(settings)}}):
        return told_by(lambda: mailers["default"].send_messages([django_message(mail)]))


def django_message(mail: Mail_) -> DjangoMessage:
    return DjangoMessage("Hi", mail.text, "ann@example.com", [mail.to])


OF_FLASK = {"host": "MAIL_SERVER", "port": "MAIL_PORT", "username": "MAIL_USERNAME", "password": "MAIL_PASSWORD"}


def by_app_config(settings: dict[str, Any], mail: Mail_) -> str:
    app = Flask("broken")
    for name, value in settings.items():
        key = {**OF_FLASK, "timeout": "MAIL_TIMEOUT"}.get(name, f"SMTPBACKEND_{name.upper()}")
        if name == "tls" and value in ("required", "implicit"):
            key, value = "MAIL_USE_TLS" if value == "required" else "MAIL_USE_SSL", True
        app.config[key] = value

    def send() -> None:
        Mail(app)
        with app.app_context():
            app.extensions["mail"].send(FlaskMessage("Hi", [mail.to], mail.text, sender="ann@example.com"))

    return told_by(send)


FACES = {
    "core": core,
    "check": check,
    "EMAIL": by_email_settings,
    "MAILERS": by_mailers,
    "app.config": by_app_config,
}
# How each face writes a setting; and what none but itself may write
WRITTEN: dict[str, Callable[[str], str]] = {
    "core": lambda name: name,
    "check": lambda name: name,
    "EMAIL": lambda name: (
        r"EMAIL_USE_(TLS|SSL)|SMTPBACKEND\[\"TLS\"\]"
        if name == "tls"
        else EMAIL_SETTINGS.get(OF_FILES.get(name, name), rf"SMTPBACKEND\[\"{name.upper()}\"\]")
    ),
    "MAILERS": lambda name: (
        r"OPTIONS\"?\]?\[\"(use_tls|use_ssl|tls)\"\]"
        if name == "tls"
        else rf"OPTIONS\"?\]?\[\"({OF_FILES.get(name, name)}|{name})\"\]"
    ),
    "app.config": lambda name: (
        r"MAIL_USE_(TLS|SSL)|SMTPBACKEND_TLS"
        if name == "tls"
        else {**OF_FLASK, "timeout": "MAIL_TIMEOUT"}.get(name, f"SMTPBACKEND_{name.upper()}")
    ),
}
FOREIGN = {
    "core": r"EMAIL_|MAIL_|SMTPBACKEND|MAILERS|use_tls|use_ssl|ssl_certfile|ssl_keyfile",
    "check": r"EMAIL_|MAIL_|SMTPBACKEND|MAILERS|use_tls|use_ssl|ssl_certfile|ssl_keyfile",
    "EMAIL": r"(?<!E)MAIL_|SMTPBACKEND_|MAILERS|\b(?:ca_file|client_cert|client_key|auth_mechanisms|timeout)\b(?!\")",
    "MAILERS": r"EMAIL_|MAIL_|SMTPBACKEND|\b(?:ca_file|client_cert|client_key|auth_mechanisms)\b(?!\")",
    "app.config": r"EMAIL_|SMTPBACKEND\[|MAILERS|\b(?:tls|ca_file|client_cert|client_key|auth_mechanisms|timeout)\b",
}


PROXIES = contextlib.ExitStack()  # those of one test


@pytest.fixture(autouse=True)
def end_proxies() -> Iterator[None]:
    yield
    PROXIES.close()


# The set-ups ------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(ca: Certificates, smtp_server: Start) -> Start:
    def start(play: Any = None, certificate: Any = None, **options: Any) -> ScriptedServer:
        context = ca.server_context(certificate) if isinstance(certificate, str) else certificate
        return smtp_server(Play(play or {}, **options), context=context)

    return start


def here(server: ScriptedServer, **settings: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.port, **settings}


LOGIN = {"username": "ann", "password": "hunter2"}


def wrong_port(start: Start, ca: Certificates) -> SetUp:
    return SetUp(here(start({"": "HTTP/1.1 400 Bad Request"})), "is not an SMTP reply.*no mail server", ("port",))


def closed_port(start: Start, ca: Certificates) -> SetUp:
    return SetUp({"host": "127.0.0.1", "port": free_ports(1)[0]}, "Connection refused", ("host", "port"))


def silent_port(start: Start, ca: Certificates) -> SetUp:
    return SetUp(here(start({"": SILENCE}), timeout=0.1), "did not answer in time", ("timeout", "tls", "port"))


def tls_on_a_plain_port(start: Start, ca: Certificates) -> SetUp:
    return SetUp(here(start(), tls="implicit"), "speaks in clear", ("tls", "port"))


def plain_on_a_tls_port(start: Start, ca: Certificates) -> SetUp:
    server = start(implicit_tls=True, certificate="server")
    return SetUp(here(server, timeout=0.2), "implicit TLS", ("tls", "port"))


def wrong_password(start: Start, ca: Certificates) -> SetUp:
    server = start({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN",))
    return SetUp(here(server, **LOGIN), "535 5.7.8 no", ("username", "password"))


def expired_certificate(start: Start, ca: Certificates) -> SetUp:
    server = start(extensions=("STARTTLS",), certificate="expired")
    return SetUp(here(server, tls="required", ca_file=str(ca.ca_file)), "has expired.*clock", ())


def unknown_authority(start: Start, ca: Certificates) -> SetUp:
    return SetUp(
        here(start(extensions=("STARTTLS",), certificate="server"), tls="required"), "not trusted", ("ca_file",)
    )


def certificate_of_another_host(start: Start, ca: Certificates) -> SetUp:
    server = start(extensions=("STARTTLS",), certificate="other_host")
    return SetUp(here(server, tls="required", ca_file=str(ca.ca_file)), "not valid for|mismatch", ("host",))


def key_that_does_not_fit(start: Start, ca: Certificates) -> SetUp:
    files = {"client_cert": str(ca.client_cert), "client_key": str(ca.server)}
    return SetUp(here(start(), tls="required", **files), "does not belong to the certificate", ("client_key",))


def old_tls(start: Start, ca: Certificates) -> SetUp:
    context = ca.server_context("server")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")  # which TLS 1.0 needs
    server = start(extensions=("STARTTLS",), certificate=context)
    return SetUp(here(server, tls="required"), "TLS version", ("min_tls",))


def name_without_address(start: Start, ca: Certificates) -> SetUp:
    return SetUp({"host": "nowhere.invalid", "port": 25}, "not known|not found|No address|Temporary failure", ("host",))


def no_login_offered(start: Start, ca: Certificates) -> SetUp:
    return SetUp(here(start(), **LOGIN), "offers no login", ("port", "tls", "username"))


def login_behind_tls_only(start: Start, ca: Certificates) -> SetUp:
    server = start(extensions=("STARTTLS",), after_tls=("AUTH PLAIN",), certificate="server")
    return SetUp(here(server, tls="none", **LOGIN), "offers no login", ("tls",))


def no_mechanism_in_common(start: Start, ca: Certificates) -> SetUp:
    server = start(extensions=("AUTH KERBEROS_V4",))
    return SetUp(here(server, **LOGIN), "offers KERBEROS_V4 to log in", ("auth_mechanisms",))


def login_wanted(start: Start, ca: Certificates) -> SetUp:
    server = start({"MAIL": "530 5.7.0 Authentication required"})
    return SetUp(here(server), "530 5.7.0 Authentication required", ("username", "password"))


def app_password_of_gmail(start: Start, ca: Certificates) -> SetUp:
    said = "534-5.7.9 Application-specific password required.\r\n534 5.7.9 https://support.google.com/x - gsmtp"
    server = start({"AUTH": said}, extensions=("AUTH PLAIN",))
    return SetUp(here(server, **LOGIN), "534 5.7.9.*app password", ("password", "token"))


def password_at_microsoft(start: Start, ca: Certificates) -> SetUp:
    said = "535 5.7.139 Authentication unsuccessful, basic authentication is disabled."
    server = start({"AUTH": said}, extensions=("AUTH LOGIN",))
    return SetUp(here(server, **LOGIN), "535 5.7.139.*OAuth", ("username", "password", "token"))


def send_as_denied(start: Start, ca: Certificates) -> SetUp:
    server = start({"MAIL": "550 5.7.60 SMTP; Client does not have permissions to send as this sender"})
    return SetUp(here(server), "550 5.7.60.*may not send as", ("bounce_address",))


def relay_denied(start: Start, ca: Certificates) -> SetUp:
    server = start({"RCPT": "554 5.7.1 <bob@example.org>: Relay access denied"})
    return SetUp(here(server), "554 5.7.1.*Relay access denied", ("username", "password"))


def too_large(start: Start, ca: Certificates) -> SetUp:
    server = start(extensions=("SIZE 300",))
    return SetUp(here(server), r"takes no more than 300|300", (), Mail_(text="Hello\n" * 200))


def greylisted(start: Start, ca: Certificates) -> SetUp:
    return SetUp(
        here(start({"RCPT": "451 4.7.1 Greylisting in action, please come back later"})), "451 4.7.1.*send again"
    )


def busy(start: Start, ca: Certificates) -> SetUp:
    return SetUp(here(start({"": "421 4.3.2 Service not available"})), "421 4.3.2.*later")


def mailbox_full(start: Start, ca: Certificates) -> SetUp:
    return SetUp(here(start({"RCPT": "552 5.2.2 Mailbox full"})), "552 5.2.2 Mailbox full")


def only_ipv6(start: Start, ca: Certificates) -> SetUp:
    """The host has an IPv6 address alone, and this machine no way to it."""
    return SetUp(
        {"host": "2001:db8::1", "port": 25},
        r"2001:db8::1: (Network is unreachable|No route to host|Cannot assign)",
        ("host",),
    )


def proxy_that_refuses(start: Start, ca: Certificates) -> SetUp:
    proxy = PROXIES.enter_context(Proxy(refuses=True))
    settings = {"host": "mx.example.com", "port": 25, "tls": "none", "proxy": f"socks5h://{proxy.name}"}
    return SetUp(settings, "proxy socks5h://", ("proxy",))


def typo(start: Start, ca: Certificates) -> SetUp:
    return SetUp({"host": "127.0.0.1", "deadlin": 5}, "(?i)'?deadlin'?.*did you mean .*deadline")


def proxy_that_is_down(start: Start, ca: Certificates) -> SetUp:
    proxy = f"socks5h://127.0.0.1:{free_ports(1)[0]}"
    return SetUp(
        {"host": "mx.example.com", "port": 25, "tls": "none", "proxy": proxy}, "Connection refused", ("proxy",)
    )


def library_that_is_missing(start: Start, ca: Certificates) -> SetUp:
    return SetUp(
        {"host": "127.0.0.1", "proxy": "socks5h://127.0.0.1:1"}, r'pip install "smtpbackend\[socks\]"', ("proxy",)
    )


def smtputf8_not_offered(start: Start, ca: Certificates) -> SetUp:
    server = start(extensions=("8BITMIME",))
    return SetUp(here(server), "SMTPUTF8", (), Mail_("jörg@example.org"))


def two_servers_down(start: Start, ca: Certificates) -> SetUp:
    first, second = free_ports(2)
    servers = [f"smtp://127.0.0.1:{first}", f"smtp://127.0.0.1:{second}"]
    return SetUp({"servers": servers}, rf"2 servers failed.*:{first} .*:{second} ", ("servers",), by_check=False)


SET_UPS = [
    wrong_port,
    closed_port,
    silent_port,
    tls_on_a_plain_port,
    plain_on_a_tls_port,
    wrong_password,
    expired_certificate,
    unknown_authority,
    certificate_of_another_host,
    key_that_does_not_fit,
    old_tls,
    name_without_address,
    no_login_offered,
    login_behind_tls_only,
    no_mechanism_in_common,
    login_wanted,
    app_password_of_gmail,
    password_at_microsoft,
    send_as_denied,
    relay_denied,
    too_large,
    greylisted,
    busy,
    mailbox_full,
    only_ipv6,
    proxy_that_refuses,
    typo,
    proxy_that_is_down,
    library_that_is_missing,
    smtputf8_not_offered,
    two_servers_down,
]


@pytest.mark.parametrize(
    "face",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(name == "MAILERS" and not HAS_MAILERS, reason="Django 6.1 has MAILERS")
        )
        for name in FACES
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # the server's
@pytest.mark.parametrize("made", SET_UPS, ids=lambda made: made.__name__)
def test_a_broken_set_up_explains_itself(
    made: Callable[[Start, Certificates], SetUp],
    face: str,
    start: Start,
    ca: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if made is library_that_is_missing:
        monkeypatch.setitem(sys.modules, "python_socks", None)
    set_up = made(start, ca)
    if face == "check" and not set_up.by_check:
        pytest.skip("a check is of one server")
    with contextlib.suppress(RuntimeWarning):
        told = FACES[face](set_up.settings, set_up.mail)
    assert re.search(set_up.cause, told), told
    for name in set_up.names:
        assert re.search(WRITTEN[face](name), told), (name, told)
    quoted = re.sub(r"'[^']*'|\bpip install \"[^\"]*\"", "", told)
    assert not re.search(FOREIGN[face], quoted), told
    assert "hunter2" not in told


def test_one_dead_address_of_two(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mail takes the other; a check alone tells of it."""
    server, [closed] = start(), free_ports(1)
    ask = socket.getaddrinfo

    def both(host: Any, *args: Any, **options: Any) -> Any:
        if host != "mx.example.com":
            return ask(host, *args, **options)
        found = ("127.0.0.2", closed), ("127.0.0.1", server.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    settings = {"host": "mx.example.com", "port": 25, "tls": "none"}
    assert [FACES[face](settings, Mail_()) for face in ("core", "EMAIL", "app.config")] == ["sent"] * 3
    assert "127.0.0.2: Connection refused" in check(settings, Mail_())


def test_each_is_told_within_25_seconds() -> None:
    """An address that is silent, and a port that accepts and says nothing; as long as nobody sets time-outs."""
    waits = Mailer("smtp://localhost").configuration.servers[0].timeout
    assert waits.connect <= 10  # for a look-up, and for each address
    assert waits.greeting <= 20


# Remedies ---------------------------------------------------------------------------------------------------------


KINDS = ("none", "opportunistic", "required", "implicit")


def applied(text: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings with a remedy followed: "NAME = value", and what it is instead of is gone."""
    wanted, _, other = text.partition(" instead of ")
    name, _, value = wanted.partition(" = ")
    changed = {key: one for key, one in options.items() if key != other}
    path = re.findall(r'\["(\w+)"\]', name)
    inner, plain = changed, re.match(r"\w+", name)
    assert plain is not None
    keys = [plain[0], *path]
    for key in keys[:-1]:
        inner[key] = inner = dict(inner.get(key, {}))
    inner[keys[-1]] = {"True": True, "False": False}.get(value, value.strip("'"))
    return changed


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("flags", [{}, {"EMAIL_USE_TLS": True}, {"EMAIL_USE_SSL": True}])
def test_a_remedy_of_django_is_followed_by_no_other_error(flags: dict[str, bool], wanted: str) -> None:
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="mx.example.com", **flags):
        [server] = EmailBackend().mailer().configuration.servers
        remedy = server.spelling("tls", wanted)
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="mx.example.com", **applied(remedy, dict(flags))):
        [server] = EmailBackend().mailer().configuration.servers
    assert server.tls == wanted


@pytest.mark.skipif(not HAS_MAILERS, reason="Django 6.1 has MAILERS")
@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("options", [{}, {"use_tls": True}, {"use_ssl": True}, {"tls": "none"}])
def test_a_remedy_of_mailers_is_followed_by_no_other_error(options: dict[str, Any], wanted: str) -> None:
    from django.core.mail import mailers

    given = {"host": "mx.example.com", **options}
    with override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": given}}):
        [server] = mailers["default"].mailer().configuration.servers
    remedy, _, other = server.spelling("tls", wanted).partition(" instead of ")
    site = {"MAILERS": {"default": {"BACKEND": PATH, "OPTIONS": dict(given)}}}
    for path in re.findall(r'\["(\w+)"\]$', other):
        del site["MAILERS"]["default"]["OPTIONS"][path]  # type: ignore[attr-defined]
    with override_settings(**applied(remedy, site)):
        [server] = mailers["default"].mailer().configuration.servers
    assert server.tls == wanted


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("flags", [{}, {"MAIL_USE_TLS": True}, {"MAIL_USE_SSL": True}, {"SMTPBACKEND_TLS": "none"}])
def test_a_remedy_of_flask_is_followed_by_no_other_error(flags: dict[str, Any], wanted: str) -> None:
    def server_of(config: dict[str, Any]) -> Any:
        app = Flask("remedied")
        app.config.update(MAIL_SERVER="mx.example.com", MAIL_PORT=2525, **config)
        return Mail(app).state.mailer.configuration.servers[0]  # type: ignore[union-attr]

    remedy = server_of(flags).spelling("tls", wanted)
    assert server_of(applied(remedy, dict(flags))).tls == wanted
