"""What an adapter for a framework is made of, beside ``smtpbackend`` itself. docs/howto/adapter.md builds one.

Messages: `Mailer.deliver` takes the framework's messages and a ``prepare`` that makes a `Parcel` of each. Most need no
more. What stands below serves an adapter that writes its framework's messages octet for octet, reads the settings of
its framework, or calls receivers of its own signals.

Each name is loaded when it is first used: an adapter can be imported without what its first message needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpbackend.public_names import on_first_use

if TYPE_CHECKING:
    from smtpbackend.address import check_tuple, has_names, is_pair, is_word, parse_addresses
    from smtpbackend.address_list import no_mailbox
    from smtpbackend.after_fork import at_fork, forks_unseen
    from smtpbackend.aio.mailer import SharedAsyncMailer
    from smtpbackend.blocking.mailer import SharedMailer
    from smtpbackend.command_line.report import report as report_checks
    from smtpbackend.content import MAX_LINE, Content, encode_octets
    from smtpbackend.content_type import media_type
    from smtpbackend.content_type import parsed as parsed_message
    from smtpbackend.delivery.alarm import no_login as warn_no_login
    from smtpbackend.delivery.configuration import Configuration, configure
    from smtpbackend.delivery.date_and_id import stamp
    from smtpbackend.delivery.hostnames import is_loopback
    from smtpbackend.delivery.message_types import register_messages
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.delivery.peer_names import of_peer
    from smtpbackend.delivery.server import half_login, port_doubt
    from smtpbackend.delivery.settings import MAILER_KEYS, SERVER_KEYS, flag
    from smtpbackend.delivery.tls import check_files, client_context, expired_files
    from smtpbackend.domain import ascii_domain
    from smtpbackend.events import ENDINGS, signals_of
    from smtpbackend.forking import at_end_of_process
    from smtpbackend.header import (
        IDENTIFIERS,
        LINE,
        MAX_FOLDED,
        date_of,
        filename_parameter,
        identifier_text,
        text_field,
    )
    from smtpbackend.hiding import bares_password, discreet
    from smtpbackend.message import ADDRESS_FIELDS, HIDDEN_FIELDS, check_name, readable_filename
    from smtpbackend.mime import text_content
    from smtpbackend.part_encoding import is_signed, needs_encoding
    from smtpbackend.protocol.effects import LATER
    from smtpbackend.receivers import begin as begin_receiver
    from smtpbackend.receivers import call as call_receiver
    from smtpbackend.refolding import refolded
    from smtpbackend.signals import SignalListener, emit
    from smtpbackend.sources import alone_with
    from smtpbackend.spelling import Spelling
    from smtpbackend.stdlib_mime import LegacyWriter, ModernWriter, NotSimple, Part, plain_addr_spec
    from smtpbackend.text import characters, nearest, with_texts_now

__all__ = [
    "ADDRESS_FIELDS",
    "ENDINGS",
    "HIDDEN_FIELDS",
    "IDENTIFIERS",
    "LATER",
    "LINE",
    "MAILER_KEYS",
    "MAX_FOLDED",
    "MAX_LINE",
    "SERVER_KEYS",
    "Configuration",
    "Content",
    "LegacyWriter",
    "ModernWriter",
    "NotSimple",
    "Parcel",
    "Part",
    "SharedAsyncMailer",
    "SharedMailer",
    "SignalListener",
    "Spelling",
    "alone_with",
    "ascii_domain",
    "at_end_of_process",
    "at_fork",
    "bares_password",
    "begin_receiver",
    "call_receiver",
    "characters",
    "check_files",
    "check_name",
    "check_tuple",
    "client_context",
    "configure",
    "date_of",
    "discreet",
    "emit",
    "encode_octets",
    "expired_files",
    "filename_parameter",
    "flag",
    "forks_unseen",
    "half_login",
    "has_names",
    "identifier_text",
    "is_loopback",
    "is_pair",
    "is_signed",
    "is_word",
    "media_type",
    "nearest",
    "needs_encoding",
    "no_mailbox",
    "of_peer",
    "on_first_use",
    "parse_addresses",
    "parsed_message",
    "plain_addr_spec",
    "port_doubt",
    "readable_filename",
    "refolded",
    "register_messages",
    "report_checks",
    "signals_of",
    "stamp",
    "text_content",
    "text_field",
    "warn_no_login",
    "with_texts_now",
]

_HOMES = {
    "smtpbackend.address": ("check_tuple", "has_names", "is_pair", "is_word", "parse_addresses"),
    "smtpbackend.address_list": ("no_mailbox",),
    "smtpbackend.after_fork": ("at_fork", "forks_unseen"),
    "smtpbackend.aio.mailer": ("SharedAsyncMailer",),
    "smtpbackend.blocking.mailer": ("SharedMailer",),
    "smtpbackend.command_line.report": ("report as report_checks",),
    "smtpbackend.content": ("MAX_LINE", "Content", "encode_octets"),
    "smtpbackend.content_type": ("media_type", "parsed as parsed_message"),
    "smtpbackend.delivery.alarm": ("no_login as warn_no_login",),
    "smtpbackend.delivery.configuration": ("Configuration", "configure"),
    "smtpbackend.delivery.date_and_id": ("stamp",),
    "smtpbackend.delivery.hostnames": ("is_loopback",),
    "smtpbackend.delivery.message_types": ("register_messages",),
    "smtpbackend.delivery.parcel": ("Parcel",),
    "smtpbackend.delivery.peer_names": ("of_peer",),
    "smtpbackend.delivery.server": ("half_login", "port_doubt"),
    "smtpbackend.delivery.settings": ("MAILER_KEYS", "SERVER_KEYS", "flag"),
    "smtpbackend.delivery.tls": ("check_files", "client_context", "expired_files"),
    "smtpbackend.domain": ("ascii_domain",),
    "smtpbackend.events": ("ENDINGS", "signals_of"),
    "smtpbackend.forking": ("at_end_of_process",),
    "smtpbackend.header": (
        "IDENTIFIERS",
        "LINE",
        "MAX_FOLDED",
        "date_of",
        "filename_parameter",
        "identifier_text",
        "text_field",
    ),
    "smtpbackend.hiding": ("bares_password", "discreet"),
    "smtpbackend.message": ("ADDRESS_FIELDS", "HIDDEN_FIELDS", "check_name", "readable_filename"),
    "smtpbackend.mime": ("text_content",),
    "smtpbackend.part_encoding": ("is_signed", "needs_encoding"),
    "smtpbackend.protocol.effects": ("LATER",),
    "smtpbackend.receivers": ("begin as begin_receiver", "call as call_receiver"),
    "smtpbackend.refolding": ("refolded",),
    "smtpbackend.signals": ("SignalListener", "emit"),
    "smtpbackend.sources": ("alone_with",),
    "smtpbackend.spelling": ("Spelling",),
    "smtpbackend.stdlib_mime": ("LegacyWriter", "ModernWriter", "NotSimple", "Part", "plain_addr_spec"),
    "smtpbackend.text": ("characters", "nearest", "with_texts_now"),
}

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
