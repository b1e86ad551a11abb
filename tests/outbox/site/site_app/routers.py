"""A router of a site with a read replica."""

from __future__ import annotations

from typing import Any


class Replica:
    """Reads go to a replica, which has no tables here; writes to the first database."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"
