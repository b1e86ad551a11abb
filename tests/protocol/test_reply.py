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
    # neither a blank nor "-" behind the code: the last line of a reply all the same
    (b"250OK id=1\r\n", Reply(250, None, ("OK id=1",))),
    (b"220\tmx ESMTP\r\n", Reply(220, None, ("mx ESMTP",))),
    (b"250\t\r\n", Reply(250, None, ("",))),
    (b"250_ok\r\n", Reply(250, None, ("_ok",))),
    (b"250+ok\r\n", Reply(250, None, ("+ok",))),
    (b"250\0ok\r\n", Reply(250, None, ("\\x00ok",))),
    (b"250\xa0ok\r\n", Reply(250, None, ("\\xa0ok",))),
    (b"250\r\r\n", Reply(250, None, ("\\r",))),
    (b"250-a\r\n250b\r\n", Reply(250, None, ("a", "b"))),
    (b"250-a\r\n250\tb\r\n", Reply(250, None, ("a", "b"))),
    (b"250-\ta\r\n250--b\r\n250 -c\r\n", Reply(250, None, (" a", "-b", "-c"))),
    # blank lines within
    (b"250-a\r\n\r\n250 b\r\n", Reply(250, None, ("a", "b"))),
    (b"250-a\r\n\n \t\r\n\r\r\n250-\r\n250 b\r\n", Reply(250, None, ("a", "", "b"))),
    # how Cisco's IronPort writes a status, and what stands behind a tab
    (b"452 #4.5.3 Too many recipients\r\n", Reply(452, (4, 5, 3), ("Too many recipients",))),
    (b"452-#4.5.3 Too\r\n452 #4.5.3 many\r\n", Reply(452, (4, 5, 3), ("Too", "many"))),
    (b"550\t5.1.1\tnobody\r\n", Reply(550, (5, 1, 1), ("nobody",))),
    (b"550  5.1.1  nobody\r\n", Reply(550, (5, 1, 1), ("nobody",))),
    (b"550 # 5.1.1 x\r\n", Reply(550, None, ("# 5.1.1 x",))),
    (b"452 #5.5.3 x\r\n", Reply(452, None, ("#5.5.3 x",))),
    # what is not UTF-8 stays readable
    (b"452 Bo\xeete pleine\r\n", Reply(452, None, ("Boîte pleine",))),
    (b"550 \xff\xfe\r\n", Reply(550, None, ("ÿþ",))),
    (b"550 l\x92adresse \x80\r\n", Reply(550, None, ("l’adresse €",))),
    (b"550 a\x81b\x9d\r\n", Reply(550, None, ("a\\x81b\\x9d",))),
    ("550 Grüße ".encode() + b"\xc3\r\n", Reply(550, None, ("Grüße Ã",))),
    (b"550 a\0b\r\n", Reply(550, None, ("a\\x00b",))),
    (b"550 a\rb\tc\x1b[2Jd\x7f\r\n", Reply(550, None, ("a\\rb c\\x1b[2Jd\\x7f",))),
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
        b" 250 ok\r\n",
        b"\t250 ok\r\n",
        b"\0\r\n",
        b"\r\n25\r\n",
        b"25\r\n0 ok\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"150 ok\r\n",
        b"650 ok\r\n",
        b"099 ok\r\n",
        b"150ok\r\n",
        b"650\tok\r\n",
        b"2500ok\r\n",
        b"5505.1.1 nobody\r\n",
        b"25x ok\r\n",
        "٢٥٠ ok\r\n".encode(),
        b"+OK hello\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x01\x00\x02\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\nb\r\n250 c\r\n",
        b"250-a\r\n\r\n251 b\r\n",
        b"250-a\r\n 250 b\r\n",
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

    @pytest.mark.parametrize("before", [b"", b"250-a\r\n", b"250 whole\r\n"])
    def test_blank_lines_that_never_end(self, before: bytes) -> None:
        """They count as lines of the reply that they stand in or before."""
        already = before.count(b"-")
        blank = b"\r\n" * (MAX_LINES - 1 - already)
        assert read(before + blank + b"250 b\r\n")
        for cut in (None, 1):
            octets = before + blank + b"\r\n"
            with pytest.raises(ProtocolViolation, match=str(MAX_LINES)):
                read(*(octets[at : at + (cut or len(octets))] for at in range(0, len(octets), cut or len(octets))))

    def test_blank_lines_are_counted_for_each_reply_alone(self) -> None:
        """However they come, and whether or not the reply was said before."""
        some = b"\r\n" * 100
        reply = some + b"250 b\r\n"
        assert len(read(reply * 10)) == 10
        assert len(read(*[some, b"250 b\r\n"] * 10)) == 10
        assert len(read(*(bytes([octet]) for octet in reply * 5))) == 5

    def test_a_blank_line_over_the_limit(self) -> None:
        with pytest.raises(ProtocolViolation, match=str(MAX_LINE)):
            read(b" " * MAX_LINE)
        with pytest.raises(ProtocolViolation, match=str(MAX_OCTETS)):
            read((b" " * (MAX_LINE - 2) + b"\n") * 9)

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


class TestBlankLines:
    """They are of no reply: neither asked for nor unasked."""

    @pytest.mark.parametrize("blank", [b"\r\n", b"\n", b" \t\r\n", b"\r\n\r\n", b"\r", b" "])
    @pytest.mark.parametrize("reply", [b"250 said before\r\n", b"250-a\r\n250 b\r\n"])
    def test_behind_a_reply_they_are_nothing_but_they_are_unread(self, reply: bytes, blank: bytes) -> None:
        """Ahead of a TLS handshake no octet may be, whatever it says."""
        for parts in ((reply + blank,), (reply, blank), tuple(bytes([octet]) for octet in reply + blank)):
            reader = ReplyReader()
            found = []
            for part in parts:
                reader.feed(part)
                if not found and (reply_read := reader.next()) is not None:
                    found.append(reply_read)
            assert [reply_read.code for reply_read in found] == [250]
            assert reader.is_empty
            assert reader.has_unread
            reader.clear()
            assert not reader.has_unread

    def test_consumed_while_a_reply_is_awaited_they_are_unread_still(self) -> None:
        reader = ReplyReader()
        assert not reader.has_unread
        reader.feed(b"\r\n")
        assert reader.next() is None
        assert reader.is_empty
        assert reader.has_unread
        reader.feed(b"220 go\r\n")
        assert reader.next() == Reply(220, None, ("go",))
        assert not reader.has_unread

    def test_what_stands_behind_them_is_something(self) -> None:
        for rest in (b"2", b"250-", b"421 bye\r\n", b"junk"):
            reader = ReplyReader()
            reader.feed(b"250 ok\r\n\r\n" + rest)
            assert reader.next() is not None
            assert not reader.is_empty
            assert reader.says_goodbye is (rest[:1] == b"4")

    def test_a_reply_among_them_that_was_said_before(self) -> None:
        assert read(b"\r\n250 ok\r\n" * 3, b"\n", b"250 ok\r\n250 ok\r\n\r\n") == [Reply(250, None, ("ok",))] * 5


codes = st.integers(200, 599)
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), max_size=40)
blanks = st.sampled_from([b"\r\n", b"\n", b" \r\n", b"\t \n", b"\r\r\n"])


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


@given(st.data())
def test_blank_lines_anywhere_and_any_cuts_give_the_same_replies(data: st.DataObject) -> None:
    """No line becomes two replies, and no two lines become one: replies are matched by counting."""
    told = data.draw(st.lists(st.tuples(codes, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=4))
    lines = []
    for code, rest in told:
        for number, text in enumerate(rest):
            # glued, a digit would be of the code and "-" would be the separator
            glued = [""] if not text.encode()[:1].isdigit() and text[:1] != "-" else []
            last = data.draw(st.sampled_from([" ", "\t", *glued]))
            lines.append(f"{code}{'-' if number < len(rest) - 1 else last}{text}\r\n".encode())
    plain = b"".join(lines)
    stream = b"".join(
        octets for line in lines for octets in (*data.draw(st.lists(blanks, max_size=2)), line)
    ) + b"".join(data.draw(st.lists(blanks, max_size=2)))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    borders = sorted({0, len(stream), *cuts})
    found = read(*(stream[a:b] for a, b in pairwise(borders)))
    assert found == read(plain)
    assert [(reply.code, len(reply.lines)) for reply in found] == [(code, len(rest)) for code, rest in told]


@given(st.binary(max_size=300), st.booleans())
def test_any_octets_give_replies_or_a_violation(octets: bytes, stepwise: bool) -> None:
    try:
        found = read(*(bytes([octet]) for octet in octets)) if stepwise else read(octets)
    except ProtocolViolation:
        return
    for reply in found:
        assert 200 <= reply.code <= 599
        assert reply.text.replace("\n", "").isprintable()
