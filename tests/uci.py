"""UCI's server, as a test needs it: on loopback, with files of the test's own."""

import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def packed(contents: dict[str, bytes]) -> bytes:
    """Return files as a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Uci:
    """A server on loopback that answers every request with `body`, and counts them."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.status, self.body, self.length, self.requests = 200, packed(contents), None, 0
        uci = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                uci.requests += 1
                self.send_response(uci.status)
                self.send_header("Content-Length", str(uci.length or len(uci.body)))
                self.end_headers()
                self.wfile.write(uci.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/wine.zip"


@contextmanager
def uci_server(contents: dict[str, bytes]) -> Iterator[Uci]:
    """Serve an archive of files until the end of the block."""
    uci = Uci(contents)
    thread = threading.Thread(target=uci.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield uci
    finally:
        uci.server.shutdown()
        thread.join()
        uci.server.server_close()
