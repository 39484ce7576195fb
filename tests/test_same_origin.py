"""Which requests come from a page of another origin."""

import asyncio
from collections.abc import Callable

import pytest

from wine_quality.same_origin import POLICY, SameOrigin, is_foreign

OWN = ["127.0.0.1:4200", "localhost:4200", "LOCALHOST:4200", "[::1]:4200", "localhost"]
FOREIGN = [
    "attacker.example:4200",
    "127.0.0.1.attacker.example:4200",
    "127.0.0.1:4200@attacker.example",
    "10.0.0.1:4200",
    "",
]


def headers(host: str, **more: str) -> list[tuple[bytes, bytes]]:
    named = {"host": host, **{name.replace("_", "-"): value for name, value in more.items()}}
    return [(name.encode(), value.encode()) for name, value in named.items()]


@pytest.mark.parametrize("host", [*OWN, *FOREIGN])
def test_a_client_that_is_no_browser_passes_and_a_foreign_host_is_refused(host):
    assert is_foreign(headers(host)) is (host in FOREIGN)
    assert host in OWN or is_foreign(headers(host, origin=f"http://{host}"))


def test_a_request_without_a_host_or_with_two_is_refused():
    assert is_foreign([])
    assert is_foreign(headers("localhost:4200") * 2)


OWN_PAGES = ["http://127.0.0.1:4200", "http://localhost:4200"]
OTHER_PAGES = ["http://localhost:5997", "http://localhost", "https://attacker.example", "null", "", "file://"]


@pytest.mark.parametrize("origin", [*OWN_PAGES, *OTHER_PAGES])
def test_the_servers_own_pages_pass_under_either_name_and_those_of_another_origin_are_refused(origin):
    assert is_foreign(headers("127.0.0.1:4200", origin=origin)) is (origin in OTHER_PAGES)


@pytest.mark.parametrize(
    ("to", "of", "refused"),
    [("iframe", "cross-site", True), ("iframe", "same-origin", False), ("document", "cross-site", False)],
)
def test_a_page_is_shown_in_a_frame_of_its_own_server_only(to, of, refused):
    assert is_foreign(headers("localhost:4200", sec_fetch_dest=to, sec_fetch_site=of)) is refused


def sent_by(app: Callable, host: str, kind: str = "http") -> list[dict]:
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(SameOrigin(app)({"type": kind, "headers": headers(host)}, None, send))
    return sent


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("http", ("http.response.start", 403)), ("websocket", ("websocket.close", 1008))],
)
def test_what_is_refused_does_not_reach_the_app(kind, answer):
    reached = []

    async def app(scope, receive, send):
        reached.append(scope["type"])

    first, *_ = sent_by(app, "attacker.example", kind)
    assert (first["type"], first.get("status") or first.get("code")) == answer
    sent_by(app, "localhost", kind)
    sent_by(app, "", "lifespan")
    assert reached == [kind, "lifespan"]


@pytest.mark.parametrize("own", [[], [(b"Content-Security-Policy", b"default-src 'none'")]])
def test_a_page_may_ask_this_machine_alone_unless_it_has_a_policy_of_its_own(own):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": own})

    (start,) = sent_by(app, "localhost")
    policies = [value for name, value in start["headers"] if name.lower() == b"content-security-policy"]
    assert policies == ([value for _, value in own] or [POLICY])
