"""Logging in by a SASL mechanism of your own: write it as an `Exchange`, then `register` it.

    from smtpbackend.sasl import Credentials, Exchange, Mechanism, register

    def trace(credentials: Credentials) -> Exchange:
        yield credentials.username.encode()

    register(Mechanism("X-TRACE", trace, in_clear=False, needs=""))

docs/howto/sasl-mechanism.md has a mechanism that answers challenges.
"""

from smtpbackend.protocol.effects import Channel
from smtpbackend.protocol.mechanisms import register, unregister
from smtpbackend.protocol.sasl import Credentials, Exchange, Long, Mechanism, Refused

__all__ = ["Channel", "Credentials", "Exchange", "Long", "Mechanism", "Refused", "register", "unregister"]
