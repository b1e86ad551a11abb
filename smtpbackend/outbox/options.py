"""The options of an outbox, which each framework spells in its own way."""

from __future__ import annotations

import math
from typing import Any

from smtpbackend.errors import InvalidSetting
from smtpbackend.text import nearest
from smtpbackend.values import Value

__all__ = ["Options"]

DAY = 86400.0
WINDOW = 32  # entries in hand for each connection: enough to keep one busy that is 20 ms away


class Options(Value):
    """How the outbox of one mailer works. Times are in seconds.

    ``worker``: "process" (each process delivers what it enqueues) or "none" (only ``outbox run`` delivers).
    ``connections``: how many a process has to the servers at a time. ``window``: how many entries it has in hand over
    all of them, claimed and not yet recorded: a kill repeats at most so many; None: 32 for each connection.
    ``expires``: how long mail is tried. ``retry_in_doubt``: how often a mail is sent again that was handed over without
    an answer. ``keep``: how long finished entries are listed; ``keep_failed``: how long the content is kept of those
    that did not reach everybody.
    ``environment``: the name of this copy of the database; "" stands for its address.
    """

    worker: str
    window: int
    connections: int
    expires: float
    retry_in_doubt: int
    keep: float
    keep_failed: float
    environment: str

    def __init__(
        self,
        worker: str = "process",
        window: int | None = None,
        connections: int = 1,
        expires: float = 3 * DAY,
        retry_in_doubt: int = 2,
        keep: float = 30 * DAY,
        keep_failed: float = 7 * DAY,
        environment: str = "",
    ) -> None:
        if worker not in ("process", "none"):
            raise InvalidSetting(f"worker must be 'process' or 'none', not {worker!r}", field="worker")
        _check_number("connections", connections, 1, whole=True)
        if window is None:
            window = WINDOW * connections
        _check_number("window", window, 1, whole=True)
        _check_number("retry_in_doubt", retry_in_doubt, 0, whole=True)
        for name, seconds in (("expires", expires), ("keep", keep), ("keep_failed", keep_failed)):
            _check_number(name, seconds, 1 if name == "expires" else 0)
        if not isinstance(environment, str) or len(environment) > 255 or not environment.isprintable():
            raise InvalidSetting("environment must be at most 255 printable characters", field="environment")
        put = self.__dict__  # past `__setattr__`, which refuses
        put["worker"] = worker
        put["window"] = window
        put["connections"] = connections
        put["expires"] = float(expires)
        put["retry_in_doubt"] = retry_in_doubt
        put["keep"] = float(keep)
        put["keep_failed"] = float(keep_failed)
        put["environment"] = environment

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """The options of a mapping without those that are None. Raises `InvalidSetting`, also for an unknown name."""
        for name in given:
            if name not in cls._fields:
                meant = nearest(str(name), cls._fields)
                raise InvalidSetting(
                    f"unknown option {name!r} of the outbox" + (f"; did you mean {meant!r}?" if meant else ""),
                    field=str(name),
                )
        return cls(**{name: value for name, value in given.items() if value is not None})


def _check_number(name: str, value: Any, least: float, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
        what = "a whole number" if whole else "a number of seconds"
        raise InvalidSetting(f"{name} must be {what} of at least {least}, not {value!r}", field=name)
