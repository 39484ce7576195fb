"""A command and its Prefect server: one that is away is reported in one line; a temporary one guards itself."""

import functools
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
import requests
import servers
from loopback import ANY_PORT, Quiet, serving
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from servers import command, prefect_server
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from wine_quality.ports import free_port

pytestmark = pytest.mark.slow

NEXT = "Start that server, or remove PREFECT_API_URL from the environment, .env and Prefect's profile.\n"
COMMANDS = {
    "run": " ".join(servers.TRAIN),
    "deploy": "orchestration.deploy",
    "bucket": "orchestration.list_bucket",
    "score": " ".join(servers.SCORE),
    "monitor": " ".join(servers.MONITOR),
    "the event": "orchestration.data_changed",
    "the flow from one file": "orchestration.serve",
    "check": "chapters.check 3",
    "start": "chapters.start 4",
}


def outcome(words: str, url: str) -> tuple[int, str, str]:
    done = command(*words.split(), PREFECT_API_URL=url, WINE_DATA="sample")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_server_that_is_not_there_is_reported_in_one_line(words):
    url = f"http://127.0.0.1:{free_port()}/api"
    line = f"error: PREFECT_API_URL={url}: nothing answers there ([Errno 111] Connection refused). {NEXT}"
    assert outcome(words, url) == (1, "", line)


@pytest.fixture
def another_server(tmp_path) -> Iterator[str]:
    """A server that is not Prefect's: it answers the one path that Prefect's clients request, and nothing else."""
    (tmp_path / "page" / "admin").mkdir(parents=True)
    (tmp_path / "page" / "admin" / "version").write_text("<h1>a page</h1>")
    with serving(ThreadingHTTPServer(ANY_PORT, functools.partial(Quiet, directory=tmp_path))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/page", "that is not Prefect's API, whose address ends in /api"),
        ("/x", "it answers 404, not as Prefect's API does"),
    ],
)
def test_a_server_that_is_not_prefects_is_reported_in_one_line(another_server, path, what):
    line = f"error: PREFECT_API_URL={another_server}{path}: {what}. {NEXT}"
    assert outcome(COMMANDS["bucket"], another_server + path) == (1, "", line)


def test_a_password_in_the_address_is_not_shown():
    port = free_port()
    _, _, err = outcome(COMMANDS["bucket"], f"http://me:hunter2@127.0.0.1:{port}/api")
    assert err.startswith(f"error: PREFECT_API_URL=http://127.0.0.1:{port}/api: nothing answers there")


def assert_closed(port: int) -> None:
    """Assert that a Prefect server refuses what a page of another origin sends, and nothing else."""
    own, name = f"http://127.0.0.1:{port}", f"http://attacker.example:{port}"
    ask = functools.partial(requests.post, f"{own}/api/block_documents/filter", timeout=60)
    for headers in ({"Origin": name}, {"Origin": "null"}, {"Host": f"attacker.example:{port}"}):
        assert ask(json={}, headers=headers).status_code == 403
        assert ask(data="{}", headers={"Content-Type": "text/plain", **headers}).status_code == 403
    framed = {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"}
    assert requests.get(f"{own}/api/health", headers=framed, timeout=60).status_code == 403
    with pytest.raises(InvalidStatus):
        connect(f"ws://127.0.0.1:{port}/api/events/in", origin=name)
    connect(f"ws://127.0.0.1:{port}/api/events/in", origin=own).close()


def test_the_server_of_the_tests_is_closed_to_foreign_pages(tmp_path):
    with prefect_server(tmp_path / "prefect") as port:
        assert_closed(port)
        own = {"Origin": f"http://localhost:{port}"}
        address = f"http://127.0.0.1:{port}/api/block_documents/filter"
        assert requests.post(address, json={}, headers=own, timeout=60).status_code == 200


def test_the_server_that_prefect_starts_by_itself_is_closed_to_foreign_pages():
    with prefect_test_harness(server_startup_timeout=300):
        assert_closed(int(PREFECT_API_URL.value().split(":")[2].removesuffix("/api")))


def test_a_server_that_asks_for_a_password_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:hunter2")
    with prefect_server(tmp_path / "prefect") as port:
        code, _, err = outcome(COMMANDS["bucket"], f"http://127.0.0.1:{port}/api")
    assert code == 1
    assert err.endswith("/api: asks for a password. Set PREFECT_API_AUTH_STRING to user:password.\n")
