"""Take the pictures of MLflow's pages for the READMEs and notebooks: `make images`, after `make notebooks`.

It starts MLflow on a free port over the project's store and opens its pages in Chromium (Debian's `chromium`, or the
one that `CHROMIUM` names). Playwright is fetched for the occasion and is no part of the environment.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / os.environ.get("WINE_HOME", "")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
PLAIN = """localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");"""
PAGES = {  # the part of the address after #, and a text that is there when the page is
    "mlflow-runs": ("/experiments/1/runs", "xgboost-by-autolog", 760),
    "mlflow-registry": ("/models/wine-quality-lesson", "champion", 760),
}


@contextmanager
def mlflow_server() -> Iterator[str]:
    """Run MLflow over the project's store for the time of the block; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        ROOT / ".venv" / "bin" / "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    store = ["--backend-store-uri", f"sqlite:///{HOME / 'mlflow.db'}"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen([*command, *store], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urlopen(f"{address}/health", timeout=5).close()
                break
            except (URLError, ConnectionError):
                assert server.poll() is None, "MLflow did not start"
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def take(page: Page, address: str, name: str) -> None:
    """Write one picture."""
    path, text, height = PAGES[name]
    page.set_viewport_size({"width": 1280, "height": height})
    page.goto(f"{address}/#{path}", wait_until="load")
    page.get_by_text(text).first.wait_for()
    page.wait_for_timeout(1500)  # the columns settle
    page.screenshot(path=ROOT / "images" / f"{name}.png")
    print(name)


def main() -> None:
    """Take all pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        sys.exit("error: Chromium is needed for the pictures. Install it, or name it: make images CHROMIUM=/path/to/it")
    with mlflow_server() as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(color_scheme="light")
        page.add_init_script(PLAIN)
        for name in PAGES:
            take(page, address, name)
        browser.close()


if __name__ == "__main__":
    main()
