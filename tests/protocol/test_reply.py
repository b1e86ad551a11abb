"""The reply parser: fed whole, by single bytes and with trailing data, and its limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend.errors import ProtocolViolation
from smtpbackend.outcome import Reply
from smtpbackend.protocol.reply import MAX_LINE, MAX_LINES, MAX_OCTETS, ReplyReader

GOOD: list[tuple[bytes, Reply]] = [
    (b"250 ok\r\n", Reply(250, None, ("ok",))),
    (b"250 ok\n", Reply(250, None, ("ok",))),
    (b"250\r\n", Reply(250, None, ("",))),
    (b"250 \r\n", Reply(250, None, ("",))),
    (b"250-\r\n250\r\n", Reply(250, None, ("", ""))),
    (b"250-a\n250-b\r\n250 c\n", Reply(250, None, ("a", "b", "c"))),
    (b"250  two blanks\r\n", Reply(250, None, (" two blanks",))),
    (b"354 go\r\n", Reply(354, None, ("go",))),
    (b"550 5.1.1 nobody\r\n", Reply(550, (5, 1, 1), ("nobody",))),
    (b"250 2.0.0\r\n", Reply(250, (2, 0, 0), ("",))),
    (b"451 4.123.456 later\r\n", Reply(451, (4, 123, 456), ("later",))),
    (b"550-5.7.1 no\r\n550 5.7.1 really\r\n", Reply(550, (5, 7, 1), ("no", "really"))),
    (b"550-no\r\n550 5.7.1 really\r\n", Reply(550, (5, 7, 1), ("no", "really"))),
    (b"550-5.7.1 first\r\n550 5.1.1 second\r\n", Reply(550, (5, 7, 1), ("first", "second"))),
    # RFC 2034 4: the class is that of the code; anything else is text
    (b"550 4.2.2 mailbox full\r\n", Reply(550, None, ("4.2.2 mailbox full",))),
    (b"250 5.0.0 hm\r\n", Reply(250, None, ("5.0.0 hm",))),
    (b"354 3.0.0 go\r\n", Reply(354, None, ("3.0.0 go",))),
    (b"334 2.0.0 x\r\n", Reply(334, None, ("2.0.0 x",))),
    (b"550 5.1 short\r\n", Reply(550, None, ("5.1 short",))),
    (b"550 5.1.1.1 long\r\n", Reply(550, None, ("5.1.1.1 long",))),
    (b"550 5.1.1234 long\r\n", Reply(550, None, ("5.1.1234 long",))),
    (b"550 5.1.1; see\r\n", Reply(550, None, ("5.1.1; see",))),
    ("550 5.٣.1 x\r\n".encode(), Reply(550, None, ("5.٣.1 x",))),
    # RFC 6531 3.7.4.2: UTF-8 in replies; nothing may reach a log that could act there
    ("550 Grüße 世界\r\n".encode(), Reply(550, None, ("Grüße 世界",))),
    (b"550 \xff\xfe\r\n", Reply(550, None, ("\\xff\\xfe",))),
    (b"550 a\0b\r\n", Reply(550, None, ("a\\x00b",))),
    (b"550 a\rb\tc\x1b[2Jd\x7f\r\n", Reply(550, None, ("a\\rb\\tc\\x1b[2Jd\\x7f",))),
    ("550 a\x85b\u2028c\u202ed\r\n".encode(), Reply(550, None, ("a\\x85b\\u2028c\\u202ed",))),
    (b"550 ends in\r\r\n", Reply(550, None, ("ends in\\r",))),
]


def read(*parts: bytes) -> list[Reply]:
    """All replies, asked for after each part."""
    reader, found = ReplyReader(), []
    for part in parts:
        reader.feed(part)
        while (reply := reader.next()) is not None:
            found.append(reply)
    return found


@pytest.mark.parametrize(("octets", "reply"), GOOD)
class TestReplies:
    def test_whole(self, octets: bytes, reply: Reply) -> None:
        assert read(octets) == [reply]

    def test_by_single_bytes(self, octets: bytes, reply: Reply) -> None:
        reader = ReplyReader()
        for octet in octets[:-1]:
            reader.feed(bytes([octet]))
            assert reader.next() is None
            assert not reader.is_empty
        reader.feed(octets[-1:])
        assert reader.next() == reply
        assert reader.is_empty
        assert reader.next() is None

    def test_with_trailing_data(self, octets: bytes, reply: Reply) -> None:
        for trailing in (b"2", b"250", b"421 bye\r", b"250-a\r\n", b"junk"):
            reader = ReplyReader()
            reader.feed(octets + trailing)
            assert reader.next() == reply
            assert reader.next() is None
            assert not reader.is_empty

    def test_several_in_one_piece(self, octets: bytes, reply: Reply) -> None:
        assert read(octets * 3) == [reply] * 3


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"\n",
        b" 250 ok\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"150 ok\r\n",
        b"650 ok\r\n",
        b"099 ok\r\n",
        b"25x ok\r\n",
        b"250ok\r\n",
        b"250\tok\r\n",
        b"250_ok\r\n",
        b"250\0ok\r\n",
        b"250+ok\r\n",
        "٢٥٠ ok\r\n".encode(),
        b"+OK hello\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x01\x00\x02\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\n\r\n250 b\r\n",
        b"250-a\r\nb\r\n250 c\r\n",
        b"250-a\r\n250b\r\n",
    ],
)
class TestViolations:
    def test_whole(self, octets: bytes) -> None:
        with pytest.raises(ProtocolViolation):
            read(octets)

    def test_by_single_bytes(self, octets: bytes) -> None:
        with pytest.raises(ProtocolViolation):
            read(*(bytes([octet]) for octet in octets))

    def test_behind_a_good_one(self, octets: bytes) -> None:
        reader = ReplyReader()
        reader.feed(b"250 ok\r\n" + octets)
        assert reader.next() == Reply(250, None, ("ok",))
        with pytest.raises(ProtocolViolation):
            reader.next()


def test_the_error_shows_what_came_safely_and_in_short() -> None:
    with pytest.raises(ProtocolViolation, match="is not an SMTP reply") as caught:
        read(b"\x1b[2J" + b"x" * 500 + b"\r\n")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


class TestLimits:
    def test_the_longest_line(self) -> None:
        text = b"x" * (MAX_LINE - 6)
        [reply] = read(b"250 " + text + b"\r\n")
        assert reply.text == text.decode()

    @pytest.mark.parametrize("end", [b"", b"\r\n"])
    def test_a_line_over_the_limit(self, end: bytes) -> None:
        with pytest.raises(ProtocolViolation, match=str(MAX_LINE)):
            read(b"250 " + b"x" * MAX_LINE + end)

    def test_a_line_that_never_ends_is_left_at_the_limit(self) -> None:
        reader = ReplyReader()
        for _ in range(MAX_LINE - 1):
            reader.feed(b"2")
            assert reader.next() is None
        reader.feed(b"2")
        with pytest.raises(ProtocolViolation):
            reader.next()

    def test_the_most_lines(self) -> None:
        [reply] = read(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n")
        assert len(reply.lines) == MAX_LINES

    def test_a_reply_that_never_ends(self) -> None:
        reader = ReplyReader()
        for _ in range(MAX_LINES - 1):
            reader.feed(b"250-x\r\n")
            assert reader.next() is None
        reader.feed(b"250-x\r\n")
        with pytest.raises(ProtocolViolation, match=str(MAX_LINES)):
            reader.next()

    def test_the_most_octets(self) -> None:
        line = b"250-" + b"x" * 4090 + b"\r\n"
        few = MAX_OCTETS // len(line)
        assert len(read(line * few + b"250 x\r\n")) == 1
        with pytest.raises(ProtocolViolation, match=str(MAX_OCTETS)):
            read(line * (few + 1))

    def test_octets_are_counted_for_each_reply_alone(self) -> None:
        line = b"250-" + b"x" * 4090 + b"\r\n"
        assert len(read((line * 10 + b"250 x\r\n") * 10)) == 10


def test_clear_forgets_everything() -> None:
    reader = ReplyReader()
    reader.feed(b"250-a\r\n250 b")
    assert reader.next() is None
    reader.clear()
    assert reader.is_empty
    reader.feed(b"220 c\r\n")
    assert reader.next() == Reply(220, None, ("c",))


def test_half_a_reply_is_not_nothing() -> None:
    reader = ReplyReader()
    assert reader.is_empty
    reader.feed(b"250-a\r\n")
    assert reader.next() is None
    assert not reader.is_empty


codes = st.integers(200, 599)
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), max_size=40)


@given(
    st.lists(st.tuples(codes, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=4),
    st.lists(st.integers(0, 400), max_size=8),
    st.sampled_from([b"\r\n", b"\n"]),
)
def test_replies_cut_anywhere_are_the_same_replies(
    replies: list[tuple[int, list[str]]], cuts: list[int], end: bytes
) -> None:
    stream = b""
    for code, lines in replies:
        for number, line in enumerate(lines):
            separator = " " if number == len(lines) - 1 else "-"
            stream += f"{code}{separator}{line}".encode() + end
    borders = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    found = read(*(stream[a:b] for a, b in pairwise(borders)))
    assert found == read(stream)
    assert [reply.code for reply in found] == [code for code, _ in replies]
    assert [len(reply.lines) for reply in found] == [len(lines) for _, lines in replies]


@given(st.binary(max_size=300), st.booleans())
def test_any_octets_give_replies_or_a_violation(octets: bytes, stepwise: bool) -> None:
    try:
        found = read(*(bytes([octet]) for octet in octets)) if stepwise else read(octets)
    except ProtocolViolation:
        return
    for reply in found:
        assert 200 <= reply.code <= 599
        assert reply.text.replace("\n", "").isprintable()
