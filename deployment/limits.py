"""How large a request may be, and how long it may take to arrive.

The server limits the head of a request by its own options (`serve`). No server knows how large a body may be, nor how
long it may take, so `BodyLimit` limits both.
"""

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.schemas import RequestError

MAX_SECONDS = 10.0
MAX_BODY_BYTES = 4 * 2**20  # of one body
MAX_BUFFERED_BYTES = 64 * 2**20  # bytes of all bodies that are being read or answered
MAX_HEAD_BYTES = 64 * 2**10  # bytes of a request line with its headers


class HeadAsGet:
    """Let the app answer HEAD as it answers GET, which FastAPI leaves out; the server sends the head alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class BodyLimit:
    """Read the body of a POST whole before the app sees it; refuse what is too large or does not arrive in time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the body on as one message, or answer 408, 413 or 503 and close the connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        pieces: list[bytes] = []
        try:
            await self.read(scope, receive, pieces)
            pieces[:] = [b"".join(pieces)]
            await self.app(scope, replay(pieces[0], receive), send)
        except RequestError as error:
            self.discard(pieces)
            await send_error(error, receive, send)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        finally:
            self.discard(pieces)

    def discard(self, pieces: list[bytes]) -> None:
        """Forget what was read of a body."""
        self.buffered -= sum(map(len, pieces))
        pieces.clear()

    async def read(self, scope: Scope, receive: Receive, pieces: list[bytes]) -> None:
        """Read a body into `pieces`, or raise a `RequestError`."""
        if int(dict(scope["headers"]).get(b"content-length", 0)) > MAX_BODY_BYTES:
            raise too_large()
        size, more = 0, True
        try:
            async with asyncio.timeout(MAX_SECONDS):
                while more:
                    piece, more = await next_piece(receive)
                    pieces.append(piece)
                    size += len(piece)
                    self.buffered += len(piece)
                    if size > MAX_BODY_BYTES:
                        raise too_large()
                    if self.buffered > MAX_BUFFERED_BYTES:
                        raise RequestError(503, "too many large requests at once. Try again soon")
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive within {MAX_SECONDS:g} s") from None


def too_large() -> RequestError:
    """Return what to answer to a body beyond the limit."""
    return RequestError(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB. Send the wines in parts")


async def next_piece(receive: Receive) -> tuple[bytes, bool]:
    """Return the next piece of a body, and whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message["body"], message["more_body"]


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read, and then what comes after it."""
    read = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return next(read, None) or await receive()

    return receive_again


async def send_error(error: RequestError, receive: Receive, send: Send) -> None:
    """Send an error, then read the rest of the body, or a client that only sends would never see the error."""
    line = error.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(line)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": line, "more_body": True})
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(0 if error.status == 408 else MAX_SECONDS):
            while (await next_piece(receive))[1]:
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
