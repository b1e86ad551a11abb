"""How Listeners and receivers of signals are called, so that none can harm a delivery or another receiver.

- A receiver is not called from inside of itself, for mail that it sends or that the handler of its log sends. Inside
  means in its context (``contextvars``): its thread, its task, and what it starts with a copy of that context, such as
  tasks and `asyncio.to_thread`. Other threads are outside.
- Receivers inside of receivers are called to a depth of `DEEPEST`: else those that log errors by mail would call each
  other in every order. Receivers that may cancel a message are called at any depth.
- An error of a receiver is logged once for each receiver and class of error, and so is a call that was left out. The
  receiver is known by its place in the code: it may be connected anew for each request.

Logger ``smtpbackend.receivers`` logs an error at ERROR and a call left out at WARNING.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from logging import ERROR, WARNING
from types import CoroutineType, FunctionType, MethodType, TracebackType
from typing import Any

from smtpbackend.errors import CancelSend
from smtpbackend.logs import log

__all__ = ["Call", "begin", "call"]

LOGGER = "smtpbackend.receivers"
DEEPEST = 2  # receivers inside of each other: others hear of the mail that one sends
MOST = 1000  # receivers and classes of errors that are remembered: a class may be made for each error
CANCELS = "message_sending"  # the event whose receivers may raise `CancelSend`

_inside: ContextVar[tuple[Any, ...]] = ContextVar("smtpbackend_receivers", default=())
logged: dict[tuple[str, str], object] = {}


def call(receiver: Callable[..., Any], event: str, /, *args: Any, **fields: Any) -> None:
    """Call a receiver of ``event``, unless this is inside of it. Raises `CancelSend` before a message, and no other."""
    if (begun := begin(receiver, event)) is None:
        return
    with begun:
        result = receiver(*args, **fields)
        if type(result) is CoroutineType:
            result.close()
            raise TypeError("it is a coroutine function, which cannot be awaited here")


def begin(receiver: Callable[..., Any], event: str) -> Call | None:
    """The context manager in which to call a receiver, or None where it must not be called.

    One whose class has a true ``is_reentrant`` is always called: it calls others, each of them by this function.
    """
    inside = _inside.get()
    if getattr(type(receiver), "is_reentrant", False):
        return Call(receiver, event, inside, inside)
    if inside:
        this = _identity(receiver)
        runs = any(_identity(other) == this for other in inside)
        if runs or (len(inside) >= DEEPEST and event != CANCELS):
            why = "it runs already" if runs else "receivers call each other already"
            _log_once(WARNING, "smtpbackend.receiver_skipped", receiver, event, why)
            return None
    return Call(receiver, event, inside, (*inside, receiver))


class Call:
    """One call of a receiver, a context manager: an error is logged, still inside of the receiver, and suppressed.

    Not suppressed are `CancelSend` before a message, and a BaseException that is no Exception.
    """

    __slots__ = ("_event", "_inside", "_outside", "_receiver")

    def __init__(
        self, receiver: Callable[..., Any], event: str, outside: tuple[Any, ...], inside: tuple[Any, ...]
    ) -> None:
        self._receiver = receiver
        self._event = event
        self._outside = outside
        self._inside = inside

    def __enter__(self) -> None:
        _inside.set(self._inside)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if not isinstance(error, Exception) or (isinstance(error, CancelSend) and self._event == CANCELS):
                return False
            what = f"{type(error).__module__}.{type(error).__qualname__}"
            _log_once(ERROR, "smtpbackend.receiver_failed", self._receiver, self._event, what, error)
            return True
        finally:
            _inside.set(self._outside)


def _log_once(
    level: int, name: str, receiver: Callable[..., Any], event: str, why: str, error: Exception | None = None
) -> None:
    """The first of all threads logs. It is noted before, for the handler may send mail."""
    place = _place(receiver)
    if len(logged) >= MOST:
        logged.clear()
    this = object()
    if logged.setdefault((place, why), this) is this:
        log(LOGGER, level, name, error, receiver=place, event=event, why=why)


def _function(receiver: Any) -> Any:
    """The function inside of wrappers, which may be made anew for each call, as Sentry does."""
    while type(receiver) is FunctionType and (inner := receiver.__dict__.get("__wrapped__", receiver)) is not receiver:
        receiver = inner
    return receiver


def _identity(receiver: Any) -> tuple[int, int]:
    """Equal for one receiver as long as it lives: a method is another object each time it is looked up."""
    receiver = _function(receiver)
    return (id(receiver.__self__), id(receiver.__func__)) if type(receiver) is MethodType else (id(receiver), 0)


def _place(receiver: Any) -> str:
    """The place of a receiver in the code. Its values may be secret, and are not shown."""
    receiver = _function(receiver)
    if issubclass(type(receiver), partial):
        return _place(receiver.func)
    function = _function(receiver.__func__) if type(receiver) is MethodType else receiver
    if type(function) is FunctionType:
        return f"{function.__module__}.{function.__qualname__}:{function.__code__.co_firstlineno}"
    return f"{type(receiver).__module__}.{type(receiver).__qualname__}"
