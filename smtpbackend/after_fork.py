"""What a child must do after a fork, also after one of which Python is not told."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

__all__ = ["at_fork", "forks_unseen", "notice_fork"]

_in_child: list[Callable[[], object]] = []
_process = os.getpid()
_noticing = threading.RLock()


def at_fork(*, in_child: Callable[[], object], **others: Callable[[], object]) -> None:
    """``os.register_at_fork``, on systems that fork; ``others`` are its ``before`` and ``after_in_parent``."""
    _in_child.append(in_child)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child, **others)


def notice_fork() -> None:
    """Do what a child must, if this is one and Python was not told: a worker of uWSGI (``py-call-osafterfork``).

    Other threads of the child wait until all is done.
    """
    if os.getpid() == _process:
        return
    with _noticing:
        if os.getpid() != _process:
            for do in _in_child:
                do()
            _note_process()


def forks_unseen() -> bool:
    """Whether uWSGI may still fork its workers from this process, of which it does not tell Python.

    In such a process there must be no other thread: a worker can inherit the interpreter's lock in the middle of a
    change that the other thread makes, and then wait for it for ever.
    """
    uwsgi = sys.modules.get("uwsgi")  # it is there inside of uWSGI alone
    if uwsgi is None or uwsgi.worker_id() != 0:
        return False
    is_mule, is_spooler = (getattr(uwsgi, name, int) for name in ("mule_id", "i_am_the_spooler"))
    return not is_mule() and not is_spooler()


def _note_process() -> None:
    global _process
    _process = os.getpid()


def _in_child_of_python() -> None:
    global _noticing
    _noticing = threading.RLock()
    _note_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_of_python)
