"""Addresses: what is understood, what is written on the wire, and what can never be one."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpbackend.address import Address, addresses_in_field, parse_addresses
from smtpbackend.errors import Injection, InvalidInput


@pytest.mark.parametrize(
    ("text", "local_part", "domain", "display_name", "addr_spec"),
    [
        ("ann@example.org", "ann", "example.org", "", "ann@example.org"),
        (" ann@example.org ", "ann", "example.org", "", "ann@example.org"),
        ("<ann@example.org>", "ann", "example.org", "", "ann@example.org"),
        ("Ann <ann@example.org>", "ann", "example.org", "Ann", "ann@example.org"),
        ("Ann Lee<ann@example.org>", "ann", "example.org", "Ann Lee", "ann@example.org"),
        ("John Q. Public <j@example.org>", "j", "example.org", "John Q. Public", "j@example.org"),
        ('"Lee, Ann" <ann@example.org>', "ann", "example.org", "Lee, Ann", "ann@example.org"),
        (r'"a \"b\" \\c" <ann@example.org>', "ann", "example.org", r'a "b" \c', "ann@example.org"),
        ("Jörg 日本 <ann@example.org>", "ann", "example.org", "Jörg 日本", "ann@example.org"),
        ("[list] Ann <ann@example.org>", "ann", "example.org", "[list] Ann", "ann@example.org"),
        ('"ann lee"@example.org', "ann lee", "example.org", "", '"ann lee"@example.org'),
        ('"ann"@example.org', "ann", "example.org", "", "ann@example.org"),
        (r'"a\"b\\c"@example.org', r'a"b\c', "example.org", "", r'"a\"b\\c"@example.org'),
        ('"a@b"@example.org', "a@b", "example.org", "", '"a@b"@example.org'),
        ("a..b@example.org", "a..b", "example.org", "", '"a..b"@example.org'),
        ("ann.@example.org", "ann.", "example.org", "", '"ann."@example.org'),
        ("ann@[127.0.0.1]", "ann", "[127.0.0.1]", "", "ann@[127.0.0.1]"),
        ("ann@[IPv6:2001:db8::1]", "ann", "[IPv6:2001:db8::1]", "", "ann@[IPv6:2001:db8::1]"),
        ("ann@[x400:c=de]", "ann", "[x400:c=de]", "", "ann@[x400:c=de]"),
        ("ann@bücher.example", "ann", "bücher.example", "", "ann@xn--bcher-kva.example"),
        ("ann@BÜCHER.example", "ann", "BÜCHER.example", "", "ann@xn--bcher-kva.example"),
        ("ann@straße.example", "ann", "straße.example", "", "ann@xn--strae-oqa.example"),
        ("ann@例え。テスト", "ann", "例え。テスト", "", "ann@xn--r8jz45g.xn--zckzah"),
        ("ann@xn--bcher-kva.example", "ann", "xn--bcher-kva.example", "", "ann@xn--bcher-kva.example"),
        ("ann@XN--bcher-KVA.bücher", "ann", "XN--bcher-KVA.bücher", "", "ann@xn--bcher-kva.xn--bcher-kva"),
        ("jörg@example.org", "jörg", "example.org", "", "jörg@example.org"),
        ("ann@my_host.example", "ann", "my_host.example", "", "ann@my_host.example"),
        ("root", "root", "", "", "root"),
        ("Root <root>", "root", "", "Root", "root"),
        ("a (one (two) \\) three) @ b (c) . org", "a", "b.org", "", "a@b.org"),
        ("ann@example.org (Ann Lee)", "ann", "example.org", "", "ann@example.org"),
        ('a . "b c" @ example . org', "a.b c", "example.org", "", '"a.b c"@example.org'),
        ("Ann\t<ann@example.org>", "ann", "example.org", "Ann", "ann@example.org"),
    ],
)
def test_an_address_is_understood(text: str, local_part: str, domain: str, display_name: str, addr_spec: str) -> None:
    """Names, quotes, comments, literals, IDNA, UTF-8: parts in their meaning, and the form for the wire."""
    address = Address.parse(text)
    assert (address.local_part, address.domain, address.display_name) == (local_part, domain, display_name)
    assert address.addr_spec == addr_spec == str(address)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "<>",
            "@",
            "@example.org",
            "ann@",
            "ann@@example.org",
            "a@b@c",
            "<ann@example.org",
            "ann@example.org>",
        ),
        *("ann lee@example.org", "ann@example.org.", "ann@.org", "ann@exa mple.org", "ann@-example.org", "ann@a..b"),
        *("ann@[127.0.0.1", "ann@[300.0.0.1]", "ann@[IPv6:xyz]", "ann@[IPv6:fe80::1%eth0]", "ann@[]", "ann@127.0.0.1]"),
        *(
            '"ann@example.org',
            "(ann@example.org",
            "ann@example.org (",
            "ann@exämple..org",
            "ann@℀.org",
            "ann@☃.example",
        ),
        *("ann@example.org bob@example.org", "ann@x.org <bob@x.org>", "a@b, c@d", "friends: a@b", "a: b: c;;", "a@b;"),
        *("ann@exa<mple.org", "a[b]@example.org", "ann@" + "é" * 64 + ".org", "\\@example.org", 'a"b"@example.org'),
        *(
            "a" * 65 + "@example.org",
            "ann@" + "a" * 64 + ".org",
            "ann@" + ".".join(["a" * 60] * 5),
            "é" * 33 + "@x.org",
        ),
    ],
)
def test_what_is_no_address_raises_and_names_the_field(text: str) -> None:
    """InvalidInput, which is a ValueError and no OSError, with the name of the argument."""
    with pytest.raises(InvalidInput, match="sender: ") as raised:
        Address.parse(text, "sender")
    assert raised.value.field == "sender"
    assert not isinstance(raised.value, OSError)


@pytest.mark.parametrize("character", [*map(chr, [*range(32), *range(0x7F, 0xA0)]), "\u2028", "\u2029", "\ud800"])
def test_control_characters_are_impossible(character: str) -> None:
    """C0, DEL, C1, line separators and halves of surrogate pairs: in no part, quoted or not."""
    for parts in ((f"a{character}b", "x.org"), ("a", f"x{character}.org"), ("a", "x.org", f"A{character}")):
        with pytest.raises(InvalidInput):
            Address(*parts)
    texts = (f"a{character}b@x.org", f'"a{character}b"@x.org', f"a@x.org{character}y", f'"A{character}" <a@x.org>')
    for text in texts if character != "\t" else texts[:2]:
        with pytest.raises(InvalidInput):
            Address.parse(text)


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\r\nRCPT TO:<eve@example.org>\r\n"])
def test_an_injection_is_told_from_what_is_badly_written(character: str) -> None:
    """CR, LF and NUL, in any part, in text or in a header: nobody writes them by mistake."""
    for parts in ((f"a{character}b", "x.org"), ("a", f"x{character}.org"), ("a", "x.org", f"A{character}")):
        with pytest.raises(Injection):
            Address(*parts)
    for text in (f"a{character}b@x.org", f'"a{character}b"@x.org', f"a@x.org{character}y", f'"A{character}" <a@x.org>'):
        with pytest.raises(Injection) as raised:
            parse_addresses([text], "to")
        assert raised.value.field == "to"
        with pytest.raises(Injection):
            addresses_in_field("To", text)
    for text in ("a@b@c", "a\x01b@x.org", "ann@", ""):
        with pytest.raises(InvalidInput) as other:
            Address.parse(text)
        assert not isinstance(other.value, Injection)


def test_what_is_no_str_is_refused() -> None:
    """A number, bytes or None is no address."""
    for value in (1, b"a@b", None, [1]):
        with pytest.raises(InvalidInput):
            parse_addresses(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Address(1, "x.org")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="before the @"):
        Address("", "x.org")


def test_the_longest_address_is_an_address() -> None:
    """64 octets, @ and 189 octets are 254: a path of 256 (RFC 5321 4.5.3.1)."""
    domain = ".".join(["a" * 62, "b" * 62, "c" * 63])
    assert Address.parse(f"{'x' * 64}@{domain}").addr_spec == f"{'x' * 64}@{domain}"
    with pytest.raises(InvalidInput, match="254 octets"):
        Address.parse(f"{'x' * 64}@{domain}.d")
    with pytest.raises(InvalidInput, match="over 254"):
        parse_addresses([f"{'x' * 60}@{domain}.abcdefgh"])


def test_lists_and_groups_are_flattened_in_order() -> None:
    """Commas, groups, empty elements and nested iterables."""
    found = parse_addresses('a@x.org, Friends: Bob <b@x.org>, c@x.org;, , "D, E" <d@x.org>,')
    assert [str(one) for one in found] == ["a@x.org", "b@x.org", "c@x.org", "d@x.org"]
    assert parse_addresses("undisclosed-recipients:;") == []
    assert parse_addresses("") == []
    mixed = ["a@x.org, b@x.org", Address("c", "x.org"), '"d e"@x.org']
    assert [str(one) for one in parse_addresses(mixed)] == ["a@x.org", "b@x.org", "c@x.org", '"d e"@x.org']
    assert parse_addresses(Address("c", "x.org")) == [Address("c", "x.org")]


def test_addresses_of_the_email_package_are_taken() -> None:
    """email.headerregistry.Address, as Django 6 allows it."""
    from email.headerregistry import Address as StdAddress

    std = StdAddress("Ann", "ann lee", "example.org")
    assert parse_addresses([std]) == parse_addresses(std) == [Address("ann lee", "example.org", "Ann")]  # type: ignore[list-item,arg-type]


def test_smtputf8_is_needed_for_the_local_part_alone() -> None:
    """The domain and the name have an ASCII form, the local part has none."""
    assert Address.parse("Jörg <jörg@example.org>").needs_smtputf8
    assert not Address.parse("Jörg <jorg@exämple.org>").needs_smtputf8


def test_the_key_tells_duplicates() -> None:
    """The case of a local part matters, that of a domain does not; U-labels are A-labels."""
    assert Address.parse("ann@EXAMPLE.org").key == Address.parse("Ann <ann@example.org>").key
    assert Address.parse("ann@bücher.example").key == Address.parse("ann@XN--bcher-kva.example").key
    assert Address.parse("Ann@example.org").key != Address.parse("ann@example.org").key


def test_values_pickle_copy_and_hash() -> None:
    """An Address is a value."""
    for text in ("ann@example.org", "Jörg <jörg@bücher.example>"):
        address = Address.parse(text)
        assert pickle.loads(pickle.dumps(address)) == copy.deepcopy(address) == address
        assert pickle.loads(pickle.dumps(address)).addr_spec == address.addr_spec
        assert len({address, Address(address.local_part, address.domain, address.display_name)}) == 1


def test_the_fast_path_and_the_parser_agree() -> None:
    """A plain address goes one way, the same in brackets the other."""
    for text in ("ann@example.org", "a.b+c@x", "a@" + "b" * 63):
        assert Address.parse(text) == Address.parse(f"<{text}>") == parse_addresses([text])[0]


def test_headers_as_the_email_package_stores_them() -> None:
    """Folded, raw UTF-8 as surrogates, header objects of both kinds."""
    from email.header import Header
    from email.message import EmailMessage

    assert [str(one) for one in addresses_in_field("To", "a@x.org,\r\n b@x.org")] == ["a@x.org", "b@x.org"]
    raw = "jörg@x.org".encode().decode("ascii", "surrogateescape")
    assert addresses_in_field("To", raw) == [Address("jörg", "x.org")]
    message = EmailMessage()
    message["To"] = '"Lee, Ann" <a@x.org>'
    assert addresses_in_field("To", message["To"]) == [Address("a", "x.org", "Lee, Ann")]
    assert [str(one) for one in addresses_in_field("To", Header("a@x.org"))] == ["a@x.org"]
    for bad in (
        "a@x.org\r\nRCPT TO:<b@x.org>",
        "a@x.org\n",
        "\xff@x.org".encode("latin-1").decode("ascii", "surrogateescape"),
    ):
        with pytest.raises(InvalidInput) as raised:
            addresses_in_field("To", bad)
        assert raised.value.field == "To"


@given(st.text())
@example('"' * 50)
@example("(" * 5000)
@example("<" * 50)
@example('"\\' * 20)
@example("a" * 5000 + "@")
def test_any_text_is_an_address_list_or_invalid_input(text: str) -> None:
    """No other exception, and what is understood can be written and read again."""
    try:
        found = parse_addresses(text)
    except InvalidInput:
        return
    for address in found:
        again = Address.parse(address.addr_spec)
        assert again.key == address.key
        assert "\r" not in str(again)
        assert "\n" not in str(again)


@given(st.text(alphabet='ab.@<>(),:;"\\[] \té1'))
def test_any_punctuation_is_an_address_list_or_invalid_input(text: str) -> None:
    """The same with what addresses are made of."""
    test_any_text_is_an_address_list_or_invalid_input.hypothesis.inner_test(text)  # type: ignore[attr-defined]


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=16), st.text(max_size=9)
)
def test_every_local_part_survives_the_wire(local_part: str, name: str) -> None:
    """Quoting is undone by parsing."""
    try:
        address = Address(local_part, "example.org", name)
    except InvalidInput:
        return
    assert Address.parse(address.addr_spec).local_part == local_part
