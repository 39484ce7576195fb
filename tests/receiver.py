"""A stand-in for a chat program's webhook: it stores the requests, and answers with a given status."""

import json
from contextlib import AbstractContextManager
from http.server import ThreadingHTTPServer

from loopback import ANY_PORT, Quiet, serving


class Handler(Quiet):
    server: "Receiver"

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.got.append(message)
        self.send_response(status)
        self.end_headers()


class Receiver(ThreadingHTTPServer):
    """A server on a free port; `answers` are the next statuses, 200 after them."""

    def __init__(self) -> None:
        super().__init__(ANY_PORT, Handler)
        self.got: list[dict] = []
        self.answers: list[int] = []
        self.address = f"http://127.0.0.1:{self.server_port}/a-secret-path"


def receiver() -> AbstractContextManager[Receiver]:
    return serving(Receiver())
