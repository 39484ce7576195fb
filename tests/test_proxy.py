"""Loopback is never reached through a proxy, whichever variable names one and whatever that proxy does."""

import os
import socket
import subprocess
import sys

import pytest

from wine_quality.ports import free_port

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CLIENTS = """
import asyncio, os, sys, urllib.request
import wine_quality
import boto3, httpx, requests, websockets
from websockets.exceptions import InvalidStatus

port = sys.argv[1]
for host in ("127.0.0.1", "localhost"):
    url = f"http://{host}:{port}/moto-api/"
    assert requests.get(url, timeout=20).ok
    assert httpx.get(url, timeout=20).is_success
    assert urllib.request.urlopen(url, timeout=20).status == 200
    assert boto3.client("s3", endpoint_url=f"http://{host}:{port}").list_buckets()["Buckets"] == []

    async def shake_hands():
        async with websockets.connect(f"ws://{host}:{port}/", open_timeout=20):
            pass

    try:
        asyncio.run(shake_hands())
    except InvalidStatus:
        pass  # it answers, but not to that
print("reached")
"""


@pytest.mark.slow
@pytest.mark.parametrize("lower", [False, True], ids=["capital letters", "small letters"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "refuses"])
def test_every_client_reaches_loopback_and_the_proxy_is_not_asked(moto, lower, scheme, hangs):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1] if hangs else free_port()
        named = {name.lower() if lower else name: f"{scheme}://127.0.0.1:{port}" for name in NAMES}
        own = {**os.environ, **named, "NO_PROXY": "example.org"}
        server = moto.meta.endpoint_url.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-c", CLIENTS, server], env=own, capture_output=True, text=True, timeout=300
        )
        assert (done.stdout, done.returncode) == ("reached\n", 0), done.stderr
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
