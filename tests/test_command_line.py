"""``python -m smtpbackend``: check, send and verify, each as its own process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.command_line import main
from smtpbackend.outcome import Receipt
from smtpbackend.testing import SILENCE, Play, ScriptedServer
from tests.mailer.test_streaming import Peak, large_file
from tests.servers.sink import Sink

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("error")


def ran(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "smtpbackend", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, env=environment)
    assert b"Traceback" not in done.stderr
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(*arguments: str, typed: str = "", path: str = "") -> subprocess.CompletedProcess[str]:
    """The same where the standard error is a terminal; what it showed is ``stderr``."""
    import fcntl
    import pty
    import termios

    controller, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"), str(ROOT))))
    process = subprocess.Popen(
        [sys.executable, "-m", "smtpbackend", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    shown = b""
    with process, open(controller, "r+b", buffering=0) as screen:
        while True:
            try:
                shown += screen.read(4096) or b""
            except OSError:  # the last process on it has ended
                break
            if typed and b"Password" in shown:  # it asks when nothing is echoed any more
                screen.write(typed.encode())
                typed = ""
        assert process.stdout is not None
        out = process.stdout.read().decode()
    assert b"Traceback" not in shown
    return subprocess.CompletedProcess(process.args, process.returncode, out, shown.decode())


def letter(number: int) -> bytes:
    return b"From: ann@example.com\nTo: u%d@example.org\nSubject: %d\n\nx\n" % (number, number)


@pytest.fixture
def server(smtp_server: Any) -> ScriptedServer:
    started: ScriptedServer = smtp_server(Play(extensions=("PIPELINING", "AUTH PLAIN", "SIZE 100000000")))
    return started


class TestCheck:
    def test_all_is_well(self, server: ScriptedServer) -> None:
        done = ran("check", server.url, "--send-to", "bob@example.org")
        assert done.returncode == 0, done.stderr
        assert [line.split()[:2] for line in done.stdout.splitlines()[1:7]] == [
            *(["✓", name] for name in ("look-up", "connect", "greeting", "EHLO", "message")),
            ["waits", "2"],
        ]
        assert done.stdout.splitlines()[0] == server.name
        assert len(server.taken) == 1

    def test_what_fails_is_told_with_what_to_do(self, smtp_server: Any) -> None:
        server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN",)))
        done = ran("check", f"smtp://ann:secret@127.0.0.1:{server.port}?tls=none")
        assert done.returncode == 1
        assert "✗ login" in done.stdout
        assert "check username and password in the URL" in " ".join(done.stdout.split())
        assert "secret" not in done.stdout + done.stderr

    def test_json(self, server: ScriptedServer) -> None:
        done = ran("check", server.url, "smtp://127.0.0.1:1", "--json")
        assert done.returncode == 1
        well, ill = json.loads(done.stdout)
        assert (well["server"], well["ok"], ill["ok"]) == (server.name, True, False)
        assert ill["steps"][-1]["detail"] == ill["error"]

    def test_a_terminal_that_cannot_show_ticks(self, server: ScriptedServer, capsys: Any) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "smtpbackend", "check", server.url],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            timeout=60,
        )
        assert done.returncode == 0
        assert b"  ok connect" in done.stdout

    @pytest.mark.parametrize("arguments", [["check", "smtp://a b"], ["check", "http://x"], ["send", "--to", "x@y.org"]])
    def test_wrong_arguments(self, arguments: list[str]) -> None:
        done = ran(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")

    def test_it_can_be_interrupted(self, smtp_server: Any) -> None:
        server = smtp_server({"": SILENCE})
        command = [sys.executable, "-m", "smtpbackend", "check", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while not server.connections:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (130, b"", b"")

    def test_each_server_is_told_as_soon_as_it_is_known(self, smtp_server: Any) -> None:
        """The second one says nothing, and would for its time-out."""
        good, silent = smtp_server({}), smtp_server({"": SILENCE})
        command = [sys.executable, "-m", "smtpbackend", "check", good.url, silent.url]
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment
        ) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(6)]
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            rest, err = process.communicate(timeout=30)
        assert told[0] == f"{good.name}\n"
        assert told[-1].split()[0] == "waits"
        assert (process.returncode, rest, err) == (130, "", "")

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
    def test_a_terminal_is_filled_and_no_line_is_broken_twice(self, smtp_server: Any) -> None:
        import pty

        server = smtp_server(Play({"AUTH": f"535 5.7.8 {'no [b]and[/b] no ' * 12}"}, extensions=("AUTH PLAIN",)))
        ours, theirs = pty.openpty()
        url = f"smtp://ann:secret@127.0.0.1:{server.port}?tls=none"
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "70", "TERM": "xterm"}
        command = [sys.executable, "-m", "smtpbackend", "check", url]
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment):
            os.close(theirs)
            said = b""
            with contextlib.suppress(OSError):  # it has ended
                while octets := os.read(ours, 65536):
                    said += octets
        os.close(ours)
        shown = re.sub(r"\x1b\[[\d;]*m", "", said.decode()).splitlines()
        at = next(number for number, line in enumerate(shown) if "✗ login" in line)
        assert len(shown) > at + 3
        assert all(len(line) <= 70 and line.startswith(" " * 25) for line in shown[at + 1 :])
        assert "[b]and[/b]" in " ".join(shown)

    def test_the_page_shows_what_is_printed(self, smtp_server: Any, tmp_path: Path) -> None:
        """But for the port, and for the times."""
        page = (Path(__file__).parents[1] / "docs" / "howto" / "check.md").read_text(encoding="utf-8")
        [shown] = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        offered = ("PIPELINING", "SIZE 10000000", "AUTH PLAIN LOGIN")
        refusal = "535 5.7.8 Error: authentication failed"
        server = smtp_server(Play(extensions=offered), Play({"AUTH": refusal}, extensions=offered))
        (tmp_path / "secret.txt").write_text("secret\n")
        printed = ""
        for command in re.findall(r"^\$ python -m smtpbackend (.*)$", shown, re.MULTILINE):
            words = command.replace("1025", str(server.port)).replace("secret.txt", str(tmp_path / "secret.txt"))
            done = ran(*words.split())
            printed += f"$ python -m smtpbackend {command}\n{done.stdout}"
        without_times = re.compile(r" +\d+ ms")
        wanted = without_times.sub(" ms", shown)
        found = without_times.sub(" ms", printed.replace(f"127.0.0.1:{server.port}", "127.0.0.1:1025"))
        assert found.split() == wanted.split()  # a longer port breaks a line elsewhere


def test_what_a_server_says_cannot_command_a_terminal(smtp_server: Any) -> None:
    server = smtp_server({"": "220 mx \x1b[31mred\x07", "VRFY": "252 \x1b]0;title\x07"})
    for arguments in (["check", server.url], ["verify", "--server", server.url, "ann"]):
        done = ran(*arguments)
        assert done.returncode == 0
        assert all(c.isprintable() or c == "\n" for c in done.stdout)


def test_a_reader_that_has_read_enough(server: ScriptedServer) -> None:
    command = f"{sys.executable} -m smtpbackend settings | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, timeout=60)
    assert done.stderr == b""
    assert done.stdout.startswith(b"host")


class TestSend:
    def test_a_message_of_arguments(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 10_000)
        done = ran(
            *(
                "send",
                "--server",
                server.url,
                "--from",
                "ann@example.com",
                "--to",
                "bob@example.org",
                "--subject",
                "Hi",
            ),
            *("--text", "-", "--attach", str(tmp_path / "a.bin"), "--header", "X-Word: one"),
            stdin="Grüße\n".encode(),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("accepted: bob@example.org (250 ")
        import email
        from email import policy

        [content] = server.taken
        arrived = email.message_from_bytes(content.content, policy=policy.default)
        assert arrived["X-Word"] == "one"
        text, attached = arrived.iter_parts()  # type: ignore[attr-defined]
        assert text.get_content().split() == ["Grüße"]
        assert attached.get_content() == bytes(range(256)) * 10_000

    def test_messages_that_are_files(self, server: ScriptedServer, tmp_path: Path) -> None:
        for number in range(3):
            given = f"From: ann@example.com\r\nTo: u{number}@example.org\r\nSubject: {number}\r\n\r\nx\r\n"
            (tmp_path / f"{number}.eml").write_text(given)
        files = [word for number in range(3) for word in ("--message", str(tmp_path / f"{number}.eml"))]
        done = ran("send", "--server", server.url, *files, "--json")
        assert done.returncode == 0
        receipts = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(receipts) == 3
        assert len(server.taken) == 3
        assert ran("send", "--server", server.url, *files, "--to", "eve@example.org").returncode == 0
        assert server.received.count(b"RCPT TO:<eve@example.org>") == 3

    def test_one_that_is_refused(self, smtp_server: Any) -> None:
        server = smtp_server({"RCPT": "550 5.1.1 no such user"})
        done = ran(
            *("send", "--server", server.url, "--from", "a@example.com", "--to", "b@example.org"),
            *("--envelope-from", "bounces@example.com", "--text", "-"),
            stdin=b"x",
        )
        assert done.returncode == 1
        assert done.stdout == "rejected: b@example.org (550 5.1.1 no such user)\n"
        assert b"MAIL FROM:<bounces@example.com>" in server.received

    def test_a_file_that_is_not_there(self, server: ScriptedServer) -> None:
        done = ran("send", "--server", server.url, "--from", "a@b.org", "--to", "b@b.org", "--attach", "/no/such")
        assert (done.returncode, done.stderr) == (
            2,
            "error: --attach /no/such cannot be read: No such file or directory\n",
        )

    def test_a_password_is_read_from_a_file(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("secret\n")
        given = ["check", server.url, "--username", "ann", "--password-file", str(tmp_path / "password")]
        done = ran(*given)
        assert done.returncode == 0
        assert "ann by PLAIN" in done.stdout

    def test_lists_and_names_of_recipients(self, server: ScriptedServer) -> None:
        """One that is badly written does not cost the others."""
        given = ["--to", "Ann <ann@example.org>, bob@example.org", "--cc", '"Eve <eve@', "--bcc", "dan@example.org"]
        done = ran("send", "--server", server.url, "--from", "a@example.com", *given)
        assert done.returncode == 1
        accepted = re.findall("^accepted: (.*?) ", done.stdout, re.MULTILINE)
        assert accepted == ["ann@example.org", "bob@example.org", "dan@example.org"]
        assert 'rejected: "Eve <eve@ (' in done.stdout
        assert b"dan@" not in server.taken[0].content

    def test_the_null_reverse_path(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "a.eml").write_bytes(letter(0))
        common = ["send", "--server", server.url, "--envelope-from", ""]
        assert ran(*common, "--from", "a@example.com", "--to", "b@example.org").returncode == 0
        assert ran(*common, "--message", str(tmp_path / "a.eml")).returncode == 0
        assert ran(*common, "--message", str(tmp_path / "a.eml"), "--to", "b@example.org").returncode == 0
        assert server.received.count(b"MAIL FROM:<>") == 3

    def test_receipts_in_json_can_be_read_again(self, smtp_server: Any) -> None:
        server = smtp_server({"RCPT": ["250 ok", "550 5.1.1 no such user"]})
        given = ["--from", "a@example.com", "--to", "b@example.org, c@example.org", "--json"]
        done = ran("send", "--server", server.url, *given)
        assert (done.returncode, done.stderr) == (1, "")
        told = json.loads(done.stdout)
        receipt = Receipt.from_json(told)
        assert receipt.to_json() == told
        assert [str(one.address) for one in receipt.accepted] == ["b@example.org"]
        assert receipt.rejected[0].no_such_mailbox

    def test_a_message_on_the_standard_input(self, server: ScriptedServer) -> None:
        done = ran("send", "--server", server.url, "--message", "-", stdin=letter(7))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("accepted: u7@example.org (")

    @pytest.mark.parametrize("piped", [False, True])
    def test_a_mailbox_is_as_many_messages(self, server: ScriptedServer, tmp_path: Path, piped: bool) -> None:
        octets = b"".join(b"From ann Thu Jan  1 00:00:00 2026\n" + letter(n) + b"\n" for n in range(3))
        (tmp_path / "box").write_bytes(octets)
        name = "-" if piped else str(tmp_path / "box")
        done = ran("send", "--server", server.url, "--message", name, stdin=octets if piped else b"")
        assert done.returncode == 0, done.stderr
        wanted = [f"{name}[{n + 1}]: accepted: u{n}@example.org" for n in range(3)]
        assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == wanted
        assert (tmp_path / "box").read_bytes() == octets

    def test_one_of_several_files_that_is_no_message_costs_no_other(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        for name, octets in (("0", letter(0)), ("1", b"nothing"), ("2", letter(2))):
            (tmp_path / name).write_bytes(octets)
        done = ran("send", "--server", server.url, "--message", *(str(tmp_path / name) for name in "012"))
        assert done.returncode == 1
        assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
            f"{tmp_path / '0'}: accepted: u0@example.org",
            f"{tmp_path / '2'}: accepted: u2@example.org",
        ]
        assert done.stderr == f"{tmp_path / '1'}: failed: the message has no From, and no envelope names the sender\n"

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (["--message", "{}/0", "--subject", "x", "--cc", "a@b.org"],
             "--message sends messages as they are, and --cc, --subject cannot change them: give one or the other"),
            (["--message", "-", "-"], "- is given twice, and the standard input can be read once"),
            (["--message", "{}/0", "{}/none"], "--message {}/none cannot be read: No such file or directory"),
            (["--message", "{}/0", "--to", "<a"], "--to: '<a'"),
            (["--message", "{}/0", "--envelope-from", "<a"], "--envelope-from: '<a'"),
            (["--from", "a@b.org", "--to", "b@b.org", "--text", "{}/latin"], "--text {}/latin is not in UTF-8 "),
            (["--from", "a@b.org", "--to", "b@b.org", "--attach", "{}"], "--attach {} cannot be read: Is a directory"),
            (["--from", "<a", "--to", "b@b.org"], "--from: '<a'"),
            (["--from", "a@b.org", "--to", "b@b.org", "--header", "From: b"], "--header: From is given twice"),
            (["--from", "a@b.org", "--to", "b@b.org", "--password-file", "{}/0"],
             "--password-file is set for 127.0.0.1, --username is not"),
            (["--from", "a@b.org", "--to", "b@b.org", "--server", "smtp://x?tsl=none"],
             "unknown setting 'tsl' in a URL of --server; did you mean 'tls'?"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_with_options_is_told_before_anything_is_sent(
        self, server: ScriptedServer, tmp_path: Path, arguments: list[str], error: str
    ) -> None:
        (tmp_path / "0").write_bytes(letter(0))
        (tmp_path / "latin").write_bytes("grüß".encode("latin-1"))
        done = ran("send", "--server", server.url, *(word.replace("{}", str(tmp_path)) for word in arguments))
        assert done.stderr.startswith(f"error: {error.replace('{}', str(tmp_path))}")
        assert (done.returncode, done.stdout, server.taken) == (2, "", [])

    def test_a_wrong_password(self, smtp_server: Any, tmp_path: Path) -> None:
        server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN",)))
        (tmp_path / "secret").write_text("wrong-one\n")
        url = server.url.replace("//", "//ann@")
        given = ["--password-file", str(tmp_path / "secret"), "--from", "a@example.com", "--to", "b@example.org"]
        done = ran("send", "--server", url, *given)
        assert done.returncode == 1
        assert "535 5.7.8 no" in done.stdout
        assert "check username in the URL of --server and --password-file" in done.stdout
        assert "wrong-one" not in done.stdout + done.stderr

    @pytest.mark.parametrize("in_url", [True, False])
    def test_a_password_is_asked_for_on_the_terminal(self, server: ScriptedServer, in_url: bool) -> None:
        url = server.url.replace("//", "//ann@") if in_url else server.url
        done = on_terminal(
            *("send", "--server", url, *([] if in_url else ["--username", "ann"])),
            *("--from", "a@example.com", "--to", "b@example.org", "--text", "-"),
            typed="geheim\n",
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.split("\r\n") == ["Password of ann: ", ""]
        assert server.received.count(b"AUTH PLAIN") == 1

    def test_without_a_terminal_no_password_is_asked_for(self, server: ScriptedServer) -> None:
        command = [sys.executable, "-m", "smtpbackend", "verify", "--server", server.url, "--username", "ann", "x"]
        done = subprocess.run(command, input=b"geheim\n", capture_output=True, timeout=60, start_new_session=True)
        assert done.returncode == 2
        assert done.stderr == b"error: there is no terminal to ask for the password of ann: give --password-file\n"

    def test_no_password_is_asked_for_where_none_is_needed(self, server: ScriptedServer) -> None:
        for credentials in ("ann:secret@", "ann:@"):
            url = server.url.replace("//", f"//{credentials}")
            assert "terminal" not in ran("verify", "--server", url, "x").stderr
        url = server.url.replace("//", "//ann@") + "&auth_mechanisms=EXTERNAL"
        assert "terminal" not in ran("verify", "--server", url, "x").stderr

    def test_a_batch_that_is_interrupted_tells_what_was_under_way(self, smtp_server: Any, tmp_path: Path) -> None:
        server = smtp_server(Play({".": ["250 ok", SILENCE]}, extensions=()))
        for number in range(3):
            (tmp_path / str(number)).write_bytes(letter(number))
        command = [sys.executable, "-m", "smtpbackend", "send", "--server", server.url, "--message"]
        command += [str(tmp_path / str(number)) for number in range(3)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while server.received.count(b"\r\n.\r\n") < 2:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert [line.partition(" (")[0] for line in out.splitlines()] == [
            f"{tmp_path / '0'}: accepted: u0@example.org",
            f"{tmp_path / '1'}: in_doubt: u1@example.org",
        ]

    def test_messages_are_read_when_their_turn_comes(self, tmp_path: Path) -> None:
        names = []
        for number in range(12):
            names.append(str(tmp_path / str(number)))
            Path(names[-1]).write_bytes(letter(number) + b"x" * 70 * 20_000)
        with Sink("SIZE") as sink:
            assert main(["send", "--server", sink.url, "--message", names[0]]) == 0
            with Peak() as one:
                assert main(["send", "--server", sink.url, "--message", *names[:3]]) == 0
            with Peak() as all_of_them:
                assert main(["send", "--server", sink.url, "--message", *names]) == 0
        assert all_of_them.octets < 1.5 * one.octets

    def test_the_page_shows_what_is_printed(self, smtp_server: Any, tmp_path: Path) -> None:
        page = (ROOT / "docs" / "howto" / "command-line.md").read_text(encoding="utf-8")
        shown = re.findall(r"^```console\n(\$ (.*?)\n(.*?))^```$", page, re.MULTILINE | re.DOTALL)
        refusal = "550 5.1.1 no such user"
        plays = (
            Play({"RCPT TO:<EVE": refusal}),
            Play(),
            Play({"VRFY": ["250 <ann@example.org>", "252 2.5.2 send some mail", refusal]}),
        )
        assert len(shown) == len(plays)
        mail = letter(0).replace(b"u0@", b"bob@")
        (tmp_path / "box").write_bytes((b"From ann Thu Jan  1 00:00:00 2026\n" + mail + b"\n") * 2)
        for name, octets in (("report.csv", b"a,b"), ("first.eml", mail), ("second.eml", mail)):
            (tmp_path / name).write_bytes(octets)
        for (_, command, wanted), play in zip(shown, plays, strict=True):
            here = command.replace("python", sys.executable).replace("1025", f"{smtp_server(play).port}")
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                here, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert (done.stdout, done.stderr) == (wanted, "")


class TestVerify:
    def test_all_over_one_connection(self, smtp_server: Any) -> None:
        server = smtp_server({"VRFY": ["250 <ann@example.org>", "251 forward", "450 busy", "551 elsewhere"]})
        done = ran("verify", "--server", server.url, "a", "b", "c", "d", "--json")
        assert done.returncode == 1
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["reply"]["code"] for one in told] == [250, 251, 450, 551]
        assert [one["meaning"] for one in told] == [
            "it is there",
            "it is not here, and mail for it is forwarded",
            "the server does not tell now",
            "it is not here, and mail for it is not forwarded",
        ]
        assert len(server.speakers) == 1

    def test_no_server(self) -> None:
        done = ran("verify", "--server", "smtp://127.0.0.1:1", "ann")
        assert (done.returncode, done.stdout) == (1, "")
        assert "check host and port in the URL of --server" in done.stderr

    def test_what_the_server_says(self, smtp_server: Any) -> None:
        server = smtp_server({"VRFY": ["252 2.0.0 perhaps", "550 5.1.1 no", "502 5.5.1 what"]})
        done = ran("verify", "--server", server.url, "ann", "bob@example.org", "eve")
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            "ann: the server does not tell, and would take mail for it (252 2.0.0 perhaps)",
            "bob@example.org: it is not there (550 5.1.1 no)",
            "eve: the server does not answer VRFY (502 5.5.1 what)",
        ]


def test_on_a_terminal_with_rich(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
    import pty

    controller, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8", closefd=False) as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["check", server.url]) == 0
    os.close(terminal)
    shown = b""
    with open(controller, "rb", buffering=0) as read:
        while b"waits" not in shown:
            shown += read.read(4096) or b""
    assert b"\x1b[32m" in shown


class TestProgress:
    """On a terminal with rich: of what is large, and of several messages."""

    def shown(self, *arguments: str) -> tuple[int, str]:
        done = on_terminal("send", *arguments)
        return done.returncode, done.stderr

    def test_of_a_large_attachment(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "large.bin").write_bytes(os.urandom(3_000_000))
        code, told = self.shown(
            *("--server", server.url, "--from", "a@example.com", "--to", "b@example.org", "--attach"),
            str(tmp_path / "large.bin"),
        )
        assert code == 0
        assert "octets of attachments" in told
        assert "100%" in told

    def test_of_several_messages(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "one.eml").write_text("From: a@example.com\r\nTo: b@example.org\r\n\r\nx\r\n")
        files = ["--message", str(tmp_path / "one.eml")] * 3
        code, told = self.shown("--server", server.url, *files)
        assert code == 0
        assert "messages" in told
        assert "100%" in told
        assert len(server.taken) == 3

    def test_none_of_what_is_small(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "small.txt").write_text("x")
        given = ("--server", server.url, "--from", "a@example.com", "--to", "b@example.org", "--attach")
        assert self.shown(*given, str(tmp_path / "small.txt")) == (0, "")

    def test_a_batch_has_a_bar_and_its_receipts_go_where_they_are_sent(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        for number in range(3):
            (tmp_path / str(number)).write_bytes(letter(number))
        names = [str(tmp_path / str(number)) for number in range(3)]
        done = on_terminal("send", "--server", server.url, "--json", "--message", *names)
        assert done.returncode == 0
        assert "100%" in done.stderr
        assert [json.loads(line)["outcomes"][0]["status"] for line in done.stdout.splitlines()] == ["accepted"] * 3

    @pytest.mark.parametrize("number", [1, 24])
    def test_it_shows_what_has_left_for_the_last_server(self, smtp_server: Any, tmp_path: Path, number: int) -> None:
        """And not what was read, or has left for those before it. What systems hold in their buffers has left."""
        play = Play(extensions=("PIPELINING", "SIZE"), cut_after_reading=1_000_000)
        servers = [word for _ in range(number) for word in ("--server", smtp_server(play).url)]
        path = large_file(tmp_path, 25_000_000)
        given = ["--from", "a@example.com", "--to", "b@example.org", "--attach", str(path)]
        done = on_terminal("send", *servers, *given)
        assert done.returncode == 1
        assert int(re.findall(r"(\d+)%", done.stderr)[-1]) < 70

    def test_without_rich_there_is_none(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "rich.py").write_text("raise ImportError")
        (tmp_path / "0").write_bytes(letter(0))
        given = ["--message", str(tmp_path / "0"), str(tmp_path / "0")]
        done = on_terminal("send", "--server", server.url, *given, path=str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("accepted: ") == 2


def test_a_large_attachment_is_never_in_memory(server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(os.urandom(50_000_000))
    code = (
        "import resource, sys; from smtpbackend.command_line import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(code)"
    )
    given = ("--server", server.url, "--from", "a@example.com", "--to", "b@example.org")

    def megabytes(*attached: str) -> int:
        command = [sys.executable, "-c", code, "send", *given, "--subject", "x", *attached]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.split()[-1])

    assert megabytes("--attach", str(tmp_path / "large.bin")) < megabytes() + 25
