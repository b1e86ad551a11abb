"""Which tests stay together where several processes run them; only xdist imports this."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/interoperability/",)
"""Folders whose tests are run by one process: what they find is compared with a page."""
APART = ("tests/faults/", "tests/fuzz/")
"""Folders in which a single case of a test takes long."""


def unit(nodeid: str) -> str:
    """What a process takes at once: all cases of a test, as a rule."""
    for folder in TOGETHER:
        if nodeid.startswith(folder):
            return folder
    return nodeid if nodeid.startswith(APART) else nodeid.partition("[")[0]


class Sharing(LoadScopeScheduling):
    """Whoever is free takes the next unit, in the order in which they are found."""

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
