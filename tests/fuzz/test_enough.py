"""How many conversations there are in a run of all tests."""

from __future__ import annotations

import pytest

from tests.fuzz import test_dispatch, test_session

pytestmark = pytest.mark.exhaustive


def test_a_run_has_at_least_twenty_thousand() -> None:
    """Each test also counts those that it had."""
    assert test_session.EXAMPLES + test_dispatch.EXAMPLES >= 20_000
