"""Draw every picture of the READMEs anew: `make images`.

The figures are drawn by the notebooks' code, the simulation and the results of the benchmarks. The pages are of
real servers, filled by the same notebooks and by runs of the pipeline. All of it happens in a folder that is thrown
away, with the wine that `WINE_DATA` names, and nothing in `images/` changes before every picture is there.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import search
from benchmarks.machine import RESULTS
from images.loop import loop
from images.pages import LARGEST, PICTURES
from notebooks.execute import all_notebooks
from wine_quality.command import exit_code
from wine_quality.config import ROOT
from wine_quality.errors import SettingsError, WineError
from wine_quality.plots import save_figure
from wine_quality.processes import run_module

PLAYWRIGHT = "playwright==1.55.0"  # fetched for the occasion; its own Chromium is not


def chromium() -> str:
    """Return the browser."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not found:
        raise SettingsError("the pictures need Chromium. Install it, or name it: make images CHROMIUM=/path/to/it")
    return found


def fill(home: Path) -> None:
    """Execute copies of the notebooks and run the simulation, in a home of its own; both draw figures into it."""
    own = {"WINE_HOME": str(home), "LOGNAME": "you"}  # MLflow shows who made a run
    run_module("notebooks.execute", *(shutil.copy(path, home) for path in all_notebooks()), **own)
    run_module("monitoring.simulation", **own)


def photograph(home: Path, browser: str) -> None:
    """Take the pictures of the pages, with a Playwright that is fetched for the occasion."""
    script = ROOT / "images" / "screenshots.py"
    run_module("uv", "run", "-q", "--no-project", "--with", PLAYWRIGHT, script, home, home / "images", CHROMIUM=browser)


def keep(folder: Path) -> None:
    """Put the pictures in place of the old ones, where they are the ones that are wanted and none is too large.

    Raises
    ------
    WineError
        One is missing, one is too many, or one is too large.
    """
    found = {path.stem: path for path in folder.glob("*.png")}
    if wrong := set(found) ^ set(PICTURES):
        raise WineError(f"{', '.join(sorted(wrong))}: drawn or listed in images/pages.py, and not both.")
    if large := [name for name, path in found.items() if path.stat().st_size >= LARGEST]:
        raise WineError(f"{', '.join(sorted(large))}: over {LARGEST:,} bytes. Show less of it: images/pages.py.")
    for old in (ROOT / "images").glob("*.png"):
        old.unlink()
    for path in found.values():
        shutil.copy(path, ROOT / "images")


def main() -> None:
    """Draw all pictures."""
    browser = chromium()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "images").mkdir()
        save_figure(loop(), home / "images" / "the-loop.png")
        save_figure(search.draw(json.loads((RESULTS / "search.json").read_text())), home / "images" / "search.png")
        fill(home)
        photograph(home, browser)
        keep(home / "images")


if __name__ == "__main__":
    sys.exit(exit_code(main))
