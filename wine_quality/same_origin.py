"""Keep web pages of other origins away from a server on loopback, whatever framework the server is built with.

A browser lets any page send requests to `127.0.0.1`. Headers that a page cannot forge say whose page it is: `Origin`,
which a browser sends with every write, every cross-origin read and every WebSocket handshake, and `Host`, which holds
the attacker's name under DNS rebinding. A `Content-Security-Policy` keeps our own pages from asking other hosts.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Headers = list[tuple[bytes, bytes]]
App = Callable[[dict, Callable, Callable], Awaitable[None]]

LOOPBACK = rb"(?:127\.0\.0\.1|localhost|\[::1\])(?P<port>:\d+)?"
HOST, ORIGIN = re.compile(LOOPBACK, re.IGNORECASE), re.compile(rb"https?://" + LOOPBACK, re.IGNORECASE)
LOCAL = b"http://127.0.0.1:* http://localhost:* ws://127.0.0.1:* ws://localhost:*"  # by either name
POLICY_HEADER = b"content-security-policy"
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob: " + LOCAL
FRAMES = {b"iframe", b"frame", b"embed", b"object"}
LINE = "requests from a page of another origin are refused. Open this server by its address on 127.0.0.1 or localhost"
BODY = json.dumps({"error": LINE, "problems": [LINE]}).encode()


class SameOrigin:
    """ASGI middleware that answers 403 to pages of another origin, and keeps our pages from asking other hosts.

    Other clients send no `Origin` and pass. `localhost` and `127.0.0.1` on one port count as one origin.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and is_foreign(scope["headers"]):
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": BODY})
        elif scope["type"] == "websocket" and is_foreign(scope["headers"]):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, with_policy(send) if scope["type"] == "http" else send)


def with_policy(send: Callable) -> Callable:
    """Return `send` with the policy in the headers of a response that has none of its own."""

    async def send_with_policy(message: dict) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if POLICY_HEADER not in [name.lower() for name, _ in headers]:
                message = {**message, "headers": [*headers, (POLICY_HEADER, POLICY)]}
        await send(message)

    return send_with_policy


def is_foreign(headers: Headers) -> bool:
    """Say whether a request names a foreign host, comes from another origin, or would put our page in a frame."""
    hosts = [HOST.fullmatch(value) for name, value in headers if name == b"host"]
    origins = [ORIGIN.fullmatch(value) for name, value in headers if name == b"origin"]
    if len(hosts) != 1 or not (host := hosts[0]) or not all(origins):
        return True
    if any(origin["port"] != host["port"] for origin in origins if origin):
        return True
    values = dict(headers)
    return values.get(b"sec-fetch-dest") in FRAMES and values.get(b"sec-fetch-site") != b"same-origin"


class SameOriginProtocol(HttpToolsProtocol):
    """HTTP with the same check, for a server whose app is not ours to wrap.

    Name it as `uvicorn --http wine_quality.same_origin:SameOriginProtocol`, or in the variable `UVICORN_HTTP`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = SameOrigin(self.app)

    def handle_websocket_upgrade(self) -> None:
        """Go on as a WebSocket, or refuse to."""
        if is_foreign(self.headers):
            self.send_400_response(LINE)
        else:
            super().handle_websocket_upgrade()
