"""DKIM signatures: what is signed, which keys are taken, and what is said of those that are not."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpbackend import Address, mime
from smtpbackend.content import Content
from smtpbackend.delivery.configuration import configure
from smtpbackend.delivery.dkim import relaxed_body, signed, signers
from smtpbackend.errors import InvalidInput, InvalidSetting
from tests.dkim_keys import DkimKeys, pem, verifies

DATE = datetime(2026, 9, 1, 12, tzinfo=UTC)
MAIL = b"From: ann@example.org\r\nTo: bob@example.com\r\nSubject: Hi \r\n there\r\n\r\nHello  \t you \r\n\r\n\r\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> DkimKeys:
    return DkimKeys(tmp_path_factory.mktemp("dkim"))


def sign(content: bytes | Content, *given: dict[str, Any]) -> bytes:
    if isinstance(content, bytes):
        content = mime.given(content)
    return b"".join(signed(content, signers("dkim", list(given)), DATE).chunks())


def refused(setting: Any) -> str:
    with pytest.raises(InvalidSetting) as raised:
        configure({"host": "localhost", "dkim": setting})
    assert raised.value.field in ("dkim", "domian")
    return str(raised.value)


@pytest.mark.parametrize("kind", ["rsa", "rsa_pkcs1", "ed25519"])
@pytest.mark.parametrize("as_path", [True, False])
def test_the_field_stands_in_front_and_verifies(keys: DkimKeys, kind: str, as_path: bool) -> None:
    """RFC 6376, RFC 8463; t= is the time that was given."""
    octets = sign(MAIL, keys.setting(kind, as_path=as_path))
    assert octets.startswith(b"DKIM-Signature: v=1; a=" + (b"ed25519" if kind == "ed25519" else b"rsa") + b"-sha256; ")
    assert octets.endswith(MAIL)
    assert b"t=1788264000;" in octets.replace(b"\r\n ", b"")
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    assert verifies(octets, keys)
    assert not verifies(octets.replace(b"Hello", b"Hallo"), keys)
    assert not verifies(octets.replace(b"Hi", b"Ho"), keys)
    assert not verifies(octets.replace(b"From:", b"From: eve@example.net\r\nFrom:"), keys)


def test_both_kinds_at_once(keys: DkimKeys) -> None:
    """RFC 8463 3: those who do not know Ed25519 read the other."""
    octets = sign(MAIL, keys.setting("rsa"), keys.setting("ed25519"))
    assert octets.count(b"DKIM-Signature:") == 2
    assert verifies(octets, keys, 0)
    assert verifies(octets, keys, 1)


def test_a_path_object_and_octets_are_keys_too(keys: DkimKeys) -> None:
    setting = keys.setting("rsa")
    assert verifies(sign(MAIL, {**setting, "key": Path(setting["key"])}), keys)
    assert verifies(sign(MAIL, {**setting, "key": Path(setting["key"]).read_bytes()}), keys)


def test_the_key_of_rfc_8463_in_base64(keys: DkimKeys, tmp_path: Path) -> None:
    """The form that dkimpy's dknewkey writes. RFC 8463 A.2."""
    path = tmp_path / "ed25519.key"
    path.write_text("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n")
    (signer,) = signers("dkim", {**keys.setting("ed25519"), "key": path})
    public = base64.b64encode(bytes(signer._key.verify_key))
    assert public == b"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def test_which_fields_are_signed(keys: DkimKeys) -> None:
    """Each as often as it stands there, From once more; those that are asked for alone, but From always."""
    default = sign(MAIL, keys.setting("rsa")).replace(b"\r\n ", b"")
    assert b"; h=from : subject : to : from;" in default.replace(b"  ", b" ")
    own = sign(MAIL, {**keys.setting("rsa"), "headers": ["Subject", "X-None"]})
    assert b"; h=from : subject : from;" in own.replace(b"\r\n ", b"").replace(b"  ", b" ")
    assert verifies(own.replace(b"To: bob", b"To: joe"), keys)


@pytest.mark.parametrize(
    "content",
    [
        b"From: a@example.org\r\n\r\n",
        b"From: a@example.org\r\n",
        b"From: a@example.org\r\n\r\n\r\n \r\n",
        b"From: a@example.org\nSubject:\tx \t y\n\n.dot\n..\nlast",
        b"From: a@example.org\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n" + b"y " * 70_000,
        "From: jürgen@exämple.com\r\nSubject: Grüße\r\n\r\nGrüße\r\n".encode(),
    ],
)
def test_any_content(keys: DkimKeys, content: bytes) -> None:
    assert verifies(sign(content, keys.setting("rsa")), keys)


def test_without_an_author_there_is_nothing_to_sign(keys: DkimKeys) -> None:
    with pytest.raises(InvalidInput, match="no From field"):
        sign(b"To: bob@example.com\r\n\r\nx\r\n", keys.setting("rsa"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"x", b"yz "]), max_size=30), st.integers(1, 9))
def test_the_body_is_made_canonical_as_the_library_does_it_whatever_the_chunks(parts: list[bytes], step: int) -> None:
    """RFC 6376 3.4.4"""
    body = b"".join(parts) + b"\r\n"
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    assert b"".join(relaxed_body(chunks)) == Relaxed.canonicalize_body(body)


def test_a_large_file_is_not_read_into_memory(keys: DkimKeys, tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "large.eml"
    with path.open("wb") as file:
        file.write(b"From: a@example.org\r\n\r\n")
        for _ in range(1000):
            file.write(b"0123456789abcde\r\n" * 1000)
    content = mime.given(path)
    ours = signers("dkim", keys.setting("rsa"))
    tracemalloc.start()
    try:
        signed(content, ours, DATE)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_the_key_is_in_no_repr(keys: DkimKeys) -> None:
    for kind in ("rsa", "ed25519"):
        configuration = configure({"host": "localhost", "dkim": keys.setting(kind, as_path=False)})
        assert "example.org" in repr(configuration)
        assert "BEGIN" not in repr(configuration)
        assert not any(line in repr(configuration) for line in keys.text(kind).split("\n")[1:-2])


class TestWrong:
    def test_paths_and_files(self, keys: DkimKeys, tmp_path: Path) -> None:
        """The path and the name of the setting, when the mailer is made."""
        missing = str(tmp_path / "missing.pem")
        assert refused({**keys.setting("rsa"), "key": missing}).startswith(f"dkim key {missing!r} cannot be read: ")
        assert refused({**keys.setting("rsa"), "key": str(tmp_path)}).startswith(f"dkim key {str(tmp_path)!r} cannot")
        junk = tmp_path / "junk.pem"
        junk.write_bytes(b"\xff\x00 no key")
        assert refused({**keys.setting("rsa"), "key": junk}) == (
            f"dkim key {str(junk)!r} is not a private key in PEM (-----BEGIN PRIVATE KEY-----)"
        )

    @pytest.mark.parametrize(
        ("key", "why"),
        [
            ("", "dkim key is missing"),
            (None, "dkim key is missing"),
            (7, "dkim key is missing"),
            (pem(ec.generate_private_key(ec.SECP256R1())), "dkim key is neither an RSA nor an Ed25519 key"),
            ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "dkim key is neither"),
            ("-----BEGIN PRIVATE KEY-----\nsecret", "dkim key is not a private key in PEM"),
        ],
    )
    def test_keys(self, keys: DkimKeys, key: Any, why: str) -> None:
        text = refused({**keys.setting("rsa"), "key": key})
        assert text.startswith(why)
        assert "secret" not in text
        assert "c2Vj" not in text

    def test_an_encrypted_key(self, keys: DkimKeys) -> None:
        private = keys.private["rsa"]
        secret = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        ).decode()
        assert "dkim key is encrypted" in refused({**keys.setting("rsa"), "key": secret})

    def test_a_key_that_is_too_short(self, keys: DkimKeys) -> None:
        """RFC 8301 3.2"""
        assert "dkim key has 512 bits" in refused({**keys.setting("rsa"), "key": keys.short_rsa})

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"domain": None}, "dkim domain is missing"),
            ({"domain": "example.org; x=y"}, "is not a domain name"),
            ({"domain": "exa\r\nmple.org"}, "is not a domain name"),
            ({"domain": "ex ämple"}, "is not a domain name"),
            ({"selector": ""}, "dkim selector is missing"),
            ({"selector": "a;b"}, "dkim selector 'a;b' is not"),
            ({"headers": ["Sub ject"]}, "dkim headers must be a list of field names"),
            ({"headers": 5}, "dkim headers must be a list of field names"),
            ({"headers": "Received"}, "dkim headers has received"),
            ({"domian": "x"}, "unknown dkim key 'domian'; did you mean 'domain'?"),
        ],
    )
    def test_everything_else(self, keys: DkimKeys, change: dict[str, Any], why: str) -> None:
        assert why in refused({**keys.setting("rsa"), **change})

    @pytest.mark.parametrize("value", ["example.org", 5, ["x"]])
    def test_what_is_no_mapping(self, value: Any) -> None:
        assert "dkim must be a mapping" in refused(value)


@pytest.mark.parametrize("domain", ["exämple.com", "faß.example", "i❤.example"])
def test_an_idn_is_signed_as_the_a_labels_of_an_address(keys: DkimKeys, domain: str) -> None:
    wanted = Address("ann", domain).ascii_domain
    assert f"d={wanted};".encode() in sign(MAIL, {**keys.setting("rsa"), "domain": domain})


@pytest.mark.parametrize(("module", "kind"), [("dkim", "rsa"), ("nacl.signing", "ed25519")])
def test_a_missing_extra_gives_its_command(keys: DkimKeys, module: str, kind: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from smtpbackend import Mailer\n"
        "from smtpbackend.errors import MissingExtra\n"
        "try:\n"
        f"    Mailer('localhost', dkim={keys.setting(kind)!r})\n"
        "except MissingExtra as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert 'pip install "smtpbackend[dkim]"' in done.stdout


def chunked(octets: bytes) -> Iterator[bytes]:
    yield from (octets[start : start + 3] for start in range(0, len(octets), 3))


def test_a_one_shot_source_is_signed_and_sent(keys: DkimKeys) -> None:
    assert verifies(sign(mime.given(chunked(MAIL)), keys.setting("rsa")), keys)
