"""tcllib: every option of `::smtp::sendmessage`, and what it did without being asked."""

from __future__ import annotations

import socket
from email.message import EmailMessage
from typing import Any

import pytest

from smtpbackend import AuthenticationFailed, Envelope, Mailer, Message, RecipientsRefused, Reply, Server
from smtpbackend.errors import TLSFailed
from smtpbackend.testing import CUT, Play, ScriptedServer
from tests.lineage.conftest import MakeMailer, Scripted, Start, parsed, url
from tests.servers.ports import free_ports
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates

ANN, BOB, JOE = "ann@example.org", "bob@example.com", "joe@example.net"


def note(**fields: object) -> Message:
    return Message(**{"subject": "Note", "from_": ANN, "to": [BOB], "text": "Hello", **fields})  # type: ignore[arg-type]


def test_servers_are_tried_in_sequence(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """-servers: the second gets the mail when the first cannot be reached."""
    (closed,) = free_ports(1)
    second, third = aiosmtpd(), aiosmtpd()
    mailer = new_mailer(f"smtp://127.0.0.1:{closed}", url(second), url(third))
    receipt = mailer.send(note())
    assert receipt.server == f"{second.host}:{second.port}"
    assert (len(second.arrived), len(third.arrived)) == (1, 0)


def test_a_server_that_turns_mail_away_for_now_hands_over_to_the_next(
    new_mailer: MakeMailer, scripted: Scripted, aiosmtpd: Start
) -> None:
    """-servers: not only connecting may fail."""
    first, second = scripted({"": "421 4.3.2 not now"}), aiosmtpd()
    assert new_mailer(first.url, url(second)).send(note()).ok
    assert len(second.arrived) == 1


def test_ports_are_walked_in_tandem_with_servers(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """-ports: the second port belongs to the second server."""
    (closed,) = free_ports(1)
    server = aiosmtpd()
    mailer = new_mailer("127.0.0.1", "localhost", ports=[closed, server.port])
    assert mailer.send(note()).server == f"localhost:{server.port}"


@pytest.mark.parametrize(
    ("ports", "wanted"), [([2525], [2525, 25]), ([2525, 2526, 2527], [2525, 2526]), ([], [25, 25])]
)
def test_missing_ports_are_25_and_extra_ports_ignored(ports: list[int], wanted: list[int]) -> None:
    mailer = Mailer("one.example.com", "two.example.com", ports=ports, tls="opportunistic")
    assert [server.port for server in mailer.configuration.servers] == wanted


def test_client_name_stands_behind_ehlo(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """-client"""
    server = scripted()
    new_mailer(server.url, client_name="client.example.org").send(note())
    assert server.commands[0] == "EHLO client.example.org"


def test_nobody_looks_up_our_own_name(
    new_mailer: MakeMailer, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-client left out: the host name if it is fully qualified, else the address; never the resolver."""

    def slow(*_: object) -> str:
        raise AssertionError("a look-up on the sending path")

    monkeypatch.setattr(socket, "getfqdn", slow)
    monkeypatch.setattr(socket, "gethostbyaddr", slow)
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    server = scripted()
    new_mailer(server.url).send(note())
    assert server.commands[0] == "EHLO [127.0.0.1]"


def test_not_at_least_one_means_everybody_or_nobody(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """-atleastone 0: content is sent only if every recipient passed."""
    server = aiosmtpd(refused={BOB: "550 5.1.1 unknown"})
    with pytest.raises(RecipientsRefused):
        new_mailer(url(server), recipient_policy="all").send(note(to=[ANN, BOB]))
    assert server.arrived == []


def test_at_least_one_is_enough(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """-atleastone 1: one bad recipient does not sink the others."""
    server = aiosmtpd(refused={BOB: "550 5.1.1 unknown"})
    receipt = new_mailer(url(server), recipient_policy="any").send(note(to=[ANN, BOB, JOE]))
    assert [str(outcome.address) for outcome in receipt.accepted] == [ANN, JOE]
    assert server.arrived[0].recipients == (ANN, JOE)


def test_the_originator_overrides_from(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """-originator: the envelope's sender; From stays as written."""
    server = aiosmtpd()
    new_mailer(url(server)).send(note(), Envelope("bounces@example.org", [BOB]))
    assert server.arrived[0].sender == "bounces@example.org"
    assert parsed(server.arrived[0].content)["From"] == ANN


def test_an_empty_originator_is_the_null_reverse_path(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """-originator "": MAIL FROM:<>."""
    server = scripted()
    new_mailer(server.url).send(note(), Envelope("", [BOB]))
    assert "MAIL FROM:<>" in server.commands


def test_recipients_may_be_one_string_and_then_headers_are_not_examined(
    new_mailer: MakeMailer, aiosmtpd: Start
) -> None:
    """-recipients: one or more addresses, comma separated."""
    server = aiosmtpd()
    new_mailer(url(server)).send(note(to=[BOB], cc=["nobody@example.com"]), Envelope(ANN, f"Joe <{JOE}>, {ANN}"))
    assert server.arrived[0].recipients == (JOE, ANN)
    assert parsed(server.arrived[0].content)["To"] == BOB


def test_headers_may_be_repeated_and_keep_their_order(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """-header, given several times."""
    server = aiosmtpd()
    headers = [("X-Note", "one"), ("X-Other", "between"), ("X-Note", "two")]
    new_mailer(url(server)).send(note(headers=headers))
    arrived = parsed(server.arrived[0].content)
    assert [(name, value) for name, value in arrived.items() if name.startswith("X-")] == headers


def test_originator_and_recipients_come_from_the_headers(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """From; To, Cc, Bcc and Dcc."""
    server = aiosmtpd()
    message = EmailMessage()
    message["From"] = f"Ann <{ANN}>"
    message["To"] = f"Bob <{BOB}>, friends: {JOE}, zoe@example.com;"
    message["Cc"], message["Bcc"] = "cc@example.com", "bcc@example.com"
    message["Dcc"] = "dcc@example.com"
    message.set_content("Hello")
    new_mailer(url(server)).send(message)
    [mail] = server.arrived
    assert mail.sender == ANN
    assert mail.recipients == (BOB, JOE, "zoe@example.com", "cc@example.com", "bcc@example.com", "dcc@example.com")


def test_resent_headers_rule_where_there_are_any(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """Resent-From and Resent-To, Resent-Cc, Resent-Bcc; the original ones are only text then."""
    server = aiosmtpd()
    message = EmailMessage()
    message["Resent-From"], message["Resent-To"], message["Resent-Bcc"] = JOE, "zoe@example.com", "bcc@example.com"
    message["From"], message["To"] = ANN, BOB
    message.set_content("Hello")
    new_mailer(url(server)).send(message)
    [mail] = server.arrived
    assert (mail.sender, mail.recipients) == (JOE, ("zoe@example.com", "bcc@example.com"))
    assert "Resent-Bcc" not in parsed(mail.content)


def test_date_and_message_id_are_added_where_they_are_missing(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    server = aiosmtpd()
    mailer = new_mailer(url(server))
    receipt = mailer.send(note())
    mailer.send(note(headers={"Date": "Mon, 01 Jan 2024 00:00:00 +0000", "Message-ID": "<mine@example.org>"}))
    added, kept = (parsed(mail.content) for mail in server.arrived)
    assert added["Date"].datetime is not None
    assert added["Message-ID"] == receipt.message_id
    assert added["Message-ID"].endswith("@example.org>")
    assert (kept["Date"], kept["Message-ID"]) == ("Mon, 01 Jan 2024 00:00:00 +0000", "<mine@example.org>")


def test_sender_is_added_beside_several_authors_only(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """There it was also added where the originator differs, and showed bounce addresses to the reader."""
    server = aiosmtpd()
    mailer = new_mailer(url(server))
    mailer.send(note(from_=[ANN, JOE]))
    mailer.send(note(), Envelope("bounces@example.org", [BOB]))
    several, one = (parsed(mail.content) for mail in server.arrived)
    assert several["Sender"] == ANN
    assert one["Sender"] is None


def test_tls_is_used_if_it_is_offered(new_mailer: MakeMailer, aiosmtpd: Start, ca: Certificates) -> None:
    """-usetls: STARTTLS where there is one, and the mail goes out where there is none."""
    with_tls, without = aiosmtpd(tls="starttls"), aiosmtpd()
    for server in (with_tls, without):
        new_mailer(url(server), tls="opportunistic", ca_file=str(ca.ca_file)).send(note())
    assert [server.arrived[0].tls for server in (with_tls, without)] == [True, False]


def test_tls_from_the_first_byte(new_mailer: MakeMailer, aiosmtpd: Start, ca: Certificates) -> None:
    """-tlsimport"""
    server = aiosmtpd(tls="implicit")
    new_mailer(f"smtps://{server.host}:{server.port}", ca_file=str(ca.ca_file)).send(note())
    assert server.arrived[0].tls


CUT_OFF = {"EHLO": "250-mx.example.com\n250 STARTTLS", "STARTTLS": ("220 go ahead", CUT)}
TROUBLES: dict[str, tuple[dict[str, Any], Any]] = {
    "missing": ({"EHLO": "250 mx.example.com"}, TLSFailed),
    "refused": ({"EHLO": "250-mx.example.com\n250 STARTTLS", "STARTTLS": "454 4.7.0 not now"}, Reply),
    "cut": (CUT_OFF, TLSFailed),
}


@pytest.mark.parametrize("trouble", [*TROUBLES, "untrusted"])
def test_a_command_decides_what_follows_a_failed_tls_setup(
    new_mailer: MakeMailer, scripted: Scripted, aiosmtpd: Start, trouble: str
) -> None:
    """-tlspolicy: asked afresh for each server; "secure" goes to the next one, "insecure" on in clear."""
    kind: Any = TLSFailed
    first: Any
    second: Any
    if trouble == "untrusted":
        first, second = aiosmtpd(tls="starttls", certificate="expired"), aiosmtpd(tls="starttls", certificate="expired")
    else:
        answers, kind = TROUBLES[trouble]
        first, second = scripted(answers), scripted(answers)
    asked = []

    def policy(server: Server, trouble: Any) -> str:
        asked.append(server.port)
        assert isinstance(trouble, kind)
        return "secure" if server.port == first.port else "insecure"

    mailer = new_mailer(
        *(f"smtp://{server.host}:{server.port}" for server in (first, second)),
        tls="opportunistic",
        on_tls_failure=policy,
    )
    receipt = mailer.send(note())
    assert asked == [first.port, second.port]
    assert receipt.server == f"{second.host}:{second.port}"


def test_a_command_that_always_says_secure_sends_nothing(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """-tlspolicy: when there is no next server, the last failure is raised."""
    server = scripted({"EHLO": "250 mx.example.com"})
    with pytest.raises(TLSFailed):
        new_mailer(f"smtp://{server.name}", tls="opportunistic", on_tls_failure=lambda *_: "secure").send(note())
    assert server.handed_over == []


AUTH = {
    "EHLO": "250-mx.example.com\n250 AUTH LOGIN PLAIN CRAM-MD5",
    "AUTH CRAM-MD5": "535 5.7.8 no",
    "AUTH PLAIN": "504 5.5.4 no",
    "AUTH LOGIN": "235 2.7.0 welcome",
}


def test_the_most_secure_login_comes_first_and_each_is_tried(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """-username, -password: until one passes, or a password was refused."""
    server = scripted(AUTH)
    new_mailer(server.url, username="tim", password="tanstaaftanstaaf").send(note())
    tried = [line.split()[1] for line in server.commands if line.startswith("AUTH")]
    assert tried == ["CRAM-MD5", "PLAIN", "LOGIN"]
    assert len(server.handed_over) == 1


def test_a_refused_login_never_continues(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """There the mail was tried all the same."""
    server = scripted({**AUTH, "AUTH LOGIN": "535 5.7.8 no"})
    with pytest.raises(AuthenticationFailed):
        new_mailer(server.url, username="tim", password="tanstaaftanstaaf").send(note())
    assert not any(line.startswith("MAIL") for line in server.commands)


def test_login_comes_after_starttls(new_mailer: MakeMailer, aiosmtpd: Start, ca: Certificates) -> None:
    """-usetls with -username: what is offered counts after TLS."""
    server = aiosmtpd(tls="starttls", users={"ann": "secret"}, auth_required=True)
    new_mailer(url(server), ca_file=str(ca.ca_file), username="ann", password="secret").send(note())
    assert (server.arrived[0].login, server.arrived[0].tls) == ("ann", True)


def test_queued_where_xque_is_offered(new_mailer: MakeMailer) -> None:
    """-queue: QUED after EHLO, whatever is answered to it; else nothing."""
    for answer in ("250 ok", "500 what?"):
        with ScriptedServer(Play({"QUED": answer}, extensions=("XQUE",))) as server:
            assert new_mailer(server.url, xque=True).send(note()).ok
            assert [command.split(" ")[0] for command in server.commands[:3]] == ["EHLO", "QUED", "MAIL"]
    for offered, queue in (((), True), (("XQUE",), False)):
        with ScriptedServer(Play(extensions=offered)) as server:
            assert new_mailer(server.url, xque=queue).send(note()).ok
            assert "QUED" not in server.commands


def test_the_result_is_a_list_of_unacceptable_recipients(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """{address code diagnostic}, for refused and deferred ones; empty where everybody was accepted."""
    server = aiosmtpd(refused={BOB: "550 5.1.1 unknown", JOE: "450 4.2.1 later"})
    mailer = new_mailer(url(server))
    assert mailer.send(note(to=[ANN])).unacceptable() == []
    receipt = mailer.send(note(to=[ANN, BOB, JOE]))
    assert receipt.unacceptable() == [(BOB, 550, "unknown"), (JOE, 450, "later")]
    assert [str(outcome.address) for outcome in receipt.rejected] == [BOB]
    assert [str(outcome.address) for outcome in receipt.deferred] == [JOE]


def test_bcc_and_dcc_are_stripped_and_all_get_the_same_message(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """Bcc, Dcc: one transaction. There, Bcc people got a second message that wrapped it in a digest."""
    server = aiosmtpd()
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = ANN, BOB, JOE
    message["Dcc"] = "dcc@example.com"
    message.set_content("Hello")
    mailer = new_mailer(url(server))
    mailer.send(message)
    mailer.send(note(bcc=[JOE], headers={"Dcc": "dcc@example.com"}))
    assert len(server.arrived) == 2
    for mail in server.arrived:
        assert mail.recipients == (BOB, JOE, "dcc@example.com")
        assert not {"bcc", "dcc"} & {name.lower() for name in parsed(mail.content)}
        assert b"dcc@example.com" not in mail.content
        assert JOE.encode() not in mail.content


def test_digest_md5_logs_in(new_mailer: MakeMailer, sasl_postfix: Postfix) -> None:
    """-username, -password with DIGEST-MD5, at a real server."""
    postfix = sasl_postfix
    mailer = new_mailer(
        f"smtp://{postfix.host}:{postfix.starttls_port}",
        tls="required",
        ca_file=str(postfix.ca_file),
        username=postfix.user,
        password=postfix.password,
        auth_mechanisms=["DIGEST-MD5"],
    )
    assert mailer.send(note()).ok
