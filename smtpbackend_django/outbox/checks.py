"""System checks of the outbox."""

from __future__ import annotations

__all__ = ["register_checks"]


def register_checks() -> None:
    """What the app does when Django is ready."""
