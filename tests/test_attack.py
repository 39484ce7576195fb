"""Requests of hostile or clumsy clients are rejected with one clear line that reveals nothing about the machine."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest
import requests
from served import SAMPLE, get_json, own_home, service
from versions import crown, register_model

from deployment import limits, serve
from wine_quality.config import ROOT
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow

TIME_LIMIT = 2.0  # seconds, instead of ten
BIG = b"[" + b" " * limits.MAX_BODY_BYTES


@pytest.fixture(scope="module")
def config(tmp_path_factory, few_wines):
    with own_home(tmp_path_factory.mktemp("attacked"), few_wines) as config:
        crown(register_model(config, "extra_trees", n_estimators=10))
        yield config


@pytest.fixture(scope="module")
def url(config):
    """A service with a short time limit; after all tests, it has never failed and still scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MAX_SECONDS", TIME_LIMIT)
        with service(config) as url:
            yield url
            assert 'status="500"' not in requests.get(f"{url}/metrics", timeout=30).text
            assert get_json(f"{url}/health/ready") == {"status": "green"}
            assert post(url, SAMPLE).status_code == 200


def rejection(response, status):
    """Return the first problem of a rejected request, after checking that it reveals nothing about the machine."""
    assert response.status_code == status, response.text
    assert str(ROOT) not in response.text
    assert not re.search(r"/tmp|site-packages|Traceback|\\n", response.text)
    problems = response.json()["problems"]
    assert response.json()["error"] == problems[0]
    assert 1 <= len(problems) <= 10
    assert len(response.content) < 5_000
    return problems[0]


def post(url, body, path="/predict", kind="application/json"):
    """Send bytes or text unchanged, and anything else as JSON."""
    body = json.dumps(body) if isinstance(body, (dict, list)) else body
    return requests.post(url + path, data=body, headers={"Content-Type": kind}, timeout=30)


@contextmanager
def connected(url, sent=b""):
    """A raw connection to the service, over which some bytes have been sent."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        yield connection


def received_from(connection):
    """Return all that the service sends until it closes the connection; empty if it resets it."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def head(length, then=b""):
    first = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    return first.encode() + then


@pytest.mark.parametrize("path", ["/predict", "/nearest", "/no/such/path"])
@pytest.mark.parametrize("form", ["with its length", "in chunks"])
def test_a_body_above_the_limit_is_rejected_even_if_the_client_sends_all_of_it_first(url, path, form):
    body = BIG if form == "with its length" else iter([BIG[:1000]] * 5000)
    assert rejection(post(url, body, path), 413) == "the body is larger than 4 MiB. Send smaller requests"


def test_a_body_at_the_limit_is_accepted(url):
    assert rejection(post(url, BIG[:-2] + b"]"), 422) == "the list is empty"


def test_a_body_that_claims_to_be_too_large_is_rejected_before_it_arrives(url):
    with connected(url, head("Content-Length: 99999999999")) as connection:
        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("Content-Length: 1", b"{" * 100), 400),  # longer than it claims
        (head("Content-Length: -1"), 400),
        (head("Content-Length: 1e3"), 400),
        (head("Content-Length: 1\r\nContent-Length: 2"), 400),
        (head("Content-Length: 1000", b"{"), 408),  # incomplete
        *(
            (no_http, 400)
            for no_http in (b"\x16\x03\x01\x02\x00", b"text\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\0" * 100)
        ),
    ],
)
def test_a_wrong_length_and_bytes_that_are_not_http_are_rejected(url, sent, status):
    with connected(url, sent) as connection:
        assert received_from(connection).startswith(f"HTTP/1.1 {status}".encode())


NOT_JSON = {
    **{"empty": b"", "torn": b"{", "text": b"text", "not UTF-8": b"\xff\xfe", "zeros": b"\0" * 100},
    **{
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"type":' * 100_000,
        "a huge number": b"[1" + b"0" * 100_000 + b"]",
    },
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_a_body_that_is_not_json_is_rejected(url, body):
    assert rejection(post(url, body), 400).startswith("the body isn't JSON: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "1e-999999"])
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_number_that_is_not_finite_or_out_of_range_is_rejected(url, number, form):
    sample = json.dumps({**SAMPLE, "alcohol": 0}).replace('"alcohol": 0', f'"alcohol": {number}')
    assert "5 to 25 % by volume" in rejection(post(url, form.replace("{}", sample)), 422)


NONSENSE = {
    "fields": ("{" + ",".join(f'"{n}":1' for n in range(300_000)) + "}", 422),
    "numbers": ("[" + "1," * 2_000_000 + "1]", 413),
    "empty samples": ("[" + ",".join(["{}"] * 5000) + "]", 422),
    "a long name": ('[{"' + "x" * 4_000_000 + '":1}]', 422),
    "a long value": (json.dumps([SAMPLE] * 4999 + [{**SAMPLE, "type": "x" * 2_000_000}]), 422),
    **{json.dumps(body): (json.dumps(body), 422) for body in (5, "text", None, True, [[]], [None], {}, [{}])},
    **{"nested": (json.dumps([[SAMPLE]]), 422), "named": (json.dumps({"samples": [SAMPLE]}), 422)},
}


@pytest.mark.parametrize(("body", "status"), NONSENSE.values(), ids=NONSENSE)
def test_json_that_is_not_a_sample_is_rejected_within_the_time_limit_of_the_client(url, body, status):
    rejection(post(url, body), status)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"])
def test_any_other_content_type_is_rejected_because_a_page_of_another_site_may_send_it(url, kind):
    assert "Content-Type: application/json" in rejection(post(url, SAMPLE, kind=kind), 415)
    assert post(url, SAMPLE, kind="Application/JSON; charset=utf-8").status_code == 200


STATIC = ("", "/../__init__.py", "/%2e%2e/core.py", "/..%5c..%5ccore.py", "//etc/passwd", "/%00", "/" + "x" * 5000)
PATHS = [
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css/../../serve.py", "/..%2fserve.py", "/serve.py"),
    *("//etc/passwd", "/%00", "/page.js%00.html", "/" + "é" * 100, *(f"/static-offline-docs{path}" for path in STATIC)),
]


@pytest.mark.parametrize("path", PATHS)
def test_path_traversal_finds_nothing(url, path):
    with connected(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()) as connection:
        received = received_from(connection)
    assert re.match(rb"HTTP/1.1 (404|400|307)", received)
    assert not re.search(rb"root:|import |" + str(ROOT).encode(), received)


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE"])
def test_an_unknown_method_is_rejected(url, method):
    response = requests.request(method, f"{url}/predict", timeout=30)
    assert rejection(response, 405) == f"this path doesn't allow {method}. See /docs"


def test_endless_headers_are_rejected(url):
    with connected(url, b"GET / HTTP/1.1\r\n") as connection, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        connection.sendall((b"X: " + b"x" * 1000 + b"\r\n") * 50_000)


def test_slow_clients_are_disconnected_and_do_not_delay_a_fast_one(url):
    with ExitStack() as stack:
        both = [b"POST /predict HT", head("Content-Length: 1000", b"{")]
        clients = [stack.enter_context(connected(url, sent)) for sent in both * 150]
        started = time.monotonic()
        for _ in range(20):
            assert post(url, SAMPLE).status_code == 200
        assert time.monotonic() - started < TIME_LIMIT / 2
        ends = [received_from(client) for client in clients]
    assert set(ends[::2]) == {b""}
    assert all(end.startswith(b"HTTP/1.1 408") for end in ends[1::2])
    assert time.monotonic() - started < 3 * TIME_LIMIT


@pytest.mark.parametrize("sent", [b"", b"GET /", head("Content-Length: 9")], ids=["nothing", "head", "body"])
def test_a_client_above_the_connection_limit_is_served_once_slow_ones_are_disconnected(config, monkeypatch, sent):
    monkeypatch.setattr(limits, "MAX_SECONDS", TIME_LIMIT)
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 20)
    with service(config.model_copy(update={"serve_port": free_port()})) as url, ExitStack() as stack:
        slow = [stack.enter_context(connected(url, sent)) for _ in range(40)]
        assert post(url, SAMPLE).status_code == 200
        assert received_from(slow[0])[:12] == (b"HTTP/1.1 408" if b"\r\n\r\n" in sent else b"")


def test_a_client_that_disconnects_while_sending_its_body_leaves_nothing_behind(url):
    for _ in range(50):
        with connected(url, head("Content-Length: 1000000", b"[" * 10_000)):
            pass
    assert post(url, SAMPLE).status_code == 200


def test_the_total_size_of_large_bodies_is_limited(url, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BUFFERED_BYTES", 2 * limits.MAX_BODY_BYTES)
    part = head(f"Content-Length: {len(BIG) - 1}", BIG[:-2])
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(url, part)) for _ in range(4)]
        ends = [received_from(client) for client in clients]
    assert b"HTTP/1.1 503" in {end[:12] for end in ends} <= {b"HTTP/1.1 503", b"HTTP/1.1 408"}
    assert post(url, [SAMPLE] * 1000).status_code == 200


def test_many_concurrent_requests_all_get_their_response(url):
    bodies = [SAMPLE, [SAMPLE] * 500, "{", {**SAMPLE, "pH": 9}] * 50
    with ThreadPoolExecutor(32) as pool:
        statuses = [response.status_code for response in pool.map(partial(post, url), bodies)]
    assert statuses == [200, 200, 400, 422] * 50
