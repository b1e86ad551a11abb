"""SASL mechanisms, and which of them may be used."""

from __future__ import annotations

import pickle

import pytest

from smtpbackend.protocol.sasl import MECHANISMS, Login, choose, cram_md5, login, plain

ANN = Login("ann", "s3cret")


def test_plain_gives_everything_at_once() -> None:
    """RFC 4616 2."""
    exchange = plain(Login("tim", "tanstaaftanstaaf"))
    assert next(exchange) == b"\0tim\0tanstaaftanstaaf"
    with pytest.raises(StopIteration):
        exchange.send(b"")


def test_plain_speaks_utf_8() -> None:
    assert next(plain(Login("jürgen", "schlüssel€"))) == "\0jürgen\0schlüssel€".encode()


def test_login_gives_the_name_and_then_the_secret() -> None:
    exchange = login(ANN)
    assert next(exchange) is None
    assert exchange.send(b"Username:") == b"ann"
    assert exchange.send(b"Password:") == b"s3cret"
    with pytest.raises(StopIteration):
        exchange.send(b"More:")


def test_cram_md5_of_the_rfc() -> None:
    """RFC 2195 2."""
    exchange = cram_md5(Login("tim", "tanstaaftanstaaf"))
    assert next(exchange) is None
    answer = exchange.send(b"<1896.697170952@postoffice.reston.mci.net>")
    assert answer == b"tim b913a602c7eda7a495b4e6e7334d3890"
    with pytest.raises(StopIteration):
        exchange.send(b"")


def test_the_strongest_comes_first() -> None:
    assert [mechanism.name for mechanism in choose(["PLAIN", "LOGIN", "CRAM-MD5"], None, True)] == [
        "CRAM-MD5",
        "PLAIN",
        "LOGIN",
    ]


@pytest.mark.parametrize(
    ("offered", "wanted", "clear_allowed", "names"),
    [
        (["LOGIN", "PLAIN"], None, True, ["PLAIN", "LOGIN"]),
        (["LOGIN", "PLAIN"], None, False, []),
        (["LOGIN", "PLAIN", "CRAM-MD5"], None, False, ["CRAM-MD5"]),
        (["LOGIN", "PLAIN", "CRAM-MD5"], ["LOGIN", "CRAM-MD5"], True, ["LOGIN", "CRAM-MD5"]),
        (["LOGIN", "PLAIN", "CRAM-MD5"], ["login", "cram-md5"], False, ["CRAM-MD5"]),
        (["PLAIN"], ["CRAM-MD5"], True, []),
        (["PLAIN", "GSSAPI"], ["GSSAPI", "PLAIN"], True, ["PLAIN"]),
        (["PLAIN"], [], True, []),
        ([], None, True, []),
    ],
)
def test_which_may_be_used(offered: list[str], wanted: list[str] | None, clear_allowed: bool, names: list[str]) -> None:
    assert [mechanism.name for mechanism in choose(offered, wanted, clear_allowed)] == names


def test_who_reads_along_learns_the_secret_of_two_of_them() -> None:
    assert {mechanism.name for mechanism in MECHANISMS if mechanism.in_clear} == {"PLAIN", "LOGIN"}


def test_the_secret_is_in_no_repr() -> None:
    assert "s3cret" not in repr(ANN) + str(ANN) + f"{ANN}" + f"{ANN!r}"
    assert repr(ANN) == "Login(username='ann', password='***')"
    assert "s3cret" not in repr([ANN]) + repr(plain(ANN))
    assert pickle.loads(pickle.dumps(ANN)) == ANN
