"""How much Python a message takes, counted in bytecode instructions: the same number whenever it is counted.

Those of the standard library's ``email`` package count too: one that is left to it takes three to five times as many.

More than was kept is a loss of speed, and fails. Fewer is a gain: it is told at the end of the run, so that somebody
keeps it by `make guards`, and fails nothing.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests import tally
from tests.guards.figures import PYTHON, SCENARIOS, instructions, kept, measure

TOLERANCE = 0.05


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_message_takes_as_many_as_were_kept(scenario: str) -> None:
    """Or fewer; a little more is no loss."""
    figure = measure(scenario)
    print(f"{PYTHON}  {scenario}: {figure:.2f}")
    before = kept().get(scenario)
    if before is None:
        pytest.skip(f"no figure is kept for Python {PYTHON}; `make guards` writes it")
    assert figure <= before * (1 + TOLERANCE), f"{scenario} takes {figure:.0f} instructions; it took {before}"
    if figure < before * (1 - TOLERANCE):
        tally.warnings.append(gain(scenario, figure, before))


def gain(scenario: str, figure: float, before: int) -> str:
    """What is told of it."""
    return (
        f"{scenario} takes {figure:.0f} instructions on Python {PYTHON} and took {before}: keep that by `make guards`"
    )


@pytest.mark.parametrize(("share", "fails", "told"), [(0.9, False, True), (1.0, False, False), (1.1, True, False)])
def test_more_fails_and_fewer_is_told(monkeypatch: pytest.MonkeyPatch, share: float, fails: bool, told: bool) -> None:
    scenario = next(iter(SCENARIOS))
    found: list[str] = []
    monkeypatch.setattr(tally, "warnings", found)
    monkeypatch.setattr(f"{__name__}.kept", lambda: {scenario: 1000})
    monkeypatch.setattr(f"{__name__}.measure", lambda _: 1000 * share)
    with pytest.raises(AssertionError) if fails else nullcontext():
        test_a_message_takes_as_many_as_were_kept(scenario)
    assert bool(found) is told


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
def test_a_message_of_many_takes_as_many_as_one_of_few(way: str) -> None:
    """Whatever is kept of those before it costs those behind it nothing."""
    few, many = (instructions(way, "send_many", number) for number in (200, 2_000))
    print(f"{few:.2f} a message of 200, {many:.2f} of 2,000")
    assert abs(many - few) < few * 0.01
