"""What the two mailers have in common: settings, listeners, and the dispatches made of them. Nothing here waits."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from smtpbackend.hiding import discreet
from smtpbackend.spelling import KEYWORDS, Spelling

# What sends is loaded as a Mailer is made (`load`): a program that only imports it does not pay for it (DESIGN 5.6).
if TYPE_CHECKING:
    from typing import Unpack

    from smtpbackend.address import Address
    from smtpbackend.delivery.caller import Caller
    from smtpbackend.delivery.configuration import Configuration
    from smtpbackend.delivery.dispatch import Dispatch
    from smtpbackend.delivery.inside import Delivery
    from smtpbackend.delivery.lifecycle import Lifecycle
    from smtpbackend.delivery.route import Route
    from smtpbackend.delivery.server import Server
    from smtpbackend.delivery.typed_settings import ServerLike, Settings
    from smtpbackend.errors import SMTPError
    from smtpbackend.events import Listener

__all__ = ["BaseMailer"]

EVERY_MAIL = (
    "encodings.idna",
    "smtpbackend.delivery.date_and_id",
    "smtpbackend.delivery.dispatch",
    "smtpbackend.delivery.lifecycle",
    "smtpbackend.delivery.spreading",
    "smtpbackend.signals",
    "smtpbackend.streams",
    "smtpbackend.unsubscribe",
)
"""What each mail needs, whichever mailer sends it."""


class BaseMailer:
    """The base of `Mailer` and `AsyncMailer`, which add the methods that wait, and the pool."""

    _name = "Mailer"
    _twin = ""  # the package that performs
    _is_quiet = False  # whether no signal is sent
    _modules: tuple[str, ...] = ()  # what this mailer's mails need beside `EVERY_MAIL`

    @discreet
    def __init__(
        self,
        *server: ServerLike,
        listeners: Sequence[Listener] = (),
        spelling: Spelling = KEYWORDS,
        **settings: Unpack[Settings],
    ) -> None:
        from smtpbackend.delivery.configuration import configure
        from smtpbackend.delivery.route import Route
        from smtpbackend.events import check_listeners

        self._listeners = check_listeners(listeners)
        if server:
            settings["servers"] = list(server)
        self.configuration = configure(settings, spelling)
        self._route = Route(self.configuration.servers, self.configuration.strategy, self.configuration.rest)
        self.load(self.configuration)
        # reads these files now, so that a wrong path is found before the first mail
        self._set_up([server for server in self.configuration.servers if server.ca_file or server.client_cert])

    @classmethod
    def load(cls, configuration: Configuration) -> None:
        """Load every module that a mail with these settings can need. It is called when a mailer is made.

        If a process is forked while one of its threads loads a module, the child can never load that module. And the
        first mail should take no longer than the others.
        """
        from smtpbackend.delivery.message_types import load

        for module in (*EVERY_MAIL, *cls._modules):
            importlib.import_module(module)
        load()
        for server in configuration.servers:
            _load_for(server, cls._twin)

    @classmethod
    @discreet
    def from_settings(cls, settings: Mapping[str, Any], listeners: Sequence[Listener] = ()) -> Self:
        """A mailer from settings with the core's names, as an adapter has them. Raises `InvalidSetting`.

        They may include ``spelling``, which says how errors write the names of the others.
        """
        return cls(listeners=listeners, **settings)

    def _beside(self, server: Server) -> Self:
        """A mailer with the same settings for this server alone. It has its own connections, and tells no Listener."""
        other = object.__new__(type(self))
        other._listeners, other._is_quiet = (), True
        other.configuration = self.configuration._replace(servers=(server,))
        other._route = type(self._route)(other.configuration.servers)
        other._set_up([])
        return other

    def _set_up(self, with_files: Sequence[Server]) -> None:
        """Prepare the pools, and make the TLS contexts of these servers. Raises `InvalidSetting`."""
        raise NotImplementedError

    def _here(self) -> Any:
        """The pool of this thread, or of the running event loop."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{self._name} {', '.join(server.name for server in self.configuration.servers)}>"

    @property
    def bounce_address(self) -> Address | None:
        """The setting ``bounce_address``: the sender of each envelope that is made from a message, or None."""
        return self.configuration.rules.bounce_address

    def _stream(
        self,
        caller: Caller,
        connections: int,
        listeners: Sequence[Listener],
        suppress: bool | None = None,
        *,
        pairs: bool,
        in_order: bool,
    ) -> Any:
        """The iterator of what becomes of all that a caller has."""
        lifecycle = self._lifecycle(listeners, suppress)
        pool = self._here()
        if connections == 1:
            dispatch = self._dispatch(lifecycle, caller, pairs=pairs, in_order=in_order)
            return pool.perform(dispatch.run(operator.length_hint(caller.source)), caller)
        from smtpbackend.delivery.spreading import Spread, check_connections

        check_connections(connections, self.configuration)
        down: dict[Server, SMTPError] = {}
        most = connections * max(server.window for server in self.configuration.servers)
        state = Spread(caller.source, connections, most, pairs, in_order)

        def perform(share: Caller, within: Delivery) -> Any:
            dispatch = self._dispatch(lifecycle, share, pairs=True, down=down)
            return pool.perform(dispatch.run(operator.length_hint(share.source)), share, within)

        return self._spread(caller, state, pool, lifecycle, perform)

    def _spread(self, *args: Any) -> Any:
        """What the function ``spread`` of this twin returns."""
        raise NotImplementedError

    def _lifecycle(self, listeners: Sequence[Listener] = (), suppress: bool | None = None) -> Lifecycle:
        from smtpbackend.delivery.date_and_id import stamp
        from smtpbackend.delivery.lifecycle import Lifecycle
        from smtpbackend.events import Telling, check_listeners
        from smtpbackend.signals import SignalListener

        if listeners != ():
            listeners = check_listeners(listeners)
        rules, pool = self.configuration.rules, self._here()
        return Lifecycle(
            rules,
            tell=Telling((*listeners, *self._listeners, *(() if self._is_quiet else (SignalListener(self),)))),
            clock=pool.clock,
            stamp=stamp,
            deadline=self.configuration.deadline,
            ended=pool.count,
            suppress=rules.suppress_send if suppress is None else suppress,
        )

    def _dispatch(
        self,
        lifecycle: Lifecycle | None = None,
        caller: Caller | None = None,
        *,
        pairs: bool = False,
        in_order: bool = False,
        route: Route | None = None,
        down: dict[Server, SMTPError] | None = None,
    ) -> Dispatch:
        from smtpbackend.delivery.dispatch import Dispatch

        return Dispatch(
            route or self._route,
            lifecycle or self._lifecycle(),
            moved=self._here().count_move,
            down=down,
            caller=caller,
            pairs=pairs,
            in_order=in_order,
        )


def _load_for(server: Server, twin: str) -> None:
    """Load the modules that mail needs only because of the settings of this server."""
    from smtpbackend.protocol.mechanisms import load as load_mechanisms

    load_mechanisms(server.auth_mechanisms, password=bool(server.password), token=server.token is not None)
    if server.path is not None:
        from smtpbackend.forking import at_path

        at_path(server)  # raises now if the system has no unix sockets
    if server.srv:
        importlib.import_module("random")
        importlib.import_module(f"{twin}.lookup")
    if server.pinned_sha256:
        importlib.import_module("smtpbackend.delivery.certificate")
    if server.has_token_source:
        from smtpbackend.delivery.credentials import Provider

        importlib.import_module(f"{twin}.tokens")
        if isinstance(server.token, Provider):
            server.token.load()
