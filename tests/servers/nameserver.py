"""A DNS server on a free loopback port, over UDP, that knows SRV records and counts what it is asked."""

from __future__ import annotations

import socket
import threading
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from tests.servers.ports import wait_until

__all__ = ["Nameserver"]


class Nameserver:
    """A running server, as a context manager.

    ``records`` maps a name to its SRV records: "10 0 465 mail.example.com."; a name that is not there does not exist.
    ``rcode``, if set, is the answer to everything; ``silent``: there is none.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.ttl = 300
        self.rcode: dns.rcode.Rcode | None = None
        self.silent = False
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="nameserver", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        assert wait_until(lambda: not self._thread.is_alive(), 20), "the name server hangs"
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            [question] = query.question
            name = question.name.to_text()
            self.asked.append(name)
            if self.silent:
                continue
            response = dns.message.make_response(query)
            response.flags |= dns.flags.RA | dns.flags.AA
            records = self.records.get(name)
            if self.rcode is not None:
                response.set_rcode(self.rcode)
            elif records is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
            elif records:
                response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "SRV", *records))
            self._socket.sendto(response.to_wire(), peer)
