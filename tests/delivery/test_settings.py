"""The one table of settings: every key reads its values, and says which it wants."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import Mailer, SMTPError
from smtpbackend.delivery.configuration import configure
from smtpbackend.delivery.peer_names import OF_PEERS, of_peer
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.setting_names import check_keys
from smtpbackend.delivery.settings import MAILER_KEYS, SERVER_KEYS, SETTINGS, read
from smtpbackend.errors import InvalidSetting
from smtpbackend.hiding import Secret
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.spelling import Spelling

BY_NAME = {**SERVER_KEYS, **MAILER_KEYS}


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("host", "mx.example.com", "mx.example.com"),
        ("port", 25, 25),
        ("port", "587", 587),
        ("tls", "required", "required"),
        ("on_tls_failure", "secure", "secure"),
        ("min_tls", "1.3", "1.3"),
        ("strict_x509", "no", False),
        ("auth_mechanisms", "plain, login", ("PLAIN", "LOGIN")),
        ("auth_mechanisms", ["cram-md5"], ("CRAM-MD5",)),
        ("ignore_extensions", "", ()),
        ("allow_cleartext_auth", True, True),
        ("allow_cleartext_auth", "Yes", True),
        ("allow_cleartext_auth", "off", False),
        ("allow_cleartext_auth", "0", False),
        ("timeout", {"connect": 3}, Timeouts(connect=3.0)),
        ("timeout", {"reply": 90}, Timeouts(reply=90.0)),
        ("timeout", {"reply": 5}, Timeouts(greeting=5.0, reply=5.0)),
        ("timeout", {"greeting": 40, "reply": 5}, Timeouts(greeting=40.0, reply=5.0)),
        ("timeout", Timeouts(reply=1.0), Timeouts(reply=1.0)),
        ("timeout", 5, Timeouts(5.0, 5.0, 5.0, 5.0, 5.0, 5.0)),
        ("timeout", "600", Timeouts(600.0, 600.0, 600.0, 600.0, 600.0, 10.0)),
        ("ca_file", Path("/ca.pem"), "/ca.pem"),
        ("pinned_sha256", "", ()),
        ("pinned_sha256", [], ()),
        ("pinned_sha256", "AB" * 32, ("ab" * 32,)),
        ("pinned_sha256", ":".join(["aB"] * 32), ("ab" * 32,)),
        ("pinned_sha256", "sha256/q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=", ("ab" * 32,)),
        ("pinned_sha256", "sha256//q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=", ("ab" * 32,)),
        ("pinned_sha256", f"SHA256:{'00' * 32}, {'ab' * 32}", ("00" * 32, "ab" * 32)),
        ("pinned_sha256", ["00" * 32, "ab" * 32], ("00" * 32, "ab" * 32)),
        ("deadline", "2.5", 2.5),
        ("recipient_policy", "all", "all"),
        ("strategy", "round_robin", "round_robin"),
        ("rest", 0, 0.0),
        ("rest", "0", 0.0),
        ("rest", 1.5, 1.5),
        ("max_connections", "8", 8),
        ("max_idle", 0.5, 0.5),
        ("max_messages", 1, 1),
    ],
)
def test_a_value_is_read(name: str, given: Any, wanted: Any) -> None:
    assert read(BY_NAME[name], given) == wanted


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("pinned_sha256", "ab"),
        ("pinned_sha256", "zz" * 32),
        ("pinned_sha256", ["ab" * 32, "ab" * 20]),
        ("pinned_sha256", b"x" * 32),
        ("pinned_sha256", 5),
        ("ca_file", 5),
        ("host", b"mx.example.com"),
        ("host", 5),
        ("port", 0),
        ("port", -1),
        ("port", 65536),
        ("port", "smtp"),
        ("port", 25.0),
        ("port", True),
        ("tls", "yes"),
        ("tls", True),
        ("on_tls_failure", "maybe"),
        ("min_tls", "1.1"),
        ("min_tls", 1.3),
        ("auth_mechanisms", 5),
        ("auth_mechanisms", [5]),
        ("allow_cleartext_auth", "perhaps"),
        ("allow_cleartext_auth", 1),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", True),
        ("timeout", "soon"),
        ("timeout", float("inf")),
        ("timeout", float("nan")),
        ("timeout", {"connect": 0}),
        ("timeout", {"conect": 1}),
        ("deadline", 0),
        ("recipient_policy", "most"),
        ("strategy", "random"),
        ("rest", -1),
        ("rest", True),
        ("rest", False),
        ("max_connections", 0),
        ("max_connections", 1.5),
        ("max_connections", None.__class__),
        ("max_idle", 0),
        ("max_messages", False),
    ],
)
def test_a_value_that_cannot_work_is_named(name: str, given: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        read(BY_NAME[name], given)
    assert caught.value.field.startswith(name) or caught.value.field == "conect"


class Name(str, enum.Enum):  # noqa: UP042 -- a StrEnum is written as its value
    HOST = "mx.example.com"
    URL = "smtps://ann:secret@mx.example.com"
    USER = "ann"
    PASSWORD = "secret"
    TLS = "required"
    MECHANISM = "plain"
    ADDRESS = "ann@example.org"


def test_a_member_of_an_enumeration_is_its_characters() -> None:
    """A site may keep its names and secrets in one; ``str`` of a member is its name, and so is its hash."""

    def configured(name: str, kind: Callable[[Name], str]) -> Any:
        servers = [kind(Name.URL), kind(Name.HOST), {"url": kind(Name.URL)}]
        return configure({"servers": servers, "client_name": kind(Name.HOST), name: kind(Name.ADDRESS)})

    for name in ("only_to", "redirect_to"):
        found = configured(name, lambda word: word)
        assert found == configured(name, lambda word: word.value)
        assert "Name." not in repr(found)
    given = {"host": Name.HOST, "username": Name.USER, "password": Name.PASSWORD, "tls": Name.TLS}
    server = Server(**given, auth_mechanisms=[Name.MECHANISM])
    assert server == Server(**{name: word.value for name, word in given.items()}, auth_mechanisms="plain")
    texts = (server.host, server.username, server.password, server.tls, *server.auth_mechanisms)
    assert [str(text) for text in texts] == ["mx.example.com", "ann", "secret", "required", "PLAIN"]
    assert str(Secret(Name.PASSWORD)) == "secret"
    assert "secret" not in repr(server)


def test_a_callable_may_decide_about_tls() -> None:
    assert read(BY_NAME["on_tls_failure"], print) is print


def test_none_is_the_default() -> None:
    for setting in SETTINGS:
        assert read(setting, None) == setting.default


def test_every_setting_is_documented_once_and_has_one_owner() -> None:
    names = [setting.name for setting in SETTINGS]
    assert len(names) == len(set(names)) == len(SERVER_KEYS) + len(MAILER_KEYS)
    for setting in SETTINGS:
        assert setting.owner in ("server", "mailer")
        assert setting.meaning.endswith(".")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("hosts", "host"),
        ("HOST", "host"),
        ("user", "username"),
        ("pasword", "password"),
        ("starttls", "tls"),
        ("max_connection", "max_connections"),
        ("timeouts", "timeout"),
        ("ca_files", "ca_file"),
    ],
)
def test_an_unknown_key_is_told_its_nearest_name(given: str, near: str) -> None:
    with pytest.raises(InvalidSetting, match=f"unknown setting '{given}'; did you mean '{near}'") as caught:
        check_keys([given], BY_NAME)
    assert caught.value.field == given


PEERS = {
    "use_tls": "set tls='required' (STARTTLS), or tls='implicit' for port 465",
    "use_ssl": "set tls='implicit'",
    "start_tls": "set tls='required'",
    "sender": "the sender is the From of each message; set bounce_address to where bounces go",
    "validate_certs": "certificates are always verified; set ca_file to",
    "cert_bundle": "certificates are always verified; set ca_file to",
    "verify": "certificates are always verified; set ca_file to",
    "tls_context": "TLS is set up by ca_file, client_cert, client_key, min_tls and pinned_sha256",
    "context": "TLS is set up by ca_file, client_cert, client_key, min_tls and pinned_sha256",
    "ssl_certfile": "set client_cert",
    "fail_silently": "catch DeliveryError",
    "hostname": "set host",
    "auth": "set username and password",
    "socket_path": "give smtp+unix:///path in servers",
    "maxConnections": "set max_connections",
}


@pytest.mark.parametrize("name", PEERS)
def test_a_name_of_another_library_leads_to_ours(name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^unknown setting '{name}', a name of [^:]+: ") as caught:
        configure({"host": "mx.example.com", name: 1})
    assert str(caught.value).partition(": ")[2].startswith(PEERS[name])
    assert caught.value.field == name


def test_no_name_of_another_library_is_a_setting_here() -> None:
    assert not OF_PEERS.keys() & {*BY_NAME, "servers", "ports"}


@pytest.mark.parametrize("name", OF_PEERS)
def test_what_it_leads_to_is_one(name: str) -> None:
    """And no name of another library."""
    named: list[str] = []

    class Listening(Spelling):
        def __call__(self, setting: str, *value: Any) -> str:
            named.append(setting)
            return super().__call__(setting, *value)

    of_peer(name, Listening())
    assert set(named) <= {*BY_NAME, "servers"}
    assert named or name == "fail_silently"


def test_a_port_behind_the_host_is_written_by_its_name() -> None:
    with pytest.raises(InvalidSetting, match=r"^servers holds the number 2600; if it is a port, write port=2600$"):
        Mailer("localhost", 2600)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="the port stands in port, or behind the host of a URL: smtp://host:port"):
        Mailer("localhost:2600")


def test_a_key_near_nothing_is_told_all_names() -> None:
    with pytest.raises(InvalidSetting, match="known are allow_cleartext_auth, auth_mechanisms"):
        check_keys(["qqq"], BY_NAME)
    with pytest.raises(InvalidSetting, match="unknown setting: a key that is no name"):
        check_keys([7], BY_NAME)  # type: ignore[list-item]


class TestConfigure:
    def test_nothing_means_the_local_server(self) -> None:
        configuration = configure({})
        assert configuration.servers == (Server("localhost", 25),)
        assert configuration.limits == (4, 60.0, 100)
        assert (configuration.rules.recipient_policy, configuration.strategy, configuration.rest) == (
            "any",
            "failover",
            30.0,
        )
        assert configuration.deadline is None

    def test_none_stands_for_a_key_that_is_not_set(self) -> None:
        assert configure(dict.fromkeys(BY_NAME)) == configure({})
        assert configure({"servers": None, "ports": None}) == configure({})

    def test_host_and_port(self) -> None:
        [server] = configure({"host": "mx.example.com", "port": 2525, "tls": "none"}).servers
        assert server == Server("mx.example.com", 2525, tls="none")

    @pytest.mark.parametrize(
        "servers",
        [
            "smtp://mx.example.com",
            "mx.example.com",
            {"host": "mx.example.com"},
            Server("mx.example.com"),
            ["mx.example.com"],
            ("smtp://mx.example.com",),
            [Server("mx.example.com")],
        ],
    )
    def test_servers_may_be_one_or_many_in_any_form(self, servers: Any) -> None:
        assert configure({"servers": servers}).servers == (Server("mx.example.com"),)

    def test_a_servers_key_at_the_top_is_the_default_of_each(self) -> None:
        servers = ["a.example", {"host": "b.example", "timeout": 2}, "smtp://c.example?tls=none", Server("d.example")]
        found = configure({"servers": servers, "tls": "required", "timeout": 1}).servers
        assert [server.tls for server in found] == ["required", "required", "none", "required"]
        assert [server.timeout.connect for server in found] == [1, 2, 1, 1]

    def test_ports_are_walked_in_tandem(self) -> None:
        servers = ["a.example", "b.example", "c.example"]
        assert [s.port for s in configure({"servers": servers, "ports": [2501, 2502, 2503, 9]}).servers] == [
            2501,
            2502,
            2503,
        ]
        assert [s.port for s in configure({"servers": servers, "ports": [2501]}).servers] == [2501, 587, 587]
        assert [s.port for s in configure({"servers": servers, "ports": "2501", "port": 26}).servers] == [2501, 26, 26]
        assert [s.port for s in configure({"servers": "a.example", "ports": 2501}).servers] == [2501]

    def test_a_port_in_the_url_rules_over_the_one_beside_it(self) -> None:
        assert configure({"servers": ["smtp://a.example:26"], "ports": [2501]}).servers[0].port == 26

    def test_the_same_server_twice_is_one(self) -> None:
        assert len(configure({"servers": ["a.example", "smtp://a.example", "b.example"]}).servers) == 2

    @pytest.mark.parametrize(
        ("settings", "field"),
        [
            ({"servers": []}, "servers"),
            ({"servers": 5}, "servers"),
            ({"servers": [5]}, "servers"),
            ({"servers": {"a.example"}}, "servers"),
            ({"servers": "a.example", "host": "b.example"}, "host"),
            ({"server": "a.example"}, "server"),
            ({"ports": ["x"]}, "port"),
        ],
    )
    def test_what_cannot_be_is_an_error(self, settings: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidSetting) as caught:
            configure(settings)
        assert caught.value.field == field


FLAGS = [setting.name for setting in SETTINGS if isinstance(setting.default, bool)]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_text_is_no_value_of_a_flag(name: str, empty: str) -> None:
    """A variable of the environment that is there and empty switches nothing off."""
    assert read(BY_NAME[name], empty) is BY_NAME[name].default


def test_a_flag_in_a_url_may_be_empty() -> None:
    (server,) = configure({"servers": "smtp://mx.example.com?strict_x509=&xque="}).servers
    assert (server.strict_x509, server.xque) == (True, False)


ODD = [
    0,
    -1,
    5,
    [],
    {},
    (),
    object(),
    "",
    "x",
    b"x",
    True,
    1.5,
    float("nan"),
    float("inf"),
    [1],
    ["x"],
    {1: 2},
    "\0",
    10**400,
]


@pytest.mark.parametrize("name", [*BY_NAME, "servers", "ports"])
def test_a_value_of_another_kind_is_an_error_of_ours_or_works(name: str) -> None:
    for value in ODD:
        with contextlib.suppress(SMTPError):
            Mailer(**{name: value}).close()
