"""What a mailer does besides sending: `connect`, `check`, `verify`, `close`, and what it raises while being made."""

from __future__ import annotations

import base64
import sys
from typing import Any

import pytest

from smtpbackend import Mailer, Server
from smtpbackend.delivery.credentials import ClientCredentials, Grant, Provider
from smtpbackend.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionRefused,
    DeliveryError,
    InvalidInput,
    InvalidSetting,
    MissingExtra,
    TimedOut,
    TLSNotOffered,
)
from smtpbackend.testing import SILENCE, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import AsyncioTwin, Twin, hello
from tests.servers.ports import free_ports
from tests.servers.tls import Certificates
from tests.telling import names

KEY = base64.b64encode(bytes(32)).decode()  # Ed25519
TOKENS = ClientCredentials("https://login.example.com/token", "app", "secret")


class TestConnect:
    def test_it_tells_whether_it_had_to_open_a_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        assert mailer.connect() is True
        assert mailer.connect() is False
        assert mailer.send(hello()).ok
        assert server.connections == 1
        server.cut()
        assert mailer.connect() is True

    def test_it_logs_in(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play({"AUTH": "535 5.7.8 no"}, ("AUTH PLAIN",)))
        with pytest.raises(AuthenticationFailed):
            twin(server.url, username="ann", password="secret").connect()
        server.wait_for_end()

    def test_it_takes_the_next_server_where_one_fails(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted({"": "554 no"}), scripted()
        assert twin(bad.url, good.url).connect() is True
        assert good.connections == 1

    def test_it_raises_the_last_error(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted({"": "554 first"}), scripted({"": "554 second"})
        with pytest.raises(ConnectFailed, match="second"):
            twin(first.url, second.url).connect()

    def test_the_deadline_holds_for_it(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"EHLO": SILENCE})
        with pytest.raises(TimedOut):
            twin(server.url, deadline=0.2).connect()


class TestCheck:
    def test_every_server_is_tried(self, twin: Twin, scripted: Scripted) -> None:
        [closed] = free_ports(1)
        good, refused = scripted(), scripted({"": "554 no"})
        stripped = Server("127.0.0.1", scripted().port, tls="required")
        found = twin(good.url, refused.url, f"smtp://127.0.0.1:{closed}", stripped).check()
        assert [one.server for one in found] == [good.name, refused.name, f"127.0.0.1:{closed}", stripped.name]
        kinds = [type(one.error) for one in found]
        assert kinds == [type(None), ConnectFailed, ConnectionRefused, TLSNotOffered]

    def test_every_server_is_listed_whatever_one_raises(
        self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Callables of the site that answer nonsense or raise, and libraries that are not there."""
        monkeypatch.setitem(sys.modules, "scramp", None)
        good = scripted()
        names = {"username": "ann", "password": "secret"}

        def at(offered: str = "AUTH PLAIN XOAUTH2", **settings: Any) -> Server:
            server = scripted(Play(extensions=(offered,)))
            return Server(server.host, server.port, **settings)

        class Vault(Provider):
            def fetch(self, timeout: float = 1.0) -> Grant:
                raise MissingExtra("this needs a library")

        raising = [
            at(on_tls_failure=lambda server, trouble: "perhaps"),
            at(on_tls_failure=lambda server, trouble: 1 / 0),
            at(username="ann", token=Vault()),
            at(username="ann", token=lambda: 5),
            at(username="ann", token=lambda: 1 / 0),
            at(**names, auth_mechanisms="CRAM-MD5"),
            at("AUTH SCRAM-SHA-256", **names),
        ]
        found = twin(*raising, good.url).check()
        assert [one.server for one in found] == [*(server.name for server in raising), good.name]
        assert [type(one.error) for one in found] == [
            *(InvalidSetting, InvalidSetting, MissingExtra, InvalidSetting, AuthenticationFailed),
            *(AuthenticationFailed, MissingExtra, type(None)),
        ]

    def test_it_does_not_change_the_order_of_servers(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({"": "554 no"}, {}), scripted()
        mailer = twin(server.url, other.url)
        mailer.check()
        assert mailer.send(hello()).server == server.name


class TestQuestions:
    @pytest.mark.parametrize("code", [250, 251, 252, 550, 553])
    def test_verify_gives_the_reply(self, twin: Twin, scripted: Scripted, code: int) -> None:
        server = scripted({"VRFY": f"{code} so be it"})
        reply = twin(server.url).verify("ann@example.org")
        assert (reply.code, reply.text) == (code, "so be it")
        assert server.commands[-1] == "VRFY ann@example.org"

    def test_a_name_outside_ascii_is_verified_with_smtputf8(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        twin(server.url).verify("jürgen")
        assert server.commands[-1] == "VRFY jürgen SMTPUTF8"

    def test_expand_gives_the_members(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"EXPN": "250-ann@example.org\n250 bob@example.org"})
        assert twin(server.url).ask("expand", "staff").lines == ("ann@example.org", "bob@example.org")

    def test_help(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        assert mailer.ask("help").code == 214
        assert mailer.ask("help", "MAIL").code == 214
        assert server.commands[1:] == ["HELP", "HELP MAIL"]

    def test_questions_and_mail_share_a_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        mailer.verify("ann")
        mailer.send(hello())
        mailer.verify("bob")
        assert server.connections == 1

    @pytest.mark.parametrize("name", ["ann\r\nDATA", "ann\n", "\0", "ann\x7f", "a" * 600])
    def test_a_name_that_cannot_stand_in_a_command_is_invalid_input(
        self, twin: Twin, scripted: Scripted, name: str
    ) -> None:
        server = scripted()
        mailer = twin(server.url)
        for method in ("verify", "expand", "help"):
            with pytest.raises(InvalidInput):
                mailer.ask(method, name)
        assert not [command for command in server.commands if command.split(" ")[0] in ("VRFY", "EXPN", "HELP")]
        assert mailer.send(hello()).ok


class TestLife:
    def test_a_mailer_is_a_context_manager(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        if isinstance(twin, AsyncioTwin):

            async def run() -> bool:
                async with twin.kind(server.url) as mailer:
                    return (await mailer.send(hello())).ok

            assert twin.runner.run(run())
        else:
            with Mailer(server.url) as mailer:
                assert mailer.send(hello()).ok
        server.wait_for_end()
        assert server.commands[-1] == "QUIT"

    def test_nothing_is_opened_before_it_is_needed(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        mailer.close()
        assert server.connections == 0

    def test_a_forgotten_mailer_closes_its_connections(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = Mailer(server.url)
        mailer.send(hello())
        with pytest.warns(ResourceWarning, match="unclosed"):
            del mailer
        server.wait_for_end()

    def test_a_connection_in_use_is_closed_when_it_comes_back(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        stream = mailer.stream([hello(), hello()])
        next(stream)
        mailer.close()
        assert server.open_connections == 1
        assert [receipt.ok for receipt in stream] == [True]
        server.wait_for_end()

    def test_its_repr_names_the_servers(self, twin: Twin) -> None:
        kind = twin.kind.__name__
        assert repr(twin("smtp://ann:secret@a.example:2525", "b.example", tls="none").raw) == (
            f"<{kind} a.example:2525, b.example:25>"
        )

    def test_from_settings_reads_the_neutral_keys(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        events: list[Any] = []
        settings = {"host": "127.0.0.1", "port": str(server.port), "tls": "none", "recipient_policy": None}
        mailer = twin.kind.from_settings(settings, listeners=[events.append])
        assert mailer.configuration.rules.recipient_policy == "any"
        if isinstance(twin, AsyncioTwin):
            twin.runner.run(mailer.send(hello()))
            twin.runner.run(mailer.close())
        else:
            mailer.send(hello())
            mailer.close()
        assert names(events) == ["message_sending", "message_sent"]


class TestBadSettings:
    @pytest.mark.parametrize(
        ("settings", "field", "words"),
        [
            ({"hots": "localhost"}, "hots", "did you mean 'host'"),
            ({"USERNAME": "ann"}, "USERNAME", "did you mean 'username'"),
            ({"recipient_polcy": "all"}, "recipient_polcy", "did you mean 'recipient_policy'"),
            ({"zzz": 1}, "zzz", "known are"),
            ({"servers": [{"hst": "a"}]}, "hst", "did you mean 'host'"),
            ({"servers": ["smtp://a?tsl=none"]}, "tsl", "did you mean 'tls'"),
            ({"timeout": {"conect": 1}}, "conect", "did you mean 'connect'"),
            ({"tls": "yes"}, "tls", "none, opportunistic, required, implicit"),
            ({"ca_file": "/nonexistent.pem"}, "ca_file", "cannot be used"),
            ({"client_cert": "/nonexistent.pem"}, "client_cert", "cannot be used"),
            ({"client_cert": __file__}, "client_cert", "test_asking.py' cannot be used: it holds no certificate"),
            ({"auth_mechanisms": "PLAN"}, "auth_mechanisms", "'PLAN', which is not known; known are SCRAM-.*PLAIN"),
            ({"servers": ["smtp://a?auth_mechanisms=LOGIN,NTLM"]}, "auth_mechanisms", "'NTLM', which is not known"),
        ],
    )
    def test_are_found_while_the_mailer_is_made(
        self, twin: Twin, settings: dict[str, Any], field: str, words: str
    ) -> None:
        with pytest.raises(InvalidSetting, match=words) as caught:
            twin(**settings)
        assert caught.value.field == field
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize(
        ("settings", "library", "extra"),
        [
            ({"auth_mechanisms": "PLAIN,scram-sha-256"}, "scramp", "scram"),
            ({"servers": [{"host": "a", "auth_mechanisms": ["SCRAM-SHA-1-PLUS"]}]}, "scramp", "scram"),
            ({"proxy": "socks5h://localhost:1080"}, "python_socks", "socks"),
            ({"servers": ["smtp+srv://example.com"]}, "dns", "srv"),
            ({"dkim": {"domain": "example.com", "selector": "s", "key": KEY}}, "dkim", "dkim"),
            ({"username": "ann", "token": TOKENS}, "authlib", "oauth2"),
            ({"username": "ann", "token": TOKENS}, "requests", "oauth2"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_library_that_is_not_there_is_missed_while_the_mailer_is_made(
        self, twin: Twin, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], library: str, extra: str
    ) -> None:
        """Where the settings ask for it by name."""
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingExtra, match=rf'pip install "smtpbackend\[{extra}\]"'):
            twin(**settings)

    def test_a_library_that_nobody_asked_for_may_be_missing(
        self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SCRAM would come first where the server offers it."""
        monkeypatch.setitem(sys.modules, "scramp", None)
        server = scripted(Play(extensions=("AUTH SCRAM-SHA-256 PLAIN",)))
        assert twin(server.url, username="ann", password="secret").send(hello()).ok

    def test_a_file_that_is_no_certificate(self, twin: Twin, ca: Certificates, tmp_path: Any) -> None:
        path = tmp_path / "no.pem"
        path.write_text("hello")
        for settings in ({"ca_file": str(path)}, {"client_cert": str(path)}):
            with pytest.raises(InvalidSetting, match="cannot be used"):
                twin(**settings)


class TestReadableErrors:
    """Who is at fault, and what to do."""

    def test_an_unreachable_server(self, twin: Twin) -> None:
        [port] = free_ports(1)
        with pytest.raises(ConnectFailed) as caught:
            twin(f"smtp://127.0.0.1:{port}").send(hello())
        assert str(caught.value) == (
            f"cannot connect to 127.0.0.1:{port} (127.0.0.1: Connection refused); "
            "check host and port in the URL, and that no firewall is in the way"
        )
        assert caught.value.server == f"127.0.0.1:{port}"

    @pytest.mark.parametrize(
        ("play", "settings", "words"),
        [
            (
                Play({"AUTH": "535 5.7.8 no"}, ("AUTH PLAIN",)),
                {},
                "refused the login of 'ann'.*check username and password",
            ),
            (
                Play(extensions=()),
                {},
                "offers no login.*; check port and tls in the URL, or remove username and password",
            ),
            (Play(extensions=("AUTH GSSAPI",)), {}, "offers GSSAPI to log in, and none of SCRAM-SHA-512"),
            (Play(extensions=("AUTH PLAIN",)), {"auth_mechanisms": "login"}, "none of LOGIN; see auth_mechanisms"),
        ],
    )
    def test_a_refused_login(
        self, twin: Twin, scripted: Scripted, play: Play, settings: dict[str, Any], words: str
    ) -> None:
        server = scripted(play)
        with pytest.raises(AuthenticationFailed, match=words) as caught:
            twin(server.url, username="ann", password="secret", **settings).send(hello())
        assert server.name in str(caught.value)

    def test_each_is_told_as_one_line(self, twin: Twin, scripted: Scripted) -> None:
        for play in (Play({"": "554-a\n554 b"}), Play({"MAIL": "554-a\n554 b"}), Play({"RCPT": "554-a\n554 b"})):
            with pytest.raises(DeliveryError) as caught:
                twin(scripted(play).url).send(hello())
            assert "\n" not in str(caught.value)
