"""Take the pictures of the pages of MLflow, Prefect, the bucket and the service, for `images/draw.py`.

It starts the servers of `make up` on free ports and opens their pages in Chromium (Debian's `chromium`, or the one that
`CHROMIUM` names). Playwright is fetched for the occasion and is no part of the environment.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pages
from pages import Page as Shown
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


@contextmanager
def server(command: list, address: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a server from when it answers until the end of the block."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not answers(address):
            assert process.poll() is None, f"{command} did not start"
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def servers(home: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Run `make up` over a home; yield the address of each server by its name, and the environment of the servers."""
    ports = {name: free_port() for name in PORTS}
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    own = os.environ | {f"WINE_{name}_PORT": str(port) for name, port in ports.items()} | {"WINE_HOME": str(home)}
    with server([PYTHON, "-m", "orchestration.up"], addresses["MLFLOW"], own):
        while not (answers(addresses["PREFECT"]) and answers(addresses["S3"])):
            time.sleep(0.2)
        yield addresses, own


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


@dataclass(frozen=True)
class Camera:
    """A page of the browser, and the folder in which pictures land."""

    page: Page
    folder: Path

    def open(self, address: str, shown: Shown) -> None:
        """Open a page and wait until it is complete."""
        self.page.set_viewport_size({"width": shown.width, "height": shown.height})
        self.page.goto(address + shown.path, wait_until="load")
        self.page.get_by_text(re.compile(shown.text)).first.wait_for()
        self.page.wait_for_timeout(1500)  # the columns settle
        later = self.page.get_by_role("button", name="Not now")
        if later.count():  # Prefect's advertisement of another page
            later.click()
        for text in shown.clicks:
            self.page.get_by_text(text, exact=True).first.click()
        self.page.wait_for_timeout(1500)

    def take(self, address: str, pictures: dict[str, Shown], **ids: str) -> None:
        """Write the pictures of some pages of a server; the ids go into their paths."""
        for name, shown in pictures.items():
            self.open(address, replace(shown, path=shown.path.format(**ids)))
            self.keep(name, **self.part(shown))

    def part(self, shown: Shown) -> dict[str, Any]:
        """Return which part of Prefect's page to show: what is right of its menu, from one line to another."""
        if not shown.top:
            return {}
        top, bottom = (self.page.get_by_text(re.compile(line)).first for line in (shown.top, shown.text))
        begin, end = top.bounding_box()["y"] - 16, bottom.bounding_box()["y"] + 48
        return {"clip": {"x": 264, "y": begin, "width": shown.width - 264, "height": end - begin}}

    def keep(self, name: str, **more: Any) -> None:
        """Write what the browser shows; where a file lies on this machine is painted over."""
        place = self.page.get_by_text(re.compile(r"^Path: file:"))
        self.page.screenshot(path=self.folder / f"{name}.png", mask=[place], mask_color="#ffffff", **more)
        print(name, flush=True)


def take_mlflow(camera: Camera, home: Path) -> None:
    """Take the pictures of MLflow: empty, and with what the notebooks left."""
    with servers(home / "empty") as (at, _):
        camera.take(at["MLFLOW"], pages.MLFLOW_EMPTY)
    with servers(home) as (at, _):
        runs = f"{at['MLFLOW']}/api/2.0/mlflow/runs/search"

        def run(name: str) -> dict[str, Any]:
            """Return the newest run of a name."""
            wanted = {"experiment_ids": ["1"], "filter": f"attributes.run_name = '{name}'"}
            return asked(runs, wanted)["runs"][0]

        names = {"first": "first-forest", "by_hand": "xgboost-by-hand", "by_autolog": "xgboost-by-autolog"}
        ids = {key: run(name)["info"]["run_id"] for key, name in names.items()}
        ids["model"] = run("first-forest")["outputs"]["model_outputs"][0]["model_id"]
        camera.take(at["MLFLOW"], pages.MLFLOW, **ids)


def take_prefect(camera: Camera, home: Path) -> None:
    """Take the pictures of Prefect, the bucket and the service after two runs of the nightly deployment."""
    with servers(home) as (at, own):
        subprocess.run([PYTHON, "-m", "orchestration.deploy"], cwd=ROOT, env=own, stdout=subprocess.DEVNULL, check=True)
        api = f"{at['PREFECT']}/api"
        run = [quick_run(camera.page, at["PREFECT"]) for _ in range(2)][-1]
        block = asked(f"{api}/block_types/slug/s3-bucket/block_documents/name/wine-bucket")["id"]
        below = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}, "name": {"like_": "compare"}}}
        subflow = asked(f"{api}/flow_runs/filter", below)[0]["id"]
        camera.take(at["PREFECT"], pages.PREFECT, run=run, block=block, subflow=subflow)
        with server([PYTHON, "-m", "deployment.serve"], at["SERVE"], own):
            camera.take(at["SERVE"], pages.SERVICE)
    port = free_port()
    stored, bucket = home / ".local" / "s3", f"http://127.0.0.1:{port}"
    browse = [PYTHON.with_name("rclone"), "serve", "http", stored, "--addr", f"127.0.0.1:{port}", "--config", "", "-q"]
    with server(browse, bucket, os.environ):
        run_id = min(path.name for path in (stored / "wine-quality" / "runs").iterdir())
        camera.take(bucket, pages.BUCKET, run_id=run_id)


def take_monitoring(camera: Camera, home: Path) -> None:
    """Take the picture of a monitoring run of the simulation, as Prefect has it."""
    with servers(home) as (at, _):
        wanted = {
            "flow_runs": {"name": {"any_": [pages.MONITORED]}},
            "artifacts": {"key": {"any_": ["monitoring-report"]}},
        }
        report = asked(f"{at['PREFECT']}/api/artifacts/filter", wanted)[0]["id"]
        camera.take(at["PREFECT"], pages.MONITORING, report=report)


def main() -> None:
    """Take all pictures into a folder, of what a home holds."""
    home, folder = map(Path, sys.argv[1:])
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ["CHROMIUM"], args=FLAGS)
        camera = Camera(browser.new_page(color_scheme="light"), folder)
        camera.page.add_init_script(PLAIN)
        take_mlflow(camera, home)
        take_prefect(camera, home / "pipeline")
        take_monitoring(camera, home / ".local" / "simulation")
        browser.close()


if __name__ == "__main__":
    main()
