"""How errors write the settings of a mailer: as its user did, wherever they stand."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import InvalidInput, Mailer, Server
from smtpbackend.delivery.settings import SETTINGS
from smtpbackend.spelling import KEYWORDS, Spelling

ROOT = Path(__file__).parents[1]


class Shouting(Spelling):
    """That of a framework."""

    def __call__(self, setting: str, *value: Any) -> str:
        return f"MY_{setting.upper()}" + (f" = {value[0]!r}" if value else "")


def test_keywords() -> None:
    assert KEYWORDS("tls") == "tls"
    assert KEYWORDS("tls", "none") == "tls='none'"
    assert KEYWORDS.together("host", "port", "port") == "host and port"
    assert KEYWORDS.together("a", "b", "c") == "a, b and c"


@pytest.mark.parametrize(
    ("servers", "name", "with_value", "both"),
    [
        ("smtp://ann@mx.example.com:25?tls=none", "tls in the URL of MY_SERVERS",
         "smtp:// with tls=x in the URL of MY_SERVERS",
         "username and tls in the URL of MY_SERVERS"),
        ({"username": "ann", "tls": "none"}, 'MY_SERVERS["tls"]', "MY_SERVERS[\"tls\"] = 'x'",
         'MY_SERVERS["username"] and MY_SERVERS["tls"]'),
        (Server("mx.example.com", tls="none"), "tls", "tls='x'", "MY_USERNAME and tls"),
        ("mx.example.com", "MY_TLS", "MY_TLS = 'x'", "MY_USERNAME and MY_TLS"),
    ],
)  # fmt: skip
def test_what_a_server_was_given_is_written_as_it_stands_there(
    servers: Any, name: str, with_value: str, both: str
) -> None:
    if isinstance(servers, dict):
        servers |= {"password": "x"}
    if isinstance(servers, str):
        servers = servers.replace("ann@", "ann:x@")
    [server] = Mailer.from_settings({"servers": servers, "spelling": Shouting()}).configuration.servers
    assert server.spelling("tls") == name
    assert server.spelling("tls", "x") == with_value
    assert server.spelling.together("username", "tls") == both


def test_of_several_servers_each_says_its_place() -> None:
    servers = ["smtp://ann:x@a.example.com", {"host": "b.example.com", "port": 26}, "c.example.com"]
    first, second, third = Mailer.from_settings({"servers": servers, "spelling": Shouting()}).configuration.servers
    assert first.spelling("username") == "username in the URL of MY_SERVERS[0]"
    assert second.spelling("port") == 'MY_SERVERS[1]["port"]'
    assert third.spelling("host") == "MY_SERVERS[2]"
    assert third.spelling("port") == "MY_PORT"


def test_a_server_is_the_same_however_it_is_written() -> None:
    here, there = Server("mx.example.com"), Server("mx.example.com", spelling=Shouting())
    assert here == there
    assert hash(here) == hash(there)
    assert "spelling" not in repr(there)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"host": "a b"}, "MY_HOST is neither"),
        ({"port": 0}, "MY_PORT must be a whole number"),
        ({"password": "x"}, "MY_PASSWORD is set for localhost, MY_USERNAME is not"),
        ({"client_key": "/k"}, "MY_CLIENT_KEY is set for localhost, MY_CLIENT_CERT is not"),
        ({"timeout": {"conect": 1}}, "unknown MY_TIMEOUT key 'conect'"),
        ({"timeout": {"connect": 0}}, 'MY_TIMEOUT["connect"] must be a number above 0'),
        ({"auth_mechanisms": "PLANE"}, "MY_AUTH_MECHANISMS has 'PLANE'"),
        ({"client_name": "a b"}, "MY_CLIENT_NAME 'a b' is neither"),
        ({"token": "a b", "username": "u"}, "MY_TOKEN is empty"),
        ({"dkim": {"domain": "x"}}, "MY_DKIM selector is missing"),
        ({"only_to": ["a@b.example"], "redirect_to": "a@b.example"}, "MY_ONLY_TO and MY_REDIRECT_TO are both set"),
        ({"servers": ["a"], "host": "b"}, "MY_SERVERS and MY_HOST are both set"),
        ({"ports": 2.5}, "MY_PORTS must be a list of numbers"),
        ({"servers": [{"hots": "b"}]}, "unknown setting 'hots' in MY_SERVERS; did you mean 'host'"),
        ({"servers": ["localhost", 2600]}, "MY_SERVERS holds the number 2600; if it is a port, write MY_PORT = 2600"),
        ({"servers": [2.5]}, "MY_SERVERS holds a float"),
        (
            {"validate_certs": False},
            "unknown setting 'validate_certs', a name of aiosmtplib: certificates are always "
            "verified; set MY_CA_FILE to",
        ),
        (
            {"servers": [{"start_tls": 1}]},
            "unknown setting 'start_tls' in MY_SERVERS, a name of aiosmtplib: set MY_SERVERS[\"tls\"] = 'required'",
        ),
        (
            {"servers": ["smtp://a?use_ssl=1"]},
            "unknown setting 'use_ssl' in a URL of MY_SERVERS, a name of Django and "
            "Flask-Mail: set smtps:// in the URL of MY_SERVERS",
        ),
        ({"ca_file": "/missing.pem"}, "MY_CA_FILE '/missing.pem' cannot be used"),
        ({"client_cert": "/missing.pem"}, "MY_CLIENT_CERT '/missing.pem' cannot be used"),
    ],
)
def test_errors_of_settings(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Mailer.from_settings({**settings, "spelling": Shouting()})
    assert str(caught.value).startswith(text)


NAMES = re.compile(
    r"\b("
    + "|".join([setting.name for setting in SETTINGS if "_" in setting.name] + ["tls=", "username=", "password="])
    + r")|USE_TLS|USE_SSL|EMAIL_|MAIL_|\b(?:see|set|check|change|raise|leave|remove) (?:"
    + "|".join(setting.name for setting in SETTINGS)
    + r")\b"
)
# Of the core's own keywords, which no adapter calls
OF_THE_CORE = {
    ("smtpbackend/delivery/typed_settings.py", ""),
    ("smtpbackend/delivery/settings.py", ""),  # the meaning of each, for docs
}


def texts(path: Path) -> list[str]:
    """The texts of a module that are not docstrings, without what is filled in."""
    tree = ast.parse(path.read_text("utf-8"))
    outside = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    filled = {part for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) for part in ast.walk(node)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in outside | filled
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "smtpbackend").rglob("*.py")), ids=lambda path: path.stem)
def test_no_text_names_a_setting_by_itself(path: Path) -> None:
    """A name in a text is that of one face, and the reader may have another."""
    file = str(path.relative_to(ROOT))
    found = [
        text
        for text in texts(path)
        if " " in text.strip() and NAMES.search(text)
        if not any(file == module and text.startswith(begin) for module, begin in OF_THE_CORE)
    ]
    assert found == []
