"""HTTP basic authentication for MLflow's server, with a single account, like that of Prefect's server.

MLflow's own `--app-name basic-auth` manages users and permissions, but needs the package Flask-WTF. Use this one with
`uvicorn --http scaling.password:PasswordProtocol`. The account is `user:password` in `SERVER_AUTH_STRING`.
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
    """ASGI middleware that answers 401 to requests without valid credentials."""

    def __init__(self, app: App, account: str) -> None:
        self.app, self.expected = app, b"Basic " + b64encode(account.encode())

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Pass the request on, or reject it."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        if compare_digest(given, self.expected):
            await self.app(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": [CHALLENGE]})
            await send({"type": "http.response.body", "body": b"user name and password required"})


class PasswordProtocol(SameOriginProtocol):
    """HTTP that checks the origin and the credentials of each request, without WebSockets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = Password(self.app, os.environ[VARIABLE])

    def handle_websocket_upgrade(self) -> None:
        """Reject WebSockets, which would bypass `Password`."""
        self.send_400_response("WebSockets are not supported")
