"""From app.config to settings: MAIL_*, SMTPBACKEND_*, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from smtpbackend import InvalidInput
from smtpbackend.delivery.configuration import configure
from smtpbackend.errors import InvalidSetting
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend_flask import Mail, mailer_settings
from smtpbackend_flask.config import Config, read_config
from tests.servers.tls import Certificates


def read(**config: Any) -> Config:
    return read_config(config)


def test_flask_mails_defaults() -> None:
    """Nothing set: 127.0.0.1, port 25, TLS where it is offered."""
    config = read()
    assert config.mailer == {"host": "127.0.0.1", "port": 25, "tls": "opportunistic"}
    assert (config.server, config.port, config.use_tls, config.use_ssl) == ("127.0.0.1", 25, False, False)
    assert (config.username, config.password, config.default_sender, config.max_emails) == (None, None, None, None)
    assert (config.suppress, config.ascii_attachments, config.debug) == (None, False, 0)


@pytest.mark.parametrize(
    ("config", "tls", "port"),
    [
        ({"MAIL_USE_TLS": True, "MAIL_PORT": 587}, "required", 587),
        ({"MAIL_USE_SSL": True, "MAIL_PORT": 4650}, "implicit", 4650),
        ({"MAIL_USE_SSL": True}, "implicit", 465),
        ({"MAIL_USE_TLS": "true", "MAIL_PORT": "2525"}, "required", 2525),
        ({"MAIL_USE_TLS": "False"}, "opportunistic", 25),
        ({"MAIL_USE_TLS": 0, "MAIL_USE_SSL": None}, "opportunistic", 25),
    ],
)
def test_tls_of_flask_mail(config: dict[str, Any], tls: str, port: int) -> None:
    """MAIL_USE_TLS means required, MAIL_USE_SSL implicit, neither opportunistic."""
    (server,) = configure(read(MAIL_SERVER="smtp.example.com", **config).mailer).servers
    assert (server.host, server.tls, server.port) == ("smtp.example.com", tls, port)


def test_tls_and_ssl_exclude_each_other() -> None:
    """One error, which says what each of them means."""
    with pytest.raises(InvalidSetting, match="MAIL_USE_TLS and MAIL_USE_SSL") as raised:
        read(MAIL_USE_TLS=True, MAIL_USE_SSL=True)
    assert raised.value.field == "MAIL_USE_SSL"


def test_all_of_flask_mails_settings() -> None:
    """Each has its place; the state has them under Flask-Mail's names."""
    app = Flask(__name__)
    app.config.update(
        MAIL_SERVER="smtp.example.com",
        MAIL_PORT=587,
        MAIL_USE_TLS=True,
        MAIL_USERNAME="user",
        MAIL_PASSWORD="secret",
        MAIL_DEFAULT_SENDER=("App", "app@example.com"),
        MAIL_MAX_EMAILS=5,
        MAIL_SUPPRESS_SEND=True,
        MAIL_ASCII_ATTACHMENTS=True,
        MAIL_TIMEOUT=7,
    )
    state = Mail().init_app(app)
    assert app.extensions["mail"] is state
    assert (state.server, state.port, state.username, state.password) == ("smtp.example.com", 587, "user", "secret")
    assert (state.use_tls, state.use_ssl, state.debug, state.max_emails) == (True, False, 0, 5)
    assert state.default_sender == ("App", "app@example.com")
    assert (state.suppress, state.ascii_attachments) == (True, True)
    (server,) = state.mailer.configuration.servers
    assert server.timeout.connect == 7
    assert state.mailer.configuration.limits.max_messages == 5
    assert "secret" not in repr(state) + repr(state.config) + repr(app.extensions)


@pytest.mark.parametrize(
    ("login", "missing"),
    [
        ({"MAIL_USERNAME": "user"}, "MAIL_PASSWORD"),
        ({"MAIL_USERNAME": "user", "MAIL_PASSWORD": ""}, "MAIL_PASSWORD"),
        ({"MAIL_USERNAME": "user", "MAIL_PASSWORD": None}, "MAIL_PASSWORD"),
        ({"MAIL_PASSWORD": "secret"}, "MAIL_USERNAME"),
    ],
)
def test_a_login_needs_both(login: dict[str, Any], missing: str) -> None:
    """As with Flask-Mail one alone is no login; and the site is told which one is missing, when it starts."""
    with pytest.warns(RuntimeWarning, match=f"{missing} is not.*there is no login"):
        assert read(**login).username is None


@pytest.mark.parametrize(
    "login",
    [
        {"MAIL_USERNAME": "user", "SMTPBACKEND_PASSWORD": "secret"},
        {"SMTPBACKEND_USERNAME": "user", "MAIL_PASSWORD": "secret"},
        {"MAIL_USERNAME": "user", "MAIL_PASSWORD": "secret"},
    ],
)
def test_the_two_halves_of_a_login_may_have_names_of_either_kind(login: dict[str, Any]) -> None:
    config = read(**login)
    assert (config.username, config.password) == ("user", "secret")


def test_a_mechanism_that_needs_no_password_gets_the_username() -> None:
    config = read(MAIL_USERNAME="user", SMTPBACKEND_AUTH_MECHANISMS="EXTERNAL")
    assert (config.username, config.password) == ("user", None)
    with pytest.warns(RuntimeWarning, match="MAIL_USERNAME is set, MAIL_PASSWORD is not"):
        assert read(MAIL_USERNAME="user", SMTPBACKEND_AUTH_MECHANISMS="PLAIN").username is None
    with pytest.raises(InvalidSetting, match=r"^SMTPBACKEND_AUTH_MECHANISMS has 'EXTRENAL'"):
        read(MAIL_USERNAME="user", SMTPBACKEND_AUTH_MECHANISMS="EXTRENAL")


def test_ours_win() -> None:
    """Key by key where both speak of the same server."""
    config = read(MAIL_SERVER="smtp.example.com", MAIL_USE_TLS=True, SMTPBACKEND_TLS="implicit", SMTPBACKEND_PORT=465)
    assert (config.server, config.port, config.use_tls, config.use_ssl) == ("smtp.example.com", 465, False, True)
    config = read(
        MAIL_DEFAULT_SENDER="a@example.com",
        SMTPBACKEND_DEFAULT_SENDER="b@example.com",
        MAIL_SUPPRESS_SEND=True,
        SMTPBACKEND_SUPPRESS_SEND=False,
        MAIL_MAX_EMAILS=3,
        SMTPBACKEND_MAX_MESSAGES=4,
        SMTPBACKEND_ASCII_ATTACHMENTS=True,
        SMTPBACKEND_TIMEOUT=None,
        MAIL_TIMEOUT=9,
    )
    assert (config.default_sender, config.suppress, config.max_emails) == ("b@example.com", False, 4)
    assert config.ascii_attachments
    assert configure(config.mailer).servers[0].timeout.connect == 9


@pytest.mark.parametrize(
    "ours", [{"SMTPBACKEND_HOST": "new.example.com"}, {"SMTPBACKEND_SERVERS": ["smtp://new.example.com"]}]
)
def test_credentials_never_go_to_another_server(ours: dict[str, Any]) -> None:
    """Once our settings name the server, what MAIL_* say of theirs does not count."""
    old = {"MAIL_SERVER": "old.example.com", "MAIL_USERNAME": "user", "MAIL_PASSWORD": "secret", "MAIL_USE_SSL": True}
    config = read(**old, **ours)
    assert (config.server, config.username, config.password, config.use_ssl) == ("new.example.com", None, None, False)


def test_several_servers() -> None:
    """The state speaks of the first one."""
    config = read(SMTPBACKEND_SERVERS=["smtps://u:p@a.example.com", "b.example.com"], SMTPBACKEND_REST=5)
    assert (config.server, config.port, config.username, config.use_ssl) == ("a.example.com", 465, "u", True)
    assert [server.host for server in configure(config.mailer).servers] == ["a.example.com", "b.example.com"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("SMTPBACKEND_TIMEOUTS", "SMTPBACKEND_TIMEOUT?"),
        ("SMTPBACKEND_SERVER", "SMTPBACKEND_SERVERS?"),
        ("SMTPBACKEND_DEFAULT_SENDR", "SMTPBACKEND_DEFAULT_SENDER?"),
        ("SMTPBACKEND_USE_TLS", "set SMTPBACKEND_TLS = 'required' (STARTTLS)"),
        (
            "SMTPBACKEND_VALIDATE_CERTS",
            "certificates are always verified; set SMTPBACKEND_CA_FILE",
        ),
        ("SMTPBACKEND_XYZZY", "known are SMTPBACKEND_ALLOW_CLEARTEXT_AUTH"),
    ],
)
def test_an_unknown_setting_names_the_nearest(key: str, hint: str) -> None:
    """When the app is initialised, not when its first mail is sent."""
    app = Flask(__name__)
    app.config[key] = "x"
    with pytest.raises(InvalidSetting) as raised:
        Mail(app)
    assert key in str(raised.value)
    assert hint in str(raised.value)
    assert raised.value.field == key
    assert "mail" not in app.extensions


@pytest.mark.parametrize(
    "config",
    [
        {"SMTPBACKEND_TLS": "sometimes"},
        {"MAIL_PORT": "smtp"},
        {"MAIL_PORT": 70000},
        {"MAIL_USE_TLS": "maybe"},
        {"MAIL_TIMEOUT": -1},
        {"MAIL_MAX_EMAILS": "many"},
        {"MAIL_DEFAULT_SENDER": 5},
        {"MAIL_SERVER": "smtp.example.com\r\n"},
        {"SMTPBACKEND_SERVERS": []},
        {"SMTPBACKEND_RECIPIENT_POLICY": "some"},
        {"MAIL_DEBUG": "perhaps"},
    ],
)
def test_impossible_values_are_found_at_once(config: dict[str, Any]) -> None:
    """InvalidSetting is a ValueError."""
    with pytest.raises(InvalidSetting):
        read(**config)
    with pytest.raises((ValueError, InvalidInput)):
        read(**config)


@pytest.mark.parametrize("name", ["ca_file", "client_cert"])
def test_a_path_that_cannot_be_used_is_found_at_once(name: str) -> None:
    """At start, and not at the first mail."""
    app = Flask("paths")
    app.config[f"SMTPBACKEND_{name.upper()}"] = "/no/such.pem"
    with pytest.raises(
        InvalidSetting, match=f"^SMTPBACKEND_{name.upper()} '/no/such.pem' cannot be used: No such file or directory"
    ):
        Mail(app)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"MAIL_PORT": "smtp"}, "MAIL_PORT"),
        ({"SMTPBACKEND_PORT": "smtp"}, "SMTPBACKEND_PORT"),
        ({"MAIL_PORT": 25, "SMTPBACKEND_PORT": 70000}, "SMTPBACKEND_PORT"),
        ({"MAIL_SERVER": "smtp example"}, "MAIL_SERVER"),
        ({"MAIL_USERNAME": "user", "MAIL_PASSWORD": ["x"]}, "MAIL_PASSWORD"),
        ({"MAIL_TIMEOUT": -1}, "MAIL_TIMEOUT"),
        ({"SMTPBACKEND_TIMEOUT": {"connect": -1}}, "SMTPBACKEND_TIMEOUT"),
        ({"MAIL_MAX_EMAILS": "many"}, "MAIL_MAX_EMAILS"),
        ({"MAIL_USE_TLS": "maybe"}, "MAIL_USE_TLS"),
        ({"MAIL_SUPPRESS_SEND": "maybe"}, "MAIL_SUPPRESS_SEND"),
        ({"SMTPBACKEND_SUPPRESS_SEND": "maybe"}, "SMTPBACKEND_SUPPRESS_SEND"),
        ({"SMTPBACKEND_DEBUG": "maybe"}, "SMTPBACKEND_DEBUG"),
        ({"SMTPBACKEND_DEFAULT_SENDER": 5}, "SMTPBACKEND_DEFAULT_SENDER"),
        ({"SMTPBACKEND_CLIENT_KEY": "/key.pem"}, "SMTPBACKEND_CLIENT_CERT"),
        ({"SMTPBACKEND_HOST": "mx.example.com", "SMTPBACKEND_USERNAME": "user"}, "SMTPBACKEND_PASSWORD"),
        ({"SMTPBACKEND_SERVERS": [{"host": "mx.example.com", "port": "smtp"}]}, "SMTPBACKEND_SERVERS"),
        ({"SMTPBACKEND_SERVERS": ["mx.example.com"], "SMTPBACKEND_HOST": "mx"}, "SMTPBACKEND_HOST"),
    ],
)
def test_an_error_names_the_setting_as_it_was_written(config: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        read(**config)
    assert raised.value.field == key
    assert key in str(raised.value)


def test_other_peoples_settings_are_left_alone() -> None:
    """What Flask-Mailman and Flask-Mailing read, and names of the site's own."""
    theirs = ["BACKEND", "SSL_KEYFILE", "SSL_CERTFILE", "USE_LOCALTIME", "FILE_PATH", "DEFAULT_CHARSET", "SEND_OPTIONS"]
    theirs += ["FROM", "FROM_NAME", "TEMPLATE_FOLDER"]
    own = ["SUBJECT_PREFIX", "ADMINS", "REPORT", "SENDER", "FOOTER", "USERS", "SUPPORT", "DOMAIN", "SERVICE"]
    own += ["DEFAULT_SENDER_NAME", "USERNAME_2", "USERNAME2", "SERVERS", "PORTAL", "DEBUGGER", "USE_TLS_13", "SORT"]
    own += ["SUPPRESSED_SENDS", "DEFAULT_SENDERS", "DEFAULTSENDER_", "PASSWORDS", "TIMEOUTS", "MAX_EMAIL_SIZE"]
    config = read(SECRET_KEY="x", SMTP="y", **{f"MAIL_{name}": "z" for name in theirs + own})
    assert config.server == "127.0.0.1"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("MAIL_USE_TSL", "MAIL_USE_TLS"),
        ("MAIL_USETLS", "MAIL_USE_TLS"),
        ("MAIL_USE_STARTTLS", "MAIL_USE_TLS"),
        ("MAIL_HOST", "MAIL_SERVER"),
        ("MAIL_SERVE", "MAIL_SERVER"),
        ("MAIL_SERVRE", "MAIL_SERVER"),
        ("MAIL_SEERVER", "MAIL_SERVER"),
        ("MAIL_SARVER", "MAIL_SERVER"),
        ("MAIL_PROT", "MAIL_PORT"),
        ("MAIL_USER", "MAIL_USERNAME"),
        ("MAIL_USER_NAME", "MAIL_USERNAME"),
        ("MAIL_PASSWROD", "MAIL_PASSWORD"),
        ("MAIL_PASS", "MAIL_PASSWORD"),
        ("MAIL_DEFAULT_SENDR", "MAIL_DEFAULT_SENDER"),
        ("MAIL_SUPRESS_SEND", "MAIL_SUPPRESS_SEND"),
        ("MAIL_SUPPRESS", "MAIL_SUPPRESS_SEND"),
    ],
)
def test_a_misspelt_name_of_flask_mail_is_told_at_start(key: str, meant: str) -> None:
    """A warning, for the name may be one of the site's own; a value is never shown."""
    app = Flask(__name__)
    app.config[key] = "Pw-zX8kQv2"
    with pytest.warns(RuntimeWarning, match=f"{key} is set.*did you mean {meant}?") as told:
        Mail(app)
    assert len(told) == 1
    assert "Pw-zX8kQv2" not in str(told[0].message)


def test_another_name_beside_the_right_one_is_the_sites_own() -> None:
    assert read(MAIL_HOST="www.example.com", MAIL_SERVER="mx.example.com").server == "mx.example.com"
    assert read(MAIL_USE_TSL=None).server == "127.0.0.1"


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask's from_prefixed_env gives numbers, lists and true; other loaders give strings."""
    monkeypatch.setenv("FLASK_MAIL_PORT", "2525")
    monkeypatch.setenv("FLASK_MAIL_USE_TLS", "true")
    monkeypatch.setenv("FLASK_MAIL_DEFAULT_SENDER", '["App", "app@example.com"]')
    app = Flask(__name__)
    app.config.from_prefixed_env()
    state = Mail().init_app(app)
    assert (state.port, state.use_tls, state.default_sender) == (2525, True, ("App", "app@example.com"))


def from_environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> Config:
    """The settings of an app that has these from its environment."""
    for name, value in values.items():
        monkeypatch.setenv(f"FLASK_{name}", value)
    app = Flask(__name__)
    app.config.from_prefixed_env()
    return Mail().init_app(app).config


def test_digits_are_text_where_text_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """from_prefixed_env makes numbers of them."""
    config = from_environment(
        monkeypatch, MAIL_USERNAME="1234", MAIL_PASSWORD="12345", SMTPBACKEND_MIN_TLS="1.3", SMTPBACKEND_TIMEOUT="2.5"
    )
    assert (config.username, config.password) == ("1234", "12345")
    (server,) = configure(config.mailer).servers
    assert (server.min_tls, server.timeout.connect) == ("1.3", 2.5)


def test_digits_in_a_list_of_servers_are_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = '[{"host": "mx.example.com", "port": 587, "username": 1234, "password": 12345}]'
    (server,) = configure(from_environment(monkeypatch, SMTPBACKEND_SERVERS=servers).mailer).servers
    assert (server.port, server.username, server.password) == (587, "1234", "12345")


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_tuple_is_read_as_a_list_is(kind: type) -> None:
    """Of servers, of ports, of names, and one in another."""
    server = {"host": "mx.example.com", "username": 1234, "password": 12345, "auth_mechanisms": kind(["PLAIN"])}
    config = read(SMTPBACKEND_SERVERS=kind([server]), SMTPBACKEND_PORTS=kind([2525]))
    (found,) = configure(config.mailer).servers
    assert (found.username, found.password, found.port, found.auth_mechanisms) == ("1234", "12345", 2525, ("PLAIN",))
    with pytest.raises(InvalidSetting, match=r"SMTPBACKEND_SERVERS.*double quotes"):
        read(SMTPBACKEND_SERVERS=kind([{**server, "password": 1.5}]))


def test_a_tuple_with_names_stays_what_it_is() -> None:
    timeouts = Timeouts(connect=3)
    assert configure(read(SMTPBACKEND_TIMEOUT=timeouts).mailer).servers[0].timeout == timeouts


@pytest.mark.parametrize("password", ["1.50", "12e45678", "1e5"])
def test_a_password_that_json_has_changed_is_refused(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """1.50 has become 1.5: it could not log in. Quoted it is what it was."""
    with pytest.raises(InvalidSetting, match=r"MAIL_PASSWORD.*double quotes") as raised:
        from_environment(monkeypatch, MAIL_USERNAME="user", MAIL_PASSWORD=password)
    assert password not in str(raised.value)
    assert from_environment(monkeypatch, MAIL_PASSWORD=f'"{password}"').password == password


def test_null_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = from_environment(monkeypatch, MAIL_SERVER="null", SMTPBACKEND_TLS="null", MAIL_MAX_EMAILS="null")
    assert (config.server, config.use_tls, config.max_emails) == ("127.0.0.1", False, None)


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "off"])
@pytest.mark.parametrize("key", ["MAIL_USE_TLS", "MAIL_SUPPRESS_SEND", "SMTPBACKEND_STRICT_X509", "SMTPBACKEND_XQUE"])
def test_words_that_are_false(monkeypatch: pytest.MonkeyPatch, key: str, word: str) -> None:
    """For every flag, whosever it is."""
    config = from_environment(monkeypatch, **{key: word})
    (server,) = configure(config.mailer).servers
    flags = {"MAIL_USE_TLS": config.use_tls, "MAIL_SUPPRESS_SEND": config.suppress}
    flags |= {"SMTPBACKEND_STRICT_X509": server.strict_x509, "SMTPBACKEND_XQUE": server.xque}
    assert flags[key] is False


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_word_is_not_set(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """It switches neither a check off, nor on the mail of an app that is testing."""
    keys = ("MAIL_USE_TLS", "MAIL_SUPPRESS_SEND", "MAIL_DEBUG", "MAIL_ASCII_ATTACHMENTS", "SMTPBACKEND_STRICT_X509")
    for key in (*keys, "SMTPBACKEND_XQUE", "SMTPBACKEND_SUPPRESS_SEND"):
        monkeypatch.setenv(f"FLASK_{key}", empty)
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.testing = app.debug = True
    state = Mail().init_app(app)
    (server,) = state.mailer.configuration.servers
    assert (server.strict_x509, server.xque, server.tls) == (True, False, "opportunistic")
    assert (state.suppress, state.debug, state.ascii_attachments) == (True, 1, False)
    assert mailer_settings(app.config)["suppress_send"]


@pytest.mark.parametrize("word", ["true", "True", "1", "yes", "on"])
@pytest.mark.parametrize("key", ["MAIL_USE_TLS", "MAIL_SUPPRESS_SEND", "SMTPBACKEND_XQUE"])
def test_words_that_are_true(monkeypatch: pytest.MonkeyPatch, key: str, word: str) -> None:
    config = from_environment(monkeypatch, **{key: word})
    (server,) = configure(config.mailer).servers
    assert {"MAIL_USE_TLS": config.use_tls, "MAIL_SUPPRESS_SEND": config.suppress}.get(key, server.xque) is True


@pytest.mark.parametrize(("config", "debug"), [({}, 1), ({"MAIL_DEBUG": False}, 0), ({"MAIL_DEBUG": "2"}, 2)])
def test_debug_is_the_apps(config: dict[str, Any], debug: int) -> None:
    """MAIL_DEBUG, else app.debug; only MAIL_DEBUG asks for a transcript."""
    read_ = read_config(config, app_debug=True)
    assert read_.debug == debug
    assert read_.wants_transcript == (debug == 2)


def test_a_key_for_dkim_is_read_at_start() -> None:
    """SMTPBACKEND_DKIM, also as `from_prefixed_env` makes it of SMTPBACKEND_DKIM__key and the like."""
    setting = {"domain": "example.org", "selector": "s", "key": "/none/key.pem"}
    with pytest.raises(InvalidSetting, match=r"^SMTPBACKEND_DKIM key '/none/key\.pem' cannot be read"):
        read_config({"SMTPBACKEND_HOST": "localhost", "SMTPBACKEND_DKIM": setting})


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (
            {"MAIL_PORT": 465, "MAIL_USE_TLS": True},
            "set MAIL_USE_SSL = True instead of MAIL_USE_TLS, or MAIL_PORT = 587",
        ),
        ({"MAIL_PORT": 465}, "set MAIL_USE_SSL = True, or MAIL_PORT = 587"),
        (
            {"MAIL_PORT": 587, "MAIL_USE_SSL": True},
            "set MAIL_USE_TLS = True instead of MAIL_USE_SSL, or MAIL_PORT = 465",
        ),
        (
            {"SMTPBACKEND_SERVERS": ["smtp://b.example", "smtps://a.example:587"]},
            r"set smtp:// with tls=required in the URL of SMTPBACKEND_SERVERS\[1\], or port=465",
        ),
    ],
)
def test_a_port_that_does_not_fit_the_kind_of_tls_is_told_at_once(settings: dict[str, Any], remedy: str) -> None:
    """A warning: behind a tunnel a number may mean another port."""
    app = Flask(__name__)
    app.config.update(MAIL_SERVER="a.example", **settings)
    with pytest.warns(RuntimeWarning, match=rf"a\.example:\d+: port \d+ .*{remedy}") as caught:
        Mail(app)
    assert len(caught) == 1


def test_a_password_without_a_username_is_told_at_once() -> None:
    """Flask-Mail logs in with both only, and says nothing; under ours it is an error."""
    app = Flask(__name__)
    app.config.update(MAIL_SERVER="a.example", MAIL_PASSWORD="secret")
    with pytest.warns(RuntimeWarning, match="MAIL_PASSWORD is set, MAIL_USERNAME is not") as caught:
        Mail(app)
    assert len(caught) == 1
    with pytest.raises(
        InvalidSetting, match=r"^SMTPBACKEND_PASSWORD is set for a\.example, SMTPBACKEND_USERNAME is not"
    ):
        read_config({"SMTPBACKEND_HOST": "a.example", "SMTPBACKEND_PASSWORD": "secret"})


STARTS: dict[str, Callable[[Flask], Any]] = {
    "Mail(app)": Mail,
    "init_app": lambda app: Mail().init_app(app),
    "a subclass": type("Ours", (Mail,), {}),
}
READS: dict[str, Callable[[Flask], Any]] = {
    "init_mail": lambda app: Mail().init_mail(app.config),
    "mailer_settings": lambda app: mailer_settings(app.config),
}


class TestTheLineOfAWarning:
    """It is that of the site, however many functions of ours are in between."""

    @pytest.mark.parametrize("start", [*STARTS.values(), *READS.values()], ids=[*STARTS, *READS])
    @pytest.mark.parametrize("setting", ["MAIL_USE_TSL=1", "MAIL_PASSWORD=secret", "MAIL_PORT=465"])
    def test_of_a_setting(self, start: Callable[[Flask], Any], setting: str) -> None:
        app = Flask(__name__)
        app.config.update([setting.split("=")])
        with pytest.warns(RuntimeWarning) as caught:
            start(app)
        assert [warning.filename for warning in caught] == [__file__]

    @pytest.mark.parametrize("start", STARTS.values(), ids=list(STARTS))
    def test_of_another_extension(self, start: Callable[[Flask], Any]) -> None:
        app = Flask(__name__)
        app.extensions["mail"] = object()
        with pytest.warns(RuntimeWarning, match="another extension") as caught:
            start(app)
        assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("settings", [{"MAIL_USE_SSL": True}, {"MAIL_PORT": 587, "MAIL_USE_TLS": True}, {}])
def test_one_that_fits_is_not(settings: dict[str, Any]) -> None:
    read(MAIL_SERVER="a.example", **settings)


def test_a_certificate_that_has_expired_is_told_at_once(ca: Certificates) -> None:
    with pytest.warns(RuntimeWarning, match=r"a certificate in SMTPBACKEND_CA_FILE '.*' has expired on 20\d\d-"):
        read_config({"SMTPBACKEND_HOST": "localhost", "SMTPBACKEND_CA_FILE": str(ca.expired)})


def test_all_that_cannot_work_is_one_error() -> None:
    """As Django's checks tell each of them, and not one after the other."""
    wrong = {"MAIL_PORT": "smtp", "MAIL_TIMEOUT": -1, "SMTPBACKEND_STRATEGY": "best", "SMTPBACKEND_HOST": None}
    with pytest.raises(InvalidSetting, match=r"^3 settings cannot work: \(1\) ") as raised:
        read_config(wrong)
    for key in ("MAIL_PORT", "MAIL_TIMEOUT", "SMTPBACKEND_STRATEGY"):
        assert key in str(raised.value)
