"""Addresses: what is understood, what is written on the wire, and what can never be one."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import example, given, settings
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
        ("a (one (two) \\) three) @ b (c) . org", "a", "b.org", "one (two) ) three c", "a@b.org"),
        ("ann@example.org (Ann Lee)", "ann", "example.org", "Ann Lee", "ann@example.org"),
        ("(office) Ann <ann@example.org> (new)", "ann", "example.org", "Ann (office)", "ann@example.org"),
        ("ann@example.org ()", "ann", "example.org", "", "ann@example.org"),
        ("ann@i❤.example", "ann", "i❤.example", "", "ann@xn--i-7iq.example"),
        ("ann@💩.straße.example", "ann", "💩.straße.example", "", "ann@xn--ls8h.xn--strae-oqa.example"),
        ('"Ann\tLee" <ann@example.org>', "ann", "example.org", "Ann Lee", "ann@example.org"),
        ("Ann O\x92Lee <ann@example.org>", "ann", "example.org", "Ann O\x92Lee", "ann@example.org"),
        ("reply+" + "k" * 90 + "@example.org", "reply+" + "k" * 90, "example.org", "", f"reply+{'k' * 90}@example.org"),
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
            "ann@xn--☃.example",
            "ann@\u2028.example",
            "ann@" + "☃" * 300,
        ),
        *("ann@example.org bob@example.org", "ann@x.org <bob@x.org>", "a@b, c@d", "friends: a@b", "a: b: c;;", "a@b;"),
        *("ann@exa<mple.org", "a[b]@example.org", "ann@" + "é" * 64 + ".org", "\\@example.org", 'a"b"@example.org'),
        *("ann@" + "a" * 64 + ".org", "ann@" + ".".join(["a" * 60] * 5), "é" * 247 + "@x.org", "a" * 500),
        *("ann＠example.org", "ann﹫example.org", "Ann <ann＠example.org>", "ann＠home@example.org", "＠"),
        *("=?utf-8?q?B=C3=BCcher_=3Cann=40example=2Eorg=3E?=", "Smith, Ann <ann@example.org>"),
    ],
)
def test_what_is_no_address_raises_and_names_the_field(text: str) -> None:
    """InvalidInput, which is a ValueError and no OSError, with the name of the argument."""
    with pytest.raises(InvalidInput, match="sender: ") as raised:
        Address.parse(text, "sender")
    assert raised.value.field == "sender"
    assert not isinstance(raised.value, OSError)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' has no address in it"),
        ("Ann Lee", "it has no @"),
        ("ann at example.org", "it has no @"),
        ("@example.org", "nothing stands before the @"),
        ("user@", "nothing stands after the @"),
        ("Ann <user@>", "nothing stands after the @"),
        ("user7@@example.org", "it has more than one @"),
        ("a@b@example.org", "it has more than one @"),
        ("Ann <a@b@example.org>", "it has more than one @"),
        ("a b@example.org", "white space stands before the @; behind a name the address stands in <>"),
        ("Ann ann@example.org", "white space stands before the @; behind a name the address stands in <>"),
        ("a@exa mple.org", "white space stands in the domain"),
        ("ann@example.org bob@example.org", "addresses are separated by commas"),
        ("ann@example.org; bob@example.org", "';' ends a group, and none was begun; addresses are separated by commas"),
        ("<user@example.org", "'<' without '>'"),
        ("Ann <user@example.org", "'<' without '>'"),
        ("user@example.org>", "'>' without '<'"),
        ("Ann <<ann@example.org>>", "'<' stands in '<'"),
        ("Ann <>", "nothing stands between '<' and '>'"),
        ("ann@x.org <ann@x.org>", "a name that has an @ in it stands in quotes"),
        ('"Ann <ann@example.org>', "a quotation mark is not closed"),
        ('Ann" <ann@example.org>', "a quotation mark is not closed"),
        ('a"b"@example.org', "quotes stand around a part of what is before the @"),
        ('ann@"example".org', "a quotation mark stands in the domain"),
        ("Ann (Lee <ann@example.org>", "a comment, which begins with '(', does not end"),
        ("Ann Lee) <ann@example.org>", "')' without '('"),
        ("ann@[192.0.2.1", "'[' without ']'"),
        ("ann@192.0.2.1]", "']' without '['"),
        ("[192.0.2.1]@example.org", "an address literal stands after the @"),
        ("ann\\@example.org", "a backslash stands outside of quotes"),
        ("ann@example.org:25", "a ':' stands behind it"),
        ("friends: ann@example.org", "the group that ':' begins does not end in ';'"),
        ("mailto:ann@example.org", "'mailto:' belongs to a link"),
    ],
)
def test_what_is_wrong_with_the_text_is_told(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Address.parse(text, "to")
    expected = why if not text else f"{text!r} is not an address: {why}"
    assert str(raised.value) == f"to: {expected}"


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        ("example..org", "it has two dots in a row"),
        ("exämple..org", "it has two dots in a row"),
        (".example.org", "it begins or ends with a dot"),
        ("example.org.", "it begins or ends with a dot"),
        ("-x.example", "'-x' begins or ends with '-'"),
        ("x-.example", "'x-' begins or ends with '-'"),
        ("exa$mple.org", "it has '$' in it"),
        ("exam/ple.org", "it has '/' in it"),
        ("\xad", "it is empty"),
        ("a" * 64 + ".org", f"{'a' * 20!r}... has more than 63 octets"),
        ("a." * 200 + "org", "it has more than 255 octets"),
    ],
)
def test_what_is_wrong_with_the_domain_is_told(domain: str, why: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Address.parse(f"user@{domain}", "to")
    assert str(raised.value) == f"to: {domain[:255]!r} is not a domain name: {why}"


@pytest.mark.parametrize("text", ["user.@example.org", ".user@example.org", "us..er@example.org"])
def test_dots_that_the_grammar_does_not_have_are_quoted(text: str) -> None:
    """There are such mailboxes, at telephone companies; RFC 5321 4.1.2 has a form for them."""
    local_part, _, domain = text.partition("@")
    assert Address.parse(text).addr_spec == f'"{local_part}"@{domain}'


@pytest.mark.parametrize("character", [*map(chr, [*range(32), *range(0x7F, 0xA0)]), "\u2028", "\u2029", "\ud800"])
def test_control_characters_are_in_no_address(character: str) -> None:
    """C0, DEL, C1, line separators and halves of surrogate pairs: neither before nor behind the @, quoted or not."""
    for parts in ((f"a{character}b", "x.org"), ("a", f"x{character}.org")):
        with pytest.raises(InvalidInput):
            Address(*parts)
    for text in (f"a{character}b@x.org", f'"a{character}b"@x.org', f"a@x.org{character}y"):
        with pytest.raises(InvalidInput):
            Address.parse(text)


@pytest.mark.parametrize("character", [*map(chr, [*range(1, 32), *range(0x7F, 0xA0)]), "\u2028", "\u2029", "\u200b"])
def test_a_name_may_have_what_was_pasted(character: str) -> None:
    """Tabs and their kind become blanks, what is beyond ASCII stays; line ends are refused, as are halves of pairs."""
    if character in "\r\n":
        return
    wanted = f"A{character if character > chr(0x7F) else ' '}B"
    for text in (f'"A{character}B" <a@x.org>', f"A{character}B <a@x.org>", f"a@x.org (A{character}B)"):
        assert Address.parse(text).display_name == wanted
    assert Address("a", "x.org", f"A{character}B").display_name == wanted
    assert parse_addresses((f"A{character}B", "a@x.org"))[0].display_name == wanted
    with pytest.raises(InvalidInput, match="surrogate"):
        Address("a", "x.org", "A\ud800")


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
    """How long one may be is for servers to judge (RFC 5321 4.5.3.1): what fits a command line is sent."""
    longest = 512 - len("RCPT TO:<@example.org>\r\n") - 2  # MAIL FROM is longer by two
    assert Address.parse(f"{'x' * longest}@example.org").addr_spec == f"{'x' * longest}@example.org"
    for text in (f"{'x' * longest}y@example.org", f'"{"x " * (longest // 2)}"@example.org'):
        with pytest.raises(InvalidInput, match=r"command line has room for 498 \(RFC 5321"):
            Address.parse(text)


def test_lists_and_groups_are_flattened_in_order() -> None:
    """Commas, groups and empty elements of one str."""
    found = parse_addresses('a@x.org, Friends: Bob <b@x.org>, c@x.org;, , "D, E" <d@x.org>,')
    assert [str(one) for one in found] == ["a@x.org", "b@x.org", "c@x.org", "d@x.org"]
    assert parse_addresses("undisclosed-recipients:;") == []
    assert parse_addresses("") == []
    mixed = ["a@x.org", Address("c", "x.org"), '"d e"@x.org', ("B", "b@x.org"), ["E", "e@x.org"]]
    assert [str(one) for one in parse_addresses(mixed)] == ["a@x.org", "c@x.org", '"d e"@x.org', "b@x.org", "e@x.org"]
    assert parse_addresses(Address("c", "x.org")) == [Address("c", "x.org")]
    assert parse_addresses("root, operator") == [Address("root"), Address("operator")]


@pytest.mark.parametrize(
    "element",
    [
        *("ann@bank.example, eve@evil.example", "x: ann@bank.example, eve@evil.example;", "ann@bank.example,root"),
        *("a@x.org;b@x.org", "", " ", "undisclosed-recipients:;", ("a", "b", "c@x.org"), ("a@x.org",), (), [], {}),
        *(None, 1, 1.5, True, b"a@x.org", ..., (None, None), ("Ann", None), ("Ann", 1), ("Ann", b"a@x.org")),
        *((1, "a@x.org"), ("Ann", ("Ann", "a@x.org")), ("Ann", "a@x.org, b@x.org"), ("Ann\n", "a@x.org")),
        {"Ann": "a@x.org", "b@x.org": 1},
    ],
    ids=repr,
)
def test_an_element_of_a_list_is_one_address(element: object) -> None:
    """It may come out of a form: it is never split, and what is no address is no recipient."""
    for several in ([element], ["bob@example.org", element], iter([element]), ("a@x.org", "b@x.org", element)):
        with pytest.raises(InvalidInput) as raised:
            parse_addresses(several, "to")
        assert raised.value.field == "to"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        *(
            (("Ann", "a@x.org"), ["Ann a@x.org"]),
            (("", "a@x.org"), [" a@x.org"]),
            (("@ann", "a@x.org"), ["@ann a@x.org"]),
        ),
        *((("Ann @ Acme", "a@x.org"), ["Ann @ Acme a@x.org"]), (("a@x.org", "a@x.org"), ["a@x.org a@x.org"])),
        *((("Lee, Ann", "a@x.org"), ["Lee, Ann a@x.org"]), (("Ann", Address("a", "x.org", "B")), ["Ann a@x.org"])),
        *((("Ann", "Bob <a@x.org>"), ["Ann a@x.org"]), (("", "Bob <a@x.org>"), ["Bob a@x.org"])),
        (("a@x.org", "b@x.org"), [" a@x.org", " b@x.org"]),
        (("Ann <a@x.org>", "b@x.org"), ["Ann a@x.org", " b@x.org"]),
        ((Address("a"), "b@x.org"), [" a", " b@x.org"]),
        (["root", "b@x.org"], [" root", " b@x.org"]),
        ([("a@x.org", "b@x.org")], ["a@x.org b@x.org"]),
        ([(None, "b@x.org")], [" b@x.org"]),
        ([("Ann", "ann")], ["Ann ann"]),
        ((("Ann", "a@x.org"), ("Bob", "b@x.org")), ["Ann a@x.org", "Bob b@x.org"]),
    ],
    ids=repr,
)
def test_a_pair_is_name_and_address(value: object, wanted: list[str]) -> None:
    """And two addresses are two: nobody becomes the name of somebody, and no name a mailbox."""
    assert [f"{one.display_name} {one}" for one in parse_addresses(value)] == wanted


@given(st.text(max_size=12), st.sampled_from(["a@x.org", "b@x.org", "root", "Ann <a@x.org>"]))
def test_no_tuple_sends_to_a_name(name: str, address: str) -> None:
    """Whatever stands first in a tuple of two: who gets mail has an @ there, or is the second one."""
    try:
        found = parse_addresses((name, address))
    except InvalidInput:
        return
    assert found[-1].key == Address.parse(address).key
    assert len(found) == 1 or "@" in name


def test_two_words_are_not_guessed() -> None:
    """("root", "admin") may be two mailboxes of this host, or the name of one."""
    with pytest.raises(InvalidInput, match=r"give a list, \['root', 'admin'\] or \[\('root', 'admin'\)\]"):
        parse_addresses(("root", "admin"))


@pytest.mark.parametrize("text", ["Smith, Bob <bob@example.org>", "Ann, Inc. <a@example.com>", "ann@x.org, root"])
def test_an_unquoted_comma_is_told_with_its_remedy(text: str) -> None:
    """It makes a mailbox without a domain of half a name: in a list, an element, a header and a parsed header."""
    from email.message import EmailMessage

    message = EmailMessage()
    message["To"] = text
    for value in (text, message["To"]):
        with pytest.raises(InvalidInput, match=r"stands in quotes.* as a pair"):
            addresses_in_field("To", value)
    for several in (text, [text], [("Bob", text)]):
        with pytest.raises(InvalidInput, match=r"stands in quotes.* as a pair"):
            parse_addresses(several)


@pytest.mark.parametrize("character", ["＠", "﹫"])
def test_an_at_that_is_none_is_named(character: str) -> None:
    """Typed with an input method, it would make a mailbox of this host."""
    with pytest.raises(InvalidInput, match=rf"{character}' \(U\+[0-9A-F]{{4}}\), which is not the @"):
        Address.parse(f"bob{character}example.org")


LABELS = st.sampled_from(
    [
        *("abc", "xn--bcher-kva", "bücher", "faß", "☃", "i❤", "💩", "日本", "ΣΑΣ", "א1", "ＥＸ"),
        *("👨\u200d👩", "a\u0301", "ab--☃", "℀", "1א", "\u2028", "ﬀ"),
    ]
)


@settings(deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=4), st.sampled_from(".。．"))
def test_a_domain_is_what_the_peers_send_or_what_idna_2008_says(labels: list[str], dot: str) -> None:
    """Whatever IDNA 2003 takes (Django, Flask-Mail) is taken here; where both take a label, 2008 names the host."""
    import idna

    domain = dot.join(labels)
    try:
        peers = domain.encode("idna").decode()
    except UnicodeError:
        peers = ""
    try:
        address = Address("ann", domain)
    except InvalidInput:
        assert not peers or "/" in peers
        return
    wanted = []
    for label in labels:
        try:
            wanted.append(label if label.isascii() else idna.encode(label, uts46=True).decode())
        except idna.IDNAError:
            wanted.append(label.encode("idna").decode())
    assert address.ascii_domain == ".".join(wanted)


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
    whole, name_alone = Header("Bøb <b@x.org>", "utf-8"), Header("Bøb, a@x.org", "utf-8")
    name_alone.append("<b@x.org>", "us-ascii")
    assert addresses_in_field("To", whole) == [Address("b", "x.org", "Bøb")] == parse_addresses([whole])
    assert (
        addresses_in_field("To", name_alone) == [Address("b", "x.org", "Bøb, a@x.org")] == parse_addresses(name_alone)
    )
    assert len(addresses_in_field("To", Header(", ".join(f"Bøb <b{n}@x.org>" for n in range(9)), "utf-8"))) == 9
    with pytest.raises(Injection):
        addresses_in_field("To", Header("Bøb <b@x.org>\nBcc: eve@x.org", "utf-8"))
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
