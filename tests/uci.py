"""UCI's server, as a test needs it: on loopback, with files of the test's own."""

import io
import zipfile
from contextlib import AbstractContextManager
from http.server import ThreadingHTTPServer

from loopback import ANY_PORT, Quiet, serving


def packed(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Handler(Quiet):
    server: "Uci"

    def do_GET(self) -> None:
        uci = self.server
        uci.requests += 1
        self.send_response(uci.status)
        self.send_header("Content-Length", str(uci.length or len(uci.body)))
        self.end_headers()
        self.wfile.write(uci.body)


class Uci(ThreadingHTTPServer):
    """A server that answers every request with `body`, and counts them."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(ANY_PORT, Handler)
        self.status, self.body, self.length, self.requests = 200, packed(contents), None, 0
        self.url = f"http://127.0.0.1:{self.server_port}/wine.zip"


def uci_server(contents: dict[str, bytes]) -> AbstractContextManager[Uci]:
    return serving(Uci(contents))
