"""Writes down what became of each mail: a line in the file that RECORD names, for all processes one."""

from __future__ import annotations

import os
from typing import Any

from django.apps import AppConfig

from smtpbackend_django import signals


class RecordConfig(AppConfig):
    name = "tests.processes.site"

    def ready(self) -> None:
        # O_APPEND and one write a line: no process writes into another's
        record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def note(receipt: Any, **_: Any) -> None:
            for outcome in receipt.outcomes:
                words = outcome.address, outcome.status.name, receipt.queue_id or "-", os.getpid()
                os.write(record, " ".join(map(str, words)).encode() + b"\n")

        for signal in (signals.message_sent, signals.message_failed, signals.message_in_doubt):
            signal.connect(note, weak=False)
