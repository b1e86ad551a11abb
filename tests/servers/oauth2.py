"""An OAuth 2.0 token endpoint on loopback: Authlib's authorization server on Flask."""

from __future__ import annotations

import threading
from typing import Any, Self

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants
from flask import Flask
from werkzeug.serving import make_server

CLIENT_SECRET = "the-client-knows-it"
REFRESH_TOKEN = "the-user-allowed-it"
METHODS = ["client_secret_post", "client_secret_basic"]


class _Client:
    """The only client."""

    client_id = "app"

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return endpoint == "token"

    def check_grant_type(self, grant_type: str) -> bool:
        return True

    def get_allowed_scope(self, scope: str) -> str:
        return scope


class _Credential:
    def check_client(self, client: Any) -> bool:
        return True

    def get_scope(self) -> str:
        return "mail"


class TokenEndpoint:
    """A running endpoint, as a context manager. ``valid`` are the tokens that it gave and nobody revoked."""

    def __init__(self) -> None:
        self.requests = 0
        self.lifetime = 3600
        self.rotates = False
        self.refresh_token = REFRESH_TOKEN
        self.valid: list[str] = []

    def __enter__(self) -> Self:
        app = Flask("token endpoint")
        server = AuthorizationServer(app, query_client=self._client, save_token=lambda token, request: None)
        server.register_token_generator("default", self._generate)
        endpoint = self

        class ClientCredentials(grants.ClientCredentialsGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        class Refresh(grants.RefreshTokenGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = METHODS

            def authenticate_refresh_token(self, refresh_token: str) -> _Credential | None:
                return _Credential() if refresh_token == endpoint.refresh_token else None

            def authenticate_user(self, credential: _Credential) -> str:
                return "ann"

            def revoke_old_credential(self, credential: _Credential) -> None:
                pass

        server.register_grant(ClientCredentials)
        server.register_grant(Refresh)

        @app.post("/token")
        def token() -> Any:
            self.requests += 1
            return server.create_token_response()

        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self._server.log = lambda *args: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(10)
            self._server.server_close()

    def _client(self, client_id: str) -> _Client | None:
        return _Client() if client_id == _Client.client_id else None

    def _generate(self, grant_type: str, **_: Any) -> dict[str, Any]:
        self.valid.append(f"token-{self.requests}-of-{grant_type}")
        said = {"token_type": "Bearer", "access_token": self.valid[-1], "expires_in": self.lifetime}
        if self.rotates and grant_type == "refresh_token":
            self.refresh_token += "-again"
            said["refresh_token"] = self.refresh_token
        return said
