"""Write what is made from the code: the page of settings, the types of calls, and the page of errors: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from smtpbackend.delivery.settings import MAILER_KEYS, SERVER_KEYS, Setting

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "settings.md"
TYPES = ROOT / "smtpbackend" / "delivery" / "typed_settings.py"

SETTINGS = """\
<!-- Written by docs/generate.py from the table in smtpbackend/delivery/settings.py: change that, then `make docs`. -->
# Settings

One vocabulary for plain Python, Django and Flask. An unknown name is an error that suggests the nearest known one, and
so is a value that cannot work; both are found when the mailer is made, before anything is connected.

| where | how a setting is written | example |
| --- | --- | --- |
| `Mailer(...)`, `AsyncMailer(...)` | keyword, lower case | `Mailer("smtp://mx.example.com", max_idle=30)` |
| a server's URL | query parameter, lower case | `"smtp://mx.example.com?tls=required&timeout=20"` |
| Django 6.1, `MAILERS[alias]["OPTIONS"]` | key, lower case | `{{"host": "mx.example.com", "max_idle": 30}}` |
| Django before, `SMTPBACKEND` | key, upper case | `SMTPBACKEND = {{"HOST": "mx.example.com", "MAX_IDLE": 30}}` |
| Flask, `app.config` | `SMTPBACKEND_` and the key in upper case | `SMTPBACKEND_MAX_IDLE = 30` |

`SMTPBACKEND["OUTBOX"]` has [the options of the outbox](../topics/outbox.md#options).

In Django, what `SMTPBACKEND` leaves open is read from `EMAIL_*`, as Django reads them
([below](#names-of-django-and-flask-mail)). Where it has `SERVERS` or `HOST`, it takes the place of `EMAIL_*`, and none
of them is read. Where there is `MAILERS`, neither is. Django's own names of options are accepted in `OPTIONS` and in
`SMTPBACKEND` too; its flags (`use_tls`, `use_ssl`, `fail_silently`) are True or False, since Django takes every string
for true. All names may be given to `get_connection`, and take the place of the site's: `servers` or `host` that of its
servers, `password` that of its `token`. In Flask, what `SMTPBACKEND_*` leave open is read from `MAIL_*`, and the
`MAIL_*` that describe a server are not looked at once `SMTPBACKEND_SERVERS` or `SMTPBACKEND_HOST` is set. From the
environment (`from_prefixed_env`) a number is its digits where text is wanted, `null` is not set, and `false`, `0`,
`no`, `off` and nothing at all are false. An error names the setting as it was written.

## Which servers

{which}

A server is a URL (`smtp://host:port`, `smtps://...` for TLS from the first byte), a host name, or a mapping: of the
settings below, or of a `url` and those beside it. Give `servers`, or `host` and `port` for one alone. Several with
logins of their own:

```python
servers = [
    {{"url": "smtps://mx.example.com", "username": "user", "password": "secret"}},
    {{"url": "smtp+srv://example.org", "username": "other", "password": "other secret"}},
]
```

Credentials may stand in a URL, percent-encoded (`smtp://user:password@host`), but [whoever prints your
settings](../topics/logins.md#where-secrets-are-kept) prints them too.

- `smtp://mx.example.com`: SMTP; port 25, or 587 where TLS or a login is wanted.
- `smtps://mx.example.com`: SMTP with TLS from the first byte; port 465.
- `lmtp://mx.example.com:24`: LMTP, which has no default port. Each recipient is settled by a reply of its own;
  `recipient_policy` must be `any`.
- `smtp+unix:///run/mail.sock`, `lmtp+unix:///run/lmtp.sock`: a unix socket, which counts as loopback. Under TLS the
  certificate must hold `host`.
- `smtp+srv://example.com`: the servers that the SRV records of the domain name (RFC 6186, RFC 8314; extra `srv`).

SRV records are looked up when mail is first sent and remembered for as long as they hold. `_submissions` (TLS from the
first byte) comes before `_submission` (STARTTLS, required); `tls` may choose one of them. The certificate must hold the
server's name where that lies in the domain, else the domain's own: a forged answer cannot lead a password away. For a
provider who has no certificate for your domain, name its server instead. There is no look-up through a `proxy`.

## Of a server

Each may be given for one server, in its URL or mapping, or beside `servers` as the default of all.

{server}

## Of a mailer

{mailer}

## Names of Django and Flask-Mail

The settings that a project has already go on working.

| neutral | Django's `EMAIL_*` | Django's options | Flask-Mail's `MAIL_*` |
| --- | --- | --- | --- |
| `host` | `EMAIL_HOST` | `host` | `MAIL_SERVER` |
| `port` | `EMAIL_PORT` | `port` | `MAIL_PORT` |
| `username` | `EMAIL_HOST_USER` | `username` | `MAIL_USERNAME` |
| `password` | `EMAIL_HOST_PASSWORD` | `password` | `MAIL_PASSWORD` |
| `tls="required"` | `EMAIL_USE_TLS = True` | `use_tls` | `MAIL_USE_TLS = True` |
| `tls="implicit"` | `EMAIL_USE_SSL = True` | `use_ssl` | `MAIL_USE_SSL = True` |
| `tls="opportunistic"` | neither | neither | neither |
| `timeout` | `EMAIL_TIMEOUT` | `timeout` | `MAIL_TIMEOUT` |
| `client_cert` | `EMAIL_SSL_CERTFILE` | `ssl_certfile` | |
| `client_key` | `EMAIL_SSL_KEYFILE` | `ssl_keyfile` | |
| `max_messages` | | | `MAIL_MAX_EMAILS` |

A host of these names has also the defaults of Django and Flask-Mail: port 25 (in `OPTIONS` 587 with `use_tls`, 465 with
`use_ssl`), and TLS where it is offered, off this machine too ([more](../topics/tls.md#hosts-of-django-and-flask-mail)).

Flask has four settings that concern the app and not the mailer: `SMTPBACKEND_DEFAULT_SENDER`,
`SMTPBACKEND_SUPPRESS_SEND`, `SMTPBACKEND_ASCII_ATTACHMENTS` and `SMTPBACKEND_DEBUG`, or `MAIL_` and the same words.

## System checks of Django

With `"smtpbackend_django"` in `INSTALLED_APPS`, `manage.py check` tells:

| id | what it found |
| --- | --- |
| `smtpbackend.E001` | a value cannot work |
| `smtpbackend.E002` | a name is not known |
| `smtpbackend.E003` | two kinds of TLS are set |
| `smtpbackend.E004` | a file of a key, a certificate or authorities cannot be used; they are opened for that |
| `smtpbackend.E005` | a key does not fit its certificate |
| `smtpbackend.E006` | a `token`, or what its dotted path leads to, cannot be used |
| `smtpbackend.E007` | `auth_mechanisms` has a mechanism that is not known |
| `smtpbackend.E008` | a library is not installed; the text has the command |
| `smtpbackend.W001` | with `--deploy`: a login on another host that does not require TLS |
| `smtpbackend.W002` | `SMTPBACKEND` is set, and not read, since there is `MAILERS` |
| `smtpbackend.W003` | the port does not fit the kind of TLS |
| `smtpbackend.W004` | a URL has a password in it, which Django's error pages and mails show |
| `smtpbackend.W005` | a user name or a password without the other: there is no login, as in Django |
| `smtpbackend.W006` | `EMAIL_USE_TLS` or another flag of Django is a string |
| `smtpbackend.W007` | `EMAIL_*` are set, and not read, since `SMTPBACKEND` has `SERVERS` or `HOST` |
| `smtpbackend.W008` | a certificate in a file has expired |
| `smtpbackend.W009` | with `--deploy`: mail goes to another host without TLS (`tls="none"`) |

No check opens a connection: `manage.py smtpcheck` does ([more](../howto/check.md)).
"""

WHICH = (
    ("servers", "", "One server or a list of them. They are tried in this order, see `strategy`."),
    ("ports", "", "Ports, walked in tandem with `servers`. Missing ones take the default, surplus ones are ignored."),
)


def table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Settings as Markdown: (name, default, meaning)."""
    lines = [
        "| setting, and in `MAILERS` | in `SMTPBACKEND` | in Flask | default | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, default, meaning in rows:
        upper = name.upper()
        meaning = meaning.replace("|", "\\|")
        lines.append(f"| `{name}` | `{upper}` | `SMTPBACKEND_{upper}` | {default} | {meaning} |")
    return "\n".join(lines)


def row(setting: Setting) -> tuple[str, str, str]:
    """The default only where the meaning does not tell it."""
    told = setting.default is None or setting.default == () or isinstance(setting.default, tuple)
    default = setting.default
    shown = "" if told else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
    return setting.name, shown, setting.meaning


def page() -> str:
    """The page of the settings."""
    return SETTINGS.format(
        which=table(WHICH),
        server=table(map(row, SERVER_KEYS.values())),
        mailer=table(map(row, MAILER_KEYS.values())),
    )


MODULE = '''\
"""The types of settings, for type checkers and editors. Written by docs/generate.py from settings.py: `make docs`.

Nothing imports this when it runs.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from smtpbackend.address import Mailbox
from smtpbackend.delivery.credentials import Provider
from smtpbackend.delivery.server import Server
from smtpbackend.protocol.timeouts import Timeouts

__all__ = ["ServerLike", "ServerSettings", "Settings"]


class ServerSettings(TypedDict, total=False):
    """What a mapping of one server may have; None is the same as a key that is not set."""

    url: str
{server}


ServerLike: TypeAlias = str | ServerSettings | Mapping[str, Any] | Server


class Settings(TypedDict, total=False):
    """The keywords of `Mailer` and `AsyncMailer`; None is the same as a keyword that is not given."""

    servers: ServerLike | Sequence[ServerLike] | None
    ports: int | str | Sequence[int | str | None] | None
{server}
{mailer}
'''

KINDS = {
    "_text": "str",
    "secret": "str",
    "_path": "str | os.PathLike[str]",
    "flag": "bool",
    "_number": "float",
    "_seconds": "float",
    "_count": "int",
    "_port": "int",
    "_names": "str | Iterable[str]",
    "_fingerprints": "str | Iterable[str]",
    "_address": "str",
    "proxy": "str | Mapping[str, str | None]",
    "_tls_decision": 'Literal["secure", "insecure"] | Callable[[Server, Any], str]',
    "token": "str | Provider | Callable[[], str] | Callable[[], Awaitable[str]]",
    "_timeouts": "float | Mapping[str, float] | Timeouts",
    "_dkim": "Mapping[str, Any] | Iterable[Mapping[str, Any]]",
    "_only_to": "str | Iterable[str]",
    "_mailbox": "Mailbox",
}
"""What each parser of the table takes from a program; from a URL or the environment each takes text."""


def field(setting: Setting) -> str:
    """A setting as a line of a TypedDict."""
    choices = getattr(setting.parse, "choices", None)
    literal = ", ".join(f'"{one}"' for one in choices or ())
    kind = f"Literal[{literal}]" if choices else KINDS[setting.parse.__name__]
    return f"    {setting.name}: {kind} | None"


def types() -> str:
    """The module of the types."""
    server, mailer = ("\n".join(map(field, keys.values())) for keys in (SERVER_KEYS, MAILER_KEYS))
    return MODULE.format(server=server, mailer=mailer)


TROUBLE = """\
<!-- Written by docs/generate.py from where errors are raised: change these, then `make docs`. -->
# Troubleshooting by error message

Every error says what happened, on which server, and what to do. Find yours by a piece of its text; "…" stands for what
is filled in, and a setting for its name where you set it (`tls` for `EMAIL_USE_TLS`, `MAIL_USE_TLS` and the like). The
class is what `except` catches; the module is where the code explains why.

[`python -m smtpbackend check`](howto/check.md), `manage.py smtpcheck` and `flask mail check` try a server step by step,
and tell which one fails.
"""

GROUPS = {
    "Reaching a server": "delivery.server delivery.addresses delivery.pooling protocol.line delivery.proxy "
    "delivery.srv delivery.connecting blocking. aio. forking fetching",
    "TLS": "protocol.session delivery.tls",
    "Logging in": "protocol.authentication protocol.mechanisms protocol.scram protocol.sasl sasl delivery.credentials "
    "protocol.bearer protocol.digest",
    "What a server refuses or cannot do": "delivery.judgement delivery.receipts delivery.mail delivery.dispatch "
    "delivery.pacing protocol.",
    "Settings": "delivery.settings delivery.setting_names delivery.configuration delivery.dkim delivery.guard "
    "delivery.spreading events",
    "Messages and addresses": "",
}
"""The modules of each part of the page; the last part has all that are left."""


def troubleshooting() -> str:
    """The page of errors."""
    from error_texts import Text, texts

    packages = ("smtpbackend", "smtpbackend_django", "smtpbackend_flask")
    left = {one[:2]: one for package in packages for one in texts(ROOT / package)}
    parts = [TROUBLE]
    for title, modules in GROUPS.items():
        places = tuple(f"smtpbackend.{module}" for module in modules.split()) or packages
        found: list[Text] = sorted(one for one in left.values() if one.module.startswith(places))
        for one in found:
            del left[one[:2]]
        rows = [f"| {one.text.replace('|', chr(92) + '|')} | `{one.kind}` | `{one.module}` |" for one in found]
        parts.append("\n".join([f"## {title}\n", "| text | class | in |", "| --- | --- | --- |", *rows]) + "\n")
    return "\n".join([*parts, known_replies()])


def known_replies() -> str:
    """The replies that an error explains, with the source of each."""
    from smtpbackend.known_replies import KNOWN
    from smtpbackend.spelling import KEYWORDS

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    rows = []
    for one in KNOWN:
        kinds = [*one.statuses]
        if one.texts:
            words = ", ".join(f'"{text}"' for text in one.texts if text)
            kinds.append(" ".join([*(f"{code}xx"[:3] for code in one.codes), *([f"with {words}"] if words else [])]))
        sources = "; ".join(f"<{part}>" if part.startswith("https:") else part for part in one.source.split("; "))
        rows.append(f"| {cell('; '.join(kinds))} | {cell(one.advice(KEYWORDS))} | {cell(sources)} |")
    head = "## Replies of servers that are known\n\nThe error of such a reply ends with what to do.\n"
    return "\n".join([head, "| reply | what to do | source |", "| --- | --- | --- |", *rows]) + "\n"


ERRORS = ROOT / "docs" / "troubleshooting.md"


def main() -> int:
    for path, text in ((PAGE, page()), (TYPES, types()), (ERRORS, troubleshooting())):
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
