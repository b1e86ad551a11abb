"""Servers for these tests: scripted ones, and two that they may kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import missing_server
from tests.mailer.conftest import scripted as scripted
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates

Two = tuple[Postfix, Postfix]


@pytest.fixture(scope="session")
def running_mortal_postfixes(ca: Certificates) -> Iterator[Two]:
    """Two more for the run."""
    if reason := Postfix.missing():
        missing_server(reason)
    with Postfix(ca) as one, Postfix(ca) as other:
        yield one, other


@pytest.fixture
def mortal_postfixes(running_mortal_postfixes: Two) -> Two:
    """Two that may be killed: they run, and their mailboxes are empty."""
    for server in running_mortal_postfixes:
        server.start()
        server.clear()
    return running_mortal_postfixes
