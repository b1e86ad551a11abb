"""aiosmtpd in a thread of its own, on a free loopback port, recording what arrives."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.servers.ports import wait_until
from tests.servers.tls import Certificates, Kind


@dataclass(frozen=True)
class Arrived:
    """A message as it was handed over: `content` is octet for octet what came, dots unstuffed."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    mail_options: tuple[str, ...] = ()
    client_name: str = ""
    peer: Any = None
    login: str | None = None
    tls: bool = False


@dataclass
class _Recorder:
    """What aiosmtpd calls for each command."""

    refused: Mapping[str, str]
    refused_content: str | None
    arrived: list[Arrived] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        if reply := self.refused.get(address):
            return reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refused_content:
            return self.refused_content
        content = envelope.original_content
        self.arrived.append(
            Arrived(
                sender=envelope.mail_from or "",
                recipients=tuple(envelope.rcpt_tos),
                content=content or b"",
                mail_options=tuple(envelope.mail_options),
                client_name=session.host_name or "",
                peer=session.peer,
                login=session.auth_data.login.decode() if isinstance(session.auth_data, LoginPassword) else None,
                tls=server.transport is not None and server.transport.get_extra_info("sslcontext") is not None,
            )
        )
        return f"250 2.0.0 OK queued as {len(self.arrived)}"


class _Server(SMTP):
    """Counts the connections and keeps hold of their transports, so that they can be closed."""

    def __init__(self, owner: AiosmtpdServer, *args: Any, **options: Any) -> None:
        self._owner = owner
        super().__init__(*args, **options)
        # Given to the constructor, False is a warning; and it does not know that implicit TLS is TLS
        self._auth_require_tls = owner.auth_requires_starttls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.transport is None:  # and not a second time after STARTTLS
            self._owner.connections += 1
        self._owner._open.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner._open.discard(self)
        super().connection_lost(error)


class AiosmtpdServer:
    """A running aiosmtpd, as a context manager.

    tls: "starttls" offers it, "required" refuses mail without it, "implicit" begins with it, None has none.
    certificate: which of `certificates` is shown.
    users: names and passwords; with one or more AUTH PLAIN LOGIN is offered, under TLS only unless `auth_in_clear`.
    auth_required: refuse mail before login.
    refused: recipients and the reply to each, such as {"bob@example.com": "550 5.1.1 User unknown"}.
    refused_content: the reply to the end of every content, if not None.
    size_limit: in octets, declared as SIZE. smtputf8: whether it is offered.
    """

    def __init__(
        self,
        certificates: Certificates,
        *,
        host: str = "127.0.0.1",
        tls: Literal["starttls", "required", "implicit"] | None = None,
        certificate: Kind = "server",
        users: Mapping[str, str] | None = None,
        auth_in_clear: bool = False,
        auth_required: bool = False,
        auth_excluded: Iterable[str] = (),
        refused: Mapping[str, str] | None = None,
        refused_content: str | None = None,
        size_limit: int = 32 * 1024 * 1024,
        smtputf8: bool = True,
    ) -> None:
        self.host = host
        self.port = 0
        self.ca_file = certificates.ca_file
        self.connections = 0
        self._open: set[_Server] = set()
        self._users = dict(users or {})
        self._recorder = _Recorder(dict(refused or {}), refused_content)
        context = certificates.server_context(certificate) if tls else None
        self.auth_requires_starttls = not auth_in_clear and tls != "implicit"
        self._implicit = context if tls == "implicit" else None
        self._options: dict[str, Any] = {
            "hostname": "aiosmtpd.example.com",
            "data_size_limit": size_limit,
            "enable_SMTPUTF8": smtputf8,
            "tls_context": context if tls in ("starttls", "required") else None,
            "require_starttls": tls == "required",
            "auth_required": auth_required,
            "auth_exclude_mechanism": [*auth_excluded, *(() if self._users else ("PLAIN", "LOGIN"))],
            "authenticator": self._authenticate,
        }

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        known = isinstance(data, LoginPassword) and self._users.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=known, handled=False, auth_data=data)

    @property
    def arrived(self) -> list[Arrived]:
        """The messages that were accepted so far."""
        return list(self._recorder.arrived)

    def clear(self) -> None:
        """Forget what arrived and how many connections there were."""
        self._recorder.arrived.clear()
        self.connections = 0

    def drop_connections(self) -> None:
        """Cut every connection that is open now, without a word."""

        def abort() -> None:
            for server in list(self._open):
                if isinstance(server.transport, asyncio.Transport):
                    server.transport.abort()

        self._loop.call_soon_threadsafe(abort)
        wait_until(lambda: not self._open, 20)

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.create_server((self.host, self.port), family=family, backlog=100)
        self.port = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listening,), name="aiosmtpd", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "aiosmtpd did not stop"

    def _run(self, listening: socket.socket) -> None:
        self._stop = asyncio.Event()
        try:
            self._loop.run_until_complete(self._serve(listening))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        def protocol() -> SMTP:
            return _Server(self, self._recorder, loop=self._loop, **self._options)

        server = await self._loop.create_server(protocol, sock=listening, ssl=self._implicit)
        await self._stop.wait()
        # who was accepted in this moment gets a transport, which can be closed: behind close() it would get half of one
        self._loop.remove_reader(listening)
        for _ in range(5):
            await asyncio.sleep(0)
        server.close()
        for connection in list(self._open):
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # one that was cancelled before its handshake began has closed nothing
        transports: Any = getattr(self._loop, "_transports", {})
        for _ in range(5):
            for transport in list(transports.values()):
                transport.abort()
            await asyncio.sleep(0)  # the transports tell their protocols
