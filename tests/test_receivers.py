"""How receivers and Listeners are called: never inside of themselves, and what they raise is logged once."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from smtpbackend import CancelSend, receivers
from smtpbackend.receivers import call

EVENT = "message_sent"


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    """The records of that event."""
    return [record for record in caplog.records if record.getMessage().split()[0] == f"smtpbackend.{name}"]


class Heard:
    """A receiver that calls all others, itself too, as a mail that it sends would; ``times`` it was called."""

    def __init__(self, what: Callable[[], object] = lambda: None) -> None:
        self.what = what
        self.times = 0

    def __call__(self, *_: Any) -> None:
        self.times += 1
        assert self.times < 1000, "it calls itself"
        self.what()


def everybody(*heard: Heard) -> None:
    for receiver in heard:
        call(receiver, EVENT)


# Inside of itself ---------------------------------------------------------------------------------------------------


def test_a_receiver_is_not_called_while_it_runs() -> None:
    """Whatever it does; and it is called again when it has returned, or raised."""
    receiver = Heard(lambda: call(receiver, EVENT))
    call(receiver, EVENT)
    call(receiver, "message_failed")
    receiver.what = lambda: 1 / 0
    call(receiver, EVENT)
    call(receiver, EVENT)
    assert receiver.times == 4


def test_that_it_was_not_called_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Below ERROR, by a logger that can be kept from a handler that sends mail."""
    receiver = Heard(lambda: everybody(receiver, receiver))
    for _ in range(3):
        call(receiver, EVENT)
    (record,) = told(caplog, "receiver_skipped")
    assert (record.name, record.levelname) == ("smtpbackend.receivers", "WARNING")
    assert record.__dict__["receiver"] == f"{__name__}.Heard"
    assert record.__dict__["event"] == EVENT


def test_others_are_called_meanwhile() -> None:
    """A receiver of what another one sends is told of it."""
    other = Heard()
    receiver = Heard(lambda: everybody(receiver, other))
    call(receiver, EVENT)
    assert (receiver.times, other.times) == (1, 1)


@pytest.mark.parametrize("number", [2, 4, 7, 20])
def test_receivers_that_call_each_other_do_not_do_it_in_every_order(number: int) -> None:
    """All of them send mail about mail that failed, and the server is down: seven would send 13,699."""
    heard: list[Heard] = []
    heard += [Heard(lambda: everybody(*heard)) for _ in range(number)]
    everybody(*heard)
    assert [receiver.times for receiver in heard] == [number] * number


def test_what_may_cancel_a_message_is_asked_at_any_depth() -> None:
    """Who left a list must not get mail because receivers send it."""

    def cancel(*_: Any) -> None:
        raise CancelSend

    def deep() -> None:
        with pytest.raises(CancelSend):
            call(cancel, "message_sending")
        reached.append(True)

    reached: list[bool] = []
    call(Heard(lambda: call(Heard(deep), EVENT)), EVENT)
    assert reached == [True]


def wrapped_anew(receiver: Any) -> Any:
    """As Sentry gives a Signal's receivers out."""

    @functools.wraps(receiver)
    def wrapper(*args: Any) -> Any:
        return receiver(*args)

    return wrapper


class Site:
    def __init__(self) -> None:
        self.times = 0

    def receive(self, *_: Any) -> None:
        self.times += 1
        assert self.times < 1000
        call(self.receive, EVENT)
        call(wrapped_anew(self.receive), EVENT)


def test_a_method_and_what_is_wrapped_anew_are_the_same_receiver() -> None:
    """They are another object each time; a method of another object is another receiver."""
    one, other = Site(), Site()
    call(one.receive, EVENT)
    call(wrapped_anew(one.receive), EVENT)
    assert one.times == 2
    call(Heard(lambda: call(other.receive, EVENT)), EVENT)
    assert other.times == 1


def test_other_threads_call_it(caplog: pytest.LogCaptureFixture) -> None:
    """Each has its own mail; what another thread does meanwhile is no reason not to be told."""
    both = threading.Barrier(2, timeout=20)
    receiver = Heard(both.wait)
    threads = [threading.Thread(target=call, args=(receiver, EVENT)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert receiver.times == 2
    assert not caplog.records


def test_what_takes_the_context_along_is_inside() -> None:
    """A thread that is given a copy of it; one that is not is another thread."""

    def in_a_thread(what: Callable[..., object], *args: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(what, *args).result(20)

    receiver = Heard(lambda: in_a_thread(contextvars.copy_context().run, call, receiver, EVENT))
    call(receiver, EVENT)
    assert receiver.times == 1
    other = Heard(lambda: other.times < 3 and in_a_thread(call, other, EVENT))
    call(other, EVENT)
    assert other.times == 3


def test_tasks_of_a_receiver_are_inside_of_it_and_other_tasks_are_not() -> None:
    """A receiver cannot wait: the mail that it sends is a task's, which goes on when it has returned."""
    tasks: list[asyncio.Task[Any]] = []

    async def send() -> None:
        call(receiver, EVENT)
        await asyncio.gather(asyncio.to_thread(call, receiver, EVENT), asyncio.create_task(asyncio.sleep(0)))
        call(receiver, EVENT)

    async def hear() -> None:
        call(receiver, EVENT)

    async def main() -> None:
        receiver.what = lambda: tasks.append(asyncio.create_task(send()))
        await hear()
        receiver.what = lambda: None
        await tasks[0]
        assert receiver.times == 1
        await asyncio.gather(hear(), hear(), asyncio.to_thread(call, receiver, EVENT))

    receiver = Heard()
    asyncio.run(main())
    assert receiver.times == 4


def test_a_generator_goes_on_outside() -> None:
    """It was begun by a receiver, and is resumed by somebody else."""
    receiver = Heard()

    def stream() -> Iterator[None]:
        yield
        call(receiver, EVENT)

    begun = stream()
    receiver.what = lambda: next(begun)
    call(receiver, EVENT)
    receiver.what = lambda: None
    next(begun, None)
    assert receiver.times == 2


# What it raises ------------------------------------------------------------------------------------------------------


def test_an_error_is_logged_once_for_each_receiver_and_kind(caplog: pytest.LogCaptureFixture) -> None:
    """Not once a mail; another kind of it, and the same of another receiver, are told too."""

    def one(error: Exception) -> None:
        raise error

    def other(error: Exception) -> None:
        raise error

    for number in range(50):
        call(one, EVENT, KeyError(number))
        call(one, EVENT, ValueError(number))
        call(other, EVENT, KeyError(number))
    records = told(caplog, "receiver_failed")
    assert [
        (record.__dict__["receiver"].rpartition(".")[2].partition(":")[0], record.__dict__["why"]) for record in records
    ] == [
        ("one", "builtins.KeyError"),
        ("one", "builtins.ValueError"),
        ("other", "builtins.KeyError"),
    ]
    assert {(record.name, record.levelname) for record in records} == {("smtpbackend.receivers", "ERROR")}
    assert all(record.exc_info for record in records)


def test_a_receiver_made_anew_for_each_mail_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is the place in the code that counts; two places are two, also in one line's name."""
    for _ in range(20):
        call(lambda: 1 / 0, EVENT)
        call(
            lambda: 2 / 0,
            EVENT,
        )
    assert len(told(caplog, "receiver_failed")) == 2


def test_of_all_threads_one_logs(caplog: pytest.LogCaptureFixture) -> None:
    start = threading.Barrier(32, timeout=20)

    def broken() -> None:
        start.wait()
        raise ZeroDivisionError

    threads = [threading.Thread(target=call, args=(broken, EVENT)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(told(caplog, "receiver_failed")) == 1


def test_what_is_remembered_is_bounded() -> None:
    """A class may be made for each error."""

    def broken(number: int) -> None:
        raise type(f"Error{number}", (Exception,), {})

    logging.disable()
    try:
        for number in range(3 * receivers.MOST):
            call(broken, EVENT, number)
    finally:
        logging.disable(logging.NOTSET)
    assert len(receivers.logged) <= receivers.MOST


def test_the_handler_of_its_error_is_inside_of_it() -> None:
    """A handler sends mail: the receiver is not called for that, and one that raises harms nobody."""

    class Mailing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.levelname)
            assert len(records) < 1000
            call(broken, EVENT)
            raise OSError("the server is down")

    records: list[str] = []
    broken = Heard(lambda: 1 / 0)
    logger, handler = logging.getLogger("smtpbackend.receivers"), Mailing()
    logger.addHandler(handler)
    try:
        for _ in range(5):
            call(broken, EVENT)
    finally:
        logger.removeHandler(handler)
    assert broken.times == 5
    assert records == ["ERROR", "WARNING"]


@dataclass
class Secretive:
    """A Listener that is neither hashable nor to be shown."""

    token: str = "s3cret"

    def receive(self) -> None:
        raise ZeroDivisionError

    __call__ = receive


@pytest.mark.parametrize(
    ("receiver", "place"),
    [
        (Secretive(), "Secretive"),
        (Secretive().receive, "Secretive.receive:"),
        (functools.partial(Secretive.receive, Secretive()), "Secretive.receive:"),
        (wrapped_anew(Secretive().receive), "Secretive.receive:"),
        (int, "builtins.type"),
    ],
    ids=["object", "method", "partial", "wrapped", "class"],
)
def test_a_receiver_is_named_by_its_place(receiver: Any, place: str, caplog: pytest.LogCaptureFixture) -> None:
    """Never by its repr, which may have secrets."""
    call(receiver, EVENT, *(["x"] if receiver is int else []))
    (record,) = told(caplog, "receiver_failed")
    assert place in record.__dict__["receiver"]
    assert "s3cret" not in record.getMessage()


def test_a_coroutine_function_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody awaits it; nothing is left for a warning either."""

    async def receiver() -> None: ...

    call(receiver, EVENT)
    (record,) = told(caplog, "receiver_failed")
    assert "coroutine function" in str(record.exc_info)


def test_a_field_is_one_word_of_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A server's words forge no line."""
    from smtpbackend.logs import log

    log(
        "smtpbackend",
        logging.WARNING,
        "smtpbackend.it",
        server="a:25",
        error="no\r\nERROR all is lost",
        why="",
        text="x" * 5000,
    )
    text = caplog.records[0].getMessage()
    assert text.startswith(r"smtpbackend.it server=a:25 error='no\r\nERROR all is lost' why='' text=xxx")
    assert len(text) < 700
