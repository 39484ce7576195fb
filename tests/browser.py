"""Chromium for the tests, and the page of an attacker in it."""

import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from loopback import ANY_PORT, Quiet, serving
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SWITCHES = """
headless=new no-sandbox disable-gpu disable-quic no-first-run
disable-background-networking disable-component-update disable-sync
"""
ELSEWHERE = "attacker.example"  # a name that resolves to this machine, as after DNS rebinding
FETCH = """
const [url, options, done] = [arguments[0], arguments[1], arguments[arguments.length - 1]];
fetch(url, options).then(answer => answer.text()).then(text => done(text), error => done("blocked: " + error));
"""
SOCKET = """
const [url, done] = [arguments[0], arguments[arguments.length - 1]];
const socket = new WebSocket(url);
socket.onopen = () => done("open");
socket.onerror = () => done("blocked");
"""


@contextmanager
def chromium_without_screen(profile: Path) -> Iterator[webdriver.Chrome]:
    """Yield Debian's Chromium, which logs the requests and the errors of its pages."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and browser):
        pytest.skip("no chromium with its chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in (*SWITCHES.split(), f"user-data-dir={profile}", f"host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options, Service(driver))
    try:
        yield chromium
    finally:
        chromium.quit()


@contextmanager
def site(folder: Path) -> Iterator[int]:
    """Serve an empty page on a free port of loopback, and yield the port."""
    (folder / "index.html").write_text("<title>attacker</title>")
    with serving(ThreadingHTTPServer(ANY_PORT, functools.partial(Quiet, directory=folder))) as server:
        yield server.server_port


def fetch(page: webdriver.Chrome, url: str, **options: object) -> str:
    """Return what JavaScript of the open page can read of a response, or `blocked: ` and why it cannot."""
    return page.execute_async_script(FETCH, url, options)


def can_open_socket(page: webdriver.Chrome, url: str) -> bool:
    """Return whether JavaScript of the open page can open a WebSocket."""
    return page.execute_async_script(SOCKET, url) == "open"
