"""Take the pictures of the pages of MLflow, Prefect and the service: `make images`, after `make notebooks`.

It starts the servers of `make up` on free ports and opens their pages in Chromium (Debian's `chromium`, or the one that
`CHROMIUM` names). Playwright is fetched for the occasion and is no part of the environment.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
PLAIN = """localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("color-scheme", '"light"');"""
PORTS = ("PREFECT", "MLFLOW", "S3", "SERVE")
RUN_SECONDS = 600

# address, a text to wait for, and the width and height to show
MLFLOW_PAGES = {
    "mlflow-runs": ("/#/experiments/1/runs", "xgboost-by-autolog", 1280, 760),
    "mlflow-registry": ("/#/models/wine-quality-lesson", "champion", 1280, 760),
}
PREFECT_PAGES = {
    "prefect-dashboard": ("/dashboard", "Active Work Pools", 1280, 500),
    "prefect-deployments": ("/deployments", "watch-weekly", 1280, 560),
    "prefect-run": ("/runs/flow-run/{run}", "Task runs", 1280, 500),
    "prefect-work-pool": ("/work-pools/work-pool/wine", "Concurrency Limit", 1280, 760),
    "prefect-block": ("/blocks/block/{block}", "wine-credentials", 980, 480),
}


@contextmanager
def servers(home: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Run `make up` over a home; yield the address of each server by its name, and the environment of the servers."""
    ports = {name: free_port() for name in PORTS}
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    own = os.environ | {f"WINE_{name}_PORT": str(port) for name, port in ports.items()} | {"WINE_HOME": str(home)}
    up = subprocess.Popen([PYTHON, "-m", "orchestration.up"], cwd=ROOT, env=own, stdout=subprocess.DEVNULL)
    try:
        for name in ("PREFECT", "MLFLOW", "S3"):
            while not answers(addresses[name]):
                assert up.poll() is None, "make up did not start"
                time.sleep(0.2)
        yield addresses, own
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(address: str) -> bool:
    """Say whether a server answers, be it with a refusal."""
    try:
        urlopen(address, timeout=5).close()
    except HTTPError:
        return True
    except (URLError, ConnectionError):
        return False
    return True


def asked(url: str, question: dict | None = None) -> Any:
    """Return what Prefect's API answers."""
    body = None if question is None else json.dumps(question).encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=30) as answer:
        return json.load(answer)


def quick_run(page: Page, prefect: str) -> str:
    """Press Quick run on the page of the nightly deployment, wait until the run is complete, and return its id."""
    nightly = asked(f"{prefect}/api/deployments/name/train-wine-quality/nightly")["id"]
    page.goto(f"{prefect}/deployments/deployment/{nightly}", wait_until="load")
    page.get_by_role("button", name="Run", exact=True).click()
    with page.expect_response(f"**/{nightly}/create_flow_run") as made:
        page.get_by_text("Quick run").click()
    run, deadline = made.value.json()["id"], time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        state = asked(f"{prefect}/api/flow_runs/{run}")["state"]
        if state["type"] == "COMPLETED":
            return run
        if state["type"] in ("FAILED", "CRASHED", "CANCELLED"):
            raise SystemExit(f"error: the run is {state['name']}: {state['message']}")
        time.sleep(1)
    raise SystemExit("error: the run did not complete. Look at it in Prefect.")


def take(page: Page, name: str, address: str, text: str, width: int, height: int) -> None:
    """Write one picture."""
    page.set_viewport_size({"width": width, "height": height})
    page.goto(address, wait_until="load")
    page.get_by_text(text).first.wait_for()
    page.wait_for_timeout(1500)  # the columns settle
    later = page.get_by_role("button", name="Not now")
    if later.count():  # Prefect's advertisement of another page
        later.click()
    page.wait_for_timeout(1500)
    page.screenshot(path=ROOT / "images" / f"{name}.png")
    print(name)


def take_log(page: Page, name: str, address: str, first: str, last: str) -> None:
    """Write a picture of the lines of a log, from one to another."""
    page.set_viewport_size({"width": 1280, "height": 2000})  # only lines in view are drawn
    page.goto(address, wait_until="load")
    top, bottom = (page.get_by_text(re.compile(line)).first for line in (first, last))
    bottom.wait_for()
    page.wait_for_timeout(1500)
    begin, end = top.bounding_box()["y"] - 16, bottom.bounding_box()["y"] + 36
    page.screenshot(
        path=ROOT / "images" / f"{name}.png", clip={"x": 264, "y": begin, "width": 1016, "height": end - begin}
    )
    print(name)


def take_mlflow(page: Page) -> None:
    """Take the pictures of MLflow, which holds what the notebooks left."""
    with servers(ROOT) as (at, _):
        for name, (path, *shown) in MLFLOW_PAGES.items():
            take(page, name, at["MLFLOW"] + path, *shown)


def take_prefect(page: Page) -> None:
    """Take the pictures of Prefect, in a home of its own, after two runs of the nightly deployment."""
    with tempfile.TemporaryDirectory() as home, servers(Path(home)) as (at, own):
        subprocess.run([PYTHON, "-m", "orchestration.deploy"], cwd=ROOT, env=own, stdout=subprocess.DEVNULL, check=True)
        prefect = at["PREFECT"]
        ids = {"run": [quick_run(page, prefect) for _ in range(2)][-1]}
        ids["block"] = asked(f"{prefect}/api/block_types/slug/s3-bucket/block_documents/name/wine-bucket")["id"]
        for name, (path, *shown) in PREFECT_PAGES.items():
            take(page, name, prefect + path.format(**ids), *shown)
        below = {"flow_runs": {"parent_flow_run_id": {"any_": [ids["run"]]}, "name": {"like_": "compare"}}}
        subflow = asked(f"{prefect}/api/flow_runs/filter", below)[0]["id"]
        take_log(page, "prefect-logs", f"{prefect}/runs/flow-run/{subflow}", r"baseline\s+skipped", r"score\s+on")
        take_service(page, at["SERVE"], own)


def take_service(page: Page, address: str, own: dict[str, str]) -> None:
    """Take the picture of the page of `make serve`."""
    serve = subprocess.Popen([PYTHON, "-m", "deployment.serve"], cwd=ROOT, env=own, stdout=subprocess.DEVNULL)
    try:
        while not answers(address):
            assert serve.poll() is None, "make serve did not start"
            time.sleep(0.2)
        take(page, "service-page", address, "Tasters gave", 1280, 900)
    finally:
        serve.send_signal(signal.SIGINT)
        serve.wait()


def main() -> None:
    """Take all pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        sys.exit("error: Chromium is needed for the pictures. Install it, or name it: make images CHROMIUM=/path/to/it")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(color_scheme="light")
        page.add_init_script(PLAIN)
        take_mlflow(page)
        take_prefect(page)
        browser.close()


if __name__ == "__main__":
    main()
