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
    host: str | None
    port: int | None
    tls: Literal["none", "opportunistic", "required", "implicit"] | None
    on_tls_failure: Literal["secure", "insecure"] | Callable[[Server, Any], str] | None
    ca_file: str | os.PathLike[str] | None
    client_cert: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    client_key_password: str | None
    pinned_sha256: str | Iterable[str] | None
    strict_x509: bool | None
    min_tls: Literal["1.2", "1.3"] | None
    username: str | None
    password: str | None
    token: str | Provider | Callable[[], str] | Callable[[], Awaitable[str]] | None
    auth_mechanisms: str | Iterable[str] | None
    allow_cleartext_auth: bool | None
    client_name: str | None
    timeout: float | Mapping[str, float] | Timeouts | None
    ignore_extensions: str | Iterable[str] | None
    window: int | None
    chunk_in_flight: Literal["auto", "probe", "never"] | None
    rate: float | None
    xque: bool | None
    source_address: str | None
    proxy: str | Mapping[str, str | None] | None


ServerLike: TypeAlias = str | ServerSettings | Mapping[str, Any] | Server


class Settings(TypedDict, total=False):
    """The keywords of `Mailer` and `AsyncMailer`; None is the same as a keyword that is not given."""

    servers: ServerLike | Sequence[ServerLike] | None
    ports: int | str | Sequence[int | str | None] | None
    host: str | None
    port: int | None
    tls: Literal["none", "opportunistic", "required", "implicit"] | None
    on_tls_failure: Literal["secure", "insecure"] | Callable[[Server, Any], str] | None
    ca_file: str | os.PathLike[str] | None
    client_cert: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    client_key_password: str | None
    pinned_sha256: str | Iterable[str] | None
    strict_x509: bool | None
    min_tls: Literal["1.2", "1.3"] | None
    username: str | None
    password: str | None
    token: str | Provider | Callable[[], str] | Callable[[], Awaitable[str]] | None
    auth_mechanisms: str | Iterable[str] | None
    allow_cleartext_auth: bool | None
    client_name: str | None
    timeout: float | Mapping[str, float] | Timeouts | None
    ignore_extensions: str | Iterable[str] | None
    window: int | None
    chunk_in_flight: Literal["auto", "probe", "never"] | None
    rate: float | None
    xque: bool | None
    source_address: str | None
    proxy: str | Mapping[str, str | None] | None
    deadline: float | None
    recipient_policy: Literal["any", "all"] | None
    bounce_address: Mailbox | None
    only_to: str | Iterable[str] | None
    redirect_to: Mailbox | None
    suppress_send: bool | None
    strategy: Literal["failover", "round_robin"] | None
    rest: float | None
    max_connections: int | None
    max_idle: float | None
    max_messages: int | None
    dkim: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None
