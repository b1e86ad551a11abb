"""The configuration of gunicorn. The master has sent mail before it forks: its connection is open then."""

from __future__ import annotations

from typing import Any

preload_app = True
workers = 4
worker_class = "gthread"
threads = 4
max_requests = 60  # then a worker makes place for a new one, which the master forks
max_requests_jitter = 20  # not all at once


def on_starting(server: Any) -> None:
    from django.core.mail import send_mail

    send_mail("Starting", "The master has sent this.", None, ["master@example.com"])
