"""Forks: parent and child share no socket, the child inherits no lock, and neither speaks on the other's connection."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

from smtpbackend.testing import Play, ScriptedServer, Speaker
from tests.dkim_keys import DkimKeys
from tests.mailer.conftest import Scripted
from tests.processes.ledger import subject_of
from tests.processes.script import run, running
from tests.processes.sockets import held, towards
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

TLS = ["none", "required"]

# What makes the mailer of each kind, and a function to send by it
MAILERS = {
    "blocking": """
def new_mailer(url):
    return Mailer(url, timeout=20)

def send(mailer, message):
    return mailer.send(message)
""",
    "asyncio": """
def new_mailer(url):
    return AsyncMailer(url, timeout=20)

def send(mailer, message):
    async def main():
        return await mailer.send(message)
    return asyncio.run(main())
""",
}

POOL = """
mailer = new_mailer(sys.argv[1])

def send_one(number):
    return send(mailer, hello(f"{os.getpid()} {number}."))

if __name__ == "__main__":
    send_one(0)  # opens a connection
    with multiprocessing.get_context(sys.argv[2]).Pool(4) as pool:
        sent = pool.map_async(send_one, range(1, 101), chunksize=5)
        for number in range(1, 101):
            assert send_one(number).ok
        assert all(receipt.ok for receipt in sent.get(30))
        pool.close()
        pool.join()
    assert send_one(101).ok
"""


def url_of(server: ScriptedServer, tls: str, ca: Certificates) -> str:
    return f"smtp://127.0.0.1:{server.port}?tls={tls}&ca_file={ca.ca_file}"


def subjects(speaker: Speaker) -> list[str]:
    return [subject_of(transaction.content) for transaction in speaker.handed_over]


@pytest.mark.parametrize(("kind", "tls"), [("blocking", "none"), ("blocking", "required"), ("asyncio", "none")])
@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(other, marks=pytest.mark.exhaustive) for other in ("forkserver", "spawn"))]
)
def test_multiprocessing(
    scripted: Scripted, ca: Certificates, tmp_path: Path, method: str, kind: str, tls: str
) -> None:
    """Parent and four children send at once; the receipts of the children reach the parent."""
    server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
    assert run(tmp_path, MAILERS[kind] + POOL, url_of(server, tls, ca), method) == ""
    server.wait_for_end()
    sent = Counter(subject for speaker in server.speakers for subject in subjects(speaker))
    assert set(sent.values()) == {1}
    assert len(sent) == 202
    for speaker in server.speakers:
        senders = {subject.split()[0] for subject in subjects(speaker)}
        assert len(senders) <= 1, "two processes spoke on one connection"


class TestTheChildEnds:
    """The child takes nothing of its parent's with it, however it ends."""

    @pytest.mark.parametrize("tls", TLS)
    @pytest.mark.parametrize("own", ["", "mailer.send(hello('of the child'))"], ids=["idle", "sent"])
    @pytest.mark.parametrize(
        "ending", ["sys.exit(0)", "mailer.close(); os._exit(0)", "del mailer; gc.collect(); os._exit(0)"]
    )
    def test_it_does_not_quit_for_its_parent(
        self, scripted: Scripted, ca: Certificates, tmp_path: Path, ending: str, own: str, tls: str
    ) -> None:
        """Whether by its exit, a close or because nobody has the mailer any more."""
        server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
        source = f"""
            mailer = Mailer(sys.argv[1], timeout=20)
            mailer.send(hello("of the parent"))
            if child := os.fork():
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            else:
                {own}
                {ending}
            mailer.send(hello("of the parent"))
            print("sent")
            sys.stdin.readline()
            """
        with running(tmp_path, source, url_of(server, tls, ca)) as script:
            assert script.read() == "sent"
            assert server.connections == (2 if own else 1)
            parent = server.speakers[0]
            assert subjects(parent) == ["of the parent"] * 2
            assert "QUIT" not in parent.verbs
            script.write()
            assert script.end() == ""
        server.wait_for_end()
        assert parent.verbs[-1] == "QUIT"
        for child in server.speakers[1:]:
            assert subjects(child) == ["of the child"]
            assert (child.verbs[-1] == "QUIT") == (ending != "os._exit(0)")

    def test_a_daemon_goes_on_without_its_parent(self, scripted: Scripted, tmp_path: Path) -> None:
        """Twice forked, its parents gone: it has a connection of its own."""
        server = scripted()
        source = """
            mailer = Mailer(sys.argv[1], timeout=20)
            mailer.send(hello("of the parent"))
            if not os.fork():
                os.setsid()
                if not os.fork():
                    signal.alarm(20)
                    sys.stdin.readline()
                    mailer.send(hello("of the daemon"))
                    print("sent")
                    sys.exit()
                sys.exit()
            os.wait()
            """
        with running(tmp_path, source, server.url) as script:
            assert wait_until(lambda: server.connections == 1 and server.open_connections == 0, 10)
            assert server.speakers[0].verbs[-1] == "QUIT"
            script.write()
            assert script.read() == "sent"
            assert script.end() == ""
        server.wait_for_end()
        assert [subjects(speaker) for speaker in server.speakers] == [["of the parent"], ["of the daemon"]]
        assert [speaker.verbs.count("QUIT") for speaker in server.speakers] == [1, 1]

    @pytest.mark.parametrize("tls", TLS)
    def test_a_loop_that_is_forked_between_two_messages(
        self, scripted: Scripted, ca: Certificates, tmp_path: Path, tls: str
    ) -> None:
        """A child that has its own loop: the parent's connection, idle in the parent's loop, is not touched."""
        server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
        source = """
            mailer = AsyncMailer(sys.argv[1], timeout=20)

            async def send(subject):
                assert (await mailer.send(hello(subject))).ok

            runner = asyncio.Runner()
            runner.run(send("of the parent"))
            if child := os.fork():
                print(child)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            else:
                sys.stdin.readline()
                asyncio.run(send("of the child"))
                os._exit(0)  # asyncio would close its copy of the parent's loop, and spoil the epoll that both have
            runner.run(send("of the parent"))
            runner.close()
            """
        with running(tmp_path, source, url_of(server, tls, ca)) as script:
            child = int(script.read())
            connection = towards(server.port) & held(script.pid)
            assert len(connection) == 1
            assert not connection & held(child)
            script.write()
            assert script.end() == ""
        server.wait_for_end()
        assert [subjects(speaker) for speaker in server.speakers] == [["of the parent"] * 2, ["of the child"]]
        assert [speaker.verbs.count("QUIT") for speaker in server.speakers] == [1, 1]


LOADED = """
import json, logging

logging.disable()
settings = json.loads(sys.argv[2])
if settings.pop("token_from_a_callable", False):
    settings["token"] = lambda: "of-a-callable"
message = Message(subject="Gr\u00fc\u00dfe", from_="ann@example.org", to=["bob@example.com", "eve@b\u00fccher.example"],
                  text="Good day", html="<p>Good day</p>")
message.attach(b"%PDF-1.7", filename="a.pdf")
mailer = KIND(*sys.argv[1].split(), timeout=20, **settings)
before = set(sys.modules)

async def receipts():
    return [receipt for number in (1, 3) async for receipt in mailer.send_many([message] * 7, connections=number)]

if KIND is Mailer:
    sent = [receipt for number in (1, 3) for receipt in mailer.send_many([message] * 7, connections=number)]
    mailer.close()
else:
    sent = asyncio.run(receipts())
print(*sorted(set(sys.modules) - before), sep="; ")
print(*{str(receipt.error) for receipt in sent if not receipt.accepted})
"""

LOGIN = {"username": "ann", "password": "secret", "allow_cleartext_auth": True}
TOKEN = {"username": "ann", "allow_cleartext_auth": True}


@pytest.mark.parametrize("kind", ["Mailer", "AsyncMailer"])
@pytest.mark.parametrize(
    ("mechanism", "settings"),
    [
        pytest.param("", {}, id="no login"),
        pytest.param("PLAIN", LOGIN, id="PLAIN"),
        pytest.param("LOGIN", LOGIN, id="LOGIN"),
        pytest.param("CRAM-MD5", LOGIN, id="CRAM-MD5"),
        pytest.param("SCRAM-SHA-256", LOGIN, id="SCRAM"),
        pytest.param("DIGEST-MD5", {**LOGIN, "auth_mechanisms": ["DIGEST-MD5"]}, id="DIGEST-MD5"),
        pytest.param("XOAUTH2", {**TOKEN, "token": "abc"}, id="XOAUTH2"),
        pytest.param("OAUTHBEARER", {**TOKEN, "token_from_a_callable": True}, id="OAUTHBEARER"),
        pytest.param("", {"dkim": "rsa"}, id="dkim"),
        pytest.param("", {"tls": "required"}, id="tls"),
    ],
)
def test_a_mail_loads_no_module(
    scripted: Scripted,
    ca: Certificates,
    tmp_path: Path,
    kind: str,
    mechanism: str,
    settings: dict[str, object],
) -> None:
    """All is there when the mailer is made: a process forked while a thread loads a module could never load it."""
    extensions = ("PIPELINING", "8BITMIME", "SMTPUTF8", "STARTTLS", *([f"AUTH {mechanism}"] if mechanism else []))
    server = scripted(Play({"RCPT": ["550 5.1.1 unknown", "250 ok"]}, extensions=extensions), certificate="server")
    given = {"tls": "none", "ca_file": str(ca.ca_file), **settings}
    if "dkim" in settings:
        given["dkim"] = DkimKeys(tmp_path).setting("rsa")
    urls = f"smtp://127.0.0.1:1 smtp://127.0.0.1:{server.port}"
    with running(tmp_path, LOADED.replace("KIND", kind), urls, json.dumps(given)) as script:
        assert script.read() == ""
        # the scripted server cannot do the arithmetic of these
        assert ("refused the login" if mechanism in ("SCRAM-SHA-256", "DIGEST-MD5") else "") in script.read()
        assert script.end() == ""


class TestWhileItDelivers:
    """A fork while another thread is in the middle of a delivery."""

    SOURCE = dedent("""
        mailer = new_mailer(sys.argv[1])
        receipts = []
        sending = threading.Thread(target=lambda: receipts.append(send(mailer, hello("of the parent"))))
        sending.start()
        sys.stdin.readline()
        if child := os.fork():
            print(child)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status))
            sending.join()
            print(receipts[0].ok)
        else:
            signal.alarm(25)
            sys.stdin.readline()
            os._exit(0 if send(mailer, hello("of the child")).ok else 1)
        """)

    @pytest.mark.parametrize("kind", MAILERS)
    @pytest.mark.parametrize(
        ("point", "tls"),
        [
            ("EHLO", "none"),
            ("STARTTLS", "required"),
            ("MAIL", "none"),
            ("MAIL", "required"),
            ("DATA", "none"),
            (".", "none"),
            (".", "required"),
        ],
    )
    def test_the_child_holds_no_copy_of_the_socket(
        self, scripted: Scripted, ca: Certificates, tmp_path: Path, kind: str, point: str, tls: str
    ) -> None:
        reached, go_on = threading.Event(), threading.Event()

        def stop_here(line: str) -> str:
            reached.set()
            assert go_on.wait(30)
            return {"DATA": "354 go ahead", "STARTTLS": "220 go ahead"}.get(
                point, "250-PIPELINING\n250 STARTTLS" if point == "EHLO" else "250 ok"
            )

        stopping = Play({point: stop_here}, extensions=("PIPELINING", "STARTTLS"))
        server = scripted(stopping, Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
        try:
            with running(tmp_path, MAILERS[kind] + self.SOURCE, url_of(server, tls, ca)) as script:
                assert reached.wait(20)
                script.write()
                child = int(script.read())
                connection = towards(server.port) & held(script.pid)
                assert len(connection) == 1
                assert not connection & held(child)
                script.write()
                assert script.read() == "0", "the child could not send"
                assert server.connections == 2
                go_on.set()
                assert script.read() == "True", "the parent's delivery was disturbed"
                assert script.end() == ""
        finally:
            go_on.set()
        assert [subjects(speaker) for speaker in server.speakers] == [["of the parent"], ["of the child"]]

    @pytest.mark.parametrize("kind", MAILERS)
    @pytest.mark.parametrize("is_full", [True, False], ids=["connecting", "not greeted"])
    def test_nor_of_one_on_which_nothing_was_said_yet(self, tmp_path: Path, kind: str, is_full: bool) -> None:
        """Nobody accepts it; when the backlog is full, not even the kernel."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, closing(socket.socket()) as ahead:
            port = deaf.getsockname()[1]
            if is_full:
                ahead.connect(("127.0.0.1", port))
            with running(tmp_path, MAILERS[kind] + self.SOURCE, f"smtp://127.0.0.1:{port}?tls=none") as script:
                assert wait_until(lambda: bool(towards(port) & held(script.pid)), 10)
                script.write()
                child = int(script.read())
                try:
                    connection = towards(port) & held(script.pid)
                    assert len(connection) == 1
                    assert not connection & held(child)
                finally:
                    os.kill(child, signal.SIGKILL)

    @pytest.mark.parametrize("kind", MAILERS)
    def test_a_token_that_is_being_fetched_is_not_waited_for(
        self, scripted: Scripted, tmp_path: Path, kind: str
    ) -> None:
        """One thread fetches and all others wait for it; in the child that thread is no more."""
        server = scripted(Play(extensions=("PIPELINING", "AUTH XOAUTH2")))
        source = """
from smtpbackend.delivery.credentials import Grant, Provider

parent = os.getpid()
go_on = threading.Event()

class Tokens(Provider):
    def fetch(self, timeout=20.0):
        if os.getpid() == parent:
            print("fetching")
            assert go_on.wait(20)
        return Grant(f"of-{os.getpid()}", 3600)

def new_mailer(url):
    return {kind}(url, username="ann", token=Tokens(), timeout=20)
"""
        source = MAILERS[kind] + source.replace("{kind}", "Mailer" if kind == "blocking" else "AsyncMailer")
        source += self.SOURCE.replace("sending.join()", "go_on.set(); sending.join()")
        with running(tmp_path, source, server.url) as script:
            assert script.read() == "fetching"
            script.write()
            script.read()  # whom it has forked
            script.write()
            assert script.read() == "0", "the child could not send"
            assert script.read() == "True"
            assert script.end() == ""
        assert sorted(subject for speaker in server.speakers for subject in subjects(speaker)) == [
            "of the child",
            "of the parent",
        ]

    @pytest.mark.parametrize("connections", [1, 2])
    def test_a_stream_that_the_child_closes_is_the_parents(
        self, scripted: Scripted, tmp_path: Path, connections: int
    ) -> None:
        """It waits for none of its threads, and counts none of its connections."""
        server = scripted()
        source = """
            mailer = Mailer(sys.argv[1], timeout=20)
            stream = mailer.send_many([hello() for _ in range(20)], connections=int(sys.argv[2]))
            assert next(stream).ok
            if child := os.fork():
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert all(receipt.ok for receipt in stream)
            else:
                signal.alarm(20)
                is_sent = mailer.send(hello()).ok
                before = mailer.stats()
                stream.close()
                os._exit(0 if is_sent and mailer.stats() == before else 1)
            """
        assert run(tmp_path, source, server.url, connections) == ""
        assert len(server.handed_over) == 21

    def test_the_first_delivery_of_all(self, scripted: Scripted, tmp_path: Path) -> None:
        """Also while a thread has just begun to send: no module is half imported in the child, for ever."""
        server = scripted()
        source = """
            mailer = Mailer(sys.argv[1], timeout=20)
            message = hello()
            pause = float(sys.argv[2])
            thread = threading.Thread(target=mailer.send, args=(message,))
            thread.start()
            children = []
            for number in range(5):
                time.sleep(pause)
                if not (child := os.fork()):
                    signal.alarm(20)
                    os._exit(0 if mailer.send(message).ok else 1)
                children.append(child)
            for child in children:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            """
        for pause in (0.0, 0.0005, 0.001, 0.002, 0.004):
            assert run(tmp_path, source, server.url, pause) == ""

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("tls", TLS)
    def test_again_and_again_among_many_threads(
        self, scripted: Scripted, ca: Certificates, tmp_path: Path, tls: str
    ) -> None:
        """Whatever lock a thread holds and whatever it has just opened: no child hangs, none holds what is not its."""
        server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
        source = """
            mailer = Mailer(sys.argv[1], timeout=20, max_messages=3)
            port = int(sys.argv[2])
            over = threading.Event()

            def keep_sending(place):
                number = 0
                while not over.is_set():
                    number += 1
                    assert mailer.send(hello(f"parent {place}.{number}")).ok

            threads = [threading.Thread(target=keep_sending, args=(place,)) for place in range(16)]
            for thread in threads:
                thread.start()
            codes = []
            for number in range(40):
                if child := os.fork():
                    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                else:
                    signal.alarm(20)
                    if held(os.getpid()) & towards(port):
                        os._exit(2)
                    os._exit(0 if mailer.send(hello(f"child {number}")).ok else 3)
            over.set()
            for thread in threads:
                thread.join()
            print(*codes)
            """
        with running(tmp_path, source, url_of(server, tls, ca), server.port) as script:
            codes = script.read().split()
            assert script.end() == ""
        assert codes == ["0"] * 40
        server.wait_for_end()
        sent = Counter(subject for speaker in server.speakers for subject in subjects(speaker))
        assert set(sent.values()) == {1}
        assert len([subject for subject in sent if subject.startswith("child")]) == 40
        for speaker in server.speakers:
            assert len({subject.split()[0] for subject in subjects(speaker)}) <= 1


def test_threads_of_a_child_that_python_is_not_told_of_wait_for_the_first(tmp_path: Path) -> None:
    """As under uWSGI. Else one could use what is the parent's, or lose what it has just opened."""
    source = """
        from smtpbackend.after_fork import at_fork, notice_fork

        begun, go_on, calls = threading.Event(), threading.Event(), []

        def in_child():
            calls.append(threading.get_ident())
            begun.set()
            assert go_on.wait(20)

        at_fork(in_child=in_child)
        os.getpid = lambda: -1  # as a child sees it
        first = threading.Thread(target=notice_fork)
        first.start()
        assert begun.wait(20)
        second = threading.Thread(target=lambda: (notice_fork(), calls.append(go_on.is_set())))
        second.start()
        second.join(0.3)
        go_on.set()
        first.join()
        second.join()
        notice_fork()
        print(calls[1:])
        """
    with running(tmp_path, source) as script:
        assert script.read() == "[True]"
        assert script.end() == ""


@pytest.mark.parametrize("is_async", [False, True], ids=["send", "asend"])
def test_a_flask_app_sends_in_a_child_while_its_parent_makes_a_mailer(
    scripted: Scripted, ca: Certificates, tmp_path: Path, is_async: bool
) -> None:
    """The thread that makes it is no more in the child, and would hold its lock for ever."""
    server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
    file = tmp_path / "ca.pem"
    file.write_bytes(Path(ca.ca_file).read_bytes())
    source = """
        from flask import Flask
        from smtpbackend_flask import Mail, Message

        file = sys.argv[2]
        app = Flask("site")
        app.config.update(SMTPBACKEND_SERVERS=sys.argv[1], SMTPBACKEND_CA_FILE=file)
        app.config.update(MAIL_DEFAULT_SENDER="ann@example.org")
        mail = Mail(app)
        mail.connect()

        def send(is_async):
            with app.app_context():
                message = Message("Hello", ["bob@example.com"], "Good day")
                return asyncio.run(mail.asend(message)) if is_async else mail.send(message)

        send(False)
        octets = open(file, "rb").read()
        os.remove(file)
        os.mkfifo(file)  # the second mailer reads it as it is made, and waits
        making = threading.Thread(target=send, args=(True,))
        making.start()
        writing = os.open(file, os.O_WRONLY)  # opened as soon as it is read
        if child := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.write(writing, octets)
            os.close(writing)
            making.join()
            print(code)
        else:
            signal.alarm(20)
            os.close(writing)
            os.remove(file)
            open(file, "wb").write(octets)
            os._exit(0 if send(sys.argv[3] == "True").ok else 1)
        """
    url = f"smtp://127.0.0.1:{server.port}?tls=required"
    with running(tmp_path, source, url, file, is_async) as script:
        assert script.read() == "0"
        assert script.end() == ""
    assert len(server.handed_over) == 3
