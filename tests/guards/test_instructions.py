"""How much Python a message takes, counted in bytecode instructions: the same number whenever it is counted."""

from __future__ import annotations

import os

import pytest

from tests.guards.figures import PYTHON, SCENARIOS, instructions, keep, kept, measure

WRITE = "SMTPBACKEND_WRITE_GUARDS"
TOLERANCE = 0.05


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_message_takes_as_many_as_were_kept(scenario: str) -> None:
    """More is a loss of speed; fewer by as much is a gain, which is to be kept too."""
    figure = measure(scenario)
    print(f"{PYTHON}  {scenario}: {figure:.2f}")
    if os.environ.get(WRITE) == "1":
        keep(scenario, figure)
    before = kept().get(scenario)
    if before is None:
        pytest.skip(f"no figure is kept for Python {PYTHON}; `make guards` writes it")
    assert figure <= before * (1 + TOLERANCE), f"{scenario} takes {figure:.0f} instructions; it took {before}"
    assert figure >= before * (1 - TOLERANCE), (
        f"{scenario} takes {figure:.0f} instructions and took {before}: update the kept figure with `make guards`"
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
def test_a_message_of_many_takes_as_many_as_one_of_few(way: str) -> None:
    """Whatever is kept of those before it costs those behind it nothing."""
    few, many = (instructions(way, "send_many", number) for number in (200, 2_000))
    print(f"{few:.2f} a message of 200, {many:.2f} of 2,000")
    assert abs(many - few) < few * 0.01
