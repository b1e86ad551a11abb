"""What keeps a secret from being shown."""

from __future__ import annotations

import copy
import pickle
import pprint
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpbackend import Secret
from smtpbackend.hiding import PIECE, STRIDE, Mask, bares_password, discreet, forget_locals
from tests.canaries import forms

PASSWORD = "tr0ub4dor&3-geheim"
secrets = st.text(st.characters(codec="utf-8"), min_size=PIECE + STRIDE - 1, max_size=60).map(lambda s: "q" + s)


class TestSecret:
    def test_it_is_the_string_and_hides_where_it_is_printed(self) -> None:
        secret = Secret(PASSWORD)
        assert secret == PASSWORD
        assert {secret: 1}[PASSWORD] == 1
        assert f"{secret}" == str(secret) == PASSWORD
        assert repr(secret) == "'***'"
        for printed in (pprint.pformat({"servers": [secret]}), repr((secret,)), f"{secret!r}"):
            assert PASSWORD not in printed

    def test_a_copy_is_itself_and_a_pickle_is_none(self) -> None:
        secret = Secret(PASSWORD)
        assert copy.copy(secret) is copy.deepcopy([secret])[0] is secret
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="make the Mailer in the one that uses it"):
                pickle.dumps([secret], protocol)

    @pytest.mark.parametrize(
        ("value", "bare"),
        [
            ("smtp://user:password@mx.example.com", True),
            ("smtp://user:pass/word@mx.example.com", True),
            ("smtp://:password@mx.example.com", True),
            (["mx.example.com", {"url": "smtp://user:p@mx"}], True),
            ({"url": ("socks5h://user:p@proxy:1080",)}, True),
            ("smtp://mx.example.com?username=ann&password=p", True),
            (Secret("smtp://user:password@mx.example.com"), False),
            ("smtp://user@mx.example.com", False),
            ("smtp://mx.example.com:587?tls=required", False),
            ({"host": "mx", "password": "p", "port": 25, "token": None}, False),
        ],
    )
    def test_a_url_that_bares_a_password_is_known(self, value: Any, bare: bool) -> None:
        assert bares_password(value) is bare


class TestMask:
    @given(secrets, st.text(max_size=30), st.text(max_size=30))
    @example("QWERTYUIOPASDFG", "\u0130", "\u03a3")
    @example("q\u0130QWERTYUIOPA\u03a3", "", "x")
    def test_no_form_of_a_secret_gets_through(self, secret: str, before: str, behind: str) -> None:
        mask = Mask(secret)
        for form in forms(secret) - {secret.encode().hex()}:
            if len(form) >= PIECE:
                assert form.lower() not in mask(before + form + behind).lower()

    @given(secrets, st.data())
    def test_no_part_of_a_secret_gets_through(self, secret: str, data: st.DataObject) -> None:
        least = PIECE + STRIDE - 1
        start = data.draw(st.integers(0, len(secret) - least))
        part = secret[start : start + least]
        assert part.lower() not in Mask(secret)(f"<{part}>").lower()

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=47), max_size=80))
    def test_what_has_no_secret_in_it_is_left_as_it_is(self, text: str) -> None:
        assert Mask(PASSWORD, "short")(text) == text

    def test_what_stands_around_is_kept(self) -> None:
        assert Mask(PASSWORD)(f"535 {PASSWORD} and {PASSWORD.upper()} are wrong") == "535 *** and *** are wrong"

    def test_a_short_one_is_found_whole_and_one_of_three_letters_is_none(self) -> None:
        mask = Mask("pw4x", "ok", "")
        assert mask("pw4x ok cHc0eA==") == "*** ok ***A=="

    def test_it_remembers_only_so_many_texts(self) -> None:
        mask = Mask(PASSWORD)
        for number in range(10_000):
            mask(f"queued as {number}")
        assert len(mask._known) <= 256


def leaf(secret: str) -> None:
    derived = secret.encode()
    raise ValueError(len(derived))


def chained(secret: str) -> None:
    try:
        leaf(secret)
    except ValueError as error:
        raise KeyError("other") from error


def locals_of(error: BaseException) -> list[str]:
    """The names of the locals that are left in the frames of an error, without those of this test."""
    found = []
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_name.startswith("test_"):
            found += list(trace.tb_frame.f_locals)
        trace = trace.tb_next
    return found


class TestForgetLocals:
    def test_frames_are_cleared_and_lines_stay(self) -> None:
        try:
            chained(PASSWORD)
        except KeyError as error:
            forget_locals(error)
            caught: BaseException = error
        assert locals_of(caught) == []
        cause = caught.__cause__
        assert cause is not None
        assert locals_of(cause) == []
        assert cause.__traceback__ is not None

    def test_what_a_caller_is_handling_is_not_ours(self) -> None:
        """Its frames keep their locals: the debugger of the caller needs them."""
        left: list[str] = []
        try:
            chained("his own")
        except KeyError as his:
            with pytest.raises(ValueError, match="18") as caught:
                discreet(leaf)(PASSWORD)
            assert caught.value.__context__ is his  # noqa: PT017
            left = locals_of(his)
        assert "secret" in left

    def test_a_generator_that_is_suspended_outside_goes_on(self) -> None:
        def handling() -> Iterator[int]:
            try:
                leaf("his own")
            except ValueError:
                with pytest.raises(KeyError):
                    discreet(chained)(PASSWORD)
                yield 1
            yield 2

        assert list(handling()) == [1, 2]

    def test_a_discreet_function_leaves_no_argument_either(self) -> None:
        with pytest.raises(KeyError) as caught:
            discreet(chained)(secret=PASSWORD)
        left = set(locals_of(caught.value))
        assert left <= {"function"}
        assert discreet(chained).__name__ == "chained"
        assert sys.exception() is None
