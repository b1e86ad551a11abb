"""Servers by the SRV records of a domain (RFC 6186, RFC 8314): which records to look up, and what they mean.

The twins look them up. Chance, for the weights, comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

from smtpbackend.delivery.hostnames import dns_name
from smtpbackend.delivery.server import Server
from smtpbackend.errors import ConnectFailed

__all__ = ["Found", "Record", "look_up", "order"]

MAX_RECORDS = 32  # of one service, those of the lowest priority: each may take the time of a connect
# RFC 8314 3.3, 5.1: implicit TLS is preferred to STARTTLS, and cleartext is not used
SERVICES = (("_submissions._tcp", "implicit"), ("_submission._tcp", "required"))


class Record(NamedTuple):
    """One SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class Found(NamedTuple):
    """The records of a domain by the ``tls`` of their service, and the seconds for which they hold."""

    server: Server
    services: tuple[tuple[str, tuple[Record, ...]], ...]
    ttl: float

    def servers(self, chance: Callable[[], float]) -> list[Server]:
        """The servers in the order to try them; ``chance`` gives numbers from 0 to below 1."""
        return [
            self.server.replace(host=r.target, port=r.port, tls=tls, srv=False, identity=self._identity(r.target))
            for tls, records in self.services
            for r in order(records, chance)
        ]

    def _identity(self, target: str) -> str | None:
        """The name that the certificate must hold: the target's if that is in the domain, else the domain's.

        An attacker who forges the DNS could name another host with a certificate (RFC 6186 6, RFC 6125 6.2.1).
        """
        domain = self.server.host
        return None if f".{target}".lower().endswith(f".{dns_name(domain)}") else domain


def look_up(server: Server) -> Generator[str, Any, Found]:
    """Yields each name whose SRV records are wanted, and is sent dnspython's answer or thrown its error.

    Raises `ConnectFailed` where the domain has no server, or a look-up fails.
    """
    from dns.resolver import NXDOMAIN, NoAnswer

    services = []
    lives = []
    declined = False
    try:
        domain = dns_name(server.host)
    except UnicodeError as error:
        raise ConnectFailed(f"{server.host} is no domain name: {error}", server=server.name) from error
    for service, tls in SERVICES:
        if "tls" not in server._left_open and server.tls != tls:
            continue
        name = f"{service}.{domain}."
        try:
            answer = yield name
        except (NXDOMAIN, NoAnswer):
            continue
        except Exception as error:
            raise ConnectFailed(f"the look-up of {name} failed: {error}", server=server.name) from error
        lives.append(answer.rrset.ttl)
        records = [Record(r.priority, r.weight, r.port, r.target.to_text(omit_final_dot=True)) for r in answer]
        offered = tuple(record for record in records if record.target not in ("", "."))
        declined = declined or len(offered) < len(records)  # RFC 2782: the service is decidedly not available
        if offered:
            services.append((tls, offered))
    if not services:
        what = "says by its SRV records that it has no server" if declined else "has no SRV records for submission"
        raise ConnectFailed(
            f"{server.host} {what} (_submissions._tcp, _submission._tcp); give its server by name, "
            "such as smtps://smtp.example.com",
            server=server.name,
        )
    return Found(server, tuple(services), float(min(lives)))


def order(records: Iterable[Record], chance: Callable[[], float]) -> list[Record]:
    """By priority, the lowest first; among equals by chance, in proportion to their weights (RFC 2782)."""
    ordered: list[Record] = []
    # records of weight 0 come first, which gives them their small chance
    left = sorted(records, key=lambda record: (record.priority, record.weight))[:MAX_RECORDS]
    while left:
        equals = [record for record in left if record.priority == left[0].priority]
        mark = chance() * (sum(record.weight for record in equals) + 1)
        for record in equals:
            mark -= record.weight
            if mark < 1 or record is equals[-1]:
                break
        left.remove(record)
        ordered.append(record)
    return ordered
