"""Draw every picture of the READMEs again: `make images`.

The figures are drawn by the notebooks, by the simulation, and here from the results of the benchmarks. The pages are
those of real servers, filled by the same notebooks and by runs of the pipeline. All of it happens in a temporary
folder, on the dataset that `WINE_DATA` names, and nothing in `images/` changes before every picture is there.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from mlflow import MlflowClient

from benchmarks import search
from benchmarks.machine import RESULTS
from images.loop import loop, loop_in_steps
from images.pages import LARGEST, PICTURES
from notebooks.execute import all_notebooks
from wine_quality.command import exit_code
from wine_quality.config import ROOT, settings
from wine_quality.errors import SettingsError, WineError
from wine_quality.plots import parallel_coordinates, save_figure
from wine_quality.processes import run_module
from wine_quality.search import trial_of

PLAYWRIGHT = "playwright==1.55.0"  # fetched for the occasion; its own Chromium is not
BOKEH = ("bokeh==3.9.2", "xyzservices==2026.9.1")  # 27 MB that only Dask's dashboard needs
LOGARITHMIC = ("alpha", "length_scale", "learning_rate", "C", "gamma")  # the parameters with such a range


def draw_and_fill(home: Path) -> None:
    """Draw the figures; copies of the notebooks and the simulation draw some, and fill the home for the others."""
    found, simulated = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("search", "simulation"))
    own = {"WINE_HOME": str(home), "LOGNAME": "you"}  # MLflow shows who made a run
    run_module("notebooks.execute", *(shutil.copy(path, home) for path in all_notebooks()), **own)
    run_module("monitoring.simulation", **own)
    figures = {
        "the-loop": loop(),
        "loop-in-steps": loop_in_steps(simulated),
        "search": search.draw(found),
        "parallel-coordinates": trials_of_search(home),
    }
    for name, figure in figures.items():
        save_figure(figure, home / "images" / f"{name}.png")


def trials_of_search(home: Path) -> Figure:
    """Return the parallel coordinates of notebook 5's trials, those of the model that was drawn most often."""
    runs = MlflowClient(f"sqlite:///{home}/mlflow.db").search_runs(["1"], "tags.candidate != ''", max_results=1000)
    trials = [trial_of(run) for run in runs if run.info.status == "FINISHED"]
    name = pd.Series([trial.candidate.name for trial in trials]).mode()[0]
    ours = [trial for trial in trials if trial.candidate.name == name]
    first = {"features": None}  # stands on the left, as in the notebook
    table = pd.DataFrame([{**first, **trial.candidate.params, "RMSE": trial.loss} for trial in ours])
    table = table.loc[:, table.nunique() > 1]
    return parallel_coordinates(table, [one for one in table if one in LOGARITHMIC], f"{len(table)} trials of {name}")


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
        run_module("uv", "pip", "install", "-q", "--no-deps", "--target", home / "bokeh", *BOKEH)
        script, own = ROOT / "images" / "screenshots.py", {"CHROMIUM": browser, "PYTHONPATH": str(ROOT)}
        own |= {"WINE_DATA": settings().data}  # also where only .env names it
        run_module("uv", "run", "-q", "--no-project", "--with", PLAYWRIGHT, script, home, home / "images", **own)
        replace_pictures(home / "images")


if __name__ == "__main__":
    sys.exit(exit_code(main))
