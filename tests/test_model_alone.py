"""A logged model in an environment with only its requirements: no checkout, and not our package."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import requests
from packaging.requirements import Requirement
from servers import stop, wait_until
from versions import few_sides, model_path, register_model

from wine_quality import registry, tracking
from wine_quality.config import settings
from wine_quality.models import BLEND, predict
from wine_quality.ports import free_port
from wine_quality.schema import FEATURES

pytestmark = pytest.mark.slow

NAMES = ["extra_trees", "kernel_ridge", "svr", "xgboost", BLEND]  # what the pipeline may choose


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return few_sides()[1][FEATURES].head(5)


@pytest.fixture(scope="module")
def models(tmp_path_factory, rows) -> dict[str, tuple[Path, np.ndarray]]:
    """The folder of each logged model with engineered features, and its predictions for a few rows."""
    found = {}
    with mock.patch.dict(os.environ, {"WINE_HOME": str(tmp_path_factory.mktemp("home"))}):
        config = settings()
        store = tracking.open_store(config)
        for name in NAMES:
            params = {"n_estimators": 5} if "tree" in name else {}
            version = register_model(config, name, features="engineered", **params)
            found[name] = model_path(version).parent, predict(registry.load_version(store, version), rows)
    return found


def requirements(lines: list[str]) -> dict[str, Distribution]:
    """Return the installed distributions that pip would install for some requirements; fail if one is missing."""
    found: dict[str, Distribution] = {}
    wanted = [Requirement(line) for line in lines]
    while wanted:
        one = wanted.pop()
        if one.name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found[one.name] = distribution(one.name)
        assert one.specifier.contains(found[one.name].version, prereleases=True)
        wanted += [Requirement(line) for line in found[one.name].requires or []]
    return found


@pytest.fixture(scope="module")
def python(models, tmp_path_factory) -> Path:
    """The Python of an environment with the requirements of the first model, and nothing else."""
    home = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    lines = (models[NAMES[0]][0] / "requirements.txt").read_text().splitlines()
    for one in requirements(lines).values():
        for top in {path.parts[0] for path in one.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(one.locate_file(top)))
    uvicorn = home / "bin" / "uvicorn"  # `mlflow models serve` looks for it on the path
    uvicorn.write_text(f'#!/bin/sh\nexec "{home}/bin/python" -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    return home / "bin" / "python"


def options(python: Path) -> dict[str, Any]:
    """Return the working folder and the environment for a command of that Python."""
    home, quiet = python.parent.parent, {"MLFLOW_DISABLE_TELEMETRY": "true", "NO_PROXY": "127.0.0.1"}
    return {"cwd": home, "env": {"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home), **quiet}}


def run(python: Path, *command: object) -> subprocess.CompletedProcess[str]:
    words = [python, *map(str, command)]
    return subprocess.run(words, **options(python), capture_output=True, text=True, timeout=300)


LOAD = """
import sys, mlflow, pandas as pd
rows, *folders = sys.argv[1:]
for folder in folders:
    print(*mlflow.pyfunc.load_model(folder).predict(pd.read_parquet(rows)))
"""


def test_a_logged_model_loads_and_predicts_with_only_its_requirements_and_its_code(python, models, rows, tmp_path):
    assert run(python, "-c", "import wine_quality").stderr.endswith("No module named 'wine_quality'\n")
    file = tmp_path / "rows.parquet"
    rows.to_parquet(file)  # bit for bit, unlike JSON
    done = run(python, "-c", LOAD, file, *(folder for folder, _ in models.values()))
    assert done.returncode == 0, done.stderr
    for line, (_, expected) in zip(done.stdout.splitlines(), models.values(), strict=True):
        assert np.array(line.split(), dtype=float) == pytest.approx(expected)
    folder = shutil.copytree(models["extra_trees"][0], tmp_path / "model")
    (folder / "code" / "wine_quality" / "chemistry.py").unlink()
    done = run(python, "-c", LOAD, file, folder)
    assert done.returncode == 1
    assert "wine_quality" in done.stderr.splitlines()[-1]


def test_a_logged_model_contains_only_the_modules_that_its_file_may_refer_to(models):
    for folder, _ in models.values():
        assert {path.name for path in (folder / "code").rglob("*.py")} == set(tracking.OWN_CODE)


def test_mlflow_predicts_from_the_command_line_with_only_its_requirements(python, models, rows, tmp_path):
    folder, expected = models["extra_trees"]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    files = ["-i", tmp_path / "rows.csv", "-o", tmp_path / "out.json", "-t", "csv", "--env-manager", "local"]
    done = run(python, "-m", "mlflow", "models", "predict", "-m", folder, *files)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["predictions"] == pytest.approx(expected)


def test_mlflow_serves_a_model_with_only_its_requirements(python, models, rows, tmp_path):
    def answers() -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"{url}/ping", timeout=10).ok
        return False

    (folder, expected), port, log = models["extra_trees"], str(free_port()), tmp_path / "serve.log"
    url = f"http://127.0.0.1:{port}"
    serve = [python, "-m", "mlflow", "models", "serve", "-m", folder, "-p", port, "--env-manager", "local"]
    with log.open("wb") as screen:
        server = subprocess.Popen(serve, **options(python), stdout=screen, stderr=screen, start_new_session=True)
    try:
        wait_until(lambda: server.poll() is not None or answers(), "mlflow models serve")
        assert server.poll() is None, log.read_text()
        answer = requests.post(f"{url}/invocations", json={"dataframe_records": rows.to_dict("records")}, timeout=60)
    finally:
        stop(server)
    assert answer.json()["predictions"] == pytest.approx(expected)


def test_an_installed_package_is_preferred_to_the_code_in_a_model(models):
    load = "mlflow.pyfunc.load_model(sys.argv[1]); import wine_quality.chemistry as module; print(module.__file__)"
    command = [sys.executable, "-c", f"import mlflow, sys; {load}", models["extra_trees"][0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert Path(done.stdout.strip()) == Path(tracking.__file__).with_name("chemistry.py")
