"""Whether a message may begin on a server now: as the server's ``rate`` and the caller's ``pace`` and ``holds`` say.

Decisions only: what is asked and waited for are effects of ``asks.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smtpbackend.delivery.asks import GONE, Effects, Holds, Pace, Reserve, Sleep
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.server import Server
from smtpbackend.errors import DeliveryError, SMTPError, TimedOut
from smtpbackend.protocol.effects import LATER

__all__ = ["Pacing"]

LONGEST = 1e9  # seconds: a longer wait is a mistake


class Pacing:
    """The limits of one delivery. ``clock`` gives seconds of a monotonic clock."""

    def __init__(self, caller: Caller, clock: Callable[[], float]) -> None:
        self.caller = caller
        self.clock = clock
        self.asks_the_caller = caller.pace is not None or caller.holds is not None

    def admit(self, mail: Mail, server: Server, patient: bool) -> Effects:
        """True: the message may begin. LATER: not yet, and one that is not ``patient`` does not wait here.

        `GONE`: the stream was left. Else the error by which the message is deferred.
        """
        answer: Any = True
        if self.caller.pace is not None:
            answer = yield from self._keep_pace(mail, server, patient)
        if answer is True and server.rate is not None:
            answer = yield from self._keep_rate(mail, server, patient)
        if answer is True and self.caller.holds is not None:
            held = yield Holds(mail.message)
            if isinstance(held, Exception) or not held:
                return DeliveryError(
                    f"the message is not sent by this delivery any more: holds() answered {_shown(held)}"
                )
        return answer

    def _keep_pace(self, mail: Mail, server: Server, patient: bool) -> Effects:
        """``pace`` is asked once for each transaction, and its answer holds for this server alone."""
        if mail.reserved is None or mail.reserved[0] is not server:
            seconds = yield Reserve(server.name, 1)
            if not isinstance(seconds, int | float) or not 0 <= seconds < LONGEST:
                return DeliveryError(f"pace() answered {_shown(seconds)}, and not how many seconds to wait")
            mail.reserved = server, self.clock() + seconds
        until = mail.reserved[1]
        if self.clock() >= until:
            return True
        return (yield from self._wait(mail, until, patient, server, "as pace() says"))

    def _keep_rate(self, mail: Mail, server: Server, patient: bool) -> Effects:
        answer: Any = True
        while answer is True and (seconds := (yield Pace(server))):
            until = self.clock() + seconds
            answer = yield from self._wait(
                mail, until, patient, server, f"see {server.spelling('rate')} ({server.rate:g} a second)"
            )
        return answer

    def _wait(self, mail: Mail, until: float, patient: bool, server: Server, why: str) -> Effects:
        if not patient:
            return LATER
        if mail.deadline is not None and until > mail.deadline:
            late = f"the deadline passes before {server.name} may be sent another message; {why}"
            error: SMTPError = TimedOut(late, server=server.name)
            return mail.error or error
        return GONE if (yield Sleep(until)) is GONE else True


def _shown(answer: Any) -> str:
    """An answer of the caller's own function, for an error."""
    try:
        return repr(answer)
    except Exception:
        return f"a {type(answer).__name__}"
