"""The one write gate: nothing that could be a second command passes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpbackend.address import Address
from smtpbackend.envelope import Recipient
from smtpbackend.errors import InvalidInput
from smtpbackend.protocol import command
from tests.made_text import Made

CONTROLS = [*map(chr, range(0x20)), "\x7f"]
ANN = Address("ann", "example.org")


def unchecked(local_part: str, domain: str = "example.org") -> Address:
    """An address that went around its own checks: the gate stands alone."""
    address = Address("x", "example.org")
    vars(address).pop("_addr_spec", None)
    object.__setattr__(address, "local_part", local_part)
    object.__setattr__(address, "domain", domain)
    return address


GATES: list[tuple[str, Callable[[str], bytes]]] = [
    ("client_name", command.ehlo),
    ("client_name", command.helo),
    ("sender", lambda text: command.mail(unchecked(text), {}, True)),
    ("sender", lambda text: command.mail(unchecked("ann", text), {}, True)),
    ("recipients", lambda text: command.rcpt(Recipient(unchecked(text)), {}, True)),
    ("recipients", lambda text: command.rcpt(Recipient(unchecked("ann", text)), {}, True)),
    ("extra", lambda text: command.mail(ANN, {text: "1"}, True)),
    ("X", lambda text: command.mail(ANN, {"X": text}, True)),
    ("X", lambda text: command.rcpt(Recipient(ANN), {"X": text}, True)),
    ("auth_mechanisms", command.auth),
    ("credentials", lambda text: command.auth("PLAIN", text)),
    ("credentials", command.auth_response),
    ("address", lambda text: command.vrfy(text, True)),
    ("list name", command.expn),
    ("argument", command.help_),
]
NAMES = [f"{number}-{field}" for number, (field, _) in enumerate(GATES)]


@pytest.mark.parametrize(("field", "gate"), GATES, ids=NAMES)
class TestGate:
    @pytest.mark.parametrize("control", CONTROLS, ids=[f"{ord(char):02x}" for char in CONTROLS])
    def test_no_control_character_passes(self, field: str, gate: Callable[[str], bytes], control: str) -> None:
        for text in (f"a{control}b", f"{control}ab", f"ab{control}"):
            with pytest.raises(InvalidInput) as caught:
                gate(text)
            assert caught.value.field == field
            assert control not in str(caught.value)

    def test_no_second_command_passes(self, field: str, gate: Callable[[str], bytes]) -> None:
        with pytest.raises(InvalidInput):
            gate("a\r\nMAIL FROM:<evil@example.org>")

    def test_no_half_of_a_surrogate_pair_passes(self, field: str, gate: Callable[[str], bytes]) -> None:
        with pytest.raises(InvalidInput) as caught:
            gate("a\udc80")
        assert caught.value.field == field


@given(st.text(), st.sampled_from(GATES))
@example("a\x85b", GATES[2])
@example("a\u2028b", GATES[12])
def test_what_passes_is_one_line(text: str, one: tuple[str, Callable[[str], bytes]]) -> None:
    try:
        line = one[1](text)
    except InvalidInput:
        return
    assert line.endswith(b"\r\n")
    assert not re.search(rb"[\x00-\x1f\x7f]", line[:-2])


@pytest.mark.parametrize(
    "gate",
    [
        lambda text: command.mail(unchecked(text), {}),
        lambda text: command.rcpt(Recipient(unchecked(text)), {}),
        command.vrfy,
        command.expn,
        command.help_,
        command.auth_response,
        command.ehlo,
    ],
)
def test_nothing_outside_ascii_passes_without_smtputf8(gate: Callable[[str], bytes]) -> None:
    with pytest.raises(InvalidInput):
        gate("bjørn")


class TestLines:
    def test_hello(self) -> None:
        assert command.ehlo("client.example.org") == b"EHLO client.example.org\r\n"
        assert command.helo("[192.0.2.1]") == b"HELO [192.0.2.1]\r\n"
        assert command.ehlo("[IPv6:2001:db8::1]") == b"EHLO [IPv6:2001:db8::1]\r\n"
        assert command.ehlo("my_host") == b"EHLO my_host\r\n"

    @pytest.mark.parametrize(
        "name",
        ["", " ", "a b", "a\tb", "-a", "a-", ".a", "a.", "[1.2.3.4", "1.2.3.4]", "[]", "a<b", "x" * 256, "münchen"],
    )
    def test_an_impossible_client_name(self, name: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            command.check_client_name(name)
        assert caught.value.field == "client_name"

    def test_mail(self) -> None:
        assert command.mail(ANN, {}) == b"MAIL FROM:<ann@example.org>\r\n"
        assert command.mail(None, {}) == b"MAIL FROM:<>\r\n"
        values = {"SIZE": "5", "SMTPUTF8": None, "BODY": "8BITMIME"}
        assert command.mail(ANN, values) == b"MAIL FROM:<ann@example.org> SIZE=5 SMTPUTF8 BODY=8BITMIME\r\n"
        assert command.mail(Address("bjørn"), {}, True) == "MAIL FROM:<bjørn>\r\n".encode()
        assert command.mail(Address("a b", "example.org"), {}) == b'MAIL FROM:<"a b"@example.org>\r\n'
        assert command.mail(Address("ann", "münchen.example"), {}) == b"MAIL FROM:<ann@xn--mnchen-3ya.example>\r\n"

    def test_rcpt(self) -> None:
        assert command.rcpt(Recipient(ANN), {"NOTIFY": "NEVER"}) == b"RCPT TO:<ann@example.org> NOTIFY=NEVER\r\n"

    def test_a_bracket_in_a_local_part_is_quoted(self) -> None:
        sender = Address("a> SIZE=1", "example.org")
        assert command.mail(sender, {}) == b'MAIL FROM:<"a> SIZE=1"@example.org>\r\n'

    @pytest.mark.parametrize("keyword", ["", "A B", "-A", "A=B", "A_B", "Ä", "A\n"])
    def test_an_impossible_keyword(self, keyword: str) -> None:
        with pytest.raises(InvalidInput):
            command.parameters({keyword: "1"})

    @pytest.mark.parametrize("value", ["", "a b", "a=b", "ä", "a\n", "a\0"])
    def test_an_impossible_value(self, value: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            command.parameters({"SIZE": value})
        assert caught.value.field == "SIZE"

    def test_auth(self) -> None:
        assert command.auth("CRAM-MD5") == b"AUTH CRAM-MD5\r\n"
        assert command.auth("PLAIN", "AGE=") == b"AUTH PLAIN AGE=\r\n"
        assert command.auth("EXTERNAL", "=") == b"AUTH EXTERNAL =\r\n"
        assert command.auth_response("") == b"\r\n"
        assert command.auth_response("*") == b"*\r\n"

    @pytest.mark.parametrize("name", ["", "plain", "A B", "X" * 21])
    def test_an_impossible_mechanism(self, name: str) -> None:
        with pytest.raises(InvalidInput):
            command.auth(name)

    def test_asking(self) -> None:
        assert command.vrfy("Ann Example") == b"VRFY Ann Example\r\n"
        assert command.vrfy(Made("Ann")) + command.expn(Made("a")) + command.help_(Made("b")) == (
            b"VRFY Ann\r\nEXPN a\r\nHELP b\r\n"
        )
        assert command.vrfy("bjørn", utf8=True) == "VRFY bjørn SMTPUTF8\r\n".encode()
        assert command.expn("staff") == b"EXPN staff\r\n"
        assert command.help_() == b"HELP\r\n"
        assert command.help_("MAIL") == b"HELP MAIL\r\n"


class TestLimits:
    @pytest.mark.parametrize(
        ("gate", "limit", "rest"),
        [
            (command.expn, command.MAX_LINE, len("EXPN \r\n")),
            (command.vrfy, command.MAX_LINE, len("VRFY \r\n")),
            (command.help_, command.MAX_LINE, len("HELP \r\n")),
            (lambda text: command.mail(None, {"X": text}), command.MAX_MAIL, len("MAIL FROM:<> X=\r\n")),
            (
                lambda text: command.rcpt(Recipient(Address("a")), {"X": text}),
                command.MAX_RCPT,
                len("RCPT TO:<a> X=\r\n"),
            ),
            (lambda text: command.auth("PLAIN", text), command.MAX_AUTH, len("AUTH PLAIN \r\n")),
            (command.auth_response, command.MAX_AUTH, len("\r\n")),
        ],
    )
    def test_a_line_is_as_long_as_it_may_be_and_no_longer(
        self, gate: Callable[[str], bytes], limit: int, rest: int
    ) -> None:
        assert len(gate("x" * (limit - rest))) == limit
        with pytest.raises(InvalidInput, match=str(limit)):
            gate("x" * (limit - rest + 1))

    def test_octets_count_and_not_characters(self) -> None:
        with pytest.raises(InvalidInput):
            command.vrfy("ø" * 300, utf8=True)

    def test_the_longest_envelope_fits(self) -> None:
        longest = Address("l" * 64, ".".join(["d" * 63] * 2 + ["d" * 59]))
        values = {"SIZE": "9" * 20, "BODY": "8BITMIME", "SMTPUTF8": None, "RET": "HDRS", "ENVID": "+20" * 100}
        assert command.mail(longest, values)
        assert command.rcpt(Recipient(longest), {"NOTIFY": "SUCCESS,FAILURE,DELAY", "ORCPT": "rfc822;" + "x" * 400})


def simple(content: bytes) -> bytes:
    """The reference: RFC 5321 4.5.2, line by line."""
    return b"".join(b"." + line if line.startswith(b".") else line for line in content.splitlines(keepends=True))


lines = st.lists(st.text("ab.", max_size=4).map(str.encode), max_size=8).map(
    lambda found: b"".join(line + b"\r\n" for line in found)
)


class TestStuffed:
    @pytest.mark.parametrize("content", [b"", b".\r\n", b"..\r\n", b"a\r\n.\r\n.b\r\n\r\n..\r\n", b"a.\r\n.a\r\n"])
    def test_chunk_borders_everywhere(self, content: bytes) -> None:
        wanted = simple(content)
        assert b"".join(command.stuffed([content])) == wanted
        assert b"".join(command.stuffed(bytes([octet]) for octet in content)) == wanted
        for first in range(len(content) + 1):
            for second in range(first, len(content) + 1):
                chunks = [content[:first], content[first:second], b"", content[second:]]
                assert b"".join(command.stuffed(chunks)) == wanted

    @given(lines, st.lists(st.integers(0, 60), max_size=6))
    def test_chunks_make_no_difference(self, content: bytes, cuts: list[int]) -> None:
        borders = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
        chunks = [content[a:b] for a, b in pairwise(borders)]
        found = b"".join(command.stuffed(chunks))
        assert found == simple(content)
        assert b"\r\n.\r\n" not in b"\r\n" + found

    def test_a_chunk_without_dots_is_handed_on_as_it_is(self) -> None:
        chunk = b"a\r\nb\r\n" * 10
        assert next(command.stuffed([chunk])) is chunk
