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


def draw_and_fill(home: Path) -> None:
    """Draw the figures; copies of the notebooks and the simulation draw some, and fill the home for the others."""
    results = json.loads((RESULTS / "search.json").read_text())
    save_figure(loop(), home / "images" / "the-loop.png")
    save_figure(search.draw(results), home / "images" / "search.png")
    own = {"WINE_HOME": str(home), "LOGNAME": "you"}  # MLflow shows who made a run
    run_module("notebooks.execute", *(shutil.copy(path, home) for path in all_notebooks()), **own)
    run_module("monitoring.simulation", **own)


def replace_pictures(folder: Path) -> None:
    """Put the pictures of a folder in place of the old ones, if they are those of `PICTURES` and none is too large."""
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
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not browser:
        raise SettingsError("the pictures need Chromium. Install it, or name it: make images CHROMIUM=/path/to/it")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "images").mkdir()
        draw_and_fill(home)
        script, own = ROOT / "images" / "screenshots.py", {"CHROMIUM": browser, "PYTHONPATH": str(ROOT)}
        run_module("uv", "run", "-q", "--no-project", "--with", PLAYWRIGHT, script, home, home / "images", **own)
        replace_pictures(home / "images")


if __name__ == "__main__":
    sys.exit(exit_code(main))
