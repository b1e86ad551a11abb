"""The table of settings, and how each value is read. Adapters only map their framework's names to these.

A key belongs to a server or to the whole mailer. A server's key given at the top is the default of every server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from smtpbackend.delivery.setting_names import check_keys
from smtpbackend.errors import InvalidSetting
from smtpbackend.hiding import Secret
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.text import characters

__all__ = ["MAILER_KEYS", "SERVER_KEYS", "SETTINGS", "Setting", "flag", "read"]

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidSetting(f"{name} must be a string, not {type(value).__name__}", field=name)
    return value


def secret(name: str, value: Any) -> Secret:
    return Secret(_text(name, value))


def _path(name: str, value: Any) -> str:
    path = _text(name, value.__fspath__() if hasattr(value, "__fspath__") else value)
    if "\n" in path or "-----BEGIN" in path:
        raise InvalidSetting(f"{name} is the path of a PEM file, and was given the content of one", field=name)
    if "\0" in path:
        raise InvalidSetting(f"{name} has NUL in it, which no path has", field=name)
    return path


def flag(name: str, value: Any) -> bool:
    """Whether a setting is true; also as text, as the environment has it. Raises `InvalidSetting`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (word := value.strip().lower()) in _TRUE | _FALSE:
        return word in _TRUE
    raise InvalidSetting(f"{name} must be true or false, not {value!r}", field=name)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise InvalidSetting(f"{name} must be a number above 0, not {value!r}", field=name)
    return number


def _seconds(name: str, value: Any) -> float:
    return 0.0 if value in (0, "0") and not isinstance(value, bool) else _number(name, value)


def _count(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if isinstance(value, (bool, float)) or number < 1:
        raise InvalidSetting(f"{name} must be a whole number from 1, not {value!r}", field=name)
    return number


def _port(name: str, value: Any) -> int:
    number = _count(name, value)
    if number > 65535:
        raise InvalidSetting(f"{name} must be from 1 to 65535, not {number}", field=name)
    return number


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    names = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(item, str) for item in names):
        raise InvalidSetting(f"{name} must be a list of names, not {value!r}", field=name)
    return tuple(item.upper() for item in names)


def _fingerprints(name: str, value: Any) -> tuple[str, ...]:
    """SHA-256 as hex, with colons or without, or as base64, as in ``pin-sha256`` of RFC 7469 2.1."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise InvalidSetting(f"{name} must be a SHA-256 or a list of them, not {value!r}", field=name)
    return tuple(_fingerprint(name, item) for item in value)


def _fingerprint(name: str, value: Any) -> str:
    import binascii

    if isinstance(value, str):
        text = value.lower().removeprefix("sha256").lstrip(":/")
        text = value[len(value) - len(text) :]
        for decode in (bytes.fromhex, binascii.a2b_base64):
            try:
                digest = decode(text.replace(":", ""))
            except ValueError:
                continue
            if len(digest) == 32:
                return digest.hex()
    raise InvalidSetting(f"{name} must hold SHA-256 in hex (64 digits) or base64, not {value!r}", field=name)


def _address(name: str, value: Any) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(_text(name, value)))
    except ValueError as error:
        if isinstance(error, InvalidSetting):
            raise
        raise InvalidSetting(f"{name} must be an IP address of this machine, not {value!r}", field=name) from None


def proxy(name: str, value: Any) -> Any:
    from smtpbackend.delivery.proxy import parse

    return parse(name, value)


def _one_of(*choices: str) -> Callable[[str, Any], str]:
    def one_of(name: str, value: Any) -> str:
        if value not in choices:
            raise InvalidSetting(f"{name} must be one of {', '.join(choices)}, not {value!r}", field=name)
        return str(value)

    one_of.choices = choices  # type: ignore[attr-defined] # for docs/generate.py
    return one_of


def _tls_decision(name: str, value: Any) -> Any:
    if callable(value):
        return _hashable(name, value)
    if value in ("secure", "insecure"):
        return value
    raise InvalidSetting(f"{name} must be 'secure', 'insecure' or a callable, not {value!r}", field=name)


def token(name: str, value: Any) -> Any:
    from smtpbackend.delivery.credentials import resolve

    return _hashable(name, resolve(value, name))


def _hashable(name: str, value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        raise InvalidSetting(f"{name} must be hashable: connections are kept by it", field=name) from None
    return value


def _timeouts(name: str, value: Any) -> Timeouts:
    if isinstance(value, Timeouts):
        return value
    if isinstance(value, Mapping):
        check_keys(value, Timeouts._fields, f"{name} key")
        given = {key: _number(f'{name}["{key}"]', seconds) for key, seconds in value.items()}
        # a greeting is a reply: a shorter time-out for replies holds for it too
        given.setdefault("greeting", min(Timeouts().greeting, given.get("reply", Timeouts().reply)))
        return Timeouts()._replace(**given)
    seconds = _number(name, value)
    # one number for every wait, but the first reply on a kept connection never gets more than its default
    return Timeouts(*(min(seconds, default) if field == "reused" else seconds for field, default in _DEFAULT_TIMEOUTS))


_DEFAULT_TIMEOUTS = Timeouts()._asdict().items()


def _dkim(name: str, value: Any) -> Any:
    from smtpbackend.delivery.dkim import signers

    return signers(name, value)


def _only_to(name: str, value: Any) -> Any:
    from smtpbackend.delivery.guard import only_to

    return only_to(name, value)


def _mailbox(name: str, value: Any) -> Any:
    from smtpbackend.delivery.guard import address

    return address(name, value)


class Setting(NamedTuple):
    """One key: its owner ("server" or "mailer"), how its value is read, its default and its meaning."""

    name: str
    owner: str
    parse: Callable[[str, Any], Any]
    default: Any
    meaning: str


SETTINGS: tuple[Setting, ...] = (
    Setting("host", "server", _text, "localhost", "Host name or IP address."),
    Setting(
        "port",
        "server",
        _port,
        None,
        "Port. Default 25; with credentials or tls='required' 587; with tls='implicit' 465.",
    ),
    Setting(
        "tls",
        "server",
        _one_of("none", "opportunistic", "required", "implicit"),
        None,
        "`none`, `opportunistic` (STARTTLS if offered), `required` (STARTTLS or nothing) or `implicit` (TLS from the "
        "first byte). Default `opportunistic` on loopback, else `required`. All verify the certificate.",
    ),
    Setting(
        "on_tls_failure",
        "server",
        _tls_decision,
        None,
        "Under `opportunistic`, what follows when TLS cannot be had: `secure` (give this server up), `insecure` (go "
        "on in clear), or a callable `(server, reply_or_error)` that returns one. Default `insecure` without "
        "credentials or on loopback, else `secure`.",
    ),
    Setting("ca_file", "server", _path, None, "PEM file of certificate authorities, trusted beside the system's."),
    Setting("client_cert", "server", _path, None, "PEM file with the client's certificate chain."),
    Setting("client_key", "server", _path, None, "PEM file with its key, where `client_cert` does not hold it."),
    Setting("client_key_password", "server", secret, None, "Password of an encrypted key. Never shown either."),
    Setting(
        "pinned_sha256",
        "server",
        _fingerprints,
        (),
        "SHA-256 of the server's certificate or public key, in hex or base64; or a list of them, for the next key. One "
        "that fits takes the place of authorities, name and dates; else no TLS. Makes `secure` the default of "
        "`on_tls_failure`.",
    ),
    Setting(
        "strict_x509",
        "server",
        flag,
        True,
        "Refuse certificates that break rules of RFC 5280 which other clients overlook, as Python does from 3.13 on "
        "(`ssl.VERIFY_X509_STRICT`). False: chain, name and dates are verified, and these rules are not.",
    ),
    Setting("min_tls", "server", _one_of("1.2", "1.3"), "1.2", "Lowest TLS version: `1.2` or `1.3`."),
    Setting("username", "server", _text, None, "Name to log in with. Empty: no login."),
    Setting("password", "server", secret, None, "Its password. Never shown in a repr, log, transcript or error."),
    Setting(
        "token",
        "server",
        token,
        None,
        "OAuth 2.0 access token to log in with: a provider of `smtpbackend.oauth2`, a callable that "
        "returns a token (for an AsyncMailer also an async one), the dotted path of either, or a token. Never shown.",
    ),
    Setting(
        "auth_mechanisms",
        "server",
        _names,
        None,
        "SASL mechanisms to try, in this order. Default: all known, strongest first, but for DIGEST-MD5, EXTERNAL and "
        "ANONYMOUS, which are used only when they are named here.",
    ),
    Setting(
        "allow_cleartext_auth",
        "server",
        flag,
        False,
        "Allow a password in clear on an unverified channel off loopback.",
    ),
    Setting(
        "client_name",
        "server",
        _text,
        None,
        "Name given in EHLO. Default: the host name if fully qualified, else the address literal; never looked up.",
    ),
    Setting(
        "timeout",
        "server",
        _timeouts,
        Timeouts(),
        "Seconds: one number for every wait, or a mapping of `connect` (10, for the look-up, and for each address from "
        "when it is tried: the next 0.25 s later), `greeting` (20, or `reply` if that is set to less; with the "
        "handshake of implicit TLS), `reply` (60), `content` (60, for each piece of progress), `final` (300, for the "
        "answer to the content, and for a turn while no connection is given back) and `reused` (10, for the first "
        "reply on a kept connection).",
    ),
    Setting("ignore_extensions", "server", _names, (), "EHLO keywords that the server wrongly offers."),
    Setting(
        "window",
        "server",
        _count,
        32,
        "Messages in flight on one connection in `send_many`, once it has proven that it takes that. 1: each waits for "
        "the reply to the one before.",
    ),
    Setting(
        "chunk_in_flight",
        "server",
        _one_of("auto", "probe", "never"),
        "auto",
        "Whether content may leave together with its recipients, as one BDAT. A connection has to show first that it "
        "discards what it refuses, by a command that provokes an error: `auto` asks Postfix, Exim and Dovecot for "
        "that, `probe` any server that offers CHUNKING, PIPELINING and SIZE, `never` none.",
    ),
    Setting(
        "rate",
        "server",
        _number,
        None,
        "Messages a second at most, for each process (an AsyncMailer: each event loop). Default: no limit.",
    ),
    Setting("xque", "server", flag, False, "Say `QUED` to a server that offers `XQUE`, whatever it answers."),
    Setting(
        "source_address",
        "server",
        _address,
        None,
        "IP address of this machine to connect from. Default: what the system chooses.",
    ),
    Setting(
        "proxy",
        "server",
        proxy,
        None,
        "Proxy to connect through: its URL (`socks5h://host:port`, `socks5://`, `socks4a://`, `socks4://`, or "
        "`http://` for CONNECT), or a mapping of `url`, `username` and `password`. It looks the server's name up under "
        "`socks5h`, `socks4a` and `http`. A server behind it never counts as loopback. Never shown. Needs the extra "
        "`socks`.",
    ),
    Setting(
        "deadline",
        "mailer",
        _number,
        None,
        "Seconds for a whole `send`, over all servers and attempts, the wait for a turn included. Default: none.",
    ),
    Setting(
        "recipient_policy",
        "mailer",
        _one_of("any", "all"),
        "any",
        "`any`: a refused recipient does not keep the mail from the others. `all`: it is sent only where all are "
        "accepted.",
    ),
    Setting(
        "bounce_address",
        "mailer",
        _mailbox,
        None,
        "Where bounces go: the address in `MAIL FROM`, apart from the From of a message, for all that are sent without "
        "an envelope of their own. Default: that of the message.",
    ),
    Setting(
        "only_to",
        "mailer",
        _only_to,
        None,
        "Addresses and domains (a list) that may get mail, without regard to case; all other recipients are rejected "
        "here, before a server is asked. For a staging site.",
    ),
    Setting(
        "redirect_to",
        "mailer",
        _mailbox,
        None,
        "One address that gets all mail instead of its recipients. A field `X-Original-To` has them, those of Bcc too; "
        "and so have receipts and signals. For a staging site.",
    ),
    Setting(
        "suppress_send",
        "mailer",
        flag,
        False,
        "Do everything but the conversation with a server: all recipients that could be sent to count as accepted. For "
        "tests. Flask: also while the app is testing.",
    ),
    Setting(
        "strategy",
        "mailer",
        _one_of("failover", "round_robin"),
        "failover",
        "Which server is tried first: always the first listed (`failover`), or each in turn (`round_robin`).",
    ),
    Setting("rest", "mailer", _seconds, 30.0, "Seconds that a failed server is tried after the others."),
    Setting(
        "max_connections",
        "mailer",
        _count,
        4,
        "Open connections to one server. Other messages wait for a turn, as long as turns advance; one that is sent "
        "from inside of a delivery gets one connection more.",
    ),
    Setting(
        "max_idle",
        "mailer",
        _number,
        60.0,
        "Seconds after which an idle connection is closed, also where nothing is sent.",
    ),
    Setting("max_messages", "mailer", _count, 100, "Messages sent over one connection."),
    Setting(
        "dkim",
        "mailer",
        _dkim,
        (),
        "Sign what leaves (DKIM): a mapping of `domain`, `selector`, `key` (an RSA or Ed25519 key: PEM, or the path of "
        "a PEM file) and, if wanted, `headers` (names of the fields to sign, From always among them); several "
        "signatures: a list of such mappings. Signing takes CPU where the message is sent, under asyncio on the event "
        "loop. Needs the extra `dkim`.",
    ),
)

SERVER_KEYS = {setting.name: setting for setting in SETTINGS if setting.owner == "server"}
MAILER_KEYS = {setting.name: setting for setting in SETTINGS if setting.owner == "mailer"}


def read(setting: Setting, value: Any, spelled: Callable[[str], str] = str) -> Any:
    """The parsed value of a setting. None is the default, and so is an empty text for a flag.

    Errors name the setting as ``spelled`` writes it.
    """
    # A variable of the environment that is empty switches nothing off
    if value is None or (setting.parse is flag and isinstance(value, str) and not value.strip()):
        return setting.default
    name = spelled(setting.name)
    try:
        return setting.parse(name, _plain(value))
    except InvalidSetting as error:
        if error.field.partition("[")[0] == name.partition("[")[0]:
            error.field = setting.name
        raise


def _plain(value: Any) -> Any:
    """A value with the characters of each str in it: the ``__str__`` of an enumeration tells its name."""
    if isinstance(value, str):
        return value if isinstance(value, Secret) else characters(value)
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    return {_plain(key): _plain(one) for key, one in value.items()} if type(value) is dict else value
