"""Copies of the notebooks, executed on the sample and the real data, with right and wrong answers, and not set up."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from base64 import b64decode
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from conftest import REAL_DATA
from nbformat import NotebookNode
from PIL import Image
from servers import command, running, wait_until
from test_notebooks import NOTEBOOKS, SYNTHETIC, code_of, each_notebook, read, solutions_of, tagged, texts

from notebooks import execute
from wine_quality.config import ROOT

pytestmark = pytest.mark.slow

LONG = "05-tune-with-hyperopt"  # fifty trials: on the real data it only runs in make check-docs
ON_DASK = "10-scale-out"
SHORT_SEARCH = "6"  # trials
TIMED = re.compile(
    "times as (fast|high)|throughput|latency|speeds up"
)  # printed by notebook 8, and true on an idle machine
TAGS = WRONG, RIGHT, OF_ODD_TYPE = "wrong", "right", "odd"
ODD = ("'a text'", "__import__('pandas').DataFrame()", "{}")  # of a type that no exercise asks for, or obviously wrong
ANSWERS = {  # a near miss, and a right answer computed differently from the solution
    "01-explore-the-data": [
        (
            "by_deviation.idxmax()",
            "data[list(MEASUREMENTS)].corrwith(data['type'] == 'red').abs().nlargest(2).index[1]",
        ),
        ("(data['quality'] == 6).mean()", "round(data['quality'].between(5, 7).mean(), 2)"),
    ],
    "02-train-baselines": [
        ("solution_1 ** 2", "round(((y_validation - y.mean()) ** 2).mean() ** 0.5, 2)"),
        ("on_validation.loc['KNeighborsRegressor', 'R²']", "round(nearest.score(X_validation, y_validation), 2)"),
    ],
    "03-find-the-leak": [
        ("lambda train, scored: scored.merge(train.drop_duplicates()).shape[0] / len(scored)", "leaked_fraction"),
        ("len(never_seen)", "round(len(data) * np.exp(len(train) * np.log1p(-1 / len(data))))"),
        ("leaked_fraction(data, scored_part)",
         "round(scored_part[features].merge(data.drop(scored_part.index)[features].drop_duplicates()).shape[0]"
         " / len(scored_part), 2)"),
    ],
    "04-track-runs": [
        ("'decision_tree'", "runs.set_index('params.model')['metrics.fold_mae'].idxmin()"),
        ("round((1 - runs['metrics.fold_accuracy'].min()) * len(train))",
         "len(train) - (predict(loaded, train) == quality).sum()"),
    ],
    "05-tune-with-hyperopt": [
        ("(table['RMSE'].cummin() > table['RMSE'].min() + 0.001).sum()",
         "table.index[table['RMSE'].cummin() <= table['RMSE'].min() + 0.001][0] + 1"),
        ("'linear'", "table.loc[table['RMSE'][table['features'] == 'measured'].idxmin(), 'family']"),
    ],
    "06-register-the-model": [
        ("(gains > 0).mean()", "np.mean([gain > 0.15 for gain in gains])"),
        ("not solution_2",
         "registry.compare(lesson, fit(build('random_forest', 42), train), *split, dataset.source, **rules).low > 0"),
        ("1",
         "[made := registry.register(tracking.open_store(settings(registered_model='wine-quality-mine')),"
         " runs['linear'], {}), client.set_registered_model_alias('wine-quality-mine', 'champion', made),"
         " int(made)][-1]"),
    ],
    "07-from-notebook-to-flow": [
        ("exponential_backoff(backoff_factor=1)(5)[-1]", "2**5 - 1"),
        ("'Completed'", "'Cached'"),
    ],
    "08-serve-the-model": [
        ("['alcohol', 'density', 'sulphates', 'sulfates']", "['sulphates', 'density', 'sulfates']"),
        ("lambda seconds, limit: np.mean(np.array(seconds) < limit)",
         "lambda seconds, limit: (pd.Series(seconds) <= limit).mean()"),
    ],
    "09-read-a-drift-report": [
        ("['pH (red)', 'density (red)']", "['pH (red)']"),
        ("4", "min(n for n in range(1, 240) if mix(n, rows=240)['drifted'])"),
        ("0.01", "next(limit for limit, share in shares.items() if share <= 0.01)"),
    ],
    "10-scale-out": [
        ("len(np.unique(keys_of(chunks[6])))", "len(set(keys_of(chunks[6]).tolist()) - set(others.tolist()))"),
        ("12 - 4", "9"),
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Keep the files of Jupyter and IPython in the test's folder, and run from another folder."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def with_answers(notebook: NotebookNode, answers: list[tuple[str, str]]) -> NotebookNode:
    for number, solution in enumerate(solutions_of(notebook), start=1):
        wrong, right = answers[number - 1]
        check = solution.source.splitlines()[-1]
        tries = [(WRONG, wrong, solution.source), (RIGHT, right, solution.source)]
        tries += [(OF_ODD_TYPE, odd, check) for odd in ODD]
        after = notebook.cells.index(solution) + 1
        notebook.cells[after:after] = [
            nbformat.v4.new_code_cell(f"answer_{number} = {answer}\n{code}", metadata={"tags": [tag]})
            for tag, answer, code in tries
        ]
    return notebook


@each_notebook
def test_it_runs_checks_answers_and_on_the_real_data_reproduces_the_committed_output(path, tmp_path, monkeypatch):
    on_real = REAL_DATA.is_dir() and path.stem != LONG
    executed = executed_copy(path, tmp_path, monkeypatch, str(REAL_DATA.resolve()) if on_real else "sample")
    if on_real:
        assert_reproduces(executed, path, tmp_path / "images")


@pytest.mark.docs
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != LONG], ids=lambda path: path.stem)
def test_on_the_sample_it_says_that_the_data_is_synthetic(path, tmp_path, monkeypatch):
    executed_copy(path, tmp_path, monkeypatch, "sample")


@pytest.mark.docs
def test_the_long_search_on_the_real_data_reproduces_the_committed_output(tmp_path, monkeypatch, real_folder):
    (path,) = (path for path in NOTEBOOKS if path.stem == LONG)
    executed = executed_copy(path, tmp_path, monkeypatch, str(real_folder.resolve()), whole=True)
    assert_reproduces(executed, path, tmp_path / "images")


def executed_copy(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, whole: bool = False
) -> NotebookNode:
    """Execute a copy of a notebook: with the whole search, or with a short one and answers to check."""
    if path.stem == ON_DASK:
        pytest.importorskip("distributed", reason="Dask is not installed: make setup-scaling")
    monkeypatch.setenv("WINE_DATA", data)
    (tmp_path / "notebooks").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "notebooks"))
    notebook = read(copy)
    if not whole:
        monkeypatch.setenv("WINE_TRIALS", SHORT_SEARCH)
        with_answers(notebook, ANSWERS[path.stem])
    execute.execute(notebook, copy)
    if not whole:
        assert_checks_answers(notebook, path)
    assert data != "sample" or any(SYNTHETIC.search(text) for cell in code_of(notebook) for text in texts(cell))
    return notebook


def assert_checks_answers(executed: NotebookNode, path: Path) -> None:
    wrong, right, odd = (tagged(executed, tag) for tag in TAGS)
    assert len(wrong) == len(right) == len(odd) / len(ODD) == len(ANSWERS[path.stem])
    for cell in wrong + odd:
        (line,) = "".join(texts(cell)).splitlines()
        assert line.startswith("Not yet: ")
    assert [list(texts(cell)) for cell in right] == [["right\n"]] * len(right)


def assert_reproduces(executed: NotebookNode, path: Path, images: Path) -> None:
    """Compare cells and pictures with the committed ones, without the answers that the test inserted."""
    executed.cells = [cell for cell in executed.cells if not set(TAGS) & set(cell.metadata.get("tags", []))]
    for count, cell in enumerate(code_of(executed), start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    committed = read(path)
    for new, old in zip(comparable(executed), comparable(committed), strict=True):
        assert new == old
    for new, old in zip(images_of(executed), images_of(committed), strict=True):
        assert_alike(new, old)
    for image in images.glob("*.png"):
        assert_alike(image.read_bytes(), (ROOT / "images" / image.name).read_bytes())


def comparable(notebook: NotebookNode) -> list[dict]:
    cells = json.loads(nbformat.writes(notebook))["cells"]
    for cell in cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
            output["text"] = [line for line in output.get("text", []) if not TIMED.search(line)]
    return cells


def images_of(notebook: NotebookNode) -> list[bytes]:
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return [b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


def assert_alike(new: bytes, old: bytes) -> None:
    """Assert that two pictures are equal, except for antialiasing, which may differ between machines."""
    one, other = (np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=float) for image in (new, old))
    assert one.shape == other.shape
    assert np.abs(one - other).mean() < 0.5


def one_cell(path: Path, *sources: str) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)
    return path


make_notebooks = partial(command, "notebooks.execute")


def test_a_second_execution_gives_the_same_file_and_each_notebook_prints_a_line(tmp_path):
    sources = ("import pandas as pd", "pd.Series([1, 2])")
    paths = [one_cell(tmp_path / f"{name}.ipynb", *sources) for name in ("one", "two")]
    done = make_notebooks(*map(str, paths))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.sub(r"\d+ s", "n s", line) for line in done.stdout.splitlines()]
    assert lines == [f"{name:<25} 2 cells, n s" for name in ("one", "two")]
    first = paths[0].read_bytes()
    assert b'"execution_count": 2' in first
    make_notebooks(str(paths[0]))
    assert paths[0].read_bytes() == first


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import warnings\nwarnings.warn('mind the gap')", "a warning: .*mind the gap.*"),
        ("import os\nos._exit(1)", "the kernel died, perhaps because it ran out of memory; see .*notebooks.log"),
        (
            "from wine_quality import config, sources\nsources.load_dataset(config.settings())",
            "DataError: WINE_DATA=nowhere: no file or folder that you may open.*",
        ),
    ],
)
def test_a_failing_cell_is_reported_in_one_line_and_the_file_is_unchanged(tmp_path, source, what):
    path = one_cell(tmp_path / "mine.ipynb", "1 + 1", source, "2 + 2")
    before = path.read_bytes()
    done = make_notebooks(str(path), WINE_DATA="nowhere")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: mine\.ipynb, cell \[2\]: {what}\. The notebook file is unchanged; .*\n", done.stderr)
    assert path.read_bytes() == before


def test_ctrl_c_prints_one_line_and_stops_the_kernel(tmp_path):
    source = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    path = one_cell(tmp_path / "mine.ipynb", source)
    before = path.read_bytes()
    log, kernel = tmp_path / "log", tmp_path / "pid"
    with running(["-m", "notebooks.execute", str(path)], log) as process:
        wait_until(lambda: process.poll() is not None or (kernel.exists() and kernel.read_text()), "the kernel")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert log.read_text() == "stopped. Run it again when you like.\n"
    assert not psutil.pid_exists(int(kernel.read_text()))
    assert path.read_bytes() == before


def test_without_set_up_one_line_says_what_to_do(tmp_path):
    """In a kernel from another environment, with Jupyter but without our package."""
    venv.create(tmp_path / "other", with_pip=False, symlinks=True)
    elsewhere = next(path for path in sys.path if path.endswith("site-packages"))
    ipython = [tmp_path / "other" / "bin" / "python", "-m", "IPython", "--simple-prompt", "--colors=NoColor", "-c"]
    own = {**os.environ, "PYTHONPATH": elsewhere}
    for path in NOTEBOOKS:
        first = code_of(read(path))[0].source
        done = subprocess.run([*ipython, first], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=60)
        assert (done.stdout + done.stderr).splitlines() == [
            "UsageError: Run `make setup` in the repository first, then choose its .venv as the kernel."
        ]
