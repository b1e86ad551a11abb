"""The message is told from the fields that each server put before it."""

from __future__ import annotations

import pytest

from tests.servers.mailbox import ArrivedMail

SENT = b"Received: from before\r\nReceived: from long before\r\n\tfolded\r\nSubject: x\r\n\r\nbody\r\n"
POSTFIX = b"Return-Path: <>\nX-Original-To: a@b\nDelivered-To: a@b\nReceived: from us\n\tby us; today\n"
EXIM = b"Return-path: <>\nEnvelope-to: a@b\nDelivery-date: today\nReceived: from us\n\tby us; today\n"


@pytest.mark.parametrize("before", [POSTFIX, EXIM])
def test_only_the_trace_fields_of_the_server_are_taken_off(before: bytes) -> None:
    mail = ArrivedMail(before + SENT.replace(b"\r\n", b"\n"))
    assert mail.content == SENT
    assert (mail.return_path, mail.delivered_to, mail.received) == ("", "a@b", "from us by us; today")


def test_two_servers_and_a_mailbox_that_tells_the_recipient() -> None:
    mail = ArrivedMail(POSTFIX + b"Received: from the client\n" + SENT.replace(b"\r\n", b"\n"), 2, "c@d")
    assert mail.content == SENT
    assert (mail.delivered_to, mail.received) == ("c@d", "from the client")
