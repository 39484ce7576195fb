"""Take the pictures of the pages of MLflow, Prefect, the bucket and the service, for `images/draw.py`.

It starts the servers of `make up` on free ports and opens their pages in Chromium (Debian's `chromium`, or the one that
`CHROMIUM` names). Playwright is fetched for the occasion and is no part of the environment; of the package, only what
needs the standard library alone is imported here.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]

from images import pages
from wine_quality.ports import free_port
from wine_quality.processes import server

PYTHON = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
PLAIN = """localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("color-scheme", '"light"');"""
TIDY = """folder => {
  document.querySelector("[data-assistant-ui]")?.remove();  // MLflow's floating button covers what is below it
  document.querySelector(".app-router-view")?.style.setProperty("background-image", "none");  // Prefect's pattern
  for (const image of document.images)  // logos of other servers
    if (image.complete && !image.naturalWidth)
      (image.closest(".block-type-card-preview") ?? image.parentElement).style.display = "none";
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(folder, "/home/you/wine_data");
}"""
CUT_OFF = """() => Math.max(0, ...[document.scrollingElement, ...document.querySelectorAll("*")]
  .filter(part => part === document.scrollingElement || /auto|scroll/.test(getComputedStyle(part).overflowY))
  .filter(part => part.scrollHeight > part.clientHeight + 8)
  .map(part => { part.style.maxHeight = "none"; return part.scrollHeight - part.clientHeight; }))"""
RUN_SECONDS = 1800
TALLEST = 1800  # pixels
PATIENCE = 120_000  # milliseconds


@contextmanager
def servers(home: Path, **more: str) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Run `make up` over a home; yield the address of each server by its name, and the environment of the servers.

    `more` is added to that environment.
    """
    ports = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3", "SERVE")}
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    own = {f"WINE_{name}_PORT": str(port) for name, port in ports.items()} | {"WINE_HOME": str(home)} | more
    home.mkdir(exist_ok=True)
    up = [ports[name] for name in ("MLFLOW", "PREFECT", "S3")]
    with server([PYTHON, "-m", "orchestration.up"], up, home / "up.log", own):
        yield addresses, own


def ask(url: str, body: dict | None = None) -> Any:
    """Return what an API answers."""
    content = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, content, {"Content-Type": "application/json"}), timeout=300) as answer:
        return json.load(answer)


def quick_run(page: Page, prefect: str) -> str:
    """Press Quick run on the page of the nightly deployment, and return the id of the run."""
    nightly = ask(f"{prefect}/api/deployments/name/train-wine-quality/nightly")["id"]
    page.goto(f"{prefect}/deployments/deployment/{nightly}", wait_until="load")
    page.get_by_role("button", name="Run", exact=True).click()
    with page.expect_response(f"**/{nightly}/create_flow_run") as response:
        page.get_by_text("Quick run").click()
    if not response.value.ok:
        raise SystemExit(f"error: Prefect answers the quick run with {response.value.status}: {response.value.text()}")
    return response.value.json()["id"]


def wait_for_state(prefect: str, run: str, wanted: str) -> None:
    """Wait until a run is in a state such as `COMPLETED`."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        state = ask(f"{prefect}/api/flow_runs/{run}")["state"]
        if state["type"] == wanted:
            return
        if state["type"] in ("FAILED", "CRASHED", "CANCELLED"):
            raise SystemExit(f"error: the run is {state['name']}: {state['message']}")
        time.sleep(1)
    raise SystemExit(f"error: the run isn't {wanted} after {RUN_SECONDS} seconds. Look at it in Prefect.")


@dataclass(frozen=True)
class Camera:
    """A page of the browser, and the folder in which pictures land."""

    page: Page
    folder: Path

    def show(self, address: str, shown: pages.Page) -> None:
        """Open a page and wait until it is complete."""
        self.page.set_viewport_size({"width": shown.width, "height": shown.height})
        self.page.goto(address + shown.path, wait_until="load")
        self.page.get_by_text(re.compile(shown.text)).first.wait_for()
        self.page.wait_for_timeout(1500)  # the columns settle
        later = self.page.get_by_role("button", name="Not now")
        if later.count():  # Prefect's advertisement of another page
            later.click()
        for one in shown.clicks:
            found = self.page.locator(one) if one.startswith("css=") else self.page.get_by_text(one, exact=True)
            found.first.click()
        self.page.mouse.move(1, shown.height - 1)  # so that nothing is highlighted
        self.page.wait_for_timeout(1000 * shown.seconds)
        self.page.evaluate(TIDY, str(Path(os.environ["WINE_DATA"]).resolve()))
        if shown.grows and not shown.top:
            self.grow(shown)

    def grow(self, shown: pages.Page) -> None:
        """Make the window higher until nothing has to be scrolled."""
        height, before = shown.height, TALLEST
        while 0 < (cut_off := self.page.evaluate(CUT_OFF)) < before and height + cut_off < TALLEST:
            height, before = height + cut_off, cut_off
            self.page.set_viewport_size({"width": shown.width, "height": height})
            self.page.wait_for_timeout(1000)

    def take(self, address: str, pictures: dict[str, pages.Page], **ids: str) -> None:
        """Write the pictures of some pages; the ids go into their paths. No path of this machine is shown."""
        for name, shown in pictures.items():
            self.show(address, replace(shown, path=shown.path.format(**ids)))
            mask, path = [self.page.get_by_text(re.compile(r"^Path: file:"))], self.folder / f"{name}.png"
            self.page.screenshot(path=path, mask=mask, mask_color="#ffffff", clip=self.clip(shown))
            print(name, flush=True)

    def clip(self, shown: pages.Page) -> dict[str, float] | None:
        """Return which part of Prefect's page to show: what is right of its menu, from one line to another."""
        if not shown.top:
            return None
        top, bottom = (self.page.get_by_text(re.compile(line)).first for line in (shown.top, shown.text))
        begin, end = top.bounding_box()["y"] - 16, bottom.bounding_box()["y"] + 48
        return {"x": 264, "y": begin, "width": shown.width - 264, "height": end - begin}


def take_mlflow(camera: Camera, home: Path) -> None:
    """Take the pictures of MLflow: empty, and with what the notebooks left."""
    port, store = free_port(), f"sqlite:///{home}/empty.db"
    empty = [PYTHON, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    with server(empty, [port], home / "empty.log", {}):
        camera.take(f"http://127.0.0.1:{port}", pages.MLFLOW_EMPTY)
    with servers(home) as (at, _):

        def newest_run(name: str) -> dict[str, Any]:
            wanted = {"experiment_ids": ["1"], "filter": f"attributes.run_name = '{name}'"}
            return ask(f"{at['MLFLOW']}/api/2.0/mlflow/runs/search", wanted)["runs"][0]

        names = {"first": "first-forest", "by_hand": "xgboost-by-hand", "by_autolog": "xgboost-by-autolog"}
        ids = {key: newest_run(name)["info"]["run_id"] for key, name in names.items()}
        ids["model"] = newest_run("first-forest")["outputs"]["model_outputs"][0]["model_id"]
        camera.take(at["MLFLOW"], pages.MLFLOW, **ids)


def take_prefect(camera: Camera, home: Path) -> None:
    """Take the pictures of Prefect, a model card, the bucket and the service after two runs of the nightly deployment.

    The first one waits for approval, which is given once its picture is there.
    """
    with servers(home, WINE_APPROVAL="manual") as (at, own):
        subprocess.run([PYTHON, "-m", "orchestration.deploy"], env={**os.environ, **own}, check=True)
        api = f"{at['PREFECT']}/api"
        first = quick_run(camera.page, at["PREFECT"])
        wait_for_state(at["PREFECT"], first, "PAUSED")
        camera.take(at["PREFECT"], pages.APPROVAL, run=first)
        ask(f"{api}/flow_runs/{first}/resume", {"run_input": {"reason": pages.REASON}})
        wait_for_state(at["PREFECT"], first, "COMPLETED")
        camera.take(at["MLFLOW"], pages.MODEL_CARD)
        run = quick_run(camera.page, at["PREFECT"])
        wait_for_state(at["PREFECT"], run, "COMPLETED")
        block = ask(f"{api}/block_types/slug/s3-bucket/block_documents/name/wine-bucket")["id"]
        below = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}, "name": {"like_": "compare"}}}
        subflow = ask(f"{api}/flow_runs/filter", below)[0]["id"]
        camera.take(at["PREFECT"], pages.PREFECT, run=run, block=block, subflow=subflow)
        with server([PYTHON, "-m", "deployment.serve"], [int(own["WINE_SERVE_PORT"])], home / "serve.log", own):
            camera.take(at["SERVE"], pages.SERVICE)
    port, stored = free_port(), home / ".local" / "s3"
    rclone = [PYTHON.with_name("rclone"), "serve", "http", stored, "--addr", f"127.0.0.1:{port}", "--config", "", "-q"]
    with server(rclone, [port], home / "rclone.log", {}):
        run_id = min(path.name for path in (stored / "wine-quality" / "runs").iterdir())
        camera.take(f"http://127.0.0.1:{port}", pages.BUCKET, run_id=run_id)


def take_monitoring(camera: Camera, home: Path) -> None:
    """Take the picture of a monitoring run of the simulation, as Prefect has it."""
    wanted = {
        "flow_runs": {"name": {"any_": [pages.MONITORED]}},
        "artifacts": {"key": {"any_": ["monitoring-report"]}},
    }
    with servers(home) as (at, _):
        report = ask(f"{at['PREFECT']}/api/artifacts/filter", wanted)[0]["id"]
        camera.take(at["PREFECT"], pages.MONITORING, report=report)


def take_dask(camera: Camera, home: Path) -> None:
    """Take the picture of Dask's dashboard, with the Bokeh that is in the folder `bokeh` of the home."""
    port, paths = free_port(), [str(home / "bokeh"), os.environ["PYTHONPATH"]]
    workers, own = [PYTHON, "-m", "images.workers", str(port)], {"PYTHONPATH": os.pathsep.join(paths)}
    with server(workers, [port], home / "workers.log", own):
        camera.take(f"http://127.0.0.1:{port}", pages.DASK)


def main() -> None:
    """Take all pictures into a folder, of what a home holds."""
    home, folder = map(Path, sys.argv[1:])
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ["CHROMIUM"], args=FLAGS)
        camera = Camera(browser.new_page(color_scheme="light"), folder)
        camera.page.set_default_timeout(PATIENCE)
        camera.page.add_init_script(PLAIN)
        camera.take(f"file://{home.resolve()}/.local", pages.DRIFT)
        take_mlflow(camera, home)
        take_prefect(camera, home / "pipeline")
        take_monitoring(camera, home / ".local" / "simulation")
        take_dask(camera, home)
        browser.close()


if __name__ == "__main__":
    main()
