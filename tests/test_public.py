"""The public API, name by name: what is not listed here may change, and what is may not go away."""

from __future__ import annotations

import importlib
import inspect

import pytest

PUBLIC = {
    "smtpbackend": """
        Address AsyncMailer Attachment AuthenticationFailed CancelSend CertificateRefused Check CommandRefused
        ConnectFailed ConnectTimedOut ConnectionLost ConnectionRefused ContentRefused DeliveryError Envelope Event
        HandshakeFailed HelloRefused HostNotFound InDoubt Injection InvalidInput
        InvalidSetting Listener LoginNotOffered Mailer MailerClosed Message MessageEnded MessageSending MissingExtra
        NotSupported Outcome ProtocolViolation Receipt Recipient RecipientDeferred RecipientRejected
        RecipientsRefused Reply SMTPError Secret SenderRefused Server ServerFailed Statistics Status TLSFailed
        TLSNotOffered TLSRefused TimedOut Timeouts
    """,
    "smtpbackend.adapters": """
        ADDRESS_FIELDS Configuration ENDINGS Content HIDDEN_FIELDS IDENTIFIERS LATER LINE LegacyWriter MAILER_KEYS
        MAX_FOLDED MAX_LINE ModernWriter NotSimple Parcel Part SERVER_KEYS SharedAsyncMailer SharedMailer SignalListener
        Spelling
        alone_with ascii_domain at_end_of_process at_fork bares_password begin_receiver call_receiver characters
        check_files check_name check_tuple client_context configure date_of discreet emit encode_octets expired_files
        filename_parameter flag forks_unseen half_login has_names identifier_text is_loopback is_pair is_signed
        is_word media_type nearest needs_encoding no_mailbox of_peer on_first_use parse_addresses parsed_message
        plain_addr_spec port_doubt readable_filename refolded register_messages report_checks signals_of stamp
        text_content text_field warn_no_login with_texts_now
    """,
    "smtpbackend.oauth2": """
        ClientCredentials Grant Provider RefreshToken google microsoft365 microsoft365_app
    """,
    "smtpbackend.outbox": """
        Draft Due Entry EntryFailed MailerDown MessageExpired Options Priority State Store Stored Worker clock
        deliver_due draft lane_of
    """,
    "smtpbackend.sasl": """
        Channel Credentials Exchange Long Mechanism Refused register unregister
    """,
    "smtpbackend.signals": """
        SignalListener emit message_failed message_in_doubt message_sending message_sent namespace
        recipient_deferred recipient_rejected server_failed
    """,
    "smtpbackend.testing": """
        Answer CUT DEAF Deed EXTENSIONS Fault HANG_UP Play RESET SILENCE ScriptedServer Speaker TLS Transaction
        delay drip flood smtp_server when_heard
    """,
}


@pytest.mark.parametrize("module", PUBLIC)
def test_these_names_and_no_other(module: str) -> None:
    there = importlib.import_module(module)
    assert sorted(there.__all__) == sorted(PUBLIC[module].split())
    assert all(hasattr(there, name) for name in there.__all__)


def test_every_error_is_public() -> None:
    from smtpbackend import errors

    kinds = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.SMTPError)
    }
    assert {name for name in kinds if not name.startswith("_")} == set(errors.__all__)
    assert set(errors.__all__) <= set(PUBLIC["smtpbackend"].split())


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_public_has_a_docstring(module: str) -> None:
    there = importlib.import_module(module)
    assert there.__doc__
    for name in there.__all__:
        value = getattr(there, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{module}.{name}"
