"""Host names and IP addresses: what they are, and how the DNS and certificates write them."""

from __future__ import annotations

__all__ = ["certificate_name", "dns_name", "is_address", "is_local", "is_loopback", "server_hostname"]


def is_address(host: str) -> bool:
    """Whether a host is an IP address, and needs no look-up."""
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    address = host.removeprefix("::ffff:")
    is_ipv4 = address.replace(".", "").isdigit()  # no name such as 127.example.com
    return host.lower() in ("localhost", "::1") or (is_ipv4 and address.startswith("127."))


def is_local(peer: str | None) -> bool:
    """Whether a peer address (None: a unix socket) is this machine's own."""
    return peer is None or is_loopback(peer)


def server_hostname(host: str) -> str:
    """The name to look up: A-labels for an IDN, the address itself for an address."""
    if host.isascii():
        return host
    import idna

    return idna.encode(host, uts46=True).decode("ascii")


def certificate_name(host: str) -> str:
    """The name that the certificate must hold: without the dot of an absolute name and the zone of an address."""
    name, is_zoned, _ = server_hostname(host).partition("%")
    return name if is_zoned else name.rstrip(".")


def dns_name(domain: str) -> str:
    """A domain as the DNS has it, in lower case."""
    return server_hostname(domain).lower().rstrip(".")
