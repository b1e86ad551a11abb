"""What the guards measure with."""

from __future__ import annotations

from tests.mailer.conftest import scripted as scripted
from tests.mailer.conftest import twin as twin
