"""What is sent arrives as it was sent: through every server, in every TLS mode, with every login, by both mailers."""

from __future__ import annotations

import os
import re
import smtplib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from smtpbackend import Receipt, Server
from smtpbackend.delivery.server import from_url
from smtpbackend.errors import NotSupported
from tests.interoperability import matrix
from tests.interoperability.matrix import AS_SENT, Cell, Offer
from tests.interoperability.samples import SENDER, Sample, fields_of, parsed, samples, tree_of
from tests.mailer.twins import AsyncioTwin, BlockingTwin
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.mailbox import ArrivedMail
from tests.servers.tls import Certificates

pytestmark = pytest.mark.servers

# What servers change in a mail, and why: (server, what and why). Nothing so far: the servers of the tests are set up
# to leave mail as it is, and no sample lacks a field that a server would have to add.
CHANGES: tuple[tuple[str, str], ...] = ()

# Connections that send at the same time
AT_ONCE = 8

TwinKind = type[BlockingTwin] | type[AsyncioTwin]


class Aiosmtpds:
    """An aiosmtpd for each way of TLS, as one server with three ports."""

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        self.host, self.user, self.password = "127.0.0.1", "user@lab", "secret"
        self.ca_file, self.certificates = certificates.ca_file, certificates
        common: dict[str, Any] = {
            "users": {self.user: self.password},
            "refused": {"rejected@example.com": "550 5.1.1 User unknown"},
        }
        plain = stack.enter_context(AiosmtpdServer(certificates, auth_in_clear=True, **common))
        starttls = stack.enter_context(AiosmtpdServer(certificates, tls="starttls", **common))
        implicit = stack.enter_context(AiosmtpdServer(certificates, tls="implicit", **common))
        self.servers = (plain, starttls, implicit)
        self.plain_port, self.starttls_port, self.tls_port = (server.port for server in self.servers)

    def clear(self) -> None:
        for server in self.servers:
            server.clear()


@pytest.fixture(scope="module")
def running_aiosmtpd(ca: Certificates) -> Iterator[Aiosmtpds]:
    with ExitStack() as stack:
        yield Aiosmtpds(ca, stack)


def extensions(server: Any, offer: Offer, mode: str) -> dict[str, str]:
    """What it offers once TLS is as in that mode, asked by smtplib."""
    where = getattr(server, offer.ports[mode])
    context = server.certificates.client_context()
    if offer.scheme.startswith("lmtp"):
        host, port = (str(where), 0) if offer.scheme.endswith("+unix") else (server.host, where)
        client: smtplib.SMTP = smtplib.LMTP(host, port, "c.example")
        client._host = "localhost"  # type: ignore[attr-defined]
    elif mode == "implicit":
        client = smtplib.SMTP_SSL(server.host, where, "c.example", timeout=20, context=context)
    else:
        client = smtplib.SMTP(server.host, where, "c.example", timeout=20)
    with client:
        client.ehlo()
        if mode in ("opportunistic", "required"):
            client.starttls(context=context)
            client.ehlo()
        return dict(client.esmtp_features)


def ours(server: Any, offer: Offer, cell: Cell) -> Server:
    """The server as our settings say it."""
    where = getattr(server, offer.ports[cell.mode])
    address = str(where) if offer.scheme.endswith("+unix") else f"{server.host}:{where}"
    settings: dict[str, Any] = {"tls": cell.mode, "ca_file": str(server.ca_file), "timeout": 20}
    if cell.login is not None:
        settings.update(auth_mechanisms=cell.login, username=server.user)
    if cell.login == "EXTERNAL":
        certificates = server.certificates
        settings.update(client_cert=str(certificates.client_cert), client_key=str(certificates.client_key))
    elif cell.login in ("OAUTHBEARER", "XOAUTH2"):
        settings.update(token=server.token)
    elif cell.login is not None:
        settings.update(password=server.password)
    return from_url(f"{offer.scheme}://{address}", settings)


class Copy(NamedTuple):
    """What one recipient got."""

    sender: str
    recipient: str
    content: bytes
    tls: bool
    login: bool

    @property
    def message_id(self) -> str:
        found = re.search(rb"(?im)^Message-ID: (\S+)", self.content)
        assert found is not None
        return found[1].decode()


def copies(server: Any, offer: Offer, expected: int) -> Iterator[Copy]:
    """All that arrived, once so many are there."""
    if isinstance(server, Aiosmtpds):
        for one in server.servers:
            for arrived in one.arrived:
                for recipient in arrived.recipients:
                    yield Copy(arrived.sender, recipient, arrived.content, arrived.tls, arrived.login == server.user)
        return
    mails: list[ArrivedMail] = (server.lmtp_mail if offer.scheme.startswith("lmtp") else server.mail)(expected)
    for mail in mails:
        # RFC 3848, RFC 6531 4.3
        protocol = re.search(r"(?i)\bwith (?:UTF8)?(?:E?SMTP|LMTP)(S?)(A?)\b", mail.received)
        assert protocol is not None, mail.received
        yield Copy(mail.return_path, mail.delivered_to, mail.content, bool(protocol[1]), bool(protocol[2]))


def check_receipt(sample: Sample, receipt: Receipt) -> None:
    assert receipt.error is None
    assert {str(outcome.address) for outcome in receipt.accepted} == set(sample.to)
    assert {str(outcome.address) for outcome in receipt.rejected} == set(sample.refused)
    for outcome in receipt.rejected:
        assert outcome.reply is not None
        assert (outcome.reply.code, outcome.reply.enhanced) == (550, (5, 1, 1))


def check_content(sample: Sample, content: bytes) -> None:
    message = parsed(content)
    assert fields_of(message) == sample.fields
    assert tree_of(message) == sample.tree
    if sample.octets is not None:
        assert content == sample.octets


def tag_of(cell: Cell, twin_kind: TwinKind) -> str:
    """Stands in the identifier of each message, and says from where it came."""
    return re.sub(r"\W+", "-", f"{cell}-{twin_kind.name}")


def send(server: Any, offer: Offer, cell: Cell, twin_kind: TwinKind) -> list[tuple[Sample, Receipt]]:
    """Send the ten over one connection."""
    tried = samples(tag_of(cell, twin_kind))
    twin = twin_kind()
    try:
        mailer = twin(ours(server, offer, cell))
        receipts = mailer.send_many([sample.make() for sample in tried])
        assert mailer.connect() is False  # all went over one connection, which is there yet
    finally:
        twin.close()
    return list(zip(tried, receipts, strict=True))


def check(cell: Cell, has: dict[str, str], sent: list[tuple[Sample, Receipt]], arrived: list[Copy]) -> dict[str, str]:
    """One copy for each recipient, and each as it was sent. Returns what became of each sample."""
    became = {}
    for sample, receipt in sent:
        found = [copy for copy in arrived if copy.message_id == sample.message_id]
        if sample.needs is not None and sample.needs.lower() not in has:
            assert isinstance(receipt.error, NotSupported)
            assert found == []
            became[sample.name] = f"refused: no {sample.needs}"
            continue
        check_receipt(sample, receipt)
        assert sorted(copy.recipient for copy in found) == sorted(sample.to)
        for copy in found:
            check_content(sample, copy.content)
            assert (copy.sender, copy.tls, copy.login) == (SENDER, cell.mode != "none", cell.login is not None)
        became[sample.name] = AS_SENT
    return became


class Experiments:
    """All that one server is tried with goes at once: that takes less time than to wait for each."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._done: dict[tuple[Cell, str], dict[str, str] | Exception] = {}

    def become(self, offer: Offer, cell: Cell, twin_kind: TwinKind) -> dict[str, str]:
        """What became of each sample; raises what went wrong with this cell."""
        if (cell, twin_kind.name) not in self._done:
            self._try(offer)
        became = self._done[cell, twin_kind.name]
        if isinstance(became, Exception):
            raise became
        return became

    def _chosen(self, offer: Offer) -> list[tuple[Cell, TwinKind]]:
        every = (getattr(getattr(item, "callspec", None), "params", {}) for item in self._request.session.items)
        return [
            (chosen["cell"], chosen["twin_kind"])
            for chosen in every
            if chosen.get("offer") is offer and matrix.missing_library(chosen["cell"].login) is None
        ]

    def _try(self, offer: Offer) -> None:
        server = self._request.getfixturevalue(offer.fixture)
        server.clear()
        chosen = self._chosen(offer)
        has = {mode: extensions(server, offer, mode) for mode in {cell.mode for cell, _ in chosen}}
        for found in has.values():
            assert set(found.get("auth", "").split()) == set(offer.mechanisms)  # none is left out of the matrix
        with ThreadPoolExecutor(AT_ONCE) as pool:
            under_way = [(cell, kind, pool.submit(send, server, offer, cell, kind)) for cell, kind in chosen]
        expected = sum(
            len(receipt.accepted)
            for _, _, sending in under_way
            if sending.exception() is None
            for _, receipt in sending.result()
        )
        arrived = defaultdict(list)
        for copy in copies(server, offer, expected):
            arrived[copy.message_id.partition(".")[2].partition("@")[0]].append(copy)
        assert set(arrived) <= {tag_of(cell, kind) for cell, kind in chosen}
        for cell, kind, sending in under_way:
            try:
                became = check(cell, has[cell.mode], sending.result(), arrived[tag_of(cell, kind)])
                self._done[cell, kind.name] = became
            except Exception as error:
                self._done[cell, kind.name] = error


@pytest.fixture(scope="module")
def experiments(request: pytest.FixtureRequest) -> Experiments:
    return Experiments(request)


@pytest.mark.exhaustive
@pytest.mark.parametrize("twin_kind", [BlockingTwin, AsyncioTwin], ids=matrix.TWINS)
@pytest.mark.parametrize(("offer", "cell"), [pytest.param(*pair, id=str(pair[1])) for pair in matrix.cells()])
def test_ten_messages_arrive_as_sent(experiments: Experiments, offer: Offer, cell: Cell, twin_kind: TwinKind) -> None:
    if library := matrix.missing_library(cell.login):
        pytest.skip(f"{cell.login} needs {library}")
    matrix.FOUND[cell, twin_kind.name] = experiments.become(offer, cell, twin_kind)


def test_the_page_says_what_was_found() -> None:
    """`make interop` writes docs/interoperability.md."""
    if not matrix.is_complete():
        pytest.skip("not every cell of the matrix was tried")
    found = matrix.page(CHANGES)
    if os.environ.get("SMTPBACKEND_WRITE_INTEROPERABILITY") == "1":
        matrix.PAGE.write_text(found, encoding="utf-8")
    assert matrix.PAGE.read_text(encoding="utf-8") == found, "run `make interop`"
