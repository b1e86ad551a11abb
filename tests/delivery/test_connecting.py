"""`is_crowd`: which reply says that there are too many connections; and what follows where no turn came."""

from __future__ import annotations

import pytest

from smtpbackend import Reply
from smtpbackend.delivery.asks import Lease, Release, Talk
from smtpbackend.delivery.connecting import is_crowd
from smtpbackend.errors import TimedOut, TLSFailed
from smtpbackend.protocol.reply import ReplyReader
from tests.delivery.played import Played


def reply(text: str) -> Reply:
    replies = ReplyReader()
    replies.feed(text.encode() + b"\r\n")
    found = replies.next()
    assert found is not None
    return found


@pytest.mark.parametrize(
    "said",
    [
        "432 4.3.2 Concurrent connections limit exceeded. Visit https://example.com/concurrent for more",
        "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
        "421 4.3.2 The maximum number of concurrent server connections has exceeded a limit",
        "421 4.3.2 Connection rate limit exceeded.",
        "421 4.3.2 Service not available",
        "421 4.7.0 mx.example.com Error: too many connections from 192.0.2.1",
        "421 Too many concurrent SMTP connections; please try again later.",
        "421-Too many concurrent SMTP\r\n421 connections from this IP address",
        "421 4.7.0 Too many open connections.",
        "450 4.7.1 Too many sessions opened",
        "421 Maximum number of connections from user+IP exceeded",
        "421 connection concurrency limit exceeded",
        "451 Concurrent connections limit exceeded",
        "421 4.3.0 All server ports are busy",
    ],
)
def test_it_is_told_by_code_or_by_text(said: str) -> None:
    assert is_crowd(reply(said))


@pytest.mark.parametrize(
    "said",
    [
        "421 4.7.0 Try again later, closing connection.",
        "421 4.7.0 too many messages in this connection",
        "421 4.7.0 mx.example.com Error: too many errors",
        "450 4.7.1 message limit per connection reached",
        "421 Max message per connection reached, closing transmission channel",
        "452 4.5.3 Too many recipients",
        "452 4.5.3 too many recipients in this session",
        "454 4.7.0 Too many login attempts, please try again later",
        "432 4.7.12 A password transition is needed",
        "451 4.3.2 Please try again later",
        "554 5.7.1 too many connections from your network",
        "554 5.3.2 not now",
        "250 2.0.0 too many connections, but this one is welcome",
    ],
)
def test_and_nothing_else_is(said: str) -> None:
    """A text counts in a transient reply only, and "421 4.7.0" alone says nothing."""
    assert not is_crowd(reply(said))


def test_that_no_turn_came_is_no_failure_of_the_server() -> None:
    """DESIGN 4.4, whatever was said before: TLS failed on the first connection, and the second waits for its turn."""
    world = Played({"a": [{}]})
    [server] = world.servers
    connecting = world.dispatch().connect(server, False, None, ())
    assert isinstance(next(connecting), Lease)
    connection = world._lease(server, False)
    connection.session.may_go_on_in_clear = True
    assert isinstance(connecting.send(connection), Talk)
    assert isinstance(connecting.throw(TLSFailed("no cipher in common", server=server.name)), Release)
    assert isinstance(connecting.send(False), Lease)
    with pytest.raises(StopIteration) as stop:
        connecting.throw(TimedOut("no turn", server=server.name))
    assert stop.value.value is None
    assert world.names() == []
    assert not world.route.is_resting(server, world.now)
