"""A mailer's settings are the defaults of a `Server`, too, whatever that fills in by itself."""

from __future__ import annotations

from smtpbackend import Mailer, Server


def test_tls_required_of_the_mailer_holds_for_a_server_that_leaves_it_open() -> None:
    """On loopback it would be opportunistic: a weaker setting than the one that was asked for."""
    (server,) = Mailer(Server("localhost"), tls="required").configuration.servers
    assert (server.tls, server.port) == ("required", 587)


def test_what_a_server_says_itself_stands() -> None:
    """Even where it is what would have been filled in."""
    (server,) = Mailer(Server("localhost", tls="opportunistic", port=25), tls="required").configuration.servers
    assert (server.tls, server.port) == ("opportunistic", 25)


def test_a_port_follows_from_the_credentials_of_the_mailer() -> None:
    """25 was filled in before they were known."""
    (server,) = Mailer(Server("localhost"), username="ann", password="secret").configuration.servers
    assert server.port == 587
