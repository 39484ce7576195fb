"""A password before MLflow's server, as Prefect's server has one: HTTP basic authentication for a single account.

MLflow's own `--app-name basic-auth` knows users and permissions, and needs the package Flask-WTF. This is the protocol
of `uvicorn --http scaling.password:PasswordProtocol`. The account, `user:password`, is in `SERVER_AUTH_STRING`.
"""

import os
from base64 import b64encode
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

from wine_quality.same_origin import App, SameOriginProtocol

VARIABLE = "SERVER_AUTH_STRING"
CHALLENGE = (b"www-authenticate", b'Basic realm="wine quality", charset="UTF-8"')


class Password:
    """ASGI middleware that answers 401 to a request without the account."""

    def __init__(self, app: App, account: str) -> None:
        self.app, self.expected = app, b"Basic " + b64encode(account.encode())

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Pass a request on, or refuse it."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        if compare_digest(given, self.expected):
            await self.app(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": [CHALLENGE]})
            await send({"type": "http.response.body", "body": b"a user and a password are needed"})


class PasswordProtocol(SameOriginProtocol):
    """HTTP that checks the origin and the account of each request; there are no WebSockets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = Password(self.app, os.environ[VARIABLE])

    def handle_websocket_upgrade(self) -> None:
        """Refuse to go on as a WebSocket, which would not pass through `Password`."""
        self.send_400_response("no WebSockets here")
