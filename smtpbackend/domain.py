"""Domains: what may follow the @, and its form on the wire, which envelopes and headers share."""

from __future__ import annotations

import re

from smtpbackend.errors import InvalidInput

__all__ = ["DOMAIN", "MAX_DOMAIN", "ascii_domain"]

MAX_LABEL = 63  # octets, RFC 1035 2.3.4
MAX_DOMAIN = 255  # octets, RFC 5321 4.5.3.1.2; the DNS has no longer names
# RFC 5321 4.1.2 sub-domain, and the underscore, which it has not: hosts that have one do get mail.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
# RFC 5321 4.1.3 General-address-literal: a standardised tag and dcontent.
_GENERAL_LITERAL = r"\[[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+\]"


def ascii_domain(domain: str, field: str) -> str:
    """``domain`` as it stands on the wire: A-labels, or an address literal. Raises `InvalidInput` naming ``field``."""
    if domain.startswith("["):
        return _check_literal(domain, field)
    encoded = domain if domain.isascii() else _a_labels(domain, field)
    # Mapping may yield anything: "℀" becomes "a/c".
    if re.fullmatch(DOMAIN, encoded) is None or len(encoded) > MAX_DOMAIN:
        raise InvalidInput(f"{field}: {domain[:MAX_DOMAIN]!r} is not a domain name: {_fault(encoded)}", field=field)
    return encoded


def _fault(domain: str) -> str:
    """What is wrong with a domain name in ASCII."""
    if not domain:  # of characters that IDNA leaves out
        return "it is empty"
    if len(domain) > MAX_DOMAIN:
        return f"it has more than {MAX_DOMAIN} octets"
    for label in domain.split("."):
        if not label:
            return "it begins or ends with a dot" if domain.strip(".") != domain else "it has two dots in a row"
        if len(label) > MAX_LABEL:
            return f"{label[:20]!r}... has more than {MAX_LABEL} octets"
        if label.startswith("-") or label.endswith("-"):
            return f"{label!r} begins or ends with '-'"
        if (wrong := re.search("[^A-Za-z0-9_-]", label)) is not None:
            return f"it has {wrong[0]!r} in it"
    raise AssertionError(domain)


def _a_labels(domain: str, field: str) -> str:
    """By IDNA 2008, and by IDNA 2003 for a label that 2008 does not allow, such as one with an emoji.

    2003 alone turns "ß" into "ss", which is another domain.
    """
    import idna  # costs as much as smtplib, and most domains are ASCII

    try:
        if len(domain) > MAX_DOMAIN:  # both standards take more than linear time
            raise ValueError(f"over {MAX_DOMAIN} characters")
        try:
            # UTS 46 maps case and width; labels that are ASCII, encoded ones included, are left alone.
            mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
        except idna.IDNAError:
            return domain.encode("idna").decode("ascii")
        return ".".join(label if label.isascii() else _a_label(label) for label in mapped.split("."))
    except (ValueError, IndexError) as error:
        raise InvalidInput(f"{field}: {domain[:MAX_DOMAIN]!r} is not a domain name: {error}", field=field) from error


def _a_label(label: str) -> str:
    import idna

    try:
        return idna.alabel(label).decode("ascii")
    except (idna.IDNAError, IndexError):
        return label.encode("idna").decode("ascii")


def _check_literal(domain: str, field: str) -> str:
    import ipaddress

    content = domain[1:-1]
    try:
        if not domain.endswith("]"):
            raise ValueError
        if content[:5].lower() == "ipv6:":
            if "%" in content:  # a zone has a meaning on one host only
                raise ValueError
            ipaddress.IPv6Address(content[5:])
        elif re.fullmatch(_GENERAL_LITERAL, domain) is None:
            ipaddress.IPv4Address(content)
    except ValueError:
        raise InvalidInput(
            f"{field}: {domain!r} is not an address literal, as [192.0.2.1] and [IPv6:2001:db8::1] are", field=field
        ) from None
    return domain
