"""Which requests come from a page of another origin."""

import asyncio

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


@pytest.mark.parametrize("host", OWN)
def test_a_client_that_is_no_browser_passes(host):
    assert not is_foreign(headers(host))


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_host_is_refused(host):
    assert is_foreign(headers(host))
    assert is_foreign(headers(host, origin=f"http://{host}"))


def test_a_request_without_a_host_or_with_two_is_refused():
    assert is_foreign([])
    assert is_foreign(headers("localhost:4200") * 2)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:4200", "http://localhost:4200"])
def test_the_servers_own_pages_pass_under_either_name(origin):
    assert not is_foreign(headers("127.0.0.1:4200", origin=origin))


@pytest.mark.parametrize(
    "origin", ["http://localhost:5997", "http://localhost", "https://attacker.example", "null", "", "file://"]
)
def test_the_page_of_another_origin_is_refused(origin):
    assert is_foreign(headers("127.0.0.1:4200", origin=origin))


def test_a_page_is_shown_in_a_frame_of_its_own_server_only():
    assert is_foreign(headers("localhost:4200", sec_fetch_dest="iframe", sec_fetch_site="cross-site"))
    assert not is_foreign(headers("localhost:4200", sec_fetch_dest="iframe", sec_fetch_site="same-origin"))
    assert not is_foreign(headers("localhost:4200", sec_fetch_dest="document", sec_fetch_site="cross-site"))


@pytest.mark.parametrize(
    ("kind", "answer"), [("http", {"http.response.start": 403}), ("websocket", {"websocket.close": 1008})]
)
def test_what_is_refused_does_not_reach_the_app(kind, answer):
    sent, reached = [], []

    async def app(scope, receive, send):
        reached.append(scope["type"])

    async def send(message):
        sent.append(message)

    asyncio.run(SameOrigin(app)({"type": kind, "headers": headers("attacker.example")}, None, send))
    assert {sent[0]["type"]: sent[0].get("status") or sent[0].get("code")} == answer
    asyncio.run(SameOrigin(app)({"type": kind, "headers": headers("localhost")}, None, send))
    asyncio.run(SameOrigin(app)({"type": "lifespan"}, None, send))
    assert reached == [kind, "lifespan"]


@pytest.mark.parametrize("given", [[], [(b"Content-Security-Policy", b"default-src 'none'")]])
def test_a_page_may_ask_this_machine_alone_unless_it_has_a_policy_of_its_own(given):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": given})

    async def send(message):
        sent.append(message)

    asyncio.run(SameOrigin(app)({"type": "http", "headers": headers("localhost")}, None, send))
    policies = [value for name, value in sent[0]["headers"] if name.lower() == b"content-security-policy"]
    assert policies == ([value for _, value in given] or [POLICY])
