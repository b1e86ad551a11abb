"""Refusals that are known, and what a site can do about each: one table, with the source of each row.

Errors ask here where they are made (`explained`, `remedy`). A reply decides nothing here but the words of an error:
what it means for a delivery is decided in ``delivery/judgement.py``. A server writes the text of a reply, so texts are
looked for by ``in``, which takes time in proportion to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from smtpbackend.outcome import Reply
from smtpbackend.spelling import Spelling

__all__ = ["KNOWN", "Known", "explained", "known", "remedies", "remedy"]


class Known(NamedTuple):
    """One row: which replies it is of, what to do about them, and where they are described.

    ``phases``: what the reply is to. ``statuses``: an enhanced status that suffices. ``codes`` with ``texts``: one of
    these is its code, or the first digit of it, and one of those, in small letters, stands in its text. ``advice``
    writes settings as it is told to.
    """

    phases: tuple[str, ...]
    statuses: tuple[str, ...]
    codes: tuple[str, ...]
    texts: tuple[str, ...]
    advice: Callable[[Spelling], str]
    source: str


GREETING = ("greeting", "hello")
PASSWORD = ("auth",)  # a login with a password; "token": one with an access token
LOGIN = ("auth", "token")
MAIL = ("mail", "rcpt", "data")  # many servers keep a refusal of the sender for RCPT, or for the content
RCPT = ("rcpt", "data")
ANY = (*GREETING, *LOGIN, *MAIL)


def _log_in(spelled: Spelling) -> str:
    return f"it wants a login first: set {spelled.together('username', 'password')}"


def _app_password(spelled: Spelling) -> str:
    return (
        f"it wants an app password, made in the security settings of the account: set {spelled('password')} to one, "
        f"or log in with OAuth ({spelled('token')})"
    )


def _own_address(spelled: Spelling) -> str:
    return (
        "the login may not send as this sender: use its own address as From, and as the sender of the envelope "
        f"({spelled('bounce_address')}), or give it the right to send as the other"
    )


_GMAIL = "https://support.google.com/a/answer/3726730"
_MICROSOFT = (
    "https://learn.microsoft.com/troubleshoot/exchange/email-delivery/ndr/non-delivery-reports-in-exchange-online"
)
_SMTP_AUTH = (
    "https://learn.microsoft.com/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission"
)
_SES = "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html"
_SES_ERRORS = "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html"
_SENDGRID = "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
_ZOHO = "https://www.zoho.com/zeptomail/help/api/smtp-error-codes.html"
_POSTFIX = "https://www.postfix.org/postconf.5.html"

# The first row that fits counts: what is of one provider, or says more, stands ahead of what is of all.
KNOWN: tuple[Known, ...] = (
    # TLS first
    Known(
        (*LOGIN, *MAIL),
        ("5.7.10", "5.7.11"),
        ("530", "538"),
        ("tls", "ssl", "encrypt"),
        lambda spelled: f"it wants TLS first: set {spelled('tls', 'required')}",
        "RFC 3207 4; RFC 4954 4, 6",
    ),
    # Logins
    Known(
        PASSWORD,
        (),
        ("534", "535"),
        (
            "application-specific password",  # Gmail 534 5.7.9
            "app-specific password",  # iCloud
            "app password",
            "badcredentials",  # Gmail 535 5.7.8, which has this at the end of its link
            "username and password not accepted",
            "#auth005",  # Yahoo 535 5.7.0
            "#mbr1212",
        ),
        _app_password,
        f"{_GMAIL}; https://support.google.com/accounts/answer/185833; https://help.yahoo.com/kb/SLN15241.html; "
        "https://support.apple.com/102654",
    ),
    Known(
        PASSWORD,
        (),
        ("534", "535"),
        ("log in via your web browser", "weblogin"),
        lambda spelled: (
            "Google wants the user to log in with a browser first, at https://accounts.google.com, and to allow this "
            f"login there; log in with OAuth ({spelled('token')}) to be spared that"
        ),
        _GMAIL,
    ),
    Known(
        LOGIN,
        (),
        ("535",),
        ("smtpclientauthentication is disabled", "smtp_auth_disabled"),
        lambda spelled: (
            "Microsoft 365 has SMTP AUTH switched off for this mailbox or its organisation: its administrator can "
            "allow it (https://aka.ms/smtp_auth_disabled)"
        ),
        _SMTP_AUTH,
    ),
    Known(
        PASSWORD,
        ("5.7.139", "5.7.3"),
        (),
        (),
        lambda spelled: (
            f"check {spelled.together('username', 'password')}; where they are right, Microsoft 365 takes no password "
            f"for this mailbox: log in with OAuth ({spelled('token')}), or have its administrator allow SMTP AUTH"
        ),
        _SMTP_AUTH,
    ),
    Known(
        ("token",),
        ("5.7.139", "5.7.3"),
        (),
        (),
        lambda spelled: (
            f"check that {spelled('token')} is for https://outlook.office.com/SMTP.Send, and of the mailbox in "
            f"{spelled('username')}; the administrator may also have to allow SMTP AUTH for it"
        ),
        "https://learn.microsoft.com/exchange/client-developer/legacy-protocols/"
        "how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth",
    ),
    Known(
        PASSWORD,
        (),
        ("535",),
        ("authentication credentials invalid",),
        lambda spelled: (
            "Amazon SES has SMTP credentials of their own in each region, which are no access keys: check "
            f"{spelled.together('username', 'password')}"
        ),
        _SES,
    ),
    Known(
        PASSWORD,
        (),
        ("535",),
        ("bad username / password", "authorization grant is invalid, expired, or revoked"),
        lambda spelled: (
            f"SendGrid wants the word apikey as {spelled('username')}, and an API key as {spelled('password')}"
        ),
        _SENDGRID,
    ),
    Known(
        (*LOGIN, *MAIL),
        (),
        ("4",),
        ("maximum credits exceeded",),
        lambda spelled: "the account has sent as much as its plan allows: send again later, or have the limit raised",
        _SENDGRID,
    ),
    # How much may be sent
    Known(
        ANY,
        (),
        ("454",),
        ("maximum sending rate exceeded",),
        lambda spelled: f"send again later, and set {spelled('rate')} to no more than the account may send in a second",
        "https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html",
    ),
    Known(
        MAIL,
        (),
        ("4", "5"),
        (
            "submissionquota",  # Microsoft 365, 554 5.2.0 ... SubmissionQuotaExceededException
            "daily user sending limit exceeded",  # Gmail 550 5.4.5
            "daily user sending quota exceeded",
            "daily sending quota exceeded",
            "daily smtp relay limit exceeded",
            "daily message quota exceeded",  # Amazon SES
        ),
        lambda spelled: "the account has sent as much as it may in a day: send again tomorrow, or with another account",
        f"{_GMAIL}; https://learn.microsoft.com/office365/servicedescriptions/exchange-online-service-description/"
        "exchange-online-limits; https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html",
    ),
    Known(
        ANY,
        (),
        ("4",),
        (
            "too many concurrent",
            "too many connections",
            "concurrent connections limit",
            "sender thread limit",
            "number of concurrent",
        ),
        lambda spelled: f"send again later; where it happens often, set {spelled('max_connections')} to less",
        f"{_SES}; {_MICROSOFT}; {_POSTFIX}#smtpd_client_connection_count_limit",
    ),
    # Who may send as whom
    Known(
        MAIL,
        ("5.7.60", "5.2.252"),
        ("5",),
        ("sendasdenied", "send as this sender", "not owned by user", "relaying disallowed as"),
        _own_address,
        f"{_MICROSOFT}; {_POSTFIX}#reject_sender_login_mismatch; {_ZOHO}",
    ),
    Known(
        MAIL,
        (),
        ("4", "5"),
        ("email address is not verified", "verified sender identity", "not authorized to send from that email address"),
        lambda spelled: (
            "the provider sends only from addresses and domains that were verified there: verify that of From and of "
            "the envelope, in this region; a new account may have to verify recipients too"
        ),
        f"{_SES_ERRORS}; {_SENDGRID}",
    ),
    Known(
        MAIL,
        (),
        ("4", "5"),
        ("sandbox subdomains are for test purposes only",),
        lambda spelled: "a sandbox sends to authorised recipients alone: authorise it, or send from a domain of yours",
        "https://help.mailgun.com/hc/en-us/articles/217531258-Authorized-Recipients",
    ),
    Known(
        MAIL,
        (),
        ("4", "5"),
        (
            "relay access denied",  # Postfix 554 5.7.1
            "relaying denied",  # Sendmail 550 5.7.1
            "relay denied",
            "relay not permitted",  # Exim
            "unable to relay",  # Exchange 550 5.7.54
            "not permitted to relay",
            "relaying is not allowed",
            "relaying not allowed",
            "relaying prohibited",
            "allowed rcpthosts",  # qmail
        ),
        lambda spelled: (
            f"it relays mail only for those it knows: set {spelled.together('username', 'password')}, or "
            f"{spelled('host')} to the server of your provider"
        ),
        f"RFC 5321 3.6.2; {_POSTFIX}#reject_unauth_destination; https://www.exim.org/exim-html-current/doc/html/"
        f"spec_html/ch-the_default_configuration_file.html; {_MICROSOFT}",
    ),
    Known(
        MAIL,
        (),
        ("5",),
        ("authentication required", "authentication is required", "not authenticated", "not logged in", "must log in"),
        _log_in,
        f"RFC 4954 6; {_GMAIL}; {_POSTFIX}#reject_sender_login_mismatch",
    ),
    Known(
        (*GREETING, *MAIL),
        (),
        ("530",),
        ("",),
        _log_in,
        "RFC 4954 6",
    ),
    # Greylisting
    Known(
        (*GREETING, *MAIL),
        (),
        ("4",),
        ("greylist", "graylist", "grey-list", "gray-list", "grey list"),
        lambda spelled: "it delays senders that it does not know yet, and nothing is wrong: send again in some minutes",
        "RFC 6647; https://postgrey.schweikert.ch/",
    ),
    # This machine
    Known(
        (*GREETING, *MAIL),
        (),
        ("4", "5"),
        ("blocked using", "spamhaus", "spamcop", "barracudacentral", "blacklist", "blocklist", "block list", "dnsbl"),
        lambda spelled: (
            "the IP address of this machine is on a list of senders of spam: have it taken off, or set "
            f"{spelled('host')} to a server that you log in to"
        ),
        f"RFC 5782; {_POSTFIX}#reject_rbl_client",
    ),
    Known(
        (*GREETING, *MAIL),
        ("5.7.25", "4.7.25"),
        ("4", "5"),
        ("reverse hostname", "reverse dns", "ptr record"),
        lambda spelled: (
            "the IP address of this machine has no name in the DNS (PTR): have it given one, or set "
            f"{spelled('host')} to a server that you log in to"
        ),
        f"RFC 7372 3.3; {_GMAIL}; {_POSTFIX}#reject_unknown_reverse_client_hostname",
    ),
    Known(
        ("hello", *MAIL),
        (),
        ("4", "5"),
        ("helo command rejected", "invalid helo", "bad helo", "ehlo argument", "helo name"),
        lambda spelled: f"set {spelled('client_name')} to a name of this machine that the DNS knows",
        f"RFC 5321 4.1.4; {_POSTFIX}#reject_non_fqdn_helo_hostname",
    ),
    # Whom a mail says it is from
    Known(
        MAIL,
        ("5.7.26", "5.7.27", "5.7.30", "4.7.26", "4.7.27", "4.7.30"),
        (),
        (),
        lambda spelled: (
            "the domain of From has to vouch for the mail: let its SPF record name the server that sends, and sign "
            f"with DKIM ({spelled('dkim')}, or the provider's)"
        ),
        f"RFC 7372 3.2; {_GMAIL}",
    ),
    Known(
        MAIL,
        (),
        ("5",),
        ("dmarc",),
        lambda spelled: (
            "the domain of From refuses what it does not vouch for (DMARC): let its SPF record name the server that "
            f"sends, and sign with DKIM ({spelled('dkim')}, or the provider's)"
        ),
        "RFC 7489 10.3",
    ),
    Known(
        MAIL,
        ("5.1.7", "5.1.8", "4.1.8"),
        ("4", "5"),
        ("sender address rejected: domain not found", "domain of sender address", "sender verify failed"),
        lambda spelled: (
            "the sender has to be an address that takes mail: change From, or the sender of the envelope "
            f"({spelled('bounce_address')})"
        ),
        f"RFC 3463 3.2 (X.1.7, X.1.8); {_POSTFIX}#reject_unknown_sender_domain",
    ),
    # The message and its recipients
    Known(
        MAIL,
        ("5.3.4", "5.2.3"),
        ("5",),
        ("message size", "too large", "too big", "size limit", "size exceed"),
        lambda spelled: "send less: smaller attachments, or links to them",
        "RFC 1870 6.1, 6.3; RFC 3463 3.3 (X.2.3), 3.4 (X.3.4)",
    ),
    Known(
        RCPT,
        ("4.2.2", "5.2.2"),
        ("4", "5"),
        ("mailbox full", "mailbox is full", "over quota", "overquota", "out of storage space", "quota exceeded"),
        lambda spelled: "the mailbox is full: send again when its owner has made room",
        f"RFC 3463 3.3 (X.2.2); RFC 5321 4.2.3 (452, 552); {_GMAIL}",
    ),
    Known(
        MAIL,
        ("5.6.7", "5.6.9"),
        (),
        (),
        lambda spelled: "it cannot pass an address outside ASCII on: use one in ASCII",
        "RFC 6531 3.4, 3.5",
    ),
    Known(
        ("rcpt",),
        ("5.1.1", "5.1.6", "5.1.10"),
        ("5",),
        ("user unknown", "unknown user", "no such user", "no such recipient", "recipient unknown", "does not exist"),
        lambda spelled: "there is no such mailbox: check the address",
        f"RFC 3463 3.2 (X.1.1, X.1.6); RFC 5321 4.2.3 (550); {_MICROSOFT}",
    ),
    Known(
        ("rcpt",),
        ("5.1.2",),
        (),
        (),
        lambda spelled: "its domain takes no mail: check the address",
        "RFC 3463 3.2 (X.1.2)",
    ),
    # The server as a whole
    Known(
        ANY,
        (),
        ("421",),
        ("",),
        lambda spelled: "send again later",
        "RFC 5321 3.8, 4.2.3",
    ),
    Known(
        ("greeting",),
        (),
        ("5",),
        ("",),
        lambda spelled: f"it takes no mail from this machine: check {spelled.together('host', 'port')}",
        "RFC 5321 3.1 (554); RFC 7504 3 (521)",
    ),
    Known(
        ("greeting",),
        (),
        ("4",),
        ("",),
        lambda spelled: "send again later",
        "RFC 5321 4.2.1",
    ),
)


def known(reply: Reply, phase: str) -> Known | None:
    """The row of a refusal. ``phase`` is what it is to: that of a `Line`, or "token" for a login with a token."""
    code, text = str(reply.code), reply.text.lower()
    status = ".".join(map(str, reply.enhanced or ()))
    for row in KNOWN:
        if phase in row.phases and (
            status in row.statuses
            or ((code in row.codes or code[0] in row.codes) and any(one in text for one in row.texts))
        ):
            return row
    return None


def remedy(reply: Reply | None, phase: str, spelled: Spelling) -> str:
    """What to do about a refusal, or "" where nothing is known of it. ``phase`` is that of `known`."""
    row = None if reply is None else known(reply, phase)
    return "" if row is None else row.advice(spelled)


def remedies(said: Iterable[tuple[Reply | None, Spelling]], phase: str) -> str:
    """What to do about several refusals, each remedy once, to put behind the text of an error."""
    known = dict.fromkeys(remedy(reply, phase, spelled) for reply, spelled in said)
    return "".join(f"; {one}" for one in known if one)


def explained(reply: Reply, phase: str, spelled: Spelling) -> str:
    """A refusal as an error shows it, and what to do about it."""
    return f"{reply}{remedies([(reply, spelled)], phase)}"
