"""The system checks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from smtpbackend_django.checks import check_credentials, check_settings
from smtpbackend_django.conf import OPTIONS
from tests.django.conftest import HAS_MAILERS, PATH, email_settings
from tests.servers.tls import Certificates

mailers_only = pytest.mark.skipif(not HAS_MAILERS, reason="Django 6.1 has MAILERS")


def found(deploy: bool = False) -> list[tuple[str | None, str]]:
    messages = run_checks(tags=["mail"], include_deployment_checks=deploy)
    return [(message.id, message.msg) for message in messages if str(message.id).startswith("smtpbackend.")]


def test_nothing_to_say_when_another_backend_is_used() -> None:
    with email_settings(EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend", EMAIL_HOST_USER="u"):
        assert found(deploy=True) == []
    with email_settings(EMAIL_BACKEND="nowhere.EmailBackend"):
        assert found() == []


def test_nothing_to_say_when_all_is_well() -> None:
    with email_settings(
        EMAIL_BACKEND=PATH, EMAIL_HOST="a.example", EMAIL_HOST_USER="u", EMAIL_HOST_PASSWORD="p", EMAIL_USE_TLS=True
    ):
        assert found(deploy=True) == []


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"EMAIL_PORT": 70000}, 1),
        ({"SMTPBACKEND": {"HOST": "x", "TLS": "maybe"}}, 1),
        ({"SMTPBACKEND": []}, 1),
        ({"SMTPBACKEND": {"SERVERS": []}}, 1),
        ({"SMTPBACKEND": {"HOTS": "x"}}, 2),
        ({"SMTPBACKEND": {"SERVERS": [{"hots": "x"}]}}, 2),
        ({"EMAIL_USE_TLS": True, "EMAIL_USE_SSL": True}, 3),
        ({"SMTPBACKEND": {"HOST": "x", "TLS": "none", "USE_TLS": True}}, 3),
        ({"SMTPBACKEND": {"HOST": "x", "CA_FILE": "/nowhere.pem"}}, 4),
        ({"EMAIL_SSL_CERTFILE": "/nowhere.pem"}, 4),
        ({"EMAIL_HOST_USER": "u", "SMTPBACKEND": {"TOKEN": "smtpbackend.nowhere.token"}}, 6),
        ({"SMTPBACKEND": {"HOST": "x", "AUTH_MECHANISMS": "PLAN"}}, 7),
    ],
)
def test_each_kind_of_error_has_its_identifier(settings: dict[str, Any], number: int) -> None:
    with email_settings(EMAIL_BACKEND=PATH, **settings):
        assert [identifier for identifier, _ in found()] == [f"smtpbackend.E{number:03}"]
        [message] = [message for message in run_checks(tags=["mail"]) if str(message.id).startswith("smtpbackend.")]
    assert "python -m smtpbackend settings" in str(message.hint)  # what a user of the wheel has


def test_e005_a_key_that_does_not_fit_its_certificate(ca: Certificates, tmp_path: Path) -> None:
    files = {"EMAIL_SSL_CERTFILE": str(ca.client_cert), "EMAIL_SSL_KEYFILE": str(ca.server)}
    with email_settings(EMAIL_BACKEND=PATH, **files):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.E005"
    assert "EMAIL_SSL_KEYFILE" in text


@pytest.mark.parametrize(
    ("name", "key"), [("EMAIL_SSL_CERTFILE", "EMAIL_SSL_CERTFILE"), ("CA_FILE", 'SMTPBACKEND["CA_FILE"]')]
)
def test_w008_a_certificate_that_has_expired(ca: Certificates, name: str, key: str) -> None:
    path = str(ca.expired)
    settings: dict[str, Any] = {name: path} if name.startswith("EMAIL_") else {"SMTPBACKEND": {name: path}}
    with email_settings(EMAIL_BACKEND=PATH, **settings):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.W008"
    assert f"a certificate in {key} {path!r} has expired on " in text


def test_w009_mail_in_clear_to_another_host() -> None:
    settings = {"EMAIL_HOST": "a.example", "SMTPBACKEND": {"TLS": "none"}}
    with email_settings(EMAIL_BACKEND=PATH, **settings):
        assert found() == []
        assert [identifier for identifier, _ in found(deploy=True)] == ["smtpbackend.W009"]
    with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={"TLS": "none"}):
        assert found(deploy=True) == []  # this machine


def test_no_check_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any) -> None:
        pytest.fail("a check opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="a.example", EMAIL_USE_TLS=True):
        assert found(deploy=True) == []


CERT = "a certificate"


def with_path(settings: Any, path: str) -> Any:
    """The settings with that path in place of `CERT`."""
    if isinstance(settings, dict):
        return {name: with_path(value, path) for name, value in settings.items()}
    return path if settings == CERT else settings


@pytest.mark.parametrize(
    ("settings", "name", "path"),
    [
        ({"SMTPBACKEND": {"HOST": "x", "CA_FILE": "/no/ca.pem"}}, 'SMTPBACKEND["CA_FILE"]', "/no/ca.pem"),
        ({"SMTPBACKEND": {"HOST": "x", "CLIENT_CERT": "/no/cert.pem"}}, 'SMTPBACKEND["CLIENT_CERT"]', "/no/cert.pem"),
        (
            {"SMTPBACKEND": {"HOST": "x", "CLIENT_CERT": CERT, "CLIENT_KEY": "/no/key.pem"}},
            'SMTPBACKEND["CLIENT_KEY"]',
            "/no/key.pem",
        ),
        ({"EMAIL_SSL_CERTFILE": CERT, "EMAIL_SSL_KEYFILE": "/no/key.pem"}, "EMAIL_SSL_KEYFILE", "/no/key.pem"),
    ],
)
def test_e004_names_the_path_that_cannot_be_used_and_its_setting(
    settings: dict[str, Any], name: str, path: str, tmp_path: Path
) -> None:
    """Before the first mail: files are opened by the check."""
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    with email_settings(EMAIL_BACKEND=PATH, **with_path(settings, str(tmp_path / "cert.pem"))):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.E004"
    assert f"{name} '{path}' cannot be used: No such file or directory" in text


def test_e008_has_the_command_that_installs_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={"HOST": "x", "PROXY": "socks5h://localhost:1080"}):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.E008"
    assert 'pip install "smtpbackend[socks]"' in text


def test_e007_names_a_mechanism_that_is_not_known() -> None:
    with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={"HOST": "x", "AUTH_MECHANISMS": "PLAN"}):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.E007"
    assert "'PLAN'" in text


def test_e002_suggests_the_nearest_name() -> None:
    with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={"HOTS": "x"}):
        ((_, text),) = found()
    assert "'HOST'" in text


@mailers_only
def test_e002_names_the_mailer() -> None:
    mailers = {
        "default": {"BACKEND": PATH, "OPTIONS": {"host": "a.example"}},
        "news": {"BACKEND": PATH, "OPTIONS": {"hots": "a.example"}},
        "other": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"},
        "djangos": {"OPTIONS": {"host": "a.example"}},
    }
    with override_settings(MAILERS=mailers):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.E002"
    assert "MAILERS['news']" in text
    assert "'host'" in text


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"HOST": "a.example", "USE_TLS": False}, True),
        ({"HOST": "a.example", "TLS": "none"}, True),
        ({"HOST": "a.example"}, False),
        ({"HOST": "localhost"}, False),
        ({"HOST": "a.example", "USE_SSL": True}, False),
        ({"SERVERS": ["smtps://a.example", "smtp://b.example?tls=opportunistic"]}, True),
    ],
)
def test_w001_credentials_without_certain_tls(settings: dict[str, Any], warns: bool) -> None:
    """Only for deployment, and only off loopback."""
    login = {"USERNAME": "user", "PASSWORD": "secret"}
    with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={**settings, **login}):
        assert found() == []
        assert [identifier for identifier, _ in found(deploy=True)] == ["smtpbackend.W001"] * warns
        assert "secret" not in str(found(deploy=True))


def test_w001_in_email_mode() -> None:
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="a.example", EMAIL_HOST_USER="u", EMAIL_HOST_PASSWORD="p"):
        ((identifier, text),) = found(deploy=True)
    assert identifier == "smtpbackend.W001"
    assert "a.example:25" in text


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (
            {"EMAIL_PORT": 465, "EMAIL_USE_TLS": True},
            "Set EMAIL_USE_SSL = True instead of EMAIL_USE_TLS, or EMAIL_PORT = 587.",
        ),
        ({"EMAIL_PORT": 465}, "Set EMAIL_USE_SSL = True, or EMAIL_PORT = 587."),
        (
            {"EMAIL_PORT": 587, "EMAIL_USE_SSL": True},
            "Set EMAIL_USE_TLS = True instead of EMAIL_USE_SSL, or EMAIL_PORT = 465.",
        ),
        (
            {"EMAIL_PORT": 25, "EMAIL_USE_SSL": True},
            "Set EMAIL_USE_TLS = True instead of EMAIL_USE_SSL, or EMAIL_PORT = 465.",
        ),
        (
            {"SMTPBACKEND": {"SERVERS": ["smtp://a.example:465?tls=required"]}},
            'Set smtps:// in the URL of SMTPBACKEND["SERVERS"]',
        ),
        (
            {"SMTPBACKEND": {"SERVERS": ["smtp://b.example", "smtps://a.example:587"]}},
            'Set smtp:// with tls=required in the URL of SMTPBACKEND["SERVERS"][1]',
        ),
        ({"EMAIL_PORT": 465, "EMAIL_USE_SSL": True}, None),
        ({"EMAIL_PORT": 587, "EMAIL_USE_TLS": True}, None),
        ({"EMAIL_PORT": 2465, "EMAIL_USE_TLS": True}, None),
        ({"EMAIL_PORT": 25}, None),
        ({"SMTPBACKEND": {"HOST": "a.example", "PORT": 465}}, None),
        ({"SMTPBACKEND": {"SERVERS": ["smtps://a.example"]}}, None),
    ],
)
def test_w003_a_port_that_does_not_fit_the_kind_of_tls(settings: dict[str, Any], remedy: str | None) -> None:
    host = {} if "SMTPBACKEND" in settings else {"EMAIL_HOST": "a.example"}
    with email_settings(EMAIL_BACKEND=PATH, **host, **settings):
        assert [identifier for identifier, _ in found()] == ["smtpbackend.W003"] * bool(remedy)
        if remedy:
            [message] = [message for message in run_checks(tags=["mail"]) if message.id == "smtpbackend.W003"]
            assert "a.example:" in message.msg
            assert remedy in str(message.hint)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"EMAIL_HOST_PASSWORD": "secret"}, ["smtpbackend.W005"]),
        ({"EMAIL_HOST_PASSWORD": "secret", "EMAIL_HOST_USER": "ann"}, []),
        ({"EMAIL_HOST_USER": "ann"}, ["smtpbackend.W005"]),
        ({"EMAIL_HOST_USER": "ann", "SMTPBACKEND": {"TOKEN": "secret"}}, []),
        ({"EMAIL_HOST_USER": "ann", "SMTPBACKEND": {"AUTH_MECHANISMS": "EXTERNAL"}}, []),
        ({"EMAIL_HOST_USER": "ann", "SMTPBACKEND": {"AUTH_MECHANISMS": "PLAIN"}}, ["smtpbackend.E001"]),
        ({"EMAIL_HOST_PASSWORD": "secret", "SMTPBACKEND": {"AUTH_MECHANISMS": "EXTERNAL"}}, ["smtpbackend.W005"]),
        ({"EMAIL_HOST_PASSWORD": "secret", "SMTPBACKEND": {"AUTH_MECHANISMS": "EXTRENAL"}}, ["smtpbackend.E007"]),
        ({"SMTPBACKEND": {"SERVERS": ["smtp://localhost"], "PASSWORD": "secret"}}, ["smtpbackend.E001"]),
        ({"SMTPBACKEND": {"HOST": "localhost", "PASSWORD": "secret"}}, ["smtpbackend.E001"]),
        ({"SMTPBACKEND": {"SERVERS": ["smtp://ann@localhost"], "PASSWORD": "secret"}}, []),
    ],
)
def test_w005_half_a_login(settings: dict[str, Any], expected: list[str]) -> None:
    """Django logs in with both only, and says nothing; what is ours is an error."""
    with email_settings(EMAIL_BACKEND=PATH, **settings):
        told = found()
    assert [identifier for identifier, _ in told] == expected
    assert "secret" not in str(told)


@mailers_only
def test_w003_names_the_mailer() -> None:
    mailers = {
        "default": {"BACKEND": PATH, "OPTIONS": {"host": "a.example", "port": 465, "use_ssl": True}},
        "news": {"BACKEND": PATH, "OPTIONS": {"host": "a.example", "port": 465, "use_tls": True}},
        "other": {"BACKEND": PATH, "OPTIONS": {"host": "a.example", "port": 587, "use_ssl": True}},
    }
    with override_settings(MAILERS=mailers):
        texts = [text for identifier, text in found() if identifier == "smtpbackend.W003"]
    assert [text.partition(",")[0] for text in texts] == ["MAILERS['news']", "MAILERS['other']"]


@mailers_only
def test_w002_a_dict_that_nobody_reads() -> None:
    options = {"host": "a.example"}
    with override_settings(
        MAILERS={"default": {"BACKEND": PATH, "OPTIONS": options}}, SMTPBACKEND={"HOST": "b.example"}
    ):
        assert [identifier for identifier, _ in found()] == ["smtpbackend.W002"]


SITE = {"SERVERS": ["smtp://localhost"]}


@pytest.mark.parametrize(
    ("settings", "unread"),
    [
        ({"EMAIL_HOST": "a.example", "EMAIL_HOST_USER": "ann", "SMTPBACKEND": SITE}, "EMAIL_HOST, EMAIL_HOST_USER"),
        ({"EMAIL_TIMEOUT": 3, "SMTPBACKEND": {"HOST": "localhost"}}, "EMAIL_TIMEOUT"),
        ({"EMAIL_USE_TLS": True, "EMAIL_SSL_KEYFILE": "x", "SMTPBACKEND": SITE}, "EMAIL_USE_TLS, EMAIL_SSL_KEYFILE"),
        ({"EMAIL_HOST": "a.example", "SMTPBACKEND": {"DEADLINE": 3}}, ""),
        ({"EMAIL_SUBJECT_PREFIX": "x", "EMAIL_USE_LOCALTIME": True, "SMTPBACKEND": SITE}, ""),
    ],
)
def test_w007_settings_that_are_not_read(settings: dict[str, Any], unread: str) -> None:
    """Where SMTPBACKEND names servers it takes the place of EMAIL_*, those of the login and of TLS too."""
    with email_settings(EMAIL_BACKEND=PATH, **settings):
        told = found()
    assert [identifier for identifier, _ in told] == ["smtpbackend.W007"] * bool(unread)
    assert not unread or told[0][1].endswith(f": {unread}.")
    with email_settings(EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend", **settings):
        assert found() == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"EMAIL_USE_TLS": "True"}, "W006"),
        ({"EMAIL_USE_TLS": "False"}, "E001"),
        ({"EMAIL_USE_SSL": "off"}, "E001"),
        ({"EMAIL_USE_TLS": ""}, ""),
        ({"SMTPBACKEND": {"HOST": "localhost", "USE_TLS": "1"}}, "W006"),
        ({"SMTPBACKEND": {"HOST": "localhost", "FAIL_SILENTLY": "False"}}, "E001"),
        ({"SMTPBACKEND": {"HOST": "localhost", "STRICT_X509": "False"}}, ""),  # the core reads the word
    ],
)
def test_w006_flags_that_are_strings(settings: dict[str, Any], expected: str) -> None:
    with email_settings(EMAIL_BACKEND=PATH, **settings):
        told = found()
    assert [identifier for identifier, _ in told] == [f"smtpbackend.{expected}"] * bool(expected)


@mailers_only
def test_w006_in_options() -> None:
    options = {"host": "localhost", "fail_silently": "yes"}
    with override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": options}}):
        ((identifier, text),) = found()
    assert identifier == "smtpbackend.W006"
    assert "MAILERS['default'] has the string 'yes' for fail_silently" in text


MALFORMED: list[Any] = [
    *(None, True, 0, 7, 1.5, "", "x", "a b", ".", ".a.b", "a..b", "\0", b"x", PATH, "this.s", object(), Exception),
    *([], ["x"], [None], [[]], [{}], (), ("x", 1), set(), {}, {"x": 1}, {1: 2}, {None: None}, {"default": None}),
    *({"host": None}, {"HOST": []}, {"host": {}}),
]
OF_DJANGO = [
    *("EMAIL_BACKEND", "EMAIL_HOST", "EMAIL_PORT", "EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD", "EMAIL_USE_TLS"),
    *("EMAIL_USE_SSL", "EMAIL_TIMEOUT", "EMAIL_SSL_CERTFILE", "EMAIL_SSL_KEYFILE"),
]
UNCLEAR = re.compile("object|attribute|argument|unhashable|iterable|subscript|unpack")
"""Words of Python's own errors, which know no setting."""


def check_all(**settings: Any) -> None:
    """No check raises, and what they say is about the settings."""
    with email_settings(**settings):
        told = [*check_settings(), *check_credentials()]
    assert [
        one.msg
        for one in told
        if str(one.id).startswith("smtpbackend.E") and UNCLEAR.search(one.msg.partition(" not ")[0])
    ] == []


class TestSettingsOfAnyShape:
    """Whatever stands in the settings, the checks say what is wrong with it, and never raise."""

    @pytest.mark.parametrize("name", OF_DJANGO)
    def test_email(self, name: str) -> None:
        for value in MALFORMED:
            check_all(**{"EMAIL_BACKEND": PATH, name: value})
            check_all(**{"EMAIL_BACKEND": PATH, "SMTPBACKEND": {"HOST": "a.example"}, name: value})

    def test_smtpbackend(self) -> None:
        for value in MALFORMED:
            check_all(EMAIL_BACKEND=PATH, SMTPBACKEND=value)

    @pytest.mark.parametrize("option", sorted(OPTIONS))
    def test_an_option(self, option: str) -> None:
        for value in MALFORMED:
            check_all(EMAIL_BACKEND=PATH, SMTPBACKEND={option.upper(): value})
            check_all(EMAIL_BACKEND=PATH, SMTPBACKEND={"SERVERS": [{option: value}]})
            check_all(EMAIL_BACKEND=PATH, SMTPBACKEND={option.upper(): [value], "SERVERS": ["smtp://a.example"]})
            if HAS_MAILERS:
                check_all(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": {option: value}}})

    @mailers_only
    def test_mailers(self) -> None:
        for value in MALFORMED:
            check_all(MAILERS=value)
            check_all(MAILERS={"default": value, 1: {"BACKEND": PATH}})
            check_all(MAILERS={"default": {"BACKEND": value}})
            check_all(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": value}})
            check_all(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": {value if callable(value) else 1: value}}})

    @mailers_only
    @pytest.mark.parametrize(
        ("mailers", "text"),
        [
            (None, "MAILERS must be a dict, not None"),
            ([{}], "MAILERS must be a dict, not a list"),
            ({"news": None}, "MAILERS['news'] must be a dict, not None"),
            ({"news": {"BACKEND": None}}, "MAILERS['news']['BACKEND'] must be the dotted path of a class, as a string"),
            ({"news": {"BACKEND": PATH, "OPTIONS": None}}, "MAILERS['news']['OPTIONS'] must be a dict, not None"),
            ({"news": {"BACKEND": PATH, "OPTIONS": []}}, "MAILERS['news']['OPTIONS'] must be a dict, not a list"),
            (
                {"news": {"BACKEND": PATH, "OPTIONS": {1: 2}}},
                "MAILERS['news']['OPTIONS'] has the key 1, which is no name",
            ),
        ],
    )
    def test_the_error_names_what_is_malformed(self, mailers: Any, text: str) -> None:
        with override_settings(MAILERS=mailers):
            [message] = check_settings()
        assert message.id == "smtpbackend.E001"
        assert message.msg.startswith(text)

    def test_a_backend_that_is_no_path(self) -> None:
        with email_settings(EMAIL_BACKEND=None):
            [message] = check_settings()
        assert message.id == "smtpbackend.E001"
        assert message.msg == "EMAIL_BACKEND must be the dotted path of a class, as a string, not None"
