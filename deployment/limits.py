"""How large a request may be, and how long it may take to arrive.

The server's own options limit the request line and headers (see `serve`). It has none for the size of a body and the
time it takes, so `BodyLimit` limits both.
"""

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.schemas import RequestError

MAX_SECONDS = 10.0
MAX_BODY_BYTES = 4 * 2**20  # per request
MAX_BUFFERED_BYTES = 64 * 2**20  # of all requests in progress
MAX_HEAD_BYTES = 64 * 2**10  # of a request line with its headers


class HeadAsGet:
    """Treat HEAD requests as GET, which FastAPI doesn't do; the server leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class BodyLimit:
    """Read the whole body of a POST before the app sees it; reject it if it's too large or too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on as one message, or respond with 408, 413 or 503 and close the connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        chunks: list[bytes] = []
        try:
            await self.read(scope, receive, chunks)
            chunks[:] = [b"".join(chunks)]
            await self.app(scope, replay(chunks[0], receive), send)
        except RequestError as error:
            self.discard(chunks)
            await send_error(error, receive, send)
        except ClientDisconnect:
            pass  # nobody is waiting for a response
        finally:
            self.discard(chunks)

    def discard(self, chunks: list[bytes]) -> None:
        """Free the memory of a body."""
        self.buffered -= sum(map(len, chunks))
        chunks.clear()

    async def read(self, scope: Scope, receive: Receive, chunks: list[bytes]) -> None:
        """Read a body into `chunks`, or raise a `RequestError`."""
        if int(dict(scope["headers"]).get(b"content-length", 0)) > MAX_BODY_BYTES:
            raise too_large()
        size, more = 0, True
        try:
            async with asyncio.timeout(MAX_SECONDS):
                while more:
                    chunk, more = await next_chunk(receive)
                    chunks.append(chunk)
                    size += len(chunk)
                    self.buffered += len(chunk)
                    if size > MAX_BODY_BYTES:
                        raise too_large()
                    if self.buffered > MAX_BUFFERED_BYTES:
                        raise RequestError(503, "too many large requests at once. Try again later")
        except TimeoutError:
            raise RequestError(408, f"the body didn't arrive within {MAX_SECONDS:g} s") from None


def too_large() -> RequestError:
    """Return the error for a body above the limit."""
    return RequestError(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB. Send smaller requests")


async def next_chunk(receive: Receive) -> tuple[bytes, bool]:
    """Return the next chunk of a body, and whether there are more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message["body"], message["more_body"]


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields a body already read, and then whatever follows it."""
    read = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return next(read, None) or await receive()

    return receive_again


async def send_error(error: RequestError, receive: Receive, send: Send) -> None:
    """Send an error, then drain the body: a client that sends all of it before it reads would never see the error."""
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
            while (await next_chunk(receive))[1]:
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
