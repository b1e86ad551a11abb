"""`Value` beside a frozen dataclass: what is made of the same fields behaves alike, and so does what is refused."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend.values import Value


class Point(Value):
    x: int
    y: int = 2
    z: Any = None


class Named(Point):
    name: str = ""


@dataclass(frozen=True)
class Model:
    x: int
    y: int = 2
    z: Any = None
    name: str = ""


ARGUMENTS = st.lists(st.integers(0, 3), max_size=5)
KEYWORDS = st.dictionaries(st.sampled_from(["x", "y", "z", "name", "other"]), st.integers(0, 3))


def made(kind: Any, values: list[int], named: dict[str, int]) -> Any:
    """One of that kind, or the class of the error."""
    try:
        return kind(*values, **named)
    except TypeError as error:
        return type(error)


@given(ARGUMENTS, KEYWORDS)
def test_it_takes_and_refuses_the_arguments_of_a_dataclass(values: list[int], named: dict[str, int]) -> None:
    ours, model = made(Named, values, named), made(Model, values, named)
    if isinstance(model, Model):
        assert repr(ours) == repr(model).replace("Model", "Named")
        assert vars(ours) == vars(model)
    else:
        assert ours is model is TypeError


@given(st.tuples(*[st.integers(0, 1)] * 3), st.tuples(*[st.integers(0, 1)] * 3))
def test_it_is_equal_and_hashed_by_its_fields(some: tuple[int, int, int], others: tuple[int, int, int]) -> None:
    one, other = Point(*some), Point(*others)
    assert (one == other) is (some == others)
    assert len({one, other}) == len({some, others})


def test_it_is_not_equal_to_one_of_another_class() -> None:
    assert Point(1) != Named(1)
    assert Point(1) != Model(1)
    assert Point(1) != (1, 2, None)


def test_it_does_not_change() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"a Point does not change; replace\(x=\.\.\.\) makes another one"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="a Point does not change"):
        del point.x
    assert point == Point(1)


def test_another_one_is_made_of_it() -> None:
    assert Named(1, name="a").replace(y=5) == Named(1, 5, None, "a")
    with pytest.raises(TypeError, match="Point has no field 'w'"):
        Point(1).replace(w=5)
    if sys.version_info >= (3, 13):
        assert copy.replace(Named(1, name="a"), y=5) == Named(1, 5, None, "a")


def test_an_error_names_the_field() -> None:
    with pytest.raises(TypeError, match=r"Named has no field 'nam'; did you mean 'name'\?"):
        Named(1, nam="a")
    with pytest.raises(TypeError, match="Point needs 'x'"):
        Point(y=1)
    with pytest.raises(TypeError, match="Point was given two values for 'x'"):
        Point(1, x=1)
    with pytest.raises(TypeError, match="Point has 3 fields, and was given 4 values"):
        Point(1, 2, 3, 4)


def test_it_is_pickled_copied_and_matched() -> None:
    point = Point(1, z=[3])
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == copy.copy(point) == point
    match Named(1, 2, 3, "a"):
        case Named(x, _, z, name="a"):
            assert (x, z) == (1, 3)
        case _:
            pytest.fail("it does not match")


def test_its_fields_are_checked_however_it_is_made() -> None:
    class Positive(Value):
        number: int

        def __post_init__(self) -> None:
            if self.number < 0:
                raise ValueError(self.number)

    with pytest.raises(ValueError, match="-1"):
        Positive(-1)
    with pytest.raises(ValueError, match="-2"):
        Positive(1).replace(number=-2)
