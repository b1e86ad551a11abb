"""The example's settings, with one more app."""

from __future__ import annotations

from example_site.settings import *  # noqa: F403
from example_site.settings import INSTALLED_APPS as THEIRS

INSTALLED_APPS = [*THEIRS, "tests.processes.site.apps.RecordConfig"]
