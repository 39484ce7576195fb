"""A logged model where nothing but its own requirements is installed: no checkout, no package of ours."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import requests
from packaging.requirements import Requirement
from servers import wait_until
from versions import few_sides, model_path, registered

from wine_quality import registry, tracking
from wine_quality.config import settings
from wine_quality.models import predict
from wine_quality.ports import free_port
from wine_quality.schema import FEATURES

pytestmark = pytest.mark.slow

NAMES = ["extra_trees", "kernel_ridge", "svr", "xgboost"]  # the families that the search may choose


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return few_sides()[1][FEATURES].head(5)


@pytest.fixture(scope="module")
def models(tmp_path_factory, rows) -> dict[str, tuple[Path, np.ndarray]]:
    """Return the folder of each logged model with engineered features, and what it predicts for a few rows."""
    found = {}
    with mock.patch.dict(os.environ, {"WINE_HOME": str(tmp_path_factory.mktemp("home"))}):
        config = settings()
        store = tracking.open_store(config)
        for name in NAMES:
            version = registered(config, name, features="chemist", **({"n_estimators": 5} if "tree" in name else {}))
            found[name] = model_path(version).parent, predict(registry.load_version(store, version), rows)
    return found


def installed(requirements: list[str]) -> dict[str, Distribution]:
    """Return what pip would install for requirements, out of what is installed here."""
    found: dict[str, Distribution] = {}
    wanted = [Requirement(line) for line in requirements]
    while wanted:
        one = wanted.pop()
        if one.name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            found[one.name] = distribution(one.name)
        except PackageNotFoundError:
            pytest.fail(f"{one} is required and not installed here")
        assert one.specifier.contains(found[one.name].version, prereleases=True)
        wanted += [Requirement(line) for line in found[one.name].requires or []]
    return found


@pytest.fixture(scope="module")
def python(models, tmp_path_factory) -> Path:
    """Return the Python of an environment that has what the first model requires, and nothing else."""
    home = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    lines = (models[NAMES[0]][0] / "requirements.txt").read_text().splitlines()
    for one in installed(lines).values():
        for top in {path.parts[0] for path in one.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(one.locate_file(top)))
    uvicorn = home / "bin" / "uvicorn"  # `mlflow models serve` looks for it on the path
    uvicorn.write_text(f'#!/bin/sh\nexec "{home}/bin/python" -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    return home / "bin" / "python"


def environment(python: Path) -> dict[str, str]:
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "NO_PROXY": "127.0.0.1"}
    return {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(python.parent.parent), **quiet}


def run(python: Path, *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *map(str, command)],
        cwd=python.parent.parent,
        env=environment(python),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_environment_has_no_package_of_ours(python):
    assert run(python, "-c", "import wine_quality").stderr.endswith("No module named 'wine_quality'\n")


LOAD = """
import sys, mlflow, pandas as pd
rows, *folders = sys.argv[1:]
for folder in folders:
    print(*mlflow.pyfunc.load_model(folder).predict(pd.read_parquet(rows)))
"""


@pytest.fixture
def rows_file(rows, tmp_path) -> Path:
    rows.to_parquet(tmp_path / "rows.parquet")  # bit for bit, unlike JSON
    return tmp_path / "rows.parquet"


def test_a_logged_model_loads_and_predicts_with_its_requirements_alone(python, models, rows_file):
    done = run(python, "-c", LOAD, rows_file, *(folder for folder, _ in models.values()))
    assert done.returncode == 0, done.stderr
    for line, (_, expected) in zip(done.stdout.splitlines(), models.values(), strict=True):
        assert np.array(line.split(), dtype=float) == pytest.approx(expected)


def test_without_the_code_that_it_carries_it_would_not_load(python, models, rows_file, tmp_path):
    folder = shutil.copytree(models["extra_trees"][0], tmp_path / "model")
    (folder / "code" / "wine_quality" / "chemistry.py").unlink()
    done = run(python, "-c", LOAD, rows_file, folder)
    assert done.returncode == 1
    assert "wine_quality" in done.stderr.splitlines()[-1]


def test_a_logged_model_carries_only_the_module_that_its_file_names(models):
    for folder, _ in models.values():
        assert [path.name for path in (folder / "code").rglob("*.py")] == ["chemistry.py"]


def test_mlflow_predicts_from_the_command_line_with_its_requirements_alone(python, models, rows, tmp_path):
    folder, expected = models["extra_trees"]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    options = ["-i", tmp_path / "rows.csv", "-o", tmp_path / "out.json", "-t", "csv", "--env-manager", "local"]
    done = run(python, "-m", "mlflow", "models", "predict", "-m", folder, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["predictions"] == pytest.approx(expected)


@contextmanager
def served(python: Path, folder: Path, log: Path) -> Iterator[str]:
    """Run `mlflow models serve` on a free port, and yield its address."""
    port = free_port()
    command = [python, "-m", "mlflow", "models", "serve", "-m", folder, "-p", str(port), "--env-manager", "local"]
    with log.open("wb") as screen:
        process = subprocess.Popen(
            command, cwd=python.parent, env=environment(python), stdout=screen, stderr=screen, start_new_session=True
        )
    try:
        wait_until(
            lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}/ping"), "mlflow models serve"
        )
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        return False


def test_mlflow_serves_a_model_with_its_requirements_alone(python, models, rows, tmp_path):
    folder, expected = models["extra_trees"]
    with served(python, folder, tmp_path / "serve.log") as url:
        answer = requests.post(f"{url}/invocations", json={"dataframe_records": rows.to_dict("records")}, timeout=60)
    assert answer.json()["predictions"] == pytest.approx(expected)


PREFERS = """
import mlflow, sys
mlflow.pyfunc.load_model(sys.argv[1])
import wine_quality.chemistry
print(wine_quality.chemistry.__file__)
"""


def test_an_installed_package_is_preferred_to_the_code_in_a_model(models):
    folder, _ = models["extra_trees"]
    done = subprocess.run(
        [sys.executable, "-c", PREFERS, folder], capture_output=True, text=True, timeout=300, check=True
    )
    assert Path(done.stdout.strip()) == Path(tracking.__file__).with_name("chemistry.py")
