"""What errors say to do about a refusal that is known, and where that is known from."""

from __future__ import annotations

import re

import pytest

from smtpbackend import Reply
from smtpbackend.known_replies import KNOWN, explained, known, remedies, remedy
from smtpbackend.protocol.reply import ReplyReader
from smtpbackend.spelling import KEYWORDS
from tests.test_spelling import Shouting

LOG_IN = "it wants a login first: set username and password"
TLS_FIRST = "it wants TLS first: set tls='required'"
APP_PASSWORD = "it wants an app password"
OWN_ADDRESS = "the login may not send as this sender: use its own address as From"
RELAY = "it relays mail only for those it knows: set username and password, or host to the server of your provider"
ENOUGH = "the account has sent as much as it may in a day"
NO_MAILBOX = "there is no such mailbox: check the address"
GREY = "it delays senders that it does not know yet, and nothing is wrong: send again in some minutes"
SMALLER = "send less: smaller attachments, or links to them"
FULL = "the mailbox is full"
SPAM_LIST = "the IP address of this machine is on a list of senders of spam"
VERIFY = "the provider sends only from addresses and domains that were verified there"
MICROSOFT = "check username and password; where they are right, Microsoft 365 takes no password for this mailbox"
NO_NAME = "the IP address of this machine has no name in the DNS"


def replied(*lines: str) -> Reply:
    """As it is read off the wire."""
    reader = ReplyReader()
    reader.feed("".join(f"{line}\r\n" for line in lines).encode())
    reply = reader.next()
    assert reply is not None
    return reply


# As servers and providers write them
REPLIES: list[tuple[str, str, str]] = [
    # Gmail
    ("auth", "535-5.7.8 Username and Password not accepted. For more information, go to\n"
     "535 5.7.8  https://support.google.com/mail/?p=BadCredentials a1-20sm - gsmtp", APP_PASSWORD),
    ("auth", "534-5.7.9 Application-specific password required. Learn more at\n"
     "534 5.7.9  https://support.google.com/mail/?p=InvalidSecondFactor a1 - gsmtp", APP_PASSWORD),
    ("auth", "534-5.7.14 <https://accounts.google.com/signin/continue?sarp=1> Please log in via your web browser\n"
     "534 5.7.14 and then try again. a1 - gsmtp", "Google wants the user to log in with a browser first"),
    ("mail", "530-5.7.0 Authentication Required. For more information, go to\n"
     "530 5.7.0  https://support.google.com/mail/?p=WantAuthError a1 - gsmtp", LOG_IN),
    ("mail", "530 5.7.0 Must issue a STARTTLS command first. a1 - gsmtp", TLS_FIRST),
    ("data", "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail\n"
     "550 5.4.5 sending limits go to https://support.google.com/a/answer/166852 a1 - gsmtp", ENOUGH),
    ("data", "552 5.2.3 Your message exceeded Google's message size limits. a1 - gsmtp", SMALLER),
    ("rcpt", "452 4.2.2 The email account that you tried to reach is over quota. a1 - gsmtp", FULL),
    ("rcpt", "550-5.1.1 The email account that you tried to reach does not exist.\n550 5.1.1 a1 - gsmtp", NO_MAILBOX),
    ("data", "550-5.7.26 Your email has been blocked because the sender is unauthenticated.\n550 5.7.26 a1 - gsmtp",
     "the domain of From has to vouch for the mail"),
    ("data", "550-5.7.26 Unauthenticated email from example.org is not accepted due to domain's DMARC policy.\n"
     "550 5.7.26 - gsmtp", "the domain of From has to vouch for the mail"),
    ("data", "550 5.7.1 Email rejected per DMARC policy for example.org", "the domain of From refuses what it does"),
    ("rcpt", "550 5.1.8 Access denied, bad outbound sender", "the sender has to be an address that takes mail"),
    ("data", "550-5.7.25 [192.0.2.1] The IP address sending this message does not have a\n"
     "550 5.7.25 PTR record setup - gsmtp", NO_NAME),
    ("greeting", "421 4.7.0 Try again later, closing connection. - gsmtp", "send again later"),
    # Yahoo and iCloud
    ("auth", "535 5.7.0 (#AUTH005) Too many bad auth attempts.", APP_PASSWORD),
    ("auth", "534 5.7.9 App-specific password required", APP_PASSWORD),
    # Microsoft 365 and Exchange
    ("auth", "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit "
     "https://aka.ms/smtp_auth_disabled for more information.", "Microsoft 365 has SMTP AUTH switched off"),
    ("token", "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. Visit "
     "https://aka.ms/smtp_auth_disabled for more information.", "Microsoft 365 has SMTP AUTH switched off"),
    ("auth", "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.",
     MICROSOFT),
    ("auth", "535 5.7.3 Authentication unsuccessful [AM0PR01CA0001.eurprd01.prod.exchangelabs.com]", MICROSOFT),
    ("token", "535 5.7.3 Authentication unsuccessful [AM0PR01CA0001.eurprd01.prod.exchangelabs.com]",
     "check that token is for https://outlook.office.com/SMTP.Send"),
    ("mail", "530 5.7.57 Client not authenticated to send mail. [AM0PR01CA0001.eurprd01.prod.outlook.com]", LOG_IN),
    ("mail", "530 5.7.1 Client was not authenticated", LOG_IN),
    ("mail", "530 Log in first", LOG_IN),
    ("data", "550 5.7.60 SMTP; Client does not have permissions to send as this sender", OWN_ADDRESS),
    ("data", "554 5.2.252 SendAsDenied; ann@example.org not allowed to send as bob@example.org", OWN_ADDRESS),
    ("data", "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied", OWN_ADDRESS),
    ("data", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message",
     ENOUGH),
    ("data", "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending",
     "send again later; where it happens often, set max_connections to less"),
    ("rcpt", "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", RELAY),
    ("rcpt", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", NO_MAILBOX),
    # Amazon SES
    ("auth", "535 Authentication Credentials Invalid", "Amazon SES has SMTP credentials of their own in each region"),
    ("data", "554 Message rejected: Email address is not verified. The following identities failed the check in region "
     "EU-WEST-1: ann@example.org", VERIFY),
    ("data", "454 Throttling failure: Maximum sending rate exceeded.", "send again later, and set rate to no more"),
    ("data", "454 Throttling failure: Daily message quota exceeded.", ENOUGH),
    ("greeting", "421 Too many concurrent SMTP connections", "send again later; where it happens often, set"),
    # SendGrid, Mailgun, Zoho
    ("auth", "535 Authentication failed: Bad username / password", "SendGrid wants the word apikey as username"),
    ("data", "550 The from address does not match a verified Sender Identity.", VERIFY),
    ("auth", "451 Authentication failed: Maximum credits exceeded", "the account has sent as much as its plan allows"),
    ("data", "421 Sandbox subdomains are for test purposes only.", "a sandbox sends to authorised recipients alone"),
    ("data", "553 Relaying disallowed as ann@example.org", OWN_ADDRESS),
    # Postfix, Exim, Sendmail, qmail
    ("rcpt", "554 5.7.1 <bob@example.com>: Relay access denied", RELAY),
    ("rcpt", "550 relay not permitted", RELAY),
    ("rcpt", "550 5.7.1 <bob@example.com>... Relaying denied", RELAY),
    ("rcpt", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", RELAY),
    ("rcpt", "553 5.7.1 <bob@example.org>: Sender address rejected: not owned by user ann", OWN_ADDRESS),
    ("rcpt", "553 5.7.1 <ann@example.org>: Sender address rejected: not logged in", LOG_IN),
    ("rcpt", "550 SMTP authentication required", LOG_IN),
    ("auth", "538 5.7.11 Encryption required for requested authentication mechanism", TLS_FIRST),
    ("rcpt", "450 4.2.0 <bob@example.com>: Recipient address rejected: Greylisted, see "
     "http://postgrey.schweikert.ch/help/example.com.html", GREY),
    ("rcpt", "451 4.7.1 Greylisting in action, please come back in 00:04:59", GREY),
    ("rcpt", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", SPAM_LIST),
    ("rcpt", "450 4.7.25 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", NO_NAME),
    ("rcpt", "450 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", NO_NAME),
    ("rcpt", "504 5.5.2 <ann-laptop>: Helo command rejected: need fully-qualified hostname", "set client_name to"),
    ("rcpt", "450 4.1.8 <ann@example.invalid>: Sender address rejected: Domain not found", "the sender has to be"),
    ("mail", "552 5.3.4 Message size exceeds fixed limit", SMALLER),
    ("mail", "552 Message size exceeds maximum permitted", SMALLER),
    ("rcpt", "552 5.2.2 no room", FULL),
    ("rcpt", "452 Mailbox full", FULL),
    ("rcpt", "550 5.1.1 <bob@example.com>: Recipient address rejected: User unknown in local recipient table",
     NO_MAILBOX),
    ("rcpt", "550 Unknown user", NO_MAILBOX),
    ("rcpt", "550 5.1.2 <bob@example.invalid>: Recipient address rejected: Domain not found", "its domain takes no"),
    ("rcpt", "553 5.6.7 Non-ASCII addresses not permitted", "it cannot pass an address outside ASCII on"),
    ("greeting", "554 No SMTP service here", "it takes no mail from this machine: check host and port"),
    ("greeting", "450 not now", "send again later"),
    ("mail", "421 4.3.2 Service shutting down", "send again later"),
]  # fmt: skip


@pytest.mark.parametrize(("phase", "said", "expected"), REPLIES, ids=[f"{p}: {s[:40]}" for p, s, _ in REPLIES])
def test_a_known_refusal_has_a_remedy(phase: str, said: str, expected: str) -> None:
    assert remedy(replied(*said.split("\n")), phase, KEYWORDS).startswith(expected)


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("auth", "535 5.7.8 Error: authentication failed: (reason unavailable)"),  # what to check is said already
        ("token", "535-5.7.8 Username and Password not accepted\n535 5.7.8 https://support.google.com/?p=BadCredentials"),
        ("data", "554 5.7.1 Spam"),
        ("data", "550 5.1.1 the content has the address of nobody"),
        ("rcpt", "450 4.3.0 later"),
        ("rcpt", "250 2.1.5 the greylist let it pass"),
        ("mail", "501 5.5.4 Syntax error"),
        ("hello", "550 go away"),
    ],
)  # fmt: skip
def test_what_is_not_known_has_none(phase: str, said: str) -> None:
    assert remedy(replied(*said.split("\n")), phase, KEYWORDS) == ""


def test_without_a_reply_there_is_none() -> None:
    assert remedy(None, "mail", KEYWORDS) == ""


def test_settings_are_written_as_the_site_wrote_them() -> None:
    assert remedy(Reply(530), "mail", Shouting()) == "it wants a login first: set MY_USERNAME and MY_PASSWORD"


def test_a_remedy_is_told_once() -> None:
    full, gone = replied("552 5.2.2 full"), replied("550 5.1.1 who?")
    said = [(full, KEYWORDS), (gone, KEYWORDS), (full, KEYWORDS), (None, KEYWORDS)]
    assert remedies(said, "rcpt") == (
        "; the mailbox is full: send again when its owner has made room; there is no such mailbox: check the address"
    )


def test_a_refusal_is_explained() -> None:
    assert explained(replied("550 5.1.1 who?"), "rcpt", KEYWORDS) == f"550 5.1.1 who?; {NO_MAILBOX}"
    assert explained(replied("550 5.9.9 no"), "rcpt", KEYWORDS) == "550 5.9.9 no"


def test_every_row_is_reached_and_has_a_source() -> None:
    """A row that stands behind a wider one would never count."""
    reached = [known(replied(*said.split("\n")), phase) for phase, said, _ in REPLIES]
    for row in KNOWN:
        assert row in reached, row
        assert re.match(r"https://|RFC \d", row.source), row
        assert all(text == text.lower() for text in row.texts), row
        assert row.statuses or (row.codes and row.texts), row
