"""What was learnt of servers: how much they take, and what is not tried on them again."""

from __future__ import annotations

from typing import Any

from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.probing import takes_probe
from smtpbackend.delivery.server import Server
from smtpbackend.protocol.effects import Conversation
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.protocol.transaction_steps import PROBE_PATIENCE

__all__ = ["Experience"]

AN_HOUR = 3600.0  # seconds: the cause may have been the network, so it is tried again then
FOR_GOOD = float("inf")  # seconds: for as long as the process lives
PROBE_TIME = 3 * PROBE_PATIENCE  # seconds to the deadline: a probe may use some, and a connection in its place
NO_BDAT = (500, 502)  # RFC 5321 4.2.2: the command is not known, or not implemented


class Experience:
    """What a mailer's servers have shown. ``now`` is in seconds, of any monotonic clock.

    Shared by threads: each method reads or replaces single entries, so that none needs a lock.
    """

    def __init__(self) -> None:
        self._avoided: dict[tuple[Server, str], float] = {}
        self._ended_at: dict[Server, int] = {}
        self._most: dict[Server, tuple[int, float]] = {}

    def allows(self, server: Server, what: str, now: float) -> bool:
        """Whether a server may be given "groups" of commands, or asked for the proof of a "window" or of "chunks"."""
        return not self._avoided or self._avoided.get((server, what), 0.0) <= now

    def avoid(self, server: Server, what: str, now: float, seconds: float = AN_HOUR) -> None:
        """Note that it failed on a connection (DESIGN 5.1, 5.2), so that it is tried on no other for a while."""
        self._avoided[server, what] = now + seconds

    def deliver(
        self, connection: Connection[Any], policy: str, is_list: bool, deadline: float | None, now: float
    ) -> Conversation[None]:
        """The conversation that delivers on a connection, without what went wrong on its server before.

        ``is_list``: more than one message is to go; ``deadline`` is that of the first.
        """
        server, session = connection.server, connection.session
        window, probe_from = server.window, None
        in_lock_step = False
        if self._avoided:
            in_lock_step = not self.allows(server, "groups", now)
            window = window if self.allows(server, "window", now) else 1
        if self._most:
            most, until = self._most.get(server, (0, 0.0))
            connection.max_messages = min(connection.max_messages, most) if until > now else connection.max_messages
        has_time = deadline is None or deadline - now > PROBE_TIME
        if has_time and session.history.discards is None and "CHUNKING" in session.capabilities:
            probe_from = (1 if is_list else 2) if self.may_probe(server, session, now) else None
        return session.deliver(policy, window, probe_from, in_lock_step)

    def may_probe(self, server: Server, session: Session, now: float) -> bool:
        """Whether a server may be asked for the proof that it discards a refused chunk (DESIGN 5.1)."""
        if server.chunk_in_flight == "never" or not self.allows(server, "chunks", now):
            return False
        return server.chunk_in_flight == "probe" or takes_probe(session.greeting, session.capabilities)

    def found_limit(self, connection: Connection[Any], transaction: Transaction) -> bool:
        """Whether the server ended this connection at its MAIL, and the last one at the same number of messages.

        Then the reason is that number, and not this message.
        """
        number = transaction.number
        return transaction.mail is None and number > 1 and self._ended_at.get(connection.server) == number

    def learn(self, connection: Connection[Any], now: float) -> None:
        """Remember what a server did not survive, or did not do well, and where it ends connections.

        A server that ended two at the same number of messages has a limit (DESIGN 4.4).
        """
        history, server = connection.session.history, connection.server
        is_talkative = connection.session.line.is_talkative
        if history.probing or history.probed_slowly or history.discards is False or is_talkative:
            self.avoid(server, "chunks", now, FOR_GOOD)
        if history.overlapping or is_talkative:
            self.avoid(server, "window", now)
        if history.mixes_up:
            self.avoid(server, "groups", now)
        number = history.ended_at
        if number is not None:
            if number > 1 and self._ended_at.get(server) == number:
                self._most[server] = number - 1, now + AN_HOUR
            self._ended_at[server] = number

    def wants_data(self, connection: Connection[Any], transaction: Transaction, now: float) -> bool:
        """Whether a chunk was refused as if the server could not do BDAT: the same content goes again by DATA.

        A 4xx may also be about the message, and then the message must not go twice each time that it is tried. So only
        the first one of each server counts.
        """
        server, final = connection.server, transaction.final
        if not transaction.is_chunked or final is None or transaction.error is not None:
            return False
        if final.code not in NO_BDAT and not (final.is_transient and self.allows(server, "chunks", now)):
            return False
        connection.session.history.discards = False
        self.avoid(server, "chunks", now, FOR_GOOD)
        return True
