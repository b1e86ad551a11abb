"""The three modes, and the registry of shared Mailers."""

from __future__ import annotations

import gc
import re
import sys
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from smtpbackend.errors import InvalidSetting
from smtpbackend_django import EmailBackend, conf
from tests.django.conftest import HAS_MAILERS, PATH, Start, email_settings, mail
from tests.dkim_keys import pem
from tests.servers.aiosmtpd_server import AiosmtpdServer

# SMTPBACKEND


def servers_of(backend: EmailBackend) -> list[tuple[str, int, str]]:
    return [(server.host, server.port, server.tls) for server in backend.mailer().configuration.servers]


def test_smtpbackend_replaces_email_settings() -> None:
    """Nothing of EMAIL_* is mixed in, the credentials least of all."""
    theirs = {"EMAIL_HOST": "old.example", "EMAIL_PORT": 2525, "EMAIL_HOST_USER": "u", "EMAIL_HOST_PASSWORD": "p"}
    with email_settings(**theirs, EMAIL_USE_SSL=True, EMAIL_TIMEOUT=3, SMTPBACKEND={"HOST": "new.example"}):
        backend = EmailBackend()
    assert (backend.host, backend.port, backend.username, backend.timeout) == ("new.example", 587, None, None)
    (server,) = backend.mailer().configuration.servers
    assert (server.tls, server.username) == ("required", None)


def test_smtpbackend_has_the_defaults_of_the_core() -> None:
    with override_settings(SMTPBACKEND={"HOST": "mail.example.com", "USERNAME": "u", "PASSWORD": "p"}):
        backend = EmailBackend()
    assert servers_of(backend) == [("mail.example.com", 587, "required")]
    assert backend.port == 587


def test_smtpbackend_with_servers() -> None:
    urls = ["smtps://user:p%40ss@a.example", "smtp://b.example:2525?tls=none"]
    with override_settings(SMTPBACKEND={"SERVERS": urls, "STRATEGY": "round_robin"}):
        backend = EmailBackend()
    assert servers_of(backend) == [("a.example", 465, "implicit"), ("b.example", 2525, "none")]
    assert (backend.host, backend.port) == ("a.example", 465)
    assert backend.mailer().configuration.strategy == "round_robin"
    assert backend.mailer().configuration.servers[0].password == "p@ss"


def test_servers_and_ports_in_tandem() -> None:
    with override_settings(SMTPBACKEND={"SERVERS": ["a.example", "b.example"], "PORTS": [2525], "TLS": "none"}):
        assert servers_of(EmailBackend()) == [("a.example", 2525, "none"), ("b.example", 25, "none")]


def test_a_port_beside_servers_is_the_default_of_each() -> None:
    """As every setting of a server is."""
    site = {"SERVERS": ["a.example", "smtp://b.example:27"], "PORT": 2525, "TLS": "none"}
    with override_settings(SMTPBACKEND=site):
        backend = EmailBackend()
    assert servers_of(backend) == [("a.example", 2525, "none"), ("b.example", 27, "none")]
    assert backend.port == 2525


def test_smtpbackend_takes_djangos_names_too() -> None:
    with override_settings(SMTPBACKEND={"HOST": "mail.example.com", "USE_SSL": True, "FAIL_SILENTLY": True}):
        backend = EmailBackend()
    assert servers_of(backend) == [("mail.example.com", 465, "implicit")]
    assert backend.use_ssl is True
    assert backend.fail_silently is True


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (
            {"VALIDATE_CERTS": False},
            "unknown setting 'VALIDATE_CERTS', a name of aiosmtplib: certificates are always "
            'verified; set SMTPBACKEND["CA_FILE"] to',
        ),
        ({"START_TLS": True}, "unknown setting 'START_TLS', a name of aiosmtplib: set EMAIL_USE_TLS = True"),
        (
            {"HOST": "a", "START_TLS": True},
            "unknown setting 'START_TLS', a name of aiosmtplib: set SMTPBACKEND[\"USE_TLS\"] = True",
        ),
        ({"HOTS": "a"}, "unknown setting 'HOTS'; did you mean 'HOST'?"),
    ],
)
def test_a_name_of_another_library_leads_to_ours(site: dict[str, Any], words: str) -> None:
    with email_settings(SMTPBACKEND=site), pytest.raises(conf.SettingsError, match=re.escape(words)):
        EmailBackend()


def test_so_does_one_that_a_call_has() -> None:
    with email_settings(), pytest.raises(conf.SettingsError, match=r"'tls_context', a name of aiosmtplib: TLS is set"):
        EmailBackend(tls_context=None)


@pytest.mark.parametrize("flags", [{}, {"EMAIL_USE_TLS": True}, {"EMAIL_USE_SSL": True}])
@pytest.mark.parametrize("tls", ["none", "required", "implicit"])
def test_tls_takes_the_place_of_the_flags(flags: dict[str, bool], tls: str) -> None:
    with email_settings(EMAIL_HOST="mail.example.com", **flags, SMTPBACKEND={"TLS": tls}):
        assert servers_of(EmailBackend()) == [("mail.example.com", 25, tls)]


def test_smtpbackend_without_a_server_adds_to_email_settings() -> None:
    with email_settings(EMAIL_HOST="old.example", EMAIL_PORT=2525, SMTPBACKEND={"RECIPIENT_POLICY": "all"}):
        backend = EmailBackend()
    assert servers_of(backend) == [("old.example", 2525, "opportunistic")]
    assert backend.mailer().configuration.rules.recipient_policy == "all"


def test_a_server_beside_those_of_the_site_is_not_given_the_credentials_of_email_settings() -> None:
    """EMAIL_* are not read where SMTPBACKEND names servers."""
    with email_settings(EMAIL_HOST_USER="user", EMAIL_HOST_PASSWORD="secret", SMTPBACKEND={"SERVERS": ["a.example"]}):
        backend = EmailBackend(host="b.example")
    assert servers_of(backend) == [("b.example", 587, "required")]
    assert backend.mailer().configuration.servers[0].username is None


@pytest.mark.parametrize("name", ["use_tls", "use_ssl", "fail_silently"])
@pytest.mark.parametrize("value", ["False", "false", "0", "no", "off", "maybe", " "])
def test_a_string_that_does_not_say_true_is_no_flag(configured: Any, name: str, value: str) -> None:
    """Django takes it for true: TLS that was not asked for, or errors that nobody sees."""
    if name == "fail_silently":
        with pytest.raises(conf.SettingsError, match="fail_silently is the string"):
            EmailBackend(host="localhost", fail_silently=value)  # type: ignore[arg-type]
        return
    with pytest.raises(ImproperlyConfigured, match=f"({name.upper()}|OPTIONS.*{name}).* is the string '{value}'"):
        configured(host="localhost", **{name: value})


def test_two_strings_are_not_two_flags() -> None:
    with email_settings(EMAIL_USE_TLS="True", EMAIL_USE_SSL="False"), pytest.raises(conf.SettingsError) as caught:
        EmailBackend()
    assert str(caught.value).startswith("EMAIL_USE_SSL is the string 'False'")


@pytest.mark.parametrize("value", ["True", "true", "1", "yes", "on", " true", "1\n"])
def test_a_string_that_says_true_is_true(configured: Any, value: str) -> None:
    """As sites have it from the environment, and as Django takes it."""
    backend = configured(host="localhost", use_tls=value)
    assert servers_of(backend)[0][2] == "required"


def test_an_empty_string_is_false(configured: Any) -> None:
    assert servers_of(configured(host="localhost", use_tls="", use_ssl=""))[0][2] == "opportunistic"


def test_a_username_without_a_password_is_told_once(server: AiosmtpdServer, caplog: pytest.LogCaptureFixture) -> None:
    """Django does not log in then, and nobody hears of it."""
    given = {"EMAIL_HOST": server.host, "EMAIL_PORT": server.port, "EMAIL_HOST_USER": "ann"}
    with email_settings(EMAIL_BACKEND=PATH, **given):
        for _ in range(3):
            assert EmailBackend().send_messages([mail()]) == 1
            conf.close_mailers()
    [told] = [record for record in caplog.records if record.getMessage().startswith("smtpbackend.no_login")]
    assert told.__dict__["lacking"] == "EMAIL_HOST_PASSWORD"
    assert told.__dict__["server"] == f"{server.host}:{server.port}"


@pytest.mark.parametrize(
    "options",
    [{}, {"username": "ann", "token": "ya29"}, {"username": "ann", "password": "secret"}, {"username": ""}],
)
def test_a_whole_login_or_none_is_not_told(options: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with email_settings(EMAIL_HOST_PASSWORD="" if "token" in options else "secret"):
        EmailBackend(host="localhost", **options).mailer()
    assert "no_login" not in caplog.text


def test_a_mechanism_that_needs_no_password_gets_the_username() -> None:
    backend = EmailBackend(host="localhost", username="ann", auth_mechanisms=["EXTERNAL"])
    assert backend.mailer().configuration.servers[0].username == "ann"
    with pytest.raises(
        conf.SettingsError, match=r"get_connection\(username=...\) is set for localhost, EMAIL_HOST_PASSWORD is not"
    ):
        EmailBackend(host="localhost", username="ann", auth_mechanisms=["PLAIN"])


def test_a_mechanism_that_is_not_known_is_an_error_of_the_settings() -> None:
    """Also where it is looked at to find out whether there is a login."""
    with email_settings(EMAIL_HOST_PASSWORD="secret"), pytest.raises(conf.SettingsError, match="'EXTRENAL'"):
        EmailBackend(auth_mechanisms=["EXTRENAL"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"EMAIL_PORT": 70000}, "EMAIL_PORT"),
        ({"EMAIL_TIMEOUT": "long"}, "EMAIL_TIMEOUT"),
        ({"EMAIL_HOST": "smtp://a.example"}, "EMAIL_HOST"),
        ({"SMTPBACKEND": {"TOKEN": "ya29"}}, "EMAIL_HOST_USER"),
    ],
)
def test_an_error_has_the_name_that_the_site_knows(settings: dict[str, Any], words: str) -> None:
    with email_settings(EMAIL_BACKEND=PATH, **settings), pytest.raises(conf.SettingsError, match=f"{words}"):
        EmailBackend()


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"host": "kw.example"}, ("kw.example", 26, "required")),
        ({"port": 27}, ("site.example", 27, "required")),
        ({"tls": "none"}, ("site.example", 26, "none")),
        ({"use_ssl": True}, ("site.example", 26, "implicit")),
        ({"servers": ["smtp://kw.example:28?tls=none"]}, ("kw.example", 28, "none")),
    ],
)
def test_keyword_beats_smtpbackend(keywords: dict[str, Any], expected: tuple[str, int, str]) -> None:
    site = {"HOST": "site.example", "PORT": 26, "USE_TLS": True, "USERNAME": "u", "PASSWORD": "p"}
    with override_settings(SMTPBACKEND=site):
        backend = EmailBackend(**keywords)
        assert servers_of(backend) == [expected]
        named = backend.mailer().configuration.servers[0].username
        assert named == (None if "servers" in keywords else "u")


def test_servers_as_keyword_are_not_given_the_credentials_of_email_settings() -> None:
    with email_settings(EMAIL_HOST_USER="user", EMAIL_HOST_PASSWORD="secret", EMAIL_HOST="a.example"):
        backend = EmailBackend(servers=["smtp://b.example"])
    assert backend.mailer().configuration.servers[0].username is None
    assert backend.host == "b.example"


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"HOTS": "x"}, "'HOTS'; did you mean 'HOST'"),
        ({"host": "x"}, "'host'; did you mean 'HOST'"),
        ({"RECIPIENTS_POLICY": "any"}, "RECIPIENT_POLICY"),
        ({"QQQQQ": 1}, "QQQQQ"),
        ("smtp://x", "must be a dict"),
        ({"HOST": "x", "TLS": "maybe"}, r"^SMTPBACKEND\[.TLS.\] must be one of"),
        ({"HOST": "x", "PORT": "seven"}, r"^SMTPBACKEND\[.PORT.\] must be"),
        ({"HOST": "x", "TLS": "none", "USE_TLS": True}, "contradicts"),
        ({"HOST": "x", "SERVERS": ["y"]}, "give one of them"),
        ({"HOST": "x", "USERNAME": "u"}, r"SMTPBACKEND\[.PASSWORD.\] is not"),
        ({"SERVERS": []}, r"^SMTPBACKEND\[.SERVERS.\] must be a list"),
        ({"HOST": "x", "CLIENT_NAME": "a b"}, "a b"),
    ],
)
def test_wrong_setting_is_said_at_construction(site: Any, words: str) -> None:
    """As Django says it (ImproperlyConfigured) and as the core does (InvalidSetting, a ValueError)."""
    with override_settings(SMTPBACKEND=site):
        with pytest.raises(conf.SettingsError, match=words) as caught:
            EmailBackend()
        assert isinstance(caught.value, ImproperlyConfigured)
        assert isinstance(caught.value, InvalidSetting)


@pytest.mark.parametrize(
    "option", [{"ca_file": "/nowhere.pem"}, {"ssl_certfile": "/nowhere.pem"}, {"ssl_keyfile": "x"}]
)
@pytest.mark.parametrize("fail_silently", [False, True])
def test_files_are_opened_when_they_are_needed(option: dict[str, Any], fail_silently: bool) -> None:
    """As by Django, whose attributes may be read before; and no failure to deliver, so that it is not silenced."""
    backend = EmailBackend(host="localhost", fail_silently=fail_silently, **option)
    for name, value in option.items():
        assert getattr(backend, name, value) == value
    with pytest.raises(conf.SettingsError):
        backend.open()
    with pytest.raises(conf.SettingsError):
        backend.send_messages([mail()])


def test_a_key_for_dkim_is_read_at_construction(tmp_path: Path) -> None:
    """The path, and the setting's name."""
    setting = {"domain": "example.org", "selector": "s", "key": tmp_path / "none.pem"}
    with (
        override_settings(SMTPBACKEND={"HOST": "mail.example.com", "DKIM": setting}),
        pytest.raises(ImproperlyConfigured, match=r"SMTPBACKEND\[.DKIM.\] key '.*none\.pem' cannot be read"),
    ):
        EmailBackend()
    key = ed25519.Ed25519PrivateKey.generate()
    with override_settings(SMTPBACKEND={"HOST": "mail.example.com", "DKIM": {**setting, "key": pem(key)}}):
        backend = EmailBackend()
    (signer,) = backend.mailer().configuration.rules.dkim
    assert repr(signer) == "<Signer s._domainkey.example.org ed25519-sha256>"


# MAILERS

mailers_only = pytest.mark.skipif(not HAS_MAILERS, reason="Django 6.1 has MAILERS")


def mailer(**options: Any) -> Any:
    from django.core.mail import mailers

    with override_settings(MAILERS={"news": {"BACKEND": PATH, "OPTIONS": options}}):
        backend = mailers["news"]
        backend.mailer()
        return backend


@mailers_only
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"host": "a.example"}, ("a.example", 25, "opportunistic")),
        ({"host": "a.example", "use_tls": True}, ("a.example", 587, "required")),
        ({"host": "a.example", "use_ssl": True}, ("a.example", 465, "implicit")),
        ({"host": "a.example", "tls": "required"}, ("a.example", 587, "required")),
        ({"host": "a.example", "tls": "implicit"}, ("a.example", 465, "implicit")),
        ({"host": "a.example", "tls": "none"}, ("a.example", 25, "none")),
        ({"host": "a.example", "port": 2525, "tls": "none"}, ("a.example", 2525, "none")),
        ({"servers": ["smtps://a.example"]}, ("a.example", 465, "implicit")),
        ({"servers": "smtp://a.example"}, ("a.example", 587, "required")),
        ({"servers": [{"host": "a.example"}], "use_tls": True}, ("a.example", 587, "required")),
    ],
)
def test_options(options: dict[str, Any], expected: tuple[str, int, str]) -> None:
    """Django's names and ours, and Django's ports where a host is given."""
    backend = mailer(**options)
    assert backend.alias == "news"
    assert servers_of(backend) == [expected]
    assert (backend.host, backend.port) == expected[:2]


@mailers_only
def test_options_never_read_other_settings() -> None:
    with override_settings(SMTPBACKEND={"HOST": "other.example", "RECIPIENT_POLICY": "all"}):
        backend = mailer(host="a.example")
    assert servers_of(backend)[0][0] == "a.example"
    assert backend.mailer().configuration.rules.recipient_policy == "any"


@mailers_only
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "OPTIONS must define 'host'"),
        ({"host": "a", "hots": "b"}, "Unknown options 'hots'; did you mean 'host'"),
        (
            {"host": "a", "verify": False},
            r"'verify', a name of requests .*; set OPTIONS\[.ca_file.\] to",
        ),
        ({"host": "a", "nonsense": 1, "zzz": 2}, "Unknown options 'nonsense', 'zzz'"),
        ({"host": "a", "use_tls": True, "use_ssl": True}, "incompatible"),
        ({"host": "a", "tls": "none", "use_ssl": True}, "contradicts"),
        ({"host": "a", "servers": ["b"]}, r"OPTIONS\[.servers.\] and OPTIONS\[.host.\] are both set"),
        ({"host": "a", "tls": "maybe"}, r": OPTIONS\[.tls.\] must be one of"),
        ({"servers": ["http://a"]}, r"OPTIONS\[.servers.\] has a URL"),
        ({"host": "a", "alias": "b"}, "must not define 'alias'"),
    ],
)
def test_wrong_options_are_an_invalid_mailer_with_the_alias(options: dict[str, Any], words: str) -> None:
    from django.core.mail import InvalidMailer

    with pytest.raises(InvalidMailer, match=words) as caught:
        mailer(**options)
    assert "MAILERS['news']" in str(caught.value)


@mailers_only
def test_using_and_two_mailers(aiosmtpd: Start) -> None:
    from django.core.mail import mailers, send_mail

    one, two = aiosmtpd(), aiosmtpd()
    options = {"default": one, "news": two}
    with override_settings(
        MAILERS={
            alias: {"BACKEND": PATH, "OPTIONS": {"host": server.host, "port": server.port, "fail_silently": False}}
            for alias, server in options.items()
        }
    ):
        assert send_mail("S", "B", None, ["ann@example.org"], using="news") == 1
        assert mailers.default.send_messages([mail()]) == 1
        assert mailers["news"].mailer() is mailers["news"].mailer()
        assert mailers["news"].mailer() is not mailers["default"].mailer()
    assert (len(one.arrived), len(two.arrived)) == (1, 1)


@mailers_only
def test_deprecated_arguments_reach_the_default_mailer() -> None:
    """Django passes them with a list of names that are not to be called unknown."""
    from django.core.mail import mailers

    with override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": {"host": "a.example"}}}):
        backend = mailers.create_connection("default", _deprecated_kwargs={"fail_silently": True, "file_path": "x"})
    assert backend.fail_silently is True


@mailers_only
def test_deprecated_arguments_that_are_misspelt_are_told() -> None:
    from django.core.mail import InvalidMailer, mailers

    with (
        override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": {"host": "a.example"}}}),
        pytest.raises(InvalidMailer, match="'deadlne'; did you mean 'deadline'"),
    ):
        mailers.create_connection("default", _deprecated_kwargs={"deadlne": 2})
    with pytest.raises(InvalidMailer, match="file_path"):  # Django's own does not take it there either
        mailer(host="a.example", file_path="x")


# Shared Mailers


def test_same_configuration_same_mailer(server: AiosmtpdServer) -> None:
    for _ in range(5):
        EmailBackend(host=server.host, port=server.port).send_messages([mail()])
    assert server.connections == 1
    assert len(conf.shared_mailers) == 1


@pytest.mark.parametrize("other", [{"password": "b"}, {"username": "v"}, {"timeout": 8}, {"max_connections": 2}])
def test_every_difference_makes_another_mailer(other: dict[str, Any]) -> None:
    """A connection logged in for one is not used by another."""
    base = {"host": "localhost", "username": "u", "password": "a", "timeout": 7}
    assert EmailBackend(**base).mailer() is EmailBackend(**base).mailer()
    assert EmailBackend(**base).mailer() is not EmailBackend(**{**base, **other}).mailer()


def test_override_settings_changes_the_mailer(aiosmtpd: Start) -> None:
    one, two = aiosmtpd(), aiosmtpd()
    with override_settings(SMTPBACKEND={"HOST": one.host, "PORT": one.port}):
        EmailBackend().send_messages([mail()])
        with override_settings(SMTPBACKEND={"HOST": two.host, "PORT": two.port}):
            assert not conf.shared_mailers
            EmailBackend().send_messages([mail()])
        EmailBackend().send_messages([mail()])
    assert not conf.shared_mailers
    assert (len(one.arrived), len(two.arrived)) == (2, 1)


def test_other_settings_leave_connections_open(server: AiosmtpdServer) -> None:
    EmailBackend(host=server.host, port=server.port).send_messages([mail()])
    with override_settings(SITE_ID=2):
        EmailBackend(host=server.host, port=server.port).send_messages([mail()])
    assert server.connections == 1


def test_registry_is_bounded(server: AiosmtpdServer) -> None:
    """The one unused for the longest time goes, and its connections with it; a backend that has it goes on working."""
    first = EmailBackend(host=server.host, port=server.port)
    first.open()
    for number in range(conf.MAX_MAILERS):
        EmailBackend(host="localhost", password=f"p{number}", username="u").mailer()
    assert len(conf.shared_mailers) == conf.MAX_MAILERS
    assert first.send_messages([mail()]) == 1
    assert len(conf.shared_mailers) == conf.MAX_MAILERS


def test_a_mailer_that_had_to_go_sends_what_waits_and_closes_itself(server: AiosmtpdServer) -> None:
    """Whoever has it still goes on; nobody is told that it was not closed."""
    mailer = EmailBackend(host=server.host, port=server.port).mailer()
    stream = mailer.send_many(iter([mail().message(), mail().message()]))
    assert next(stream).ok
    for number in range(conf.MAX_MAILERS):
        EmailBackend(host="localhost", password=f"p{number}", username="u").mailer()
    assert mailer not in conf.shared_mailers.values()
    assert [receipt.ok for receipt in stream] == [True]
    assert mailer.send(mail().message()).ok
    open_connections = weakref.ref(mailer._pool)
    del mailer, stream
    gc.collect()
    assert open_connections() is None or open_connections().statistics().open == 0  # type: ignore[union-attr]


def test_a_backend_in_use_keeps_its_mailer_among_those(server: AiosmtpdServer) -> None:
    """Whoever else has these settings shares its connections, its rate and its limits."""
    busy = EmailBackend(host=server.host, port=server.port)
    for number in range(conf.MAX_MAILERS + 3):
        assert busy.send_messages([mail()]) == 1
        EmailBackend(host="localhost", password=f"p{number}", username="u").mailer()
    assert busy.mailer() is EmailBackend(host=server.host, port=server.port).mailer()
    assert server.connections == 1
    conf.close_mailers()
    assert busy.send_messages([mail()]) == 1
    assert busy.mailer() is EmailBackend(host=server.host, port=server.port).mailer()


def test_a_backend_under_a_debugger(server: AiosmtpdServer) -> None:
    """Which looks at the variables of each function."""

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        dict(frame.f_locals)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        backend = EmailBackend(host=server.host, port=server.port, fail_silently=None)  # type: ignore[arg-type]
    finally:
        sys.settrace(before)
    assert backend.send_messages([mail()]) == 1


def test_keys_show_nothing() -> None:
    key = conf.Key({"password": "secret", "servers": [{"host": "x", "password": "secret"}]}, ())
    assert "secret" not in repr(key)
    assert key == conf.Key({"servers": [{"password": "secret", "host": "x"}], "password": "secret"}, ())
    assert key != conf.Key({"password": "secret"}, ())
    assert key != "secret"


def test_true_is_not_1_in_a_key() -> None:
    assert conf.Key({"timeout": 1}, ()) != conf.Key({"timeout": True}, ())


def test_functions_may_stand_in_a_configuration() -> None:
    def decide(*_: Any) -> str:
        return "secure"

    first = EmailBackend(host="localhost", on_tls_failure=decide)
    assert first.mailer() is EmailBackend(host="localhost", on_tls_failure=decide).mailer()
    assert first.mailer() is not EmailBackend(host="localhost", on_tls_failure="secure").mailer()


def test_a_token_of_the_site_goes_to_no_other_server() -> None:
    """Servers that are given bring their own logins."""
    from smtpbackend_django.conf import overridden

    site = {"host": "smtp.example.com", "username": "site", "token": "SITE-TOKEN"}
    assert overridden(site, {"servers": ["smtps://u:p@other.example.net"]}) == {
        "servers": ["smtps://u:p@other.example.net"]
    }
    assert "token" not in overridden(site, {"username": "u", "password": "p"})
    assert "password" not in overridden({**site, "password": "SITE-PASSWORD"}, {"token": "other"})
