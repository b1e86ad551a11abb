from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import tally
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim
from tests.servers.postfix import EVERY_MECHANISM, Postfix
from tests.servers.postgresql import Postgresql
from tests.servers.tls import Certificates

# A test that fails by chance is none: a busy machine is slow, and `make fuzz` alone tries other examples in every run
settings.register_profile(
    "repeatable",
    derandomize=os.environ.get("SMTPBACKEND_FUZZ", "1") == "1",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

pytest_plugins = ["smtpbackend.testing"]  # gives smtp_server


@pytest.fixture(autouse=True)
def nothing_was_logged() -> None:
    """What is logged once a process, or once a minute, is logged anew in each test."""
    from smtpbackend import receivers
    from smtpbackend.delivery import alarm

    receivers.logged.clear()
    alarm.last_logged.clear()


def missing_server(reason: str) -> None:
    """Skip the test, or fail it where every server must be there."""
    if os.environ.get("SMTPBACKEND_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority made for this run, and what it signed."""
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def running_postfix(ca: Certificates) -> Iterator[Postfix]:
    """One Postfix for the run."""
    if reason := Postfix.missing():
        missing_server(reason)
    with Postfix(ca) as server:
        yield server


@pytest.fixture
def postfix(running_postfix: Postfix) -> Postfix:
    """The Postfix of this run, with an empty mailbox."""
    running_postfix.clear()
    return running_postfix


@pytest.fixture(scope="session")
def running_sasl_postfix(ca: Certificates) -> Iterator[Postfix]:
    """One more Postfix for the run."""
    if reason := Postfix.missing():
        missing_server(reason)
    with Postfix(ca, mechanisms=EVERY_MECHANISM) as server:
        yield server


@pytest.fixture
def sasl_postfix(running_sasl_postfix: Postfix) -> Postfix:
    """A Postfix with every mechanism of Cyrus SASL, with an empty mailbox."""
    running_sasl_postfix.clear()
    return running_sasl_postfix


@pytest.fixture(scope="session")
def running_dovecot(ca: Certificates, running_postfix: Postfix) -> Iterator[Dovecot]:
    """One Dovecot for the run, which relays to its Postfix."""
    if reason := Dovecot.missing():
        missing_server(reason)
    with Dovecot(ca, running_postfix) as server:
        yield server


@pytest.fixture
def dovecot(running_dovecot: Dovecot) -> Dovecot:
    """The Dovecot of this run, with empty mailboxes; `postfix` is what it relays to."""
    running_dovecot.clear()
    return running_dovecot


@pytest.fixture(scope="session")
def running_exim(ca: Certificates) -> Iterator[Exim]:
    """One Exim for the run."""
    if reason := Exim.missing():
        missing_server(reason)
    with Exim(ca) as server:
        yield server


@pytest.fixture
def exim(running_exim: Exim) -> Exim:
    """The Exim of this run, with an empty mailbox."""
    running_exim.clear()
    return running_exim


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """The PostgreSQL of this run. A test makes its own database, and starts it again if it has stopped it."""
    if reason := Postgresql.missing():
        missing_server(reason)
    with Postgresql() as server:
        yield server


@pytest.fixture
def aiosmtpd(ca: Certificates) -> Iterator[Callable[..., AiosmtpdServer]]:
    """Start an aiosmtpd, which stops with the test: `aiosmtpd(tls="starttls", users={"ann": "secret"})`."""
    with ExitStack() as servers:

        def start(**options: Any) -> AiosmtpdServer:
            return servers.enter_context(AiosmtpdServer(ca, **options))

        yield start


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    from tests.sharing import Sharing

    return Sharing(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, if one did, what is to be told at the end."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["tally"] = tally.taken()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear it there. A process that crashed tells nothing."""
    if told := getattr(node, "workeroutput", {}).get("tally"):
        tally.add(told)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tally.tell(terminalreporter)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    real = {
        *("running_postfix", "running_sasl_postfix", "running_dovecot", "running_exim", "running_mortal_postfixes"),
        "postgresql",
    }
    for item in items:
        if real.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)
