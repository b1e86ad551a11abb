"""How whoever listens is called, so that nobody harms a delivery or another: Listeners, and receivers of signals.

- A receiver is not called again from inside of itself: for what it sends, or what the handler of its log sends. Inside
  is whatever runs in its context (``contextvars``): its thread, its task, and what it starts that takes the context
  along, as tasks and `asyncio.to_thread` do, for as long as that runs. Other threads know nothing of it.
- Receivers are called inside of receivers only so deep, for as many as log an error by mail would call each other in
  every order. What may cancel a message is asked at any depth.
- What a receiver raises is logged, once for each receiver and class of error; that it was not called, once as well.
  It is the place in the code that counts, be it connected anew for each request.

All is logged by logger ``smtpbackend.receivers``: an error at ERROR, a call left out at WARNING.
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
DEEPEST = 2  # receivers inside of each other: the mail that one sends is told to the others
MOST = 1000  # places and kinds of errors that are remembered: a site has some, but a class may be made for each error
CANCELS = "message_sending"  # the event whose receivers may raise `CancelSend`

_inside: ContextVar[tuple[Any, ...]] = ContextVar("smtpbackend_receivers", default=())
logged: dict[tuple[str, str], object] = {}


def call(receiver: Callable[..., Any], event: str, /, *args: Any, **fields: Any) -> None:
    """Call a receiver of ``event``, unless this is inside of it. Only `CancelSend` before a message passes."""
    if (begun := begin(receiver, event)) is None:
        return
    with begun:
        result = receiver(*args, **fields)
        if type(result) is CoroutineType:
            result.close()
            raise TypeError("it is a coroutine function, and nobody awaits it here")


def begin(receiver: Callable[..., Any], event: str) -> Call | None:
    """The context manager in which a receiver is to be called; None: it is not to be called.

    One whose class has a true ``is_reentrant`` is called always: it tells others, each of which is called by this.
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
    """One call of a receiver: ``with`` it, what the receiver raises is logged, inside of it still, and goes no further.

    `CancelSend` before a message does, and what is no Exception.
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
    """Whoever comes first logs, of all threads; and has noted it by then, for the handler may send mail."""
    place = _place(receiver)
    if len(logged) >= MOST:
        logged.clear()
    this = object()
    if logged.setdefault((place, why), this) is this:
        log(LOGGER, level, name, error, receiver=place, event=event, why=why)


def _function(receiver: Any) -> Any:
    """What a receiver is beneath its wrappers, which may be made anew for each call, as Sentry does."""
    while type(receiver) is FunctionType and (inner := receiver.__dict__.get("__wrapped__", receiver)) is not receiver:
        receiver = inner
    return receiver


def _identity(receiver: Any) -> tuple[int, int]:
    """The same for the same receiver, while it lives: a method is another object each time it is looked up."""
    receiver = _function(receiver)
    return (id(receiver.__self__), id(receiver.__func__)) if type(receiver) is MethodType else (id(receiver), 0)


def _place(receiver: Any) -> str:
    """Where a receiver stands in the code. What it holds may be secret, and is not shown."""
    receiver = _function(receiver)
    if issubclass(type(receiver), partial):
        return _place(receiver.func)
    function = _function(receiver.__func__) if type(receiver) is MethodType else receiver
    if type(function) is FunctionType:
        return f"{function.__module__}.{function.__qualname__}:{function.__code__.co_firstlineno}"
    return f"{type(receiver).__module__}.{type(receiver).__qualname__}"
